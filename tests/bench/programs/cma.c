/*
 * A limit between two processes of one host: process_vm_writev and process_vm_readv with
 * up to 1,024 ranges a call. The initiator does all the work; the target only has memory.
 */
#include "frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static const struct work *aimed;
static struct iovec **here, **there; /* [batch * lanes + lane] */
static pid_t target;

void program_open(int role, char *at)
{
    if (role == LOCAL)
        return;
    /* Where Yama restricts ptrace, the owner of the memory has to permit it. It fails
     * where there is no Yama, and nothing needs permission. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    snprintf(at, TEXT, "%d@%llu", getpid(), (unsigned long long)(uintptr_t)regions[REMOTE].at);
}

void program_expect(const struct work *work)
{
    (void)work;
}

static void forget(void)
{
    for (size_t i = 0; aimed && i < aimed->batches * (size_t)aimed->lanes; i++) {
        free(here[i]);
        free(there[i]);
    }
    free(here);
    free(there);
}

void program_aim(const struct work *work, const char *at)
{
    unsigned long long address;
    if (sscanf(at, "%d@%llu", &target, &address) != 2)
        die("%s is no target", at);
    forget();
    aimed = work;
    size_t count = work->batches * (size_t)work->lanes;
    here = allocate(count, sizeof(*here));
    there = allocate(count, sizeof(*there));
    for (size_t i = 0; i < count; i++) {
        here[i] = vectors_of(&work->shares[i], LOCAL, regions[LOCAL].at);
        there[i] = vectors_of(&work->shares[i], REMOTE, (char *)(uintptr_t)address);
    }
}

void program_move(int lane, size_t batch)
{
    const struct share *share = share_of(aimed, batch, lane);
    size_t index = batch * (size_t)aimed->lanes + (size_t)lane;
    uint64_t moved = 0;
    for (size_t first = 0; first < share->count; first += WINDOW) {
        size_t count = share->count - first < WINDOW ? share->count - first : WINDOW;
        ssize_t done = (aimed->op == WRITE ? process_vm_writev : process_vm_readv)(
            target, here[index] + first, count, there[index] + first, count, 0);
        if (done < 0)
            die("process_vm_%sv: %m", aimed->op == WRITE ? "write" : "read");
        moved += (uint64_t)done;
    }
    if (moved != share->bytes)
        die("process_vm_%sv moved %llu of %llu bytes", aimed->op == WRITE ? "write" : "read",
            (unsigned long long)moved, (unsigned long long)share->bytes);
}
