/* Retiring: completions say how far a queue got, tickets are told, queues are refilled.
 * All of it happens behind port->polling. */
#include "port_internal.h"

struct run { /* requests of one ticket, one behind the other */
    struct mcp_ticket *ticket;
    uint64_t bytes, pieces;
};

static void tell(struct totals *totals, const struct run *run) {
    if (run->ticket == NULL)
        return;
    count(&totals->bytes, run->bytes); /* before anybody can know that the ticket ended */
    count(&totals->pieces, run->pieces);
    if (run->bytes != 0)
        atomic_fetch_add_explicit(&run->ticket->done, run->bytes, memory_order_release);
    port_ticket_release(run->ticket, run->pieces);
}

/* Requests [from, to) were delivered. The counters of a ticket are touched once for each
 * run of its requests. */
static void deliver(struct mcp_queue *q, uint32_t from, uint32_t to) {
    struct totals *totals = &q->lane->port->totals;
    struct run run = {0};
    uint64_t bytes = 0, pieces = 0;
    uint32_t reads = 0;
    for (uint32_t seq = from; seq != to; seq++) {
        const struct slot *slot = &q->slots[seq & q->slot_mask];
        if (slot->ticket != run.ticket) {
            tell(totals, &run);
            run = (struct run){.ticket = slot->ticket};
        }
        run.bytes += slot->bytes;
        run.pieces += slot->pieces;
        bytes += slot->bytes;
        pieces += slot->pieces;
        reads += slot->read;
    }
    tell(totals, &run);
    q->delivered = to;
    if (reads != 0)
        atomic_store_explicit(&q->reads_retired,
                              atomic_load_explicit(&q->reads_retired, memory_order_relaxed) + reads,
                              memory_order_release);
    atomic_store_explicit(&q->retired_work,
                          atomic_load_explicit(&q->retired_work, memory_order_relaxed) + bytes + pieces * PIECE_WEIGHT,
                          memory_order_relaxed);
}

static struct mcp_failure failure_of(const struct mcp_queue *q, uint32_t seq, const struct ibv_wc *wc) {
    const struct slot *slot = &q->slots[seq & q->slot_mask];
    struct mcp_failure why = {
        .by = MCP_BY_COMPLETION, .status = wc->status, .vendor = wc->vendor_err, .qp = q->qp_number};
    if (slot->ticket != NULL) {
        why.piece = q->ring[slot->first & q->ring_mask].piece;
        why.ticket_id = slot->ticket->id;
    }
    return why;
}

/*
 * A reliable connection completes in order, so a success at seq retires all up to it, and
 * an error of its own tells that those before were delivered. A flush tells nothing about
 * those before: should a driver leave out the flushes of unsignalled requests, they were
 * not delivered. They count as not known to be, and writing them again does no harm.
 *
 * After the first error nothing of the queue counts as delivered; completions only say
 * what is no longer in flight. The lane is broken before retired is raised, see look().
 */
static bool retire(struct mcp_queue *q, uint32_t seq, const struct ibv_wc *wc) {
    uint32_t retired = atomic_load_explicit(&q->retired, memory_order_relaxed);
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_acquire);
    if (seq - retired >= posted - retired)
        return false;
    if (!q->failed) {
        if (wc->status == IBV_WC_SUCCESS) {
            deliver(q, retired, seq + 1);
        } else {
            q->failed = true;
            if (wc->status != IBV_WC_WR_FLUSH_ERR)
                deliver(q, retired, seq);
        }
    }
    if (wc->status != IBV_WC_SUCCESS) {
        count(&q->lane->port->totals.errors, 1);
        if (!is_broken(q->lane)) {
            struct mcp_failure why = failure_of(q, seq, wc);
            port_break(q->lane, &why);
        }
    }
    atomic_store_explicit(&q->retired, seq + 1, memory_order_release);
    return true;
}

/* The queue that a completion is for: an id names its place in the table and how often
 * that was used, so completions that come after a lane was closed find nothing. */
static struct mcp_queue *queue_of(const struct mcp_port *port, const struct ibv_wc *wc) {
    uint32_t place = (uint32_t)(wc->wr_id >> 48);
    struct mcp_queue *q = place < port->slots ? port->table[place] : NULL;
    if (q == NULL || q->id != (wc->wr_id & ~(uint64_t)UINT32_MAX) || q->qp_number != wc->qp_num)
        return NULL;
    return q;
}

static void retire_all(struct mcp_port *port, int n) {
    struct mcp_queue *touched[CQES];
    int queues = 0;
    for (int i = 0; i < n; i++) {
        const struct ibv_wc *wc = &port->wcs[i];
        struct mcp_queue *q = queue_of(port, wc);
        if (q == NULL || !retire(q, (uint32_t)wc->wr_id, wc)) {
            count(&port->totals.stray_completions, 1);
        } else if (!q->touched) {
            q->touched = true;
            touched[queues++] = q;
        }
    }
    for (int i = 0; i < queues; i++) {
        touched[i]->touched = false;
        port_pump(touched[i]);
    }
}

/* Takes completions until there are none, and refills the queues that they are for. */
int port_sweep(struct mcp_port *port) {
    int n, total = 0;
    do {
        n = ibv_poll_cq(port->cq, CQES, port->wcs);
        if (n < 0) {
            port_break_all(port, n == -1 && errno != 0 ? errno : EIO);
            break;
        }
        retire_all(port, n);
        total += n;
    } while (n == CQES);
    if (total != 0)
        count(&port->totals.completions, (uint64_t)total);
    return total;
}

/* Sweeps if nobody does; if somebody does, they will once more. */
int port_try_sweep(struct mcp_port *port) {
    if (!gate_enter(&port->polling))
        return 0;
    int total = port_sweep(port);
    return total + port_leave(port);
}

/* Leaves the polling gate, and sweeps for those that were turned away meanwhile. */
int port_leave(struct mcp_port *port) {
    int total = 0;
    while (!gate_leave(&port->polling))
        total += port_sweep(port);
    return total;
}
