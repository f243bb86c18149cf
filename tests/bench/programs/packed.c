/*
 * A limit between two processes of one host: memory shared by both, through which small
 * ranges are packed. One side gathers ranges into slots of a ring, the other scatters
 * them; both know the plan, so that a slot is nothing but payload. A batch is done when the
 * last slot is scattered. The one who waits spins for a while, then sleeps on a futex.
 */
#include "frame.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    /* Bytes. Of 16 to 256 KiB by 2 to 64 slots the fastest over all block sizes, or within the
     * noise of it: a deep ring lets both sides run on while one of them is off its core. */
    SLOT = 64 << 10,
    SLOTS = 64,
    SPINS = 2000,
};

/* A counter in shared memory that the other side may sleep on. */
struct word {
    _Alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
};

static struct ring {
    struct word asked, filled, emptied; /* batches to read; slots */
    _Alignas(4096) char slots[SLOTS][SLOT];
} *ring;

static _Atomic int stopping;

static void advance(struct word *word)
{
    atomic_fetch_add(&word->value, 1);
    if (atomic_load(&word->sleepers))
        syscall(SYS_futex, &word->value, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Waits until the word has another value than old; 0 if the target is to stop. */
static int changes(struct word *word, uint32_t old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&word->value, memory_order_acquire) != old)
            return 1;
        __builtin_ia32_pause();
    }
    atomic_fetch_add(&word->sleepers, 1);
    while (atomic_load(&word->value) == old && !atomic_load(&stopping)) {
        struct timespec while_ = {0, 20000000}; /* then look whether to stop */
        syscall(SYS_futex, &word->value, FUTEX_WAIT, old, &while_, NULL, 0);
    }
    atomic_fetch_sub(&word->sleepers, 1);
    return atomic_load(&word->value) != old;
}

/* Where in a share the next byte is. */
struct cursor {
    size_t range;
    uint64_t offset;
};

static void copy_slot(const struct share *share, struct cursor *at, int role, char *slot,
                      uint64_t length, int into)
{
    while (length) {
        const struct range *range = &share->ranges[at->range];
        char *memory = regions[role].at + (role == LOCAL ? range->local : range->remote) + at->offset;
        uint64_t left = range->length - at->offset;
        uint64_t piece = left < length ? left : length;
        if (into)
            memcpy(slot, memory, piece);
        else
            memcpy(memory, slot, piece);
        slot += piece;
        length -= piece;
        if (piece == left)
            *at = (struct cursor){at->range + 1, 0};
        else
            at->offset += piece;
    }
}

/* One side's part of a batch, its slots numbered from *slot; 0 if the target is to stop. */
static int pass(const struct share *share, int role, int gather, uint32_t *slot)
{
    struct cursor at = {0, 0};
    for (uint64_t left = share->bytes; left; (*slot)++) {
        uint64_t length = left < SLOT ? left : SLOT;
        if (gather) {
            while (atomic_load(&ring->emptied.value) + SLOTS == *slot)
                if (!changes(&ring->emptied, *slot - SLOTS))
                    return 0;
        } else if (!changes(&ring->filled, *slot)) {
            return 0;
        }
        copy_slot(share, &at, role, ring->slots[*slot % SLOTS], length, gather);
        advance(gather ? &ring->filled : &ring->emptied);
        left -= length;
    }
    return 1;
}

/* -- the target */

static pthread_t server;
static int has_server;

static void *serve(void *argument)
{
    const struct work *work = argument;
    uint32_t slot = 0, asked = 0;
    for (size_t batch = 0;; batch = (batch + 1) % work->batches) {
        if (work->op == READ && !changes(&ring->asked, asked++))
            return NULL;
        if (!pass(share_of(work, batch, 0), REMOTE, work->op == READ, &slot))
            return NULL;
    }
}

void program_open(int role, char *at)
{
    if (role == LOCAL)
        return;
    int fd = memfd_create("packed", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, sizeof(*ring)))
        die("memfd: %m");
    ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (ring == MAP_FAILED)
        die("ring: %m");
    snprintf(at, TEXT, "/proc/%d/fd/%d", getpid(), fd);
}

void program_expect(const struct work *work)
{
    if (has_server) {
        atomic_store(&stopping, 1);
        pthread_join(server, NULL);
        atomic_store(&stopping, 0);
    }
    atomic_store(&ring->asked.value, 0);
    atomic_store(&ring->filled.value, 0);
    atomic_store(&ring->emptied.value, 0);
    if (pthread_create(&server, NULL, serve, (void *)work))
        die("no thread");
    has_server = 1;
}

/* -- the initiator */

static const struct work *aimed;
static uint32_t slot;

void program_aim(const struct work *work, const char *at)
{
    if (work->lanes != 1)
        die("packed has one lane, not %d", work->lanes);
    if (!ring) {
        int fd = open(at, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            die("%s: %m", at);
        ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (ring == MAP_FAILED)
            die("ring: %m");
        close(fd);
    }
    aimed = work;
    slot = 0;
}

void program_move(int lane, size_t batch)
{
    const struct share *share = share_of(aimed, batch, lane);
    if (aimed->op == READ)
        advance(&ring->asked);
    pass(share, LOCAL, aimed->op == WRITE, &slot);
    if (aimed->op == WRITE)
        for (uint32_t at; (at = atomic_load(&ring->emptied.value)) != slot;)
            changes(&ring->emptied, at);
}
