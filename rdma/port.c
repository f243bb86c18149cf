/* Opening and closing a port. */
#include "port_internal.h"

#include <stdlib.h>

int mcp_port_open(struct ibv_cq *cq, struct ibv_comp_channel *channel, uint64_t spin_ns, struct mcp_port **out) {
    struct mcp_port *port = aligned_alloc(LINE, sizeof *port);
    if (port == NULL)
        return ENOMEM;
    memset(port, 0, sizeof *port);
    port->cq = cq;
    port->channel = channel;
    port->spin_ns = spin_ns;
    pthread_mutex_init(&port->events, NULL);
    pthread_cond_init(&port->event, NULL);
    pthread_mutex_init(&port->pools, NULL);
    int rc = port_start_poller(port);
    if (rc != 0) {
        free(port);
        return rc;
    }
    *out = port;
    return 0;
}

void mcp_port_close(struct mcp_port *port) {
    mcp_port_shut(port);
    port_stop_poller(port);
    for (struct mcp_ticket *t = port->tickets, *next; t != NULL; t = next) {
        next = t->next_made;
        pthread_mutex_destroy(&t->backs);
        free(t);
    }
    for (struct mcp_lane *lane = port->lanes, *next; lane != NULL; lane = next) {
        next = lane->pooled;
        pthread_mutex_destroy(&lane->feeding);
        free(lane->queues);
        free(lane);
    }
    pthread_mutex_destroy(&port->events);
    pthread_cond_destroy(&port->event);
    pthread_mutex_destroy(&port->pools);
    free(port->table);
    free(port->generations);
    free(port);
}

static uint64_t load(const _Atomic uint64_t *total) { return atomic_load_explicit(total, memory_order_relaxed); }

void mcp_port_counters(const struct mcp_port *port, struct mcp_counters *out) {
    const struct totals *t = &port->totals;
    *out = (struct mcp_counters){
        .work_requests = load(&t->work_requests),
        .doorbells = load(&t->doorbells),
        .completions = load(&t->completions),
        .bytes = load(&t->bytes),
        .pieces = load(&t->pieces),
        .wakeups = load(&t->wakeups),
        .partial_posts = load(&t->partial_posts),
        .refused_posts = load(&t->refused_posts),
        .stray_completions = load(&t->stray_completions),
        .errors = load(&t->errors),
    };
}
