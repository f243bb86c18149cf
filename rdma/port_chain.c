/* Chains: pieces of a ring become work requests. Behind the queue's gate. */
#include "port_internal.h"

/* Gives up what is not posted of a load whose ticket was stopped. */
static void drop(struct mcp_queue *q, struct load *load, uint32_t from) {
    uint32_t pieces = load->dropped - from;
    uint64_t work = (load->back ? 0 : bytes_of(q, from, load->dropped)) + (uint64_t)pieces * PIECE_WEIGHT;
    raise_by(&q->dropped_work, work);
    load->dropped = from;
    port_ticket_release(load->ticket, pieces);
}

/* Where a chain is being made. */
struct pen {
    uint32_t next, load, fed;
};

/* The load with the next piece to be posted, NULL if there is none. A load is left as
 * soon as it is used up: its place in the ring may be taken then. */
static struct load *load_of(struct mcp_queue *q, struct pen *pen) {
    while (pen->next != pen->fed) {
        struct load *load = &q->loads[pen->load & q->ring_mask];
        if (pen->next != load->dropped && atomic_load_explicit(&load->ticket->stopped, memory_order_acquire))
            drop(q, load, pen->next);
        if (pen->next != load->dropped)
            return load;
        pen->next = load->end;
        pen->load++;
    }
    return NULL;
}

static void add_run(struct mcp_queue *q, struct run run) { q->runs[q->posted_runs++ & q->slot_mask] = run; }

static uint32_t reads_in_flight(const struct mcp_queue *q) {
    return q->reads_posted - atomic_load_explicit(&q->reads_retired, memory_order_acquire);
}

_Static_assert(offsetof(struct mcp_piece, local) == offsetof(struct ibv_sge, addr) &&
                   offsetof(struct mcp_piece, length) == offsetof(struct ibv_sge, length) &&
                   offsetof(struct mcp_piece, lkey) == offsetof(struct ibv_sge, lkey),
               "a piece begins as an ibv_sge");

/* The pieces from first on, before end, that go on where the one before ends at the peer, in one
 * request. Returns the index of the first that is not in it. It is rare, so it is apart. */
static __attribute__((noinline)) uint32_t gather(const struct mcp_queue *q, struct ibv_send_wr *wr,
                                                 struct ibv_sge *list, uint32_t first, uint32_t end, uint32_t sges,
                                                 uint64_t most) {
    const struct mcp_piece *piece = &q->ring[first & q->ring_mask];
    struct ibv_sge *sge = list;
    const struct ibv_sge *last = list + sges - 1;
    uint64_t bytes = piece->length;
    uint32_t rkey = piece->rkey, next = first;
    *sge = *wr->sg_list;
    while (++next != end) {
        piece = &q->ring[next & q->ring_mask];
        if (!(piece->joins & MCP_JOINS_REMOTE) || piece->rkey != rkey || bytes + piece->length > most)
            break;
        if ((piece->joins & MCP_JOINS_LOCAL) && piece->lkey == sge->lkey) {
            sge->length += piece->length;
        } else if (sge != last) {
            sge++;
            sge->addr = piece->local;
            sge->length = piece->length;
            sge->lkey = piece->lkey;
        } else {
            break;
        }
        bytes += piece->length;
    }
    wr->sg_list = list;
    wr->num_sge = bytes == 0 ? 0 : (int)(sge - list) + 1;
    return next;
}

/* Makes requests of the pieces [from, end), at most most of them, into the chain's places from
 * count on. Returns the index of the first piece that is in none. */
static uint32_t build(struct mcp_queue *q, struct chain *chain, uint32_t from, uint32_t end, uint32_t most, bool read,
                      uint64_t *total) {
    const struct mcp_lane_config *config = &q->lane->config;
    /* In registers: the stores below might change the queue, for all that a compiler knows. */
    struct mcp_piece *const ring = q->ring, *piece = &ring[from & q->ring_mask];
    struct ibv_send_wr *wr = &q->wrs[chain->count];
    uint32_t *const firsts = q->firsts;
    const uint32_t ring_mask = q->ring_mask, slot_mask = q->slot_mask;
    const uint32_t sges = read ? config->scatter : config->gather;
    const uint64_t id = q->id, longest = q->lane->gather_bytes, at_once = read ? 0 : config->inline_bytes;
    const enum ibv_wr_opcode opcode = read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
    uint32_t next = from, seq = chain->seq + chain->count, n = 0;
    uint64_t sum = 0;
    for (; n < most && next != end; n++, wr++, seq++) {
        uint64_t bytes = piece->length;
        firsts[seq & slot_mask] = next;
        wr->wr_id = id | seq;
        wr->sg_list = (struct ibv_sge *)(void *)piece;
        wr->num_sge = bytes != 0;
        wr->opcode = opcode;
        wr->wr.rdma.remote_addr = piece->remote;
        wr->wr.rdma.rkey = piece->rkey;
        uint32_t first = next++;
        piece = &ring[next & ring_mask];
        if (next != end && (piece->joins & MCP_JOINS_REMOTE)) {
            next = gather(q, wr, q->sges + (size_t)(chain->count + n) * q->list, first, end, sges, longest);
            piece = &ring[next & ring_mask];
            bytes = bytes_of(q, first, next);
        }
        wr->send_flags = bytes <= at_once ? IBV_SEND_INLINE : 0;
        sum += bytes;
    }
    chain->count += n;
    *total = sum;
    return next;
}

/* Adds requests of one load to a chain, up to room in all. False: reads have to wait. */
static bool fill(struct mcp_queue *q, struct chain *chain, struct pen *pen, const struct load *load, uint32_t room) {
    bool read = load->back || load->ticket->op == MCP_READ;
    uint32_t most = room - chain->count, before = chain->count, next;
    uint64_t bytes;
    if (read) {
        uint32_t reads = reads_in_flight(q), may = q->lane->config.read_depth;
        if (reads >= may)
            return false;
        if (most > may - reads)
            most = may - reads;
    }
    next = build(q, chain, pen->next, load->dropped, most, read, &bytes);
    add_run(q, (struct run){.ticket = load->ticket,
                            .bytes = load->back ? 0 : bytes,
                            .pieces = next - pen->next,
                            .read = read,
                            .end = chain->seq + chain->count});
    if (read)
        q->reads_posted += chain->count - before;
    pen->next = next;
    if (next == load->end)
        pen->load++;
    return true;
}

/* Makes a chain of at most room requests, which begins at sequence number seq. */
struct chain port_chain(struct mcp_queue *q, uint32_t seq, uint32_t room) {
    struct chain chain = {.seq = seq, .load = q->load, .runs = q->posted_runs};
    struct pen pen = {.next = atomic_load_explicit(&q->next, memory_order_relaxed),
                      .load = q->load,
                      .fed = atomic_load_explicit(&q->fed, memory_order_acquire)};
    const struct load *load;
    if (room > q->chain)
        room = q->chain;
    /* Also without room: what was dropped is found. */
    while ((load = load_of(q, &pen)) != NULL && chain.count < room)
        if (!fill(q, &chain, &pen, load, room))
            break;
    q->load = pen.load;
    atomic_store_explicit(&q->next, pen.next, memory_order_release);
    return chain;
}

/* A chain of one request that moves nothing, with the keys of the request before it. */
struct chain port_tail(struct mcp_queue *q, uint32_t seq) {
    struct chain chain = {.seq = seq, .count = 1, .load = q->load, .runs = q->posted_runs};
    const struct mcp_piece *piece = &q->ring[q->firsts[(seq - 1) & q->slot_mask] & q->ring_mask];
    struct ibv_send_wr *wr = &q->wrs[0];
    wr->wr_id = q->id | seq;
    wr->wr.rdma.remote_addr = piece->remote;
    wr->wr.rdma.rkey = piece->rkey;
    wr->num_sge = 0;
    wr->opcode = IBV_WR_RDMA_WRITE;
    wr->send_flags = 0;
    q->firsts[seq & q->slot_mask] = atomic_load_explicit(&q->next, memory_order_relaxed);
    add_run(q, (struct run){.end = seq + 1});
    return chain;
}

/* The piece and ticket of a request that failed, of which no earlier run than the one
 * given has a part. */
struct mcp_failure port_failed(const struct mcp_queue *q, uint32_t run, uint32_t seq) {
    struct mcp_failure why = {.qp = q->qp_number};
    while (!is_before(seq, atomic_load_explicit(&q->runs[run & q->slot_mask].end, memory_order_relaxed)))
        run++;
    const struct mcp_ticket *ticket = q->runs[run & q->slot_mask].ticket;
    if (ticket != NULL) {
        why.piece = q->ring[q->firsts[seq & q->slot_mask] & q->ring_mask];
        why.ticket_id = ticket->id;
    }
    return why;
}

/* Cuts a run that begins with request begin, so that it ends before request end. Nothing
 * of it was dropped: that ends a run. A completion may say at the same time that an earlier
 * request of it failed: that is settled without its sums. */
static void cut(struct mcp_queue *q, struct run *run, uint32_t begin, uint32_t end) {
    uint32_t first = q->firsts[begin & q->slot_mask], next = q->firsts[end & q->slot_mask];
    run->bytes = run->bytes == 0 ? 0 : bytes_of(q, first, next);
    run->pieces = next - first;
    atomic_store_explicit(&run->end, end, memory_order_relaxed);
}

/* Takes back all but the first requests of a chain. */
void port_take_back(struct mcp_queue *q, const struct chain *chain, uint32_t accepted) {
    uint32_t begin = chain->seq, end = begin + accepted, made = q->posted_runs, loads = q->load;
    q->posted_runs = chain->runs;
    for (uint32_t i = chain->runs; i != made; i++) {
        struct run *run = &q->runs[i & q->slot_mask];
        uint32_t run_end = atomic_load_explicit(&run->end, memory_order_relaxed);
        bool cuts = is_before(begin, end) && is_before(end, run_end);
        if (run->read && is_before(end, run_end))
            q->reads_posted -= run_end - (cuts ? end : begin);
        if (cuts)
            cut(q, run, begin, end);
        if (is_before(begin, end))
            q->posted_runs++;
        begin = run_end;
    }
    uint32_t next = q->firsts[end & q->slot_mask];
    q->load = chain->load;
    while (q->load != loads && !is_before(next, q->loads[q->load & q->ring_mask].end))
        q->load++;
    atomic_store_explicit(&q->next, next, memory_order_release);
}
