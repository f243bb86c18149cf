/*
 * The objects of one process. Locks, from the outside in:
 *
 *   nic->lock    the NIC thread during a turn; whoever changes a queue pair's state
 *   qp->posting  one poster at a time; also held for changes of state
 *   cq->polling  one poller at a time
 *   cq->pushing  one producer of completions at a time
 *   a queue of events has a lock of its own, inside all others
 */
#ifndef SOFTNIC_SOFTNIC_H
#define SOFTNIC_SOFTNIC_H

#include <infiniband/verbs.h>

#include <pthread.h>
#include <sched.h>

#include "fabric.h"
#include "settings.h"

/* verbs.h turns these calls into macros, which would catch our definitions. */
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

enum {
    PORT_PKEYS = 1,
    MAX_MESSAGE = 1 << 30,
    CHUNK = 1 << 20, /* a turn moves at most this many bytes */
    CHUNK_PIECES = 512,
};

/* -- locks for a few instructions: an uncontended one costs one exchange */

typedef _Atomic uint32_t spin_t;

static inline void spin_lock(spin_t *lock)
{
    for (int looks = 0; unlikely(atomic_exchange_explicit(lock, 1, memory_order_acquire)); looks++)
        if (looks < 50)
            __builtin_ia32_pause();
        else
            sched_yield(); /* the holder may wait for this processor */
}

static inline void spin_unlock(spin_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

/* -- events: a list, and a descriptor that is readable while it is not empty */

struct event {
    void *subject;
    uint32_t type;
};

struct events {
    pthread_mutex_t lock;
    int fd;
    struct event *list; /* a ring */
    uint32_t first, count, size;
};

int events_open(struct events *events);
void events_close(struct events *events);
void events_add(struct events *events, struct event event);
int events_take(struct events *events, struct event *event); /* 0, or -1 and errno */
void events_drop(struct events *events, const void *subject);

/* -- objects */

struct qp;
struct cq;

struct peer { /* another process, as a NIC thread sees it */
    int pidfd, pid;
    uint64_t started, checked;
    bool alive;
};

struct nic { /* one device in one process; its thread moves the bytes */
    pthread_mutex_t lock;
    _Atomic int wanted; /* callers that wait for the lock: the thread lets them pass */
    int port;           /* index in the fabric */
    int references;
    struct shared_port *shared;
    struct bell *bell;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic(struct qp *) arrived; /* queue pairs with new work, last first */
    struct qp *busy, **busy_end;  /* those that the thread serves, in turn */
    uint32_t busy_count;          /* of them, in this turn */
    struct qp *all;
    struct context *contexts;
    uint32_t events_seen, looks_seen;
    struct peer peers[MAX_PROCS];
    struct late *late;
    uint64_t horizon; /* when the last work request that has a time is due */
};

struct context {
    struct nic *nic;
    struct context *next;
    struct events async;
    _Atomic int objects;
    struct verbs_context verbs; /* its last member is what the caller holds */
};

struct device {
    struct ibv_device ib;
    int index;
};

struct pd {
    struct ibv_pd ib;
    uint32_t number;
    _Atomic int users;
};

struct channel {
    struct ibv_comp_channel ib;
    struct events events;
};

struct mr {
    struct ibv_mr ib;
    uint32_t index;
};

struct cqe {
    uint64_t wr_id;
    struct qp *qp; /* NULL: the queue pair is gone, the entry is skipped */
    uint64_t freed; /* send queue entries up to here are free once this one is polled */
    uint32_t qp_number, bytes, vendor, immediate;
    uint8_t status, opcode, flags, receive;
    uint32_t source;
};

struct cq {
    struct ibv_cq ib;
    struct context *context;
    struct cqe *ring;
    uint32_t mask, limit;
    _Atomic int users;
    bool overrun;
    OWN_LINE spin_t pushing;
    uint64_t tail_own; /* the producers' copy */
    _Atomic uint64_t tail;
    _Atomic uint32_t armed; /* 0, 1: the next completion, 2: the next solicited one or error */
    uint32_t reported, async_reported;
    OWN_LINE spin_t polling;
    _Atomic uint64_t head;
};

struct wqe {
    OWN_LINE uint64_t wr_id;
    uint64_t due; /* ns; 0: at once; when it was posted, until it is scheduled */
    uint64_t remote;
    uint32_t rkey, length;
    uint32_t immediate;
    uint8_t opcode, flags;
    uint16_t pieces; /* of local memory; 0 with length: the bytes are in the queue */
    struct ibv_sge first;
};

enum { WQE_SIGNALLED = 1, WQE_INLINE = 2, WQE_SOLICITED = 4, WQE_FENCE = 8 };

struct qp {
    struct ibv_qp ib;
    struct nic *nic;
    struct context *context;
    struct shared_qp *shared;
    struct cq *send_cq, *recv_cq;
    /* posting */
    OWN_LINE spin_t posting;
    uint32_t depth, mask, max_sge, max_inline;
    bool signal_all;
    uint64_t posted_own;
    struct wqe *ring;
    struct ibv_sge *more;   /* of a wqe with several pieces, all but the first */
    uint8_t *inline_bytes;
    _Atomic uint64_t freed; /* by polling */
    OWN_LINE _Atomic uint64_t posted;
    _Atomic uint32_t queued; /* in nic->arrived or nic->busy */
    struct qp *next_arrived;
    /* the NIC thread's, under nic->lock */
    OWN_LINE uint64_t executed;
    uint64_t scheduled;
    uint64_t blocked; /* since when the peer does not answer; 0: it does */
    uint64_t offset;  /* bytes of the oldest work request that have moved */
    uint64_t reads, read_due[256]; /* when the last max_rd_atomic READs are due */
    struct qp *next_busy, *next_all;
    bool silent;
    /* receive queue: entries are only ever flushed, see post.c */
    uint32_t recv_depth, recv_mask;
    uint64_t *recv_ring; /* the wr_id of each */
    uint64_t recv_posted, recv_done;
    _Atomic uint64_t recv_freed;
    struct ibv_qp_attr attr;
    struct ibv_qp_cap cap;
    uint32_t async_reported;
};

static inline struct context *to_context(struct ibv_context *ib)
{
    return container_of(ib, struct context, verbs.context);
}

/* -- context.c */
extern struct device devices[MAX_DEVICES];
int open_denied(void);

/* -- nic.c */
struct nic *nic_open(int port);
void nic_close(struct nic *nic);
void nic_lock(struct nic *nic); /* the thread does not work between these two */
void nic_unlock(struct nic *nic);
void nic_submit(struct qp *qp); /* after posting */
void nic_forget(struct qp *qp); /* it leaves the thread's lists, under the lock */
void nic_event(struct nic *nic, enum ibv_event_type type); /* of port or device, under the lock */

/* -- serve.c: what the thread does for one queue pair, under nic->lock */
/* When there is something to do next, in ns; 0: now; UINT64_MAX: nothing is left. */
uint64_t serve(struct qp *qp, uint64_t now);
void flush(struct qp *qp); /* all that is outstanding */
void late_turn(struct nic *nic, uint64_t now, uint64_t *next);
void late_keep(struct qp *qp);
void late_drop(struct nic *nic);

/* -- wire.c: checks and copies */
bool peer_alive(struct nic *nic, uint32_t proc, uint64_t now);

/* -- pace.c */
/* When a work request is due that was posted at that time. */
uint64_t pace(struct qp *qp, const struct wqe *wqe, uint64_t posted, uint64_t place);

/* -- cq.c */
void cq_push(struct cq *cq, const struct cqe *entries, uint32_t count, bool solicited);
void cq_purge(struct cq *cq, struct qp *qp);
int poll_cq(struct ibv_cq *ib, int wanted, struct ibv_wc *wc);
int req_notify_cq(struct ibv_cq *ib, int solicited_only);
void cq_notify(struct cq *cq, bool solicited);
void cq_overrun(struct cq *cq);

/* -- qp.c, states.c */
/* To the error state. Under nic->lock, and qp->posting unless the queue pair is queued:
 * then posters leave the NIC thread's fields alone. */
void qp_error(struct qp *qp);
void qp_event(struct qp *qp, enum ibv_event_type type);

/* -- post.c */
int post_send(struct ibv_qp *ib, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
int post_recv(struct ibv_qp *ib, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);

static inline struct wqe *qp_wqe(struct qp *qp, uint64_t index)
{
    return &qp->ring[index & qp->mask];
}

static inline enum ibv_qp_state qp_state(struct qp *qp)
{
    return (enum ibv_qp_state)atomic_load_explicit(&qp->shared->state, memory_order_acquire);
}

#endif
