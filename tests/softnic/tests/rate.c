/*
 * Work requests a second that a simple loop reaches:
 *
 *   rate BYTES CHAIN SECONDS DEVICE
 *
 * One queue pair, chains of WRITEs with the last one signalled, no wait but for room in
 * the send queue. Prints requests a second, ns of processor time for each, and MB/s.
 */
#include "kit.h"

#include <sys/resource.h>

enum { DEPTH = 16384, BLOCKS = 4096 }; /* deep: other work on the machine stops us for ms */

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    uint32_t bytes = atoi(argv[1]);
    int chain = atoi(argv[2]);
    double span = atof(argv[3]);
    size_t size = (size_t)bytes * 2 * BLOCKS + 4096;
    struct end a, b;
    end_open(&a, argv[4], size, (struct depth){.send = DEPTH, .cq = DEPTH});
    end_open(&b, argv[4], size, (struct depth){0});
    end_connect(&a, b.qp->qp_num, &b.gid);
    end_connect(&b, a.qp->qp_num, &a.gid);

    struct request *requests = calloc(chain, sizeof *requests);
    for (int i = 0; i < chain; i++) {
        request_fill(&requests[i], &a, 0, b.mr->rkey, IBV_WR_RDMA_WRITE, bytes);
        requests[i].wr.next = i + 1 < chain ? &requests[i + 1].wr : NULL;
        requests[i].wr.wr_id = chain;
    }
    requests[chain - 1].wr.send_flags = IBV_SEND_SIGNALED;

    double began = seconds(), cpu = cpu_seconds(), until = began + span;
    uint64_t posted = 0, done = 0, block = 0;
    bool stop = false;
    while (!stop || done != posted) {
        struct ibv_wc wc[16];
        struct ibv_send_wr *bad;
        for (; !stop && posted - done + chain <= DEPTH; posted += chain) {
            for (int i = 0; i < chain; i++, block++) {
                requests[i].sge.addr = (uintptr_t)a.bytes + block * 7 % BLOCKS * 2 * bytes;
                requests[i].wr.wr.rdma.remote_addr = (uintptr_t)b.bytes + block * 11 % BLOCKS * 2 * bytes;
            }
            EQUAL(ibv_post_send(a.qp, &requests[0].wr, &bad), 0);
            stop = seconds() > until;
        }
        int n = ibv_poll_cq(a.cq, 16, wc);
        for (int i = 0; i < n; i++) {
            EQUAL(wc[i].status, IBV_WC_SUCCESS);
            done += wc[i].wr_id;
        }
        if (!n) {
            struct timespec moment = {0, 20000};
            nanosleep(&moment, NULL);
        }
    }
    double took = seconds() - began;
    printf("%.0f requests/s, %.1f ns of processor time each, %.0f MB/s\n", done / took,
           (cpu_seconds() - cpu) / done * 1e9, done * (double)bytes / took / 1e6);
    free(requests);
    end_close(&a);
    end_close(&b);
    return 0;
}
