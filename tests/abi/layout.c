/*
 * Prints what a caller compiles in from mooncake.h, as JSON: size, alignment and
 * fields (offset, size) of every struct, and every constant. check.py makes sure
 * that nothing of the header is missing here; the ctypes package is compared with
 * the output.
 */
#include "mooncake.h"

#include <stdalign.h>
#include <stddef.h>
#include <stdio.h>

static const char *separator;

static void next(void) {
    printf("%s", separator);
    separator = ",";
}

static void begin_struct(const char *name, size_t size, size_t alignment) {
    next();
    printf("\n    \"%s\": {\"size\": %zu, \"align\": %zu, \"fields\": {", name, size, alignment);
    separator = "";
}

static void end_struct(void) {
    printf("}}");
    separator = ",";
}

static void field(const char *name, size_t offset, size_t size) {
    next();
    printf("\n      \"%s\": {\"offset\": %zu, \"size\": %zu}", name, offset, size);
}

static void constant(const char *name, long long value) {
    next();
    printf("\n    \"%s\": %lld", name, value);
}

#define BEGIN(type) begin_struct(#type, sizeof(type), alignof(type))
#define FIELD(type, name) field(#name, offsetof(type, name), sizeof(((type *)0)->name))
#define CONSTANT(name) constant(#name, name)

static void structs(void) {
    BEGIN(mc_batch_status_t);
    FIELD(mc_batch_status_t, state);
    FIELD(mc_batch_status_t, quiet);
    FIELD(mc_batch_status_t, error);
    FIELD(mc_batch_status_t, flags);
    FIELD(mc_batch_status_t, blocks);
    FIELD(mc_batch_status_t, runs);
    FIELD(mc_batch_status_t, bytes);
    FIELD(mc_batch_status_t, bytes_done);
    FIELD(mc_batch_status_t, duration_ns);
    FIELD(mc_batch_status_t, joined_local);
    FIELD(mc_batch_status_t, joined_remote);
    end_struct();

    BEGIN(mc_layer_t);
    FIELD(mc_layer_t, local_base);
    FIELD(mc_layer_t, remote_base);
    FIELD(mc_layer_t, local_stride);
    FIELD(mc_layer_t, remote_stride);
    FIELD(mc_layer_t, length);
    end_struct();

    BEGIN(mc_page_group_t);
    FIELD(mc_page_group_t, local_pages);
    FIELD(mc_page_group_t, remote_pages);
    FIELD(mc_page_group_t, page_count);
    FIELD(mc_page_group_t, local_width);
    FIELD(mc_page_group_t, remote_width);
    FIELD(mc_page_group_t, layers);
    FIELD(mc_page_group_t, layer_count);
    end_struct();

    BEGIN(mc_engine_options_t);
    FIELD(mc_engine_options_t, struct_size);
    FIELD(mc_engine_options_t, metadata);
    FIELD(mc_engine_options_t, protocol);
    FIELD(mc_engine_options_t, devices);
    FIELD(mc_engine_options_t, rpc_port);
    FIELD(mc_engine_options_t, reserved);
    end_struct();

    BEGIN(mc_engine_stats_t);
    FIELD(mc_engine_stats_t, batches);
    FIELD(mc_engine_stats_t, batches_failed);
    FIELD(mc_engine_stats_t, blocks);
    FIELD(mc_engine_stats_t, runs);
    FIELD(mc_engine_stats_t, bytes_written);
    FIELD(mc_engine_stats_t, bytes_read);
    FIELD(mc_engine_stats_t, served_written);
    FIELD(mc_engine_stats_t, served_read);
    FIELD(mc_engine_stats_t, served_rejected);
    FIELD(mc_engine_stats_t, connections_opened);
    FIELD(mc_engine_stats_t, retries);
    FIELD(mc_engine_stats_t, batches_self);
    FIELD(mc_engine_stats_t, bytes_self);
    FIELD(mc_engine_stats_t, batches_local);
    FIELD(mc_engine_stats_t, bytes_local);
    FIELD(mc_engine_stats_t, bytes_packed);
    FIELD(mc_engine_stats_t, local_refused);
    FIELD(mc_engine_stats_t, memories);
    FIELD(mc_engine_stats_t, batches_open);
    FIELD(mc_engine_stats_t, connections);
    FIELD(mc_engine_stats_t, peers_local);
    FIELD(mc_engine_stats_t, messages);
    FIELD(mc_engine_stats_t, batch_ns);
    FIELD(mc_engine_stats_t, batches_rdma);
    FIELD(mc_engine_stats_t, bytes_rdma);
    end_struct();

    BEGIN(mc_pages_stats_t);
    FIELD(mc_pages_stats_t, pages);
    FIELD(mc_pages_stats_t, pages_free);
    FIELD(mc_pages_stats_t, pages_reserved);
    FIELD(mc_pages_stats_t, pages_allocated);
    FIELD(mc_pages_stats_t, requests);
    FIELD(mc_pages_stats_t, runs_allocated);
    FIELD(mc_pages_stats_t, runs_free);
    FIELD(mc_pages_stats_t, longest_free);
    FIELD(mc_pages_stats_t, fragmentation);
    FIELD(mc_pages_stats_t, histogram);
    end_struct();

    /* Handles are plain integers: no fields. */
    BEGIN(mc_engine_t);
    end_struct();
    BEGIN(mc_memory_t);
    end_struct();
    BEGIN(mc_segment_t);
    end_struct();
    BEGIN(mc_batch_t);
    end_struct();
    BEGIN(mc_pages_t);
    end_struct();
}

static void constants(void) {
    CONSTANT(MC_OK);
    CONSTANT(MC_EINVAL);
    CONSTANT(MC_EHANDLE);
    CONSTANT(MC_ENOTFOUND);
    CONSTANT(MC_EADDR);
    CONSTANT(MC_EOVERLAP);
    CONSTANT(MC_EFULL);
    CONSTANT(MC_ETIMEDOUT);
    CONSTANT(MC_EDEADLINE);
    CONSTANT(MC_ECANCELED);
    CONSTANT(MC_EPEER);
    CONSTANT(MC_ERESTARTED);
    CONSTANT(MC_EREJECTED);
    CONSTANT(MC_EFENCED);
    CONSTANT(MC_EDEVICE);
    CONSTANT(MC_EUNSUPPORTED);
    CONSTANT(MC_EFORKED);
    CONSTANT(MC_EINTERNAL);
    CONSTANT(MC_ENOPAGES);
    CONSTANT(MC_EPAGE);

    CONSTANT(MC_READ);
    CONSTANT(MC_WRITE);
    CONSTANT(MC_BATCH_RUNNING);
    CONSTANT(MC_BATCH_DONE);
    CONSTANT(MC_BATCH_FAILED);
    CONSTANT(MC_QUIET_NONE);
    CONSTANT(MC_QUIET_BOTH);
    CONSTANT(MC_QUIET_LOCAL);
    CONSTANT(MC_FLAG_UNCONFIRMED);

    CONSTANT(MC_PAGES_RUNS);
    CONSTANT(MC_PAGES_FIFO);
    CONSTANT(MC_PAGES_SORTED);
}

int main(void) {
    printf("{\n  \"structs\": {");
    separator = "";
    structs();
    printf("\n  },\n  \"constants\": {");
    separator = "";
    constants();
    printf("\n  }\n}\n");
    return ferror(stdout) != 0;
}
