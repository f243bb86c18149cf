/*
 * The hot path: a port is one completion queue and the thread that polls it, a lane is
 * some queue pairs to one peer, a ticket is the account of a batch. Work requests are
 * built, posted and retired here, so a stopped Go world stalls nothing.
 *
 * Everything is in C memory and is known to Go by its address or a small number; no Go
 * pointer is kept. Threads: any function may be called by any thread, but for what a
 * comment says. No function but the waiting ones blocks for long.
 */
#ifndef MCP_PORT_H
#define MCP_PORT_H

#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>

#define MCP_MAX_QUEUES 32              /* of one lane */
#define MCP_LONGEST (UINT64_C(1) << 30) /* bytes of a piece */

struct mcp_port;
struct mcp_lane;
struct mcp_ticket;

/* The layout of the Go type Piece. It begins as a struct ibv_sge does, so that a request of
 * one piece needs no other. */
struct mcp_piece {
    uint64_t local;
    uint32_t length, lkey;
    uint64_t remote;
    uint32_t rkey, joins;
    uint32_t user, pad;
};
enum { MCP_JOINS_LOCAL = 1, MCP_JOINS_REMOTE = 2 };

/* The layout of the Go type Run: a piece without keys. */
struct mcp_run {
    uint64_t local, remote, length;
    uint32_t area; /* index; becomes the piece's user */
    uint8_t joins;
};
/* The layout of the Go type Area: where pieces may lie to have these keys. Sizes are in
 * bytes. */
struct mcp_area {
    uint64_t local, local_size, remote, remote_size;
    uint32_t lkey, rkey;
};

enum { MCP_WRITE = 0, MCP_READ = 1 };
enum { MCP_BULK = 0, MCP_SMALL = 1 };

/* Ports. */

struct mcp_counters {
    uint64_t work_requests, doorbells, completions, bytes, pieces, wakeups;
    uint64_t partial_posts, refused_posts, stray_completions, errors;
};

/* Starts the polling thread. 0 or an errno. */
int mcp_port_open(struct ibv_cq *cq, struct ibv_comp_channel *channel, uint64_t spin_ns, struct mcp_port **out);
/* Wakes mcp_port_wait for good. */
void mcp_port_shut(struct mcp_port *port);
/* After the last lane was closed and mcp_port_wait has returned: ends the thread and
 * frees the tickets. */
void mcp_port_close(struct mcp_port *port);
void mcp_port_counters(const struct mcp_port *port, struct mcp_counters *out);

enum { MCP_LANE_ROOM = 1, MCP_LANE_BROKEN = 2, MCP_TICKET_ENDED = 3 };
struct mcp_event {
    uint32_t kind;
    uint32_t id; /* of the lane or ticket */
};
/* Blocks until there is an event; one caller at a time. 0 after mcp_port_interrupt (once)
 * and mcp_port_shut (always). */
int mcp_port_wait(struct mcp_port *port, struct mcp_event *out, int max);
void mcp_port_interrupt(struct mcp_port *port);

/* Tickets. */

struct mcp_ticket *mcp_ticket_new(struct mcp_port *port, uint32_t id);
/* A ticket that was never used, or has ended and been claimed, starts anew. */
void mcp_ticket_start(struct mcp_ticket *ticket, int op);
/* Where the count of confirmed bytes is; read it atomically. */
uint64_t *mcp_ticket_done(struct mcp_ticket *ticket);
void mcp_ticket_stop(struct mcp_ticket *ticket);
void mcp_ticket_seal(struct mcp_ticket *ticket);
void mcp_ticket_drop(struct mcp_ticket *ticket, uint64_t pieces);
/* 1: ended, and somebody was told: by an event, or by mcp_ticket_wait. */
int mcp_ticket_is_told(struct mcp_ticket *ticket);
/* Promises a wait, whose caller says that it was expected: no event comes before it. */
void mcp_ticket_expect(struct mcp_ticket *ticket);
/* 1: ended, and claimed by this caller. timeout_ns < 0: for ever. */
int mcp_ticket_wait(struct mcp_ticket *ticket, int64_t timeout_ns, int expected);

/* Lanes. */

struct mcp_lane_config {
    uint32_t depth; /* work requests in flight, of each queue pair */
    uint32_t gather, scatter;
    uint32_t read_depth; /* reads in flight, of each queue pair */
    uint32_t ring;       /* pieces, of each queue pair; a power of two */
    uint32_t inline_bytes;
    uint64_t gather_bytes;
    uint64_t back_local; /* one byte for read-backs; 0: none are made */
    uint32_t back_lkey;
    uint32_t id;
};
/* 0 or an errno; ENOSPC: the completion queue cannot hold the depths of all queues. */
int mcp_lane_open(struct mcp_port *port, struct ibv_qp **qps, uint32_t count, const struct mcp_lane_config *config,
                  struct mcp_lane **out);
/* EBUSY while something is in flight. Nobody else uses the lane now or later. */
int mcp_lane_close(struct mcp_lane *lane);

struct mcp_fed {
    uint64_t taken, bytes;
    uint8_t full;    /* there was no room for the rest, or the lane is broken */
    uint8_t dropped; /* the ticket is stopped: the rest is given up */
    uint8_t sealed;  /* the ticket was sealed before, and took nothing */
};
/* Takes pieces from the front, as many as there is room for, and posts what can be
 * posted. last: seals the ticket if all were taken. */
struct mcp_fed mcp_lane_feed(struct mcp_lane *lane, struct mcp_ticket *ticket, int class,
                             const struct mcp_piece *pieces, size_t count, int last);
/* The same of runs, which become pieces with the keys of their areas. It stops before a run
 * that is longer than longest, or does not lie in its area, and after one with which they
 * have most_bytes or more. */
struct mcp_fed mcp_lane_feed_runs(struct mcp_lane *lane, struct mcp_ticket *ticket, int class,
                                  const struct mcp_run *runs, size_t count, const struct mcp_area *areas,
                                  size_t area_count, uint64_t longest, uint64_t most_bytes, int last);

/* Returns when every queue pair is in the error state and not used any more. */
void mcp_lane_break(struct mcp_lane *lane);
/* The queue pairs of a broken lane are destroyed: nothing comes back any more. */
void mcp_lane_abandon(struct mcp_lane *lane);

struct mcp_undone {
    struct mcp_piece piece;
    struct mcp_ticket *ticket;
    uint32_t ticket_id;
    uint16_t posted, read_back;
};
size_t mcp_lane_undone(struct mcp_lane *lane, struct mcp_undone *out, size_t max);
size_t mcp_lane_again(struct mcp_lane *lane, const struct mcp_undone *in, size_t count);

enum { MCP_BY_COMPLETION = 1, MCP_BY_POST = 2, MCP_BY_CALLER = 3, MCP_BY_PIECE = 4, MCP_BY_POLL = 5 };
struct mcp_failure {
    struct mcp_piece piece;
    uint32_t by;     /* 0: there was none */
    uint32_t status; /* enum ibv_wc_status, or an errno when a post or poll was refused */
    uint32_t vendor;
    uint32_t qp;
    uint32_t ticket_id; /* 0: of no ticket */
    uint32_t pad;
};
void mcp_lane_failure(struct mcp_lane *lane, struct mcp_failure *out);
void mcp_lane_progress(const struct mcp_lane *lane, uint64_t *retired, uint64_t *in_flight);

#endif
