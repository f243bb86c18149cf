/* Tickets: the account of a batch, how it ends, and who is told. */
#include "port_internal.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

struct mcp_ticket *mcp_ticket_new(struct mcp_port *port, uint32_t id) {
    struct mcp_ticket *t = aligned_alloc(LINE, sizeof *t);
    if (t == NULL)
        return NULL;
    memset(t, 0, sizeof *t);
    t->port = port;
    pthread_mutex_init(&t->backs, NULL);
    t->id = t->node.id = id;
    pthread_mutex_lock(&port->pools);
    t->next_made = port->tickets;
    port->tickets = t;
    pthread_mutex_unlock(&port->pools);
    return t;
}

void mcp_ticket_start(struct mcp_ticket *t, int op) {
    t->op = op;
    t->touched = 0;
    t->lane = NULL;
    atomic_store_explicit(&t->done, 0, memory_order_relaxed);
    atomic_store_explicit(&t->stopped, 0, memory_order_relaxed);
    atomic_store_explicit(&t->state, 0, memory_order_relaxed);
    atomic_store_explicit(&t->account, 1, memory_order_release);
    atomic_fetch_add_explicit(&t->port->open, 1, memory_order_relaxed);
}

uint64_t *mcp_ticket_done(struct mcp_ticket *t) { return (uint64_t *)&t->done; }

static void wake(struct mcp_ticket *t) {
    syscall(SYS_futex, &t->state, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/*
 * The end is told once. Whoever brings the account to 0 comes here, and it is one
 * thread, once. If nobody waits it claims the end for the event in the same step that
 * makes it visible. Otherwise the waiters own it: each of them, leaving, looks at
 * ENDED in the step that takes it off the count, and the first that sees it claims.
 * No waiter can leave unseen between: count and flags are one word.
 *
 * The ticket may be claimed, freed and started anew before wake(): that wakes a waiter
 * of its next life for nothing, and the memory stays until the port is closed.
 */
static void end(struct mcp_ticket *t) {
    atomic_fetch_sub_explicit(&t->port->open, 1, memory_order_relaxed);
    uint32_t seen = atomic_load_explicit(&t->state, memory_order_relaxed), next;
    do
        next = seen | STATE_ENDED | ((seen & STATE_WAITERS) == 0 ? STATE_CLAIMED : 0);
    while (!atomic_compare_exchange_weak_explicit(&t->state, &seen, next, memory_order_acq_rel,
                                                  memory_order_relaxed));
    if (next & STATE_CLAIMED)
        port_event(t->port, &t->node, MCP_TICKET_ENDED);
    else if (next & STATE_ASLEEP)
        wake(t);
}

/* Counts pieces that are about to be fed. False: the ticket is closed. */
bool port_ticket_count(struct mcp_ticket *t, uint64_t pieces) {
    uint64_t seen = atomic_load_explicit(&t->account, memory_order_relaxed);
    do
        if (seen & ACCOUNT_CLOSED)
            return false;
    while (!atomic_compare_exchange_weak_explicit(&t->account, &seen, seen + pieces, memory_order_acq_rel,
                                                  memory_order_relaxed));
    return true;
}

/* Counts for one who knows that the account is not 0. */
void port_ticket_hold(struct mcp_ticket *t, uint64_t pieces) {
    atomic_fetch_add_explicit(&t->account, pieces, memory_order_acq_rel);
}

/* The ticket is not to be touched after this. */
void port_ticket_release(struct mcp_ticket *t, uint64_t pieces) {
    uint64_t before = atomic_fetch_sub_explicit(&t->account, pieces, memory_order_acq_rel);
    if ((before & ~ACCOUNT_CLOSED) == pieces)
        end(t);
}

void mcp_ticket_drop(struct mcp_ticket *t, uint64_t pieces) {
    if (pieces != 0)
        port_ticket_release(t, pieces);
}

/* True for the one who closes it, and that one has to release the feeder's count. */
bool port_ticket_close(struct mcp_ticket *t) {
    return !(atomic_fetch_or_explicit(&t->account, ACCOUNT_CLOSED, memory_order_acq_rel) & ACCOUNT_CLOSED);
}

bool port_ticket_is_closed(struct mcp_ticket *t) {
    return atomic_load_explicit(&t->account, memory_order_acquire) & ACCOUNT_CLOSED;
}

void mcp_ticket_stop(struct mcp_ticket *t) {
    atomic_store_explicit(&t->stopped, 1, memory_order_release);
    if (port_ticket_close(t))
        port_ticket_release(t, 1);
}

/* Takes the caller off the count of waiters; 1 if the end is its to tell. */
static int leave(struct mcp_ticket *t) {
    uint32_t seen = atomic_load_explicit(&t->state, memory_order_relaxed), next;
    int claims;
    do {
        claims = (seen & (STATE_ENDED | STATE_CLAIMED)) == STATE_ENDED;
        next = (seen - 1) | (claims ? STATE_CLAIMED : 0);
    } while (!atomic_compare_exchange_weak_explicit(&t->state, &seen, next, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return claims;
}

bool port_ticket_is_awaited(struct mcp_ticket *t) {
    return (atomic_load_explicit(&t->state, memory_order_relaxed) & STATE_WAITERS) != 0;
}

static bool ended(struct mcp_ticket *t) {
    return atomic_load_explicit(&t->state, memory_order_acquire) & STATE_ENDED;
}

int mcp_ticket_is_told(struct mcp_ticket *t) {
    return (atomic_load_explicit(&t->state, memory_order_acquire) & STATE_CLAIMED) != 0;
}

/* Polls for as long as the poller would. */
static void poll_for(struct mcp_ticket *t, uint64_t until) {
    struct mcp_port *port = t->port;
    while (!ended(t) && now_ns() < until)
        if (!gate_is_free(&port->polling) || port_try_sweep(port) == 0)
            cpu_relax();
}

static void sleep_on(struct mcp_ticket *t, const struct timespec *until) {
    for (;;) {
        uint32_t seen = atomic_fetch_or_explicit(&t->state, STATE_ASLEEP, memory_order_acq_rel) | STATE_ASLEEP;
        if (seen & STATE_ENDED)
            return;
        /* EINTR, and EAGAIN when the word has changed: look again. */
        if (syscall(SYS_futex, &t->state, FUTEX_WAIT_BITSET_PRIVATE, seen, until, NULL, FUTEX_BITSET_MATCH_ANY) != 0 &&
            errno == ETIMEDOUT)
            return;
    }
}

void mcp_ticket_expect(struct mcp_ticket *t) { atomic_fetch_add_explicit(&t->state, 1, memory_order_acq_rel); }

int mcp_ticket_wait(struct mcp_ticket *t, int64_t timeout_ns, int expected) {
    const uint64_t year = UINT64_C(1000000000) * 3600 * 24 * 365;
    uint64_t now = now_ns();
    uint64_t end = now + (timeout_ns >= 0 && (uint64_t)timeout_ns < year ? (uint64_t)timeout_ns : year);

    if (!expected)
        mcp_ticket_expect(t);
    struct mcp_port *port = t->port;
    uint64_t spin = port->spin_ns; /* 0 where cores are scarce */
    if (spin != 0)
        poll_for(t, now + spin < end ? now + spin : end);
    else if (!ended(t) && gate_is_free(&port->polling) && port_try_sweep(port) != 0)
        port_helped(port); /* a fast device is done already, and then nobody need wake anybody */
    if (timeout_ns != 0 && !ended(t)) {
        struct timespec until = {.tv_sec = (time_t)(end / 1000000000u), .tv_nsec = (long)(end % 1000000000u)};
        atomic_fetch_add_explicit(&port->sleepers, 1, memory_order_seq_cst);
        port_lean(port);
        sleep_on(t, &until);
        atomic_fetch_sub_explicit(&port->sleepers, 1, memory_order_relaxed);
    }
    if (atomic_load_explicit(&port->open, memory_order_relaxed) != 0)
        port_lean(port); /* there are others, and this thread goes away */
    return leave(t);
}
