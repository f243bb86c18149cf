/* Devices, their attributes and limits, addresses, memory, and the order of closing. */
#define _GNU_SOURCE
#include "kit.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static struct ibv_context *open_first(void)
{
    struct ibv_context *context = open_named("mlx5_0");
    CHECK(context);
    return context;
}

TEST(devices, "ndev=3")
{
    int count;
    struct ibv_device **list = ibv_get_device_list(&count);
    EQUAL(count, 3);
    CHECK(!strcmp(ibv_get_device_name(list[2]), "mlx5_2"));
    CHECK(list[3] == NULL);
    CHECK(ibv_get_device_guid(list[0]) != ibv_get_device_guid(list[1]));
    struct ibv_context *one = ibv_open_device(list[1]), *again = ibv_open_device(list[1]);
    CHECK(one && again && one != again);
    CHECK(one->device == list[1]);
    ibv_free_device_list(list);
    CHECK(!strcmp(ibv_get_device_name(one->device), "mlx5_1"));
    EQUAL(ibv_close_device(one), 0);
    EQUAL(ibv_close_device(again), 0);
}

TEST(no_devices, "ndev=0")
{
    int count = 5;
    struct ibv_device **list = ibv_get_device_list(&count);
    EQUAL(count, 0);
    CHECK(list && !list[0]);
    ibv_free_device_list(list);
}

TEST(no_permission, "denied=13")
{
    CHECK(!open_named("mlx5_0"));
    EQUAL(errno, EACCES);
}

TEST(attributes, "max_qp_wr=1024,max_sge=5,max_sge_rd=3,max_cqe=1000,max_mr_size=1G,max_reads=4")
{
    struct ibv_context *context = open_first();
    struct ibv_device_attr attr;
    struct ibv_device_attr_ex extended;
    struct ibv_port_attr port;
    EQUAL(ibv_query_device(context, &attr), 0);
    EQUAL(attr.max_qp_wr, 1024);
    EQUAL(attr.max_sge, 5);
    EQUAL(attr.max_sge_rd, 3);
    EQUAL(attr.max_cqe, 1000);
    EQUAL(attr.max_mr_size, 1000000000);
    EQUAL(attr.max_qp_rd_atom, 4);
    EQUAL(attr.phys_port_cnt, 1);
    EQUAL(ibv_query_device_ex(context, NULL, &extended), 0);
    EQUAL(extended.orig_attr.max_sge, 5);
    EQUAL(ibv_query_port(context, 1, &port), 0);
    EQUAL(port.state, IBV_PORT_ACTIVE);
    EQUAL(port.link_layer, IBV_LINK_LAYER_ETHERNET);
    EQUAL(port.lid, 0);
    CHECK(port.gid_tbl_len > 3);
    EQUAL(ibv_query_port(context, 2, &port), EINVAL);
    EQUAL(ibv_close_device(context), 0);
}

TEST(infiniband, "link=ib")
{
    struct ibv_context *context = open_first();
    struct ibv_port_attr port;
    struct ibv_gid_entry entry;
    EQUAL(ibv_query_port(context, 1, &port), 0);
    EQUAL(port.link_layer, IBV_LINK_LAYER_INFINIBAND);
    EQUAL(port.lid, 1);
    EQUAL(ibv_query_gid_ex(context, 1, 0, &entry, 0), 0);
    EQUAL(entry.gid_type, IBV_GID_TYPE_IB);
    EQUAL(ibv_query_gid_ex(context, 1, 3, &entry, 0), ENODATA);
    EQUAL(ibv_close_device(context), 0);
}

static int table(struct ibv_context *context, struct ibv_gid_entry *entries)
{
    return (int)ibv_query_gid_table(context, entries, 16, 0);
}

TEST(addresses, "mlx5_1.gids=v2at1")
{
    char text[50];
    struct ibv_gid_entry entries[16], entry;
    union ibv_gid gid, zero = {{0}};
    struct ibv_context *first = open_first(), *second = open_named("mlx5_1");
    EQUAL(table(first, entries), 4);
    EQUAL(entries[3].gid_index, 3);
    EQUAL(entries[3].gid_type, IBV_GID_TYPE_ROCE_V2);
    EQUAL(entries[2].gid_type, IBV_GID_TYPE_ROCE_V1);
    CHECK(!strcmp(inet_ntop(AF_INET6, entries[3].gid.raw, text, sizeof text), "::ffff:198.51.100.1"));
    CHECK(!memcmp(entries[1].gid.raw, "\xfe\x80", 2));
    EQUAL(ibv_query_gid(first, 1, 3, &gid), 0);
    CHECK(!memcmp(&gid, &entries[3].gid, 16));
    EQUAL(ibv_query_gid(first, 1, 7, &gid), 0);
    CHECK(!memcmp(&gid, &zero, 16)); /* unset */
    EQUAL(ibv_query_gid_ex(first, 1, 7, &entry, 0), ENODATA);
    EQUAL(ibv_query_gid(first, 1, 16, &gid), -1);
    EQUAL(table(second, entries), 2);
    EQUAL(entries[1].gid_type, IBV_GID_TYPE_ROCE_V2);
    CHECK(!strcmp(inet_ntop(AF_INET6, entries[1].gid.raw, text, sizeof text), "::ffff:198.51.100.2"));
    EQUAL(ibv_close_device(first), 0);
    EQUAL(ibv_close_device(second), 0);
}

TEST(no_addresses, "gids=none")
{
    struct ibv_gid_entry entries[16];
    struct ibv_context *context = open_first();
    EQUAL(table(context, entries), 0);
    EQUAL(ibv_close_device(context), 0);
}

static bool reads(const struct ibv_device *device, const char *name, const char *wanted)
{
    char path[600], text[200] = "";
    snprintf(path, sizeof path, "%s/%s", device->ibdev_path, name);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 && !strncmp(text, wanted, strlen(wanted));
}

TEST(files, "numa=1,bandwidth=100")
{
    struct ibv_context *context = open_named("mlx5_1");
    struct ibv_device *device = context->device;
    char end[600], *whole;
    CHECK(reads(device, "ports/1/gids/3", "0000:0000:0000:0000:0000:ffff:c633:6402\n"));
    CHECK(reads(device, "ports/1/gids/9", "0000:0000:0000:0000:0000:0000:0000:0000\n"));
    CHECK(reads(device, "ports/1/gid_attrs/types/3", "RoCE v2\n"));
    CHECK(reads(device, "ports/1/gid_attrs/types/2", "IB/RoCE v1\n"));
    CHECK(reads(device, "ports/1/gid_attrs/ndevs/3", "roce1\n"));
    CHECK(!reads(device, "ports/1/gid_attrs/types/9", ""));
    CHECK(reads(device, "ports/1/state", "4: ACTIVE\n"));
    CHECK(reads(device, "ports/1/link_layer", "Ethernet\n"));
    CHECK(reads(device, "ports/1/rate", "100 Gb/sec"));
    CHECK(reads(device, "device/numa_node", "1\n"));
    snprintf(end, sizeof end, "%s/device", device->ibdev_path);
    CHECK(whole = realpath(end, NULL));
    CHECK(strstr(whole, "/sys/devices/pci0000:10/0000:10:01.0"));
    free(whole);
    EQUAL(ibv_close_device(context), 0);
}

TEST(limits_on_objects, "max_qp=2,max_cq=2,max_mr=2,max_pd=2,max_qp_wr=64,max_sge=4,max_cqe=100")
{
    struct ibv_context *context = open_first();
    struct ibv_pd *pd[2];
    struct ibv_cq *cq[2];
    struct ibv_qp *qp[2];
    struct ibv_mr *mr[2];
    static char bytes[4096];
    for (int i = 0; i < 2; i++)
        CHECK(pd[i] = ibv_alloc_pd(context));
    CHECK(!ibv_alloc_pd(context) && errno == ENOMEM);
    CHECK(!ibv_create_cq(context, 101, NULL, NULL, 0) && errno == EINVAL);
    CHECK(!ibv_create_cq(context, 0, NULL, NULL, 0) && errno == EINVAL);
    for (int i = 0; i < 2; i++)
        CHECK(cq[i] = ibv_create_cq(context, 100, NULL, NULL, 0));
    CHECK(cq[0]->cqe >= 100);
    CHECK(!ibv_create_cq(context, 100, NULL, NULL, 0) && errno == ENOMEM);
    struct ibv_qp_init_attr init = {.send_cq = cq[0], .recv_cq = cq[1], .qp_type = IBV_QPT_RC};
    struct ibv_qp_init_attr large = init;
    large.cap.max_send_wr = 65;
    CHECK(!ibv_create_qp(pd[0], &large) && errno == EINVAL);
    large = init;
    large.cap.max_send_sge = 5;
    CHECK(!ibv_create_qp(pd[0], &large) && errno == EINVAL);
    large = init;
    large.qp_type = IBV_QPT_UD;
    CHECK(!ibv_create_qp(pd[0], &large) && errno == EOPNOTSUPP);
    for (int i = 0; i < 2; i++)
        CHECK(qp[i] = ibv_create_qp(pd[0], &init));
    CHECK(!ibv_create_qp(pd[0], &init) && errno == ENOMEM);
    for (int i = 0; i < 2; i++)
        CHECK(mr[i] = ibv_reg_mr(pd[0], bytes, sizeof bytes, ALL_ACCESS));
    CHECK(mr[0]->rkey != mr[1]->rkey);
    CHECK(!ibv_reg_mr(pd[0], bytes, sizeof bytes, ALL_ACCESS) && errno == ENOMEM);
    /* Nothing goes before what depends on it. */
    EQUAL(ibv_dealloc_pd(pd[0]), EBUSY);
    EQUAL(ibv_destroy_cq(cq[1]), EBUSY);
    CHECK(ibv_close_device(context) && errno == EBUSY);
    for (int i = 0; i < 2; i++) {
        EQUAL(ibv_destroy_qp(qp[i]), 0);
        EQUAL(ibv_dereg_mr(mr[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        EQUAL(ibv_destroy_cq(cq[i]), 0);
        EQUAL(ibv_dealloc_pd(pd[i]), 0);
    }
    EQUAL(ibv_close_device(context), 0);
}

TEST(registration, "max_mr_size=1M")
{
    struct ibv_context *context = open_first();
    struct ibv_pd *pd = ibv_alloc_pd(context);
    struct ibv_mr *mr;
    size_t size = 2 << 20;
    char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
#define REFUSED(error, address, length, access) \
    CHECK(!ibv_reg_mr(pd, address, length, access) && errno == error)
    REFUSED(EINVAL, bytes, 0, ALL_ACCESS);
    REFUSED(EINVAL, bytes, size, ALL_ACCESS);
    REFUSED(EINVAL, bytes, (size_t)-1, ALL_ACCESS);
    REFUSED(EINVAL, bytes, 4096, IBV_ACCESS_REMOTE_WRITE); /* needs LOCAL_WRITE */
    REFUSED(EOPNOTSUPP, bytes, 4096, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_ON_DEMAND);
    REFUSED(EFAULT, (void *)4096, 4096, ALL_ACCESS);
    EQUAL(munmap(bytes + 65536, 4096), 0);
    REFUSED(EFAULT, bytes, 1 << 17, ALL_ACCESS);
    EQUAL(mprotect(bytes, 4096, PROT_READ), 0);
    REFUSED(EFAULT, bytes, 4096, ALL_ACCESS);
    CHECK(mr = ibv_reg_mr(pd, bytes, 4096, IBV_ACCESS_REMOTE_READ));
    EQUAL(ibv_dereg_mr(mr), 0);
    CHECK(mr = ibv_reg_mr_iova2(pd, bytes + 4096, 4096, 0x1000, ALL_ACCESS | IBV_ACCESS_RELAXED_ORDERING));
    EQUAL(mr->length, 4096);
    CHECK(mr->addr == bytes + 4096 && mr->pd == pd && mr->context == context);
    EQUAL(ibv_dereg_mr(mr), 0);
    CHECK(!ibv_reg_dmabuf_mr(pd, 0, 4096, 0, 1, ALL_ACCESS) && errno == EOPNOTSUPP);
    EQUAL(ibv_dealloc_pd(pd), 0);
    EQUAL(ibv_close_device(context), 0);
}

TEST(locked_memory, "memlock=1M")
{
    static char bytes[2 << 20];
    struct ibv_context *context = open_first();
    struct ibv_pd *pd = ibv_alloc_pd(context);
    struct ibv_mr *mr = ibv_reg_mr(pd, bytes, 900000, ALL_ACCESS);
    CHECK(mr);
    CHECK(!ibv_reg_mr(pd, bytes, 200000, ALL_ACCESS) && errno == ENOMEM);
    EQUAL(ibv_dereg_mr(mr), 0);
    CHECK(mr = ibv_reg_mr(pd, bytes, 200000, ALL_ACCESS));
    EQUAL(ibv_dereg_mr(mr), 0);
    EQUAL(ibv_dealloc_pd(pd), 0);
    EQUAL(ibv_close_device(context), 0);
}

/* An address of the device's own: iova is what peers and pieces name. */
TEST(other_addresses, "dmabuf=1")
{
    struct end a, b;
    struct ibv_mr *mr;
    pair_open(&a, &b, 65536, (struct depth){0});
    CHECK(mr = ibv_reg_mr_iova(b.pd, b.bytes + 4096, 4096, 0x700000, ALL_ACCESS));
    memset(a.bytes, 3, 8);
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, 0x700010, mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    EQUAL(b.bytes[4096 + 16], 3);
    EQUAL(ibv_dereg_mr(mr), 0);
    CHECK(mr = ibv_reg_dmabuf_mr(b.pd, 0, 4096, (uintptr_t)b.bytes, 1, ALL_ACCESS));
    EQUAL(post(&a, IBV_WR_RDMA_WRITE, 1, (uintptr_t)b.bytes, mr->rkey, 8, IBV_SEND_SIGNALED), 0);
    EQUAL(next_status(a.cq), IBV_WC_SUCCESS);
    EQUAL(b.bytes[0], 3);
    EQUAL(ibv_dereg_mr(mr), 0);
    end_close(&a);
    end_close(&b);
}

TEST(newer_calls, "")
{
    static const char *const names[] = {"ibv_reg_mr_iova2", "_ibv_query_gid_ex", "_ibv_query_gid_table",
                                        "ibv_reg_dmabuf_mr"};
    const char *old = getenv("SOFTNIC_OLD");
    CHECK(old);
    void *library = dlopen(old, RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    for (int i = 0; i < 4; i++) {
        CHECK(dlvsym(RTLD_DEFAULT, names[i], i == 0 ? "IBVERBS_1.8" : i == 3 ? "IBVERBS_1.12" : "IBVERBS_1.11"));
        CHECK(!dlsym(library, names[i]));
    }
    CHECK(dlsym(library, "ibv_reg_mr"));
}

TEST(words, "")
{
    CHECK(!strcmp(ibv_wc_status_str(IBV_WC_RETRY_EXC_ERR), "transport retry counter exceeded"));
    CHECK(!strcmp(ibv_wc_status_str(1000), "unknown"));
    CHECK(!strcmp(ibv_event_type_str(IBV_EVENT_PORT_ERR), "port error"));
    CHECK(!strcmp(ibv_port_state_str(IBV_PORT_ACTIVE), "PORT_ACTIVE"));
}
