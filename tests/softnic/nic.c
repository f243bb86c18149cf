/* The NIC thread of one device in one process: it serves queue pairs with work in turn. */
#define _GNU_SOURCE
#include "softnic.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    NAP = 200000,  /* ns: the longest sleep from which posters need not wake the thread */
    SHORT = 4000,    /* ns: not worth a sleep */
    GATHER = 1500,   /* ns */
    SLUMBER = 30000, /* ns: worth one in a stream of such */
    PLENTY = 200000, /* ns of scheduled work that outlast that sleep, which takes longer than asked */
    TICK = 1000000 /* ns: the longest sleep while a peer does not answer */
};

void nic_lock(struct nic *nic)
{
    atomic_fetch_add(&nic->wanted, 1);
    pthread_mutex_lock(&nic->lock);
    atomic_fetch_sub(&nic->wanted, 1);
}

void nic_unlock(struct nic *nic)
{
    pthread_mutex_unlock(&nic->lock);
}

void nic_submit(struct qp *qp)
{
    struct nic *nic = qp->nic;
    if (atomic_exchange(&qp->queued, 1))
        return; /* the thread comes back to it by itself */
    struct qp *last = atomic_load_explicit(&nic->arrived, memory_order_relaxed);
    do
        qp->next_arrived = last;
    while (!atomic_compare_exchange_weak(&nic->arrived, &last, qp));
    bell_ring(nic->bell);
}

static void append(struct nic *nic, struct qp *qp)
{
    qp->next_busy = NULL;
    *nic->busy_end = qp;
    nic->busy_end = &qp->next_busy;
}

static void take_arrived(struct nic *nic)
{
    struct qp *last = atomic_exchange(&nic->arrived, NULL), *first = NULL;
    while (last) { /* the oldest first */
        struct qp *next = last->next_arrived;
        last->next_arrived = first;
        first = last;
        last = next;
    }
    for (; first; first = first->next_arrived)
        append(nic, first);
}

static void remove_busy(struct nic *nic, struct qp *qp)
{
    for (struct qp **at = &nic->busy; *at; at = &(*at)->next_busy)
        if (*at == qp) {
            *at = qp->next_busy;
            if (nic->busy_end == &qp->next_busy)
                nic->busy_end = at;
            return;
        }
}

void nic_forget(struct qp *qp)
{
    struct nic *nic = qp->nic;
    take_arrived(nic);
    remove_busy(nic, qp);
    /* The thread may be about to sleep, and would not find what arrived meanwhile. */
    atomic_fetch_add(&nic->bell->look, 1);
    bell_ring(nic->bell);
}

/* A queue pair without work leaves the list, unless some came in this very moment. */
static bool retire(struct qp *qp)
{
    atomic_store(&qp->queued, 0);
    return atomic_load(&qp->posted) == qp->executed || atomic_exchange(&qp->queued, 1);
}

/* One turn for each queue pair; when there is something to do next. */
static uint64_t turn(struct nic *nic, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    struct qp *qp = nic->busy;
    nic->busy_count = 0;
    for (const struct qp *each = qp; each; each = each->next_busy)
        nic->busy_count++;
    nic->busy = NULL;
    nic->busy_end = &nic->busy;
    while (qp) {
        struct qp *after = qp->next_busy;
        uint64_t at = serve(qp, now);
        if (at != UINT64_MAX || !retire(qp)) {
            append(nic, qp);
            at = at == UINT64_MAX ? 0 : at;
        }
        next = at < next ? at : next;
        if (qp->scheduled != qp->executed && qp_wqe(qp, qp->scheduled - 1)->due > nic->horizon)
            nic->horizon = qp_wqe(qp, qp->scheduled - 1)->due;
        qp = after;
    }
    late_turn(nic, now, &next);
    return next;
}

/* -- events */

void nic_event(struct nic *nic, enum ibv_event_type type)
{
    for (struct context *context = nic->contexts; context; context = context->next)
        events_add(&context->async, (struct event){NULL, type});
    if (type != IBV_EVENT_DEVICE_FATAL)
        return;
    for (struct qp *qp = nic->all; qp; qp = qp->next_all) {
        spin_lock(&qp->posting);
        qp_error(qp);
        spin_unlock(&qp->posting);
    }
}

/* What others did to us: events of the port, queue pairs that a peer broke. */
static void look_around(struct nic *nic)
{
    uint32_t looks = atomic_load(&nic->bell->look);
    if (likely(looks == nic->looks_seen))
        return;
    nic->looks_seen = looks;
    uint32_t events = atomic_load(&nic->shared->events);
    for (; nic->events_seen != events; nic->events_seen++)
        nic_event(nic, (enum ibv_event_type)nic->shared->event[nic->events_seen % MAX_EVENTS].type);
    for (struct qp *qp = nic->all; qp; qp = qp->next_all) {
        uint32_t broken = atomic_exchange(&qp->shared->broken, 0);
        if (!broken)
            continue;
        spin_lock(&qp->posting);
        qp_error(qp);
        spin_unlock(&qp->posting);
        qp_event(qp, (enum ibv_event_type)(broken - 1));
    }
}

/* -- the thread */

static bool has_news(struct nic *nic)
{
    return atomic_load(&nic->arrived) || atomic_load(&nic->bell->look) != nic->looks_seen ||
           atomic_load(&nic->stop);
}

/* Posters often come back at once with more; a sleep costs both sides a few us. */
static bool spin_for_news(struct nic *nic)
{
    uint64_t until = now_ns() + (uint64_t)limits.spin * 1000;
    do {
        for (int i = 0; i < 20; i++) {
            if (has_news(nic))
                return true;
            __builtin_ia32_pause();
        }
        sched_yield();
    } while (now_ns() < until);
    return false;
}

static void rest(struct nic *nic, uint64_t next)
{
    uint64_t now = now_ns();
    if (next <= now || (next == UINT64_MAX && spin_for_news(nic)))
        return;
    uint64_t span = next == UINT64_MAX ? 0 : next - now;
    if (span && span < SHORT && nic->horizon < now + PLENTY) {
        do /* a little longer than needed: several work requests are cheaper than each alone */
            sched_yield();
        while (now_ns() < now + GATHER);
        return;
    }
    if (span && span < SLUMBER && nic->horizon >= now + PLENTY)
        span = SLUMBER; /* the clocks of pace.c make up for it */
    struct bell *bell = nic->bell;
    uint32_t rung = atomic_load(&bell->rung);
    if (span && span <= NAP) { /* posters leave it asleep: it comes back soon enough */
        if (!has_news(nic))
            bell_wait(bell, rung, span);
        return;
    }
    atomic_store(&bell->asleep, 1);
    if (!has_news(nic))
        bell_wait(bell, rung, span > TICK ? TICK : span);
    atomic_store(&bell->asleep, 0);
}

static void let_others_in(struct nic *nic)
{
    while (atomic_load(&nic->wanted))
        sched_yield();
}

static void *run(void *argument)
{
    struct nic *nic = argument;
    prctl(PR_SET_NAME, "softnic");
    prctl(PR_SET_TIMERSLACK, 1);
    while (!atomic_load(&nic->stop)) {
        pthread_mutex_lock(&nic->lock);
        look_around(nic);
        take_arrived(nic);
        uint64_t next = turn(nic, now_ns());
        pthread_mutex_unlock(&nic->lock);
        let_others_in(nic);
        rest(nic, next);
    }
    return NULL;
}

struct nic *nic_open(int port)
{
    struct nic *nic = aligned_alloc(CACHE_LINE, (sizeof *nic + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!nic)
        return NULL;
    memset(nic, 0, sizeof *nic);
    pthread_mutex_init(&nic->lock, NULL);
    nic->port = port;
    nic->shared = &fabric->ports[port];
    nic->bell = &fabric->procs[own_proc].bells[port % MAX_DEVICES];
    nic->busy_end = &nic->busy;
    nic->events_seen = atomic_load(&nic->shared->events);
    nic->looks_seen = atomic_load(&nic->bell->look);
    for (int i = 0; i < MAX_PROCS; i++)
        nic->peers[i].pidfd = -1;
    /* Signals are for the program's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&nic->thread, NULL, run, nic);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(nic);
        errno = failed;
        return NULL;
    }
    return nic;
}

void nic_close(struct nic *nic)
{
    atomic_store(&nic->stop, true);
    atomic_fetch_add(&nic->bell->look, 1);
    bell_ring(nic->bell);
    pthread_join(nic->thread, NULL);
    late_drop(nic);
    for (int i = 0; i < MAX_PROCS; i++)
        if (nic->peers[i].pidfd >= 0)
            close(nic->peers[i].pidfd);
    pthread_mutex_destroy(&nic->lock);
    free(nic);
}
