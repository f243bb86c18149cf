/*
 * Feeding: pieces are copied into the rings of a lane's queues, behind one another and
 * spread by outstanding work. Feeders of a lane exclude each other by a mutex; nobody
 * who posts or polls takes it, but for a lane's owed read-backs and its end.
 */
#include "port_internal.h"

/* What one queue gets at a time when there are several: enough for full chains, and so
 * little that they stay level. */
#define SHARE_PIECES (2 * CHAIN)
#define SHARE_BYTES (UINT64_C(256) << 10)

struct span {
    struct mcp_queue *from, *to;
};

struct meal { /* what one call feeds: pieces, or runs */
    struct mcp_lane *lane;
    struct mcp_ticket *ticket;
    const struct mcp_piece *pieces;
    const struct mcp_run *runs;
    const struct mcp_area *areas;
    size_t count, area_count;
    uint64_t longest, most_bytes; /* of a run, of all */
    bool last;
    struct span span;
    size_t taken;
    uint64_t bytes; /* of those taken */
};

static uint32_t room_of(const struct mcp_queue *q) {
    return q->ring_mask + 1 -
           (atomic_load_explicit(&q->fed, memory_order_relaxed) -
            atomic_load_explicit(&q->freed, memory_order_acquire));
}

static uint64_t outstanding(const struct mcp_queue *q) {
    return q->fed_work - atomic_load_explicit(&q->retired_work, memory_order_relaxed) -
           atomic_load_explicit(&q->dropped_work, memory_order_relaxed);
}

/* The queues that pieces of a kind may go to. Queues serve in order: the last is for
 * small calls, so that they do not wait behind a large one. Large reads have one queue:
 * few reads may be in flight, so that they hold up what is behind them. */
static struct span queues_for(const struct mcp_lane *lane, const struct mcp_ticket *t, int class) {
    struct mcp_queue *last = &lane->queues[lane->count - 1];
    if (class == MCP_BULK && t->op == MCP_READ && lane->count > 2)
        return (struct span){last - 1, last};
    if (lane->count == 1 || class == MCP_SMALL || t->op == MCP_READ)
        return (struct span){last, last + 1};
    return (struct span){lane->queues, last};
}

static struct mcp_queue *least(struct span span) {
    struct mcp_queue *best = NULL;
    uint64_t work = UINT64_MAX;
    if (span.to - span.from == 1)
        return room_of(span.from) != 0 ? span.from : NULL;
    for (struct mcp_queue *q = span.from; q != span.to; q++) {
        uint64_t w = outstanding(q);
        if (w < work && room_of(q) != 0) {
            best = q;
            work = w;
        }
    }
    return best;
}

/* Makes the pieces that were copied behind the last ones visible to the holder of the
 * gate. */
static void publish(struct mcp_queue *q, struct load load, uint32_t fed, uint64_t work) {
    q->loads[q->fed_loads++ & q->ring_mask] = load;
    q->fed_work += work;
    atomic_store_explicit(&q->fed, fed, memory_order_release);
}

/* Copies pieces from the front of a meal to behind the last of q, at most so many, and no
 * more once they have enough bytes. Returns how many, and their bytes. */
static uint32_t copy_pieces(struct mcp_queue *q, const struct meal *m, uint32_t most, uint64_t enough,
                            uint64_t *bytes) {
    const struct mcp_piece *from = m->pieces + m->taken;
    uint32_t fed = atomic_load_explicit(&q->fed, memory_order_relaxed), n = 0;
    uint64_t sum = 0;
    for (; n < most && sum < enough && from[n].length <= MCP_LONGEST; n++) {
        q->ring[(fed + n) & q->ring_mask] = from[n];
        sum += from[n].length;
    }
    *bytes = sum;
    return n;
}

static inline bool holds(uint64_t start, uint64_t size, uint64_t at, uint64_t length) {
    return length <= size && at - start <= size - length;
}

/* The same of runs, which get the keys of their areas. */
static uint32_t copy_runs(struct mcp_queue *q, const struct meal *m, uint32_t most, uint64_t enough,
                          uint64_t *bytes) {
    const struct mcp_run *from = m->runs + m->taken;
    const struct mcp_area *areas = m->areas;
    struct mcp_piece *ring = q->ring;
    uint32_t fed = atomic_load_explicit(&q->fed, memory_order_relaxed), mask = q->ring_mask, n = 0;
    uint64_t sum = 0;
    for (; n < most && sum < enough; n++) {
        const struct mcp_run *run = &from[n];
        if (run->area >= m->area_count || run->length > m->longest)
            break;
        const struct mcp_area *area = &areas[run->area];
        if (!holds(area->local, area->local_size, run->local, run->length) ||
            !holds(area->remote, area->remote_size, run->remote, run->length))
            break;
        struct mcp_piece *piece = &ring[(fed + n) & mask];
        piece->local = run->local;
        piece->remote = run->remote;
        piece->length = (uint32_t)run->length;
        piece->lkey = area->lkey;
        piece->rkey = area->rkey;
        piece->joins = run->joins;
        piece->user = run->area;
        sum += run->length;
    }
    *bytes = sum;
    return n;
}

enum { STRANGE = -1, CLOSED = -2, BROKEN = -3 };

/* Copies from the front of a meal into q, which has room: as much as there is room for, or,
 * where queues share, as keeps them level. Returns how many pieces, or why none. */
static int64_t append(struct mcp_queue *q, struct meal *m, bool share) {
    uint32_t most = room_of(q), n, fed = atomic_load_explicit(&q->fed, memory_order_relaxed);
    uint64_t enough = m->most_bytes - m->bytes, bytes;
    if (share && most > SHARE_PIECES)
        most = SHARE_PIECES;
    if (share && enough > SHARE_BYTES)
        enough = SHARE_BYTES;
    if (m->count - m->taken < most)
        most = (uint32_t)(m->count - m->taken);
    n = m->runs != NULL ? copy_runs(q, m, most, enough, &bytes) : copy_pieces(q, m, most, enough, &bytes);
    if (n == 0)
        return STRANGE;
    if (!port_ticket_count(m->ticket, n)) /* before anybody can retire them */
        return CLOSED;
    m->taken += n;
    m->bytes += bytes;
    port_touch(q, m->ticket, &q->ring[(fed + n - 1) & q->ring_mask]);
    fed += n;
    publish(q, (struct load){.ticket = m->ticket, .end = fed, .dropped = fed}, fed,
            bytes + (uint64_t)n * PIECE_WEIGHT);
    return n;
}

/*
 * A feeder was turned away and is to be told of room. Either it sees the room that came
 * meanwhile, or the holder of the gate, which frees pieces and then looks at wants_room,
 * sees the wish: both sides write first and read then, in one order for all.
 */
static void want_room(struct span span) {
    for (struct mcp_queue *q = span.from; q != span.to; q++) {
        atomic_store_explicit(&q->wants_room, 1, memory_order_seq_cst);
        atomic_load_explicit(&q->freed, memory_order_seq_cst);
        port_room(q);
    }
}

/* Tells of room once half of the ring is free. */
void port_room(struct mcp_queue *q) {
    if (!atomic_load_explicit(&q->wants_room, memory_order_seq_cst))
        return;
    uint32_t used = atomic_load_explicit(&q->fed, memory_order_acquire) -
                    atomic_load_explicit(&q->freed, memory_order_seq_cst);
    if (used <= (q->ring_mask + 1) / 2 && atomic_exchange_explicit(&q->wants_room, 0, memory_order_acq_rel))
        port_event(q->lane->port, &q->lane->node, MCP_LANE_ROOM);
}

/* Puts one piece behind the last of q, which has room, and does not count it. Under
 * feeding. */
void port_append(struct mcp_queue *q, struct mcp_ticket *t, const struct mcp_piece *piece, bool back) {
    uint32_t fed = atomic_load_explicit(&q->fed, memory_order_relaxed);
    q->ring[fed & q->ring_mask] = *piece;
    fed++;
    publish(q, (struct load){.ticket = t, .end = fed, .dropped = fed, .back = back}, fed,
            PIECE_WEIGHT + (back ? 0 : piece->length));
}

bool port_has_room(const struct mcp_queue *q) { return room_of(q) != 0; }

void port_pump_some(struct mcp_lane *lane, uint32_t bits) {
    for (uint32_t i = 0; bits != 0; i++, bits >>= 1)
        if (bits & 1)
            port_pump(&lane->queues[i]);
}

static void too_long(struct mcp_lane *lane, struct mcp_ticket *t, const struct mcp_piece *piece) {
    struct mcp_failure why = {.by = MCP_BY_PIECE, .status = EMSGSIZE, .piece = *piece, .ticket_id = t->id};
    port_break(lane, &why);
}

static bool is_sated(const struct meal *m) { return m->taken == m->count || m->bytes >= m->most_bytes; }

/* Takes what there is room for. 0 or more, or why no more can be taken. */
static int64_t take(struct meal *m) {
    bool share = m->span.to - m->span.from > 1;
    int64_t n = 0;
    uint32_t fed = 0; /* bits of queues */
    pthread_mutex_lock(&m->lane->feeding);
    if (is_broken(m->lane))
        n = BROKEN;
    while (n >= 0 && !is_sated(m)) {
        struct mcp_queue *q = least(m->span);
        if (q == NULL)
            break;
        n = append(q, m, share);
        if (n > 0)
            fed |= 1u << q->index;
    }
    if (n >= 0 && m->last && m->taken == m->count && port_ticket_close(m->ticket))
        fed |= port_seal(m->lane, m->ticket);
    pthread_mutex_unlock(&m->lane->feeding);
    port_pump_some(m->lane, fed);
    return n;
}

/* Whether a queue has much in flight, so that a look at the completions may pay. */
static bool is_busy(struct span span) {
    for (const struct mcp_queue *q = span.from; q != span.to; q++)
        if (atomic_load_explicit(&q->posted, memory_order_relaxed) -
                atomic_load_explicit(&q->retired, memory_order_relaxed) >
            q->depth / 2)
            return true;
    return false;
}

/* A feeder that keeps a queue busy looks for completions itself, if nobody does: on a
 * fast device, or a single core, it needs nobody to be woken for it. */
static bool help(struct meal *m) {
    struct mcp_port *port = m->lane->port;
    if (!is_busy(m->span) || !gate_is_free(&port->polling) || port_try_sweep(port) == 0)
        return false;
    port_helped(port);
    return true;
}

static struct mcp_fed feed(struct meal *m) {
    struct mcp_fed fed = {0};
    int64_t n;
    while ((n = take(m)) >= 0)
        if (!help(m) || is_sated(m))
            break;
    fed.taken = m->taken;
    fed.bytes = m->bytes;
    if (n == STRANGE && m->runs == NULL)
        too_long(m->lane, m->ticket, &m->pieces[m->taken]);
    else if (n == CLOSED && atomic_load_explicit(&m->ticket->stopped, memory_order_acquire))
        fed.dropped = 1;
    else if (n == CLOSED)
        fed.sealed = 1;
    else if (n >= 0 && !is_sated(m)) {
        fed.full = 1;
        want_room(m->span);
    }
    if (n == BROKEN)
        fed.full = 1;
    /* Who feeds the last goes away, unless it is to wait. */
    if (fed.full || (m->last && !port_ticket_is_awaited(m->ticket)))
        port_lean(m->lane->port);
    return fed;
}

struct mcp_fed mcp_lane_feed(struct mcp_lane *lane, struct mcp_ticket *t, int class, const struct mcp_piece *pieces,
                             size_t count, int last) {
    struct meal m = {.lane = lane,
                     .ticket = t,
                     .pieces = pieces,
                     .count = count,
                     .most_bytes = UINT64_MAX,
                     .last = last,
                     .span = queues_for(lane, t, class)};
    return feed(&m);
}

struct mcp_fed mcp_lane_feed_runs(struct mcp_lane *lane, struct mcp_ticket *t, int class, const struct mcp_run *runs,
                                  size_t count, const struct mcp_area *areas, size_t area_count, uint64_t longest,
                                  uint64_t most_bytes, int last) {
    struct meal m = {.lane = lane,
                     .ticket = t,
                     .runs = runs,
                     .areas = areas,
                     .count = count,
                     .area_count = area_count,
                     .longest = longest < MCP_LONGEST ? longest : MCP_LONGEST,
                     .most_bytes = most_bytes,
                     .last = last,
                     .span = queues_for(lane, t, class)};
    return feed(&m);
}

/* The pieces are counted already. If their ticket is closed its read-backs were made
 * elsewhere and have to be made here too: a count keeps the ticket until they are. */
static size_t again(struct mcp_lane *lane, const struct mcp_undone *in, size_t count, uint32_t *fed) {
    struct mcp_ticket *t = in->ticket;
    struct mcp_queue *q = NULL;
    size_t n = 0;
    port_ticket_hold(t, 1);
    for (; n < count && in[n].ticket == t; n++) {
        if (in[n].read_back) {
            port_read_back_again(lane, t, &in[n].piece);
            continue;
        }
        if (q == NULL || n % SHARE_PIECES == 0 || !port_has_room(q))
            q = least(queues_for(lane, t, MCP_BULK));
        if (q == NULL)
            break;
        port_append(q, t, &in[n].piece, false);
        port_touch(q, t, &in[n].piece);
        *fed |= 1u << q->index;
    }
    if (port_ticket_is_closed(t))
        *fed |= port_seal(lane, t);
    else
        port_ticket_release(t, 1);
    return n;
}

size_t mcp_lane_again(struct mcp_lane *lane, const struct mcp_undone *in, size_t count) {
    size_t taken = 0;
    uint32_t fed = 0;
    pthread_mutex_lock(&lane->feeding);
    while (taken < count && !is_broken(lane)) {
        size_t n = again(lane, in + taken, count - taken, &fed);
        taken += n;
        if (n == 0) {
            want_room(queues_for(lane, in[taken].ticket, MCP_BULK));
            break;
        }
    }
    pthread_mutex_unlock(&lane->feeding);
    port_pump_some(lane, fed);
    return taken;
}
