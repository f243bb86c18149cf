/* Bytes move both ways, in one process and between two; every length and gather list. */
#include "kit.h"

#include <sys/wait.h>
#include <unistd.h>

static void fill(uint8_t *bytes, size_t size, uint32_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[i] = seed >> 24;
    }
}

static void write_and_read(struct end *a, uint64_t remote, uint32_t rkey, uint8_t *there)
{
    static const uint32_t lengths[] = {1, 7, 64, 4096, 4097, 1 << 20, (1 << 20) + 1, 5 << 20};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        fill(a->bytes, lengths[i], i);
        EQUAL(post(a, IBV_WR_RDMA_WRITE, i, remote, rkey, lengths[i], IBV_SEND_SIGNALED), 0);
        struct ibv_wc wc;
        poll_exactly(a->cq, &wc, 1);
        EQUAL(wc.status, IBV_WC_SUCCESS);
        EQUAL(wc.wr_id, i);
        EQUAL(wc.opcode, IBV_WC_RDMA_WRITE);
        EQUAL(wc.qp_num, a->qp->qp_num);
        if (there)
            CHECK(!memcmp(there, a->bytes, lengths[i]));
        uint8_t *kept = malloc(lengths[i]);
        memcpy(kept, a->bytes, lengths[i]);
        memset(a->bytes, 0, lengths[i]);
        EQUAL(post(a, IBV_WR_RDMA_READ, i, remote, rkey, lengths[i], IBV_SEND_SIGNALED), 0);
        poll_exactly(a->cq, &wc, 1);
        EQUAL(wc.status, IBV_WC_SUCCESS);
        EQUAL(wc.opcode, IBV_WC_RDMA_READ);
        EQUAL(wc.byte_len, lengths[i]);
        CHECK(!memcmp(kept, a->bytes, lengths[i]));
        free(kept);
    }
}

static void gather(struct end *a, struct end *b)
{
    struct ibv_sge list[4];
    struct request request;
    struct ibv_send_wr *bad;
    fill(a->bytes, 65536, 5);
    memset(b->bytes, 0, 65536);
    for (int i = 0; i < 4; i++)
        list[i] = (struct ibv_sge){(uintptr_t)a->bytes + 8192 * (3 - i), 100 + i, a->mr->lkey};
    request_fill(&request, a, (uintptr_t)b->bytes + 3, b->mr->rkey, IBV_WR_RDMA_WRITE, 0);
    request.wr.sg_list = list;
    request.wr.num_sge = 4;
    request.wr.send_flags = IBV_SEND_SIGNALED;
    EQUAL(ibv_post_send(a->qp, &request.wr, &bad), 0);
    EQUAL(next_status(a->cq), IBV_WC_SUCCESS);
    uint8_t *at = b->bytes + 3;
    for (int i = 0; i < 4; i++) {
        CHECK(!memcmp(at, a->bytes + 8192 * (3 - i), 100 + i));
        at += 100 + i;
    }
    memset(a->bytes, 0, 65536);
    request.wr.opcode = IBV_WR_RDMA_READ; /* scatters them to where they were */
    EQUAL(ibv_post_send(a->qp, &request.wr, &bad), 0);
    EQUAL(next_status(a->cq), IBV_WC_SUCCESS);
    at = b->bytes + 3;
    for (int i = 0; i < 4; i++) {
        CHECK(!memcmp(at, a->bytes + 8192 * (3 - i), 100 + i));
        at += 100 + i;
    }
}

static void inline_bytes(struct end *a, struct end *b)
{
    struct request request;
    struct ibv_send_wr *bad;
    uint8_t local[64];
    fill(local, sizeof local, 9);
    request_fill(&request, a, (uintptr_t)b->bytes, b->mr->rkey, IBV_WR_RDMA_WRITE, sizeof local);
    request.sge.addr = (uintptr_t)local; /* not registered: inline needs no key */
    request.sge.lkey = 0;
    request.wr.send_flags = IBV_SEND_SIGNALED | IBV_SEND_INLINE;
    EQUAL(ibv_post_send(a->qp, &request.wr, &bad), 0);
    uint8_t kept[64];
    memcpy(kept, local, sizeof kept);
    memset(local, 0, sizeof local); /* free for reuse once posted */
    EQUAL(next_status(a->cq), IBV_WC_SUCCESS);
    CHECK(!memcmp(b->bytes, kept, sizeof kept));
}

struct hello {
    uint32_t number, rkey;
    uint64_t address;
    union ibv_gid gid;
};

static bool two_hosts;

static void two_processes(void)
{
    int up[2], down[2];
    struct hello hello;
    struct end end;
    CHECK(pipe(up) == 0 && pipe(down) == 0);
    pid_t child = fork();
    if (two_hosts)
        setenv("SOFTNIC", child ? "host=0" : "host=3", 1);
    end_open(&end, child ? "mlx5_0" : "mlx5_1", 8 << 20, (struct depth){0});
    struct hello own = {end.qp->qp_num, end.mr->rkey, (uintptr_t)end.bytes, end.gid};
    EQUAL(write(child ? down[1] : up[1], &own, sizeof own), sizeof own);
    EQUAL(read(child ? up[0] : down[0], &hello, sizeof hello), sizeof hello);
    end_connect(&end, hello.number, &hello.gid);
    EQUAL(write(child ? down[1] : up[1], "c", 1), 1); /* connected */
    char byte;
    EQUAL(read(child ? up[0] : down[0], &byte, 1), 1);
    if (child) {
        write_and_read(&end, hello.address, hello.rkey, NULL);
        EQUAL(write(down[1], "d", 1), 1);
        int status;
        EQUAL(waitpid(child, &status, 0), child);
        EQUAL(status, 0);
    } else {
        EQUAL(read(down[0], &byte, 1), 1); /* the other is done */
    }
    end_close(&end);
    if (!child)
        exit(0);
}

TEST(between_processes, "")
{
    two_processes();
}

TEST(between_processes_of_two_hosts, "")
{
    two_hosts = true;
    two_processes();
}

static void both_ways(void)
{
    struct end a, b;
    pair_open(&a, &b, 8 << 20, (struct depth){.inline_bytes = 64});
    write_and_read(&a, (uintptr_t)b.bytes, b.mr->rkey, b.bytes);
    write_and_read(&b, (uintptr_t)a.bytes, a.mr->rkey, a.bytes);
    gather(&a, &b);
    inline_bytes(&a, &b);
    end_close(&a);
    end_close(&b);
}

TEST(within_a_process, "")
{
    both_ways();
}

TEST(through_the_kernel, "kernel_copy=1")
{
    both_ways();
}

TEST(with_a_rate_and_a_latency, "rate=100k,bandwidth=10,latency=50")
{
    both_ways();
}

TEST(to_itself, "")
{
    struct end end;
    end_open(&end, "mlx5_0", 16 << 20, (struct depth){0});
    end_connect(&end, end.qp->qp_num, &end.gid);
    write_and_read(&end, (uintptr_t)end.bytes + (8 << 20), end.mr->rkey, end.bytes + (8 << 20));
    end_close(&end);
}
