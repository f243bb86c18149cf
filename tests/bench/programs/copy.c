/*
 * The limit of memory: memcpy of every range, within one process that has both regions.
 */
#include "frame.h"

#include <string.h>

static const struct work *aimed;

void program_open(int role, char *at)
{
    (void)role;
    (void)at;
}

void program_expect(const struct work *work)
{
    (void)work;
}

void program_aim(const struct work *work, const char *at)
{
    (void)at;
    aimed = work;
}

void program_move(int lane, size_t batch)
{
    const struct share *share = share_of(aimed, batch, lane);
    char *local = regions[LOCAL].at, *remote = regions[REMOTE].at;
    for (const struct range *r = share->ranges, *end = r + share->count; r < end; r++)
        if (aimed->op == WRITE)
            memcpy(remote + r->remote, local + r->local, r->length);
        else
            memcpy(local + r->local, remote + r->remote, r->length);
    /* The compiler must not think that nobody looks. */
    __asm__ volatile("" ::: "memory");
}
