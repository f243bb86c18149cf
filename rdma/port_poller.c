/*
 * The polling thread. It sleeps in poll(2) on the completion channel and on an eventfd
 * that ends its sleep, so an idle port costs nothing. Where cores are to spare it looks
 * a while before it sleeps.
 */
#define _GNU_SOURCE
#include "port_internal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Between two tries of a queue that refuses requests. */
#define RETRY_MS 1
#define PAUSES 32

void port_kick(struct mcp_port *port) {
    if (atomic_exchange_explicit(&port->kicked, 1, memory_order_acq_rel))
        return;
    uint64_t one = 1;
    while (write(port->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* The flag falls by an exchange and before the reasons to wake are looked at: a reason
 * given before is seen then, one given later is written. */
static void take_kick(struct mcp_port *port) {
    uint64_t n;
    while (read(port->wake_fd, &n, sizeof n) < 0 && errno == EINTR)
        ;
    atomic_exchange_explicit(&port->kicked, 0, memory_order_acq_rel);
}

static void take_completion_event(struct mcp_port *port) {
    struct ibv_cq *cq;
    port->armed = false;
    if (mcv_get_cq_event(port->channel, &cq) == 0)
        mcv_ack_cq_events(cq, 1);
}

/* Queues that refused requests, and may have nothing in flight that would wake them. */
static void try_again(struct mcp_port *port) {
    gate_hold(&port->polling);
    do {
        port_sweep(port);
        for (uint32_t i = 0; i < port->slots; i++)
            if (port->table[i] != NULL && atomic_load_explicit(&port->table[i]->refused, memory_order_relaxed))
                port_pump(port->table[i]);
    } while (!gate_leave(&port->polling));
}

/* Looks until nothing came for as long as the port may spin. */
static void spin(struct mcp_port *port) {
    uint64_t until = now_ns() + port->spin_ns;
    while (!atomic_load_explicit(&port->closing, memory_order_relaxed) && now_ns() < until) {
        /* A waiter that polls is left alone. */
        if (gate_is_free(&port->polling) && port_try_sweep(port) != 0)
            until = now_ns() + port->spin_ns;
        for (int i = 0; i < PAUSES; i++)
            cpu_relax();
    }
}

/* The device is gone: the channel is in error for ever, and nothing will complete. */
static void lose_channel(struct mcp_port *port, struct pollfd *channel) {
    channel->fd = -1;
    gate_hold(&port->polling);
    port_break_all(port, ENODEV);
    port_leave(port);
}

/*
 * Sleeps until a completion, a kick or the clock. The queue is armed first and looked at
 * after: what came before the arming is found by that look, by the holder of the gate if
 * the look is refused, for whoever is turned away at a gate is looked for; what comes
 * later makes the channel readable. An arming holds until its event is taken: a port that
 * is busy and armed the queue for each look would have an interrupt for each, and an
 * event that waits in the kernel for a sleep that does not come.
 */
static void rest(struct mcp_port *port, struct pollfd fds[2]) {
    port->armed = port->armed || ibv_req_notify_cq(port->cq, 0) == 0;
    if (port_try_sweep(port) != 0)
        return;
    bool retry = atomic_load_explicit(&port->refusals, memory_order_acquire) != 0;
    int n = poll(fds, 2, retry || !port->armed ? RETRY_MS : -1);
    count(&port->totals.wakeups, 1);
    if (n > 0 && fds[0].revents & POLLIN)
        take_completion_event(port);
    else if (n > 0 && fds[0].revents != 0)
        lose_channel(port, &fds[0]);
    if (n > 0 && fds[1].revents != 0)
        take_kick(port);
    if (retry)
        try_again(port);
}

/*
 * While a feeder or a waiter takes completions itself the poller would be woken for each
 * arming, find nothing, and contend for the queues. It leaves them to that thread then, until
 * somebody counts on it (port_lean): who sleeps until a ticket ends, a feeder that is turned
 * away, one that is done while something is in flight. A sleeper first counts itself and then looks
 * whether the poller naps, the poller first says so and then looks for sleepers. The time
 * is for a feeder that stops for a reason that nobody sees, such as a preemption; to be woken
 * by a clock costs as much as a thousand pieces.
 */
#define NAP_NS 1000000

/* True: somebody counts on the poller. */
static bool nap(struct mcp_port *port, struct pollfd *wake) {
    const struct timespec time = {.tv_nsec = NAP_NS};
    bool leans = true;
    atomic_store_explicit(&port->napping, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&port->sleepers, memory_order_seq_cst) == 0 &&
        atomic_exchange_explicit(&port->helped, 0, memory_order_seq_cst)) {
        leans = ppoll(wake, 1, &time, NULL) > 0;
        if (leans)
            take_kick(port);
    }
    atomic_store_explicit(&port->napping, 0, memory_order_relaxed);
    return leans;
}

/* For those who count on the poller from now on. Either the poller sees that help is over, or
 * that it naps is seen here: both write first and read then. */
void port_lean(struct mcp_port *port) {
    atomic_store_explicit(&port->helped, 0, memory_order_seq_cst);
    if (atomic_load_explicit(&port->napping, memory_order_seq_cst))
        port_kick(port);
}

static void *run(void *argument) {
    struct mcp_port *port = argument;
    struct pollfd fds[2] = {{.fd = port->channel->fd, .events = POLLIN}, {.fd = port->wake_fd, .events = POLLIN}};
    bool leaned = false;
    while (!atomic_load_explicit(&port->closing, memory_order_acquire)) {
        if (atomic_load_explicit(&port->helped, memory_order_relaxed) && !leaned) {
            leaned = nap(port, &fds[1]); /* and look whether the port is being closed */
            continue;
        }
        leaned = false;
        port_try_sweep(port);
        if (port->spin_ns != 0)
            spin(port);
        rest(port, fds);
    }
    return NULL;
}

int port_start_poller(struct mcp_port *port) {
    int flags = fcntl(port->channel->fd, F_GETFL);
    if (flags < 0 || fcntl(port->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return errno;
    port->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (port->wake_fd < 0)
        return errno;
    /* Signals are for the threads of the host program. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&port->thread, NULL, run, port);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        close(port->wake_fd);
    else
        pthread_setname_np(port->thread, "mooncake-rdma");
    return rc;
}

void port_stop_poller(struct mcp_port *port) {
    atomic_store_explicit(&port->closing, 1, memory_order_release);
    port_kick(port);
    pthread_join(port->thread, NULL);
    close(port->wake_fd);
}
