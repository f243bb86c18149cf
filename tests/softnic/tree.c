/*
 * The part of /sys that programs read beside verbs, below FOLDER/host-N:
 *
 *   sys/devices/pci0000:10/0000:10:0D.0/          of device D
 *       numa_node, {current,max}_link_{width,speed}
 *       infiniband/mlx5_D/{device,node_guid,fw_ver,ports/1/...}
 *   sys/class/infiniband/mlx5_D                   a link there
 *   sys/class/infiniband_verbs/uverbsD/ibdev, dev/infiniband/uverbsD
 */
#define _GNU_SOURCE
#include "settings.h"

#include <infiniband/verbs.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void tree_root(int host, char *path, size_t size)
{
    snprintf(path, size, "%s/host-%d", fabric_folder(), host);
}

static void make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* Replaces a file by renaming, so that a reader sees the old or the new text. */
__attribute__((format(printf, 3, 4))) static void put(const char *folder, const char *name,
                                                      const char *format, ...)
{
    char path[600], fresh[640];
    va_list args;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(fresh, sizeof fresh, "%s.%d", path, (int)gettid());
    FILE *file = fopen(fresh, "we");
    if (!file && errno == ENOENT) {
        make_folders(path);
        file = fopen(fresh, "we");
    }
    if (!file)
        return;
    va_start(args, format);
    vfprintf(file, format, args);
    va_end(args);
    fclose(file);
    rename(fresh, path);
}

static void device_folder(int port, char *path, size_t size)
{
    char root[300];
    int device = port % MAX_DEVICES;
    tree_root(port / MAX_DEVICES, root, sizeof root);
    snprintf(path, size, "%s/sys/devices/pci0000:10/0000:10:%02x.0/infiniband/mlx5_%d", root,
             device, device);
}

static void put_gid(const char *folder, int port, int index)
{
    char name[40], text[50];
    struct gid_slot slot;
    port_gid(port, index, &slot);
    for (int i = 0; i < 8; i++)
        sprintf(text + 5 * i, "%02x%02x%s", slot.raw[2 * i], slot.raw[2 * i + 1], i < 7 ? ":" : "");
    snprintf(name, sizeof name, "gids/%d", index);
    put(folder, name, "%s\n", text);
    if (slot.type < 0)
        return;
    snprintf(name, sizeof name, "gid_attrs/types/%d", index);
    put(folder, name, "%s\n", slot.type == IBV_GID_TYPE_ROCE_V2 ? "RoCE v2" : "IB/RoCE v1");
    snprintf(name, sizeof name, "gid_attrs/ndevs/%d", index);
    if (slot.type != IBV_GID_TYPE_IB)
        put(folder, name, "roce%d\n", port % MAX_DEVICES);
}

static void drop_attributes(const char *folder)
{
    static const char *const kinds[] = {"types", "ndevs"};
    char path[600];
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < 4; i++) {
            snprintf(path, sizeof path, "%s/gid_attrs/%s/%d", folder, kinds[k], i);
            unlink(path);
        }
}

static void write_port(int port)
{
    char device[450], folder[500];
    struct shared_port *shared = &fabric->ports[port];
    bool ib = setting(shared, SET_LINK) == LINK_IB, up = setting(shared, SET_PORT);
    uint64_t bits = setting(shared, SET_BANDWIDTH);
    device_folder(port, device, sizeof device);
    snprintf(folder, sizeof folder, "%s/ports/1", device);
    put(folder, "state", up ? "4: ACTIVE\n" : "1: DOWN\n");
    put(folder, "phys_state", up ? "5: LinkUp\n" : "3: Disabled\n");
    put(folder, "link_layer", ib ? "InfiniBand\n" : "Ethernet\n");
    put(folder, "rate", "%g Gb/sec (4X)\n", bits ? bits / 1e9 : 200.0);
    put(folder, "lid", "0x%x\n", ib ? port + 1 : 0);
    drop_attributes(folder);
    for (int i = 0; i < GID_TABLE; i++)
        put_gid(folder, port, i);
}

static void link_to(const char *target, const char *path)
{
    char *copy = strdup(path);
    make_folders(copy);
    free(copy);
    if (symlink(target, path) && errno != EEXIST)
        perror("softnic: symlink");
}

bool tree_exists(int port)
{
    char device[450];
    device_folder(port, device, sizeof device);
    return access(device, F_OK) == 0;
}

void tree_update(int port)
{
    if (tree_exists(port))
        write_port(port);
}

static void write_device(int port)
{
    char root[300], device[450], path[600], target[100];
    int d = port % MAX_DEVICES;
    tree_root(port / MAX_DEVICES, root, sizeof root);
    device_folder(port, device, sizeof device);
    put(device, "node_guid", "0200:5eff:fe00:53%02x\n", port + 1);
    put(device, "sys_image_guid", "0200:5eff:fe00:53%02x\n", port + 1);
    put(device, "fw_ver", "1.0.0\n");
    put(device, "node_type", "1: CA\n");
    put(device, "board_id", "SOFTNIC\n");
    put(device, "../../vendor", "0x02c9\n");
    put(device, "../../current_link_width", "16\n");
    put(device, "../../max_link_width", "16\n");
    put(device, "../../current_link_speed", "32.0 GT/s PCIe\n");
    put(device, "../../max_link_speed", "32.0 GT/s PCIe\n");
    write_port(port);
    snprintf(path, sizeof path, "%s/device", device);
    snprintf(target, sizeof target, "../../../0000:10:%02x.0", d);
    link_to(target, path);
    snprintf(path, sizeof path, "%s/sys/class/infiniband/mlx5_%d", root, d);
    snprintf(target, sizeof target, "../../devices/pci0000:10/0000:10:%02x.0/infiniband/mlx5_%d", d, d);
    link_to(target, path);
    snprintf(path, sizeof path, "sys/class/infiniband_verbs/uverbs%d/ibdev", d);
    put(root, path, "mlx5_%d\n", d);
    snprintf(path, sizeof path, "dev/infiniband/uverbs%d", d);
    put(root, path, "%s", "");
}

void tree_write(int host, int ndev)
{
    for (int d = 0; d < ndev; d++) {
        char device[450];
        int port = host * MAX_DEVICES + d;
        write_device(port);
        device_folder(port, device, sizeof device);
        put(device, "../../numa_node", "%d\n", limits.numa < 0 ? d % 2 : limits.numa);
    }
}
