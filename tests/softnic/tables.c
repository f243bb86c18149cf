/* Numbers of queue pairs and keys of memory: taken in turn, so that one comes back late,
 * and with a generation in it, so that an old one is not mistaken for a new one. */
#include "fabric.h"

#include <sched.h>

enum { QP_SLOT_BITS = 16, KEY_GENERATION_BITS = 8 };

static void raise_top(_Atomic uint32_t *top, uint32_t used)
{
    uint32_t seen = atomic_load(top);
    while (seen <= used && !atomic_compare_exchange_weak(top, &seen, used + 1))
        ;
}

/* Numbers have 24 bits: the slot, and above it a generation of 1 to 255. */
uint32_t qp_take(int port)
{
    for (int tries = 0; tries < MAX_QPS; tries++) {
        uint32_t slot = atomic_fetch_add(&fabric->next_qp, 1) % MAX_QPS;
        struct shared_qp *qp = &fabric->qps[slot];
        uint32_t nobody = 0;
        if (!atomic_compare_exchange_strong(&qp->owner, &nobody, own_proc + 1))
            continue;
        raise_top(&fabric->top_qp, slot);
        uint32_t generation = atomic_load(&qp->generation) % 255 + 1;
        atomic_store(&qp->generation, generation);
        qp->port = port;
        atomic_store(&qp->broken, 0);
        atomic_store(&qp->state, 0);
        atomic_store(&qp->posted, 0);
        atomic_store(&qp->doorbells, 0);
        atomic_store(&qp->signalled, 0);
        atomic_store(&qp->executed, 0);
        atomic_store(&qp->bytes, 0);
        uint32_t number = generation << QP_SLOT_BITS | slot;
        atomic_store(&qp->number, number);
        return number;
    }
    return 0;
}

void qp_give(uint32_t number)
{
    struct shared_qp *qp = &fabric->qps[number % MAX_QPS];
    atomic_fetch_sub(&fabric->ports[qp->port].qps, 1);
    atomic_store(&qp->number, 0);
    atomic_store(&qp->owner, 0);
}

struct shared_qp *qp_find(uint32_t number)
{
    struct shared_qp *qp = &fabric->qps[number % MAX_QPS];
    return number && atomic_load(&qp->number) == number ? qp : NULL;
}

uint32_t mr_take(void)
{
    for (int tries = 0; tries < MAX_MRS; tries++) {
        uint32_t index = atomic_fetch_add(&fabric->next_mr, 1) % MAX_MRS;
        uint32_t nobody = 0;
        if (!atomic_compare_exchange_strong(&fabric->mrs[index].owner, &nobody, own_proc + 1))
            continue;
        raise_top(&fabric->top_mr, index);
        return index;
    }
    return MAX_MRS;
}

/* Keys have 32 bits: a generation of 1 to 255 below the index, as mlx5 has a variant. */
uint32_t mr_new_key(uint32_t index)
{
    struct shared_mr *mr = &fabric->mrs[index];
    uint32_t generation = atomic_load(&mr->generation) % 255 + 1;
    atomic_store(&mr->generation, generation);
    return index << KEY_GENERATION_BITS | generation;
}

struct shared_mr *mr_at(uint32_t index)
{
    return &fabric->mrs[index];
}

struct shared_mr *mr_find(uint32_t key)
{
    uint32_t index = key >> KEY_GENERATION_BITS;
    if (index >= MAX_MRS)
        return NULL;
    struct shared_mr *mr = &fabric->mrs[index];
    return key && atomic_load_explicit(&mr->key, memory_order_acquire) == key ? mr : NULL;
}

void mr_give(uint32_t index)
{
    struct shared_mr *mr = &fabric->mrs[index];
    if (atomic_exchange(&mr->key, 0))
        atomic_fetch_sub(&fabric->ports[mr->port].mrs, 1);
    atomic_store(&mr->owner, 0);
}

/* A thread that began before the caller took something away may still use it; one that
 * begins later sees that it is gone. A process that is stopped in between, or dead, is
 * waited for as long as nobody would mistake for an ordinary delay. */
void fabric_quiesce(void)
{
    const uint64_t patience = 2000000000ull;
    atomic_thread_fence(memory_order_seq_cst);
    for (int i = 0; i < MAX_PROCS; i++) {
        struct proc *proc = &fabric->procs[i];
        if (atomic_load(&proc->pid) == 0)
            continue;
        for (int d = 0; d < MAX_DEVICES; d++) {
            _Atomic uint64_t *epoch = &proc->bells[d].epoch;
            uint64_t seen = atomic_load(epoch), began = 0;
            for (int looks = 0; seen % 2 && atomic_load(epoch) == seen; looks++) {
                if (looks % 1000 != 999) {
                    sched_yield();
                    continue;
                }
                if (!began)
                    began = now_ns();
                if (now_ns() - began > patience || !proc_alive(i))
                    break;
            }
        }
    }
}
