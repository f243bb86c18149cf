/*
 * What the C programs of the benchmark share: commands, memory, plan, lanes, clocks.
 *
 * A program is one process, or a pair of them: the initiator, which owns the local
 * region and moves the blocks, and the target, which owns the remote one. It answers
 * commands on stdin with one line of JSON each (frame.c lists them) and defines the
 * four functions below. An error ends it.
 */
#ifndef FRAME_H
#define FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { LOCAL, REMOTE };
enum { READ, WRITE };
enum { LANES_MAX = 64, TEXT = 512, WINDOW = 1024 /* IOV_MAX: vectors in a system call */ };

/* One end's memory. */
struct region {
    char *at;
    size_t size;
};

/* Blocks that are neighbours on both sides are one range: a limit knows its runs before
 * it starts. Offsets in the regions. */
struct range {
    uint64_t local, remote, length;
};

/* The part of a batch that one lane moves. */
struct share {
    struct range *ranges;
    size_t count;
    uint64_t bytes;
};

/* All batches of a plan, cut for so many lanes. */
struct work {
    int op, lanes;
    size_t batches, blocks; /* blocks: of all batches */
    uint64_t size;          /* bytes of a block */
    struct share *shares;   /* [batch * lanes + lane] */
};

extern struct region regions[2];

static inline const struct share *share_of(const struct work *work, size_t batch, int lane)
{
    return &work->shares[batch * (size_t)work->lanes + (size_t)lane];
}

/* Ends the program with an answer that says why. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

void *allocate(size_t count, size_t size);

/* The memory of a share's ranges on one side, as system calls take it. To be freed. */
struct iovec *vectors_of(const struct share *share, int role, char *base);

uint64_t now_ns(void);

/* The region of role exists: make the endpoint. The target writes to at, which has room for TEXT
 * bytes, where an initiator finds it: one word. */
void program_open(int role, char *at);

/* The target: batches of this work come next, nothing of the work before. */
void program_expect(const struct work *work);

/* The initiator: prepare to move this work to or from the target at. */
void program_aim(const struct work *work, const char *at);

/* Move one lane's share of a batch, and return when its bytes are there. One thread
 * a lane calls it, each batch after batch. */
void program_move(int lane, size_t batch);

#endif
