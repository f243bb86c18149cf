/*
 * What a NIC can do for one caller with no engine between: one queue pair, one thread that
 * builds chains of work requests from the plan, rings one bell for each, has the last of a
 * chain signalled, and polls when the queue is full. One piece of memory a work request.
 *
 * BENCH_DEVICE names the device, or the first one is taken. BENCH_DEPTH: work requests in
 * flight; BENCH_CHAIN: in a chain.
 */
#include "frame.h"

#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CHAIN_MAX = 1024,
    COMPLETIONS = 16, /* looked for at once */
    PORT = 1,
    PSN = 0,
};

/* What each end tells the other. */
struct address {
    union ibv_gid gid;
    uint64_t base;
    uint32_t qp, rkey;
};

static struct ibv_context *device;
static struct ibv_pd *domain;
static struct ibv_mr *memory;
static struct ibv_cq *completions;
static struct ibv_qp *queue;
static struct address own, peer;
static int gid_index;
static uint32_t depth, chain_length;

static uint32_t setting(const char *name, uint32_t initial, uint32_t most)
{
    const char *text = getenv(name);
    unsigned long value = text ? strtoul(text, NULL, 10) : initial;
    if (value < 1 || value > most)
        die("%s must be 1 to %u, not %s", name, most, text ? text : "");
    return (uint32_t)value;
}

/* -- objects */

static void open_device(void)
{
    const char *wanted = getenv("BENCH_DEVICE");
    int count = 0;
    struct ibv_device **list = ibv_get_device_list(&count);
    for (int i = 0; list && i < count && !device; i++)
        if (!wanted || !strcmp(wanted, ibv_get_device_name(list[i])))
            device = ibv_open_device(list[i]);
    if (!device)
        die("no RDMA device %s among %d", wanted ? wanted : "", count);
    ibv_free_device_list(list);
}

/* The last entry that is RoCE v2 over IPv4; entry 0 where there is none. */
static void choose_gid(void)
{
    struct ibv_gid_entry entries[64];
    ssize_t count = ibv_query_gid_table(device, entries, 64, 0);
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    for (ssize_t i = 0; i < count; i++)
        if (entries[i].port_num == PORT && entries[i].gid_type == IBV_GID_TYPE_ROCE_V2 &&
            !memcmp(entries[i].gid.raw, mapped, sizeof(mapped)))
            gid_index = (int)entries[i].gid_index;
    if (ibv_query_gid(device, PORT, gid_index, &own.gid))
        die("ibv_query_gid %d: %m", gid_index);
}

static void make_objects(int role)
{
    depth = setting("BENCH_DEPTH", 256, 1 << 15);
    chain_length = setting("BENCH_CHAIN", 64, CHAIN_MAX);
    if (chain_length > depth)
        die("a chain of %u does not fit a queue of %u", chain_length, depth);
    open_device();
    choose_gid();
    domain = ibv_alloc_pd(device);
    if (!domain)
        die("ibv_alloc_pd: %m");
    memory = ibv_reg_mr(domain, regions[role].at, regions[role].size,
                        IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
    if (!memory)
        die("ibv_reg_mr of %zu bytes: %m", regions[role].size);
    completions = ibv_create_cq(device, (int)depth, NULL, NULL, 0);
    if (!completions)
        die("ibv_create_cq of %u: %m", depth);
    struct ibv_qp_init_attr attributes = {
        .send_cq = completions,
        .recv_cq = completions,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = depth, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
    };
    queue = ibv_create_qp(domain, &attributes);
    if (!queue)
        die("ibv_create_qp with a depth of %u: %m", depth);
    own.base = (uint64_t)(uintptr_t)regions[role].at;
    own.qp = queue->qp_num;
    own.rkey = memory->rkey;
}

/* -- connecting */

static void modify(struct ibv_qp_attr *attributes, int mask, const char *state)
{
    if (ibv_modify_qp(queue, attributes, mask))
        die("queue pair to %s: %m", state);
}

static void ready_to_send(void)
{
    struct ibv_port_attr port;
    if (ibv_query_port(device, PORT, &port))
        die("ibv_query_port: %m");
    struct ibv_qp_attr init = {.qp_state = IBV_QPS_INIT, .port_num = PORT,
                               .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ};
    modify(&init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, "INIT");
    struct ibv_qp_attr receive = {
        .qp_state = IBV_QPS_RTR, .path_mtu = port.active_mtu, .dest_qp_num = peer.qp,
        .rq_psn = PSN, .max_dest_rd_atomic = 16, .min_rnr_timer = 12,
        .ah_attr = {.is_global = 1, .port_num = PORT,
                    .grh = {.dgid = peer.gid, .sgid_index = (uint8_t)gid_index, .hop_limit = 64}},
    };
    modify(&receive, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
           IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER, "RTR");
    struct ibv_qp_attr send = {.qp_state = IBV_QPS_RTS, .sq_psn = PSN, .timeout = 14,
                               .retry_cnt = 6, .rnr_retry = 7, .max_rd_atomic = 16};
    modify(&send, IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
           IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC, "RTS");
}

static void exchange(int with)
{
    if (send(with, &own, sizeof(own), MSG_NOSIGNAL) != sizeof(own) ||
        recv(with, &peer, sizeof(peer), MSG_WAITALL) != sizeof(peer))
        die("the other end does not tell its address: %m");
}

/* The target: the one initiator that comes. */
static void *welcome(void *argument)
{
    int listener = (int)(intptr_t)argument, with = accept(listener, NULL, NULL);
    char done = 0;
    if (with < 0)
        die("accept: %m");
    exchange(with);
    ready_to_send();
    if (send(with, &done, 1, MSG_NOSIGNAL) != 1)
        die("the initiator went away");
    close(with);
    close(listener);
    return NULL;
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void await_initiator(char *at)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in name = loopback(0);
    socklen_t size = sizeof(name);
    pthread_t thread;
    if (listener < 0 || bind(listener, (struct sockaddr *)&name, size) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&name, &size))
        die("no socket to wait at: %m");
    if (pthread_create(&thread, NULL, welcome, (void *)(intptr_t)listener))
        die("no thread");
    pthread_detach(thread);
    snprintf(at, TEXT, "%d", ntohs(name.sin_port));
}

static void connect_to(int port)
{
    int with = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in name = loopback(port);
    char done;
    if (with < 0 || connect(with, (struct sockaddr *)&name, sizeof(name)))
        die("port %d: %m", port);
    exchange(with);
    ready_to_send();
    if (recv(with, &done, 1, 0) != 1)
        die("the target did not get ready");
    close(with);
}

/* -- the loop */

static const struct work *aimed;
static struct ibv_send_wr chain[CHAIN_MAX];
static struct ibv_sge pieces[CHAIN_MAX];

void program_open(int role, char *at)
{
    make_objects(role);
    if (role == REMOTE)
        await_initiator(at);
}

void program_expect(const struct work *work)
{
    (void)work;
}

void program_aim(const struct work *work, const char *at)
{
    if (work->lanes != 1)
        die("the loop has one lane, not %d", work->lanes);
    if (!aimed)
        connect_to(atoi(at));
    aimed = work;
    for (uint32_t i = 0; i < chain_length; i++) {
        pieces[i].lkey = memory->lkey;
        chain[i] = (struct ibv_send_wr){
            .next = &chain[i + 1], .sg_list = &pieces[i], .num_sge = 1,
            .opcode = work->op == WRITE ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ,
            .wr.rdma.rkey = peer.rkey,
        };
    }
}

/* count is that of the chain, which its signalled end brings back. */
static void post(const struct range *ranges, uint32_t count)
{
    struct ibv_send_wr *bad, *last = &chain[count - 1], *next = last->next;
    for (uint32_t i = 0; i < count; i++) {
        pieces[i].addr = (uint64_t)(uintptr_t)regions[LOCAL].at + ranges[i].local;
        pieces[i].length = (uint32_t)ranges[i].length;
        chain[i].wr.rdma.remote_addr = peer.base + ranges[i].remote;
    }
    last->next = NULL;
    last->send_flags = IBV_SEND_SIGNALED;
    last->wr_id = count;
    int error = ibv_post_send(queue, chain, &bad);
    if (error)
        die("ibv_post_send: %s", strerror(error));
    last->next = next;
    last->send_flags = 0;
}

/* How many work requests have ended. */
static uint32_t poll_once(void)
{
    struct ibv_wc found[COMPLETIONS];
    uint32_t ended = 0;
    int count = ibv_poll_cq(completions, COMPLETIONS, found);
    if (count < 0)
        die("ibv_poll_cq answered %d", count);
    for (int i = 0; i < count; i++) {
        if (found[i].status != IBV_WC_SUCCESS)
            die("a work request ended with %s", ibv_wc_status_str(found[i].status));
        ended += (uint32_t)found[i].wr_id;
    }
    return ended;
}

void program_move(int lane, size_t batch)
{
    const struct share *share = share_of(aimed, batch, lane);
    size_t posted = 0;
    for (uint32_t in_flight = 0; posted < share->count || in_flight;) {
        size_t left = share->count - posted;
        uint32_t count = left < chain_length ? (uint32_t)left : chain_length;
        if (count && count <= depth - in_flight) {
            post(share->ranges + posted, count);
            posted += count;
            in_flight += count;
        } else {
            uint32_t ended = poll_once();
            in_flight -= ended;
            if (!ended)
                sched_yield(); /* the software NIC's thread may wait for this core */
        }
    }
}
