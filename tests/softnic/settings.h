/* Settings: "key=value,key=value". Live ones belong to a port and are shared; the others
 * are limits that a process reads once, from its environment. */
#ifndef SOFTNIC_SETTINGS_H
#define SOFTNIC_SETTINGS_H

#include "fabric.h"

struct limits {
    int ndev, host;
    int max_qp, max_qp_wr, max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd, max_reads;
    int max_inline;
    uint64_t max_mr_size;
    uint64_t memlock; /* bytes that a process may register */
    int denied;       /* errno of ibv_open_device, 0: none */
    int dmabuf;       /* ibv_reg_dmabuf_mr works, with the iova as address */
    int pin;          /* registration touches every page, as pinning does */
    int kernel_copy;  /* bytes move through the kernel also within a process */
    int spin;         /* us that a NIC thread looks before it sleeps */
    int numa;         /* -1: spread over nodes 0 and 1 */
};

extern struct limits limits;

/* Reads SOFTNIC for this process: limits only. A wrong entry is printed and ends the
 * process: a test that runs with other settings than it asked for is worth nothing. */
void settings_read_limits(void);
/* Writes the live settings of SOFTNIC into the ports of this host. */
void settings_apply_environment(void);
/* One "key=value" for one port. NULL, or what is wrong with it. */
const char *setting_apply(int port, const char *entry);
void settings_reset(int port);
void settings_changed(int port); /* to be called after stores: derives what others read */
void settings_print(int port);

static inline uint64_t setting(struct shared_port *port, enum setting which)
{
    return atomic_load_explicit(&port->settings[which], memory_order_relaxed);
}

void port_raise(int port, uint32_t type); /* an async event for every process that has it open */
void port_wake(int port);

/* Addresses of a port; see gids.c. */
enum { GID_TABLE = 16 };
struct gid_slot {
    uint8_t raw[16];
    int type; /* enum ibv_gid_type, -1: unset */
};
void port_gid(int port, int index, struct gid_slot *slot);
int port_of_gid(const uint8_t raw[16]); /* -1: no port has it */

/* The generated part of /sys. */
void tree_write(int host, int ndev);
void tree_update(int port); /* if it has a part already */
bool tree_exists(int port);
void tree_root(int host, char *path, size_t size);

#endif
