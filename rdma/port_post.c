/*
 * Posting: pieces of a ring become work requests, chains of them go to the queue pair
 * with one doorbell. All of it happens behind the queue's gate.
 */
#include "port_internal.h"

/* Gives up pieces of a ticket that was stopped, until one that is to be posted. */
static uint32_t skip(struct mcp_queue *q, uint32_t next, uint32_t fed) {
    while (next != fed) {
        struct entry *e = &q->ring[next & q->ring_mask];
        struct mcp_ticket *t = e->ticket;
        if (t != NULL && !atomic_load_explicit(&t->stopped, memory_order_acquire))
            break;
        uint64_t pieces = 0, work = 0;
        for (; next != fed && e->ticket == t; e = &q->ring[++next & q->ring_mask]) {
            e->ticket = NULL;
            work += work_of(&e->piece);
            pieces++;
        }
        if (t == NULL)
            continue; /* dropped before, when a post was taken back */
        atomic_store_explicit(&q->dropped_work,
                              atomic_load_explicit(&q->dropped_work, memory_order_relaxed) + work,
                              memory_order_relaxed);
        port_ticket_release(t, pieces);
    }
    return next;
}

/* Makes a work request of the piece at next and of those behind it that go on where it
 * ends at the peer. Returns the index of the first piece that is not in it. */
static uint32_t build(struct mcp_queue *q, struct ibv_send_wr *wr, uint32_t seq, uint32_t next, uint32_t fed) {
    const struct mcp_lane *lane = q->lane;
    const struct entry *e = &q->ring[next & q->ring_mask];
    struct mcp_ticket *t = e->ticket;
    struct slot *slot = &q->slots[seq & q->slot_mask];
    struct ibv_sge *sge = wr->sg_list;
    bool back = e->piece.joins & JOINS_READ_BACK, read = back || t->op == MCP_READ;
    uint64_t bytes = e->piece.length, most = lane->gather_bytes;
    uint32_t first = next, rkey = e->piece.rkey, sges = read ? lane->config.scatter : lane->config.gather;

    wr->wr_id = q->id | seq;
    wr->wr.rdma.remote_addr = e->piece.remote;
    wr->wr.rdma.rkey = rkey;
    *sge = (struct ibv_sge){.addr = e->piece.local, .length = (uint32_t)bytes, .lkey = e->piece.lkey};
    while (++next != fed) {
        e = &q->ring[next & q->ring_mask];
        if (!(e->piece.joins & MCP_JOINS_REMOTE) || e->ticket != t || e->piece.rkey != rkey ||
            bytes + e->piece.length > most)
            break;
        if ((e->piece.joins & MCP_JOINS_LOCAL) && e->piece.lkey == sge->lkey)
            sge->length += (uint32_t)e->piece.length;
        else if (sge + 1 < wr->sg_list + sges)
            *++sge = (struct ibv_sge){.addr = e->piece.local, .length = (uint32_t)e->piece.length, .lkey = e->piece.lkey};
        else
            break;
        bytes += e->piece.length;
    }
    wr->num_sge = bytes == 0 ? 0 : (int)(sge - wr->sg_list) + 1;
    wr->opcode = read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
    wr->send_flags = !read && bytes <= lane->config.inline_bytes ? IBV_SEND_INLINE : 0;
    *slot = (struct slot){
        .ticket = t, .bytes = back ? 0 : bytes, .first = first, .pieces = next - first, .read = read};
    return next;
}

static void sign(struct mcp_queue *q, struct ibv_send_wr *wr, uint32_t seq) {
    wr->send_flags |= IBV_SEND_SIGNALED;
    q->slots[seq & q->slot_mask].signalled = 1;
}

static uint32_t reads_in_flight(const struct mcp_queue *q) {
    return q->reads_posted - atomic_load_explicit(&q->reads_retired, memory_order_acquire);
}

/* Builds a chain of at most room requests that begins at sequence number seq. */
static uint32_t chain(struct mcp_queue *q, uint32_t seq, uint32_t room) {
    uint32_t n = 0, next = atomic_load_explicit(&q->next, memory_order_relaxed);
    uint32_t fed = atomic_load_explicit(&q->fed, memory_order_acquire), since = q->unsignalled;
    if (room > q->chain)
        room = q->chain;
    for (;;) {
        next = skip(q, next, fed);
        if (next == fed || n == room)
            break;
        const struct entry *e = &q->ring[next & q->ring_mask];
        if ((e->piece.joins & JOINS_READ_BACK) || e->ticket->op == MCP_READ) {
            if (reads_in_flight(q) >= q->lane->config.read_depth)
                break;
            q->reads_posted++;
        }
        next = build(q, &q->wrs[n], seq + n, next, fed);
        if (++since >= q->signal_every) {
            sign(q, &q->wrs[n], seq + n);
            since = 0;
        }
        n++;
    }
    atomic_store_explicit(&q->next, next, memory_order_release);
    return n;
}

/* Takes back what was not accepted. What lies between and was dropped stays dropped. */
static void take_back(struct mcp_queue *q, uint32_t from, uint32_t to) {
    if (from == to)
        return;
    for (uint32_t seq = from; seq != to; seq++)
        q->reads_posted -= q->slots[seq & q->slot_mask].read;
    const struct slot *slot = &q->slots[from & q->slot_mask];
    if (slot->ticket != NULL)
        atomic_store_explicit(&q->next, slot->first, memory_order_release);
}

static void note_unsignalled(struct mcp_queue *q, uint32_t from, uint32_t to) {
    for (uint32_t seq = from; seq != to; seq++)
        q->unsignalled = q->slots[seq & q->slot_mask].signalled ? 0 : q->unsignalled + 1;
}

/* A full queue is tried again: by the next completion, by the poller's clock when there
 * is none. Any other refusal, or one that lasts while nothing comes back, is for good. The
 * tail that a broken queue needs is tried for as long whatever the refusal. */
#define PATIENCE_NS UINT64_C(1000000000)

static void refused(struct mcp_queue *q, int error, uint32_t seq) {
    struct mcp_lane *lane = q->lane;
    uint64_t now = now_ns();
    uint32_t retired = atomic_load_explicit(&q->retired, memory_order_relaxed);
    count(&lane->port->totals.refused_posts, 1);
    if (q->refused_ns == 0 || q->refused_retired != retired) {
        q->refused_ns = now;
        q->refused_retired = retired;
    }
    bool passing = error == ENOMEM || error == EAGAIN || error == ENOSPC || error == EBUSY || is_broken(lane);
    if (passing && now - q->refused_ns < PATIENCE_NS) {
        if (!atomic_exchange_explicit(&q->refused, 1, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&lane->port->refusals, 1, memory_order_release);
            port_kick(lane->port);
        }
        return;
    }
    port_calm(q);
    const struct slot *slot = &q->slots[seq & q->slot_mask];
    struct mcp_failure why = {.by = MCP_BY_POST, .status = (uint32_t)error, .qp = q->qp_number};
    if (slot->ticket != NULL) {
        why.piece = q->ring[slot->first & q->ring_mask].piece;
        why.ticket_id = slot->ticket->id;
    }
    port_break(lane, &why);
}

/* Nothing waits for another try any more. */
void port_calm(struct mcp_queue *q) {
    q->refused_ns = 0;
    if (atomic_load_explicit(&q->refused, memory_order_relaxed)) {
        atomic_store_explicit(&q->refused, 0, memory_order_relaxed);
        atomic_fetch_sub_explicit(&q->lane->port->refusals, 1, memory_order_release);
    }
}

/*
 * Posts the first n of q->wrs, which have the sequence numbers from seq on. posted is
 * raised before the call: completions may be found before it returns, and whoever finds
 * them is to see the slots. It is lowered again for those that were not accepted, of
 * which no completion can come. Returns whether all were accepted.
 */
static bool post(struct mcp_queue *q, uint32_t seq, uint32_t n) {
    struct totals *totals = &q->lane->port->totals;
    struct ibv_send_wr *tail = &q->wrs[n - 1], *next = tail->next, *bad = NULL;
    sign(q, tail, seq + n - 1);
    tail->next = NULL;
    atomic_store_explicit(&q->posted, seq + n, memory_order_release);
    int rc = ibv_post_send(q->qp, q->wrs, &bad);
    tail->next = next;

    uint32_t accepted = n;
    if (rc != 0) {
        accepted = bad >= q->wrs && bad <= tail ? (uint32_t)(bad - q->wrs) : 0;
        take_back(q, seq + accepted, seq + n);
        atomic_store_explicit(&q->posted, seq + accepted, memory_order_release);
    }
    note_unsignalled(q, seq, seq + accepted);
    count(&totals->doorbells, 1);
    count(&totals->work_requests, accepted);
    if (rc == 0) {
        port_calm(q);
        return true;
    }
    if (accepted != 0) {
        count(&totals->partial_posts, 1);
        q->refused_ns = 0;
    }
    refused(q, rc == -1 ? errno : rc < 0 ? -rc : rc, seq + accepted);
    return false;
}

/* Retires requests whose signalled tail was refused: a WRITE of nothing, which is
 * signalled and comes back behind them. */
static bool post_tail(struct mcp_queue *q, uint32_t seq) {
    struct ibv_send_wr *wr = &q->wrs[0];
    const struct slot *before = &q->slots[(seq - 1) & q->slot_mask];
    const struct mcp_piece *piece = &q->ring[before->first & q->ring_mask].piece;
    wr->wr_id = q->id | seq;
    wr->wr.rdma.remote_addr = piece->remote;
    wr->wr.rdma.rkey = piece->rkey;
    wr->num_sge = 0;
    wr->opcode = IBV_WR_RDMA_WRITE;
    wr->send_flags = 0;
    q->slots[seq & q->slot_mask] = (struct slot){.first = atomic_load_explicit(&q->next, memory_order_relaxed)};
    return post(q, seq, 1);
}

/* Room that came back, for feeders. A ring is emptied in order, so what was dropped
 * behind a request in flight is freed with it. */
static void free_pieces(struct mcp_queue *q, uint32_t retired) {
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_relaxed);
    uint32_t freed = retired == posted ? atomic_load_explicit(&q->next, memory_order_relaxed)
                                       : q->slots[retired & q->slot_mask].first;
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
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_relaxed);
    if (q->unsignalled == 0 || atomic_load_explicit(&q->retired, memory_order_acquire) == posted)
        return true;
    return post_tail(q, posted) || !atomic_load_explicit(&q->refused, memory_order_relaxed);
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
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_relaxed);
    uint32_t room = q->depth - (posted - retired);
    if (q->unsignalled != 0)
        return post_tail(q, posted); /* there is room: not all was accepted last time */
    uint32_t n = chain(q, posted, room);
    if (n != 0)
        return post(q, posted, n) || (q->unsignalled != 0 && !is_broken(q->lane));
    if (atomic_load_explicit(&q->refused, memory_order_relaxed) && room == q->depth)
        port_calm(q); /* what was refused has been dropped since */
    return false;
}

/*
 * One look behind the gate. retired is read before broken: the retiring side sets broken
 * before it retires anything behind an error, so who sees such room also sees that the
 * lane is broken, and overwrites neither slots nor pieces that were not delivered.
 */
static void look(struct mcp_queue *q) {
    bool more = true;
    while (more) {
        uint32_t retired = atomic_load_explicit(&q->retired, memory_order_acquire);
        if (is_broken(q->lane)) {
            wind_down(q);
            return;
        }
        more = post_next(q, retired);
        free_pieces(q, retired);
    }
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
