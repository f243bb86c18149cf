/*
 * softnicctl watch: for each line on stdin it prints "watching", and once some queue pair
 * has been given more work requests since, the CLOCK_MONOTONIC time in ns. It looks every
 * few microseconds, from a process of its own: whoever is measured is not asked.
 */
#include "softnic.h"

#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>

enum { LOOK_EVERY = 5000 /* ns */, GIVE_UP = 60 /* s */ };

static uint64_t posted(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < atomic_load(&fabric->top_qp); i++)
        if (atomic_load(&fabric->qps[i].number))
            sum += atomic_load(&fabric->qps[i].posted);
    return sum;
}

static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int watch(void)
{
    static const struct timespec pause = {.tv_nsec = LOOK_EVERY};
    char line[64];
    /* A sleep ends when it should, and not when it suits the kernel. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    while (fgets(line, sizeof line, stdin)) {
        uint64_t before = posted();
        int64_t give_up = clock_ns() + GIVE_UP * 1000000000LL, now;
        puts("watching");
        fflush(stdout);
        do {
            nanosleep(&pause, NULL);
            now = clock_ns();
        } while (posted() == before && now < give_up);
        printf("%lld\n", (long long)now);
        fflush(stdout);
    }
    return 0;
}
