/* Completion channels: when they wake, and what destruction waits for. */
#include "kit.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

static struct end a, b;

static void write_one(int flags)
{
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)b.bytes, b.mr->rkey, 8, flags), 0);
}

static bool awake(int timeout_ms)
{
    struct pollfd wait = {.fd = a.channel->fd, .events = POLLIN};
    return poll(&wait, 1, timeout_ms) == 1;
}

static void take_event(void)
{
    struct ibv_cq *cq;
    void *context;
    EQUAL(ibv_get_cq_event(a.channel, &cq, &context), 0);
    CHECK(cq == a.cq && context == &a);
}

static void arming(void)
{
    struct ibv_wc wc[8];
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(fcntl(a.channel->fd, F_SETFL, fcntl(a.channel->fd, F_GETFL) | O_NONBLOCK), 0);
    struct ibv_cq *cq;
    void *context;
    EQUAL(ibv_get_cq_event(a.channel, &cq, &context), -1);
    EQUAL(errno, EAGAIN);

    write_one(IBV_SEND_SIGNALED); /* not armed: no event */
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    CHECK(!awake(0));

    EQUAL(ibv_req_notify_cq(a.cq, 0), 0); /* armed: one event for several completions */
    for (int i = 0; i < 4; i++)
        write_one(IBV_SEND_SIGNALED);
    CHECK(awake(5000));
    take_event();
    poll_exactly(a.cq, wc, 4);
    CHECK(!awake(0));

    EQUAL(ibv_req_notify_cq(a.cq, 0), 0); /* an unsignalled success is no completion */
    write_one(0);
    write_one(IBV_SEND_SIGNALED);
    CHECK(awake(5000));
    take_event();
    poll_exactly(a.cq, wc, 1);

    EQUAL(ibv_req_notify_cq(a.cq, 1), 0); /* only errors wake, as nothing is solicited */
    write_one(IBV_SEND_SIGNALED);
    poll_exactly(a.cq, wc, 1);
    CHECK(!awake(0));
    EQUAL(to_state(a.qp, IBV_QPS_ERR), 0);
    write_one(0);
    CHECK(awake(5000));
    take_event();
    EQUAL(next_status(a.cq), IBV_WC_WR_FLUSH_ERR);
    ibv_ack_cq_events(a.cq, 3);
    end_close(&a);
    end_close(&b);
}

TEST(channel, "")
{
    arming();
}

TEST(channel_at_once, "mode=null")
{
    arming();
}

static void *acknowledge(void *argument)
{
    usleep(20000);
    *(bool *)argument = true;
    ibv_ack_cq_events(a.cq, 1);
    return NULL;
}

/* Destroying a completion queue waits for events that were taken, not for others. */
TEST(destruction_waits_for_acknowledgement, "")
{
    bool acknowledged = false;
    pthread_t thread;
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(ibv_req_notify_cq(a.cq, 0), 0);
    write_one(IBV_SEND_SIGNALED);
    CHECK(awake(5000));
    take_event();
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    EQUAL(ibv_req_notify_cq(a.cq, 0), 0);
    write_one(IBV_SEND_SIGNALED);
    CHECK(awake(5000)); /* this one is never taken */
    EQUAL(ibv_destroy_qp(a.qp), 0);
    EQUAL(ibv_destroy_comp_channel(a.channel), EBUSY);
    EQUAL(pthread_create(&thread, NULL, acknowledge, &acknowledged), 0);
    EQUAL(ibv_destroy_cq(a.cq), 0);
    CHECK(acknowledged);
    EQUAL(pthread_join(thread, NULL), 0);
    CHECK(!awake(0));
    CHECK(a.cq = ibv_create_cq(a.context, 8, NULL, NULL, 0));
    struct ibv_qp_init_attr init = {
        .send_cq = a.cq, .recv_cq = a.cq, .qp_type = IBV_QPT_RC, .cap = {.max_send_wr = 1}};
    CHECK(a.qp = ibv_create_qp(a.pd, &init));
    end_close(&a);
    end_close(&b);
}

/* A sleeper on the channel misses nothing when it looks once more after arming. */
TEST(nothing_is_missed, "")
{
    struct ibv_wc wc;
    pair_open(&a, &b, 65536, (struct depth){0});
    for (int i = 0; i < 20000; i++) {
        write_one(IBV_SEND_SIGNALED);
        while (!ibv_poll_cq(a.cq, 1, &wc)) {
            EQUAL(ibv_req_notify_cq(a.cq, 0), 0);
            if (ibv_poll_cq(a.cq, 1, &wc))
                break;
            CHECK(awake(5000));
            take_event();
            ibv_ack_cq_events(a.cq, 1);
        }
        EQUAL(wc.status, IBV_WC_SUCCESS);
    }
    end_close(&a);
    end_close(&b);
}

TEST(resizing, "")
{
    struct ibv_wc wc[64];
    pair_open(&a, &b, 65536, (struct depth){.cq = 15});
    for (int i = 0; i < 12; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    poll_exactly(a.cq, wc, 12);
    for (int i = 0; i < 12; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(ibv_resize_cq(a.cq, 64), 0);
    CHECK(a.cq->cqe >= 64);
    for (int i = 12; i < 50; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    poll_exactly(a.cq, wc, 50);
    for (int i = 0; i < 50; i++)
        EQUAL(wc[i].wr_id, i);
    CHECK(!has_event(a.context));
    end_close(&a);
    end_close(&b);
}
