/* Checks as the responder's NIC makes them, and the copy itself. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* See fabric_quiesce. Nested use does not occur: one thread, one burst. */
void wire_enter(struct nic *nic)
{
    atomic_fetch_add(&nic->bell->epoch, 1);
    atomic_thread_fence(memory_order_seq_cst);
}

void wire_leave(struct nic *nic)
{
    atomic_fetch_add(&nic->bell->epoch, 1);
}

/* -- who is there */

static void meet(struct peer *peer, int pid, uint64_t started)
{
    if (peer->pidfd >= 0)
        close(peer->pidfd);
    peer->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    peer->pid = pid;
    peer->started = started;
}

/* Asked at most once a millisecond: who dies in between is found by the copy. */
bool peer_alive(struct nic *nic, uint32_t index, uint64_t now)
{
    struct proc *proc = &fabric->procs[index];
    struct peer *peer = &nic->peers[index];
    int pid = atomic_load_explicit(&proc->pid, memory_order_acquire);
    if ((int)index == own_proc)
        return true;
    if (pid == 0)
        return false;
    bool known = peer->pid == pid && peer->started == proc->started;
    if (known && now - peer->checked < 1000000)
        return peer->alive;
    if (!known) {
        meet(peer, pid, proc->started);
        peer->alive = proc_alive((int)index);
    } else if (peer->pidfd >= 0) {
        struct pollfd ended = {.fd = peer->pidfd, .events = POLLIN};
        peer->alive = poll(&ended, 1, 0) == 0;
    } else {
        peer->alive = proc_alive((int)index);
    }
    peer->checked = now;
    return peer->alive;
}

struct shared_qp *wire_reach_from(struct nic *nic, uint32_t from, uint32_t to, uint32_t port, uint64_t now)
{
    if (setting(nic->shared, SET_UNREACHABLE) || !setting(nic->shared, SET_PORT) || port >= MAX_PORTS)
        return NULL;
    struct shared_port *there = &fabric->ports[port];
    struct shared_qp *peer = qp_find(to);
    if (!peer || peer->port != port || !setting(there, SET_PORT) || setting(there, SET_FATAL))
        return NULL;
    uint32_t state = atomic_load_explicit(&peer->state, memory_order_acquire);
    if (state != IBV_QPS_RTR && state != IBV_QPS_RTS && state != IBV_QPS_SQD)
        return NULL;
    if (peer->peer_number != from || (int)peer->peer_port != nic->port)
        return NULL;
    uint32_t owner = atomic_load_explicit(&peer->owner, memory_order_acquire);
    return owner && peer_alive(nic, owner - 1, now) ? peer : NULL;
}

struct shared_qp *wire_reach(struct qp *qp, uint64_t now)
{
    struct shared_qp *peer = wire_reach_from(qp->nic, qp->ib.qp_num, qp->shared->peer_number,
                                             qp->shared->peer_port, now);
    /* Packets with other numbers than expected are dropped. */
    return peer && peer->rq_psn == (qp->attr.sq_psn & 0xffffff) ? peer : NULL;
}

void wire_break(struct shared_qp *peer, enum ibv_event_type event)
{
    uint32_t owner = atomic_load(&peer->owner);
    uint32_t state = atomic_load(&peer->state);
    while (state == IBV_QPS_RTR || state == IBV_QPS_RTS || state == IBV_QPS_SQD)
        if (atomic_compare_exchange_weak(&peer->state, &state, IBV_QPS_ERR)) {
            atomic_store(&peer->broken, (uint32_t)event + 1);
            break;
        }
    if (!owner)
        return;
    struct bell *bell = &fabric->procs[owner - 1].bells[peer->port % MAX_DEVICES];
    atomic_fetch_add(&bell->look, 1);
    bell_ring(bell);
}

/* -- keys */

static bool inside(const struct shared_mr *mr, uint64_t address, uint64_t length)
{
    return address >= mr->iova && length <= mr->length && address - mr->iova <= mr->length - length;
}

enum ibv_wc_status wire_check_remote(struct shared_qp *peer, uint32_t rkey, uint64_t remote, uint64_t length,
                                     bool read, uint64_t *address)
{
    uint32_t access = read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
    if (!(atomic_load_explicit(&peer->access, memory_order_relaxed) & access) || (read && !peer->max_reads))
        return IBV_WC_REM_INV_REQ_ERR;
    struct shared_mr *mr = mr_find(rkey);
    if (!mr || mr->port != peer->port || mr->pd != peer->pd || !(mr->access & access) ||
        !inside(mr, remote, length))
        return IBV_WC_REM_ACCESS_ERR;
    *address = mr->address + (remote - mr->iova);
    return IBV_WC_SUCCESS;
}

enum ibv_wc_status wire_check_local(struct qp *qp, const struct ibv_sge *sge, bool read, uint64_t *address)
{
    struct shared_mr *mr = mr_find(sge->lkey);
    if (!mr || (int)mr->port != qp->nic->port || mr->pd != qp->shared->pd ||
        atomic_load_explicit(&mr->owner, memory_order_relaxed) != (uint32_t)own_proc + 1 ||
        (read && !(mr->access & IBV_ACCESS_LOCAL_WRITE)) || !inside(mr, sge->addr, sge->length))
        return IBV_WC_LOC_PROT_ERR;
    *address = mr->address + (sge->addr - mr->iova);
    return IBV_WC_SUCCESS;
}

/* -- bursts */

static void add_piece(struct iovec *list, uint32_t *count, uint64_t address, uint64_t length)
{
    list[*count] = (struct iovec){(void *)(uintptr_t)address, length};
    (*count)++;
}

static const struct ibv_sge *piece_of(struct qp *qp, uint64_t index, const struct wqe *wqe, uint32_t i)
{
    return i == 0 ? &wqe->first : &qp->more[(index & qp->mask) * qp->max_sge + i - 1];
}

/* The local pieces of bytes offset to offset+length. */
static enum ibv_wc_status add_local(struct burst *burst, struct qp *qp, uint64_t index, const struct wqe *wqe,
                                    uint64_t offset, uint64_t length)
{
    if (wqe->flags & WQE_INLINE) {
        uint8_t *bytes = qp->inline_bytes + (index & qp->mask) * qp->max_inline;
        add_piece(burst->local, &burst->locals, (uintptr_t)bytes + offset, length);
        return IBV_WC_SUCCESS;
    }
    for (uint32_t i = 0; i < wqe->pieces && length; i++) {
        const struct ibv_sge *sge = piece_of(qp, index, wqe, i);
        uint64_t address;
        if (offset >= sge->length) {
            offset -= sge->length;
            continue;
        }
        enum ibv_wc_status status = wire_check_local(qp, sge, burst->read, &address);
        if (status)
            return status;
        uint64_t n = sge->length - offset < length ? sge->length - offset : length;
        add_piece(burst->local, &burst->locals, address + offset, n);
        offset = 0;
        length -= n;
    }
    return IBV_WC_SUCCESS;
}

/* Both ends must cut messages in the same way; one that fits into one packet of either is not cut. */
static enum ibv_wc_status check_mtu(const struct qp *qp, const struct shared_qp *peer, uint64_t length, bool read)
{
    uint32_t own = qp->shared->mtu, theirs = peer->mtu, less = own < theirs ? own : theirs;
    if (own == theirs || length <= 128u << less)
        return IBV_WC_SUCCESS;
    return read ? IBV_WC_BAD_RESP_ERR : IBV_WC_REM_INV_REQ_ERR;
}

enum wire_add wire_add(struct burst *burst, struct qp *qp, uint64_t index, struct shared_qp *peer,
                       uint64_t offset, uint64_t *moved, enum ibv_wc_status *status)
{
    struct wqe *wqe = qp_wqe(qp, index);
    uint64_t remote, left = wqe->length - offset, room = CHUNK - burst->bytes;
    if (wqe->length > MAX_MESSAGE) {
        *status = IBV_WC_LOC_LEN_ERR;
        return WIRE_WRONG;
    }
    if (wqe->length == 0)
        return WIRE_ADDED; /* touches no memory: neither key is looked at */
    if (burst->locals && (left > room || burst->locals + wqe->pieces + 1 > CHUNK_PIECES))
        return WIRE_FULL;
    uint64_t length = left < room ? left : room;
    uint32_t locals = burst->locals;
    *status = add_local(burst, qp, index, wqe, offset, length);
    if (!*status)
        *status = check_mtu(qp, peer, wqe->length, burst->read);
    if (!*status)
        *status = wire_check_remote(peer, wqe->rkey, wqe->remote, wqe->length, burst->read, &remote);
    if (*status) {
        burst->locals = locals;
        return WIRE_WRONG;
    }
    add_piece(burst->remote, &burst->remotes, remote + offset, length);
    burst->bytes += length;
    *moved = length;
    return length == left ? WIRE_ADDED : WIRE_PART;
}

static void copy_here(struct burst *burst)
{
    uint64_t there = 0; /* bytes of the current remote piece that are done */
    const struct iovec *remote = burst->remote;
    for (uint32_t i = 0; i < burst->locals; i++) {
        uint8_t *local = burst->local[i].iov_base;
        for (uint64_t left = burst->local[i].iov_len; left;) {
            uint64_t n = remote->iov_len - there < left ? remote->iov_len - there : left;
            uint8_t *at = (uint8_t *)remote->iov_base + there;
            memmove(burst->read ? local : at, burst->read ? at : local, n);
            local += n;
            left -= n;
            there += n;
            if (there == remote->iov_len) {
                there = 0;
                remote++;
            }
        }
    }
}

uint64_t wire_move(struct nic *nic, struct burst *burst, bool *gone)
{
    *gone = false;
    if (burst->bytes == 0)
        return 0;
    if ((int)burst->proc == own_proc && !limits.kernel_copy) {
        copy_here(burst);
        return burst->bytes;
    }
    int pid = (int)burst->proc == own_proc ? getpid() : nic->peers[burst->proc].pid;
    ssize_t n = burst->read
                    ? process_vm_readv(pid, burst->local, burst->locals, burst->remote, burst->remotes, 0)
                    : process_vm_writev(pid, burst->local, burst->locals, burst->remote, burst->remotes, 0);
    if (n >= 0)
        return (uint64_t)n;
    if (errno == ESRCH) {
        nic->peers[burst->proc].alive = false;
        *gone = true;
    } else if (errno != EFAULT) {
        fprintf(stderr, "softnic: memory of process %d: %s\n", pid, strerror(errno));
    }
    return 0;
}
