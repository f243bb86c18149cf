/* What a NIC thread does for one queue pair in its turn: schedule, execute, complete. */
#include "wire.h"

#include <stdlib.h>

enum {
    TURN = 256,          /* work requests in one turn */
    SCHEDULE = 64,       /* of them are given a time in one turn, so that queue pairs mix */
    AHEAD = 500000,      /* ns: no times are given further into the future */
    FEW = 16,            /* work requests of a queue pair that had none, which it serves in turn with others */
    ASK_AGAIN = 1000000, /* ns until a peer that does not answer is looked at again */
};

/* mlx5's syndromes, which people know from logs. */
static uint32_t vendor_code(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_SUCCESS: return 0;
    case IBV_WC_LOC_PROT_ERR: return 0x51;
    case IBV_WC_RETRY_EXC_ERR: return 0x81;
    case IBV_WC_REM_ACCESS_ERR: return 0x88;
    case IBV_WC_REM_INV_REQ_ERR: return 0x89;
    case IBV_WC_REM_OP_ERR: return 0x8a;
    case IBV_WC_WR_FLUSH_ERR: return 0xf9;
    default: return 0xff;
    }
}

static struct cqe completion(struct qp *qp, uint64_t index, enum ibv_wc_status status)
{
    struct wqe *wqe = qp_wqe(qp, index);
    bool read = wqe->opcode == IBV_WR_RDMA_READ;
    return (struct cqe){
        .wr_id = wqe->wr_id,
        .qp = qp,
        .freed = index + 1,
        .qp_number = qp->ib.qp_num,
        .bytes = read && !status ? wqe->length : 0,
        .vendor = vendor_code(status),
        .status = (uint8_t)status,
        .opcode = read ? IBV_WC_RDMA_READ : IBV_WC_RDMA_WRITE,
    };
}

/* All that was posted and not executed, signalled or not; also what is posted later. */
void flush(struct qp *qp)
{
    uint64_t posted = atomic_load_explicit(&qp->posted, memory_order_acquire);
    bool silent = qp->silent || setting(qp->nic->shared, SET_SILENT);
    for (; qp->executed != posted; qp->executed++) {
        struct cqe entry = completion(qp, qp->executed, IBV_WC_WR_FLUSH_ERR);
        if (!silent)
            cq_push(qp->send_cq, &entry, 1, true);
    }
    qp->scheduled = posted;
    qp->offset = qp->blocked = 0;
    for (; qp->recv_done != qp->recv_posted && !silent; qp->recv_done++) {
        struct cqe entry = {
            .wr_id = qp->recv_ring[qp->recv_done & qp->recv_mask],
            .qp = qp,
            .freed = qp->recv_done + 1,
            .qp_number = qp->ib.qp_num,
            .vendor = vendor_code(IBV_WC_WR_FLUSH_ERR),
            .status = IBV_WC_WR_FLUSH_ERR,
            .receive = 1,
        };
        cq_push(qp->recv_cq, &entry, 1, true);
    }
}

/* -- time */

/* A READ beyond max_rd_atomic waits for an earlier one to return. */
static void delay_read(struct qp *qp, struct wqe *wqe, uint64_t latency)
{
    uint64_t *earlier = &qp->read_due[qp->reads++ % qp->attr.max_rd_atomic];
    if (wqe->due < *earlier + latency)
        wqe->due = *earlier + latency;
    *earlier = wqe->due;
}

/* Gives times to what has none yet. True: it wants to go on. */
static bool schedule(struct qp *qp, uint64_t now)
{
    uint64_t posted = atomic_load_explicit(&qp->posted, memory_order_acquire);
    uint64_t latency = setting(qp->nic->shared, SET_LATENCY);
    if (!atomic_load_explicit(&qp->nic->shared->paced, memory_order_relaxed)) {
        for (; qp->scheduled != posted && qp->scheduled - qp->executed < TURN; qp->scheduled++)
            qp_wqe(qp, qp->scheduled)->due = 0;
        return false;
    }
    bool fresh = qp->scheduled == qp->executed;
    for (int n = 0; qp->scheduled != posted; n++, qp->scheduled++) {
        struct wqe *wqe = qp_wqe(qp, qp->scheduled);
        bool ahead = qp->scheduled != qp->executed && qp_wqe(qp, qp->scheduled - 1)->due > now + latency + AHEAD;
        if (n == SCHEDULE || ahead)
            return n == SCHEDULE;
        uint64_t begin = wqe->due ? wqe->due : now;
        wqe->due = wqe->length > MAX_MESSAGE ? 0 : pace(qp, wqe, begin, fresh && n < FEW ? (uint64_t)n + 1 : 0);
        if (wqe->opcode == IBV_WR_RDMA_READ && qp->attr.max_rd_atomic)
            delay_read(qp, wqe, latency);
    }
    return false;
}

static uint64_t retry_ns(struct qp *qp)
{
    uint64_t chosen = setting(qp->nic->shared, SET_RETRY);
    if (chosen)
        return chosen;
    if (qp->attr.timeout == 0)
        return UINT64_MAX;
    return (4096ull << qp->attr.timeout) * (qp->attr.retry_cnt + 1u);
}

/* -- faults */

/* The status that a test has asked for this work request, or success. */
static enum ibv_wc_status injected(struct qp *qp)
{
    struct shared_port *port = qp->nic->shared;
    uint64_t at = setting(port, SET_FAIL_AT), only = setting(port, SET_FAIL_QP);
    if (likely(!at) || (only && only != qp->ib.qp_num))
        return IBV_WC_SUCCESS;
    uint64_t number = atomic_fetch_add(&port->counted, 1) + 1;
    if (number < at || number - at >= setting(port, SET_FAIL_FOR))
        return IBV_WC_SUCCESS;
    return (enum ibv_wc_status)setting(port, SET_FAIL_STATUS);
}

/* The oldest work request fails, and the rest is flushed. */
static void fail(struct qp *qp, struct shared_qp *peer, enum ibv_wc_status status)
{
    struct cqe entry = completion(qp, qp->executed, status);
    atomic_store(&qp->shared->state, IBV_QPS_ERR);
    qp->executed++;
    qp->offset = qp->blocked = 0;
    cq_push(qp->send_cq, &entry, 1, true);
    flush(qp);
    if (!peer)
        return;
    if (status == IBV_WC_REM_ACCESS_ERR)
        wire_break(peer, IBV_EVENT_QP_ACCESS_ERR);
    else if (status == IBV_WC_REM_INV_REQ_ERR || status == IBV_WC_REM_OP_ERR)
        wire_break(peer, IBV_EVENT_QP_REQ_ERR);
}

/* -- execution */

struct turn {
    struct cqe done[TURN];
    uint32_t completions, count;
    uint64_t moved_part;         /* bytes of the last one, which is not complete */
    enum ibv_wc_status status;   /* of the one after the last, if not success */
    uint64_t bytes;
    bool solicited;
};

static void count_done(struct qp *qp, struct turn *turn, uint64_t bytes)
{
    struct shared_qp *shared = qp->shared;
    atomic_store_explicit(&shared->executed, atomic_load_explicit(&shared->executed, memory_order_relaxed) + turn->count,
                          memory_order_relaxed);
    atomic_store_explicit(&shared->bytes, atomic_load_explicit(&shared->bytes, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
}

/* The work requests that are due, of one direction: gathered into one burst. */
static void gather(struct qp *qp, struct shared_qp *peer, struct burst *burst, struct turn *turn, uint64_t now)
{
    bool copies = peer != NULL;
    uint8_t opcode = qp_wqe(qp, qp->executed)->opcode;
    burst->locals = burst->remotes = 0;
    burst->bytes = 0;
    burst->read = opcode == IBV_WR_RDMA_READ;
    burst->proc = copies ? atomic_load(&peer->owner) - 1 : 0;
    uint64_t index = qp->executed;
    for (; index != qp->scheduled && turn->count < TURN; index++) {
        struct wqe *wqe = qp_wqe(qp, index);
        uint64_t offset = index == qp->executed ? qp->offset : 0, moved = 0;
        if (wqe->due > now || wqe->opcode != opcode)
            return;
        if (!offset && (turn->status = injected(qp)))
            return;
        enum wire_add added = WIRE_ADDED;
        if (copies)
            added = wire_add(burst, qp, index, peer, offset, &moved, &turn->status);
        if (added == WIRE_PART)
            turn->moved_part = moved;
        if (added != WIRE_ADDED)
            return;
        turn->count++;
        turn->solicited |= wqe->flags & WQE_SOLICITED;
        if (wqe->flags & WQE_SIGNALLED)
            turn->done[turn->completions++] = completion(qp, index, IBV_WC_SUCCESS);
    }
}

/* Memory that is registered but not mapped any more: the first work request whose bytes
 * did not all move fails. Those before it are complete. */
static void cut(struct qp *qp, struct turn *turn, uint64_t moved)
{
    uint64_t first = qp->executed, left = moved;
    turn->count = turn->completions = 0;
    turn->moved_part = 0;
    turn->status = IBV_WC_REM_OP_ERR;
    for (uint64_t index = first;; index++) {
        struct wqe *wqe = qp_wqe(qp, index);
        uint64_t length = wqe->length - (index == first ? qp->offset : 0);
        if (left < length)
            return;
        left -= length;
        turn->count++;
        if (wqe->flags & WQE_SIGNALLED)
            turn->done[turn->completions++] = completion(qp, index, IBV_WC_SUCCESS);
    }
}

static uint64_t unreachable(struct qp *qp, uint64_t now)
{
    uint64_t patience = retry_ns(qp);
    if (!qp->blocked)
        qp->blocked = now;
    if (now - qp->blocked < patience) {
        uint64_t left = patience - (now - qp->blocked);
        return now + (left < ASK_AGAIN ? left : ASK_AGAIN);
    }
    fail(qp, NULL, IBV_WC_RETRY_EXC_ERR);
    return UINT64_MAX;
}

/* One burst. False: the peer's process has ended meanwhile. */
static bool execute(struct qp *qp, struct shared_qp *peer, struct turn *turn, uint64_t now)
{
    static _Thread_local struct burst burst;
    bool gone = false;
    turn->completions = turn->count = 0;
    turn->moved_part = 0;
    turn->status = IBV_WC_SUCCESS;
    turn->solicited = false;
    gather(qp, peer, &burst, turn, now);
    uint64_t moved = peer ? wire_move(qp->nic, &burst, &gone) : 0;
    if (gone)
        return false;
    if (peer && moved < burst.bytes)
        cut(qp, turn, moved);
    turn->bytes = moved;
    return true;
}

static uint64_t finish(struct qp *qp, struct shared_qp *peer, struct turn *turn)
{
    if (turn->count)
        qp->offset = 0;
    qp->executed += turn->count;
    qp->offset += turn->moved_part;
    count_done(qp, turn, turn->bytes);
    if (turn->completions)
        cq_push(qp->send_cq, turn->done, turn->completions, turn->solicited);
    if (turn->status) {
        fail(qp, peer, turn->status);
        return UINT64_MAX;
    }
    if (qp->executed == qp->scheduled)
        return qp->scheduled == atomic_load(&qp->posted) ? UINT64_MAX : 0;
    return qp_wqe(qp, qp->executed)->due;
}

uint64_t serve(struct qp *qp, uint64_t now)
{
    static _Thread_local struct turn turn;
    struct shared_port *port = qp->nic->shared;
    struct shared_qp *peer = NULL;
    enum ibv_qp_state state = qp_state(qp);
    if (state == IBV_QPS_ERR)
        flush(qp);
    if (state != IBV_QPS_RTS)
        return UINT64_MAX;
    if (setting(port, SET_SILENT) || qp->silent) {
        qp->silent = true;
        qp->executed = qp->scheduled = atomic_load(&qp->posted);
        return UINT64_MAX;
    }
    if (setting(port, SET_FREEZE))
        return now + ASK_AGAIN;
    bool more = schedule(qp, now);
    if (qp->executed == qp->scheduled)
        return UINT64_MAX;
    uint64_t due = qp_wqe(qp, qp->executed)->due;
    if (due > now)
        return more ? now : due;
    bool copies = setting(port, SET_MODE) == MODE_COPY;
    wire_enter(qp->nic);
    if (copies || setting(port, SET_UNREACHABLE) || !setting(port, SET_PORT))
        peer = wire_reach(qp, now);
    bool reached = copies ? peer != NULL : !setting(port, SET_UNREACHABLE) && setting(port, SET_PORT);
    reached = reached && execute(qp, copies ? peer : NULL, &turn, now);
    wire_leave(qp->nic);
    if (!reached)
        return unreachable(qp, now);
    qp->blocked = 0;
    return finish(qp, peer, &turn);
}
