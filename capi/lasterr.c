#include "lasterr.h"
#include "mooncake.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A pthread key and not a __thread array: the Go runtime marks the library as in
 * need of static TLS, of which a process has little left for late loads. */
static pthread_key_t slot;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int usable;

static void make_slot(void) { usable = pthread_key_create(&slot, free) == 0; }

void mooncake_set_last_error(const char *text, size_t length) {
    pthread_once(&once, make_slot);
    if (!usable)
        return;
    char *copy = malloc(length + 1);
    if (copy == NULL)
        return;
    memcpy(copy, text, length);
    copy[length] = '\0';
    char *before = pthread_getspecific(slot);
    if (pthread_setspecific(slot, copy) != 0) {
        free(copy);
        return;
    }
    free(before);
}

const char *mc_last_error(void) {
    pthread_once(&once, make_slot);
    const char *text = usable ? pthread_getspecific(slot) : NULL;
    return text != NULL ? text : "";
}
