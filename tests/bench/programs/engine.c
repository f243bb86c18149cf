/*
 * Our engine called from C, with nothing but mooncake.h: one blocking call a batch. Both
 * regions may be in one process, each with an engine of its own.
 */
#include "frame.h"
#include "mooncake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mc_engine_t engines[2];
static mc_segment_t segment;
static uint64_t *local, *remote, *length; /* of all blocks, absolute */
static size_t batch_blocks;
static uint32_t op;

static void ok(int status, const char *what)
{
    if (status != MC_OK)
        die("%s answered %s: %s", what, mc_status_name(status), mc_last_error());
}

void program_open(int role, char *at)
{
    char session[128];
    uint64_t size;
    mc_memory_t memory;
    uint64_t address = (uint64_t)(uintptr_t)regions[role].at;
    ok(mc_engine_open("127.0.0.1", NULL, &engines[role]), "mc_engine_open");
    ok(mc_register(engines[role], address, regions[role].size, NULL, &memory), "mc_register");
    ok(mc_engine_session(engines[role], session, sizeof(session), &size), "mc_engine_session");
    snprintf(at, TEXT, "%s@%llu", session, (unsigned long long)address);
}

void program_expect(const struct work *work)
{
    (void)work;
}

/* The blocks as the caller has them: what runs there are is the engine's business. */
static void lay_out(const struct work *work, uint64_t base)
{
    size_t at = 0;
    free(local);
    free(remote);
    free(length);
    local = allocate(work->blocks, sizeof(*local));
    remote = allocate(work->blocks, sizeof(*remote));
    length = allocate(work->blocks, sizeof(*length));
    for (size_t batch = 0; batch < work->batches; batch++) {
        const struct share *share = share_of(work, batch, 0);
        for (size_t i = 0; i < share->count; i++)
            for (uint64_t done = 0; done < share->ranges[i].length; done += work->size, at++) {
                local[at] = (uint64_t)(uintptr_t)regions[LOCAL].at + share->ranges[i].local + done;
                remote[at] = base + share->ranges[i].remote + done;
                length[at] = work->size;
            }
    }
}

void program_aim(const struct work *work, const char *at)
{
    char session[TEXT];
    unsigned long long base;
    if (work->lanes != 1)
        die("the engine has lanes of its own: 1, not %d", work->lanes);
    if (sscanf(at, "%511[^@]@%llu", session, &base) != 2)
        die("%s is no session", at);
    if (!segment)
        ok(mc_segment_open(engines[LOCAL], session, &segment), "mc_segment_open");
    lay_out(work, base);
    batch_blocks = work->blocks / work->batches;
    op = work->op == WRITE ? MC_WRITE : MC_READ;
}

void program_move(int lane, size_t batch)
{
    size_t first = batch * batch_blocks;
    mc_batch_t handle;
    (void)lane;
    ok(mc_transfer(segment, op, local + first, remote + first, length + first, batch_blocks, 0, -1,
                   NULL, &handle),
       "mc_transfer");
}
