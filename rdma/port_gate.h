/*
 * A gate lets one thread in, and loses no wish of those it turns away: each queue has
 * one for its send queue, the port has one for its completion queue. Nobody ever waits.
 *
 *   if (gate_enter(&g))
 *       do
 *           look();
 *       while (!gate_leave(&g));
 *
 * Claim: whatever a thread wrote before gate_enter returned false is seen by a look()
 * that begins after that write. Every path through gate_enter ends with a successful
 * read-modify-write of the word.
 *   - It made HELD or AGAIN into AGAIN. The holder's way out is HELD -> FREE, which now
 *     fails until the holder itself has made AGAIN into HELD, and after that it looks.
 *     That exchange reads what our operation wrote, or what later ones made of it, all
 *     of them read-modify-writes and thus of one release sequence: it happens after ours.
 *   - It made FREE into HELD: we look ourselves.
 * That AGAIN is made into AGAIN, instead of only being read, is needed: a plain read might
 * see it while our write is still in the store buffer, and the holder looks too early.
 */
#ifndef MCP_PORT_GATE_H
#define MCP_PORT_GATE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { GATE_FREE = 0, GATE_HELD = 1, GATE_AGAIN = 2 };

struct gate {
    _Atomic uint32_t word;
};

static inline bool gate_enter(struct gate *g) {
    uint32_t seen = atomic_load_explicit(&g->word, memory_order_relaxed);
    for (;;) {
        uint32_t next = seen == GATE_FREE ? GATE_HELD : GATE_AGAIN;
        if (atomic_compare_exchange_weak_explicit(&g->word, &seen, next, memory_order_acq_rel, memory_order_relaxed))
            return next == GATE_HELD;
    }
}

/* False: somebody asked meanwhile. The gate is still held, and has to be looked behind. */
static inline bool gate_leave(struct gate *g) {
    uint32_t seen = GATE_HELD;
    if (atomic_compare_exchange_strong_explicit(&g->word, &seen, GATE_FREE, memory_order_acq_rel,
                                                memory_order_relaxed))
        return true;
    atomic_exchange_explicit(&g->word, GATE_HELD, memory_order_acq_rel);
    return false;
}

static inline bool gate_is_free(struct gate *g) {
    return atomic_load_explicit(&g->word, memory_order_relaxed) == GATE_FREE;
}

/* For the rare ones that must get in: opening and closing a lane. The holder looks once
 * more for each try, and that does no harm. */
static inline void gate_hold(struct gate *g) {
    while (!gate_enter(g))
        sched_yield();
}

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
