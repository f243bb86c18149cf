/* Between serve.c, which decides what is next, and wire.c, which checks and copies. */
#ifndef SOFTNIC_WIRE_H
#define SOFTNIC_WIRE_H

#include "softnic.h"

#include <sys/uio.h>

/* Pieces of memory of one direction towards one process, of several work requests. */
struct burst {
    struct iovec local[CHUNK_PIECES], remote[CHUNK_PIECES];
    uint32_t locals, remotes;
    uint64_t bytes;
    bool read;
    uint32_t proc; /* index of the peer's process */
};

void wire_enter(struct nic *nic); /* keys that are found stay valid until wire_leave */
void wire_leave(struct nic *nic);

/* The peer's queue pair if it would answer now, else NULL. */
struct shared_qp *wire_reach(struct qp *qp, uint64_t now);
/* The same for what is on its way already, whatever became of the sender. */
struct shared_qp *wire_reach_from(struct nic *nic, uint32_t from, uint32_t to, uint32_t port, uint64_t now);

enum wire_add {
    WIRE_ADDED,
    WIRE_PART, /* only some of its bytes fit: *moved of them */
    WIRE_FULL, /* does not fit beside the others */
    WIRE_WRONG, /* *status tells */
};
enum wire_add wire_add(struct burst *burst, struct qp *qp, uint64_t index, struct shared_qp *peer,
                       uint64_t offset, uint64_t *moved, enum ibv_wc_status *status);
enum ibv_wc_status wire_check_remote(struct shared_qp *peer, uint32_t rkey, uint64_t remote, uint64_t length,
                                     bool read, uint64_t *address);
enum ibv_wc_status wire_check_local(struct qp *qp, const struct ibv_sge *sge, bool read, uint64_t *address);

/* Moves the bytes; how many it could. *gone: the peer's process has ended. */
uint64_t wire_move(struct nic *nic, struct burst *burst, bool *gone);

/* The responder's queue pair goes to error; its owner is told. */
void wire_break(struct shared_qp *peer, enum ibv_event_type event);

#endif
