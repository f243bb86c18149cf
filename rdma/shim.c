#include "shim.h"
#include "shim_symbols.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

int mcv_devices(struct ibv_device ***list, int *count)
{
	MAKE(*list, mcv.get_device_list(count));
	return *list ? 0 : mcv_failed();
}

void mcv_free_devices(struct ibv_device **list) { mcv.free_device_list(list); }

int mcv_open(struct ibv_device *device, struct ibv_context **context)
{
	MAKE(*context, mcv.open_device(device));
	return *context ? 0 : mcv_failed();
}

int mcv_close(struct ibv_context *context)
{
	int rc;

	AGAIN(rc, mcv.close_device(context));
	return rc;
}

int mcv_query_device(struct ibv_context *context, struct ibv_device_attr *attributes)
{
	int rc;

	AGAIN(rc, mcv.query_device(context, attributes));
	return rc;
}

/* The exported ibv_query_port fills a struct that ends earlier: all fields we want are
 * in it, but the driver's own function, where there is one, is what verbs.h calls. */
int mcv_query_port(struct ibv_context *context, int port, struct ibv_port_attr *attributes)
{
	struct verbs_context *verbs = verbs_get_ctx_op(context, query_port);
	int rc;

	memset(attributes, 0, sizeof *attributes);
	if (verbs != NULL)
		AGAIN(rc, verbs->query_port(context, port, attributes, sizeof *attributes));
	else
		AGAIN(rc, mcv.query_port(context, port, (struct _compat_ibv_port_attr *)attributes));
	return rc;
}

int mcv_query_gid_table(struct ibv_context *context, struct mcv_gid *gids, size_t max, size_t *count)
{
	struct ibv_gid_entry *entries;
	ssize_t n;
	int rc;

	if (mcv.query_gid_table == NULL)
		return EOPNOTSUPP;
	if ((entries = calloc(max ? max : 1, sizeof *entries)) == NULL)
		return ENOMEM;
	do {
		errno = 0;
		n = mcv.query_gid_table(context, entries, max, 0, sizeof *entries);
		rc = n >= 0 ? 0 : n == -1 ? mcv_failed() : (int)-n;
	} while (rc == EINTR);
	*count = rc == 0 ? (size_t)n : 0;
	for (size_t i = 0; i < *count; i++) {
		memcpy(gids[i].raw, entries[i].gid.raw, 16);
		gids[i].port = entries[i].port_num;
		gids[i].index = entries[i].gid_index;
		gids[i].type = entries[i].gid_type;
		gids[i].interface = entries[i].ndev_ifindex;
	}
	free(entries);
	return rc;
}

int mcv_query_gid(struct ibv_context *context, int port, int index, uint8_t raw[16])
{
	union ibv_gid gid;
	int rc;

	AGAIN(rc, mcv.query_gid(context, port, index, &gid));
	if (rc == 0)
		memcpy(raw, gid.raw, 16);
	return rc;
}

int mcv_alloc_pd(struct ibv_context *context, struct ibv_pd **pd)
{
	MAKE(*pd, mcv.alloc_pd(context));
	return *pd ? 0 : mcv_failed();
}

int mcv_dealloc_pd(struct ibv_pd *pd)
{
	int rc;

	AGAIN(rc, mcv.dealloc_pd(pd));
	return rc;
}

int mcv_reg_mr(struct ibv_pd *pd, uint64_t address, uint64_t length, unsigned access, struct ibv_mr **mr)
{
	void *start = (void *)(uintptr_t)address;

	/* Only the newer function knows the optional access flags. */
	if (access & IBV_ACCESS_OPTIONAL_RANGE) {
		if (mcv.reg_mr_iova2 == NULL)
			return EOPNOTSUPP;
		MAKE(*mr, mcv.reg_mr_iova2(pd, start, length, address, access));
	} else {
		MAKE(*mr, mcv.reg_mr(pd, start, length, (int)access));
	}
	return *mr ? 0 : mcv_failed();
}

int mcv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, uint64_t length, uint64_t iova, int fd, int access,
		      struct ibv_mr **mr)
{
	if (mcv.reg_dmabuf_mr == NULL)
		return EOPNOTSUPP;
	MAKE(*mr, mcv.reg_dmabuf_mr(pd, offset, length, iova, fd, access));
	return *mr ? 0 : mcv_failed();
}

int mcv_dereg_mr(struct ibv_mr *mr)
{
	int rc;

	AGAIN(rc, mcv.dereg_mr(mr));
	return rc;
}

int mcv_create_comp_channel(struct ibv_context *context, struct ibv_comp_channel **channel)
{
	MAKE(*channel, mcv.create_comp_channel(context));
	return *channel ? 0 : mcv_failed();
}

int mcv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	int rc;

	AGAIN(rc, mcv.destroy_comp_channel(channel));
	return rc;
}

int mcv_create_cq(struct ibv_context *context, int depth, struct ibv_comp_channel *channel, struct ibv_cq **cq)
{
	MAKE(*cq, mcv.create_cq(context, depth, NULL, channel, 0));
	return *cq ? 0 : mcv_failed();
}

int mcv_destroy_cq(struct ibv_cq *cq)
{
	int rc;

	AGAIN(rc, mcv.destroy_cq(cq));
	return rc;
}

int mcv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq)
{
	void *context;
	int rc;

	AGAIN(rc, mcv.get_cq_event(channel, cq, &context));
	return rc;
}

void mcv_ack_cq_events(struct ibv_cq *cq, unsigned count) { mcv.ack_cq_events(cq, count); }

int mcv_unblock_events(struct ibv_context *context)
{
	int flags = fcntl(context->async_fd, F_GETFL);

	if (flags < 0 || fcntl(context->async_fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return mcv_failed();
	return 0;
}

int mcv_next_event(struct ibv_context *context, struct mcv_event *out)
{
	struct ibv_async_event event;
	int rc;

	AGAIN(rc, mcv.get_async_event(context, &event));
	if (rc != 0)
		return rc;
	memset(out, 0, sizeof *out);
	out->type = event.event_type;
	switch (event.event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_COMM_EST:
	case IBV_EVENT_SQ_DRAINED:
	case IBV_EVENT_PATH_MIG:
	case IBV_EVENT_PATH_MIG_ERR:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		/* The QP cannot be destroyed before its event is acknowledged. */
		out->qp = event.element.qp->qp_num;
		break;
	case IBV_EVENT_PORT_ACTIVE:
	case IBV_EVENT_PORT_ERR:
	case IBV_EVENT_LID_CHANGE:
	case IBV_EVENT_PKEY_CHANGE:
	case IBV_EVENT_SM_CHANGE:
	case IBV_EVENT_CLIENT_REREGISTER:
	case IBV_EVENT_GID_CHANGE:
		out->port = event.element.port_num;
		break;
	default:
		break;
	}
	mcv.ack_async_event(&event);
	return 0;
}

const char *mcv_event_text(uint32_t type) { return mcv.event_type_str(type); }

const char *mcv_status_text(int status) { return mcv.wc_status_str(status); }
