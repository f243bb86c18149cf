/* Completion queues: a ring with one producer and one poller at a time. */
#include "softnic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t round_up(uint32_t n)
{
    uint32_t size = 1;
    while (size < n)
        size *= 2;
    return size;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *ib, int cqe, void *cq_context,
                             struct ibv_comp_channel *channel, int vector)
{
    struct context *context = to_context(ib);
    if (cqe < 1 || cqe > limits.max_cqe || vector < 0 || vector >= ib->num_comp_vectors) {
        errno = EINVAL;
        return NULL;
    }
    struct cq *cq = aligned_alloc(CACHE_LINE, sizeof *cq);
    uint32_t size = round_up((uint32_t)cqe + 1); /* as mlx5: a power of two, less one */
    struct cqe *ring = calloc(size, sizeof *ring);
    if (!cq || !ring || atomic_fetch_add(&context->nic->shared->cqs, 1) >= limits.max_cq) {
        if (cq && ring)
            atomic_fetch_sub(&context->nic->shared->cqs, 1);
        free(cq);
        free(ring);
        errno = ENOMEM;
        return NULL;
    }
    memset(cq, 0, sizeof *cq);
    cq->ib.context = ib;
    cq->ib.channel = channel;
    cq->ib.cq_context = cq_context;
    cq->limit = size - 1 > (uint32_t)limits.max_cqe ? (uint32_t)cqe : size - 1;
    cq->ib.cqe = (int)cq->limit;
    pthread_mutex_init(&cq->ib.mutex, NULL);
    pthread_cond_init(&cq->ib.cond, NULL);
    cq->context = context;
    cq->ring = ring;
    cq->mask = size - 1;
    if (channel)
        channel->refcnt++;
    atomic_fetch_add(&context->objects, 1);
    return &cq->ib;
}

int ibv_resize_cq(struct ibv_cq *ib, int cqe)
{
    struct cq *cq = (struct cq *)ib;
    if (cqe < 1 || cqe > limits.max_cqe)
        return EINVAL;
    uint32_t size = round_up((uint32_t)cqe + 1);
    struct cqe *ring = calloc(size, sizeof *ring);
    if (!ring)
        return ENOMEM;
    spin_lock(&cq->polling);
    spin_lock(&cq->pushing);
    uint64_t head = atomic_load(&cq->head);
    bool fits = cq->tail_own - head < size;
    if (fits) {
        for (uint64_t i = head; i < cq->tail_own; i++)
            ring[i & (size - 1)] = cq->ring[i & cq->mask];
        struct cqe *old = cq->ring;
        cq->ring = ring;
        ring = old;
        cq->mask = size - 1;
        cq->limit = size - 1;
        cq->ib.cqe = (int)cq->limit;
    }
    spin_unlock(&cq->pushing);
    spin_unlock(&cq->polling);
    free(ring);
    return fits ? 0 : EINVAL;
}

int ibv_destroy_cq(struct ibv_cq *ib)
{
    struct cq *cq = (struct cq *)ib;
    if (atomic_load(&cq->users))
        return EBUSY;
    /* What the caller has not taken yet is dropped; what it has, it must acknowledge. */
    if (ib->channel) {
        events_drop(&((struct channel *)ib->channel)->events, cq);
        ib->channel->refcnt--;
    }
    events_drop(&cq->context->async, cq);
    pthread_mutex_lock(&ib->mutex);
    while (ib->comp_events_completed != cq->reported || ib->async_events_completed != cq->async_reported)
        pthread_cond_wait(&ib->cond, &ib->mutex);
    pthread_mutex_unlock(&ib->mutex);
    atomic_fetch_sub(&cq->context->nic->shared->cqs, 1);
    atomic_fetch_sub(&cq->context->objects, 1);
    pthread_mutex_destroy(&ib->mutex);
    pthread_cond_destroy(&ib->cond);
    free(cq->ring);
    free(cq);
    return 0;
}

/* Tells the channel if it asked, after the tail was published: an armer looks once more
 * after arming, so one of the two sees the other. */
void cq_notify(struct cq *cq, bool solicited)
{
    uint32_t armed = atomic_load_explicit(&cq->armed, memory_order_relaxed);
    if (likely(armed == 0) || (armed == 2 && !solicited) || !atomic_exchange(&cq->armed, 0))
        return;
    if (cq->ib.channel)
        events_add(&((struct channel *)cq->ib.channel)->events, (struct event){.subject = cq});
}

void cq_overrun(struct cq *cq)
{
    if (cq->overrun)
        return;
    cq->overrun = true;
    events_add(&cq->context->async, (struct event){cq, IBV_EVENT_CQ_ERR});
}

void cq_push(struct cq *cq, const struct cqe *entries, uint32_t count, bool solicited)
{
    spin_lock(&cq->pushing);
    uint64_t tail = cq->tail_own;
    uint64_t room = cq->limit - (tail - atomic_load_explicit(&cq->head, memory_order_acquire));
    if (unlikely(count > room || cq->overrun)) {
        if (cq->overrun)
            room = 0;
        count = count < room ? count : (uint32_t)room;
        cq_overrun(cq);
    }
    for (uint32_t i = 0; i < count; i++)
        cq->ring[tail++ & cq->mask] = entries[i];
    cq->tail_own = tail;
    atomic_exchange(&cq->tail, tail); /* also the barrier before cq_notify looks */
    spin_unlock(&cq->pushing);
    cq_notify(cq, solicited);
}

/* Takes away the completions of a queue pair that is destroyed or reset. */
void cq_purge(struct cq *cq, struct qp *qp)
{
    spin_lock(&cq->polling);
    spin_lock(&cq->pushing);
    for (uint64_t i = atomic_load(&cq->head); i < cq->tail_own; i++)
        if (cq->ring[i & cq->mask].qp == qp)
            cq->ring[i & cq->mask].qp = NULL;
    spin_unlock(&cq->pushing);
    spin_unlock(&cq->polling);
}

static inline void give_back(const struct cqe *from)
{
    _Atomic uint64_t *freed = from->receive ? &from->qp->recv_freed : &from->qp->freed;
    atomic_store_explicit(freed, from->freed, memory_order_release);
}

int poll_cq(struct ibv_cq *ib, int wanted, struct ibv_wc *wc)
{
    struct cq *cq = (struct cq *)ib;
    int taken = 0;
    if (atomic_load_explicit(&cq->tail, memory_order_acquire) ==
        atomic_load_explicit(&cq->head, memory_order_relaxed))
        return 0;
    spin_lock(&cq->polling);
    uint64_t head = atomic_load_explicit(&cq->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&cq->tail, memory_order_acquire);
    for (; head != tail && taken < wanted; head++) {
        const struct cqe *from = &cq->ring[head & cq->mask];
        if (unlikely(!from->qp))
            continue;
        wc->wr_id = from->wr_id;
        wc->status = (enum ibv_wc_status)from->status;
        wc->opcode = (enum ibv_wc_opcode)(from->receive ? IBV_WC_RECV | from->opcode : from->opcode);
        wc->vendor_err = from->vendor;
        wc->byte_len = from->bytes;
        wc->imm_data = from->immediate;
        wc->qp_num = from->qp_number;
        wc->src_qp = from->source;
        wc->wc_flags = from->flags;
        wc->pkey_index = 0;
        wc->slid = 0;
        wc->sl = 0;
        wc->dlid_path_bits = 0;
        give_back(from);
        wc++;
        taken++;
    }
    atomic_store_explicit(&cq->head, head, memory_order_release);
    spin_unlock(&cq->polling);
    return taken;
}

int req_notify_cq(struct ibv_cq *ib, int solicited_only)
{
    struct cq *cq = (struct cq *)ib;
    uint32_t wanted = solicited_only ? 2 : 1, seen = atomic_load(&cq->armed);
    /* "Any" stays stronger than "solicited" when both were asked for. */
    while (seen != 1 && !atomic_compare_exchange_weak(&cq->armed, &seen, wanted))
        ;
    atomic_thread_fence(memory_order_seq_cst);
    return 0;
}
