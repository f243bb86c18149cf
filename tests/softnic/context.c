/* Devices: listing, opening, closing. */
#include "softnic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct device devices[MAX_DEVICES];
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static struct nic *nics[MAX_DEVICES];
static int joined_pid, open_contexts;

static void describe(int index)
{
    char root[300];
    struct ibv_device *ib = &devices[index].ib;
    tree_root(limits.host, root, sizeof root);
    devices[index].index = index;
    ib->node_type = IBV_NODE_CA;
    ib->transport_type = IBV_TRANSPORT_IB;
    snprintf(ib->name, sizeof ib->name, "mlx5_%d", index);
    snprintf(ib->dev_name, sizeof ib->dev_name, "uverbs%d", index);
    snprintf(ib->dev_path, sizeof ib->dev_path, "%.150s/sys/class/infiniband_verbs/uverbs%d", root, index);
    snprintf(ib->ibdev_path, sizeof ib->ibdev_path, "%.150s/sys/class/infiniband/mlx5_%d", root, index);
}

/* Once per process: settings, the shared file, the tree below /sys. */
static int join(void)
{
    if (joined_pid == getpid() && own_proc >= 0)
        return 0;
    if (joined_pid != getpid()) { /* first use, or a child of a process that had devices open */
        memset(nics, 0, sizeof nics);
        open_contexts = 0;
        settings_read_limits();
    }
    int failed = fabric_join();
    if (failed)
        return failed;
    joined_pid = getpid();
    settings_apply_environment();
    tree_write(limits.host, limits.ndev);
    for (int i = 0; i < limits.ndev; i++)
        describe(i);
    return 0;
}

struct ibv_device **ibv_get_device_list(int *count)
{
    pthread_mutex_lock(&opening);
    int failed = join();
    pthread_mutex_unlock(&opening);
    struct ibv_device **list = failed ? NULL : calloc(limits.ndev + 1, sizeof *list);
    if (count)
        *count = list ? limits.ndev : 0;
    if (!list) {
        errno = failed ? failed : ENOMEM;
        return NULL;
    }
    for (int i = 0; i < limits.ndev; i++)
        list[i] = &devices[i].ib;
    return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
    free(list); /* the devices stay: an open context points to its own */
}

const char *ibv_get_device_name(struct ibv_device *device)
{
    return device->name;
}

int ibv_get_device_index(struct ibv_device *device)
{
    return ((struct device *)device)->index;
}

__be64 ibv_get_device_guid(struct ibv_device *device)
{
    uint8_t raw[8] = {0x02, 0x00, 0x5e, 0xff, 0xfe, 0x00, 0x53};
    __be64 guid;
    raw[7] = limits.host * MAX_DEVICES + ((struct device *)device)->index + 1;
    memcpy(&guid, raw, sizeof guid);
    return guid;
}

static int query_port_extended(struct ibv_context *context, uint8_t number,
                               struct ibv_port_attr *attr, size_t size)
{
    struct ibv_port_attr full;
    int failed = ibv_query_port(context, number, (struct _compat_ibv_port_attr *)&full);
    if (!failed)
        memcpy(attr, &full, size < sizeof full ? size : sizeof full);
    return failed;
}

static int query_device_extended(struct ibv_context *context,
                                 const struct ibv_query_device_ex_input *input,
                                 struct ibv_device_attr_ex *attr, size_t size)
{
    struct ibv_device_attr_ex full;
    if (input && input->comp_mask)
        return EINVAL;
    memset(&full, 0, sizeof full);
    full.phys_port_cnt_ex = 1;
    int failed = ibv_query_device(context, &full.orig_attr);
    if (!failed)
        memcpy(attr, &full, size < sizeof full ? size : sizeof full);
    return failed;
}

static struct context *new_context(struct device *device, struct nic *nic)
{
    struct context *context = calloc(1, sizeof *context);
    if (!context)
        return NULL;
    int failed = events_open(&context->async);
    if (failed) {
        free(context);
        errno = failed;
        return NULL;
    }
    struct verbs_context *verbs = &context->verbs;
    verbs->sz = sizeof *verbs;
    verbs->query_port = query_port_extended;
    verbs->query_device_ex = query_device_extended;
    verbs->context.device = &device->ib;
    verbs->context.ops.poll_cq = poll_cq;
    verbs->context.ops.req_notify_cq = req_notify_cq;
    verbs->context.ops.post_send = post_send;
    verbs->context.ops.post_recv = post_recv;
    verbs->context.cmd_fd = -1;
    verbs->context.async_fd = context->async.fd;
    verbs->context.num_comp_vectors = 1;
    verbs->context.abi_compat = __VERBS_ABI_IS_EXTENDED;
    pthread_mutex_init(&verbs->context.mutex, NULL);
    context->nic = nic;
    return context;
}

static struct context *open_locked(struct device *device)
{
    int failed = join();
    if (!failed && limits.denied)
        failed = limits.denied;
    if (failed) {
        errno = failed;
        return NULL;
    }
    struct nic **nic = &nics[device->index];
    if (!*nic && !(*nic = nic_open(limits.host * MAX_DEVICES + device->index)))
        return NULL;
    struct context *context = new_context(device, *nic);
    if (!context) {
        if ((*nic)->references == 0) {
            nic_close(*nic);
            *nic = NULL;
        }
        return NULL;
    }
    open_contexts++;
    nic_lock(*nic);
    (*nic)->references++;
    context->next = (*nic)->contexts;
    (*nic)->contexts = context;
    nic_unlock(*nic);
    return context;
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    pthread_mutex_lock(&opening);
    struct context *context = open_locked((struct device *)device);
    pthread_mutex_unlock(&opening);
    return context ? &context->verbs.context : NULL;
}

/* With objects left the kernel would take them away below the program; here they stay,
 * and the caller learns it. */
int ibv_close_device(struct ibv_context *ib)
{
    struct context *context = to_context(ib);
    struct nic *nic = context->nic;
    if (atomic_load(&context->objects)) {
        errno = EBUSY;
        return -1;
    }
    pthread_mutex_lock(&opening);
    nic_lock(nic);
    for (struct context **at = &nic->contexts; *at; at = &(*at)->next)
        if (*at == context) {
            *at = context->next;
            break;
        }
    nic->references--;
    nic_unlock(nic);
    if (nic->references == 0) {
        nics[nic->port % MAX_DEVICES] = NULL;
        nic_close(nic);
    }
    if (--open_contexts == 0)
        fabric_leave();
    pthread_mutex_unlock(&opening);
    events_close(&context->async);
    pthread_mutex_destroy(&ib->mutex);
    free(context);
    return 0;
}

int ibv_fork_init(void)
{
    return 0; /* pages are not pinned: a child that writes does no harm */
}

enum ibv_fork_status ibv_is_fork_initialized(void)
{
    return IBV_FORK_UNNEEDED;
}
