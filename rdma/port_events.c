/* What Go is told: lanes that have room again or broke, tickets that ended. There is an
 * event for a lane or ticket, never for a piece, so a lock is cheap enough. */
#include "port_internal.h"

void port_event(struct mcp_port *port, struct node *node, int kind) {
    pthread_mutex_lock(&port->events);
    node->kinds |= (uint8_t)(1u << kind);
    if (!node->linked) {
        node->linked = true;
        node->next = NULL;
        if (port->first == NULL)
            port->first = node;
        else
            port->last->next = node;
        port->last = node;
        pthread_cond_signal(&port->event);
    }
    pthread_mutex_unlock(&port->events);
}

void port_forget_event(struct mcp_port *port, struct node *node) {
    pthread_mutex_lock(&port->events);
    struct node **link = &port->first, *before = NULL;
    while (*link != NULL && *link != node) {
        before = *link;
        link = &before->next;
    }
    if (*link == node) {
        *link = node->next;
        if (port->last == node)
            port->last = before;
    }
    node->linked = false;
    node->kinds = 0;
    pthread_mutex_unlock(&port->events);
}

/* Takes one kind from the first node, which leaves the list with its last one. */
static struct mcp_event take(struct mcp_port *port) {
    struct node *node = port->first;
    int kind = __builtin_ctz(node->kinds);
    struct mcp_event event = {.kind = (uint32_t)kind, .id = node->id};
    node->kinds &= (uint8_t)~(1u << kind);
    if (node->kinds == 0) {
        node->linked = false;
        port->first = node->next;
        if (port->first == NULL)
            port->last = NULL;
    }
    return event;
}

int mcp_port_wait(struct mcp_port *port, struct mcp_event *out, int max) {
    int n = 0;
    pthread_mutex_lock(&port->events);
    while (port->first == NULL && !port->shut && !port->interrupted)
        pthread_cond_wait(&port->event, &port->events);
    if (!port->shut && !port->interrupted)
        while (n < max && port->first != NULL)
            out[n++] = take(port);
    port->interrupted = false;
    pthread_mutex_unlock(&port->events);
    return n;
}

void mcp_port_interrupt(struct mcp_port *port) {
    pthread_mutex_lock(&port->events);
    port->interrupted = true;
    pthread_cond_broadcast(&port->event);
    pthread_mutex_unlock(&port->events);
}

void mcp_port_shut(struct mcp_port *port) {
    pthread_mutex_lock(&port->events);
    port->shut = true;
    pthread_cond_broadcast(&port->event);
    pthread_mutex_unlock(&port->events);
}
