/*
 * What a piece costs in a lane, beside a bare loop that posts and polls the same requests,
 * on a NIC that completes at once:
 *
 *   postcost PIECES ROUNDS [QUANTUM]
 *
 * Prints nanoseconds for each piece, medians of the rounds, which take turns. To build it:
 *
 *   gcc -std=gnu17 -O2 -pthread -o postcost tests/rdma/postcost.c tests/rdma/fakenic.c rdma/port*.c
 */
#include "../../rdma/port.h"
#include "fakenic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define CHAIN 32
#define DEPTH 256

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct mcp_piece *make_pieces(size_t count) {
    struct mcp_piece *pieces = calloc(count, sizeof *pieces);
    for (size_t i = 0; i < count; i++)
        pieces[i] = (struct mcp_piece){
            .local = NIC_LOCAL + i * 512, .remote = NIC_REMOTE + i * 768, .length = 256, .lkey = 3, .rkey = 4};
    return pieces;
}

/* As a benchmark of verbs does it: requests linked once, a chain for each doorbell. */
static void bare(struct ibv_qp *qp, const struct mcp_piece *pieces, size_t count) {
    static struct ibv_send_wr wrs[CHAIN], *bad;
    static struct ibv_sge sges[CHAIN];
    struct ibv_wc wcs[CHAIN];
    size_t in_flight = 0;
    for (size_t at = 0; at < count;) {
        size_t n = count - at < CHAIN ? count - at : CHAIN;
        for (size_t i = 0; i < n; i++, at++) {
            sges[i] = (struct ibv_sge){pieces[at].local, (uint32_t)pieces[at].length, pieces[at].lkey};
            wrs[i].wr_id = n;
            wrs[i].next = i + 1 < n ? &wrs[i + 1] : NULL;
            wrs[i].sg_list = &sges[i];
            wrs[i].num_sge = 1;
            wrs[i].opcode = IBV_WR_RDMA_WRITE;
            wrs[i].send_flags = i + 1 < n ? 0 : IBV_SEND_SIGNALED;
            wrs[i].wr.rdma.remote_addr = pieces[at].remote;
            wrs[i].wr.rdma.rkey = pieces[at].rkey;
        }
        ibv_post_send(qp, wrs, &bad);
        in_flight += n;
        while (in_flight + CHAIN > DEPTH || (at == count && in_flight != 0))
            for (int k = ibv_poll_cq(nic_cq(), CHAIN, wcs); k > 0; k--)
                in_flight -= wcs[k - 1].wr_id;
    }
}

static void ours(struct mcp_port *port, struct mcp_lane *lane, struct mcp_ticket *ticket, const struct mcp_piece *pieces, size_t count,
                 size_t quantum) {
    struct mcp_event room;
    mcp_ticket_start(ticket, MCP_WRITE);
    mcp_ticket_expect(ticket);
    for (size_t at = 0; at < count;) {
        size_t n = count - at < quantum ? count - at : quantum;
        size_t taken = mcp_lane_feed(lane, ticket, MCP_BULK, pieces + at, n, at + n == count).taken;
        if (taken < n)
            mcp_port_wait(port, &room, 1);
        at += taken;
    }
    mcp_ticket_wait(ticket, -1, 1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    size_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
    size_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 15;
    size_t quantum = argc > 3 ? strtoull(argv[3], NULL, 0) : 256;
    struct mcp_piece *pieces = make_pieces(count);
    double *wall[2], *cpu[2];
    for (int i = 0; i < 2; i++) {
        wall[i] = calloc(rounds, sizeof(double));
        cpu[i] = calloc(rounds, sizeof(double));
    }
    nic_script = (struct nic_script){.at_once = true};
    for (size_t r = 0; r < rounds; r++) {
        for (int which = 0; which < 2; which++) {
            nic_start(1, 4096);
            struct ibv_qp *qp = nic_qp(DEPTH, 4, 16, 1 << 20);
            struct mcp_port *port = NULL;
            struct mcp_lane *lane = NULL;
            struct mcp_ticket *ticket = NULL;
            struct mcp_counters counters = {0};
            struct mcp_lane_config config = {
                .depth = DEPTH, .gather = 4, .scatter = 4, .read_depth = 16, .ring = 1024, .gather_bytes = 1 << 16};
            if (which == 1) {
                if (mcp_port_open(nic_cq(), nic_channel(), 0, &port) != 0 ||
                    mcp_lane_open(port, &qp, 1, &config, &lane) != 0)
                    return 1;
                ticket = mcp_ticket_new(port, 1);
            }
            double began = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_PROCESS_CPUTIME_ID);
            if (which == 0)
                bare(qp, pieces, count);
            else
                ours(port, lane, ticket, pieces, count, quantum);
            wall[which][r] = (seconds(CLOCK_MONOTONIC) - began) * 1e9 / (double)count;
            cpu[which][r] = (seconds(CLOCK_PROCESS_CPUTIME_ID) - used) * 1e9 / (double)count;
            if (which == 1) {
                mcp_port_counters(port, &counters);
                if (r == 0)
                    printf("%.1f requests for each doorbell, %.1f for each completion, %llu wake-ups of the poller\n",
                           (double)counters.work_requests / (double)counters.doorbells,
                           (double)counters.work_requests / (double)counters.completions,
                           (unsigned long long)counters.wakeups);
                while (mcp_lane_close(lane) != 0)
                    ;
                mcp_port_close(port);
            }
            nic_stop();
        }
    }
    const char *names[2] = {"bare loop", "lane"};
    for (int i = 0; i < 2; i++) {
        qsort(wall[i], rounds, sizeof(double), by_value);
        qsort(cpu[i], rounds, sizeof(double), by_value);
        printf("%-10s %6.1f ns a piece, %6.1f ns of CPU\n", names[i], wall[i][rounds / 2], cpu[i][rounds / 2]);
    }
    return 0;
}
