/* What a completion says, what becomes of both queue pairs, and what posting refuses. */
#include "kit.h"

#include <sys/mman.h>

static struct end a, b;

/* The WRITE or READ fails with that status; what was posted behind it is flushed. */
static void fails(enum ibv_wr_opcode opcode, uint64_t remote, uint32_t rkey, uint32_t length,
                  enum ibv_wc_status status)
{
    struct ibv_wc wc[4];
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)b.bytes, b.mr->rkey, 8, 0), 0);
    EQUAL(post(&a, opcode, 2, remote, rkey, length, 0), 0);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 3, (uintptr_t)b.bytes, b.mr->rkey, 8, 0), 0);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 4, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    poll_exactly(a.cq, wc, 3); /* the first was not signalled and succeeded */
    EQUAL(wc[0].wr_id, 2);
    EQUAL(wc[0].status, status);
    CHECK(wc[0].vendor_err != 0);
    for (int i = 1; i < 3; i++) {
        EQUAL(wc[i].wr_id, i + 2);
        EQUAL(wc[i].status, IBV_WC_WR_FLUSH_ERR);
        EQUAL(wc[i].qp_num, a.qp->qp_num);
    }
    EQUAL(state_of(a.qp), IBV_QPS_ERR);
}

static void reconnect(void)
{
    EQUAL(to_state(a.qp, IBV_QPS_RESET), 0);
    EQUAL(to_state(b.qp, IBV_QPS_RESET), 0);
    end_connect(&a, b.qp->qp_num, &b.gid);
    end_connect(&b, a.qp->qp_num, &a.gid);
}

static void refused_there(enum ibv_wr_opcode opcode, uint64_t remote, uint32_t rkey, uint32_t length,
                          enum ibv_wc_status status, enum ibv_event_type event)
{
    fails(opcode, remote, rkey, length, status);
    EQUAL(next_event(b.context), event);
    EQUAL(state_of(b.qp), IBV_QPS_ERR);
    CHECK(!has_event(a.context));
    reconnect();
}

TEST(remote_access, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    uint64_t there = (uintptr_t)b.bytes;
    const enum ibv_wc_status wrong = IBV_WC_REM_ACCESS_ERR;
    const enum ibv_event_type event = IBV_EVENT_QP_ACCESS_ERR;
    refused_there(IBV_WR_RDMA_WRITE, there, b.mr->rkey + 1, 64, wrong, event);
    refused_there(IBV_WR_RDMA_WRITE, there, 0, 64, wrong, event);
    refused_there(IBV_WR_RDMA_WRITE, there, UINT32_MAX, 64, wrong, event);
    refused_there(IBV_WR_RDMA_WRITE, there + 65536 - 63, b.mr->rkey, 64, wrong, event);
    refused_there(IBV_WR_RDMA_WRITE, there - 1, b.mr->rkey, 64, wrong, event);
    refused_there(IBV_WR_RDMA_WRITE, UINT64_MAX - 8, b.mr->rkey, 64, wrong, event);
    refused_there(IBV_WR_RDMA_READ, there, b.mr->rkey ^ 1, 64, wrong, event);
    refused_there(IBV_WR_RDMA_WRITE, (uintptr_t)a.bytes, a.mr->rkey, 64, wrong, event); /* of the other device */

    struct ibv_pd *other = ibv_alloc_pd(b.context);
    struct ibv_mr *mr = ibv_reg_mr(other, b.bytes, 4096, ALL_ACCESS);
    refused_there(IBV_WR_RDMA_WRITE, there, mr->rkey, 64, wrong, event); /* of another PD */
    EQUAL(ibv_dereg_mr(mr), 0);
    EQUAL(ibv_dealloc_pd(other), 0);

    mr = ibv_reg_mr(b.pd, b.bytes, 4096, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
    refused_there(IBV_WR_RDMA_WRITE, there, mr->rkey, 64, wrong, event);
    uint32_t old = mr->rkey;
    EQUAL(ibv_dereg_mr(mr), 0);
    refused_there(IBV_WR_RDMA_READ, there, old, 64, wrong, event); /* not registered any more */
    end_close(&a);
    end_close(&b);
}

TEST(invalid_request, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    struct ibv_qp_attr attr = {.qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE};
    EQUAL(ibv_modify_qp(b.qp, &attr, IBV_QP_ACCESS_FLAGS), 0);
    refused_there(IBV_WR_RDMA_READ, (uintptr_t)b.bytes, b.mr->rkey, 64, IBV_WC_REM_INV_REQ_ERR,
                  IBV_EVENT_QP_REQ_ERR);
    end_close(&a);
    end_close(&b);
}

static void fails_here(struct ibv_sge sge, enum ibv_wr_opcode opcode, enum ibv_wc_status status)
{
    struct request request;
    struct ibv_send_wr *bad;
    struct ibv_wc wc;
    request_fill(&request, &a, (uintptr_t)b.bytes, b.mr->rkey, opcode, 0);
    request.sge = sge;
    EQUAL(ibv_post_send(a.qp, &request.wr, &bad), 0);
    poll_exactly(a.cq, &wc, 1);
    EQUAL(wc.status, status);
    EQUAL(state_of(a.qp), IBV_QPS_ERR);
    EQUAL(state_of(b.qp), IBV_QPS_RTS); /* nothing reached it */
    CHECK(!has_event(b.context));
    reconnect();
}

TEST(local_protection, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    uint64_t here = (uintptr_t)a.bytes;
    const enum ibv_wc_status wrong = IBV_WC_LOC_PROT_ERR;
    fails_here((struct ibv_sge){here, 64, a.mr->lkey + 1}, IBV_WR_RDMA_WRITE, wrong);
    fails_here((struct ibv_sge){here + 65536 - 8, 64, a.mr->lkey}, IBV_WR_RDMA_WRITE, wrong);
    fails_here((struct ibv_sge){(uintptr_t)b.bytes, 64, b.mr->lkey}, IBV_WR_RDMA_WRITE, wrong);
    struct ibv_mr *mr = ibv_reg_mr(a.pd, a.bytes, 4096, 0);
    fails_here((struct ibv_sge){here, 64, mr->lkey}, IBV_WR_RDMA_READ, wrong); /* not writable */
    uint32_t old = mr->lkey;
    EQUAL(ibv_dereg_mr(mr), 0);
    fails_here((struct ibv_sge){here, 64, old}, IBV_WR_RDMA_WRITE, wrong);
    end_close(&a);
    end_close(&b);
}

/* The first of three fails, as none is answered. */
static void times_out(double least)
{
    struct ibv_wc wc[3];
    double began = seconds();
    for (int i = 0; i < 3; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 8, 0), 0);
    poll_exactly(a.cq, wc, 3);
    EQUAL(wc[0].status, IBV_WC_RETRY_EXC_ERR);
    EQUAL(wc[1].status, IBV_WC_WR_FLUSH_ERR);
    EQUAL(wc[2].status, IBV_WC_WR_FLUSH_ERR);
    CHECK(seconds() - began >= least);
}

TEST(peer_in_error, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(to_state(b.qp, IBV_QPS_ERR), 0);
    times_out(0.008); /* 4.096 us * 2^8 * 8 */
    end_close(&a);
    end_close(&b);
}

TEST(peer_destroyed, "retry=30")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    uint32_t number = b.qp->qp_num;
    EQUAL(ibv_destroy_qp(b.qp), 0);
    times_out(0.03);
    struct ibv_qp_init_attr init = {
        .send_cq = b.cq, .recv_cq = b.cq, .qp_type = IBV_QPT_RC, .cap = {.max_send_wr = 1}};
    CHECK(b.qp = ibv_create_qp(b.pd, &init));
    CHECK(b.qp->qp_num != number); /* numbers come back late */
    end_close(&a);
    end_close(&b);
}

TEST(peer_of_another, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(to_state(b.qp, IBV_QPS_RESET), 0);
    end_connect(&b, b.qp->qp_num, &b.gid); /* connected, but not to us */
    times_out(0.008);
    end_close(&a);
    end_close(&b);
}

TEST(peer_comes_in_time, "retry=5000")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(to_state(b.qp, IBV_QPS_RESET), 0);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(to_init(b.qp), 0);
    EQUAL(to_rtr(b.qp, a.qp->qp_num, &a.gid), 0); /* RTR is enough to be written to */
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    end_close(&a);
    end_close(&b);
}

TEST(error_flushes_unsignalled, "freeze=1")
{
    struct ibv_wc wc[100];
    pair_open(&a, &b, 65536, (struct depth){0});
    for (int i = 0; i < 100; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 64, 0), 0);
    EQUAL(ibv_poll_cq(a.cq, 100, wc), 0);
    memset(a.bytes, 7, 64);
    EQUAL(to_state(a.qp, IBV_QPS_ERR), 0);
    poll_exactly(a.cq, wc, 100);
    for (int i = 0; i < 100; i++) {
        EQUAL(wc[i].wr_id, i);
        EQUAL(wc[i].status, IBV_WC_WR_FLUSH_ERR);
    }
    EQUAL(b.bytes[0], 0); /* none was executed */
    end_close(&a);
    end_close(&b);
}

TEST(receive_requests_are_flushed, "")
{
    struct ibv_wc wc[4];
    struct ibv_recv_wr wr = {.wr_id = 5}, *bad;
    pair_open(&a, &b, 65536, (struct depth){0});
    for (int i = 0; i < 4; i++)
        EQUAL(ibv_post_recv(a.qp, &wr, &bad), 0);
    EQUAL(to_state(a.qp, IBV_QPS_ERR), 0);
    poll_exactly(a.cq, wc, 4);
    EQUAL(wc[3].status, IBV_WC_WR_FLUSH_ERR);
    EQUAL(wc[3].wr_id, 5);
    end_close(&a);
    end_close(&b);
}

TEST(destroy_takes_completions_away, "")
{
    struct ibv_wc wc[16];
    pair_open(&a, &b, 65536, (struct depth){0});
    for (int i = 0; i < 8; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(ibv_destroy_qp(a.qp), 0);
    EQUAL(ibv_poll_cq(a.cq, 16, wc), 0);
    struct ibv_qp_init_attr init = {
        .send_cq = a.cq, .recv_cq = a.cq, .qp_type = IBV_QPT_RC, .cap = {.max_send_wr = 1}};
    CHECK(a.qp = ibv_create_qp(a.pd, &init));
    end_close(&a);
    end_close(&b);
}

/* A chain of 40 for a queue with room for 32: 32 are posted, bad_wr is the 33rd. An entry
 * is free again once a completion behind it was polled, not earlier. */
static void full_queue(void)
{
    struct request requests[40];
    struct ibv_send_wr *bad = NULL;
    struct ibv_wc wc[64];
    pair_open(&a, &b, 65536, (struct depth){.send = 32});
    for (int i = 0; i < 40; i++) {
        request_fill(&requests[i], &a, (uintptr_t)b.bytes + 64 * i, b.mr->rkey, IBV_WR_RDMA_WRITE, 64);
        requests[i].wr.next = i < 39 ? &requests[i + 1].wr : NULL;
        requests[i].wr.wr_id = i;
        requests[i].wr.send_flags = i % 16 == 15 ? IBV_SEND_SIGNALED : 0;
    }
    EQUAL(ibv_post_send(a.qp, &requests[0].wr, &bad), ENOMEM);
    CHECK(bad == &requests[32].wr);
    poll_exactly(a.cq, wc, 1);
    EQUAL(wc[0].wr_id, 15);
    EQUAL(ibv_post_send(a.qp, bad, &bad), 0); /* 8 more fit into the 16 that are free */
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 99, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    poll_exactly(a.cq, wc, 2);
    EQUAL(wc[0].wr_id, 31);
    EQUAL(wc[1].wr_id, 99);
    end_close(&a);
    end_close(&b);
}

TEST(full_send_queue, "")
{
    full_queue();
}

TEST(full_send_queue_at_once, "mode=null")
{
    full_queue();
}

static void refusals(void)
{
    struct request requests[3];
    struct ibv_send_wr *bad = NULL;
    struct ibv_sge many[9];
    pair_open(&a, &b, 65536, (struct depth){.sge = 4, .inline_bytes = 64});
#define REFUSED(change)                                                                              \
    do {                                                                                             \
        for (int i = 0; i < 3; i++) {                                                                \
            request_fill(&requests[i], &a, (uintptr_t)b.bytes, b.mr->rkey, IBV_WR_RDMA_WRITE, 64);   \
            requests[i].wr.next = i < 2 ? &requests[i + 1].wr : NULL;                                \
            requests[i].wr.send_flags = IBV_SEND_SIGNALED;                                           \
        }                                                                                            \
        struct ibv_send_wr *wr = &requests[1].wr;                                                    \
        change;                                                                                      \
        EQUAL(ibv_post_send(a.qp, &requests[0].wr, &bad), EINVAL);                                   \
        CHECK(bad == wr);                                                                            \
        EQUAL(next_status(a.cq), IBV_WC_SUCCESS); /* the one before */                               \
    } while (0)
    for (int i = 0; i < 9; i++)
        many[i] = (struct ibv_sge){(uintptr_t)a.bytes, 8, a.mr->lkey};
    REFUSED((wr->sg_list = many, wr->num_sge = 5));
    REFUSED(wr->num_sge = -1);
    REFUSED(wr->opcode = 40);
    REFUSED((requests[1].sge.length = 65, wr->send_flags |= IBV_SEND_INLINE));
    REFUSED((wr->opcode = IBV_WR_RDMA_READ, wr->send_flags |= IBV_SEND_INLINE));
    end_close(&a);
    end_close(&b);
}

TEST(posts_refused, "")
{
    refusals();
}

TEST(posts_refused_at_once, "mode=null")
{
    refusals();
}

TEST(fewer_pieces_for_reads, "max_sge_rd=2")
{
    struct ibv_sge list[3];
    struct request request;
    struct ibv_send_wr *bad;
    pair_open(&a, &b, 65536, (struct depth){.sge = 4});
    for (int i = 0; i < 3; i++)
        list[i] = (struct ibv_sge){(uintptr_t)a.bytes, 8, a.mr->lkey};
    request_fill(&request, &a, (uintptr_t)b.bytes, b.mr->rkey, IBV_WR_RDMA_READ, 0);
    request.wr.sg_list = list;
    request.wr.num_sge = 3;
    EQUAL(ibv_post_send(a.qp, &request.wr, &bad), EINVAL);
    request.wr.num_sge = 2;
    EQUAL(ibv_post_send(a.qp, &request.wr, &bad), 0);
    end_close(&a);
    end_close(&b);
}

TEST(nothing_to_write, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED}, *bad;
    EQUAL(ibv_post_send(a.qp, &wr, &bad), 0); /* no pieces, no key */
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, 0, 12345, 0, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    end_close(&a);
    end_close(&b);
}

TEST(no_reads_agreed, "")
{
    pair_open(&a, &b, 65536, (struct depth){0});
    EQUAL(to_state(b.qp, IBV_QPS_RESET), 0);
    EQUAL(to_init(b.qp), 0);
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = a.qp->qp_num,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = a.gid, .sgid_index = 3}},
    };
    EQUAL(ibv_modify_qp(b.qp, &attr,
                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                            IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER), 0);
    EQUAL(post(&a, IBV_WR_RDMA_READ, 1, (uintptr_t)b.bytes, b.mr->rkey, 8, 0), 0);
    EQUAL(next_status(a.cq), IBV_WC_REM_INV_REQ_ERR);
    end_close(&a);
    end_close(&b);
}

static void overrun(void)
{
    struct ibv_wc wc[64];
    pair_open(&a, &b, 65536, (struct depth){.send = 256, .cq = 8});
    int room = a.cq->cqe;
    for (int i = 0; i < room + 1; i++)
        EQUAL(post(&a, IBV_WR_RDMA_WRITE, i, (uintptr_t)b.bytes, b.mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(next_event(a.context), IBV_EVENT_CQ_ERR);
    poll_exactly(a.cq, wc, room);
    EQUAL(ibv_poll_cq(a.cq, 64, wc), 0);
    end_close(&a);
    end_close(&b);
}

TEST(completion_queue_overrun, "")
{
    overrun();
}

TEST(completion_queue_overrun_at_once, "mode=null")
{
    overrun();
}

TEST(unmapped_memory, "kernel_copy=1")
{
    struct ibv_wc wc[2];
    pair_open(&a, &b, 1 << 20, (struct depth){0});
    EQUAL(munmap(b.bytes + 65536, 4096), 0);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)b.bytes, b.mr->rkey, 65536, IBV_SEND_SIGNALED), 0);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 2, (uintptr_t)b.bytes + 65536, b.mr->rkey, 4096, 0), 0);
    poll_exactly(a.cq, wc, 2);
    EQUAL(wc[0].status, IBV_WC_SUCCESS);
    EQUAL(wc[1].status, IBV_WC_REM_OP_ERR);
    end_close(&a);
    end_close(&b);
}
