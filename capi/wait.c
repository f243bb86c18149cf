/* Waiting happens here and not in Go: a Go thread that sleeps in a system call
 * keeps a processor from other goroutines until the scheduler notices, and a
 * channel costs microseconds to a thread that came from C. */
#include "_cgo_export.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Spinning pays when there is a core to do it on; on small machines it takes the
 * core from the thread that is waited for. */
#define SPIN_CORES 4
#define SPINS 2000

static int changed(const uint32_t *word, uint32_t running) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) != running;
}

static void spin(const uint32_t *word, uint32_t running) {
    static int cores;
    int n = __atomic_load_n(&cores, __ATOMIC_RELAXED);
    if (n == 0) {
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
        __atomic_store_n(&cores, n, __ATOMIC_RELAXED);
    }
    for (int i = 0; n >= SPIN_CORES && i < SPINS && !changed(word, running); i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

/* after returns the monotonic time ms milliseconds from now. */
static struct timespec after(int64_t ms) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* sleep_on returns when the word has changed, or timeout_ms are over (< 0: never). */
static void sleep_on(const uint32_t *word, uint32_t running, int64_t timeout_ms) {
    if (timeout_ms != 0)
        spin(word, running);
    struct timespec end;
    const int64_t year = INT64_C(1000) * 3600 * 24 * 365;
    if (timeout_ms > 0)
        end = after(timeout_ms < year ? timeout_ms : year);
    while (timeout_ms != 0 && !changed(word, running)) {
        /* EINTR and EAGAIN: look again. */
        if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, running, timeout_ms > 0 ? &end : NULL, NULL,
                    FUTEX_BITSET_MATCH_ANY) != 0 &&
            errno == ETIMEDOUT)
            break;
    }
}

int mc_wait(mc_batch_t batch, int64_t timeout_ms, mc_batch_status_t *status) {
    uint32_t *word = NULL, running = 0;
    int rc = mooncakeWaitBegin(batch, &word, &running);
    if (rc != MC_OK)
        return rc;
    sleep_on(word, running, timeout_ms);
    return mooncakeWaitEnd(batch, status);
}

int mc_transfer(mc_segment_t segment, uint32_t op, const uint64_t *local, const uint64_t *remote,
                const uint64_t *length, uint64_t count, int64_t deadline_ms, int64_t timeout_ms,
                mc_batch_status_t *status, mc_batch_t *out) {
    uint32_t *word = NULL, running = 0;
    int rc = mooncakeTransferBegin(segment, op, (uint64_t *)local, (uint64_t *)remote,
                                   (uint64_t *)length, count, deadline_ms, timeout_ms, status, out,
                                   &word, &running);
    if (rc != MC_OK || word == NULL)
        return rc;
    sleep_on(word, running, timeout_ms);
    return mooncakeTransferEnd(status, out);
}

int mc_transfer_pages(mc_segment_t segment, uint32_t op, const mc_page_group_t *groups,
                      uint64_t count, int64_t deadline_ms, int64_t timeout_ms,
                      mc_batch_status_t *status, mc_batch_t *out) {
    uint32_t *word = NULL, running = 0;
    int rc = mooncakeTransferPagesBegin(segment, op, (mc_page_group_t *)groups, count, deadline_ms,
                                        timeout_ms, status, out, &word, &running);
    if (rc != MC_OK || word == NULL)
        return rc;
    sleep_on(word, running, timeout_ms);
    return mooncakeTransferEnd(status, out);
}
