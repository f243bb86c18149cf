#include "kit.h"

#include <poll.h>
#include <sys/mman.h>

bool has_event(struct ibv_context *context)
{
    struct pollfd wait = {.fd = context->async_fd, .events = POLLIN};
    return poll(&wait, 1, 0) == 1;
}

enum ibv_qp_state state_of(struct ibv_qp *qp)
{
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    EQUAL(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init), 0);
    return attr.qp_state;
}

void control(const char *arguments)
{
    char command[500];
    CHECK(getenv("SOFTNICCTL"));
    snprintf(command, sizeof command, "%s %s", getenv("SOFTNICCTL"), arguments);
    EQUAL(system(command), 0);
}

double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

struct ibv_context *open_named(const char *name)
{
    int count;
    struct ibv_device **list = ibv_get_device_list(&count);
    struct ibv_context *context = NULL;
    CHECK(list);
    for (int i = 0; i < count; i++)
        if (!strcmp(ibv_get_device_name(list[i]), name))
            context = ibv_open_device(list[i]);
    ibv_free_device_list(list);
    return context;
}

void end_open(struct end *end, const char *device, size_t size, struct depth depth)
{
    memset(end, 0, sizeof *end);
    end->context = open_named(device);
    CHECK(end->context);
    CHECK(ibv_query_gid(end->context, 1, 3, &end->gid) == 0);
    CHECK(end->pd = ibv_alloc_pd(end->context));
    CHECK(end->channel = ibv_create_comp_channel(end->context));
    CHECK(end->cq = ibv_create_cq(end->context, depth.cq ? depth.cq : 1024, end, end->channel, 0));
    struct ibv_qp_init_attr init = {
        .send_cq = end->cq,
        .recv_cq = end->cq,
        .qp_type = IBV_QPT_RC,
        .cap = {
            .max_send_wr = depth.send ? depth.send : 256,
            .max_recv_wr = 16,
            .max_send_sge = depth.sge ? depth.sge : 4,
            .max_recv_sge = 1,
            .max_inline_data = depth.inline_bytes,
        },
    };
    CHECK(end->qp = ibv_create_qp(end->pd, &init));
    end->size = size;
    end->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(end->bytes != MAP_FAILED);
    CHECK(end->mr = ibv_reg_mr(end->pd, end->bytes, size, ALL_ACCESS));
}

void end_close(struct end *end)
{
    EQUAL(ibv_destroy_qp(end->qp), 0);
    EQUAL(ibv_destroy_cq(end->cq), 0);
    EQUAL(ibv_destroy_comp_channel(end->channel), 0);
    EQUAL(ibv_dereg_mr(end->mr), 0);
    EQUAL(ibv_dealloc_pd(end->pd), 0);
    EQUAL(ibv_close_device(end->context), 0);
    munmap(end->bytes, end->size);
}

int to_init(struct ibv_qp *qp)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT,
        .port_num = 1,
        .qp_access_flags = ALL_ACCESS,
    };
    return ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

int to_rtr(struct ibv_qp *qp, uint32_t number, const union ibv_gid *gid)
{
    return to_rtr_by(qp, number, gid, 3, IBV_MTU_1024);
}

int to_rtr_by(struct ibv_qp *qp, uint32_t number, const union ibv_gid *gid, int index, enum ibv_mtu mtu)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = mtu,
        .dest_qp_num = number,
        .max_dest_rd_atomic = 16,
        .min_rnr_timer = 12,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = *gid, .sgid_index = index, .hop_limit = 16}},
    };
    return ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                             IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

int to_rts(struct ibv_qp *qp)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTS,
        .timeout = 8, /* 1 ms, eight times */
        .retry_cnt = 7,
        .rnr_retry = 7,
        .max_rd_atomic = 16,
    };
    return ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                             IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
}

int to_state(struct ibv_qp *qp, enum ibv_qp_state state)
{
    struct ibv_qp_attr attr = {.qp_state = state};
    return ibv_modify_qp(qp, &attr, IBV_QP_STATE);
}

void end_connect(struct end *end, uint32_t number, const union ibv_gid *gid)
{
    EQUAL(to_init(end->qp), 0);
    EQUAL(to_rtr(end->qp, number, gid), 0);
    EQUAL(to_rts(end->qp), 0);
}

void pair_open(struct end *a, struct end *b, size_t size, struct depth depth)
{
    end_open(a, "mlx5_0", size, depth);
    end_open(b, "mlx5_1", size, depth);
    end_connect(a, b->qp->qp_num, &b->gid);
    end_connect(b, a->qp->qp_num, &a->gid);
}

void request_fill(struct request *request, const struct end *from, uint64_t remote, uint32_t rkey,
                  enum ibv_wr_opcode opcode, uint32_t length)
{
    memset(request, 0, sizeof *request);
    request->sge = (struct ibv_sge){(uintptr_t)from->bytes, length, from->mr->lkey};
    request->wr.sg_list = &request->sge;
    request->wr.num_sge = 1;
    request->wr.opcode = opcode;
    request->wr.wr.rdma.remote_addr = remote;
    request->wr.wr.rdma.rkey = rkey;
}

int post(struct end *end, enum ibv_wr_opcode opcode, uint64_t id, uint64_t remote, uint32_t rkey,
         uint32_t length, int flags)
{
    struct request request;
    struct ibv_send_wr *bad;
    request_fill(&request, end, remote, rkey, opcode, length);
    request.wr.wr_id = id;
    request.wr.send_flags = flags;
    return ibv_post_send(end->qp, &request.wr, &bad);
}

void poll_exactly(struct ibv_cq *cq, struct ibv_wc *wc, int n)
{
    double until = seconds() + 10;
    for (int got = 0; got < n;) {
        int more = ibv_poll_cq(cq, n - got, wc + got);
        CHECK(more >= 0);
        got += more;
        if (!more && seconds() > until) {
            fprintf(stderr, "only %d of %d completions came\n", got, n);
            exit(1);
        }
    }
}

enum ibv_wc_status next_status(struct ibv_cq *cq)
{
    struct ibv_wc wc;
    poll_exactly(cq, &wc, 1);
    return wc.status;
}

enum ibv_event_type next_event(struct ibv_context *context)
{
    struct pollfd wait = {.fd = context->async_fd, .events = POLLIN};
    struct ibv_async_event event;
    EQUAL(poll(&wait, 1, 10000), 1);
    EQUAL(ibv_get_async_event(context, &event), 0);
    ibv_ack_async_event(&event);
    return event.event_type;
}
