/*
 * The end of a lane: its queue pairs go to the error state, everything in flight comes
 * back as a flush, then the lane is quiet and tells what was not delivered.
 */
#include "port_internal.h"

static void pump_all(struct mcp_lane *lane) {
    for (uint32_t i = 0; i < lane->count; i++)
        port_pump(&lane->queues[i]);
}

/* Remembers the first failure and stops the lane; each queue's gate does the rest. */
void port_break(struct mcp_lane *lane, const struct mcp_failure *why) {
    if (!atomic_exchange_explicit(&lane->failure_taken, 1, memory_order_acq_rel)) {
        lane->failure = *why;
        atomic_store_explicit(&lane->failure_known, 1, memory_order_release);
    }
    if (!atomic_exchange_explicit(&lane->broken, 1, memory_order_acq_rel))
        pump_all(lane);
}

/* The completion queue itself is broken. Behind port->polling, which guards the table. */
void port_break_all(struct mcp_port *port, int error) {
    struct mcp_failure why = {.by = MCP_BY_POLL, .status = (uint32_t)error};
    for (uint32_t i = 0; i < port->slots; i++)
        if (port->table[i] != NULL)
            port_break(port->table[i]->lane, &why);
}

/* A queue has nothing in flight any more. With the last one the lane is quiet: a feeder
 * that had not seen the break is waited for, so what it fed is found by mcp_lane_undone. */
void port_quiet(struct mcp_queue *q) {
    struct mcp_lane *lane = q->lane;
    if (atomic_fetch_sub_explicit(&lane->restless, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_lock(&lane->feeding);
    port_settle(lane);
    pthread_mutex_unlock(&lane->feeding);
    port_event(lane->port, &lane->node, MCP_LANE_BROKEN);
}

/* Who breaks a lane may go on to destroy the queue pairs, so it is waited until nobody
 * uses them. */
void mcp_lane_break(struct mcp_lane *lane) {
    struct mcp_failure why = {.by = MCP_BY_CALLER};
    port_break(lane, &why);
    for (uint32_t i = 0; i < lane->count; i++)
        while (!atomic_load_explicit(&lane->queues[i].parted, memory_order_acquire))
            sched_yield();
}

/* Behind the polling gate and the queue's nothing else moves the two ends. */
void mcp_lane_abandon(struct mcp_lane *lane) {
    struct mcp_port *port = lane->port;
    mcp_lane_break(lane);
    gate_hold(&port->polling);
    port_sweep(port);
    for (uint32_t i = 0; i < lane->count; i++) {
        struct mcp_queue *q = &lane->queues[i];
        q->failed = true;
        q->retiring = atomic_load_explicit(&q->posted, memory_order_acquire);
        atomic_store_explicit(&q->retired, q->retiring, memory_order_release);
    }
    port_leave(port);
    pump_all(lane);
}

void mcp_lane_failure(struct mcp_lane *lane, struct mcp_failure *out) {
    memset(out, 0, sizeof *out);
    if (atomic_load_explicit(&lane->failure_known, memory_order_acquire))
        *out = lane->failure;
}

/* The first piece that is not known to be delivered. */
static uint32_t undelivered(const struct mcp_queue *q) {
    if (q->delivered == atomic_load_explicit(&q->posted, memory_order_acquire))
        return atomic_load_explicit(&q->next, memory_order_acquire);
    return q->firsts[q->delivered & q->slot_mask];
}

/* The load that a piece is in, looked for from the newest on: older ones may have been
 * overwritten, those of pieces that were not delivered not. */
static uint32_t load_with(const struct mcp_queue *q, uint32_t piece) {
    uint32_t load = q->fed_loads;
    for (uint32_t n = 0; n <= q->ring_mask; n++, load--)
        if (!is_before(piece, q->loads[(load - 1) & q->ring_mask].end))
            break;
    return load;
}

static void report(const struct mcp_queue *q, const struct load *load, uint32_t index, struct mcp_undone *out) {
    *out = (struct mcp_undone){
        .piece = q->ring[index & q->ring_mask],
        .ticket = load->ticket,
        .ticket_id = load->ticket->id,
        .posted = is_before(index, atomic_load_explicit(&q->next, memory_order_relaxed)),
        .read_back = load->back,
    };
    out->piece.joins = 0;
}

/* Goes on where the last call ended. By one caller, after the lane told that it broke. */
size_t mcp_lane_undone(struct mcp_lane *lane, struct mcp_undone *out, size_t max) {
    size_t n = 0;
    for (; lane->undone_queue < lane->count; lane->undone_queue++, lane->undone_begun = false) {
        const struct mcp_queue *q = &lane->queues[lane->undone_queue];
        uint32_t fed = atomic_load_explicit(&q->fed, memory_order_acquire);
        if (!lane->undone_begun) {
            lane->undone_index = undelivered(q);
            lane->undone_load = lane->undone_index == fed ? 0 : load_with(q, lane->undone_index);
            lane->undone_begun = true;
        }
        while (lane->undone_index != fed) {
            const struct load *load = &q->loads[lane->undone_load & q->ring_mask];
            for (; is_before(lane->undone_index, load->dropped); lane->undone_index++) {
                if (n == max)
                    return n;
                report(q, load, lane->undone_index, &out[n++]);
            }
            lane->undone_index = load->end;
            lane->undone_load++;
        }
    }
    return n;
}

void mcp_lane_progress(const struct mcp_lane *lane, uint64_t *retired, uint64_t *in_flight) {
    *retired = *in_flight = 0;
    for (uint32_t i = 0; i < lane->count; i++) {
        const struct mcp_queue *q = &lane->queues[i];
        uint32_t back = atomic_load_explicit(&q->retired, memory_order_acquire);
        uint32_t out = atomic_load_explicit(&q->posted, memory_order_acquire);
        *retired += back;
        *in_flight += (int32_t)(out - back) > 0 ? out - back : 0;
    }
}
