/*
 * Verbs by dlopen. The library is never linked: our own is loaded on hosts that have no
 * RDMA, and finds out when it is asked for a device.
 *
 * Every function gives 0 or an errno, and what it makes through the last argument.
 * Calls that a signal interrupted are made again. The structs are flat, for Go sees a
 * union as an array of bytes.
 */
#ifndef MCV_SHIM_H
#define MCV_SHIM_H

#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>

/* Loads libibverbs.so.1, once. Returns NULL, or a text that lives on: why it failed. */
const char *mcv_load(void);

/* Whether the loaded library has what older ones lack. */
int mcv_has_dmabuf(void);
int mcv_has_relaxed_ordering(void);
int mcv_has_gid_table(void);

int mcv_devices(struct ibv_device ***list, int *count);
void mcv_free_devices(struct ibv_device **list);
int mcv_open(struct ibv_device *device, struct ibv_context **context);
int mcv_close(struct ibv_context *context);

int mcv_query_device(struct ibv_context *context, struct ibv_device_attr *attributes);
int mcv_query_port(struct ibv_context *context, int port, struct ibv_port_attr *attributes);

struct mcv_gid {
	uint8_t raw[16];
	uint32_t port;
	uint32_t index;
	uint32_t type;      /* enum ibv_gid_type */
	uint32_t interface; /* its index, 0: none */
};
/* All GIDs of a device, of all its ports: at most max of them, count is how many. */
int mcv_query_gid_table(struct ibv_context *context, struct mcv_gid *gids, size_t max, size_t *count);
int mcv_query_gid(struct ibv_context *context, int port, int index, uint8_t raw[16]);

int mcv_alloc_pd(struct ibv_context *context, struct ibv_pd **pd);
int mcv_dealloc_pd(struct ibv_pd *pd);

/* access has IBV_ACCESS_RELAXED_ORDERING only if mcv_has_relaxed_ordering. */
int mcv_reg_mr(struct ibv_pd *pd, uint64_t address, uint64_t length, unsigned access, struct ibv_mr **mr);
int mcv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, uint64_t length, uint64_t iova, int fd, int access,
		      struct ibv_mr **mr);
int mcv_dereg_mr(struct ibv_mr *mr);

int mcv_create_comp_channel(struct ibv_context *context, struct ibv_comp_channel **channel);
int mcv_destroy_comp_channel(struct ibv_comp_channel *channel);
int mcv_create_cq(struct ibv_context *context, int depth, struct ibv_comp_channel *channel, struct ibv_cq **cq);
int mcv_destroy_cq(struct ibv_cq *cq);
/* Takes one event from the channel; EAGAIN if it does not block and has none. */
int mcv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq);
void mcv_ack_cq_events(struct ibv_cq *cq, unsigned count);

struct mcv_qp_limits {
	uint32_t send_depth;
	uint32_t sges;
	uint32_t inline_bytes;
};
/* A reliable connection. limits: what is wanted, then what was granted. */
int mcv_create_qp(struct ibv_pd *pd, struct ibv_cq *cq, struct mcv_qp_limits *limits, struct ibv_qp **qp);
int mcv_destroy_qp(struct ibv_qp *qp);
int mcv_query_qp_state(struct ibv_qp *qp, int *state);

struct mcv_init {
	uint32_t port;
	uint32_t pkey_index;
	uint32_t access;
};
struct mcv_rtr {
	uint32_t mtu; /* enum ibv_mtu */
	uint32_t remote_qp;
	uint32_t receive_psn;
	uint32_t max_reads_in;
	uint32_t min_rnr_timer;
	uint32_t port;
	uint32_t global; /* whether gid, gid_index, hop_limit, traffic_class and flow_label count */
	uint8_t gid[16];
	uint32_t gid_index;
	uint32_t hop_limit;
	uint32_t traffic_class;
	uint32_t flow_label;
	uint32_t lid;
	uint32_t service_level;
	uint32_t source_path_bits;
	uint32_t static_rate;
};
struct mcv_rts {
	uint32_t timeout;
	uint32_t retry_count;
	uint32_t rnr_retry;
	uint32_t send_psn;
	uint32_t max_reads;
};
int mcv_to_init(struct ibv_qp *qp, const struct mcv_init *config);
int mcv_to_rtr(struct ibv_qp *qp, const struct mcv_rtr *config);
int mcv_to_rts(struct ibv_qp *qp, const struct mcv_rts *config);
int mcv_to_error(struct ibv_qp *qp);

struct mcv_event {
	uint32_t type; /* enum ibv_event_type */
	uint32_t port; /* of port events */
	uint32_t qp;   /* the number, of QP events */
};
/* Makes that mcv_next_event gives EAGAIN when there is none. */
int mcv_unblock_events(struct ibv_context *context);
/* Takes and acknowledges an event. */
int mcv_next_event(struct ibv_context *context, struct mcv_event *event);

const char *mcv_event_text(uint32_t type);
const char *mcv_status_text(int status);

#endif
