/*
 * Addresses. The GID table of a port looks as on mlx5: link-local and IPv4-mapped, each
 * as RoCE v1 and v2. The IPv4 addresses are of the networks for documentation; the last
 * byte tells the port, so that anybody can find it:
 *
 *   gidnet=0  198.51.100.N    gidnet=1  203.0.113.N    gidnet=2  192.0.2.N
 */
#include "settings.h"

#include <infiniband/verbs.h>

#include <string.h>

static const uint8_t nets[][3] = {{198, 51, 100}, {203, 0, 113}, {192, 0, 2}};
enum { NETS = 3 };

static void mapped(uint8_t raw[16], int port, int net)
{
    memset(raw, 0, 10);
    memset(raw + 10, 0xff, 2);
    memcpy(raw + 12, nets[net % NETS], 3);
    raw[15] = port + 1;
}

static void link_local(uint8_t raw[16], int port)
{
    static const uint8_t prefix[15] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x02, 0x00, 0x5e, 0xff, 0xfe, 0, 0x53};
    memcpy(raw, prefix, sizeof prefix);
    raw[15] = port + 1;
}

void port_gid(int port, int index, struct gid_slot *slot)
{
    struct shared_port *shared = &fabric->ports[port];
    uint64_t kind = setting(shared, SET_GIDS);
    int first = kind == GIDS_V2_AT_1 ? 2 : 0; /* without the link-local pair */
    memset(slot->raw, 0, sizeof slot->raw);
    slot->type = -1;
    if (kind == GIDS_NONE || index < 0 || index + first > 3)
        return;
    if (setting(shared, SET_LINK) == LINK_IB) {
        if (index == 0) {
            link_local(slot->raw, port);
            slot->type = IBV_GID_TYPE_IB;
        }
        return;
    }
    bool v2 = index % 2 == 1;
    if (v2 && kind == GIDS_V1_ONLY)
        return;
    slot->type = v2 ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_ROCE_V1;
    if (index + first < 2)
        link_local(slot->raw, port);
    else
        mapped(slot->raw, port, (int)setting(shared, SET_GID_NET));
}

int port_of_gid(const uint8_t raw[16])
{
    int port = raw[15] - 1;
    if (port < 0 || port >= MAX_PORTS)
        return -1;
    for (int i = 0; i < 4; i++) {
        struct gid_slot slot;
        port_gid(port, i, &slot);
        if (slot.type >= 0 && !memcmp(slot.raw, raw, 16))
            return port;
    }
    return -1;
}
