#include "shim_symbols.h"
#include "shim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

struct mcv_symbols mcv;

static char reason[512]; /* why loading failed; written once, by load */

/* A library may have two versions of a function; dlsym takes its default, the newest. */
static void load(void)
{
	void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) {
		const char *text = dlerror();
		snprintf(reason, sizeof reason, "%s", text ? text : "dlopen: unknown error");
		return;
	}
#define MUST(name)                                                                                                 \
	if ((mcv.name = (__typeof__(mcv.name))dlsym(library, "ibv_" #name)) == NULL) {                             \
		snprintf(reason, sizeof reason, "libibverbs.so.1 has no ibv_" #name);                              \
		return;                                                                                            \
	}
	MCV_SYMBOLS(MUST)
	mcv.reg_mr_iova2 = (__typeof__(mcv.reg_mr_iova2))dlsym(library, "ibv_reg_mr_iova2");
	mcv.reg_dmabuf_mr = (__typeof__(mcv.reg_dmabuf_mr))dlsym(library, "ibv_reg_dmabuf_mr");
	mcv.query_gid_table = (__typeof__(mcv.query_gid_table))dlsym(library, "_ibv_query_gid_table");
}

const char *mcv_load(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	return reason[0] ? reason : NULL;
}

int mcv_has_dmabuf(void) { return mcv.reg_dmabuf_mr != NULL; }
int mcv_has_relaxed_ordering(void) { return mcv.reg_mr_iova2 != NULL; }
int mcv_has_gid_table(void) { return mcv.query_gid_table != NULL; }
