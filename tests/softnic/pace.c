/*
 * Rates and latency. Each limit is a virtual clock that all processes share: it tells
 * until when the port is taken. A work request moves it on by its own cost, and is due
 * when the last of its clocks says so. Clocks count 1/16 ns.
 *
 * A thread that slept too long finds its clock behind the real time and may catch up,
 * by SET_BURST at most: that makes the rate exact although sleeps are not. A clock that
 * is further behind belongs to a port that was idle, and starts at the present.
 */
#include "softnic.h"

#define PER_NS 16ull

static uint64_t take(_Atomic uint64_t *clock, uint64_t cost, uint64_t now, uint64_t burst)
{
    uint64_t seen = atomic_load_explicit(clock, memory_order_relaxed), until;
    do {
        bool idle = seen + burst < now;
        until = (idle ? now : seen) + cost;
    } while (!atomic_compare_exchange_weak(clock, &seen, until));
    return until;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t bytes_clock(_Atomic uint64_t *clock, struct shared_port *port, uint64_t bytes,
                            uint64_t now, uint64_t burst)
{
    uint64_t bits = setting(port, SET_BANDWIDTH);
    if (!bits)
        return now;
    return take(clock, (uint64_t)(bytes * 8.0 * 1e9 * PER_NS / bits), now, burst);
}

/* What is posted to a queue pair that had nothing to do does not wait for all that others were
 * given times for: a NIC serves queue pairs in turn. Its place is counted from 1. */
static uint64_t in_turn(const struct qp *qp, uint64_t place, uint64_t length, uint64_t start)
{
    struct shared_port *own = qp->nic->shared;
    uint64_t rate = setting(own, SET_RATE), bits = setting(own, SET_BANDWIDTH);
    double each = (rate ? 1e9 / rate : 0) + (bits ? length * 8.0 * 1e9 / bits : 0);
    return start + (uint64_t)(each * PER_NS * place * qp->nic->busy_count);
}

uint64_t pace(struct qp *qp, const struct wqe *wqe, uint64_t posted, uint64_t place)
{
    struct shared_port *own = qp->nic->shared;
    uint64_t start = posted * PER_NS, until = start, burst = setting(own, SET_BURST) * PER_NS;
    uint64_t rate = setting(own, SET_RATE), latency = setting(own, SET_LATENCY);
    bool read = wqe->opcode == IBV_WR_RDMA_READ;
    if (rate)
        until = take(&own->messages, 1000000000ull * PER_NS / rate, start, burst);
    until = later(until, bytes_clock(read ? &own->received : &own->sent, own, wqe->length, start, burst));
    if (place) {
        uint64_t fair = in_turn(qp, place, wqe->length, start);
        until = fair < until ? fair : until;
    }
    if (qp->shared->peer_port < MAX_PORTS && (int)qp->shared->peer_port != qp->nic->port) {
        struct shared_port *peer = &fabric->ports[qp->shared->peer_port];
        until = later(until, bytes_clock(read ? &peer->sent : &peer->received, peer, wqe->length, start, burst));
    }
    return until / PER_NS + latency;
}
