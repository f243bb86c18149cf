/* Opening and closing lanes: their memory, and their place in the port's table.
 *
 * The arrays of a closed lane are freed. The lane itself and its queues, a few hundred
 * bytes each, stay until the port is closed, their gates held: a call that comes late
 * finds a broken lane with nobody behind the gates. */
#include "port_internal.h"

#include <stdlib.h>

static void *zeroed(size_t count, size_t size) {
    size_t bytes = (count * size + LINE - 1) / LINE * LINE;
    void *memory = aligned_alloc(LINE, bytes);
    if (memory != NULL)
        memset(memory, 0, bytes);
    return memory;
}

static uint32_t power_of_two(uint32_t at_least) {
    uint32_t n = 1;
    while (n < at_least)
        n *= 2;
    return n;
}

static void free_queue(struct mcp_queue *q) {
    free(q->sges);
    free(q->wrs);
    free(q->firsts);
    free(q->runs);
    free(q->loads);
    free(q->ring);
    q->sges = NULL;
    q->wrs = NULL;
    q->firsts = NULL;
    q->runs = NULL;
    q->loads = NULL;
    q->ring = NULL;
}

static int make_requests(struct mcp_queue *q, uint32_t sges) {
    q->wrs = zeroed(CHAIN, sizeof *q->wrs);
    q->sges = zeroed((size_t)CHAIN * sges, sizeof *q->sges);
    q->list = sges;
    if (q->wrs == NULL || q->sges == NULL)
        return ENOMEM;
    for (uint32_t i = 0; i + 1 < CHAIN; i++)
        q->wrs[i].next = &q->wrs[i + 1];
    return 0;
}

/* Everything but the gate, which stays held. */
static void clear_queue(struct mcp_queue *q) {
    size_t gate = offsetof(struct mcp_queue, gate), behind = gate + sizeof q->gate;
    memset(q, 0, gate);
    memset((char *)q + behind, 0, sizeof *q - behind);
}

static int make_queue(struct mcp_queue *q, struct mcp_lane *lane, struct ibv_qp *qp, uint32_t index) {
    const struct mcp_lane_config *config = &lane->config;
    uint32_t slots = power_of_two(config->depth);
    clear_queue(q);
    q->lane = lane;
    q->qp = qp;
    q->qp_number = qp->qp_num;
    q->index = index;
    q->depth = config->depth;
    q->chain = (config->depth + 1) / 2 < CHAIN ? (config->depth + 1) / 2 : CHAIN;
    q->ring_mask = config->ring - 1;
    q->slot_mask = slots - 1;
    q->ring = zeroed(config->ring, sizeof *q->ring);
    q->loads = zeroed(config->ring, sizeof *q->loads);
    q->runs = zeroed(slots, sizeof *q->runs);
    q->firsts = zeroed(slots, sizeof *q->firsts);
    if (q->ring == NULL || q->loads == NULL || q->runs == NULL || q->firsts == NULL)
        return ENOMEM;
    return make_requests(q, config->gather > config->scatter ? config->gather : config->scatter);
}

/* A closed lane with enough queues, or a new one. */
static struct mcp_lane *lane_for(struct mcp_port *port, uint32_t count) {
    pthread_mutex_lock(&port->pools);
    struct mcp_lane **link = &port->lanes;
    while (*link != NULL && (*link)->capacity < count)
        link = &(*link)->pooled;
    struct mcp_lane *lane = *link;
    if (lane != NULL)
        *link = lane->pooled;
    pthread_mutex_unlock(&port->pools);
    if (lane != NULL)
        return lane;

    lane = zeroed(1, sizeof *lane);
    struct mcp_queue *queues = zeroed(count, sizeof *queues);
    if (lane == NULL || queues == NULL) {
        free(lane);
        free(queues);
        return NULL;
    }
    lane->port = port;
    lane->queues = queues;
    lane->capacity = count;
    atomic_store(&lane->broken, 1);
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&queues[i].gate.word, GATE_HELD);
    pthread_mutex_init(&lane->feeding, NULL);
    return lane;
}

static void pool(struct mcp_lane *lane) {
    for (uint32_t i = 0; i < lane->count; i++)
        free_queue(&lane->queues[i]);
    pthread_mutex_lock(&lane->port->pools);
    lane->pooled = lane->port->lanes;
    lane->port->lanes = lane;
    pthread_mutex_unlock(&lane->port->pools);
}

/* The rest is under the polling gate. */

static int grow_table(struct mcp_port *port) {
    uint32_t slots = port->slots == 0 ? 64 : port->slots * 2;
    if (slots > 1u << 16)
        return ENOSPC;
    struct mcp_queue **table = realloc(port->table, slots * sizeof *table);
    if (table != NULL)
        port->table = table;
    uint16_t *generations = realloc(port->generations, slots * sizeof *generations);
    if (generations != NULL)
        port->generations = generations;
    if (table == NULL || generations == NULL)
        return ENOMEM;
    for (uint32_t i = port->slots; i < slots; i++) {
        port->table[i] = NULL;
        port->generations[i] = 0;
    }
    port->slots = slots;
    return 0;
}

static int admit_queue(struct mcp_port *port, struct mcp_queue *q) {
    uint32_t i = 0;
    while (i < port->slots && port->table[i] != NULL)
        i++;
    if (i == port->slots) {
        int rc = grow_table(port);
        if (rc != 0)
            return rc;
    }
    q->place = i;
    q->id = (uint64_t)i << 48 | (uint64_t)port->generations[i] << 32;
    port->table[i] = q;
    return 0;
}

static void expel(struct mcp_port *port, struct mcp_lane *lane, uint32_t queues) {
    for (uint32_t i = 0; i < queues; i++) {
        uint32_t place = lane->queues[i].place;
        port->table[place] = NULL;
        port->generations[place]++;
    }
}

/* Each request of each queue may come back on its own, as a flush; a completion queue
 * that overflows is lost with all that uses it. */
static int admit(struct mcp_port *port, struct mcp_lane *lane) {
    uint64_t depths = (uint64_t)lane->config.depth * lane->count;
    if (port->promised + depths > (uint64_t)port->cq->cqe)
        return ENOSPC;
    for (uint32_t i = 0; i < lane->count; i++) {
        int rc = admit_queue(port, &lane->queues[i]);
        if (rc != 0) {
            expel(port, lane, i);
            return rc;
        }
    }
    port->promised += depths;
    return 0;
}

static void reset(struct mcp_lane *lane, uint32_t count, const struct mcp_lane_config *config) {
    lane->count = count;
    lane->config = *config;
    lane->gather_bytes = config->gather_bytes < MCP_LONGEST ? config->gather_bytes : MCP_LONGEST;
    lane->id = lane->node.id = config->id;
    atomic_store(&lane->restless, count);
    atomic_store(&lane->failure_taken, 0);
    atomic_store(&lane->failure_known, 0);
    lane->undone_queue = 0;
    lane->undone_begun = false;
}

static bool is_valid(uint32_t count, const struct mcp_lane_config *c) {
    return count > 0 && count <= MCP_MAX_QUEUES && c->depth > 0 && c->depth <= 1u << 20 && c->gather > 0 &&
           c->scatter > 0 && c->read_depth > 0 && c->ring > 0 && (c->ring & (c->ring - 1)) == 0 &&
           c->ring <= 1u << 24;
}

int mcp_lane_open(struct mcp_port *port, struct ibv_qp **qps, uint32_t count, const struct mcp_lane_config *config,
                  struct mcp_lane **out) {
    if (!is_valid(count, config))
        return EINVAL;
    struct mcp_lane *lane = lane_for(port, count);
    if (lane == NULL)
        return ENOMEM;
    reset(lane, count, config);
    int rc = 0;
    for (uint32_t i = 0; i < count; i++)
        rc = make_queue(&lane->queues[i], lane, qps[i], i) != 0 ? ENOMEM : rc;
    if (rc == 0) {
        gate_hold(&port->polling);
        rc = admit(port, lane);
        port_leave(port);
    }
    if (rc != 0) {
        pool(lane);
        return rc;
    }
    atomic_store_explicit(&lane->broken, 0, memory_order_release);
    for (uint32_t i = 0; i < count; i++)
        atomic_store_explicit(&lane->queues[i].gate.word, GATE_FREE, memory_order_release);
    *out = lane;
    return 0;
}

/* Behind all gates: whether pieces wait or are in flight. Those of a broken lane that
 * came to rest have been told. */
static bool is_idle(struct mcp_lane *lane) {
    if (is_broken(lane))
        return atomic_load_explicit(&lane->restless, memory_order_acquire) == 0;
    for (uint32_t i = 0; i < lane->count; i++) {
        struct mcp_queue *q = &lane->queues[i];
        if (atomic_load(&q->retired) != atomic_load(&q->posted) || atomic_load(&q->next) != atomic_load(&q->fed))
            return false;
    }
    return lane->owing == NULL;
}

int mcp_lane_close(struct mcp_lane *lane) {
    struct mcp_port *port = lane->port;
    gate_hold(&port->polling);
    for (uint32_t i = 0; i < lane->count; i++)
        gate_hold(&lane->queues[i].gate);
    pthread_mutex_lock(&lane->feeding);
    bool idle = is_idle(lane);
    if (idle) {
        atomic_store_explicit(&lane->broken, 1, memory_order_release);
        for (uint32_t i = 0; i < lane->count; i++) {
            port_calm(&lane->queues[i]);
            atomic_store_explicit(&lane->queues[i].parted, 1, memory_order_release);
        }
        lane->generation++;
        expel(port, lane, lane->count);
        port->promised -= (uint64_t)lane->config.depth * lane->count;
    }
    pthread_mutex_unlock(&lane->feeding);
    if (!idle)
        for (uint32_t i = 0; i < lane->count; i++)
            port_let_go(&lane->queues[i]);
    port_leave(port);
    if (!idle)
        return EBUSY;
    port_forget_event(port, &lane->node);
    pool(lane);
    return 0;
}
