/* Many threads: every request posted completes once, whatever breaks meanwhile. */
#include "kit.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 15, EACH = 64 };

static struct end ends[THREADS], peers[THREADS];
static _Atomic int failures;

/* Posts until the queue pair is broken by another thread; counts what comes back. */
static void *work(void *argument)
{
    long i = (long)argument;
    struct end *a = &ends[i], *b = &peers[i];
    for (int round = 0; round < ROUNDS; round++) {
        int posted = 0, seen = 0;
        uint64_t last = 0;
        for (int n = 0; n < EACH; n++)
            posted += post(a, n % 3 ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ, n + 1, (uintptr_t)b->bytes,
                           b->mr->rkey, 4096, IBV_SEND_SIGNALED) == 0;
        if (round % 2)
            EQUAL(to_state(a->qp, IBV_QPS_ERR), 0);
        while (seen < posted) {
            struct ibv_wc wc;
            poll_exactly(a->cq, &wc, 1);
            EQUAL(wc.wr_id, last + 1); /* in order */
            last = wc.wr_id;
            seen++;
        }
        if (round % 2) {
            EQUAL(to_state(a->qp, IBV_QPS_RESET), 0);
            end_connect(a, b->qp->qp_num, &b->gid);
        }
    }
    return NULL;
}

/* Registers and deregisters the memory of the peers while they are written to. */
static void *churn(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        struct end *b = &peers[i % THREADS];
        struct ibv_mr *mr = ibv_reg_mr(b->pd, b->bytes, 4096, ALL_ACCESS);
        CHECK(mr);
        EQUAL(ibv_dereg_mr(mr), 0);
    }
    return NULL;
}

static void together(void)
{
    pthread_t threads[THREADS + 1];
    for (long i = 0; i < THREADS; i++)
        pair_open(&ends[i], &peers[i], 65536, (struct depth){0});
    for (long i = 0; i < THREADS; i++)
        EQUAL(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    EQUAL(pthread_create(&threads[THREADS], NULL, churn, NULL), 0);
    for (int i = 0; i <= THREADS; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    EQUAL(failures, 0);
    for (int i = 0; i < THREADS; i++) {
        end_close(&ends[i]);
        end_close(&peers[i]);
    }
}

TEST(queue_pairs_break, "")
{
    together();
}

TEST(queue_pairs_break_at_once, "mode=null")
{
    together();
}

TEST(queue_pairs_break_slowly, "rate=1M,latency=30")
{
    together();
}

static struct ibv_mr *victim;
static _Atomic bool stop;

/* Memory that is not registered any more is not touched: it is unmapped right after. */
static void *writer(void *argument)
{
    struct end *a = &ends[0];
    (void)argument;
    while (!stop) {
        struct ibv_wc wc;
        if (!post(a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)peers[0].bytes, __atomic_load_n(&victim, __ATOMIC_ACQUIRE)->rkey,
                  1 << 20, IBV_SEND_SIGNALED)) {
            poll_exactly(a->cq, &wc, 1);
            if (wc.status != IBV_WC_SUCCESS) {
                EQUAL(to_state(a->qp, IBV_QPS_RESET), 0);
                EQUAL(to_state(peers[0].qp, IBV_QPS_RESET), 0);
                end_connect(a, peers[0].qp->qp_num, &peers[0].gid);
                end_connect(&peers[0], a->qp->qp_num, &a->gid);
            }
        }
    }
    return NULL;
}

TEST(nothing_lands_after_deregistration, "")
{
    pthread_t thread;
    static struct ibv_mr fake;
    pair_open(&ends[0], &peers[0], 4 << 20, (struct depth){0});
    uint8_t *bytes = peers[0].bytes;
    memset(ends[0].bytes, 1, 1 << 20);
    victim = ibv_reg_mr(peers[0].pd, bytes, 1 << 20, ALL_ACCESS);
    EQUAL(pthread_create(&thread, NULL, writer, NULL), 0);
    for (int i = 0; i < 200; i++) {
        struct ibv_mr *old = victim;
        fake = *old;
        __atomic_store_n(&victim, &fake, __ATOMIC_RELEASE);
        EQUAL(ibv_dereg_mr(old), 0);
        memset(bytes, 0, 1 << 20);
        for (int n = 0; n < 1 << 20; n += 4096)
            EQUAL(bytes[n], 0);
        EQUAL(bytes[(1 << 20) - 1], 0);
        __atomic_store_n(&victim, ibv_reg_mr(peers[0].pd, bytes, 1 << 20, ALL_ACCESS), __ATOMIC_RELEASE);
        CHECK(victim);
    }
    stop = true;
    EQUAL(pthread_join(thread, NULL), 0);
    EQUAL(ibv_dereg_mr(victim), 0);
    end_close(&ends[0]);
    end_close(&peers[0]);
}
