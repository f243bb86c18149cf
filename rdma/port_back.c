/*
 * Read-backs. A WRITE is acknowledged when the peer's NIC has it, and with relaxed
 * ordering that may be before it can be seen in memory. A READ of the byte that was
 * written last, behind it on the same queue pair, comes back only after that. When a
 * ticket is sealed, each queue that carried its pieces gets such a READ, as one more piece
 * of the ticket without bytes. Where a ring has no room the ticket owes it.
 */
#include "port_internal.h"

/* Notes that q carries a piece of the ticket. Under feeding. */
void port_touch(struct mcp_queue *q, struct mcp_ticket *t, const struct mcp_piece *piece) {
    struct mcp_lane *lane = q->lane;
    if (lane->config.back_local == 0 || t->op != MCP_WRITE || piece->length == 0)
        return;
    pthread_mutex_lock(&t->backs);
    if (t->lane != lane || t->generation != lane->generation) {
        t->lane = lane;
        t->generation = lane->generation;
        t->touched = 0;
    }
    t->touched |= 1u << q->index;
    t->last[q->index].remote = piece->remote + piece->length - 1;
    t->last[q->index].rkey = piece->rkey;
    pthread_mutex_unlock(&t->backs);
}

static void read_back(struct mcp_queue *q, struct mcp_ticket *t, uint64_t remote, uint32_t rkey) {
    const struct mcp_lane_config *config = &q->lane->config;
    struct mcp_piece piece = {
        .local = config->back_local,
        .remote = remote,
        .length = 1,
        .lkey = config->back_lkey,
        .rkey = rkey,
    };
    port_append(q, t, &piece, true);
}

/* Places read-backs where there is room; the rest stays in touched. Returns the bits of
 * the queues that got one. */
static uint32_t place(struct mcp_lane *lane, struct mcp_ticket *t) {
    uint32_t placed = 0;
    if (t->lane != lane || t->generation != lane->generation)
        return 0;
    if (is_broken(lane) || atomic_load_explicit(&t->stopped, memory_order_acquire))
        t->touched = 0;
    for (uint32_t i = 0; t->touched >> i != 0 && i < lane->count; i++) {
        struct mcp_queue *q = &lane->queues[i];
        if (!(t->touched >> i & 1) || !port_has_room(q))
            continue;
        port_ticket_hold(t, 1);
        read_back(q, t, t->last[i].remote, t->last[i].rkey);
        placed |= 1u << i;
        t->touched &= ~(1u << i);
    }
    return placed;
}

/* Makes the read-backs of a closed ticket, of which the caller holds a count: that is
 * released when all are placed. Under feeding; the ticket is not to be touched after. */
uint32_t port_seal(struct mcp_lane *lane, struct mcp_ticket *t) {
    pthread_mutex_lock(&t->backs);
    uint32_t placed = place(lane, t);
    bool owes = t->lane == lane && t->touched != 0, before = t->owing;
    if (owes && !before) {
        t->owing = true;
        t->next_owing = lane->owing;
        lane->owing = t;
        atomic_fetch_add_explicit(&lane->owes, 1, memory_order_release);
    }
    pthread_mutex_unlock(&t->backs);
    if (!owes || before)
        port_ticket_release(t, 1);
    return placed;
}

/* Tries again what is owed; forgets it if the lane is broken. Under feeding. */
uint32_t port_settle(struct mcp_lane *lane) {
    uint32_t placed = 0;
    for (struct mcp_ticket **link = &lane->owing, *t; (t = *link) != NULL;) {
        pthread_mutex_lock(&t->backs);
        placed |= place(lane, t);
        bool done = t->lane != lane || t->touched == 0;
        if (done) {
            t->owing = false;
            *link = t->next_owing;
        } else {
            link = &t->next_owing;
        }
        pthread_mutex_unlock(&t->backs);
        if (done) {
            atomic_fetch_sub_explicit(&lane->owes, 1, memory_order_release);
            port_ticket_release(t, 1);
        }
    }
    return placed;
}

/* A read-back was undone on another lane: the ticket gets one here, if this lane makes
 * any, when it is sealed. Its count in the old one is given up. */
void port_read_back_again(struct mcp_lane *lane, struct mcp_ticket *t, const struct mcp_piece *piece) {
    port_touch(&lane->queues[0], t, piece);
    port_ticket_release(t, 1);
}

void mcp_ticket_seal(struct mcp_ticket *t) {
    if (!port_ticket_close(t))
        return;
    for (;;) {
        pthread_mutex_lock(&t->backs);
        struct mcp_lane *lane = t->lane;
        pthread_mutex_unlock(&t->backs);
        if (lane == NULL) {
            port_ticket_release(t, 1);
            return;
        }
        pthread_mutex_lock(&lane->feeding);
        pthread_mutex_lock(&t->backs);
        bool same = t->lane == lane;
        pthread_mutex_unlock(&t->backs);
        uint32_t placed = same ? port_seal(lane, t) : 0;
        pthread_mutex_unlock(&lane->feeding);
        port_pump_some(lane, placed);
        if (same)
            return;
    }
}
