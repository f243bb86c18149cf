/* Calls that programs link to and this NIC has no use for: they say so. */
#include "softnic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define UNSUPPORTED_POINTER(type, name, ...)                                                                 \
    type *name(__VA_ARGS__)                                                                                  \
    {                                                                                                        \
        errno = EOPNOTSUPP;                                                                                  \
        return NULL;                                                                                         \
    }
#define UNSUPPORTED(name, ...)                                                                               \
    int name(__VA_ARGS__)                                                                                    \
    {                                                                                                        \
        return EOPNOTSUPP;                                                                                   \
    }

#pragma GCC diagnostic ignored "-Wunused-parameter"

UNSUPPORTED_POINTER(struct ibv_ah, ibv_create_ah, struct ibv_pd *pd, struct ibv_ah_attr *attr)
UNSUPPORTED_POINTER(struct ibv_srq, ibv_create_srq, struct ibv_pd *pd, struct ibv_srq_init_attr *init)
UNSUPPORTED_POINTER(struct ibv_ah, ibv_create_ah_from_wc, struct ibv_pd *pd, struct ibv_wc *wc, struct ibv_grh *grh,
                    uint8_t port)
UNSUPPORTED(ibv_destroy_ah, struct ibv_ah *ah)
UNSUPPORTED(ibv_init_ah_from_wc, struct ibv_context *context, uint8_t port, struct ibv_wc *wc, struct ibv_grh *grh,
            struct ibv_ah_attr *attr)
UNSUPPORTED(ibv_modify_srq, struct ibv_srq *srq, struct ibv_srq_attr *attr, int mask)
UNSUPPORTED(ibv_query_srq, struct ibv_srq *srq, struct ibv_srq_attr *attr)
UNSUPPORTED(ibv_destroy_srq, struct ibv_srq *srq)
UNSUPPORTED(ibv_attach_mcast, struct ibv_qp *qp, const union ibv_gid *gid, uint16_t lid)
UNSUPPORTED(ibv_detach_mcast, struct ibv_qp *qp, const union ibv_gid *gid, uint16_t lid)
UNSUPPORTED(ibv_query_ece, struct ibv_qp *qp, struct ibv_ece *ece)
UNSUPPORTED(ibv_set_ece, struct ibv_qp *qp, struct ibv_ece *ece)
UNSUPPORTED(ibv_query_qp_data_in_order, struct ibv_qp *qp, enum ibv_wr_opcode op, uint32_t flags)

struct ibv_qp_ex *ibv_qp_to_qp_ex(struct ibv_qp *qp)
{
    return NULL;
}

int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *address, size_t length, int access)
{
    errno = EOPNOTSUPP;
    return IBV_REREG_MR_ERR_INPUT;
}

int ibv_rate_to_mult(enum ibv_rate rate)
{
    return rate == IBV_RATE_2_5_GBPS ? 1 : -1;
}

int ibv_read_sysfs_file(const char *folder, const char *name, char *text, size_t size)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    if (n < 0)
        return -1;
    if (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = 0;
    return (int)n;
}
