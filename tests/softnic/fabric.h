/*
 * What all processes share: one file, mapped by each, that holds the ports, the queue
 * pairs and the memory keys of every process on this machine. A NIC looks up its peers
 * here, and moves the bytes itself.
 *
 * Every field that a second process may read while it changes is atomic. Nothing here
 * is a pointer.
 */
#ifndef SOFTNIC_FABRIC_H
#define SOFTNIC_FABRIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MAX_PROCS = 256,
    MAX_HOSTS = 15,
    MAX_DEVICES = 16, /* of one host */
    MAX_PORTS = MAX_HOSTS * MAX_DEVICES,
    MAX_QPS = 1 << 16,
    MAX_MRS = 1 << 20,
    MAX_EVENTS = 64,
};

#define CACHE_LINE 64
#define OWN_LINE _Alignas(CACHE_LINE)

/* Live settings of a port; their names and units are in settings.c. */
enum setting {
    SET_MODE,
    SET_RATE,      /* work requests a second, 0: no limit */
    SET_BANDWIDTH, /* bits a second, 0: no limit */
    SET_LATENCY,   /* ns */
    SET_BURST,     /* ns of tokens that a busy port may catch up with */
    SET_RETRY,     /* ns until a peer that does not answer is given up, 0: from the QP */
    SET_PORT,
    SET_GIDS,
    SET_GID_NET,
    SET_LINK,
    SET_FREEZE,
    SET_SILENT,
    SET_UNREACHABLE,
    SET_LATE,     /* ns */
    SET_FAIL_AT,  /* the work request that fails, counted from 1; 0: none */
    SET_FAIL_FOR, /* how many fail from there on */
    SET_FAIL_STATUS,
    SET_FAIL_QP, /* of this QP only, 0: of the port */
    SET_FATAL,
    SET_DEAD_GIDS,
    SET_DEAD_GID_ERRNO,
    SETTINGS,
};

enum { MODE_COPY, MODE_NULL };
enum { LINK_ROCE, LINK_IB };
enum { GIDS_V2_AT_3, GIDS_V2_AT_1, GIDS_V1_ONLY, GIDS_NONE };

/* What one process's NIC thread of one device waits on. */
struct bell {
    OWN_LINE _Atomic uint32_t rung; /* the futex */
    _Atomic uint32_t asleep;
    _Atomic uint32_t look;  /* counts what the thread has to look at but new work */
    _Atomic uint64_t epoch; /* odd while the thread looks at keys and moves bytes */
};

struct proc {
    OWN_LINE _Atomic int pid; /* 0: free */
    uint64_t started;         /* field 22 of /proc/PID/stat */
    struct bell bells[MAX_DEVICES];
};

struct shared_event {
    uint32_t type; /* enum ibv_event_type */
};

struct shared_port {
    OWN_LINE _Atomic uint64_t settings[SETTINGS];
    _Atomic uint32_t inline_ok; /* null mode and nothing that needs a thread */
    _Atomic uint32_t paced;     /* a rate, a bandwidth or a latency is set */
    _Atomic uint32_t events;    /* ever raised */
    struct shared_event event[MAX_EVENTS];
    OWN_LINE _Atomic uint64_t sent;     /* virtual clocks, see pace.c */
    OWN_LINE _Atomic uint64_t received;
    OWN_LINE _Atomic uint64_t messages;
    OWN_LINE _Atomic uint64_t counted; /* work requests, for SET_FAIL_AT */
    _Atomic int qps, mrs, cqs, pds;    /* objects that exist */
};

struct shared_qp {
    OWN_LINE _Atomic uint32_t number; /* 0: free */
    _Atomic uint32_t owner;           /* index of the process, plus 1 */
    _Atomic uint32_t state;           /* enum ibv_qp_state */
    _Atomic uint32_t broken;          /* an enum ibv_event_type plus 1 that the owner has to be told */
    _Atomic uint32_t access;
    uint32_t port, pd;
    uint32_t peer_number, peer_port;
    uint32_t rq_psn;
    uint32_t max_reads;
    _Atomic uint32_t generation;
    /* What the QP was told, for tests. */
    uint8_t mtu, hop_limit, traffic_class, service_level, rnr_timer, timeout, retries, rnr_retries, own_reads;
    uint16_t pkey_index;
    uint32_t sq_psn;
    OWN_LINE _Atomic uint64_t posted; /* counters for tests; the owner writes them */
    _Atomic uint64_t doorbells, signalled, executed, bytes;
};

struct shared_mr {
    OWN_LINE _Atomic uint32_t key; /* 0: not in use */
    _Atomic uint32_t owner;        /* index of the process, plus 1 */
    uint32_t port, pd, access;
    _Atomic uint32_t generation;
    uint64_t address, iova, length;
};

struct fabric {
    OWN_LINE _Atomic uint64_t magic;
    _Atomic uint32_t next_qp, next_mr; /* where to look for a free entry */
    _Atomic uint32_t top_qp, top_mr;   /* no entry from here on was ever used */
    _Atomic uint32_t next_pd;
    struct proc procs[MAX_PROCS];
    struct shared_port ports[MAX_PORTS];
    struct shared_qp qps[MAX_QPS];
    struct shared_mr mrs[MAX_MRS];
};

extern struct fabric *fabric; /* NULL before fabric_join */
extern int own_proc;          /* index of this process, -1 before fabric_join */

const char *fabric_folder(void);
int fabric_map(void);   /* maps the file; 0 or an errno */
int fabric_join(void);  /* maps and takes a process entry, after clearing what the dead left */
void fabric_leave(void);
void fabric_clear_dead(void);
bool proc_alive(int index);

uint32_t qp_take(int port);     /* its number, 0 when the table is full */
void qp_give(uint32_t number);
struct shared_qp *qp_find(uint32_t number); /* NULL when no such QP exists */
uint32_t mr_take(void);         /* an index with a key ready in *key, not yet published */
struct shared_mr *mr_at(uint32_t index);
struct shared_mr *mr_find(uint32_t key);
uint32_t mr_new_key(uint32_t index);
void mr_give(uint32_t index);

/* Returns once no NIC thread of any process still works with what was valid before. */
void fabric_quiesce(void);

void bell_ring(struct bell *bell);       /* wakes the thread if it sleeps */
void bell_wait(struct bell *bell, uint32_t seen, uint64_t ns);
uint64_t now_ns(void);

#endif
