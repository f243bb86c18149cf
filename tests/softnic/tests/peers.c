/* Two processes, one of which ends or stops; and what is left of it. */
#include "kit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

struct hello {
    uint32_t number, rkey;
    uint64_t address;
    union ibv_gid gid;
};

static struct end end;
static pid_t child;
static int up[2], down[2];

static struct hello exchange(void)
{
    struct hello own = {end.qp->qp_num, end.mr->rkey, (uintptr_t)end.bytes, end.gid}, other;
    EQUAL(write(child ? down[1] : up[1], &own, sizeof own), sizeof own);
    EQUAL(read(child ? up[0] : down[0], &other, sizeof other), sizeof other);
    end_connect(&end, other.number, &other.gid);
    return other;
}

/* Starts a process with the other end, which then waits to be killed. */
static struct hello start(void)
{
    CHECK(pipe(up) == 0 && pipe(down) == 0);
    child = fork();
    end_open(&end, child ? "mlx5_0" : "mlx5_1", 8 << 20, (struct depth){0});
    struct hello other = exchange();
    if (!child) {
        EQUAL(write(up[1], "r", 1), 1);
        for (;;)
            pause();
    }
    char byte;
    EQUAL(read(up[0], &byte, 1), 1);
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, other.address, other.rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(end.cq), IBV_WC_SUCCESS);
    return other;
}

static void finish(void)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    end_close(&end);
}

/* Without bytes to copy the end is noticed within a millisecond or two. */
static void fails_after_death(uint32_t length)
{
    struct hello other = start();
    EQUAL(kill(child, SIGKILL), 0); /* and a zombie from here on */
    siginfo_t info;
    EQUAL(waitid(P_PID, child, &info, WEXITED | WNOWAIT), 0);
    enum ibv_wc_status status;
    double until = seconds() + 5;
    do {
        CHECK(seconds() < until);
        EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, other.address, other.rkey, length, IBV_SEND_SIGNALED), 0);
        status = next_status(end.cq);
        CHECK(length == 0 || status != IBV_WC_SUCCESS);
    } while (status == IBV_WC_SUCCESS);
    EQUAL(status, IBV_WC_RETRY_EXC_ERR);
    finish();
}

TEST(killed, "retry=20")
{
    fails_after_death(4096);
}

TEST(killed_and_nothing_to_copy, "retry=20")
{
    fails_after_death(0);
}

TEST(killed_in_the_middle, "retry=20")
{
    struct ibv_wc wc;
    struct hello other = start();
    for (int i = 0; i < 100; i++)
        EQUAL(post(&end, IBV_WR_RDMA_WRITE, i, other.address, other.rkey, 8 << 20, IBV_SEND_SIGNALED), 0);
    poll_exactly(end.cq, &wc, 1);
    EQUAL(wc.status, IBV_WC_SUCCESS);
    EQUAL(kill(child, SIGKILL), 0);
    int good = 1, flushed = 0, last = -1;
    for (int i = 1; i < 100; i++) {
        poll_exactly(end.cq, &wc, 1);
        if (wc.status == IBV_WC_SUCCESS)
            good++;
        else if (last < 0)
            EQUAL(last = wc.status, IBV_WC_RETRY_EXC_ERR);
        else
            flushed += wc.status == IBV_WC_WR_FLUSH_ERR;
    }
    CHECK(last >= 0);
    EQUAL(good + flushed + 1, 100);
    finish();
}

/* One-sided: a NIC serves a process that is stopped. */
TEST(stopped, "retry=20")
{
    struct hello other = start();
    EQUAL(kill(child, SIGSTOP), 0);
    waitpid(child, NULL, WUNTRACED);
    memset(end.bytes, 6, 100000);
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, other.address, other.rkey, 100000, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(end.cq), IBV_WC_SUCCESS);
    memset(end.bytes, 0, 100000);
    EQUAL(post(&end, IBV_WR_RDMA_READ, 1, other.address, other.rkey, 100000, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(end.cq), IBV_WC_SUCCESS);
    EQUAL(end.bytes[99999], 6);
    finish();
}

/* The dead leave no objects behind, and their keys and numbers do not work again. */
TEST(the_dead_are_cleared, "max_qp=2,retry=20")
{
    struct hello other = start();
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    child = 0;
    struct end next;
    pid_t third = fork(); /* the next process to join clears what is left */
    if (!third) {
        end_open(&next, "mlx5_1", 4096, (struct depth){0});
        struct ibv_qp_init_attr init = {
            .send_cq = next.cq, .recv_cq = next.cq, .qp_type = IBV_QPT_RC, .cap = {.max_send_wr = 1}};
        struct ibv_qp *second = ibv_create_qp(next.pd, &init);
        CHECK(second);
        CHECK(!ibv_create_qp(next.pd, &init) && errno == ENOMEM);
        CHECK(next.qp->qp_num != other.number && next.mr->rkey != other.rkey);
        exit(0);
    }
    int status;
    EQUAL(waitpid(third, &status, 0), third);
    EQUAL(status, 0);
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, other.address, other.rkey, 8, 0), 0);
    EQUAL(next_status(end.cq), IBV_WC_RETRY_EXC_ERR);
    end_close(&end);
}

/* A child of a process that has devices open can open its own. */
TEST(child_of_a_user, "")
{
    struct end a, b;
    pair_open(&a, &b, 65536, (struct depth){0});
    pid_t forked = fork();
    if (!forked) {
        struct end c, d;
        pair_open(&c, &d, 65536, (struct depth){0});
        EQUAL(post(&c, IBV_WR_RDMA_WRITE, 1, (uintptr_t)d.bytes, d.mr->rkey, 100, IBV_SEND_SIGNALED), 0);
        EQUAL(next_status(c.cq), IBV_WC_SUCCESS);
        end_close(&c);
        end_close(&d);
        exit(0);
    }
    int status;
    EQUAL(waitpid(forked, &status, 0), forked);
    EQUAL(status, 0);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)b.bytes, b.mr->rkey, 100, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    end_close(&a);
    end_close(&b);
}
