/* Transitions and their attributes, after the manual page of ibv_modify_qp. */
#include "kit.h"

enum { TO_INIT = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
       TO_RTR = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
       TO_RTS = IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                IBV_QP_MAX_QP_RD_ATOMIC };

static struct ibv_qp_attr good(const struct end *end, enum ibv_qp_state state)
{
    return (struct ibv_qp_attr){
        .qp_state = state,
        .port_num = 1,
        .qp_access_flags = ALL_ACCESS,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = end->qp->qp_num,
        .max_dest_rd_atomic = 16,
        .min_rnr_timer = 12,
        .timeout = 14,
        .retry_cnt = 7,
        .rnr_retry = 7,
        .max_rd_atomic = 16,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = end->gid, .sgid_index = 3}},
    };
}

/* Every attribute of a transition is needed; none may be missing, and no other given. */
static void each_bit(struct end *end, enum ibv_qp_state state, int mask)
{
    struct ibv_qp_attr attr = good(end, state);
    for (int bit = 1; bit <= IBV_QP_DEST_QPN; bit <<= 1) {
        if (bit == IBV_QP_STATE)
            continue;
        if (mask & bit)
            EQUAL(ibv_modify_qp(end->qp, &attr, mask & ~bit), EINVAL);
        else if (bit == IBV_QP_QKEY || bit == IBV_QP_CAP)
            EQUAL(ibv_modify_qp(end->qp, &attr, mask | bit), EINVAL);
    }
    EQUAL(ibv_modify_qp(end->qp, &attr, mask), 0);
    EQUAL(state_of(end->qp), state);
    EQUAL(end->qp->state, state);
}

TEST(required_attributes, "")
{
    struct end end;
    end_open(&end, "mlx5_0", 4096, (struct depth){0});
    EQUAL(state_of(end.qp), IBV_QPS_RESET);
    each_bit(&end, IBV_QPS_INIT, TO_INIT);
    each_bit(&end, IBV_QPS_RTR, TO_RTR);
    each_bit(&end, IBV_QPS_RTS, TO_RTS);
    EQUAL(to_state(end.qp, IBV_QPS_ERR), 0);
    EQUAL(state_of(end.qp), IBV_QPS_ERR);
    EQUAL(to_state(end.qp, IBV_QPS_RESET), 0);
    EQUAL(state_of(end.qp), IBV_QPS_RESET);
    end_connect(&end, end.qp->qp_num, &end.gid); /* and once more */
    end_close(&end);
}

TEST(order_of_states, "")
{
    struct end end;
    end_open(&end, "mlx5_0", 4096, (struct depth){0});
    EQUAL(to_rtr(end.qp, 1 << 16, &end.gid), EINVAL);
    EQUAL(to_rts(end.qp), EINVAL);
    EQUAL(to_init(end.qp), 0);
    EQUAL(to_init(end.qp), 0); /* INIT to INIT is allowed */
    EQUAL(to_rts(end.qp), EINVAL);
    EQUAL(to_rtr(end.qp, end.qp->qp_num, &end.gid), 0);
    EQUAL(to_init(end.qp), EINVAL);
    EQUAL(to_rtr(end.qp, end.qp->qp_num, &end.gid), EINVAL);
    EQUAL(to_rts(end.qp), 0);
    EQUAL(to_rtr(end.qp, end.qp->qp_num, &end.gid), EINVAL);
    EQUAL(to_state(end.qp, IBV_QPS_ERR), 0);
    EQUAL(to_state(end.qp, IBV_QPS_ERR), 0);
    EQUAL(to_rts(end.qp), EINVAL);
    EQUAL(to_init(end.qp), EINVAL);
    end_close(&end);
}

TEST(values, "max_reads=8")
{
    struct end end;
    end_open(&end, "mlx5_0", 4096, (struct depth){0});
#define REFUSED(state, mask, field, value)                              \
    do {                                                                \
        struct ibv_qp_attr attr = good(&end, state);                    \
        attr.max_rd_atomic = attr.max_dest_rd_atomic = 8;               \
        attr.field = value;                                             \
        EQUAL(ibv_modify_qp(end.qp, &attr, mask), EINVAL);              \
    } while (0)
    REFUSED(IBV_QPS_INIT, TO_INIT, port_num, 2);
    REFUSED(IBV_QPS_INIT, TO_INIT, port_num, 0);
    REFUSED(IBV_QPS_INIT, TO_INIT, pkey_index, 1);
    EQUAL(to_init(end.qp), 0);
    REFUSED(IBV_QPS_RTR, TO_RTR, dest_qp_num, 1 << 24);
    REFUSED(IBV_QPS_RTR, TO_RTR, path_mtu, 0);
    REFUSED(IBV_QPS_RTR, TO_RTR, path_mtu, 6);
    REFUSED(IBV_QPS_RTR, TO_RTR, max_dest_rd_atomic, 9);
    REFUSED(IBV_QPS_RTR, TO_RTR, ah_attr.is_global, 0); /* RoCE needs the GRH */
    REFUSED(IBV_QPS_RTR, TO_RTR, ah_attr.grh.sgid_index, 5); /* unset */
    REFUSED(IBV_QPS_RTR, TO_RTR, ah_attr.port_num, 2);
    struct ibv_qp_attr attr = good(&end, IBV_QPS_RTR);
    attr.max_dest_rd_atomic = 8;
    EQUAL(ibv_modify_qp(end.qp, &attr, TO_RTR), 0);
    REFUSED(IBV_QPS_RTS, TO_RTS, timeout, 32);
    REFUSED(IBV_QPS_RTS, TO_RTS, retry_cnt, 8);
    REFUSED(IBV_QPS_RTS, TO_RTS, rnr_retry, 8);
    REFUSED(IBV_QPS_RTS, TO_RTS, max_rd_atomic, 9);
    REFUSED(IBV_QPS_RTS, TO_RTS | IBV_QP_CUR_STATE, cur_qp_state, IBV_QPS_INIT);
    end_close(&end);
}

TEST(attributes_are_remembered, "")
{
    struct end end;
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    end_open(&end, "mlx5_0", 4096, (struct depth){.send = 100, .sge = 3, .inline_bytes = 20});
    end_connect(&end, 0x123456, &end.gid);
    EQUAL(ibv_query_qp(end.qp, &attr, IBV_QP_STATE, &init), 0);
    EQUAL(attr.dest_qp_num, 0x123456);
    EQUAL(attr.timeout, 8);
    EQUAL(attr.path_mtu, IBV_MTU_1024);
    EQUAL(attr.qp_access_flags, ALL_ACCESS);
    CHECK(!memcmp(&attr.ah_attr.grh.dgid, &end.gid, 16));
    CHECK(init.cap.max_send_wr >= 100 && init.cap.max_send_sge >= 3 && init.cap.max_inline_data >= 20);
    EQUAL(init.sq_sig_all, 0);
    CHECK(init.send_cq == end.cq && init.qp_type == IBV_QPT_RC);
    end_close(&end);
}

TEST(posting_needs_rts, "")
{
    struct end end;
    end_open(&end, "mlx5_0", 4096, (struct depth){0});
    uint64_t there = (uintptr_t)end.bytes;
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, there, end.mr->rkey, 8, IBV_SEND_SIGNALED), EINVAL);
    EQUAL(to_init(end.qp), 0);
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, there, end.mr->rkey, 8, IBV_SEND_SIGNALED), EINVAL);
    EQUAL(to_rtr(end.qp, end.qp->qp_num, &end.gid), 0);
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, there, end.mr->rkey, 8, IBV_SEND_SIGNALED), EINVAL);
    EQUAL(to_rts(end.qp), 0);
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 1, there, end.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(end.cq), IBV_WC_SUCCESS);
    EQUAL(to_state(end.qp, IBV_QPS_ERR), 0); /* there posting works, and is flushed */
    EQUAL(post(&end, IBV_WR_RDMA_WRITE, 2, there, end.mr->rkey, 8, 0), 0);
    EQUAL(next_status(end.cq), IBV_WC_WR_FLUSH_ERR);
    end_close(&end);
}
