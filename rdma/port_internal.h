/*
 * What the port_*.c files share.
 *
 * Who may write what:
 *   lane->feeding (a mutex)  the tails of the rings, by feeders; no gate is waited for under it
 *   queue->gate              the send queue: building, posting, and what was posted
 *   port->polling (a gate)   the completion queue, the table of queues, and what was retired
 *   port->events (a mutex)   the list of events; the innermost lock
 */
#ifndef MCP_PORT_INTERNAL_H
#define MCP_PORT_INTERNAL_H

#include "port.h"
#include "port_gate.h"
#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define LINE 64
#define CHAIN 32         /* work requests of one doorbell */
#define SIGNAL_EVERY 32  /* work requests of one completion, at most */
#define CQES 64          /* completions of one look */
#define PIECE_WEIGHT 512 /* what a work request costs besides its bytes, in bytes */

/* Besides the joins of the caller: a read of the last byte that was written. */
#define JOINS_READ_BACK 4u

struct entry { /* a piece in a ring */
    struct mcp_piece piece;
    struct mcp_ticket *ticket; /* NULL: dropped, its ticket no longer counts it */
};

struct slot { /* a work request in flight */
    struct mcp_ticket *ticket; /* NULL: it only retires those before it */
    uint64_t bytes;            /* 0 for a read-back */
    uint32_t first;            /* index of its first piece */
    uint32_t pieces;
    uint32_t read; /* 1 for a READ */
    uint32_t signalled;
};

/* A queue pair's send queue and the ring that feeds it. Indices and sequence numbers
 * count on and wrap; pieces: freed <= next <= fed, requests: retired <= posted. */
struct mcp_queue {
    /* Fixed. */
    struct mcp_lane *lane;
    struct ibv_qp *qp;
    struct entry *ring;
    struct slot *slots;
    struct ibv_send_wr *wrs; /* CHAIN of them, linked */
    uint64_t id;             /* upper half of its wr_ids */
    uint32_t ring_mask, slot_mask;
    uint32_t place; /* in the table */
    uint32_t depth, index, qp_number;
    uint32_t chain, signal_every;

    /* Of feeders. */
    _Alignas(LINE) _Atomic uint32_t fed;
    uint32_t tail_rkey, tail_lkey;
    struct mcp_ticket *tail_ticket; /* of the piece fed last, with its ends */
    uint64_t tail_local, tail_remote;
    uint64_t fed_work;

    /* Of the holder of the gate. */
    _Alignas(LINE) struct gate gate;
    _Atomic uint32_t next;
    _Atomic uint32_t posted; /* of the retiring side only an upper bound, see port_post.c */
    _Atomic uint32_t freed;
    _Atomic uint64_t dropped_work;
    uint32_t reads_posted;
    uint32_t unsignalled; /* of those posted, behind the last that is signalled */
    uint64_t refused_ns;  /* since when nothing was accepted; 0: it was */
    uint32_t refused_retired;
    _Atomic uint32_t refused; /* the poller tries again */
    _Atomic uint32_t parted;  /* broken, and nobody uses the queue pair any more */
    bool in_error, quiet;

    /* Of the holder of port->polling. */
    _Alignas(LINE) _Atomic uint32_t retired;
    uint32_t delivered; /* differs from retired after an error */
    _Atomic uint32_t reads_retired;
    _Atomic uint64_t retired_work;
    bool failed, touched;

    _Alignas(LINE) _Atomic uint32_t wants_room; /* a feeder was turned away */
};

struct node { /* in the list of events */
    struct node *next;
    bool linked;
    uint8_t kinds; /* bits by kind */
    uint32_t id;
};

struct mcp_lane {
    struct mcp_port *port;
    struct mcp_queue *queues;
    uint32_t count, id, capacity;
    struct mcp_lane_config config;
    uint64_t gather_bytes;

    _Atomic uint32_t broken;   /* nothing more is fed or posted */
    _Atomic uint32_t restless; /* queues that may still have something in flight */
    pthread_mutex_t feeding;
    _Atomic uint32_t owes;    /* tickets whose read-backs found no room */
    struct mcp_ticket *owing; /* under feeding */
    uint32_t generation;      /* under feeding; changes when the lane is closed */

    struct node node;
    _Atomic uint32_t failure_taken, failure_known;
    struct mcp_failure failure;

    uint32_t undone_queue, undone_index; /* where mcp_lane_undone goes on */
    bool undone_begun;
    struct mcp_lane *pooled;
};

/* The account: pieces that are fed and neither delivered nor dropped, and one for the
 * feeder until the ticket is closed. The ticket ends when that comes to 0. */
#define ACCOUNT_CLOSED (UINT64_C(1) << 63)

/* The state: whether the ticket ended, whether somebody was told, and who waits. */
#define STATE_ENDED (1u << 31)
#define STATE_CLAIMED (1u << 30)
#define STATE_WAITERS (STATE_CLAIMED - 1)

struct mcp_ticket {
    _Alignas(LINE) _Atomic uint64_t account;
    _Atomic uint64_t done;
    _Atomic uint32_t state; /* a futex */
    _Atomic uint32_t stopped;
    uint32_t id;
    int op;
    struct mcp_port *port;

    struct node node;
    struct mcp_ticket *next_made;

    pthread_mutex_t backs; /* guards what follows; taken under a lane's feeding */
    struct mcp_lane *lane; /* that the ticket has to read back from, NULL: none */
    uint32_t generation;   /* of that lane */
    uint32_t touched;      /* bits of queues that carried its pieces */
    bool owing;
    struct mcp_ticket *next_owing;
    struct {
        uint64_t remote; /* of the byte written last */
        uint32_t rkey;
    } last[MCP_MAX_QUEUES];
};

struct totals { /* relaxed, raised once for each chain or look */
    _Atomic uint64_t work_requests, doorbells, completions, bytes, pieces, wakeups;
    _Atomic uint64_t partial_posts, refused_posts, stray_completions, errors;
};

struct mcp_port {
    struct ibv_cq *cq;
    struct ibv_comp_channel *channel;
    uint64_t spin_ns;
    int wake_fd;
    pthread_t thread;
    bool armed; /* an event will come, or has; of the thread */
    _Atomic uint32_t closing;
    _Atomic uint32_t kicked;   /* wake_fd was written and not yet read */
    _Atomic uint32_t refusals; /* queues that the poller has to try again */
    _Atomic uint32_t helped;   /* raised when a feeder took completions */
    _Atomic uint32_t sleepers; /* who wait for a ticket */
    _Atomic uint32_t napping;  /* the poller does, see port_poller.c */

    _Alignas(LINE) struct gate polling;
    struct mcp_queue **table; /* by the upper half of wr_id, under polling */
    uint16_t *generations;
    uint32_t slots;
    uint64_t promised; /* sum of depths of the open lanes */
    struct ibv_wc wcs[CQES];

    _Alignas(LINE) pthread_mutex_t events;
    pthread_cond_t event;
    struct node *first, *last;
    bool shut, interrupted;

    pthread_mutex_t pools;
    struct mcp_lane *lanes;     /* closed ones */
    struct mcp_ticket *tickets; /* all that were made */

    _Alignas(LINE) struct totals totals;
};

static inline void count(_Atomic uint64_t *total, uint64_t n) {
    atomic_fetch_add_explicit(total, n, memory_order_relaxed);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline bool is_broken(struct mcp_lane *lane) {
    return atomic_load_explicit(&lane->broken, memory_order_acquire);
}

/* What a piece weighs when the least loaded queue is looked for. */
static inline uint64_t work_of(const struct mcp_piece *piece) {
    return PIECE_WEIGHT + (piece->joins & JOINS_READ_BACK ? 0 : piece->length);
}

/* port_post.c */
void port_calm(struct mcp_queue *q);
void port_pump(struct mcp_queue *q);
void port_let_go(struct mcp_queue *q);

/* port_feed.c */
void port_room(struct mcp_queue *q);
bool port_has_room(const struct mcp_queue *q);
void port_append(struct mcp_queue *q, struct mcp_ticket *t, const struct mcp_piece *piece);
void port_pump_some(struct mcp_lane *lane, uint32_t bits);

/* port_back.c */
void port_touch(struct mcp_queue *q, struct mcp_ticket *t, const struct mcp_piece *piece);
uint32_t port_seal(struct mcp_lane *lane, struct mcp_ticket *t);
void port_read_back_again(struct mcp_lane *lane, struct mcp_ticket *t, const struct mcp_piece *piece);
uint32_t port_settle(struct mcp_lane *lane);

/* port_retire.c */
int port_sweep(struct mcp_port *port);
int port_try_sweep(struct mcp_port *port);
int port_leave(struct mcp_port *port);

/* port_break.c */
void port_break(struct mcp_lane *lane, const struct mcp_failure *why);
void port_break_all(struct mcp_port *port, int error);
void port_quiet(struct mcp_queue *q);

/* port_ticket.c */
bool port_ticket_close(struct mcp_ticket *t);
bool port_ticket_is_closed(struct mcp_ticket *t);
bool port_ticket_count(struct mcp_ticket *t, uint64_t pieces);
void port_ticket_hold(struct mcp_ticket *t, uint64_t pieces);
void port_ticket_release(struct mcp_ticket *t, uint64_t pieces);

/* port_events.c */
void port_event(struct mcp_port *port, struct node *node, int kind);
void port_forget_event(struct mcp_port *port, struct node *node);

/* port_poller.c */
void port_kick(struct mcp_port *port);
void port_lean(struct mcp_port *port);
int port_start_poller(struct mcp_port *port);
void port_stop_poller(struct mcp_port *port);

#endif
