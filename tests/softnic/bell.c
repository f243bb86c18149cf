/* Waking a NIC thread, in whatever process it is. */
#define _GNU_SOURCE
#include "fabric.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec;
}

/* The caller has published its work. Either it sees here that the thread sleeps, or the
 * thread sees the work when it looks once more before it sleeps. */
void bell_ring(struct bell *bell)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&bell->asleep, memory_order_relaxed))
        return;
    atomic_store_explicit(&bell->asleep, 0, memory_order_relaxed); /* one caller wakes it */
    atomic_fetch_add(&bell->rung, 1);
    syscall(SYS_futex, &bell->rung, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Sleeps unless the bell was rung since `seen`; ns 0: without a limit. */
void bell_wait(struct bell *bell, uint32_t seen, uint64_t ns)
{
    struct timespec limit = {ns / 1000000000u, ns % 1000000000u};
    syscall(SYS_futex, &bell->rung, FUTEX_WAIT, seen, ns ? &limit : NULL, NULL, 0);
}
