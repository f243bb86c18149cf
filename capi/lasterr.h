/* The text behind mc_last_error. An exported Go function runs on its caller's
 * thread, so a per-thread slot set from Go is the caller's. */
#ifndef MC_LASTERR_H
#define MC_LASTERR_H
#include <stddef.h>

/* mooncake_set_last_error keeps a copy of length bytes of text for this thread. */
void mooncake_set_last_error(const char *text, size_t length);

#endif
