/* What tests can ask for: failures of a kind, silence, late delivery, events. */
#include "kit.h"

#include <errno.h>
#include <unistd.h>

static struct end a, b;

static int write_one(uint64_t id, int flags)
{
    return post(&a, IBV_WR_RDMA_WRITE, id, (uintptr_t)b.bytes, b.mr->rkey, 8, flags);
}

static void third_fails(enum ibv_wc_status status)
{
    struct ibv_wc wc[5];
    pair_open(&a, &b, 65536, (struct depth){0});
    for (int i = 1; i <= 5; i++)
        EQUAL(write_one(i, IBV_SEND_SIGNALED), 0);
    poll_exactly(a.cq, wc, 5);
    for (int i = 0; i < 5; i++) {
        EQUAL(wc[i].wr_id, i + 1);
        EQUAL(wc[i].status, i < 2 ? IBV_WC_SUCCESS : i == 2 ? status : IBV_WC_WR_FLUSH_ERR);
    }
    end_close(&a);
    end_close(&b);
}

TEST(nth_fails, "fail_at=3")
{
    third_fails(IBV_WC_RETRY_EXC_ERR);
}

TEST(nth_fails_with_a_status, "fail_at=3,fail_status=loc_len")
{
    third_fails(IBV_WC_LOC_LEN_ERR);
}

TEST(nth_fails_without_copying, "mode=null,fail_at=3,fail_status=rem_op")
{
    third_fails(IBV_WC_REM_OP_ERR);
}

TEST(refusal_reaches_the_peer, "fail_at=1,fail_status=rem_access")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(write_one(1, 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_REM_ACCESS_ERR);
    EQUAL(next_event(b.context), IBV_EVENT_QP_ACCESS_ERR);
    EQUAL(state_of(b.qp), IBV_QPS_ERR);
    end_close(&a);
    end_close(&b);
}

TEST(failure_of_one_queue_pair, "")
{
    char text[100];
    pair_open(&a, &b, 65536, (struct depth){0});
    snprintf(text, sizeof text, "set mlx5_0 fail_qp=%u fail_at=2", b.qp->qp_num);
    control(text);
    for (int i = 0; i < 3; i++) {
        EQUAL(write_one(i, IBV_SEND_SIGNALED), 0);
        EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    }
    snprintf(text, sizeof text, "set mlx5_0 fail_qp=%u fail_at=2", a.qp->qp_num);
    control(text);
    for (int i = 0; i < 2; i++) {
        EQUAL(write_one(i, IBV_SEND_SIGNALED), 0);
        EQUAL(next_status(a.cq), i ? IBV_WC_RETRY_EXC_ERR : IBV_WC_SUCCESS);
    }
    end_close(&a);
    end_close(&b);
}

TEST(dead_gids, "dead_gids=8")
{
    end_open(&a, "mlx5_0", 4096, (struct depth){0});
    EQUAL(to_init(a.qp), 0);
    EQUAL(to_rtr(a.qp, a.qp->qp_num, &a.gid), EINVAL);
    control("set mlx5_0 dead_gid_errno=61");
    EQUAL(to_rtr(a.qp, a.qp->qp_num, &a.gid), ENODATA);
    EQUAL(state_of(a.qp), IBV_QPS_INIT);
    EQUAL(to_rtr_by(a.qp, a.qp->qp_num, &a.gid, 1, IBV_MTU_1024), 0);
    end_close(&a);
}

static void other_mtu(enum ibv_wr_opcode opcode, uint32_t length, enum ibv_wc_status status)
{
    end_open(&a, "mlx5_0", 65536, (struct depth){0});
    end_open(&b, "mlx5_0", 65536, (struct depth){0});
    EQUAL(to_init(a.qp), 0);
    EQUAL(to_init(b.qp), 0);
    EQUAL(to_rtr_by(a.qp, b.qp->qp_num, &b.gid, 3, IBV_MTU_4096), 0);
    EQUAL(to_rtr_by(b.qp, a.qp->qp_num, &a.gid, 3, IBV_MTU_1024), 0);
    EQUAL(to_rts(a.qp), 0);
    EQUAL(post(&a, opcode, 1, (uintptr_t)b.bytes, b.mr->rkey, length, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(a.cq), status);
    end_close(&a);
    end_close(&b);
}

TEST(different_mtus, "")
{
    other_mtu(IBV_WR_RDMA_WRITE, 1024, IBV_WC_SUCCESS);
    other_mtu(IBV_WR_RDMA_WRITE, 1025, IBV_WC_REM_INV_REQ_ERR);
    other_mtu(IBV_WR_RDMA_READ, 1024, IBV_WC_SUCCESS);
    other_mtu(IBV_WR_RDMA_READ, 1025, IBV_WC_BAD_RESP_ERR);
}

TEST(silence, "silent=1")
{
    struct ibv_wc wc;
    pair_open(&a, &b, 65536, (struct depth){0});
    for (int i = 0; i < 5; i++)
        EQUAL(write_one(i, IBV_SEND_SIGNALED), 0);
    EQUAL(to_state(a.qp, IBV_QPS_ERR), 0);
    usleep(50000);
    EQUAL(ibv_poll_cq(a.cq, 1, &wc), 0); /* not even flushes */
    end_close(&a);
    end_close(&b);
}

TEST(freeze_and_thaw, "freeze=1")
{
    struct ibv_wc wc;
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(write_one(1, IBV_SEND_SIGNALED), 0);
    usleep(20000);
    EQUAL(ibv_poll_cq(a.cq, 1, &wc), 0);
    control("set mlx5_0 freeze=0");
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    end_close(&a);
    end_close(&b);
}

static void wait_for(volatile uint8_t *byte, uint8_t wanted)
{
    double until = seconds() + 5;
    while (*byte != wanted)
        CHECK(seconds() < until);
}

TEST(late_delivery, "late=50,freeze=1")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    a.bytes[0] = 9;
    EQUAL(write_one(1, 0), 0);
    EQUAL(to_state(a.qp, IBV_QPS_ERR), 0);
    EQUAL(next_status(a.cq), IBV_WC_WR_FLUSH_ERR);
    a.bytes[0] = 5; /* what is on its way has left our memory */
    EQUAL(b.bytes[0], 0);
    wait_for(b.bytes, 9);
    end_close(&a);
    end_close(&b);
}

/* The responder's queue pair is what keeps it out: that is what a fence relies on. */
TEST(late_delivery_is_refused, "late=30,freeze=1")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    a.bytes[0] = 9;
    EQUAL(write_one(1, 0), 0);
    EQUAL(to_state(a.qp, IBV_QPS_ERR), 0);
    EQUAL(next_status(a.cq), IBV_WC_WR_FLUSH_ERR);
    EQUAL(to_state(b.qp, IBV_QPS_ERR), 0);
    usleep(60000);
    EQUAL(b.bytes[0], 0);
    end_close(&a);
    end_close(&b);
}

TEST(late_after_the_sender_is_gone, "late=50,freeze=1")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    a.bytes[0] = 9;
    EQUAL(write_one(1, 0), 0);
    EQUAL(ibv_destroy_qp(a.qp), 0);
    wait_for(b.bytes, 9);
    struct ibv_qp_init_attr init = {
        .send_cq = a.cq, .recv_cq = a.cq, .qp_type = IBV_QPT_RC, .cap = {.max_send_wr = 1}};
    CHECK(a.qp = ibv_create_qp(a.pd, &init));
    end_close(&a);
    end_close(&b);
}

TEST(port_events, "retry=20")
{
    struct ibv_port_attr port;
    pair_open(&a, &b, 65536, (struct depth){0});
    control("set mlx5_0 port=down");
    EQUAL(next_event(a.context), IBV_EVENT_PORT_ERR);
    CHECK(!has_event(b.context));
    EQUAL(ibv_query_port(a.context, 1, &port), 0);
    EQUAL(port.state, IBV_PORT_DOWN);
    EQUAL(write_one(1, 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_RETRY_EXC_ERR);
    control("set mlx5_0 port=up");
    EQUAL(next_event(a.context), IBV_EVENT_PORT_ACTIVE);
    control("event mlx5_1 lid_change");
    EQUAL(next_event(b.context), IBV_EVENT_LID_CHANGE);
    end_close(&a);
    end_close(&b);
}

/* A short outage is survived by retries. */
TEST(port_comes_back, "retry=5000")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    control("set mlx5_1 port=down");
    EQUAL(write_one(1, IBV_SEND_SIGNALED), 0);
    usleep(20000);
    control("set mlx5_1 port=up");
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    end_close(&a);
    end_close(&b);
}

TEST(address_change, "retry=20")
{
    union ibv_gid gid;
    pair_open(&a, &b, 65536, (struct depth){0});
    control("set mlx5_1 gidnet=1");
    EQUAL(next_event(b.context), IBV_EVENT_GID_CHANGE);
    EQUAL(ibv_query_gid(b.context, 1, 3, &gid), 0);
    CHECK(memcmp(&gid, &b.gid, 16));
    EQUAL(to_state(a.qp, IBV_QPS_RESET), 0);
    end_connect(&a, b.qp->qp_num, &b.gid); /* the old address reaches nobody */
    EQUAL(write_one(1, 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_RETRY_EXC_ERR);
    end_close(&a);
    end_close(&b);
}

TEST(device_lost, "freeze=1")
{
    struct ibv_device_attr attr;
    struct ibv_wc wc[2];
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(write_one(1, 0), 0);
    EQUAL(write_one(2, 0), 0);
    control("set mlx5_0 fatal=1");
    EQUAL(next_event(a.context), IBV_EVENT_DEVICE_FATAL);
    poll_exactly(a.cq, wc, 2);
    EQUAL(wc[1].status, IBV_WC_WR_FLUSH_ERR);
    EQUAL(ibv_query_device(a.context, &attr), EIO);
    EQUAL(to_state(a.qp, IBV_QPS_RESET), EIO);
    CHECK(!ibv_reg_mr(a.pd, a.bytes, 4096, ALL_ACCESS) && errno == EIO);
    end_close(&a);
    end_close(&b);
}

TEST(unreachable, "retry=20")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(write_one(1, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    control("set mlx5_0 unreachable=1");
    EQUAL(write_one(1, 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_RETRY_EXC_ERR);
    EQUAL(state_of(b.qp), IBV_QPS_RTS);
    end_close(&a);
    end_close(&b);
}

TEST(latency, "latency=20000")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    double began = seconds();
    for (int i = 0; i < 50; i++)
        EQUAL(write_one(i, i == 49 ? IBV_SEND_SIGNALED : 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    double took = seconds() - began;
    CHECK(took >= 0.02 && took < 0.5); /* together, not one after the other */
    end_close(&a);
    end_close(&b);
}

/* With 16 READs at a time and 5 ms there and back, 64 take 20 ms. */
TEST(reads_at_a_time, "latency=5000")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    double began = seconds();
    for (int i = 0; i < 64; i++)
        EQUAL(post(&a, IBV_WR_RDMA_READ, i, (uintptr_t)b.bytes, b.mr->rkey, 8, i == 63 ? IBV_SEND_SIGNALED : 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    double took = seconds() - began;
    CHECK(took >= 0.02 && took < 0.2);
    end_close(&a);
    end_close(&b);
}

/* What posters do at once and through the thread keeps its order when the mode changes. */
TEST(mode_changes, "mode=null")
{
    struct ibv_wc wc[3];
    pair_open(&a, &b, 65536, (struct depth){0});
    a.bytes[0] = 4;
    EQUAL(write_one(1, IBV_SEND_SIGNALED), 0);
    control("set all mode=copy");
    EQUAL(write_one(2, IBV_SEND_SIGNALED), 0);
    wait_for(b.bytes, 4);
    control("set all mode=null");
    EQUAL(write_one(3, IBV_SEND_SIGNALED), 0);
    poll_exactly(a.cq, wc, 3);
    for (int i = 0; i < 3; i++) {
        EQUAL(wc[i].wr_id, i + 1);
        EQUAL(wc[i].status, IBV_WC_SUCCESS);
    }
    end_close(&a);
    end_close(&b);
}
