/*
 * A scripted NIC for tests of the rdma package's C code: the part of a provider behind
 * post_send, poll_cq and req_notify_cq, and the functions of the shim that a port calls.
 *
 * It knows what every byte's transfer has to look like and checks each request as it
 * executes it. It is compiled without sanitizers and has a lock that they do not know,
 * so that it does not order the port's threads for them.
 */
#ifndef FAKENIC_H
#define FAKENIC_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

#define CELL 8 /* bytes; pieces begin and end at cells of both memories */

struct nic_cell { /* of the peer's memory */
    uint32_t local; /* the cell that it goes with in local memory */
    uint32_t lkey, rkey;
    uint32_t ticket;
    uint32_t hits; /* how often a request executed it */
    uint8_t read;
    uint8_t ended; /* its ticket has: nothing may touch it */
};

struct nic_script {
    uint64_t seed;
    uint32_t partial; /* posts of which a part is refused, in 1000 */
    uint32_t starve;  /* of these, posts that refuse all until nothing is in flight */
    uint32_t invalid; /* posts refused for good, in 100000 */
    uint32_t error;   /* requests that fail, in 100000 */
    uint32_t mute;    /* whether requests fail without flushes behind them */
    bool in_order; /* no piece has changed its queue pair: read-backs follow writes */
    bool at_once;     /* requests complete while they are posted, unchecked */
};

extern struct nic_cell *nic_cells;
extern uint32_t nic_cell_count;
extern struct nic_script nic_script;

#define NIC_LOCAL UINT64_C(0x100000000)
#define NIC_REMOTE UINT64_C(0x900000000)
#define NIC_BACK UINT64_C(0xf00000000) /* where read-backs go */
#define NIC_BACK_LKEY 77u

void nic_start(uint32_t cells, int cq_depth);
void nic_stop(void);
struct ibv_cq *nic_cq(void);
struct ibv_comp_channel *nic_channel(void);

struct ibv_qp *nic_qp(uint32_t depth, uint32_t sges, uint32_t reads, uint64_t longest);
/* Their pending requests vanish without completions. */
void nic_forget(struct ibv_qp **qps, uint32_t count);
/* Its completions vanish too. */
void nic_destroy(struct ibv_qp *qp);
/* A completion out of nowhere. */
void nic_inject(uint64_t wr_id, uint32_t qp_number, int status);
/* A wr_id that was used on the queue pair. */
uint64_t nic_last_wr_id(struct ibv_qp *qp);

/* What was wrong, NULL if nothing was. */
const char *nic_complaint(void);
uint64_t nic_executed(void);
uint64_t nic_read_backs(void);

#endif
