/*
 * Late delivery. A WRITE that was on its way when its sender's queue pair went to error
 * may still land, long after the sender has seen it flushed: nothing but the responder's
 * own queue pair stops it. With SET_LATE the bytes of outstanding WRITEs are kept, and
 * delivered after that time if the responder would still take them.
 */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

enum { LATE_REQUESTS = 256 };

struct late {
    struct late *next;
    uint64_t due, remote;
    uint32_t rkey, length, from, to, port;
    uint8_t bytes[];
};

static bool snapshot(struct qp *qp, uint64_t index, uint8_t *to)
{
    struct wqe *wqe = qp_wqe(qp, index);
    if (wqe->flags & WQE_INLINE) {
        memcpy(to, qp->inline_bytes + (index & qp->mask) * qp->max_inline, wqe->length);
        return true;
    }
    for (uint32_t i = 0; i < wqe->pieces; i++) {
        const struct ibv_sge *sge =
            i == 0 ? &wqe->first : &qp->more[(index & qp->mask) * qp->max_sge + i - 1];
        uint64_t address;
        if (wire_check_local(qp, sge, false, &address))
            return false;
        memcpy(to, (void *)(uintptr_t)address, sge->length);
        to += sge->length;
    }
    return true;
}

void late_keep(struct qp *qp)
{
    struct nic *nic = qp->nic;
    uint64_t delay = setting(nic->shared, SET_LATE), posted = atomic_load(&qp->posted);
    if (!delay || setting(nic->shared, SET_MODE) == MODE_NULL)
        return;
    struct late **at = &nic->late;
    while (*at)
        at = &(*at)->next;
    for (uint64_t index = qp->executed; index != posted && index - qp->executed < LATE_REQUESTS; index++) {
        struct wqe *wqe = qp_wqe(qp, index);
        if (wqe->opcode != IBV_WR_RDMA_WRITE || wqe->length == 0 || wqe->length > MAX_MESSAGE)
            continue;
        struct late *late = malloc(sizeof *late + wqe->length);
        if (!late || !snapshot(qp, index, late->bytes)) {
            free(late);
            continue;
        }
        late->next = NULL;
        late->due = now_ns() + delay;
        late->remote = wqe->remote;
        late->rkey = wqe->rkey;
        late->length = wqe->length;
        late->from = qp->ib.qp_num;
        late->to = qp->shared->peer_number;
        late->port = qp->shared->peer_port;
        *at = late;
        at = &late->next;
    }
    atomic_fetch_add(&nic->bell->look, 1); /* the thread has a time to wake up for */
    bell_ring(nic->bell);
}

static void deliver(struct nic *nic, struct late *late, uint64_t now)
{
    static _Thread_local struct burst burst;
    bool gone;
    wire_enter(nic);
    struct shared_qp *peer = wire_reach_from(nic, late->from, late->to, late->port, now);
    uint64_t address;
    if (peer && !wire_check_remote(peer, late->rkey, late->remote, late->length, false, &address)) {
        burst.local[0] = (struct iovec){late->bytes, late->length};
        burst.remote[0] = (struct iovec){(void *)(uintptr_t)address, late->length};
        burst.locals = burst.remotes = 1;
        burst.bytes = late->length;
        burst.read = false;
        burst.proc = atomic_load(&peer->owner) - 1;
        wire_move(nic, &burst, &gone);
    }
    wire_leave(nic);
}

void late_turn(struct nic *nic, uint64_t now, uint64_t *next)
{
    while (nic->late && nic->late->due <= now) {
        struct late *late = nic->late;
        nic->late = late->next;
        deliver(nic, late, now);
        free(late);
    }
    if (nic->late && nic->late->due < *next)
        *next = nic->late->due;
}

void late_drop(struct nic *nic)
{
    while (nic->late) {
        struct late *late = nic->late;
        nic->late = late->next;
        free(late);
    }
}
