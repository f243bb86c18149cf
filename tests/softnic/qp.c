/* Queue pairs: creation, destruction, attributes. Transitions are in states.c. */
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

static int check_caps(const struct ibv_qp_init_attr *init)
{
    const struct ibv_qp_cap *cap = &init->cap;
    if (init->qp_type != IBV_QPT_RC)
        return EOPNOTSUPP;
    if (!init->send_cq || !init->recv_cq || init->srq)
        return EINVAL;
    if (cap->max_send_wr > (uint32_t)limits.max_qp_wr || cap->max_recv_wr > (uint32_t)limits.max_qp_wr ||
        cap->max_send_sge > (uint32_t)limits.max_sge || cap->max_recv_sge > (uint32_t)limits.max_sge ||
        cap->max_inline_data > (uint32_t)limits.max_inline)
        return EINVAL;
    return 0;
}

static uint32_t granted(uint32_t wanted, uint32_t limit)
{
    uint32_t size = round_up(wanted ? wanted : 1);
    return size <= limit ? size : wanted;
}

static bool allocate(struct qp *qp, struct ibv_qp_cap *cap)
{
    qp->depth = granted(cap->max_send_wr, limits.max_qp_wr);
    qp->recv_depth = granted(cap->max_recv_wr, limits.max_qp_wr);
    qp->max_sge = cap->max_send_sge ? cap->max_send_sge : 1;
    qp->max_inline = (cap->max_inline_data + 15) / 16 * 16;
    if (qp->max_inline > (uint32_t)limits.max_inline)
        qp->max_inline = limits.max_inline;
    uint32_t size = round_up(qp->depth), recv_size = round_up(qp->recv_depth);
    qp->mask = size - 1;
    qp->recv_mask = recv_size - 1;
    qp->ring = aligned_alloc(CACHE_LINE, size * sizeof *qp->ring);
    qp->more = calloc((size_t)size * qp->max_sge, sizeof *qp->more);
    qp->inline_bytes = malloc((size_t)size * (qp->max_inline ? qp->max_inline : 1));
    qp->recv_ring = calloc(recv_size, sizeof *qp->recv_ring);
    cap->max_send_wr = qp->depth;
    cap->max_send_sge = qp->max_sge;
    cap->max_inline_data = qp->max_inline;
    if (cap->max_recv_wr)
        cap->max_recv_wr = qp->recv_depth;
    return qp->ring && qp->more && qp->inline_bytes && qp->recv_ring;
}

static void release(struct qp *qp)
{
    free(qp->ring);
    free(qp->more);
    free(qp->inline_bytes);
    free(qp->recv_ring);
    free(qp);
}

static int take_number(struct qp *qp, struct pd *pd)
{
    struct nic *nic = qp->nic;
    if (atomic_fetch_add(&nic->shared->qps, 1) >= limits.max_qp) {
        atomic_fetch_sub(&nic->shared->qps, 1);
        return ENOMEM;
    }
    uint32_t number = qp_take(nic->port);
    if (!number) {
        atomic_fetch_sub(&nic->shared->qps, 1);
        return ENOMEM;
    }
    qp->shared = qp_find(number);
    qp->shared->pd = pd->number;
    qp->ib.qp_num = number;
    qp->ib.handle = number;
    return 0;
}

static int set_up(struct qp *qp, struct pd *pd, struct ibv_qp_init_attr *init)
{
    qp->context = to_context(pd->ib.context);
    qp->nic = qp->context->nic;
    if (setting(qp->nic->shared, SET_FATAL))
        return EIO;
    if (!allocate(qp, &init->cap))
        return ENOMEM;
    qp->ib.context = pd->ib.context;
    qp->ib.qp_context = init->qp_context;
    qp->ib.pd = &pd->ib;
    qp->ib.send_cq = init->send_cq;
    qp->ib.recv_cq = init->recv_cq;
    qp->ib.qp_type = init->qp_type;
    qp->ib.state = IBV_QPS_RESET;
    pthread_mutex_init(&qp->ib.mutex, NULL);
    pthread_cond_init(&qp->ib.cond, NULL);
    qp->send_cq = (struct cq *)init->send_cq;
    qp->recv_cq = (struct cq *)init->recv_cq;
    qp->signal_all = init->sq_sig_all;
    qp->cap = init->cap;
    return take_number(qp, pd);
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *ib, struct ibv_qp_init_attr *init)
{
    struct pd *pd = (struct pd *)ib;
    int failed = check_caps(init);
    struct qp *qp = failed ? NULL : aligned_alloc(CACHE_LINE, sizeof *qp);
    if (qp) {
        memset(qp, 0, sizeof *qp);
        failed = set_up(qp, pd, init);
    } else if (!failed) {
        failed = ENOMEM;
    }
    if (failed) {
        if (qp)
            release(qp);
        errno = failed;
        return NULL;
    }
    atomic_fetch_add(&pd->users, 1);
    atomic_fetch_add(&qp->send_cq->users, 1);
    atomic_fetch_add(&qp->recv_cq->users, 1);
    atomic_fetch_add(&qp->context->objects, 1);
    nic_lock(qp->nic);
    qp->next_all = qp->nic->all;
    qp->nic->all = qp;
    nic_unlock(qp->nic);
    return &qp->ib;
}

/* Takes the queue pair out of the NIC's lists, under its lock. */
static void detach(struct qp *qp)
{
    struct nic *nic = qp->nic;
    for (struct qp **at = &nic->all; *at; at = &(*at)->next_all)
        if (*at == qp) {
            *at = qp->next_all;
            break;
        }
    nic_forget(qp);
}

int ibv_destroy_qp(struct ibv_qp *ib)
{
    struct qp *qp = (struct qp *)ib;
    struct pd *pd = (struct pd *)ib->pd;
    nic_lock(qp->nic);
    atomic_store(&qp->shared->state, IBV_QPS_RESET);
    late_keep(qp);
    detach(qp);
    nic_unlock(qp->nic);
    fabric_quiesce(); /* nothing of the peer's lands through it from here on */
    qp_give(ib->qp_num);
    cq_purge(qp->send_cq, qp);
    cq_purge(qp->recv_cq, qp);
    events_drop(&qp->context->async, qp);
    pthread_mutex_lock(&ib->mutex);
    while (ib->events_completed != qp->async_reported)
        pthread_cond_wait(&ib->cond, &ib->mutex);
    pthread_mutex_unlock(&ib->mutex);
    atomic_fetch_sub(&pd->users, 1);
    atomic_fetch_sub(&qp->send_cq->users, 1);
    atomic_fetch_sub(&qp->recv_cq->users, 1);
    atomic_fetch_sub(&qp->context->objects, 1);
    pthread_mutex_destroy(&ib->mutex);
    pthread_cond_destroy(&ib->cond);
    release(qp);
    return 0;
}

int ibv_query_qp(struct ibv_qp *ib, struct ibv_qp_attr *attr, int mask, struct ibv_qp_init_attr *init)
{
    struct qp *qp = (struct qp *)ib;
    (void)mask;
    if (setting(qp->nic->shared, SET_FATAL))
        return EIO;
    nic_lock(qp->nic);
    *attr = qp->attr;
    attr->qp_state = attr->cur_qp_state = ib->state = qp_state(qp);
    attr->cap = qp->cap;
    nic_unlock(qp->nic);
    memset(init, 0, sizeof *init);
    init->qp_context = ib->qp_context;
    init->send_cq = ib->send_cq;
    init->recv_cq = ib->recv_cq;
    init->cap = qp->cap;
    init->qp_type = ib->qp_type;
    init->sq_sig_all = qp->signal_all;
    return 0;
}
