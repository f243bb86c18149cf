#include "shim.h"
#include "shim_symbols.h"

#include <string.h>

int mcv_create_qp(struct ibv_pd *pd, struct ibv_cq *cq, struct mcv_qp_limits *limits, struct ibv_qp **qp)
{
	struct ibv_qp_init_attr attr;

	do {
		memset(&attr, 0, sizeof attr);
		attr.send_cq = cq;
		attr.recv_cq = cq;
		attr.qp_type = IBV_QPT_RC;
		attr.sq_sig_all = 0;
		attr.cap.max_send_wr = limits->send_depth;
		attr.cap.max_send_sge = limits->sges;
		attr.cap.max_inline_data = limits->inline_bytes;
		/* Nothing is ever received, but not every driver takes a queue of no entries. */
		attr.cap.max_recv_wr = 1;
		attr.cap.max_recv_sge = 1;
		errno = 0;
		*qp = mcv.create_qp(pd, &attr);
	} while (*qp == NULL && errno == EINTR);
	if (*qp == NULL)
		return mcv_failed();
	limits->send_depth = attr.cap.max_send_wr;
	limits->sges = attr.cap.max_send_sge;
	limits->inline_bytes = attr.cap.max_inline_data;
	return 0;
}

int mcv_destroy_qp(struct ibv_qp *qp)
{
	int rc;

	AGAIN(rc, mcv.destroy_qp(qp));
	return rc;
}

int mcv_query_qp_state(struct ibv_qp *qp, int *state)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	int rc;

	memset(&attr, 0, sizeof attr);
	AGAIN(rc, mcv.query_qp(qp, &attr, IBV_QP_STATE, &init));
	*state = attr.qp_state;
	return rc;
}

static int modify(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	int rc;

	AGAIN(rc, mcv.modify_qp(qp, attr, mask));
	return rc;
}

int mcv_to_init(struct ibv_qp *qp, const struct mcv_init *config)
{
	struct ibv_qp_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.qp_state = IBV_QPS_INIT;
	attr.port_num = config->port;
	attr.pkey_index = config->pkey_index;
	attr.qp_access_flags = config->access;
	return modify(qp, &attr, IBV_QP_STATE | IBV_QP_PORT | IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS);
}

int mcv_to_rtr(struct ibv_qp *qp, const struct mcv_rtr *config)
{
	struct ibv_qp_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = config->mtu;
	attr.dest_qp_num = config->remote_qp;
	attr.rq_psn = config->receive_psn;
	attr.max_dest_rd_atomic = config->max_reads_in;
	attr.min_rnr_timer = config->min_rnr_timer;
	attr.ah_attr.port_num = config->port;
	attr.ah_attr.dlid = config->lid;
	attr.ah_attr.sl = config->service_level;
	attr.ah_attr.src_path_bits = config->source_path_bits;
	attr.ah_attr.static_rate = config->static_rate;
	if (config->global) {
		attr.ah_attr.is_global = 1;
		memcpy(attr.ah_attr.grh.dgid.raw, config->gid, 16);
		attr.ah_attr.grh.sgid_index = config->gid_index;
		attr.ah_attr.grh.hop_limit = config->hop_limit;
		attr.ah_attr.grh.traffic_class = config->traffic_class;
		attr.ah_attr.grh.flow_label = config->flow_label;
	}
	return modify(qp, &attr,
		      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
			      IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

int mcv_to_rts(struct ibv_qp *qp, const struct mcv_rts *config)
{
	struct ibv_qp_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = config->timeout;
	attr.retry_cnt = config->retry_count;
	attr.rnr_retry = config->rnr_retry;
	attr.sq_psn = config->send_psn;
	attr.max_rd_atomic = config->max_reads;
	return modify(qp, &attr,
		      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
			      IBV_QP_MAX_QP_RD_ATOMIC);
}

int mcv_to_error(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr;

	memset(&attr, 0, sizeof attr);
	attr.qp_state = IBV_QPS_ERR;
	return modify(qp, &attr, IBV_QP_STATE);
}
