/*
 * Posting. In null mode, with nothing else set, a work request completes inside
 * ibv_post_send, without a thread and without a copy: what remains is the cost that the
 * caller's own code has. Otherwise it goes into the queue for the NIC thread.
 */
#include "softnic.h"

#include <errno.h>
#include <string.h>

static inline void count(_Atomic uint64_t *counter, uint64_t n)
{
    /* One writer at a time: no locked instruction is needed. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static uint64_t total(const struct ibv_send_wr *wr)
{
    uint64_t bytes = 0;
    for (int i = 0; i < wr->num_sge; i++)
        bytes += wr->sg_list[i].length;
    return bytes;
}

static inline int check(const struct qp *qp, const struct ibv_send_wr *wr)
{
    const unsigned known = 1u << IBV_WR_RDMA_WRITE | 1u << IBV_WR_RDMA_READ;
    bool read = wr->opcode == IBV_WR_RDMA_READ;
    if (unlikely((unsigned)wr->opcode > 31 || !(known >> wr->opcode & 1)))
        return EINVAL;
    if (unlikely((unsigned)wr->num_sge > qp->max_sge || (read && wr->num_sge > limits.max_sge_rd)))
        return EINVAL;
    if (unlikely(wr->send_flags & IBV_SEND_INLINE) && (read || total(wr) > qp->max_inline))
        return EINVAL;
    return 0;
}

static inline bool signalled(const struct qp *qp, const struct ibv_send_wr *wr)
{
    return wr->send_flags & IBV_SEND_SIGNALED || qp->signal_all;
}

/* -- at once */

static inline void complete_at_once(struct qp *qp, const struct ibv_send_wr *wr, struct cqe *to,
                                    uint64_t freed)
{
    bool read = wr->opcode == IBV_WR_RDMA_READ;
    to->wr_id = wr->wr_id;
    to->qp = qp;
    to->freed = freed;
    to->qp_number = qp->ib.qp_num;
    to->bytes = read ? (uint32_t)total(wr) : 0;
    to->vendor = 0;
    to->immediate = 0;
    to->status = IBV_WC_SUCCESS;
    to->opcode = read ? IBV_WC_RDMA_READ : IBV_WC_RDMA_WRITE;
    to->flags = 0;
    to->receive = 0;
    to->source = 0;
}

static int post_at_once(struct qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct cq *cq = qp->send_cq;
    uint64_t posted = qp->posted_own, tail = 0, full = 0, completions = 0;
    uint64_t limit = atomic_load_explicit(&qp->freed, memory_order_acquire) + qp->depth;
    int failed = 0;
    for (; wr; wr = wr->next) {
        if (unlikely((failed = posted == limit ? ENOMEM : check(qp, wr))))
            break;
        posted++;
        if (!signalled(qp, wr))
            continue;
        if (!completions++) {
            spin_lock(&cq->pushing);
            tail = cq->tail_own;
            full = atomic_load_explicit(&cq->head, memory_order_acquire) + cq->limit;
        }
        if (unlikely(tail == full || cq->overrun))
            cq_overrun(cq);
        else
            complete_at_once(qp, wr, &cq->ring[tail++ & cq->mask], posted);
    }
    if (completions) {
        cq->tail_own = tail;
        atomic_exchange(&cq->tail, tail); /* also the barrier before cq_notify looks */
        spin_unlock(&cq->pushing);
        cq_notify(cq, false);
    }
    count(&qp->shared->posted, posted - qp->posted_own);
    count(&qp->shared->executed, posted - qp->posted_own);
    count(&qp->shared->signalled, completions);
    qp->posted_own = qp->executed = qp->scheduled = posted;
    atomic_store_explicit(&qp->posted, posted, memory_order_relaxed);
    if (unlikely(failed))
        *bad = wr;
    return failed;
}

/* -- through the queue */

static void copy_inline(struct qp *qp, uint64_t index, const struct ibv_send_wr *wr)
{
    uint8_t *to = qp->inline_bytes + (index & qp->mask) * qp->max_inline;
    for (int i = 0; i < wr->num_sge; i++) {
        memcpy(to, (void *)(uintptr_t)wr->sg_list[i].addr, wr->sg_list[i].length);
        to += wr->sg_list[i].length;
    }
}

static void enqueue(struct qp *qp, uint64_t index, const struct ibv_send_wr *wr, uint64_t now)
{
    struct wqe *to = qp_wqe(qp, index);
    to->wr_id = wr->wr_id;
    to->due = now;
    to->remote = wr->wr.rdma.remote_addr;
    to->rkey = wr->wr.rdma.rkey;
    uint64_t bytes = total(wr);
    to->length = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
    to->immediate = wr->imm_data;
    to->opcode = (uint8_t)wr->opcode;
    to->flags = (signalled(qp, wr) ? WQE_SIGNALLED : 0) |
                (wr->send_flags & IBV_SEND_SOLICITED ? WQE_SOLICITED : 0) |
                (wr->send_flags & IBV_SEND_FENCE ? WQE_FENCE : 0);
    if (wr->send_flags & IBV_SEND_INLINE) {
        to->flags |= WQE_INLINE;
        to->pieces = 0;
        copy_inline(qp, index, wr);
        return;
    }
    to->pieces = (uint16_t)wr->num_sge;
    if (wr->num_sge > 0)
        to->first = wr->sg_list[0];
    if (wr->num_sge > 1)
        memcpy(qp->more + (index & qp->mask) * qp->max_sge, wr->sg_list + 1,
               (wr->num_sge - 1) * sizeof *wr->sg_list);
}

static int post_to_thread(struct qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    uint64_t posted = qp->posted_own, completions = 0;
    uint64_t limit = atomic_load_explicit(&qp->freed, memory_order_acquire) + qp->depth;
    uint64_t now = atomic_load_explicit(&qp->nic->shared->paced, memory_order_relaxed) ? now_ns() : 0;
    int failed = 0;
    for (; wr; wr = wr->next) {
        if (unlikely((failed = posted == limit ? ENOMEM : check(qp, wr))))
            break;
        enqueue(qp, posted++, wr, now);
        completions += signalled(qp, wr);
    }
    count(&qp->shared->posted, posted - qp->posted_own);
    count(&qp->shared->signalled, completions);
    if (posted != qp->posted_own) {
        qp->posted_own = posted;
        atomic_store_explicit(&qp->posted, posted, memory_order_release);
        nic_submit(qp);
    }
    if (unlikely(failed))
        *bad = wr;
    return failed;
}

int post_send(struct ibv_qp *ib, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct qp *qp = (struct qp *)ib;
    int failed;
    spin_lock(&qp->posting);
    enum ibv_qp_state state = qp_state(qp);
    count(&qp->shared->doorbells, 1);
    if (likely(state == IBV_QPS_RTS && atomic_load_explicit(&qp->nic->shared->inline_ok, memory_order_relaxed) &&
               !atomic_load_explicit(&qp->queued, memory_order_acquire))) {
        failed = post_at_once(qp, wr, bad);
    } else if (state < IBV_QPS_RTS) {
        *bad = wr;
        failed = EINVAL;
    } else {
        failed = post_to_thread(qp, wr, bad);
    }
    spin_unlock(&qp->posting);
    return failed;
}

/* Nothing is ever received: one-sided requests are all that is implemented. Receive
 * requests wait, and are flushed when the queue pair goes to error. */
int post_recv(struct ibv_qp *ib, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
    struct qp *qp = (struct qp *)ib;
    int failed = 0;
    nic_lock(qp->nic);
    for (; wr && !failed; wr = failed ? wr : wr->next) {
        if (qp_state(qp) == IBV_QPS_RESET)
            failed = EINVAL;
        else if (qp->recv_posted - atomic_load(&qp->recv_freed) >= qp->recv_depth)
            failed = ENOMEM;
        else
            qp->recv_ring[qp->recv_posted++ & qp->recv_mask] = wr->wr_id;
    }
    if (failed)
        *bad = wr;
    if (qp_state(qp) == IBV_QPS_ERR)
        flush(qp);
    nic_unlock(qp->nic);
    return failed;
}
