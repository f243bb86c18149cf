#define _GNU_SOURCE
#include "fakenic.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define QPS 4096
#define SGES 8

struct request {
    uint64_t wr_id, remote;
    uint32_t rkey, sges, length;
    int opcode, flags;
    struct ibv_sge sge[SGES];
};

struct queue {
    struct ibv_qp qp; /* first */
    struct request *requests;
    uint32_t depth, max_sges, max_reads, mask;
    uint64_t longest;
    uint32_t posted, done, polled; /* done: executed or flushed */
    uint32_t reads;
    uint64_t last_wr_id;
    bool error, starving;
};

struct entry { /* of the CQ */
    struct ibv_wc wc;
    struct queue *queue;
    uint32_t retires;
};

struct nic_cell *nic_cells;
uint32_t nic_cell_count;
struct nic_script nic_script;

static struct {
    int lock;
    struct ibv_context context;
    struct ibv_cq cq;
    struct ibv_comp_channel channel;
    struct entry *entries;
    uint32_t head, tail, mask;
    bool armed, told; /* an event was asked for, or has not been taken */
    struct queue *queues[QPS];
    uint32_t count, number;
    uint64_t random, executed, read_backs;
    char complaint[256];
    pthread_t thread;
    int stopping;
} nic;

static void lock(void) {
    while (__atomic_exchange_n(&nic.lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void unlock(void) { __atomic_store_n(&nic.lock, 0, __ATOMIC_RELEASE); }

static uint32_t draw(uint32_t below) {
    nic.random ^= nic.random << 13;
    nic.random ^= nic.random >> 7;
    nic.random ^= nic.random << 17;
    return (uint32_t)((nic.random >> 20) % below);
}

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...) {
    va_list args;
    if (nic.complaint[0] != '\0')
        return;
    va_start(args, format);
    vsnprintf(nic.complaint, sizeof nic.complaint, format, args);
    va_end(args);
}

/* Completions. */

static void complete(struct queue *q, uint64_t wr_id, int status, uint32_t retires) {
    if (nic.tail - nic.head > nic.mask || nic.tail - nic.head >= (uint32_t)nic.cq.cqe) {
        complain("the CQ overflows");
        return;
    }
    struct entry *e = &nic.entries[nic.tail++ & nic.mask];
    memset(e, 0, sizeof *e);
    e->queue = q;
    e->retires = retires;
    e->wc.wr_id = wr_id;
    e->wc.status = status;
    e->wc.qp_num = q != NULL ? q->qp.qp_num : 0;
    e->wc.vendor_err = status == IBV_WC_SUCCESS ? 0 : 0x55;
    if (nic.armed) {
        uint64_t one = 1;
        nic.armed = false;
        nic.told = true;
        if (write(nic.channel.fd, &one, sizeof one) < 0)
            complain("no event: %s", strerror(errno));
    }
}

static int poll_cq(struct ibv_cq *cq, int most, struct ibv_wc *wc) {
    int n = 0;
    (void)cq;
    lock();
    for (; n < most && nic.head != nic.tail; n++) {
        struct entry *e = &nic.entries[nic.head++ & nic.mask];
        wc[n] = e->wc;
        if (e->queue != NULL)
            e->queue->polled = e->retires;
    }
    unlock();
    return n;
}

static int req_notify_cq(struct ibv_cq *cq, int solicited) {
    (void)cq, (void)solicited;
    lock();
    if (nic.armed || nic.told)
        complain("the CQ is armed again before its event was taken: events would pile up");
    nic.armed = true;
    unlock();
    return 0;
}

int mcv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq) {
    uint64_t n;
    *cq = &nic.cq;
    lock();
    int failed = read(channel->fd, &n, sizeof n) < 0 ? errno : 0;
    nic.told = nic.told && failed != 0;
    unlock();
    return failed;
}

void mcv_ack_cq_events(struct ibv_cq *cq, unsigned count) { (void)cq, (void)count; }

/* Requests. */

static struct nic_cell *cell_at(uint64_t remote) {
    uint64_t cell = (remote - NIC_REMOTE) / CELL;
    return remote >= NIC_REMOTE && cell < nic_cell_count ? &nic_cells[cell] : NULL;
}

static void check_read_back(const struct request *r) {
    const struct nic_cell *c = cell_at(r->remote);
    nic.read_backs++;
    if (r->sges != 1 || r->sge[0].length != 1 || r->sge[0].lkey != NIC_BACK_LKEY)
        complain("a read-back of %u pieces, %u bytes", r->sges, r->sge[0].length);
    else if (c == NULL || r->remote % CELL != CELL - 1 || r->rkey != c->rkey)
        complain("a read-back of %#llx", (unsigned long long)r->remote);
    else if (c->hits == 0 && nic_script.in_order)
        complain("a read-back comes before the write of cell %ld", (long)(c - nic_cells));
}

/* Every stretch of local memory has to be what its cells of remote memory go with. */
static void execute(const struct request *r) {
    uint64_t remote = r->remote;
    struct nic_cell *first = NULL;
    if (r->sges == 1 && r->sge[0].addr == NIC_BACK) {
        check_read_back(r);
        return;
    }
    for (uint32_t i = 0; i < r->sges; i++)
        for (uint32_t at = 0; at < r->sge[i].length; at += CELL, remote += CELL) {
            struct nic_cell *c = cell_at(remote);
            if (c == NULL || r->sge[i].addr + at != NIC_LOCAL + (uint64_t)c->local * CELL) {
                complain("request %#llx: %#llx goes to %#llx", (unsigned long long)r->wr_id,
                         (unsigned long long)(r->sge[i].addr + at), (unsigned long long)remote);
                return;
            }
            if (first == NULL)
                first = c;
            if (c->lkey != r->sge[i].lkey || c->rkey != r->rkey)
                complain("cell %ld: wrong keys", (long)(c - nic_cells));
            if (c->ticket != first->ticket)
                complain("tickets %u and %u share a request", c->ticket, first->ticket);
            if (c->read != (r->opcode == IBV_WR_RDMA_READ))
                complain("cell %ld: wrong direction", (long)(c - nic_cells));
            if (__atomic_load_n(&c->ended, __ATOMIC_ACQUIRE))
                complain("ticket %u is touched after its end", c->ticket);
            c->hits++;
            nic.executed++;
        }
}

static void check(const struct queue *q, const struct request *r) {
    if (r->sges > q->max_sges)
        complain("%u pieces in a request, of %u at most", r->sges, q->max_sges);
    if (r->length > q->longest)
        complain("%u bytes in a request, of %llu at most", r->length, (unsigned long long)q->longest);
    if (r->opcode == IBV_WR_RDMA_READ && q->reads > q->max_reads)
        complain("%u reads in flight, of %u at most", q->reads, q->max_reads);
}

static void store(struct queue *q, const struct ibv_send_wr *wr) {
    struct request *r = &q->requests[q->posted & q->mask];
    r->wr_id = wr->wr_id;
    r->remote = wr->wr.rdma.remote_addr;
    r->rkey = wr->wr.rdma.rkey;
    r->opcode = wr->opcode;
    r->flags = wr->send_flags;
    r->sges = (uint32_t)wr->num_sge < SGES ? (uint32_t)wr->num_sge : SGES;
    r->length = 0;
    for (uint32_t i = 0; i < r->sges; i++) {
        r->sge[i] = wr->sg_list[i];
        r->length += wr->sg_list[i].length;
    }
    q->last_wr_id = wr->wr_id;
    q->posted++;
    q->reads += r->opcode == IBV_WR_RDMA_READ;
    check(q, r);
}

/* Executes or flushes the request that is next. */
static void step(struct queue *q) {
    struct request *r = &q->requests[q->done++ & q->mask];
    q->reads -= r->opcode == IBV_WR_RDMA_READ;
    if (q->error) {
        if (!nic_script.mute)
            complete(q, r->wr_id, IBV_WC_WR_FLUSH_ERR, q->done);
        return;
    }
    bool fails = nic_script.error != 0 && draw(100000) < nic_script.error;
    if (!fails || draw(2) == 0)
        execute(r); /* the acknowledgement may be what was lost */
    if (fails) {
        q->error = true;
        complete(q, r->wr_id, IBV_WC_RETRY_EXC_ERR, q->done);
    } else if (r->flags & IBV_SEND_SIGNALED) {
        complete(q, r->wr_id, IBV_WC_SUCCESS, q->done);
    }
}

static int post_at_once(struct queue *q, struct ibv_send_wr *wr) {
    lock();
    for (; wr != NULL; wr = wr->next) {
        q->posted++;
        q->done++;
        if (wr->send_flags & IBV_SEND_SIGNALED)
            complete(q, wr->wr_id, IBV_WC_SUCCESS, q->done);
    }
    unlock();
    return 0;
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad) {
    struct queue *q = (struct queue *)qp;
    int rc = 0;
    if (nic_script.at_once)
        return post_at_once(q, wr);
    lock();
    uint32_t accept = UINT32_MAX;
    if (draw(1000) < nic_script.partial) {
        accept = draw(12);
        q->starving = draw(1000) < nic_script.starve;
    }
    if (q->starving && q->posted != q->done)
        accept = 0;
    else if (q->starving && accept == UINT32_MAX)
        q->starving = false;
    for (; wr != NULL && rc == 0; wr = wr->next) {
        if (q->posted - q->polled >= q->depth) {
            complain("the send queue overflows");
            rc = ENOMEM;
        } else if (draw(100000) < nic_script.invalid) {
            rc = EINVAL;
        } else if (accept-- == 0) {
            rc = ENOMEM;
        } else {
            store(q, wr);
            continue;
        }
        *bad = wr;
    }
    unlock();
    return rc;
}

int mcv_to_error(struct ibv_qp *qp) {
    lock();
    ((struct queue *)qp)->error = true;
    unlock();
    return 0;
}

static void *run(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&nic.stopping, __ATOMIC_ACQUIRE)) {
        bool idle = true;
        lock();
        for (uint32_t i = 0; i < nic.count; i++) {
            struct queue *q = nic.queues[i];
            if (q == NULL || q->posted == q->done)
                continue;
            idle = false;
            for (uint32_t n = draw(24); n > 0 && q->posted != q->done; n--)
                step(q);
        }
        unlock();
        if (idle)
            usleep(20);
        else
            sched_yield();
    }
    return NULL;
}

/* The device. */

static uint32_t power_of_two(uint32_t at_least) {
    uint32_t n = 1;
    while (n < at_least)
        n *= 2;
    return n;
}

void nic_start(uint32_t cells, int cq_depth) {
    memset(&nic, 0, sizeof nic);
    nic.random = nic_script.seed * 0x9e3779b97f4a7c15u + 1;
    nic_cells = calloc(cells, sizeof *nic_cells);
    nic_cell_count = cells;
    uint32_t entries = power_of_two((uint32_t)cq_depth);
    nic.mask = entries - 1;
    nic.entries = calloc(entries, sizeof *nic.entries);
    nic.context.ops.post_send = post_send;
    nic.context.ops.poll_cq = poll_cq;
    nic.context.ops.req_notify_cq = req_notify_cq;
    nic.channel.context = &nic.context;
    nic.channel.fd = eventfd(0, EFD_CLOEXEC);
    nic.cq.context = &nic.context;
    nic.cq.channel = &nic.channel;
    nic.cq.cqe = cq_depth;
    nic.number = 100;
    pthread_create(&nic.thread, NULL, run, NULL);
}

void nic_stop(void) {
    __atomic_store_n(&nic.stopping, 1, __ATOMIC_RELEASE);
    pthread_join(nic.thread, NULL);
    for (uint32_t i = 0; i < nic.count; i++)
        if (nic.queues[i] != NULL)
            nic_destroy(&nic.queues[i]->qp);
    close(nic.channel.fd);
    free(nic.entries);
    free(nic_cells);
}

struct ibv_cq *nic_cq(void) { return &nic.cq; }

struct ibv_comp_channel *nic_channel(void) { return &nic.channel; }

struct ibv_qp *nic_qp(uint32_t depth, uint32_t sges, uint32_t reads, uint64_t longest) {
    struct queue *q = calloc(1, sizeof *q);
    q->mask = power_of_two(depth) - 1;
    q->requests = calloc(q->mask + 1, sizeof *q->requests);
    q->depth = depth;
    q->max_sges = sges;
    q->max_reads = reads;
    q->longest = longest;
    lock();
    q->qp.context = &nic.context;
    q->qp.qp_num = nic.number++;
    nic.queues[nic.count++] = q;
    unlock();
    return &q->qp;
}

void nic_destroy(struct ibv_qp *qp) {
    struct queue *q = (struct queue *)qp;
    lock();
    uint32_t to = nic.head;
    for (uint32_t at = nic.head; at != nic.tail; at++)
        if (nic.entries[at & nic.mask].queue != q)
            nic.entries[to++ & nic.mask] = nic.entries[at & nic.mask];
    nic.tail = to;
    for (uint32_t i = 0; i < nic.count; i++)
        if (nic.queues[i] == q)
            nic.queues[i] = NULL;
    unlock();
    free(q->requests);
    free(q);
}

void nic_forget(struct ibv_qp **qps, uint32_t count) {
    lock();
    for (uint32_t i = 0; i < count; i++) {
        struct queue *q = (struct queue *)qps[i];
        q->error = true;
        q->done = q->posted;
    }
    unlock();
}

void nic_inject(uint64_t wr_id, uint32_t qp_number, int status) {
    lock();
    complete(NULL, wr_id, status, 0);
    nic.entries[(nic.tail - 1) & nic.mask].wc.qp_num = qp_number;
    unlock();
}

uint64_t nic_last_wr_id(struct ibv_qp *qp) {
    lock();
    uint64_t id = ((struct queue *)qp)->last_wr_id;
    unlock();
    return id;
}

const char *nic_complaint(void) {
    lock();
    const char *text = nic.complaint[0] != '\0' ? nic.complaint : NULL;
    unlock();
    return text;
}

uint64_t nic_executed(void) {
    lock();
    uint64_t n = nic.executed;
    unlock();
    return n;
}

uint64_t nic_read_backs(void) {
    lock();
    uint64_t n = nic.read_backs;
    unlock();
    return n;
}
