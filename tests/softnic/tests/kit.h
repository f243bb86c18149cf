/*
 * For the test programs. Each has tests, TEST(name, settings) { ... }; main.c runs the
 * one that is named, with these settings of the NIC. A check that fails ends the program
 * with its text.
 */
#ifndef KIT_H
#define KIT_H

#include <infiniband/verbs.h>

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TEST(name, settings)                                                                        \
    static void name(void);                                                                         \
    __attribute__((constructor)) static void add_##name(void) { add_test(#name, settings, name); }  \
    static void name(void)

void add_test(const char *name, const char *settings, void (*run)(void));

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            fprintf(stderr, "%s:%d: %s is false (errno %s)\n", __FILE__, __LINE__, #condition,      \
                    strerror(errno));                                                               \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

#define EQUAL(got, wanted)                                                                          \
    do {                                                                                            \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);                           \
        if (got_ != wanted_) {                                                                      \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, wanted_); \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

enum { ALL_ACCESS = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ };

struct end { /* one queue pair and what it needs */
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    struct ibv_mr *mr;
    union ibv_gid gid;
    uint8_t *bytes;
    size_t size;
};

struct depth {
    int send, cq, sge, inline_bytes;
};

struct ibv_context *open_named(const char *name);
void end_open(struct end *end, const char *device, size_t size, struct depth depth);
void end_close(struct end *end);
int to_init(struct ibv_qp *qp);
int to_rtr(struct ibv_qp *qp, uint32_t number, const union ibv_gid *gid);
int to_rtr_by(struct ibv_qp *qp, uint32_t number, const union ibv_gid *gid, int index, enum ibv_mtu mtu);
int to_rts(struct ibv_qp *qp);
int to_state(struct ibv_qp *qp, enum ibv_qp_state state);
void end_connect(struct end *end, uint32_t number, const union ibv_gid *gid); /* from RESET to RTS */
void pair_open(struct end *a, struct end *b, size_t size, struct depth depth); /* of mlx5_0 and mlx5_1 */

/* A work request between the first bytes of two ends; change it before posting. */
struct request {
    struct ibv_send_wr wr;
    struct ibv_sge sge;
};
void request_fill(struct request *request, const struct end *from, uint64_t remote, uint32_t rkey,
                  enum ibv_wr_opcode opcode, uint32_t length);
int post(struct end *end, enum ibv_wr_opcode opcode, uint64_t id, uint64_t remote, uint32_t rkey,
         uint32_t length, int flags);

/* Waits up to 10 s for n completions. */
void poll_exactly(struct ibv_cq *cq, struct ibv_wc *wc, int n);
enum ibv_wc_status next_status(struct ibv_cq *cq);
enum ibv_event_type next_event(struct ibv_context *context); /* acknowledged */
bool has_event(struct ibv_context *context);
enum ibv_qp_state state_of(struct ibv_qp *qp);
void control(const char *arguments); /* softnicctl */
double seconds(void);

#endif
