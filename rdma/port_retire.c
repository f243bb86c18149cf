/* Retiring: completions say how far a queue got, tickets are told, queues are refilled.
 * All of it happens behind port->polling. */
#include "port_internal.h"

/* Tells a ticket what was delivered of it. */
static void tell(struct mcp_port *port) {
    struct credit credit = port->credit;
    if (credit.ticket == NULL)
        return;
    port->credit = (struct credit){0};
    raise_by(&port->totals.bytes, credit.bytes); /* before anybody can know that it ended */
    raise_by(&port->totals.pieces, credit.pieces);
    if (credit.bytes != 0)
        atomic_fetch_add_explicit(&credit.ticket->done, credit.bytes, memory_order_release);
    port_ticket_release(credit.ticket, credit.pieces);
}

/* The counters of a ticket are touched once for what comes in a row. */
static void give(struct mcp_port *port, struct mcp_ticket *t, uint64_t bytes, uint64_t pieces) {
    if (pieces == 0)
        return;
    if (port->credit.ticket != t)
        tell(port);
    port->credit.ticket = t;
    port->credit.bytes += bytes;
    port->credit.pieces += pieces;
}

/* The requests before to were delivered. A run may have a part of them only after an
 * error, and then is not looked at again. */
static void deliver(struct mcp_queue *q, uint32_t to) {
    struct mcp_port *port = q->lane->port;
    uint64_t work = 0;
    uint32_t reads = 0, at = q->delivered;
    while (at != to) {
        const struct run *run = &q->runs[q->retired_runs & q->slot_mask];
        uint32_t end = atomic_load_explicit(&run->end, memory_order_relaxed), pieces = run->pieces;
        uint64_t bytes = run->bytes;
        if (is_before(to, end)) {
            uint32_t first = q->firsts[at & q->slot_mask];
            end = to;
            pieces = q->firsts[to & q->slot_mask] - first;
            bytes = bytes_of(q, first, first + pieces);
        } else {
            q->retired_runs++;
        }
        give(port, run->ticket, bytes, pieces);
        work += bytes + (uint64_t)pieces * PIECE_WEIGHT;
        reads += run->read ? end - at : 0;
        at = end;
    }
    q->delivered = to;
    raise_by(&q->retired_work, work);
    if (reads != 0)
        atomic_store_explicit(&q->reads_retired,
                              atomic_load_explicit(&q->reads_retired, memory_order_relaxed) + reads,
                              memory_order_release);
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
    uint32_t posted = atomic_load_explicit(&q->posted, memory_order_acquire);
    if (seq - q->retiring >= posted - q->retiring)
        return false;
    if (!q->failed) {
        if (wc->status == IBV_WC_SUCCESS) {
            deliver(q, seq + 1);
        } else {
            q->failed = true;
            if (wc->status != IBV_WC_WR_FLUSH_ERR)
                deliver(q, seq);
        }
    }
    if (wc->status != IBV_WC_SUCCESS) {
        raise_by(&q->lane->port->totals.errors, 1);
        if (!is_broken(q->lane)) {
            struct mcp_failure why = port_failed(q, q->retired_runs, seq);
            why.by = MCP_BY_COMPLETION;
            why.status = wc->status;
            why.vendor = wc->vendor_err;
            port_break(q->lane, &why);
        }
    }
    q->retiring = seq + 1;
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

/* A queue is told last: when a lane is seen to be quiet its tickets have been told. */
static void retire_all(struct mcp_port *port, int n) {
    struct mcp_queue *touched[CQES];
    int queues = 0;
    for (int i = 0; i < n; i++) {
        const struct ibv_wc *wc = &port->wcs[i];
        struct mcp_queue *q = queue_of(port, wc);
        if (q == NULL || !retire(q, (uint32_t)wc->wr_id, wc)) {
            raise_by(&port->totals.stray_completions, 1);
        } else if (!q->touched) {
            q->touched = true;
            touched[queues++] = q;
        }
    }
    tell(port);
    for (int i = 0; i < queues; i++) {
        touched[i]->touched = false;
        atomic_store_explicit(&touched[i]->retired, touched[i]->retiring, memory_order_release);
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
        raise_by(&port->totals.completions, (uint64_t)total);
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
