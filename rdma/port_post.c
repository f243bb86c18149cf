/*
 * Posting: the chains that port_chain.c makes go to the queue pair, with one doorbell
 * each. All of it happens behind the queue's gate.
 */
#include "port_internal.h"

/* A full queue is tried again: by the next completion, by the poller's clock when there
 * is none. Any other refusal, or one that lasts while nothing comes back, is for good. The
 * tail that a broken queue needs is tried for as long whatever the refusal. */
#define PATIENCE_NS UINT64_C(1000000000)

static bool may_pass(int error) {
    return error == ENOMEM || error == EAGAIN || error == ENOSPC || error == EBUSY;
}

static void refused(struct mcp_queue *q, int error, const struct mcp_failure *why) {
    struct mcp_lane *lane = q->lane;
    uint64_t now = now_ns();
    uint32_t retired = atomic_load_explicit(&q->retired, memory_order_relaxed);
    count(&lane->port->totals.refused_posts, 1);
    if (q->refused_ns == 0 || q->refused_retired != retired) {
        q->refused_ns = now;
        q->refused_retired = retired;
    }
    if ((may_pass(error) || is_broken(lane)) && now - q->refused_ns < PATIENCE_NS) {
        if (!atomic_exchange_explicit(&q->refused, 1, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&lane->port->refusals, 1, memory_order_release);
            port_kick(lane->port);
        }
        return;
    }
    port_calm(q);
    port_break(lane, why);
}

/* Nothing waits for another try any more. */
void port_calm(struct mcp_queue *q) {
    q->refused_ns = 0;
    if (atomic_load_explicit(&q->refused, memory_order_relaxed)) {
        atomic_store_explicit(&q->refused, 0, memory_order_relaxed);
        atomic_fetch_sub_explicit(&q->lane->port->refusals, 1, memory_order_release);
    }
}

static void report(struct mcp_queue *q) {
    struct totals *totals = &q->lane->port->totals;
    if (q->doorbells == 0)
        return;
    count(&totals->doorbells, q->doorbells);
    count(&totals->work_requests, q->requests);
    q->doorbells = q->requests = 0;
}

/*
 * Posts the chain, whose sequence numbers begin at posted. posted is raised before the
 * call: completions may be found before it returns, and whoever finds them is to see the
 * runs. It is lowered again for those that were not accepted, of which no completion can
 * come. Returns whether all were accepted.
 */
static bool post(struct mcp_queue *q, const struct chain *chain) {
    uint32_t seq = chain->seq, n = chain->count, accepted = n;
    struct ibv_send_wr *tail = &q->wrs[n - 1], *next = tail->next, *bad = NULL;
    tail->send_flags |= IBV_SEND_SIGNALED;
    tail->next = NULL;
    atomic_store_explicit(&q->posted, seq + n, memory_order_release);
    int rc = ibv_post_send(q->qp, q->wrs, &bad);
    tail->next = next;
    q->doorbells++;
    if (rc == 0) {
        q->requests += n;
        q->unsignalled = 0;
        if (q->refused_ns != 0)
            port_calm(q);
        return true;
    }
    accepted = bad >= q->wrs && bad <= tail ? (uint32_t)(bad - q->wrs) : 0;
    struct mcp_failure why = port_failed(q, chain->runs, seq + accepted);
    why.by = MCP_BY_POST;
    why.status = (uint32_t)(rc == -1 ? errno : rc < 0 ? -rc : rc);
    port_take_back(q, chain, accepted);
    atomic_store_explicit(&q->posted, seq + accepted, memory_order_release);
    q->requests += accepted;
    q->unsignalled += accepted;
    if (accepted != 0) {
        count(&q->lane->port->totals.partial_posts, 1);
        q->refused_ns = 0;
    }
    refused(q, (int)why.status, &why);
    return false;
}

/* Retires requests whose signalled tail was refused: a WRITE of nothing, which is
 * signalled and comes back behind them. There is room for it: not all was accepted. */
static bool post_tail(struct mcp_queue *q) {
    struct chain chain = port_tail(q, atomic_load_explicit(&q->posted, memory_order_relaxed));
    return post(q, &chain);
}

/* Room that came back, for feeders. A ring is emptied in order, so what was dropped
 * behind a request in flight is freed with it. */
static void free_pieces(struct mcp_queue *q, uint32_t retired) {
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_relaxed);
    uint32_t freed = retired == posted ? atomic_load_explicit(&q->next, memory_order_relaxed)
                                       : q->firsts[retired & q->slot_mask];
    if (freed != atomic_load_explicit(&q->freed, memory_order_relaxed))
        atomic_store_explicit(&q->freed, freed, memory_order_seq_cst);
    port_room(q);
    if (atomic_load_explicit(&q->lane->owes, memory_order_acquire) != 0) {
        pthread_mutex_lock(&q->lane->feeding);
        uint32_t placed = port_settle(q->lane);
        pthread_mutex_unlock(&q->lane->feeding);
        port_pump_some(q->lane, placed); /* ours too: the gate makes us look again */
    }
}

/* Requests that were accepted without their signalled tail may be done already, and then
 * do not come back as flushes: they need the tail even now. Returns whether no more is to
 * be posted, because that worked or is refused for good. */
static bool part(struct mcp_queue *q) {
    if (q->unsignalled == 0 || atomic_load_explicit(&q->retired, memory_order_acquire) ==
                                   atomic_load_explicit(&q->posted, memory_order_relaxed))
        return true;
    return post_tail(q) || !atomic_load_explicit(&q->refused, memory_order_relaxed);
}

/* Breaks the queue pair, once, and tells when nothing is in flight any more. */
static void wind_down(struct mcp_queue *q) {
    if (!q->in_error) {
        q->in_error = true;
        mcv_to_error(q->qp);
        port_calm(q);
    }
    if (!atomic_load_explicit(&q->parted, memory_order_relaxed) && part(q)) {
        port_calm(q);
        atomic_store_explicit(&q->parted, 1, memory_order_release);
    }
    if (!q->quiet && atomic_load_explicit(&q->retired, memory_order_acquire) ==
                         atomic_load_explicit(&q->posted, memory_order_relaxed)) {
        q->quiet = true;
        port_quiet(q);
    }
}

/* Posts the next chain that there is room for. False: there is nothing more to do now. */
static bool post_next(struct mcp_queue *q, uint32_t retired) {
    if (q->unsignalled != 0)
        return post_tail(q);
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_relaxed);
    uint32_t room = q->depth - (posted - retired);
    struct chain chain = port_chain(q, posted, room);
    if (chain.count != 0)
        return post(q, &chain) || (q->unsignalled != 0 && !is_broken(q->lane));
    if (room == q->depth && atomic_load_explicit(&q->refused, memory_order_relaxed))
        port_calm(q); /* what was refused has been dropped since */
    return false;
}

/*
 * One look behind the gate. retired is read before broken: the retiring side sets broken
 * before it retires anything behind an error, so who sees such room also sees that the
 * lane is broken, and overwrites nothing that tells what was not delivered.
 */
static void look(struct mcp_queue *q) {
    for (bool more = true; more;) {
        uint32_t retired = atomic_load_explicit(&q->retired, memory_order_acquire);
        if (is_broken(q->lane)) {
            wind_down(q);
            break;
        }
        more = post_next(q, retired);
        if (!more)
            free_pieces(q, retired);
    }
    report(q);
}

void port_pump(struct mcp_queue *q) {
    if (gate_enter(&q->gate))
        port_let_go(q);
}

/* Looks and leaves the gate. */
void port_let_go(struct mcp_queue *q) {
    do
        look(q);
    while (!gate_leave(&q->gate));
}
