/*
 * Looks at a running software NIC, and changes it:
 *
 *   softnicctl show
 *   softnicctl set PORT KEY=VALUE...    PORT: mlx5_1, 2/mlx5_1 (of host 2), or all
 *   softnicctl event PORT NAME          port_err port_active gid_change lid_change fatal
 *   softnicctl qps                      number, port, process, state, counters, attributes
 *   softnicctl watch                    when work requests are posted; see watch.c
 *
 * set port=down and port=up raise their events, and so do gids, gidnet and fatal.
 */
#include "softnic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int watch(void);

static int usage(void)
{
    fprintf(stderr, "usage: softnicctl show | qps | watch | set PORT KEY=VALUE... | event PORT NAME\n");
    return 2;
}

/* Calls act for each port that `name` means; their number. */
static int each_port(const char *name, const char *wanted, const char *(*act)(int, const char *))
{
    int host = 0, device = -1, found = 0;
    bool all = !strcmp(name, "all");
    if (!all && sscanf(name, "%d/mlx5_%d", &host, &device) != 2 && sscanf(name, "mlx5_%d", &device) != 1)
        return 0;
    for (int port = 0; port < MAX_PORTS; port++) {
        if (!all && port != host * MAX_DEVICES + device)
            continue;
        const char *wrong = act(port, wanted);
        found++;
        if (wrong) {
            fprintf(stderr, "softnicctl: %s: %s\n", wanted, wrong);
            exit(2);
        }
    }
    return found;
}

static void raise_for(int port, enum setting which, uint64_t before)
{
    uint64_t now = setting(&fabric->ports[port], which);
    if (now == before)
        return;
    if (which == SET_PORT)
        port_raise(port, now ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR);
    else if (which == SET_FATAL && now)
        port_raise(port, IBV_EVENT_DEVICE_FATAL);
    else if (which == SET_GIDS || which == SET_GID_NET)
        port_raise(port, IBV_EVENT_GID_CHANGE);
}

static const char *change(int port, const char *entry)
{
    static const enum setting with_event[] = {SET_PORT, SET_FATAL, SET_GIDS, SET_GID_NET};
    uint64_t before[4];
    for (int i = 0; i < 4; i++)
        before[i] = setting(&fabric->ports[port], with_event[i]);
    const char *wrong = setting_apply(port, entry);
    if (wrong)
        return wrong;
    settings_changed(port);
    tree_update(port);
    for (int i = 0; i < 4; i++)
        raise_for(port, with_event[i], before[i]);
    port_wake(port);
    return NULL;
}

static const char *event(int port, const char *name)
{
    static const struct {
        const char *name;
        enum ibv_event_type type;
    } events[] = {
        {"port_err", IBV_EVENT_PORT_ERR},       {"port_active", IBV_EVENT_PORT_ACTIVE},
        {"gid_change", IBV_EVENT_GID_CHANGE},   {"lid_change", IBV_EVENT_LID_CHANGE},
        {"pkey_change", IBV_EVENT_PKEY_CHANGE}, {"fatal", IBV_EVENT_DEVICE_FATAL},
    };
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (!strcmp(events[i].name, name)) {
            port_raise(port, events[i].type);
            return NULL;
        }
    return "no such event";
}

static void show(void)
{
    for (int i = 0; i < MAX_PROCS; i++)
        if (atomic_load(&fabric->procs[i].pid))
            printf("process %d%s\n", atomic_load(&fabric->procs[i].pid), proc_alive(i) ? "" : " (dead)");
    for (int port = 0; port < MAX_PORTS; port++) {
        struct shared_port *shared = &fabric->ports[port];
        if (!tree_exists(port))
            continue;
        printf("%d/mlx5_%d: pds=%d mrs=%d cqs=%d qps=%d", port / MAX_DEVICES, port % MAX_DEVICES,
               atomic_load(&shared->pds), atomic_load(&shared->mrs), atomic_load(&shared->cqs),
               atomic_load(&shared->qps));
        settings_print(port);
    }
}

static void show_qps(void)
{
    static const char *const states[] = {"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"};
    for (uint32_t i = 0; i < atomic_load(&fabric->top_qp); i++) {
        struct shared_qp *qp = &fabric->qps[i];
        uint32_t number = atomic_load(&qp->number), owner = atomic_load(&qp->owner);
        if (!number || !owner)
            continue;
        printf("%u port=%u/mlx5_%u pid=%d state=%s peer=%u posted=%llu executed=%llu signalled=%llu"
               " doorbells=%llu bytes=%llu",
               number, qp->port / MAX_DEVICES, qp->port % MAX_DEVICES,
               atomic_load(&fabric->procs[owner - 1].pid), states[atomic_load(&qp->state) % 7],
               qp->peer_number, (unsigned long long)atomic_load(&qp->posted),
               (unsigned long long)atomic_load(&qp->executed),
               (unsigned long long)atomic_load(&qp->signalled),
               (unsigned long long)atomic_load(&qp->doorbells), (unsigned long long)atomic_load(&qp->bytes));
        printf(" access=%u pkey=%u mtu=%u hop=%u tc=%u sl=%u rnr_timer=%u reads_in=%u rq_psn=%u timeout=%u retries=%u"
               " rnr_retries=%u reads=%u sq_psn=%u\n",
               atomic_load(&qp->access), qp->pkey_index, qp->mtu, qp->hop_limit, qp->traffic_class,
               qp->service_level, qp->rnr_timer, qp->max_reads, qp->rq_psn, qp->timeout, qp->retries,
               qp->rnr_retries, qp->own_reads, qp->sq_psn);
    }
}

int main(int argc, char **argv)
{
    int failed = fabric_map();
    if (failed || atomic_load(&fabric->magic) == 0) {
        fprintf(stderr, "softnicctl: no software NIC runs in %s\n", fabric_folder());
        return 1;
    }
    if (argc == 2 && !strcmp(argv[1], "show"))
        show();
    else if (argc == 2 && !strcmp(argv[1], "qps"))
        show_qps();
    else if (argc == 2 && !strcmp(argv[1], "watch"))
        return watch();
    else if (argc >= 4 && !strcmp(argv[1], "set")) {
        for (int i = 3; i < argc; i++)
            if (!each_port(argv[2], argv[i], change))
                return usage();
    } else if (argc == 4 && !strcmp(argv[1], "event")) {
        if (!each_port(argv[2], argv[3], event))
            return usage();
    } else {
        return usage();
    }
    return 0;
}
