/*
 * mooncake.h: the manual of libmooncake.so.
 *
 * An engine moves bytes between registered memory of this process and
 * registered memory of a peer process: KV-cache pages between LLM servers.
 *
 *     mc_engine_open -> mc_register -> mc_segment_open -> mc_submit -> mc_wait
 *
 * Words. An *engine* is one process's endpoint. A *memory* is one registered
 * range of this process. A *segment* is the address space that a peer's engine
 * publishes. A *batch* is the blocks submitted, and waited for, together. A *page
 * pool* hands out numbers of KV-cache pages; it needs no engine.
 *
 * Results. Every function returns int: MC_OK (0), or a negative MC_E... code;
 * the text of the calling thread's last failure is mc_last_error(). Results go
 * through out pointers, which are written on success only unless said
 * otherwise. An out pointer that is not called optional must not be NULL.
 *
 * Handles are integers with a kind and a generation. A handle that was closed,
 * that was never given out, or that is of another kind, is answered with
 * MC_EHANDLE. Zero is never a valid handle.
 *
 * Pointers that cannot be read or written are answered with MC_EINVAL, in
 * general: a SIGSEGV handler installed after the library was loaded takes the fault
 * first. An array that becomes inaccessible in the middle is found when it is read.
 *
 * Threads. Every function may be called from any thread at any time, also
 * several at once on one object.
 *
 * Memory. The library never frees, moves or keeps memory of the caller beyond
 * what is said: strings and arrays are read during the call only; registered
 * memory stays the caller's, who must keep it mapped until it is deregistered.
 *
 * Strings are NUL-terminated UTF-8. Addresses are absolute virtual addresses.
 * Lengths are bytes. Timeouts are milliseconds.
 *
 * Fork. The library does not survive fork() in the child: every function
 * called there answers MC_EFORKED. Load it after the fork, or use spawn.
 *
 * Signals. Loading the library installs the Go runtime's signal handlers
 * (SIGSEGV, SIGBUS, SIGFPE, SIGPIPE, SIGURG and others), with SA_ONSTACK; they
 * forward what is not theirs to the handlers that were there before.
 */
#ifndef MOONCAKE_H
#define MOONCAKE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- types ---------------------------------------------------------------- */

typedef uint64_t mc_engine_t;  /* from mc_engine_open, ended by mc_engine_close */
typedef uint64_t mc_memory_t;  /* from mc_register, ended by mc_deregister */
typedef uint64_t mc_segment_t; /* from mc_segment_open, ended by mc_segment_close */
typedef uint64_t mc_batch_t;   /* from mc_submit, mc_submit_pages, mc_batch_open; ended by
                                  mc_batch_close */
typedef uint64_t mc_pages_t;   /* from mc_pages_create, ended by mc_pages_destroy */

/* Status codes. One for each thing a caller can act on. */
enum {
    MC_OK = 0,
    MC_EINVAL = -1,       /* an argument is malformed; the text names it */
    MC_EHANDLE = -2,      /* closed, stale, or another kind of handle */
    MC_ENOTFOUND = -3,    /* no such buffer, notification, host name, or request with pages */
    MC_EADDR = -4,        /* an address range is outside every registered memory */
    MC_EOVERLAP = -5,     /* the range overlaps memory that is registered already */
    MC_EFULL = -6,        /* a table or buffer limit was reached; the text names it */
    MC_ETIMEDOUT = -7,    /* the wait ended first; what was waited for goes on */
    MC_EDEADLINE = -8,    /* the batch ran into its deadline and was ended */
    MC_ECANCELED = -9,    /* the batch was cancelled */
    MC_EPEER = -10,       /* the peer cannot be reached, or broke the protocol */
    MC_ERESTARTED = -11,  /* another process answers at the peer's address now */
    MC_EREJECTED = -12,   /* the peer refused the address range */
    MC_EFENCED = -13,     /* the peer fenced this engine off while the batch ran */
    MC_EDEVICE = -14,     /* a local device or the operating system failed */
    MC_EUNSUPPORTED = -15,/* this build or host cannot do it */
    MC_EFORKED = -16,     /* called in a forked child */
    MC_EINTERNAL = -17,   /* a bug of the library; the text has the stack */
    MC_ENOPAGES = -18,    /* fewer pages are free than were asked for */
    MC_EPAGE = -19        /* a page is free already, of another request, or of another pool */
};

/* Direction of a batch, seen from this process. */
enum {
    MC_READ = 0, /* from the segment into local memory */
    MC_WRITE = 1 /* from local memory into the segment */
};

/* State of a batch. */
enum {
    MC_BATCH_RUNNING = 0,
    MC_BATCH_DONE = 1,  /* every byte is in destination memory and visible there */
    MC_BATCH_FAILED = 2 /* see error and quiet */
};

/* What is known, after a failure, about late bytes. */
enum {
    /* Nothing is known yet (the batch runs), or nothing needs to be (done). */
    MC_QUIET_NONE = 0,
    /* Nothing can touch the pages any more, here or at the peer: the peer's
     * end of every connection that carried the batch is known to be closed. */
    MC_QUIET_BOTH = 1,
    /* Nothing in this process touches the pages any more. The peer could not
     * confirm (it is frozen, or unreachable), so bytes that had reached its host
     * may still be written there: do not let the peer reuse the destination
     * pages of a write before it answers again or is known to be dead. */
    MC_QUIET_LOCAL = 2
};

/* Set in mc_batch_status_t.flags: at least one block was written to a peer whose
 * protocol (version 1 of the TCP framing) cannot acknowledge writes. The bytes
 * were sent and the peer closed the connection in order, no more is known. */
enum { MC_FLAG_UNCONFIRMED = 1 };

/* Progress or outcome of a batch. */
typedef struct mc_batch_status {
    uint32_t state;        /* MC_BATCH_... */
    uint32_t quiet;        /* MC_QUIET_... */
    int32_t error;         /* MC_OK, or why the batch failed */
    uint32_t flags;        /* MC_FLAG_... */
    uint64_t blocks;       /* blocks submitted; of page groups, pages times layers */
    uint64_t runs;         /* contiguous runs found in them, so far */
    uint64_t bytes;        /* bytes submitted */
    uint64_t bytes_done;   /* bytes whose arrival is confirmed (v1 writes: sent) */
    uint64_t duration_ns;  /* from mc_submit to now, or to the end of the batch */
    uint64_t joined_local; /* runs that begin where the one before ends, locally only */
    uint64_t joined_remote;/* the same, in the segment only */
} mc_batch_status_t;

/* How to open an engine. Zero-fill it, set struct_size, then what you need. */
typedef struct mc_engine_options {
    uint64_t struct_size;      /* sizeof(mc_engine_options_t) */
    const char *metadata;      /* "P2PHANDSHAKE", or NULL for that. Others: MC_EUNSUPPORTED */
    const char *protocol;      /* "tcp", "rdma", or NULL: rdma where it can be used, else tcp. Asked
                                  for by name and not usable, rdma is one line in the log, and tcp;
                                  with MC_FORCE_HCA in the environment it is an error */
    const char *devices;       /* RDMA devices, comma separated; "" or NULL for all. The first
                                  that can be used is; see mc_rdma_ports */
    uint32_t rpc_port;         /* port of the handshake listener; 0 picks one at random from
                                  MC_MIN_RPC_PORT..MC_MAX_RPC_PORT (15000..17000) */
    uint32_t reserved;         /* must be 0 */
} mc_engine_options_t;

/* Memory that page numbers count in: of local page p it is the length bytes at
 * local_base + p * local_stride, of remote page q those at remote_base + q *
 * remote_stride. Addresses are absolute; strides and length are bytes. */
typedef struct mc_layer {
    uint64_t local_base;
    uint64_t remote_base;
    uint64_t local_stride;  /* from a page to the next */
    uint64_t remote_stride;
    uint64_t length;        /* of a page, to be moved */
} mc_layer_t;

/* One pair of page lists and the layers that share it: in every layer page
 * local_pages[i] goes with page remote_pages[i]. */
typedef struct mc_page_group {
    const void *local_pages;  /* page_count numbers of local_width bytes, none below 0 */
    const void *remote_pages; /* page_count numbers of remote_width bytes, none below 0 */
    uint64_t page_count;
    uint32_t local_width;     /* 4: int32_t, 8: int64_t */
    uint32_t remote_width;    /* the same, of remote_pages */
    const mc_layer_t *layers; /* layer_count */
    uint64_t layer_count;
} mc_page_group_t;

/* Counters of an engine since it was opened; they never go down but for those of what there
 * is now: memories, batches_open, connections and peers_local. */
typedef struct mc_engine_stats {
    uint64_t batches;            /* batches submitted */
    uint64_t batches_failed;     /* of them, ended in failure (cancelled and expired included) */
    uint64_t blocks;             /* blocks submitted */
    uint64_t runs;               /* contiguous runs they were merged to */
    uint64_t bytes_written;      /* confirmed bytes of this engine's own writes; over rdma of batches
                                    that have ended */
    uint64_t bytes_read;         /* the same, of its own reads */
    uint64_t served_written;     /* bytes that peers wrote into this engine's memory; over rdma
                                    neither these nor the next two are counted: only the device
                                    sees what peers do */
    uint64_t served_read;        /* bytes that peers read from this engine's memory */
    uint64_t served_rejected;    /* requests of peers that were refused */
    uint64_t connections_opened; /* data connections opened by this engine */
    uint64_t retries;            /* slices sent again after a broken connection */
    uint64_t batches_self;       /* batches moved within this process */
    uint64_t bytes_self;         /* confirmed bytes of them */
    uint64_t batches_local;      /* batches moved in memory, with other processes of this host */
    uint64_t bytes_local;        /* confirmed bytes of them */
    uint64_t bytes_packed;       /* of bytes_local, those that went through shared memory */
    uint64_t local_refused;      /* times a peer on this host had to be reached over the network */
    uint64_t memories;           /* memories registered now */
    uint64_t batches_open;       /* batch handles not closed yet */
    uint64_t connections;        /* incoming data connections now, of peers in this process too;
                                    over rdma in both directions */
    uint64_t peers_local;        /* peers that this engine reaches in memory now */
    uint64_t messages;           /* sent for its own batches: requests over tcp; work requests over
                                    rdma; on one host slots of shared memory and system calls; 0
                                    within the process */
    uint64_t batch_ns;           /* time of all batches that have ended, from submit to end */
    uint64_t batches_rdma;       /* batches moved over rdma */
    uint64_t bytes_rdma;         /* confirmed bytes of them */
} mc_engine_stats_t;

/* Kinds of page pools. */
enum {
    MC_PAGES_RUNS = 0,  /* keeps runs long */
    MC_PAGES_FIFO = 1,  /* a list: freed pages go to its end */
    MC_PAGES_SORTED = 2 /* a list: freed pages are kept apart, and sorted in when it runs short */
};

/* As a request that gives pages back: whichever requests hold them. */
#define MC_ANYONE UINT64_MAX

/* A page pool at one moment. A run is consecutive page numbers; those of a list's free
 * pages are runs in the order in which it will give them. */
typedef struct mc_pages_stats {
    uint64_t pages;           /* of the pool */
    uint64_t pages_free;      /* that can be had, set aside or not */
    uint64_t pages_reserved;  /* of the free ones, those set aside for requests to grow into */
    uint64_t pages_allocated; /* that requests hold */
    uint64_t requests;        /* that hold pages */
    uint64_t runs_allocated;  /* runs that the pages of requests are in */
    uint64_t runs_free;       /* maximal runs of free pages */
    uint64_t longest_free;    /* pages of the longest of them */
    double fragmentation;     /* 1 - longest_free / pages_free; 0 when no page is free */
    uint64_t histogram[64];   /* free runs by length: element k those of 2^k to 2^(k+1)-1 pages */
} mc_pages_stats_t;

/* The Go side of the library includes this header for its types only: cgo
 * cannot spell the const of the prototypes. */
#ifndef MC_TYPES_ONLY

/* ---- library -------------------------------------------------------------- */

/* mc_version returns the library's version, such as "0.1.0". Static storage. */
const char *mc_version(void);

/* mc_last_error returns the text of the calling thread's last failed call, ""
 * if none failed. The text stays valid until that thread's next mc_ call. */
const char *mc_last_error(void);

/* mc_status_name returns the name of a status code, such as "MC_EPEER", or
 * "MC_UNKNOWN". Static storage. */
const char *mc_status_name(int status);

/* mc_local_topology writes this host's memory locations and the RDMA devices
 * near each as JSON, {"cpu:0": [[preferred...], [others...]]}. devices is a comma
 * separated list that limits the devices; NULL or "" for all. At most capacity
 * bytes are written, NUL included; *out_length is the length without NUL of
 * the whole text, written also with MC_EFULL (capacity is too small).
 * out may be NULL when capacity is 0. Does not block.
 * Returns MC_OK, MC_EFULL, MC_EINVAL. */
int mc_local_topology(const char *devices, char *out, uint64_t capacity, uint64_t *out_length);

/* mc_rdma_ports writes, as JSON, how an engine opened with devices (NULL or "": those of
 * MC_TE_FILTERS, else all) and the MC_* variables of now sees the RDMA ports of this host:
 *   {"ports": [{"device": "mlx5_0", "port": 1, "state": "active", "mtu": 4096,
 *               "link_layer": "Ethernet", "lid": 0, "rate_gbps": 200,
 *               "pcie": {"width": 16, "max_width": 16, "speed": 32, "max_speed": 32, "gbps": 504.1},
 *               "gids": [{"index": 3, "address": "198.51.100.1", "type": "RoCE v2",
 *                         "interface": "eth0", "reason": "routable, with an interface"}],
 *               "chosen": 3, "used": true, "error": ""}],
 *    "why": ""}
 * rate_gbps is the link's, 0 if unknown. pcie is how the device is attached to the host: lanes, GT/s a
 * lane, and what that carries each way at most; null if unknown, as of software devices.
 * gids are those that are set, the best first, chosen is the index of the one that peers are
 * told, null if there is none. used: it is the one port that the engine uses. error says why the
 * port, or the device, cannot be used and what to do; it is no error of this call. A host
 * without RDMA has no ports, and why says what is missing. out, capacity, out_length as in
 * mc_local_topology.
 * Blocks for milliseconds: each device is opened for a moment.
 * Returns MC_OK, MC_EFULL, MC_EINVAL (an argument cannot be read). */
int mc_rdma_ports(const char *devices, char *out, uint64_t capacity, uint64_t *out_length);

/* ---- engine --------------------------------------------------------------- */

/* mc_engine_open starts an engine: it listens for handshakes and data before
 * the call returns. name is the host that peers reach this process at: an IPv4
 * or IPv6 address (bare or in brackets), a host name, or any of them with
 * ":port"; the port is ignored unless MC_LEGACY_RPC_PORT_BINDING is set (it is
 * picked, see options). options may be NULL. The MC_* environment variables are
 * read here, once, with getenv(3).
 * May block for milliseconds.
 * A malformed variable is answered with a line in the log and the default.
 * Peers on other hosts are reached over rdma or, by an engine without it and by those who do
 * not offer it, over tcp. An engine uses one port of one device, MC_IB_PORT of the first of devices
 * that can be used: libibverbs is loaded here, and the device opened. With MC_FORCE_HCA there is
 * no tcp beside it, and an error names the device and what to do.
 * Returns MC_OK; MC_EINVAL (name empty, name or option malformed); MC_EDEVICE (no
 * free port); MC_EUNSUPPORTED (metadata store, protocol). With MC_FORCE_HCA also MC_EDEVICE (no
 * device, no permission, port down, no GID), MC_EINVAL (no device or port of that name),
 * MC_EUNSUPPORTED (libibverbs is missing), MC_EFULL (the device has no room). */
int mc_engine_open(const char *name, const mc_engine_options_t *options, mc_engine_t *out);

/* mc_engine_close ends an engine: it fails the batches in flight, stops serving
 * peers, waits until nothing of this process touches registered memory, and
 * invalidates the engine's memories, segments and batches.
 * Blocks, usually for milliseconds, at most for a few seconds; longer only for a
 * peer process that is stopped in the middle of a copy, as mc_deregister does.
 * Returns MC_OK, MC_EHANDLE. */
int mc_engine_close(mc_engine_t engine);

/* mc_engine_rpc_port gives the port of the handshake listener: peers open this
 * engine as "<host>:<port>". Does not block. Returns MC_OK, MC_EHANDLE. */
int mc_engine_rpc_port(mc_engine_t engine, uint16_t *out);

/* mc_engine_session writes the engine's segment name, "<host>:<port>" with an
 * IPv6 host in brackets. capacity, out_length as in mc_local_topology.
 * Does not block. Returns MC_OK, MC_EHANDLE, MC_EFULL. */
int mc_engine_session(mc_engine_t engine, char *out, uint64_t capacity, uint64_t *out_length);

/* mc_engine_stats reads the engine's counters. Does not block.
 * Returns MC_OK, MC_EHANDLE. */
int mc_engine_stats(mc_engine_t engine, mc_engine_stats_t *out);

/* ---- memory --------------------------------------------------------------- */

/* mc_register makes [address, address+length) usable as local memory of this
 * engine's batches, and open to reads and writes of every peer, at once. The
 * memory must be mapped; it is not touched. Memory mapped read-only can be read
 * by peers and be the source of writes. location names where it lives, such as
 * "cpu:0" or "*"; NULL for "*".
 * Restrictions: keep it mapped until mc_deregister has returned.
 * Does not block on the network.
 * Returns MC_OK; MC_EINVAL (address 0, length 0, wraps around); MC_EOVERLAP;
 * MC_EADDR (not mapped in this process); MC_EUNSUPPORTED (GPU memory: this
 * build moves host memory only); MC_EFULL (the description of all memories would
 * exceed MC_HANDSHAKE_MAX_LENGTH, so that peers could not open this engine; the RDMA
 * device has no room); MC_EDEVICE (also: the limit of locked memory, ulimit -l, is too low for
 * the RDMA device); MC_EHANDLE. */
int mc_register(mc_engine_t engine, uint64_t address, uint64_t length, const char *location,
                mc_memory_t *out);

/* mc_register_batch registers count ranges, all or none. addresses, lengths and
 * out are arrays of count elements; count 0 does nothing. Published once.
 * Returns as mc_register; the text names the index at fault. */
int mc_register_batch(mc_engine_t engine, const uint64_t *addresses, const uint64_t *lengths,
                      uint64_t count, const char *location, mc_memory_t *out);

/* mc_deregister ends a registration. When it returns, nobody reads or writes the
 * memory for this library: it waits for batches of this engine that use it
 * (until their end or deadline), and for the piece that a peer is moving right
 * now; the rest of that peer's request is refused, over rdma by the device. A peer process on this host
 * that is stopped (SIGSTOP) in the middle of a copy is waited for until it goes
 * on or ends; the log names it. Memory registered anew at the same address is
 * not open to batches of peers on this host that began before.
 * Blocks. Returns MC_OK, MC_EHANDLE. */
int mc_deregister(mc_memory_t memory);

/* mc_deregister_batch ends count registrations: every valid handle, also when
 * others of the array are not valid. Blocks.
 * Returns MC_OK, or MC_EHANDLE if at least one handle was not valid. */
int mc_deregister_batch(const mc_memory_t *memories, uint64_t count);

/* ---- segments ------------------------------------------------------------- */

/* mc_segment_open finds the peer "<host>:<port>" (its session) and reads which
 * memory it has registered. The segment stands for that process: when another
 * one answers at the same address later, batches fail with MC_ERESTARTED and
 * the segment must be opened again. The engine's own session may be opened.
 * Blocks for a connection and one message (MC_HANDSHAKE_CONNECT_TIMEOUT).
 * Returns MC_OK; MC_EINVAL (empty name, no or bad port); MC_ENOTFOUND (the host
 * name does not resolve); MC_EPEER (refused, no or malformed answer);
 * MC_EUNSUPPORTED (the peer offers no transport that this engine has);
 * MC_EHANDLE. */
int mc_segment_open(mc_engine_t engine, const char *name, mc_segment_t *out);

/* mc_segment_buffer gives range index of the memory that the peer had
 * registered when it was last asked, in the peer's order. Does not block.
 * Returns MC_OK, MC_ENOTFOUND (index past the last), MC_EHANDLE. */
int mc_segment_buffer(mc_segment_t segment, uint64_t index, uint64_t *out_address,
                      uint64_t *out_length);

/* mc_segment_stale tells whether the peer process behind the segment is known to
 * be gone: *out 1 if so, else 0. Does not block. Returns MC_OK, MC_EHANDLE. */
int mc_segment_stale(mc_segment_t segment, int32_t *out);

/* mc_segment_connect makes the connection that the segment's first batch would otherwise wait
 * for, and returns when it is there: over rdma one message to the peer (two with another
 * implementation). Over tcp and in memory there is nothing to wait for. Several segments may be
 * connected at once, from as many threads. timeout_ms >= 0 waits at most so long, and the
 * connection is made all the same; < 0 until it is there or failed, which takes
 * MC_HANDSHAKE_CONNECT_TIMEOUT at most, twice.
 * Blocks. Returns MC_OK; MC_ETIMEDOUT; MC_EPEER (no answer, or one that makes no sense; the
 * peer has another number of queue pairs); MC_ERESTARTED; MC_EDEVICE (the port is down); MC_EFULL (the
 * device has no room for one more connection); MC_EHANDLE. */
int mc_segment_connect(mc_segment_t segment, int64_t timeout_ms);

/* mc_segment_close gives the handle back; batches in flight go on. Does not
 * block. Returns MC_OK, MC_EHANDLE. */
int mc_segment_close(mc_segment_t segment);

/* ---- batches -------------------------------------------------------------- */

/* mc_submit starts to move count blocks between local memory and segment, and
 * returns without waiting for them. Block i is length[i] bytes between
 * local[i] and remote[i], absolute addresses. Every block must lie within
 * registered memory on both sides. With at most 16384 blocks all are checked before
 * the first byte moves; a longer call is checked and moved piece by piece, so that
 * its first bytes leave as early as those of a short one.
 * Neighbours that are contiguous on both sides are moved as one run, in whichever order
 * the two are named. Blocks of length 0 are done at once; so is an empty batch. Blocks
 * have no order; where destinations overlap the result is one of the blocks, byte by
 * byte; where, within one process, a source overlaps a destination it is anything.
 * deadline_ms ends the batch when it is not done by then: > 0 from now; 0 for
 * the default (MC_TRANSFER_TIMEOUT seconds, 30, plus 1 ns a byte); < 0 for none.
 * A connection that breaks is opened again and its blocks are sent once more,
 * after it is known that the old connection can deliver nothing.
 * Restrictions: until the batch ends do not change the source of a write, and
 * do not use the destination of a read. The arrays may be freed on return.
 * Blocks while a window of data is handed to the kernel, and for one message
 * to the peer when a remote range is not known yet.
 * Returns MC_OK; MC_EINVAL (op, an array that cannot be read, a range that wraps
 * around, read-only memory as the destination of a read); MC_EADDR (the text names
 * the block, and the side); MC_EPEER, MC_ENOTFOUND, MC_ERESTARTED (the peer was
 * asked for its ranges); MC_EDEVICE; MC_EHANDLE. On error *out is 0, and no byte was
 * moved, unless the arrays were changed during the call or it has more than 16384
 * blocks: then some blocks may have been moved, and the call has cancelled the rest
 * and waited until nothing in this process touches its pages. */
int mc_submit(mc_segment_t segment, uint32_t op, const uint64_t *local, const uint64_t *remote,
              const uint64_t *length, uint64_t count, int64_t deadline_ms, mc_batch_t *out);

/* mc_transfer is mc_submit, mc_wait and mc_batch_close in one call: it moves blocks and
 * waits until they have arrived. timeout_ms >= 0 waits at most so long, < 0 without
 * limit. status (optional) is written whenever the arguments could be read: all 0 if
 * no batch began.
 * Blocks, outside the Go runtime. Restrictions as for mc_submit.
 * Returns what mc_submit and mc_wait do. With MC_ETIMEDOUT *out is the batch, which
 * goes on: wait for it, and close it. Else *out is 0 and nothing is left to close. */
int mc_transfer(mc_segment_t segment, uint32_t op, const uint64_t *local, const uint64_t *remote,
                const uint64_t *length, uint64_t count, int64_t deadline_ms, int64_t timeout_ms,
                mc_batch_status_t *status, mc_batch_t *out);

/* mc_submit_pages starts to move the pages of count groups between local memory and
 * segment, and returns without waiting for them. It is mc_submit of the block list that has,
 * for each group, for each of its layers, a block for each of its pages, at the cost of the page
 * lists and the layers: 4,096 pages in 160 layers are 4,256 entries to read, not 655,360.
 * Stretches in which both lists go up by one from page to page, or both down by one, are
 * found once for a group, and are one run in every layer whose strides are both its length.
 * In others (slices of heads, padded pages) each page is a run of its own; consecutive layers with
 * equal strides of which each page begins where that of the layer before ends are moved as one.
 * Order: groups leave one after the other, and each layer by layer. Blocks have no order
 * among each other, as in mc_submit.
 * Every page must lie within registered memory on both sides, in every layer. With at
 * most 16384 pages in all groups together everything is checked before the first byte moves;
 * more are checked and moved 16384 pages at a time, each time in all of their layers.
 * A layer of length 0 moves nothing, and no address of it is looked at. Pages may overlap in the
 * source (a length that exceeds its stride, a page that is named twice). In the
 * destination a length that exceeds the stride is refused unless the group has one page only; a
 * page that is named twice gets one of the two, byte by byte.
 * deadline_ms, restrictions and blocking as in mc_submit. groups, layers and page lists are read
 * during the call only, and may be freed on return.
 * Returns MC_OK; MC_EINVAL (op; a group's field, lists that cannot be read, a number below
 * 0, a length that exceeds the destination's stride, a range that wraps around, read-only memory as
 * the destination of a read); MC_EADDR; else as mc_submit. The text names the group, and the
 * layer and the page by their index. On error *out is 0, and no byte was moved, unless there
 * are more than 16384 pages: then as in a long mc_submit. */
int mc_submit_pages(mc_segment_t segment, uint32_t op, const mc_page_group_t *groups,
                    uint64_t count, int64_t deadline_ms, mc_batch_t *out);

/* mc_transfer_pages is mc_submit_pages, mc_wait and mc_batch_close in one call; timeout_ms,
 * status, out, blocking and what it returns beside that of mc_submit_pages as in mc_transfer. */
int mc_transfer_pages(mc_segment_t segment, uint32_t op, const mc_page_group_t *groups,
                      uint64_t count, int64_t deadline_ms, int64_t timeout_ms,
                      mc_batch_status_t *status, mc_batch_t *out);

/* mc_batch_open begins a batch whose blocks come in pieces, the first of them moving
 * while later ones are still being made: mc_batch_add, as often as need be, and
 * mc_batch_seal, without which the batch does not end well. Local memory must be
 * registered before. op and deadline_ms as in mc_submit; the time runs from here on.
 * Blocks for one message to the peer when it must be asked whether it is the same.
 * Returns MC_OK; MC_EINVAL (op); MC_EPEER, MC_ENOTFOUND, MC_ERESTARTED; MC_EDEVICE;
 * MC_EHANDLE. */
int mc_batch_open(mc_segment_t segment, uint32_t op, int64_t deadline_ms, mc_batch_t *out);

/* mc_batch_add gives a batch from mc_batch_open count more blocks; arrays, checks, blocking
 * and errors as in mc_submit, and errors count blocks from the batch's first. On MC_EINVAL
 * (but for a sealed batch or an array that cannot be read), MC_EADDR and those of the peer
 * the batch fails with that code, what was added before included; mc_wait tells when its
 * pages are quiet. A batch that has ended, or was cancelled, takes no more and answers
 * MC_OK: mc_wait has its outcome.
 * Returns MC_OK; as mc_submit; MC_EHANDLE (batch). */
int mc_batch_add(mc_batch_t batch, const uint64_t *local, const uint64_t *remote,
                 const uint64_t *length, uint64_t count);

/* mc_batch_seal says that a batch gets no more blocks: it ends when those it has are
 * moved. Sealing twice, or a batch that was not opened by mc_batch_open, does nothing.
 * Blocks as mc_submit.
 * Returns MC_OK, MC_EHANDLE. */
int mc_batch_seal(mc_batch_t batch);

/* mc_poll reads progress or outcome. Never blocks.
 * Returns MC_OK (whatever the batch's state), MC_EHANDLE. */
int mc_poll(mc_batch_t batch, mc_batch_status_t *out);

/* mc_wait waits until the batch has ended: timeout_ms >= 0 at most so long, < 0
 * without limit. status (optional) is written whenever the handle is valid.
 * A wait that times out cancels nothing. Several threads may wait.
 * Blocks, outside the Go runtime.
 * Returns MC_OK (done); MC_ETIMEDOUT; MC_EHANDLE (also: the engine was closed);
 * MC_EINVAL (status); else why the batch failed: MC_EDEADLINE, MC_ECANCELED,
 * MC_EPEER, MC_EREJECTED, MC_ERESTARTED, MC_EFENCED, MC_EADDR (local memory was
 * unmapped meanwhile); mc_last_error() says whether the peer is quiet. */
int mc_wait(mc_batch_t batch, int64_t timeout_ms, mc_batch_status_t *status);

/* mc_cancel asks the batch to end: nothing more is posted, the little in flight
 * drains or its connection is broken, and then the batch fails with
 * MC_ECANCELED. A batch that ended before stays as it is. Does not block: use
 * mc_wait to learn when the pages are quiet. Returns MC_OK, MC_EHANDLE. */
int mc_cancel(mc_batch_t batch);

/* mc_batch_fd gives a file descriptor that becomes readable when the batch ends
 * (for poll, epoll, asyncio). It belongs to the batch and is closed with it.
 * Does not block. Returns MC_OK, MC_EHANDLE, MC_EDEVICE. */
int mc_batch_fd(mc_batch_t batch, int32_t *out);

/* mc_batch_close gives the handle back. A batch that still runs is cancelled and
 * waited for until nothing here touches its pages.
 * Blocks if the batch runs. Returns MC_OK, MC_EHANDLE. */
int mc_batch_close(mc_batch_t batch);

/* ---- peers ---------------------------------------------------------------- */

/* mc_probe asks the peer "<host>:<port>" whether it is alive. timeout_ms bounds it
 * and must be > 0. Blocks. Returns MC_OK, MC_EINVAL, MC_ENOTFOUND, MC_EPEER,
 * MC_EHANDLE. */
int mc_probe(mc_engine_t engine, const char *peer, int64_t timeout_ms);

/* mc_fence makes sure that batches which the peer "<host>:<port>" has started so
 * far can write no more bytes into this process: it retires the peer's data
 * connections and waits until nothing of them is served; the peer's batches fail
 * there with MC_EFENCED, its later ones work. Call it before pages are freed that
 * a failed peer may still be writing. Peers of another implementation do not say
 * who they are: for them every data connection from that host that carries no
 * name is retired; they may connect anew and send again.
 * timeout_ms bounds it and must be > 0. Blocks.
 * Returns MC_OK, MC_EINVAL, MC_ENOTFOUND, MC_ETIMEDOUT, MC_EHANDLE. */
int mc_fence(mc_engine_t engine, const char *peer, int64_t timeout_ms);

/* mc_notify_send leaves a notification, two strings, with the peer "<host>:<port>".
 * Blocks for one message. Returns MC_OK, MC_EINVAL, MC_ENOTFOUND, MC_EPEER (also
 * when the peer's list is full), MC_EHANDLE. */
int mc_notify_send(mc_engine_t engine, const char *peer, const char *name, const char *message);

/* mc_notify_take takes the oldest notification that peers left here. At most
 * name_capacity and message_capacity bytes are written, NUL included; the out
 * lengths are those of the whole strings, without NUL, written also with MC_EFULL:
 * a buffer is too small and nothing was taken. Never blocks.
 * Returns MC_OK, MC_ENOTFOUND (none), MC_EFULL, MC_EHANDLE. */
int mc_notify_take(mc_engine_t engine, char *name, uint64_t name_capacity,
                   uint64_t *out_name_length, char *message, uint64_t message_capacity,
                   uint64_t *out_message_length);

/* ---- page pools ------------------------------------------------------------ */

/* mc_pages_create makes a pool of the count pages from page first, all of them free. A pool
 * knows numbers only, not what a page weighs nor where it lies. kind is one of MC_PAGES_...:
 * MC_PAGES_RUNS keeps the pages of a request in few runs, so that its KV cache moves in few
 * pieces; the two others are what it is compared with, and can be used in its place. flags must
 * be 0.
 *
 * Requests have numbers that the caller chooses, any but MC_ANYONE. A request begins with
 * mc_pages_alloc and ends when its last page is given back. A call that fails changes nothing,
 * but for one whose arrays become inaccessible meanwhile.
 *
 * With MC_PAGES_RUNS a request grows into the free pages behind its last one. Some of those can
 * be set aside for it, its room, which others get only when they would else have to be split:
 * then the room in the shortest gap between requests that is long enough is given back, as much
 * as is needed. Room never makes a call fail. A request that has used up its room gets more as
 * it grows. A run takes 64 bytes, and nothing is kept for each page; a list takes 20 bytes a
 * page.
 * Does not block. Returns MC_OK; MC_EINVAL (count 0, a number above INT64_MAX, kind, flags;
 * more than 2^27 pages in a list). */
int mc_pages_create(uint64_t first, uint64_t count, uint32_t kind, uint32_t flags, mc_pages_t *out);

/* mc_pages_destroy gives the handle back, and the pool's memory when calls on other threads are
 * done. Does not block. Returns MC_OK, MC_EHANDLE. */
int mc_pages_destroy(mc_pages_t pool);

/* mc_pages_alloc gives a new request count pages, and sets up to room more aside behind them.
 * Their numbers are written to pages, in the request's order. pages may be NULL when capacity
 * is 0: then they are not, and mc_pages_runs tells them.
 * Does not block. Returns MC_OK; MC_EINVAL (count 0, the request holds pages already or is
 * MC_ANYONE); MC_ENOPAGES; MC_EFULL (capacity is not 0 and below count); MC_EHANDLE. */
int mc_pages_alloc(mc_pages_t pool, uint64_t request, uint64_t count, uint64_t room, int64_t *pages,
                   uint64_t capacity);

/* mc_pages_grow gives a request count pages more. pages, capacity and errors as in
 * mc_pages_alloc.
 * Returns MC_OK; MC_ENOTFOUND (the request holds no pages); MC_ENOPAGES; MC_EFULL; MC_EHANDLE. */
int mc_pages_grow(mc_pages_t pool, uint64_t request, uint64_t count, int64_t *pages,
                  uint64_t capacity);

/* mc_pages_grow_batch grows many requests, as a step of decoding does: requests[i] by counts[i]
 * pages, which may be 0, or each by one if counts is NULL; count is the length of both arrays.
 * The numbers are written to pages, those of requests[0] first; *out_count is how many, written
 * also with MC_EFULL. All grow or none.
 * Does not block. Returns as mc_pages_grow; MC_EINVAL (an array that cannot be read). The text
 * names the request. */
int mc_pages_grow_batch(mc_pages_t pool, const uint64_t *requests, const uint64_t *counts,
                        uint64_t count, int64_t *pages, uint64_t capacity, uint64_t *out_count);

/* mc_pages_reserve changes how many pages are set aside for a request: to room, or as many as
 * are free right behind it if that is less; *out_room (optional) is how many. 0 gives all back,
 * as is right for a request that will grow no more but keeps its pages. Returns MC_OK,
 * MC_ENOTFOUND, MC_EHANDLE. */
int mc_pages_reserve(mc_pages_t pool, uint64_t request, uint64_t room, uint64_t *out_room);

/* mc_pages_free gives count pages back, in any order: pages of that request, or of any with
 * MC_ANYONE. Pages at the end of a request that has room become room. All are given back or
 * none.
 * Returns MC_OK; MC_EPAGE (a page is not of this pool, is free already, or is another
 * request's: the text has its number); MC_EINVAL (a page is listed twice; the array cannot be
 * read); MC_EHANDLE. */
int mc_pages_free(mc_pages_t pool, uint64_t request, const int64_t *pages, uint64_t count);

/* mc_pages_release gives back all pages of a request, *out_count (optional) in number.
 * Returns MC_OK, MC_ENOTFOUND, MC_EHANDLE. */
int mc_pages_release(mc_pages_t pool, uint64_t request, uint64_t *out_count);

/* mc_pages_runs tells the pages of a request as runs in the order in which it got them: run i
 * is runs[2*i+1] pages from page runs[2*i] on. runs has room for capacity runs; *out_count is
 * how many there are, written also with MC_EFULL: then runs is not. runs may be NULL when
 * capacity is 0.
 * Returns MC_OK, MC_EFULL, MC_ENOTFOUND, MC_EHANDLE. */
int mc_pages_runs(mc_pages_t pool, uint64_t request, uint64_t *runs, uint64_t capacity,
                  uint64_t *out_count);

/* mc_pages_stats describes the pool as it is now. Of a list it looks at every page. Returns
 * MC_OK, MC_EHANDLE. */
int mc_pages_stats(mc_pages_t pool, mc_pages_stats_t *out);

#endif /* MC_TYPES_ONLY */

#ifdef __cplusplus
}
#endif

#endif /* MOONCAKE_H */
