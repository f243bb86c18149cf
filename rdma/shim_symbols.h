/* The functions of libibverbs that the shim calls, as pointers. */
#ifndef MCV_SHIM_SYMBOLS_H
#define MCV_SHIM_SYMBOLS_H

#include <errno.h>
#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Some of the names are macros for inline functions as well, which would link against
 * the library. The prototypes here are those of the exported symbols.
 */
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr

/* What any libibverbs of the last decade has. */
#define MCV_SYMBOLS(_)                                                                                             \
	_(get_device_list)                                                                                         \
	_(free_device_list)                                                                                        \
	_(open_device)                                                                                             \
	_(close_device)                                                                                            \
	_(query_device)                                                                                            \
	_(query_port)                                                                                              \
	_(query_gid)                                                                                               \
	_(alloc_pd)                                                                                                \
	_(dealloc_pd)                                                                                              \
	_(reg_mr)                                                                                                  \
	_(dereg_mr)                                                                                                \
	_(create_comp_channel)                                                                                     \
	_(destroy_comp_channel)                                                                                    \
	_(create_cq)                                                                                               \
	_(destroy_cq)                                                                                              \
	_(get_cq_event)                                                                                            \
	_(ack_cq_events)                                                                                           \
	_(create_qp)                                                                                               \
	_(destroy_qp)                                                                                              \
	_(query_qp)                                                                                                \
	_(modify_qp)                                                                                               \
	_(get_async_event)                                                                                         \
	_(ack_async_event)                                                                                         \
	_(event_type_str)                                                                                          \
	_(wc_status_str)

#define MCV_POINTER(name) __typeof__(&ibv_##name) name;

extern struct mcv_symbols {
	MCV_SYMBOLS(MCV_POINTER)
	/* NULL in older libraries: */
	struct ibv_mr *(*reg_mr_iova2)(struct ibv_pd *pd, void *address, size_t length, uint64_t iova, unsigned access);
	struct ibv_mr *(*reg_dmabuf_mr)(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
					int access);
	ssize_t (*query_gid_table)(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
				   uint32_t flags, size_t entry_size);
} mcv;

/*
 * Verbs has three conventions: an errno, -1 or NULL with errno set, and nothing. A
 * library that gives NULL and leaves errno alone has failed all the same: EIO then.
 */
static inline int mcv_failed(void) { return errno != 0 ? errno : EIO; }

/* An errno is positive, yet some drivers give it negated, and some -1. */
static inline int mcv_positive(int rc)
{
	if (rc >= 0)
		return rc;
	return rc == -1 ? mcv_failed() : -rc;
}

#define AGAIN(rc, call)                                                                                            \
	do {                                                                                                       \
		errno = 0;                                                                                         \
		(rc) = mcv_positive(call);                                                                             \
	} while ((rc) == EINTR)

#define MAKE(object, call)                                                                                         \
	do {                                                                                                       \
		errno = 0;                                                                                         \
		(object) = (call);                                                                                 \
	} while ((object) == NULL && errno == EINTR)

#endif
