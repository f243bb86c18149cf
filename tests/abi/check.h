/*
 * What the C programs of this folder share: checks that end the program with a
 * message, and memory to transfer.
 */
#ifndef CHECK_H
#define CHECK_H

#include "mooncake.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* A condition of the program; printf-like text says what was expected. */
#define CHECK(condition, ...)                                                  \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);    \
            fprintf(stderr, __VA_ARGS__);                                      \
            fputc('\n', stderr);                                               \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

/* A call that must succeed. */
#define OK(call)                                                               \
    do {                                                                       \
        int status_ = (call);                                                  \
        CHECK(status_ == MC_OK, "%s answered %s: %s", #call,                   \
              mc_status_name(status_), mc_last_error());                       \
    } while (0)

/* A call that must fail with this code and a message that contains text. */
#define FAILS(code, text, call)                                                \
    do {                                                                       \
        int status_ = (call);                                                  \
        CHECK(status_ == (code), "%s answered %s (%s), expected %s", #call,    \
              mc_status_name(status_), status_ ? mc_last_error() : "",         \
              mc_status_name(code));                                           \
        CHECK(strstr(mc_last_error(), (text)) != NULL,                         \
              "%s: the message \"%s\" does not name \"%s\"", #call,            \
              mc_last_error(), (text));                                        \
    } while (0)

/* Fresh zeroed pages. */
static inline uint8_t *map(size_t length) {
    void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED, "mmap of %zu bytes", length);
    return p;
}

/* Bytes that differ with the seed and from place to place. */
static inline void fill(uint8_t *at, size_t length, uint32_t seed) {
    uint32_t x = seed * 2654435761u + 12345;
    for (size_t i = 0; i < length; i++) {
        x = x * 1664525u + 1013904223u;
        at[i] = (uint8_t)(x >> 24);
    }
}

static inline uint64_t address_of(const void *p) { return (uint64_t)(uintptr_t)p; }

static inline double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The session of an engine, in static storage of the caller. */
static inline const char *session(mc_engine_t engine, char *buffer, size_t capacity) {
    uint64_t length = 0;
    OK(mc_engine_session(engine, buffer, capacity, &length));
    CHECK(strlen(buffer) == length, "session %s has not %llu bytes", buffer,
          (unsigned long long)length);
    return buffer;
}

/* Nothing that was opened on the engine is open any more. */
static inline void nothing_leaked(mc_engine_t engine) {
    mc_engine_stats_t stats;
    OK(mc_engine_stats(engine, &stats));
    CHECK(stats.memories == 0, "%llu left", (unsigned long long)stats.memories);
    CHECK(stats.batches_open == 0, "%llu left", (unsigned long long)stats.batches_open);
}

#endif /* CHECK_H */
