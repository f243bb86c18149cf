/* Protection domains and registered memory. */
#define _GNU_SOURCE
#include "softnic.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static _Atomic uint64_t registered; /* bytes, against limits.memlock */

static int take_one(_Atomic int *count, int limit)
{
    if (atomic_fetch_add(count, 1) < limit)
        return 0;
    atomic_fetch_sub(count, 1);
    return ENOMEM;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *ib)
{
    struct context *context = to_context(ib);
    struct pd *pd = calloc(1, sizeof *pd);
    if (!pd || take_one(&context->nic->shared->pds, limits.max_pd)) {
        free(pd);
        errno = ENOMEM;
        return NULL;
    }
    pd->ib.context = ib;
    pd->number = atomic_fetch_add(&fabric->next_pd, 1) + 1;
    pd->ib.handle = pd->number;
    atomic_fetch_add(&context->objects, 1);
    return &pd->ib;
}

int ibv_dealloc_pd(struct ibv_pd *ib)
{
    struct pd *pd = (struct pd *)ib;
    struct context *context = to_context(ib->context);
    if (atomic_load(&pd->users))
        return EBUSY;
    atomic_fetch_sub(&context->nic->shared->pds, 1);
    atomic_fetch_sub(&context->objects, 1);
    free(pd);
    return 0;
}

/* EINVAL stands for memory without that permission, and for a kernel before 5.14. */
static bool can_populate(void)
{
    static _Alignas(4096) char page[4096];
    return madvise(page, sizeof page, MADV_POPULATE_READ) == 0;
}

static int populate(uintptr_t from, uintptr_t to, bool writable)
{
    if (madvise((void *)from, to - from, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0)
        return 0;
    if (errno == EINVAL)
        return can_populate() ? EFAULT : 0;
    return errno == ENOMEM ? EFAULT : errno;
}

/* Registration fails for memory that is not mapped, or not as the NIC needs it. The real
 * one pins every page; that is done on request, otherwise the ends are tried and the rest
 * is only looked up. */
static int check_mapped(uintptr_t address, size_t length, bool writable)
{
    enum { PAGE = 4096, STEP = 64 << 20 };
    uintptr_t from = address & ~(uintptr_t)(PAGE - 1);
    uintptr_t to = (address + length + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    unsigned char present[STEP / PAGE];
    if (limits.pin)
        return populate(from, to, writable);
    int failed = populate(from, from + PAGE, writable);
    if (!failed)
        failed = populate(to - PAGE, to, writable);
    for (uintptr_t at = from; !failed && at < to; at += STEP)
        if (mincore((void *)at, to - at < STEP ? to - at : STEP, present) && errno == ENOMEM)
            failed = EFAULT;
    return failed;
}

static int check_access(unsigned access)
{
    const unsigned known = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                           IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND | IBV_ACCESS_OPTIONAL_RANGE;
    if (access & ~known)
        return access & ~known & (IBV_ACCESS_ON_DEMAND | IBV_ACCESS_HUGETLB) ? EOPNOTSUPP : EINVAL;
    if (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC) && !(access & IBV_ACCESS_LOCAL_WRITE))
        return EINVAL;
    return 0;
}

static int reserve(struct context *context, size_t length)
{
    if (length > limits.max_mr_size)
        return EINVAL;
    if (setting(context->nic->shared, SET_FATAL))
        return EIO;
    if (atomic_fetch_add(&registered, length) + length > limits.memlock ||
        take_one(&context->nic->shared->mrs, limits.max_mr)) {
        atomic_fetch_sub(&registered, length);
        return ENOMEM;
    }
    return 0;
}

static struct ibv_mr *publish(struct mr *mr, uint64_t iova, unsigned access)
{
    struct shared_mr *shared = mr_at(mr->index);
    struct pd *pd = (struct pd *)mr->ib.pd;
    struct context *context = to_context(pd->ib.context);
    shared->port = context->nic->port;
    shared->pd = pd->number;
    shared->access = access;
    shared->address = (uintptr_t)mr->ib.addr;
    shared->iova = iova;
    shared->length = mr->ib.length;
    mr->ib.lkey = mr->ib.rkey = mr_new_key(mr->index);
    mr->ib.handle = mr->index;
    atomic_store_explicit(&shared->key, mr->ib.rkey, memory_order_release);
    atomic_fetch_add(&pd->users, 1);
    atomic_fetch_add(&context->objects, 1);
    return &mr->ib;
}

static struct ibv_mr *register_memory(struct ibv_pd *pd, void *address, size_t length, uint64_t iova,
                                      unsigned access, bool mapped)
{
    struct context *context = to_context(pd->context);
    uintptr_t end;
    int failed = check_access(access);
    if (!failed && (length == 0 || __builtin_add_overflow((uintptr_t)address, length, &end)))
        failed = EINVAL;
    if (!failed && mapped)
        failed = check_mapped((uintptr_t)address, length, access & IBV_ACCESS_LOCAL_WRITE);
    if (!failed)
        failed = reserve(context, length);
    if (failed) {
        errno = failed;
        return NULL;
    }
    struct mr *mr = calloc(1, sizeof *mr);
    if (!mr || (mr->index = mr_take()) == MAX_MRS) {
        atomic_fetch_sub(&context->nic->shared->mrs, 1);
        atomic_fetch_sub(&registered, length);
        free(mr);
        errno = ENOMEM;
        return NULL;
    }
    mr->ib.context = pd->context;
    mr->ib.pd = pd;
    mr->ib.addr = address;
    mr->ib.length = length;
    return publish(mr, iova, access);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
    if (access & IBV_ACCESS_OPTIONAL_RANGE) {
        errno = EINVAL;
        return NULL;
    }
    return register_memory(pd, address, length, (uintptr_t)address, access, true);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *address, size_t length, uint64_t iova, int access)
{
    return register_memory(pd, address, length, iova, access, true);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t length, uint64_t iova,
                                unsigned access)
{
    return register_memory(pd, address, length, iova, access, true);
}

/* A dma-buf has no address of its own; in tests the iova is where its bytes are mapped. */
struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova,
                                 int fd, int access)
{
    (void)offset;
    if (!limits.dmabuf || fd < 0) {
        errno = limits.dmabuf ? EBADF : EOPNOTSUPP;
        return NULL;
    }
    return register_memory(pd, (void *)(uintptr_t)iova, length, iova, access, false);
}

/* When it returns, nobody reads or writes the memory through this key any more. */
int ibv_dereg_mr(struct ibv_mr *ib)
{
    struct mr *mr = (struct mr *)ib;
    struct pd *pd = (struct pd *)ib->pd;
    struct context *context = to_context(ib->context);
    atomic_store(&mr_at(mr->index)->key, 0);
    fabric_quiesce();
    atomic_fetch_sub(&context->nic->shared->mrs, 1);
    mr_give(mr->index);
    atomic_fetch_sub(&registered, ib->length);
    atomic_fetch_sub(&pd->users, 1);
    atomic_fetch_sub(&context->objects, 1);
    free(mr);
    return 0;
}
