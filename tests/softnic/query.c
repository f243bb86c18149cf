/* Attributes of devices and ports. */
#include "softnic.h"

#include <errno.h>
#include <string.h>

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    memset(attr, 0, sizeof *attr);
    if (setting(to_context(context)->nic->shared, SET_FATAL))
        return EIO;
    strcpy(attr->fw_ver, "1.0.0");
    attr->node_guid = ibv_get_device_guid(context->device);
    attr->sys_image_guid = attr->node_guid;
    attr->max_mr_size = limits.max_mr_size;
    attr->page_size_cap = ~0xfffull;
    attr->vendor_id = 0x02c9;
    attr->vendor_part_id = 4129; /* ConnectX-7 */
    attr->max_qp = limits.max_qp;
    attr->max_qp_wr = limits.max_qp_wr;
    attr->max_sge = limits.max_sge;
    attr->max_sge_rd = limits.max_sge_rd;
    attr->max_cq = limits.max_cq;
    attr->max_cqe = limits.max_cqe;
    attr->max_mr = limits.max_mr;
    attr->max_pd = limits.max_pd;
    attr->max_qp_rd_atom = limits.max_reads;
    attr->max_qp_init_rd_atom = limits.max_reads;
    attr->max_res_rd_atom = limits.max_qp * limits.max_reads;
    attr->atomic_cap = IBV_ATOMIC_NONE;
    attr->max_pkeys = PORT_PKEYS;
    attr->local_ca_ack_delay = 16;
    attr->phys_port_cnt = 1;
    return 0;
}

int ibv_query_port(struct ibv_context *context, uint8_t number, struct _compat_ibv_port_attr *compat)
{
    struct ibv_port_attr *attr = (struct ibv_port_attr *)compat;
    struct nic *nic = to_context(context)->nic;
    bool ib = setting(nic->shared, SET_LINK) == LINK_IB, up = setting(nic->shared, SET_PORT);
    if (number != 1)
        return EINVAL;
    if (setting(nic->shared, SET_FATAL))
        return EIO;
    memset(attr, 0, sizeof *attr);
    attr->state = up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    attr->phys_state = up ? 5 : 3;
    attr->max_mtu = IBV_MTU_4096;
    attr->active_mtu = IBV_MTU_4096;
    attr->gid_tbl_len = GID_TABLE;
    attr->max_msg_sz = MAX_MESSAGE;
    attr->pkey_tbl_len = PORT_PKEYS;
    attr->lid = ib ? nic->port + 1 : 0;
    attr->sm_lid = ib ? 1 : 0;
    attr->max_vl_num = 1;
    attr->active_width = 2;
    attr->active_speed = 64;
    attr->link_layer = ib ? IBV_LINK_LAYER_INFINIBAND : IBV_LINK_LAYER_ETHERNET;
    return 0;
}

int ibv_query_gid(struct ibv_context *context, uint8_t number, int index, union ibv_gid *gid)
{
    struct gid_slot slot;
    if (number != 1 || index < 0 || index >= GID_TABLE) {
        errno = EINVAL;
        return -1;
    }
    port_gid(to_context(context)->nic->port, index, &slot);
    memcpy(gid->raw, slot.raw, sizeof gid->raw);
    return 0;
}

static bool fill_entry(struct nic *nic, uint32_t index, struct ibv_gid_entry *entry)
{
    struct gid_slot slot;
    port_gid(nic->port, (int)index, &slot);
    if (slot.type < 0)
        return false;
    memset(entry, 0, sizeof *entry);
    memcpy(entry->gid.raw, slot.raw, sizeof entry->gid.raw);
    entry->gid_index = index;
    entry->port_num = 1;
    entry->gid_type = slot.type;
    return true;
}

int _ibv_query_gid_ex(struct ibv_context *context, uint32_t number, uint32_t index,
                      struct ibv_gid_entry *entry, uint32_t flags, size_t size)
{
    struct ibv_gid_entry full;
    if (flags)
        return EOPNOTSUPP;
    if (number != 1 || index >= GID_TABLE)
        return EINVAL;
    if (!fill_entry(to_context(context)->nic, index, &full))
        return ENODATA;
    memcpy(entry, &full, size < sizeof full ? size : sizeof full);
    return 0;
}

ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
                             uint32_t flags, size_t size)
{
    size_t count = 0;
    if (flags || size != sizeof *entries)
        return -EOPNOTSUPP;
    for (uint32_t i = 0; i < GID_TABLE; i++) {
        struct ibv_gid_entry full;
        if (!fill_entry(to_context(context)->nic, i, &full))
            continue;
        if (count == max)
            return -EINVAL;
        entries[count++] = full;
    }
    return count;
}

int ibv_query_pkey(struct ibv_context *context, uint8_t number, int index, __be16 *pkey)
{
    (void)context;
    if (number != 1 || index < 0 || index >= PORT_PKEYS) {
        errno = EINVAL;
        return -1;
    }
    *pkey = 0xffff;
    return 0;
}

int ibv_get_pkey_index(struct ibv_context *context, uint8_t number, __be16 pkey)
{
    (void)context;
    return number == 1 && pkey == 0xffff ? 0 : -1;
}
