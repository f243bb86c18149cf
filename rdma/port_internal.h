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
#define CHAIN 32         /* work requests of one doorbell; only the last is signalled */
#define CQES 64          /* completions of one look */
#define PIECE_WEIGHT 512 /* what a work request costs besides its bytes, in bytes */

struct load { /* pieces that were fed together, from the end of the load before */
    struct mcp_ticket *ticket;
    uint32_t end;
    uint32_t dropped; /* from here on its ticket does not count them any more */
    bool back;        /* the one piece is a read-back */
};

struct run { /* requests in flight of one ticket, from the end of the run before */
    struct mcp_ticket *ticket; /* NULL: one that only retires those before it */
    uint64_t bytes;            /* 0 for a read-back */
    uint32_t pieces;
    bool read;
    _Atomic uint32_t end; /* a sequence number; atomic because of port_take_back */
};

struct chain { /* requests that are posted together */
    uint32_t seq, count;
    uint32_t load, runs; /* what they were when it was begun */
};

/*
 * A queue pair's send queue and the ring that feeds it. Indices and sequence numbers count
 * on and wrap; pieces: freed <= next <= fed, requests: delivered <= retired <= posted. A
 * ring has as many loads as pieces, for none is empty; there are as many runs and firsts
 * as requests may be in flight.
 */
struct mcp_queue {
    /* Fixed. */
    struct mcp_lane *lane;
    struct ibv_qp *qp;
    struct mcp_piece *ring;
    struct load *loads;
    struct run *runs;
    uint32_t *firsts;        /* the first piece of each request */
    struct ibv_send_wr *wrs; /* CHAIN of them, linked */
    struct ibv_sge *sges;    /* a list for each, of those that have several pieces */
    uint32_t list;           /* how long a list may be */
    uint64_t id;             /* upper half of its wr_ids */
    uint32_t ring_mask, slot_mask;
    uint32_t place; /* in the table */
    uint32_t depth, index, qp_number;
    uint32_t chain; /* at most CHAIN */

    /* Of feeders. */
    _Alignas(LINE) _Atomic uint32_t fed;
    uint32_t fed_loads;
    uint64_t fed_work;

    /* Of the holder of the gate. */
    _Alignas(LINE) struct gate gate;
    _Atomic uint32_t next;
    uint32_t load;           /* that next is in */
    uint32_t posted_runs;
    uint32_t requests, doorbells; /* not yet in the port's totals */
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
    uint32_t retiring;  /* what retired becomes once the tickets are told */
    uint32_t delivered; /* differs after an error */
    uint32_t retired_runs;
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

    uint32_t undone_queue, undone_load, undone_index; /* where mcp_lane_undone goes on */
    bool undone_begun;
    struct mcp_lane *pooled;
};

/* The account: pieces that are fed and neither delivered nor dropped, and one for the
 * feeder until the ticket is closed. The ticket ends when that comes to 0. */
#define ACCOUNT_CLOSED (UINT64_C(1) << 63)

/* The state: whether the ticket ended, whether somebody was told, and who waits. */
#define STATE_ENDED (1u << 31)
#define STATE_CLAIMED (1u << 30)
#define STATE_ASLEEP (1u << 29) /* a waiter may be, now or before */
#define STATE_WAITERS (STATE_ASLEEP - 1)

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

struct credit { /* what is delivered of a ticket and not yet told it */
    struct mcp_ticket *ticket;
    uint64_t bytes, pieces;
};

struct totals { /* relaxed */
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
    _Atomic uint32_t helped;   /* a feeder or waiter takes completions, and has not leaned since */
    _Atomic uint32_t sleepers; /* who wait for a ticket */
    _Atomic uint32_t open;     /* tickets that have not ended */
    _Atomic uint32_t napping;  /* the poller does, see port_poller.c */

    _Alignas(LINE) struct gate polling;
    struct mcp_queue **table; /* by the upper half of wr_id, under polling */
    uint16_t *generations;
    uint32_t slots;
    uint64_t promised; /* sum of depths of the open lanes */
    struct credit credit;
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

/* For what only one thread at a time writes. */
static inline void raise_by(_Atomic uint64_t *total, uint64_t n) {
    atomic_store_explicit(total, atomic_load_explicit(total, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline bool is_broken(struct mcp_lane *lane) {
    return atomic_load_explicit(&lane->broken, memory_order_acquire);
}

/* Which of two numbers that wrap comes first. */
static inline bool is_before(uint32_t a, uint32_t b) { return (int32_t)(a - b) < 0; }

/* The pieces [from, to) of a ring. */
static inline uint64_t bytes_of(const struct mcp_queue *q, uint32_t from, uint32_t to) {
    uint64_t bytes = 0;
    for (; from != to; from++)
        bytes += q->ring[from & q->ring_mask].length;
    return bytes;
}

/* port_post.c */
void port_calm(struct mcp_queue *q);
void port_pump(struct mcp_queue *q);
void port_let_go(struct mcp_queue *q);

/* Somebody else than the poller took completions. */
static inline void port_helped(struct mcp_port *port) {
    atomic_store_explicit(&port->helped, 1, memory_order_relaxed);
}

/* port_chain.c */
struct chain port_chain(struct mcp_queue *q, uint32_t seq, uint32_t room);
struct chain port_tail(struct mcp_queue *q, uint32_t seq);
struct mcp_failure port_failed(const struct mcp_queue *q, uint32_t run, uint32_t seq);
void port_take_back(struct mcp_queue *q, const struct chain *chain, uint32_t accepted);

/* port_feed.c */
void port_room(struct mcp_queue *q);
bool port_has_room(const struct mcp_queue *q);
void port_append(struct mcp_queue *q, struct mcp_ticket *t, const struct mcp_piece *piece, bool back);
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
bool port_ticket_is_awaited(struct mcp_ticket *t);
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
