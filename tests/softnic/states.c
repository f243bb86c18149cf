/* Transitions of an RC queue pair, as the manual page of ibv_modify_qp has them. */
#include "softnic.h"

#include <errno.h>
#include <string.h>

static const struct transition {
    enum ibv_qp_state from, to;
    int required, optional;
} transitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_INIT, IBV_QPS_RTR,
     IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
         IBV_QP_MIN_RNR_TIMER,
     IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS | IBV_QP_ALT_PATH},
    {IBV_QPS_RTR, IBV_QPS_RTS,
     IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC,
     IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_ALT_PATH |
         IBV_QP_PATH_MIG_STATE},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0,
     IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_ALT_PATH |
         IBV_QP_PATH_MIG_STATE},
};
enum { TRANSITIONS = sizeof transitions / sizeof *transitions };

static bool allowed(enum ibv_qp_state from, enum ibv_qp_state to, int mask)
{
    if (to == IBV_QPS_RESET || to == IBV_QPS_ERR)
        return (mask & ~(IBV_QP_STATE | IBV_QP_CUR_STATE)) == 0;
    for (int i = 0; i < TRANSITIONS; i++) {
        const struct transition *t = &transitions[i];
        if (t->from == from && t->to == to)
            return (mask & t->required) == t->required &&
                   (mask & ~(t->required | t->optional | IBV_QP_STATE)) == 0;
    }
    return false;
}

static bool path_ok(struct nic *nic, const struct ibv_ah_attr *ah)
{
    struct gid_slot slot;
    bool ib = setting(nic->shared, SET_LINK) == LINK_IB;
    if (ah->port_num != 1 || (!ah->is_global && !ib))
        return false;
    if (!ah->is_global)
        return ah->dlid != 0;
    if (ah->grh.sgid_index >= GID_TABLE)
        return false;
    port_gid(nic->port, ah->grh.sgid_index, &slot);
    return slot.type >= 0;
}

static bool values_ok(struct nic *nic, const struct ibv_qp_attr *attr, int mask)
{
    const uint32_t access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                            IBV_ACCESS_REMOTE_ATOMIC;
    return (!(mask & IBV_QP_PKEY_INDEX) || attr->pkey_index < PORT_PKEYS) &&
           (!(mask & IBV_QP_PORT) || attr->port_num == 1) &&
           (!(mask & IBV_QP_ACCESS_FLAGS) || !(attr->qp_access_flags & ~access)) &&
           (!(mask & IBV_QP_PATH_MTU) ||
            (attr->path_mtu >= IBV_MTU_256 && attr->path_mtu <= IBV_MTU_4096)) &&
           (!(mask & IBV_QP_DEST_QPN) || attr->dest_qp_num < 1u << 24) &&
           (!(mask & IBV_QP_MAX_DEST_RD_ATOMIC) || attr->max_dest_rd_atomic <= limits.max_reads) &&
           (!(mask & IBV_QP_MAX_QP_RD_ATOMIC) || attr->max_rd_atomic <= limits.max_reads) &&
           (!(mask & IBV_QP_MIN_RNR_TIMER) || attr->min_rnr_timer < 32) &&
           (!(mask & IBV_QP_TIMEOUT) || attr->timeout < 32) &&
           (!(mask & IBV_QP_RETRY_CNT) || attr->retry_cnt < 8) &&
           (!(mask & IBV_QP_RNR_RETRY) || attr->rnr_retry < 8) &&
           (!(mask & IBV_QP_AV) || path_ok(nic, &attr->ah_attr));
}

/* The errno with which a path from this GID is refused, 0 if it is not. */
static int dead_gid(struct nic *nic, const struct ibv_qp_attr *attr, int mask)
{
    const struct ibv_ah_attr *ah = &attr->ah_attr;
    if (!(mask & IBV_QP_AV) || !ah->is_global || !(setting(nic->shared, SET_DEAD_GIDS) >> ah->grh.sgid_index & 1))
        return 0;
    return (int)setting(nic->shared, SET_DEAD_GID_ERRNO);
}

static void keep(struct qp *qp, const struct ibv_qp_attr *attr, int mask)
{
    struct ibv_qp_attr *own = &qp->attr;
    struct shared_qp *shared = qp->shared;
#define KEEP(bit, field) do { if (mask & (bit)) own->field = attr->field; } while (0)
    KEEP(IBV_QP_PKEY_INDEX, pkey_index);
    KEEP(IBV_QP_PORT, port_num);
    KEEP(IBV_QP_ACCESS_FLAGS, qp_access_flags);
    KEEP(IBV_QP_AV, ah_attr);
    KEEP(IBV_QP_PATH_MTU, path_mtu);
    KEEP(IBV_QP_DEST_QPN, dest_qp_num);
    KEEP(IBV_QP_RQ_PSN, rq_psn);
    KEEP(IBV_QP_MAX_DEST_RD_ATOMIC, max_dest_rd_atomic);
    KEEP(IBV_QP_MIN_RNR_TIMER, min_rnr_timer);
    KEEP(IBV_QP_SQ_PSN, sq_psn);
    KEEP(IBV_QP_TIMEOUT, timeout);
    KEEP(IBV_QP_RETRY_CNT, retry_cnt);
    KEEP(IBV_QP_RNR_RETRY, rnr_retry);
    KEEP(IBV_QP_MAX_QP_RD_ATOMIC, max_rd_atomic);
#undef KEEP
    atomic_store(&shared->access, own->qp_access_flags);
    shared->peer_number = own->dest_qp_num;
    shared->rq_psn = own->rq_psn & 0xffffff;
    shared->max_reads = own->max_dest_rd_atomic;
    shared->mtu = (uint8_t)own->path_mtu;
    shared->hop_limit = own->ah_attr.grh.hop_limit;
    shared->traffic_class = own->ah_attr.grh.traffic_class;
    shared->service_level = own->ah_attr.sl;
    shared->rnr_timer = own->min_rnr_timer;
    shared->timeout = own->timeout;
    shared->retries = own->retry_cnt;
    shared->rnr_retries = own->rnr_retry;
    shared->own_reads = own->max_rd_atomic;
    shared->pkey_index = own->pkey_index;
    shared->sq_psn = own->sq_psn & 0xffffff;
    if (mask & IBV_QP_AV) {
        int port = own->ah_attr.is_global ? port_of_gid(own->ah_attr.grh.dgid.raw) : own->ah_attr.dlid - 1;
        shared->peer_port = port >= 0 && port < MAX_PORTS ? (uint32_t)port : MAX_PORTS;
    }
}

/* As after creation: what was outstanding is forgotten, not flushed. */
static void reset(struct qp *qp)
{
    uint64_t posted = atomic_load(&qp->posted);
    qp->executed = qp->scheduled = posted;
    qp->posted_own = posted;
    qp->offset = qp->blocked = 0;
    qp->silent = false;
    atomic_store(&qp->freed, posted);
    qp->recv_done = qp->recv_posted;
    atomic_store(&qp->recv_freed, qp->recv_posted);
    memset(&qp->attr, 0, sizeof qp->attr);
    cq_purge(qp->send_cq, qp);
    cq_purge(qp->recv_cq, qp);
}

void qp_event(struct qp *qp, enum ibv_event_type type)
{
    events_add(&qp->context->async, (struct event){qp, type});
}

void qp_error(struct qp *qp)
{
    if (qp_state(qp) == IBV_QPS_RESET)
        return;
    atomic_store(&qp->shared->state, IBV_QPS_ERR);
    late_keep(qp);
    flush(qp);
}

static int change(struct qp *qp, struct ibv_qp_attr *attr, int mask)
{
    enum ibv_qp_state now = qp_state(qp);
    enum ibv_qp_state next = mask & IBV_QP_STATE ? attr->qp_state : now;
    if (setting(qp->nic->shared, SET_FATAL))
        return EIO;
    if (mask & IBV_QP_CUR_STATE && attr->cur_qp_state != now)
        return EINVAL;
    if (!allowed(now, next, mask) || !values_ok(qp->nic, attr, mask))
        return EINVAL;
    int refused = dead_gid(qp->nic, attr, mask);
    if (refused)
        return refused;
    if (next == IBV_QPS_ERR) {
        qp_error(qp);
    } else if (next == IBV_QPS_RESET) {
        atomic_store(&qp->shared->state, IBV_QPS_RESET);
        reset(qp);
    } else {
        keep(qp, attr, mask);
        atomic_store(&qp->shared->state, next);
    }
    qp->ib.state = next;
    return 0;
}

int ibv_modify_qp(struct ibv_qp *ib, struct ibv_qp_attr *attr, int mask)
{
    struct qp *qp = (struct qp *)ib;
    enum ibv_qp_state before = qp_state(qp);
    nic_lock(qp->nic);
    spin_lock(&qp->posting);
    int failed = change(qp, attr, mask);
    spin_unlock(&qp->posting);
    nic_unlock(qp->nic);
    /* Peers that began before the change may still be moving bytes. */
    if (!failed && before >= IBV_QPS_RTR && (ib->state == IBV_QPS_ERR || ib->state == IBV_QPS_RESET))
        fabric_quiesce();
    return failed;
}
