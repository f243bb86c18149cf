/*
 * Random work for the C side of ports, lanes and tickets, on a scripted NIC:
 *
 *   ports SEED ROUNDS
 *
 * Two threads feed tickets of random pieces, others wait for some of them, posts are cut
 * short, requests fail, lanes break and are repaired, tickets are stopped. It is checked
 * that every piece is delivered exactly once or reported as undone, that each ticket ends
 * once, and that nothing is touched after the end. Prints what it did and exits with 0.
 */
#include "../../rdma/port.h"
#include "fakenic.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICKETS 16
#define FEEDERS 2
#define CELLS_EACH 1500
#define QPS 4
#define MOST_FED 120 /* pieces at a time */
#define DEADLINE 60 /* seconds for a round */

struct job { /* a ticket and what it is for */
    struct mcp_ticket *ticket;
    struct mcp_piece *pieces;
    size_t count, fed;
    uint32_t first, cells;
    int op, class;
    bool seal_apart, waited, expected;
    size_t stop_at; /* pieces; SIZE_MAX: never */
    _Atomic uint32_t stopped, told, dropped;
};

struct path { /* a lane and its queue pairs */
    struct mcp_lane *lane;
    struct ibv_qp *qps[QPS];
    uint32_t count;
};

static struct {
    uint64_t seed;
    struct mcp_port *port;
    struct job jobs[TICKETS];
    struct path path;
    uint32_t lane_id, breaks;
    bool read_back, may_break;
    uint32_t *allowed; /* executions of each cell */
    struct mcp_area areas[TICKETS * CELLS_EACH]; /* of the piece that begins there; size 0: to be learned */
    pthread_rwlock_t swap; /* held to read by those who use path.lane */
    pthread_mutex_t mutex; /* guards the rest */
    pthread_cond_t changed;
    uint64_t rooms; /* raised by each LaneRoom and each new lane */
    uint32_t ended;
} world;

static struct {
    uint64_t pieces, breaks, again, stops, events, abandoned, stray;
} sums;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "seed %llu: ", (unsigned long long)world.seed);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    if (nic_complaint() != NULL)
        fprintf(stderr, "the NIC says: %s\n", nic_complaint());
    _exit(1);
}

static uint32_t draw(uint64_t *state, uint32_t below) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state >> 20) % below);
}

static struct timespec deadline(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += DEADLINE;
    return t;
}

/* The world of a round. */

static void lay_out_memory(uint64_t *random, uint32_t cells) {
    /* Local memory is remote memory in stretches of a few cells, in another order. */
    uint32_t *starts = calloc(cells + 1, sizeof *starts), *order = calloc(cells, sizeof *order), n = 0;
    for (uint32_t at = 0; at < cells; at += 1 + draw(random, 6))
        starts[n++] = at;
    starts[n] = cells;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = draw(random, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    uint32_t local = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t at = starts[order[i]]; at < starts[order[i] + 1]; at++) {
            nic_cells[at].local = local++;
            nic_cells[at].lkey = 1 + nic_cells[at].local / 700;
            nic_cells[at].rkey = 1000 + at / 500;
        }
    free(starts);
    free(order);
}

static bool may_extend(uint32_t cell) {
    return nic_cells[cell].local == nic_cells[cell - 1].local + 1 && nic_cells[cell].lkey == nic_cells[cell - 1].lkey &&
           nic_cells[cell].rkey == nic_cells[cell - 1].rkey;
}

static uint32_t joins_of(const struct mcp_piece *before, const struct mcp_piece *piece) {
    return (before->local + before->length == piece->local ? MCP_JOINS_LOCAL : 0) |
           (before->remote + before->length == piece->remote ? MCP_JOINS_REMOTE : 0);
}

static void learn(const struct mcp_piece *piece) {
    world.areas[piece->user] = (struct mcp_area){
        .local = piece->local - CELL,
        .local_size = piece->length + CELL,
        .remote = piece->remote,
        .remote_size = piece->length,
        .lkey = piece->lkey,
        .rkey = piece->rkey,
    };
}

static void lay_out_job(uint64_t *random, struct job *job, uint32_t number) {
    job->first = number * CELLS_EACH;
    job->cells = 1 + draw(random, CELLS_EACH);
    job->op = draw(random, 3) == 0 ? MCP_READ : MCP_WRITE;
    job->class = draw(random, 3) == 0 ? MCP_SMALL : MCP_BULK;
    job->pieces = calloc(job->cells, sizeof *job->pieces);
    job->waited = draw(random, 2);
    job->seal_apart = draw(random, 2);
    for (uint32_t at = job->first, end = at + job->cells; at < end;) {
        struct mcp_piece *piece = &job->pieces[job->count++];
        uint32_t cells = 1;
        while (at + cells < end && cells < 4 && may_extend(at + cells) && draw(random, 2))
            cells++;
        *piece = (struct mcp_piece){
            .local = NIC_LOCAL + (uint64_t)nic_cells[at].local * CELL,
            .remote = NIC_REMOTE + (uint64_t)at * CELL,
            .length = (uint64_t)cells * CELL,
            .lkey = nic_cells[at].lkey,
            .rkey = nic_cells[at].rkey,
            .user = at,
        };
        if (draw(random, 16) != 0)
            learn(piece);
        for (; cells > 0; cells--, at++) {
            nic_cells[at].ticket = number;
            nic_cells[at].read = job->op == MCP_READ;
            world.allowed[at] = 1;
        }
    }
    for (size_t i = 1; i < job->count; i++) {
        if (draw(random, 8) == 0) {
            struct mcp_piece *other = &job->pieces[draw(random, (uint32_t)i + 1)], piece = *other;
            *other = job->pieces[i];
            job->pieces[i] = piece;
        }
    }
    for (size_t i = 1; i < job->count; i++)
        job->pieces[i].joins = joins_of(&job->pieces[i - 1], &job->pieces[i]);
    job->pieces[0].joins = MCP_JOINS_LOCAL | MCP_JOINS_REMOTE; /* of nothing: to be ignored */
    job->stop_at = draw(random, 5) == 0 ? draw(random, (uint32_t)job->count + 1) : SIZE_MAX;
    mcp_ticket_start(job->ticket, job->op);
    job->expected = job->waited && draw(random, 2);
    if (job->expected)
        mcp_ticket_expect(job->ticket);
}

static struct path open_path(uint64_t *random) {
    struct path path = {.count = 1 + draw(random, QPS)};
    struct mcp_lane_config config = {
        .depth = 1u << draw(random, 8),
        .gather = 1 + draw(random, 6),
        .scatter = 1 + draw(random, 6),
        .read_depth = 1 + draw(random, 16),
        .ring = 1u << (2 + draw(random, 9)),
        .gather_bytes = draw(random, 3) == 0 ? 0 : draw(random, 200),
        .back_local = world.read_back ? NIC_BACK : 0,
        .back_lkey = NIC_BACK_LKEY,
        .id = ++world.lane_id,
    };
    uint64_t longest = config.gather_bytes > 4 * CELL ? config.gather_bytes : 4 * CELL;
    for (uint32_t i = 0; i < path.count; i++)
        path.qps[i] = nic_qp(config.depth, config.gather > config.scatter ? config.gather : config.scatter,
                             config.read_depth, longest);
    int rc = mcp_lane_open(world.port, path.qps, path.count, &config, &path.lane);
    if (rc != 0)
        die("mcp_lane_open: %d", rc);
    return path;
}

/* The threads. */

static void end_of(struct job *job) {
    if (atomic_fetch_add(&job->told, 1) != 0)
        die("ticket %ld: its end was told twice", (long)(job - world.jobs));
    for (uint32_t i = 0; i < job->cells; i++)
        __atomic_store_n(&nic_cells[job->first + i].ended, 1, __ATOMIC_RELEASE);
    pthread_mutex_lock(&world.mutex);
    world.ended++;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.mutex);
}

static uint64_t rooms(void) {
    pthread_mutex_lock(&world.mutex);
    uint64_t n = world.rooms;
    pthread_mutex_unlock(&world.mutex);
    return n;
}

static void room(void) {
    pthread_mutex_lock(&world.mutex);
    world.rooms++;
    pthread_cond_broadcast(&world.changed);
    pthread_mutex_unlock(&world.mutex);
}

static void wait_for_room(uint64_t before) {
    struct timespec until = deadline();
    pthread_mutex_lock(&world.mutex);
    while (world.rooms == before)
        if (pthread_cond_timedwait(&world.changed, &world.mutex, &until) != 0)
            die("no room came");
    pthread_mutex_unlock(&world.mutex);
}

/* Feeds the same pieces in one of both ways; full: not all, for want of room. */
static size_t feed_to(struct mcp_lane *lane, struct job *job, uint64_t *random, size_t n, bool last, bool *full) {
    const struct mcp_piece *pieces = job->pieces + job->fed;
    struct mcp_fed fed;
    *full = false;
    if (draw(random, 2)) {
        fed = mcp_lane_feed(lane, job->ticket, job->class, pieces, n, last);
    } else {
        struct mcp_run runs[MOST_FED];
        uint64_t longest = (1 + draw(random, 8)) * CELL, bytes = (1 + draw(random, 400)) * CELL;
        for (size_t i = 0; i < n; i++)
            runs[i] = (struct mcp_run){.local = pieces[i].local,
                                       .remote = pieces[i].remote,
                                       .length = pieces[i].length,
                                       .area = pieces[i].user,
                                       .joins = (uint8_t)pieces[i].joins};
        fed = mcp_lane_feed_runs(lane, job->ticket, job->class, runs, n, world.areas, TICKETS * CELLS_EACH, longest,
                                 bytes, last);
        uint64_t sum = 0;
        for (size_t i = 0; i < fed.taken; i++)
            sum += runs[i].length;
        if (fed.bytes != sum)
            die("%llu bytes are said to be taken, of runs of %llu", (unsigned long long)fed.bytes,
                (unsigned long long)sum);
        if (fed.taken < n && !fed.full && !fed.dropped && fed.bytes < bytes) {
            const struct mcp_piece *strange = &pieces[fed.taken];
            if (strange->length <= longest && world.areas[strange->user].local_size != 0)
                die("feeding stops before a run like any other");
            learn(strange);
            if (strange->length > longest) { /* which only pieces may be */
                struct mcp_fed one = mcp_lane_feed(lane, job->ticket, job->class, strange, 1, last && fed.taken + 1 == n);
                one.taken += fed.taken;
                fed = one;
            }
        }
    }
    if (fed.sealed)
        die("a ticket that is not sealed counts as sealed");
    *full = fed.full;
    return fed.dropped ? n : fed.taken;
}

/* Feeds some pieces of a job; false once there are no more to come. */
static bool feed_some(struct job *job, uint64_t *random) {
    if (job->fed >= job->stop_at && !atomic_load(&job->stopped)) {
        atomic_store(&job->stopped, 1);
        mcp_ticket_stop(job->ticket);
        return draw(random, 2); /* feeding may go on, and does nothing */
    }
    uint64_t before = rooms();
    size_t n = 1 + draw(random, MOST_FED);
    if (n > job->count - job->fed)
        n = job->count - job->fed;
    bool last = job->fed + n == job->count && !job->seal_apart;
    pthread_rwlock_rdlock(&world.swap);
    bool full;
    size_t taken = feed_to(world.path.lane, job, random, n, last, &full);
    if (world.may_break && draw(random, 400) == 0)
        mcp_lane_break(world.path.lane);
    pthread_rwlock_unlock(&world.swap);
    if (taken > n)
        die("%zu pieces taken of %zu", taken, n);
    job->fed += taken;
    if (full)
        wait_for_room(before);
    if (taken < n)
        return true;
    if (job->fed == job->count && job->seal_apart)
        mcp_ticket_seal(job->ticket);
    return job->fed < job->count;
}

static void *feeder(void *number) {
    uint64_t random = world.seed * 77 + (uintptr_t)number + 1;
    struct job *mine[TICKETS];
    uint32_t n = 0;
    for (uint32_t i = (uint32_t)(uintptr_t)number; i < TICKETS; i += FEEDERS)
        mine[n++] = &world.jobs[i];
    while (n > 0) {
        uint32_t i = draw(&random, n);
        if (!feed_some(mine[i], &random))
            mine[i] = mine[--n];
    }
    return NULL;
}

static void *waiter(void *argument) {
    struct job *job = argument;
    uint64_t random = world.seed + (uint64_t)(job - world.jobs) + 1;
    struct timespec until = deadline(), now;
    for (int expected = job->expected; atomic_load(&job->told) == 0; expected = 0) {
        int64_t timeout = draw(&random, 4) == 0 ? 0 : draw(&random, 3000) * INT64_C(1000);
        if (mcp_ticket_wait(job->ticket, timeout, expected))
            end_of(job);
        clock_gettime(CLOCK_REALTIME, &now);
        if (now.tv_sec > until.tv_sec)
            die("ticket %ld does not end", (long)(job - world.jobs));
    }
    return NULL;
}

/* What broken lanes did not deliver and is not queued again yet; the main thread's. */
static struct {
    struct mcp_undone *items;
    size_t begin, end, room;
} pending;

static void keep(const struct mcp_undone *undone, uint64_t *random) {
    struct job *job = &world.jobs[undone->ticket_id - 1];
    if (job->ticket != undone->ticket)
        die("undone names another ticket");
    if (atomic_load(&job->told) != 0)
        die("undone has a piece of a ticket that ended");
    if (!undone->read_back && draw(random, 500) == 0) {
        atomic_fetch_add(&job->dropped, 1);
        mcp_ticket_drop(undone->ticket, 1);
        return;
    }
    if (!undone->read_back && undone->posted)
        for (uint64_t at = 0; at < undone->piece.length; at += CELL)
            world.allowed[undone->piece.user + at / CELL]++;
    if (pending.end == pending.room) {
        pending.room = 2 * pending.room + 64;
        pending.items = realloc(pending.items, pending.room * sizeof *pending.items);
    }
    pending.items[pending.end++] = *undone;
}

static void queue_pending(uint64_t *random) {
    while (pending.begin < pending.end) {
        size_t n = 1 + draw(random, 60);
        if (n > pending.end - pending.begin)
            n = pending.end - pending.begin;
        size_t taken = mcp_lane_again(world.path.lane, pending.items + pending.begin, n);
        pending.begin += taken;
        sums.again += taken;
        if (taken < n)
            return; /* until there is room, or another lane */
    }
    pending.begin = pending.end = 0;
}

static void check_failure(struct mcp_lane *lane) {
    struct mcp_failure why;
    mcp_lane_failure(lane, &why);
    if (why.by == 0)
        die("a broken lane has no failure");
    if (why.by == MCP_BY_COMPLETION && why.status == IBV_WC_SUCCESS)
        die("a lane broke by a success");
}

/* Replaces a broken lane. */
static void repair(uint64_t *random) {
    struct path old = world.path;
    struct mcp_undone undone[50];
    check_failure(old.lane);
    nic_script.in_order = false;
    pthread_rwlock_wrlock(&world.swap);
    world.path = open_path(random);
    pthread_rwlock_unlock(&world.swap);
    sums.breaks++;
    if (++world.breaks == 6)
        nic_script.error = nic_script.invalid = 0;

    for (size_t n; (n = mcp_lane_undone(old.lane, undone, 1 + draw(random, 50))) > 0;)
        for (size_t i = 0; i < n; i++)
            keep(&undone[i], random);
    uint64_t late = nic_last_wr_id(old.qps[0]);
    uint32_t number = old.qps[0]->qp_num;
    if (mcp_lane_close(old.lane) != 0)
        die("a broken lane cannot be closed");
    nic_inject(late, number, draw(random, 2) ? IBV_WC_SUCCESS : IBV_WC_WR_FLUSH_ERR);
    sums.stray++;
    room();
    queue_pending(random);
}

/* A broken lane whose flushes do not come. */
static void watch(void) {
    static struct mcp_lane *stuck;
    static uint64_t since, before;
    struct mcp_failure why;
    uint64_t retired, in_flight;
    mcp_lane_failure(world.path.lane, &why);
    mcp_lane_progress(world.path.lane, &retired, &in_flight);
    if (why.by == 0 || in_flight == 0 || world.path.lane != stuck || retired != before)
        since = 0;
    stuck = world.path.lane;
    before = retired;
    if (++since < 4)
        return;
    since = 0;
    mcp_lane_break(world.path.lane);
    nic_forget(world.path.qps, world.path.count);
    mcp_lane_abandon(world.path.lane);
    sums.abandoned++;
}

static void handle(const struct mcp_event *event, uint64_t *random) {
    sums.events++;
    if (event->kind == MCP_TICKET_ENDED) {
        end_of(&world.jobs[event->id - 1]);
    } else if (event->id != world.lane_id) {
        if (event->kind == MCP_LANE_BROKEN)
            die("lane %u broke again", event->id);
    } else if (event->kind == MCP_LANE_BROKEN) {
        repair(random);
    } else {
        room();
        queue_pending(random);
    }
}

static uint32_t ended(void) {
    pthread_mutex_lock(&world.mutex);
    uint32_t n = world.ended;
    pthread_mutex_unlock(&world.mutex);
    return n;
}

static _Atomic int round_over;

static void *ticker(void *unused) {
    (void)unused;
    for (int i = 0; !atomic_load(&round_over); i++) {
        usleep(10000);
        if (nic_script.mute || ended() == TICKETS)
            mcp_port_interrupt(world.port);
        if (i > DEADLINE * 100) {
            for (int k = 0; k < TICKETS; k++)
                if (atomic_load(&world.jobs[k].told) == 0)
                    fprintf(stderr, "ticket %d has not ended: fed %zu of %zu\n", k, world.jobs[k].fed, world.jobs[k].count);
            die("the round does not end");
        }
    }
    return NULL;
}

/* After the round. */

static void check_job(const struct job *job) {
    uint64_t done = __atomic_load_n(mcp_ticket_done(job->ticket), __ATOMIC_ACQUIRE), cells = 0;
    bool whole = !atomic_load(&job->stopped) && atomic_load(&job->dropped) == 0;
    for (uint32_t at = job->first; at < job->first + job->cells; at++) {
        uint32_t hits = nic_cells[at].hits;
        cells += hits != 0;
        if (hits > world.allowed[at])
            die("cell %u was executed %u times, of %u at most", at, hits, world.allowed[at]);
        if (whole && hits == 0)
            die("cell %u was not executed", at);
    }
    if (done > cells * CELL || (whole && done != (uint64_t)job->cells * CELL))
        die("ticket %ld: %llu bytes done, %llu cells of %u executed", (long)(job - world.jobs),
            (unsigned long long)done, (unsigned long long)cells, job->cells);
    sums.stops += atomic_load(&job->stopped);
    sums.pieces += job->count;
}

static void close_path(void) {
    struct timespec until = deadline(), now;
    while (mcp_lane_close(world.path.lane) != 0) {
        clock_gettime(CLOCK_REALTIME, &now);
        if (now.tv_sec > until.tv_sec)
            die("the lane does not come to rest");
        sched_yield();
    }
}

static void write_script(uint64_t *random) {
    nic_script = (struct nic_script){.seed = world.seed, .in_order = true};
    if (draw(random, 2))
        nic_script.partial = draw(random, 300);
    if (draw(random, 3) == 0)
        nic_script.starve = draw(random, 1000);
    if (draw(random, 2))
        nic_script.error = 1 + draw(random, 200);
    if (draw(random, 4) == 0)
        nic_script.invalid = 1 + draw(random, 100);
    nic_script.mute = draw(random, 8) == 0;
}

static void begin_round(uint64_t *random, uint64_t seed) {
    struct mcp_port *port = NULL;
    memset(&world, 0, sizeof world);
    world.seed = seed;
    pthread_rwlock_init(&world.swap, NULL);
    pthread_mutex_init(&world.mutex, NULL);
    pthread_cond_init(&world.changed, NULL);
    world.read_back = draw(random, 3) == 0;
    world.may_break = draw(random, 3) == 0;
    world.allowed = calloc(TICKETS * CELLS_EACH, sizeof *world.allowed);
    write_script(random);
    nic_start(TICKETS * CELLS_EACH, 8192);
    if (mcp_port_open(nic_cq(), nic_channel(), draw(random, 3) == 0 ? 20000 : 0, &port) != 0)
        die("mcp_port_open");
    world.port = port;
    lay_out_memory(random, TICKETS * CELLS_EACH);
    for (uint32_t i = 0; i < TICKETS; i++) {
        world.jobs[i].ticket = mcp_ticket_new(port, i + 1);
        lay_out_job(random, &world.jobs[i], i);
    }
    world.path = open_path(random);
}

static void end_round(void) {
    struct mcp_event event;
    close_path();
    mcp_port_shut(world.port);
    if (mcp_port_wait(world.port, &event, 1) != 0)
        die("an event after the port was shut");
    if (nic_complaint() != NULL)
        die("the NIC complains");
    for (uint32_t i = 0; i < TICKETS; i++)
        check_job(&world.jobs[i]);
    mcp_port_close(world.port);
    nic_stop();
    for (uint32_t i = 0; i < TICKETS; i++)
        free(world.jobs[i].pieces);
    free(world.allowed);
    free(pending.items);
    memset(&pending, 0, sizeof pending);
}

static void play(uint64_t seed) {
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 12345;
    pthread_t feeders[FEEDERS], waiters[TICKETS], tick;
    struct mcp_event events[8];
    begin_round(&random, seed);
    atomic_store(&round_over, 0);
    pthread_create(&tick, NULL, ticker, NULL);
    for (uintptr_t i = 0; i < FEEDERS; i++)
        pthread_create(&feeders[i], NULL, feeder, (void *)i);
    for (uint32_t i = 0; i < TICKETS; i++)
        if (world.jobs[i].waited)
            pthread_create(&waiters[i], NULL, waiter, &world.jobs[i]);
    while (ended() < TICKETS) {
        int n = mcp_port_wait(world.port, events, 1 + (int)draw(&random, 8));
        for (int i = 0; i < n; i++)
            handle(&events[i], &random);
        if (n == 0 && nic_script.mute)
            watch();
    }
    for (uint32_t i = 0; i < FEEDERS; i++)
        pthread_join(feeders[i], NULL);
    for (uint32_t i = 0; i < TICKETS; i++)
        if (world.jobs[i].waited)
            pthread_join(waiters[i], NULL);
    atomic_store(&round_over, 1);
    pthread_join(tick, NULL);
    end_round();
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 10;
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint64_t i = 0; i < rounds; i++)
        play(seed + i);
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%llu rounds, %ld s: %llu pieces, %llu lanes broke, %llu abandoned, %llu pieces again, %llu tickets "
           "stopped, %llu events\n",
           (unsigned long long)rounds, (long)(now.tv_sec - begin.tv_sec), (unsigned long long)sums.pieces,
           (unsigned long long)sums.breaks, (unsigned long long)sums.abandoned, (unsigned long long)sums.again,
           (unsigned long long)sums.stops, (unsigned long long)sums.events);
    return 0;
}
