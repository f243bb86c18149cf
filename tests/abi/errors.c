/*
 * Every function of mooncake.h with arguments that are null, zero, negative, huge,
 * overlapping, unregistered, closed already or of the wrong kind: each call answers
 * with the code that the header promises and a message that names the argument,
 * nothing crashes and nothing is left behind. Exits 0, or prints what went wrong.
 */
#include "check.h"

#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIZE = 64 << 10 };
#define HUGE_COUNT UINT64_MAX

/* What the calls need when only one argument is bad. */
static mc_engine_t engine;
static char self[128];
static uint8_t *memory_at;
static mc_memory_t memory;
static mc_segment_t segment;
static mc_batch_t batch;

static void set_up(void) {
    OK(mc_engine_open("127.0.0.1", NULL, &engine));
    session(engine, self, sizeof self);
    memory_at = map(SIZE);
    OK(mc_register(engine, address_of(memory_at), SIZE, NULL, &memory));
    OK(mc_segment_open(engine, self, &segment));
    OK(mc_submit(segment, MC_WRITE, NULL, NULL, NULL, 0, 0, &batch));
}

static void tear_down(void) {
    OK(mc_batch_close(batch));
    OK(mc_segment_close(segment));
    OK(mc_deregister(memory));
    nothing_leaked(engine);
    OK(mc_engine_close(engine));
    munmap(memory_at, SIZE);
}

/* ---- handles --------------------------------------------------------------- */

static void bad_engine(mc_engine_t bad) {
    uint64_t number = 0, address = address_of(memory_at), length = SIZE;
    uint16_t port;
    char text[8];
    mc_engine_stats_t stats;
    FAILS(MC_EHANDLE, "engine", mc_engine_close(bad));
    FAILS(MC_EHANDLE, "engine", mc_engine_rpc_port(bad, &port));
    FAILS(MC_EHANDLE, "engine", mc_engine_session(bad, text, sizeof text, &number));
    FAILS(MC_EHANDLE, "engine", mc_engine_stats(bad, &stats));
    FAILS(MC_EHANDLE, "engine", mc_register(bad, address, length, NULL, &number));
    FAILS(MC_EHANDLE, "engine", mc_register_batch(bad, &address, &length, 1, NULL, &number));
    FAILS(MC_EHANDLE, "engine", mc_segment_open(bad, self, &number));
    FAILS(MC_EHANDLE, "engine", mc_probe(bad, self, 1000));
    FAILS(MC_EHANDLE, "engine", mc_fence(bad, self, 1000));
    FAILS(MC_EHANDLE, "engine", mc_notify_send(bad, self, "name", "message"));
    FAILS(MC_EHANDLE, "engine",
          mc_notify_take(bad, text, sizeof text, &number, text, sizeof text, &number));
}

static void bad_memory(mc_memory_t bad) {
    FAILS(MC_EHANDLE, "memory", mc_deregister(bad));
    FAILS(MC_EHANDLE, "memor", mc_deregister_batch(&bad, 1));
}

static void bad_segment(mc_segment_t bad) {
    uint64_t at = address_of(memory_at), length = 1, out;
    int32_t stale;
    FAILS(MC_EHANDLE, "segment", mc_segment_buffer(bad, 0, &at, &length));
    FAILS(MC_EHANDLE, "segment", mc_segment_stale(bad, &stale));
    FAILS(MC_EHANDLE, "segment", mc_segment_connect(bad, 1000));
    FAILS(MC_EHANDLE, "segment", mc_segment_close(bad));
    out = 77;
    FAILS(MC_EHANDLE, "segment", mc_submit(bad, MC_WRITE, &at, &at, &length, 1, 0, &out));
    CHECK(out == 0, "a failed submit left %llu in out", (unsigned long long)out);
    out = 77;
    FAILS(MC_EHANDLE, "segment", mc_transfer(bad, MC_WRITE, &at, &at, &length, 1, 0, -1, NULL, &out));
    CHECK(out == 0, "a failed transfer left %llu in out", (unsigned long long)out);
    FAILS(MC_EHANDLE, "segment", mc_batch_open(bad, MC_WRITE, 0, &out));
    out = 77;
    FAILS(MC_EHANDLE, "segment", mc_submit_pages(bad, MC_WRITE, NULL, 0, 0, &out));
    CHECK(out == 0, "a failed submit left %llu in out", (unsigned long long)out);
    FAILS(MC_EHANDLE, "segment", mc_transfer_pages(bad, MC_WRITE, NULL, 0, 0, -1, NULL, &out));
}

static void bad_batch(mc_batch_t bad) {
    mc_batch_status_t status;
    uint64_t at = address_of(memory_at), length = 1;
    int32_t fd;
    FAILS(MC_EHANDLE, "batch", mc_batch_add(bad, &at, &at, &length, 1));
    FAILS(MC_EHANDLE, "batch", mc_batch_seal(bad));
    FAILS(MC_EHANDLE, "batch", mc_poll(bad, &status));
    FAILS(MC_EHANDLE, "batch", mc_wait(bad, -1, &status));
    FAILS(MC_EHANDLE, "batch", mc_wait(bad, 0, NULL));
    FAILS(MC_EHANDLE, "batch", mc_cancel(bad));
    FAILS(MC_EHANDLE, "batch", mc_batch_fd(bad, &fd));
    FAILS(MC_EHANDLE, "batch", mc_batch_close(bad));
}

/* Handles that were never given out, are closed, or are of another kind. */
static void bad_handles(void) {
    mc_engine_t old_engine;
    mc_memory_t old_memory;
    mc_segment_t old_segment;
    mc_batch_t old_batch;
    uint8_t *page = map(4096);
    OK(mc_engine_open("127.0.0.1", NULL, &old_engine));
    OK(mc_register(old_engine, address_of(page), 4096, NULL, &old_memory));
    OK(mc_segment_open(old_engine, self, &old_segment));
    OK(mc_submit(old_segment, MC_READ, NULL, NULL, NULL, 0, 0, &old_batch));
    /* Closing an engine ends everything that was opened on it. */
    OK(mc_engine_close(old_engine));
    munmap(page, 4096);

    const uint64_t never[] = {0, 1, 77, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        bad_engine(never[i]), bad_memory(never[i]);
        bad_segment(never[i]), bad_batch(never[i]);
    }
    bad_engine(old_engine), bad_memory(old_memory);
    bad_segment(old_segment), bad_batch(old_batch);
    bad_engine(memory), bad_engine(segment), bad_engine(batch);
    bad_memory(engine), bad_memory(segment), bad_memory(batch);
    bad_segment(engine), bad_segment(memory), bad_segment(batch);
    bad_batch(engine), bad_batch(memory), bad_batch(segment);
}

/* ---- library and engine ---------------------------------------------------- */

static void names(void) {
    static const struct {
        int code;
        const char *name;
    } table[] = {
        {MC_OK, "MC_OK"}, {MC_EINVAL, "MC_EINVAL"}, {MC_EHANDLE, "MC_EHANDLE"},
        {MC_ENOTFOUND, "MC_ENOTFOUND"}, {MC_EADDR, "MC_EADDR"}, {MC_EOVERLAP, "MC_EOVERLAP"},
        {MC_EFULL, "MC_EFULL"}, {MC_ETIMEDOUT, "MC_ETIMEDOUT"}, {MC_EDEADLINE, "MC_EDEADLINE"},
        {MC_ECANCELED, "MC_ECANCELED"}, {MC_EPEER, "MC_EPEER"}, {MC_ERESTARTED, "MC_ERESTARTED"},
        {MC_EREJECTED, "MC_EREJECTED"}, {MC_EFENCED, "MC_EFENCED"}, {MC_EDEVICE, "MC_EDEVICE"},
        {MC_EUNSUPPORTED, "MC_EUNSUPPORTED"}, {MC_EFORKED, "MC_EFORKED"},
        {MC_EINTERNAL, "MC_EINTERNAL"}, {MC_ENOPAGES, "MC_ENOPAGES"}, {MC_EPAGE, "MC_EPAGE"},
        {1, "MC_UNKNOWN"}, {MC_EPAGE - 1, "MC_UNKNOWN"}, {INT_MAX, "MC_UNKNOWN"}, {INT_MIN, "MC_UNKNOWN"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        CHECK(strcmp(mc_status_name(table[i].code), table[i].name) == 0, "%d is called %s",
              table[i].code, mc_status_name(table[i].code));
}

static void library(void) {
    char text[4096];
    uint64_t length = 0;
    FAILS(MC_EINVAL, "out", mc_rdma_ports(NULL, NULL, sizeof text, &length));
    FAILS(MC_EINVAL, "out_length", mc_rdma_ports(NULL, text, sizeof text, NULL));
    FAILS(MC_EINVAL, "out", mc_local_topology(NULL, NULL, sizeof text, &length));
    FAILS(MC_EINVAL, "out_length", mc_local_topology(NULL, text, sizeof text, NULL));
    FAILS(MC_EINVAL, "no-such-nic",
          mc_local_topology("no-such-nic", text, sizeof text, &length));
}

/* One option at a time is bad; nothing must be written to out. */
static void bad_option(int code, const char *text, mc_engine_options_t options) {
    mc_engine_t out = 77;
    FAILS(code, text, mc_engine_open("127.0.0.1", &options, &out));
    CHECK(out == 77, "a failed open wrote out");
}

static void open_engine(void) {
    const mc_engine_options_t good = {.struct_size = sizeof good};
    mc_engine_options_t bad;
    mc_engine_t out = 77;
    uint16_t port;
    FAILS(MC_EINVAL, "name", mc_engine_open(NULL, NULL, &out));
    FAILS(MC_EINVAL, "name", mc_engine_open("", NULL, &out));
    FAILS(MC_EINVAL, "out", mc_engine_open("127.0.0.1", NULL, NULL));
    CHECK(out == 77, "a failed open wrote out");
    bad = good, bad.struct_size = 0, bad_option(MC_EINVAL, "struct_size", bad);
    bad = good, bad.struct_size = sizeof good - 1, bad_option(MC_EINVAL, "struct_size", bad);
    bad = good, bad.struct_size = UINT64_MAX, bad_option(MC_EINVAL, "struct_size", bad);
    bad = good, bad.reserved = 1, bad_option(MC_EINVAL, "reserved", bad);
    bad = good, bad.rpc_port = 65536, bad_option(MC_EINVAL, "rpc_port", bad);
    bad = good, bad.rpc_port = UINT32_MAX, bad_option(MC_EINVAL, "rpc_port", bad);
    bad = good, bad.metadata = "etcd://127.0.0.1:2379", bad_option(MC_EUNSUPPORTED, "metadata", bad);
    bad = good, bad.protocol = "pigeon", bad_option(MC_EUNSUPPORTED, "protocol", bad);
    OK(mc_engine_rpc_port(engine, &port));
    bad = good, bad.rpc_port = port, bad_option(MC_EDEVICE, "port", bad);
}

static void describe_engine(void) {
    char text[128];
    uint64_t length = 0;
    FAILS(MC_EINVAL, "out", mc_engine_rpc_port(engine, NULL));
    FAILS(MC_EINVAL, "out", mc_engine_stats(engine, NULL));
    FAILS(MC_EINVAL, "out", mc_engine_session(engine, NULL, 1, &length));
    FAILS(MC_EINVAL, "out_length", mc_engine_session(engine, text, sizeof text, NULL));
    FAILS(MC_EFULL, "", mc_engine_session(engine, NULL, 0, &length));
    CHECK(length == strlen(self), "length %llu", (unsigned long long)length);
    memset(text, '?', sizeof text);
    FAILS(MC_EFULL, "capacity", mc_engine_session(engine, text, length, &length));
    CHECK(text[length] == '?', "written past the capacity");
    OK(mc_engine_session(engine, text, length + 1, &length));
    CHECK(strcmp(text, self) == 0, "session %s", text);
}

/* ---- memory ---------------------------------------------------------------- */

static void bad_range(int code, const char *text, uint64_t address, uint64_t length) {
    mc_memory_t out = 77;
    FAILS(code, text, mc_register(engine, address, length, NULL, &out));
    CHECK(out == 77, "a failed register wrote out");
}

static void registration(void) {
    uint64_t at = address_of(memory_at);
    uint8_t *spare = map(2 * SIZE);
    uint64_t free_at = address_of(spare);
    bad_range(MC_EINVAL, "address", 0, SIZE);
    bad_range(MC_EINVAL, "length", free_at, 0);
    bad_range(MC_EINVAL, "wraps", free_at, UINT64_MAX);
    bad_range(MC_EINVAL, "wraps", UINT64_MAX, 2);
    bad_range(MC_EOVERLAP, "overlap", at, SIZE);
    bad_range(MC_EOVERLAP, "overlap", at + SIZE - 1, 1);
    bad_range(MC_EOVERLAP, "overlap", at + 100, 1);
    FAILS(MC_EINVAL, "out", mc_register(engine, free_at, SIZE, NULL, NULL));
    munmap(spare + SIZE, SIZE);
    bad_range(MC_EADDR, "mapped", free_at, 2 * SIZE);
    bad_range(MC_EADDR, "mapped", free_at + SIZE, 1);
    bad_range(MC_EADDR, "mapped", free_at, UINT64_C(1) << 46);
    /* Addresses need no alignment. */
    mc_memory_t odd;
    OK(mc_register(engine, free_at + 3, 1, "*", &odd));
    OK(mc_deregister(odd));
    munmap(spare, SIZE);
}

static void registration_of_many(void) {
    uint8_t *spare = map(3 * SIZE);
    uint64_t at = address_of(spare);
    uint64_t addresses[3] = {at, at + SIZE, at + 2 * SIZE}, lengths[3] = {SIZE, 0, SIZE};
    mc_memory_t out[3] = {0}, mixed[4];
    mc_engine_stats_t stats;
    OK(mc_register_batch(engine, NULL, NULL, 0, NULL, NULL));
    FAILS(MC_EINVAL, "addresses", mc_register_batch(engine, NULL, lengths, 3, NULL, out));
    FAILS(MC_EINVAL, "lengths", mc_register_batch(engine, addresses, NULL, 3, NULL, out));
    FAILS(MC_EINVAL, "out", mc_register_batch(engine, addresses, lengths, 3, NULL, NULL));
    FAILS(MC_EINVAL, "count", mc_register_batch(engine, addresses, lengths, HUGE_COUNT, NULL, out));
    FAILS(MC_EINVAL, "range 1", mc_register_batch(engine, addresses, lengths, 3, NULL, out));
    lengths[1] = SIZE, addresses[2] = at + SIZE;
    FAILS(MC_EOVERLAP, "range 2", mc_register_batch(engine, addresses, lengths, 3, NULL, out));
    OK(mc_engine_stats(engine, &stats));
    CHECK(stats.memories == 1, "a failed call registered some");

    addresses[2] = at + 2 * SIZE;
    OK(mc_register_batch(engine, addresses, lengths, 3, NULL, out));
    OK(mc_deregister_batch(NULL, 0));
    FAILS(MC_EINVAL, "memories", mc_deregister_batch(NULL, 3));
    FAILS(MC_EINVAL, "count", mc_deregister_batch(out, HUGE_COUNT));
    mixed[0] = out[0], mixed[1] = 77, mixed[2] = out[1], mixed[3] = out[0];
    FAILS(MC_EHANDLE, "", mc_deregister_batch(mixed, 4));
    OK(mc_engine_stats(engine, &stats));
    CHECK(stats.memories == 2, "the valid handles must be gone");
    OK(mc_deregister_batch(out + 2, 1));
    munmap(spare, 3 * SIZE);
}

/* ---- segments and batches -------------------------------------------------- */

/* The session of a port of this host that nobody listens on. */
static const char *nobody(void) {
    static char text[64];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
              getsockname(fd, (struct sockaddr *)&at, &length) == 0, "no port");
    close(fd);
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(at.sin_port));
    return text;
}

static const char *const malformed[] = {"",           "127.0.0.1",      "127.0.0.1:",  ":15000",
                                        "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1]"};

static void segments(void) {
    uint64_t address, length;
    mc_segment_t out = 77;
    FAILS(MC_EINVAL, "name", mc_segment_open(engine, NULL, &out));
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        FAILS(MC_EINVAL, "name", mc_segment_open(engine, malformed[i], &out));
    FAILS(MC_EINVAL, "out", mc_segment_open(engine, self, NULL));
    const char *port = nobody();
    FAILS(MC_EPEER, port, mc_segment_open(engine, port, &out));
    CHECK(out == 77, "a failed open wrote out");
    FAILS(MC_EINVAL, "out_address", mc_segment_buffer(segment, 0, NULL, &length));
    FAILS(MC_EINVAL, "out_length", mc_segment_buffer(segment, 0, &address, NULL));
    FAILS(MC_ENOTFOUND, "18446744073709551615", mc_segment_buffer(segment, UINT64_MAX, &address, &length));
    FAILS(MC_EINVAL, "out", mc_segment_stale(segment, NULL));
}

/* Block 1 of two is bad; the good one must not be moved either. */
static void bad_block(int code, const char *text, uint64_t local, uint64_t remote, uint64_t length) {
    uint64_t at = address_of(memory_at);
    uint64_t locals[2] = {at, local}, remotes[2] = {at + SIZE / 2, remote}, lengths[2] = {16, length};
    mc_batch_t out = 77;
    memset(memory_at, 1, 16);
    memset(memory_at + SIZE / 2, 2, 16);
    FAILS(code, text, mc_submit(segment, MC_WRITE, locals, remotes, lengths, 2, 0, &out));
    CHECK(strstr(mc_last_error(), "block 1") != NULL, "the message \"%s\" does not name block 1",
          mc_last_error());
    CHECK(out == 0, "a failed submit left %llu in out", (unsigned long long)out);
    CHECK(memory_at[SIZE / 2] == 2, "a failed submit moved bytes");
}

static void submits(void) {
    uint64_t at = address_of(memory_at), length = 16;
    mc_batch_t out;
    FAILS(MC_EINVAL, "op", mc_submit(segment, 2, &at, &at, &length, 1, 0, &out));
    FAILS(MC_EINVAL, "op", mc_submit(segment, UINT32_MAX, &at, &at, &length, 1, 0, &out));
    FAILS(MC_EINVAL, "local", mc_submit(segment, MC_READ, NULL, &at, &length, 1, 0, &out));
    FAILS(MC_EINVAL, "remote", mc_submit(segment, MC_READ, &at, NULL, &length, 1, 0, &out));
    FAILS(MC_EINVAL, "length", mc_submit(segment, MC_READ, &at, &at, NULL, 1, 0, &out));
    FAILS(MC_EINVAL, "out", mc_submit(segment, MC_READ, &at, &at, &length, 1, 0, NULL));
    FAILS(MC_EINVAL, "count", mc_submit(segment, MC_READ, &at, &at, &length, HUGE_COUNT, 0, &out));
    FAILS(MC_EINVAL, "op", mc_transfer(segment, 2, &at, &at, &length, 1, 0, -1, NULL, &out));
    FAILS(MC_EINVAL, "status",
          mc_transfer(segment, MC_READ, &at, &at, &length, 1, 0, -1, (mc_batch_status_t *)8, &out));
    FAILS(MC_EINVAL, "op", mc_batch_open(segment, 2, 0, &out));
    FAILS(MC_EINVAL, "remote", mc_batch_add(batch, &at, NULL, &length, 1));

    bad_block(MC_EINVAL, "local", at, at, UINT64_MAX);
    bad_block(MC_EINVAL, "local", UINT64_MAX - 1, at, 4);
    bad_block(MC_EINVAL, "remote", at, UINT64_MAX - 1, 4);
    bad_block(MC_EADDR, "local", 8, at, 16);
    bad_block(MC_EADDR, "local", at + SIZE - 8, at, 16);
    bad_block(MC_EADDR, "local", at - 8, at, 16);
    bad_block(MC_EADDR, "remote", at, 8, 16);
    bad_block(MC_EADDR, "remote", at, at + SIZE - 8, 16);
    bad_block(MC_EADDR, "remote", at, at - 8, 16);
}

/* A page group of two pages and two layers of dense pages of 16 bytes, which a test
 * spoils; after a good group that must not be moved either. */
static mc_layer_t layers[2];
static int32_t local_pages[2];
static int64_t remote_pages[2];

static mc_page_group_t a_group(void) {
    uint64_t at = address_of(memory_at);
    for (int i = 0; i < 2; i++) {
        layers[i] = (mc_layer_t){.local_base = at + i * 1024, .remote_base = at + SIZE / 2 + i * 1024,
                                 .local_stride = 16, .remote_stride = 16, .length = 16};
        local_pages[i] = i, remote_pages[i] = 5 - i;
    }
    return (mc_page_group_t){.local_pages = local_pages, .local_width = 4, .remote_pages = remote_pages,
                             .remote_width = 8, .page_count = 2, .layers = layers, .layer_count = 2};
}

static void bad_group(int code, const char *text, mc_page_group_t bad) {
    static mc_layer_t layer;
    uint64_t at = address_of(memory_at);
    int64_t page = 0;
    layer = (mc_layer_t){.local_base = at, .remote_base = at + SIZE / 2, .length = 16};
    mc_page_group_t groups[2] = {{.local_pages = &page, .local_width = 8, .remote_pages = &page,
                                  .remote_width = 8, .page_count = 1, .layers = &layer, .layer_count = 1},
                                 bad};
    mc_batch_status_t status;
    mc_batch_t out = 77;
    memset(memory_at, 1, 16);
    memset(memory_at + SIZE / 2, 2, 16);
    FAILS(code, text, mc_submit_pages(segment, MC_WRITE, groups, 2, 0, &out));
    CHECK(strstr(mc_last_error(), "group 1") != NULL, "the message \"%s\" does not name group 1",
          mc_last_error());
    CHECK(out == 0, "a failed submit left %llu in out", (unsigned long long)out);
    out = 77;
    memset(&status, 0xFF, sizeof status);
    FAILS(code, text, mc_transfer_pages(segment, MC_WRITE, groups, 2, 0, -1, &status, &out));
    CHECK(out == 0 && status.blocks == 0, "a failed transfer left something");
    CHECK(memory_at[SIZE / 2] == 2, "a failed submit moved bytes");
    OK(mc_transfer_pages(segment, MC_WRITE, groups, 1, 0, -1, &status, &out));
    CHECK(memory_at[SIZE / 2] == 1 && status.blocks == 1 && status.bytes == 16, "the good group");
}

static void bad_layer(int code, const char *text, mc_layer_t bad) {
    mc_page_group_t group = a_group();
    layers[1] = bad;
    bad_group(code, text, group);
}

static void page_groups(void) {
    mc_page_group_t group = a_group(), bad;
    mc_layer_t layer;
    mc_batch_t out;
    FAILS(MC_EINVAL, "op", mc_submit_pages(segment, 2, &group, 1, 0, &out));
    FAILS(MC_EINVAL, "groups", mc_submit_pages(segment, MC_READ, NULL, 1, 0, &out));
    FAILS(MC_EINVAL, "out", mc_submit_pages(segment, MC_READ, &group, 1, 0, NULL));
    FAILS(MC_EINVAL, "count", mc_submit_pages(segment, MC_READ, &group, HUGE_COUNT, 0, &out));
    FAILS(MC_EINVAL, "status",
          mc_transfer_pages(segment, MC_READ, &group, 1, 0, -1, (mc_batch_status_t *)8, &out));

    bad = a_group(), bad.local_pages = NULL, bad_group(MC_EINVAL, "local_pages is NULL", bad);
    bad = a_group(), bad.remote_pages = (void *)8, bad_group(MC_EINVAL, "remote_pages", bad);
    bad = a_group(), bad.layers = NULL, bad_group(MC_EINVAL, "layers is NULL", bad);
    bad = a_group(), bad.page_count = HUGE_COUNT, bad_group(MC_EINVAL, "page_count", bad);
    bad = a_group(), bad.layer_count = HUGE_COUNT, bad_group(MC_EINVAL, "layer_count", bad);
    bad = a_group(), bad.local_width = 0, bad_group(MC_EINVAL, "local_width is 0", bad);
    bad = a_group(), bad.remote_width = 2, bad_group(MC_EINVAL, "remote_width is 2", bad);
    bad = a_group(), local_pages[1] = -1, bad_group(MC_EINVAL, "local page 1 of the list is -1", bad);
    bad = a_group(), remote_pages[0] = INT64_MIN, bad_group(MC_EINVAL, "remote page 0 of the list", bad);
    bad = a_group(), local_pages[1] = INT32_MAX, bad_group(MC_EADDR, "layer 0, page 1: local", bad);
    bad = a_group(), remote_pages[0] = INT64_MAX, bad_group(MC_EINVAL, "layer 0, page 0: remote", bad);

    bad = a_group(), layer = layers[1], layer.remote_stride = 15;
    bad_layer(MC_EINVAL, "layer 1: length 16 is more than the remote stride 15", layer);
    bad = a_group(), layer = layers[1], layer.local_base = 8, bad_layer(MC_EADDR, "layer 1, page 0: local", layer);
    bad = a_group(), layer = layers[1], layer.local_stride = SIZE, bad_layer(MC_EADDR, "layer 1, page 1: local", layer);
    bad = a_group(), layer = layers[1], layer.remote_base = 8, bad_layer(MC_EADDR, "layer 1, page 0: remote", layer);
    bad = a_group(), layer = layers[1], layer.remote_stride = UINT64_MAX;
    bad_layer(MC_EINVAL, "layer 1, page 0: remote", layer);
    OK(mc_transfer_pages(segment, MC_READ, NULL, 0, 0, -1, NULL, &out));
}

static void batches(void) {
    FAILS(MC_EINVAL, "out", mc_poll(batch, NULL));
    FAILS(MC_EINVAL, "out", mc_batch_fd(batch, NULL));
    OK(mc_wait(batch, -1, NULL));
}

/* ---- peers ----------------------------------------------------------------- */

static void peers(void) {
    const char *port = nobody();
    FAILS(MC_EINVAL, "peer", mc_probe(engine, NULL, 1000));
    FAILS(MC_EINVAL, "peer", mc_fence(engine, NULL, 1000));
    FAILS(MC_EINVAL, "peer", mc_notify_send(engine, NULL, "name", "message"));
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        FAILS(MC_EINVAL, "peer", mc_probe(engine, malformed[i], 1000));
        FAILS(MC_EINVAL, "peer", mc_fence(engine, malformed[i], 1000));
        FAILS(MC_EINVAL, "peer", mc_notify_send(engine, malformed[i], "name", "message"));
    }
    const int64_t timeouts[] = {0, -1, INT64_MIN};
    for (int i = 0; i < 3; i++) {
        FAILS(MC_EINVAL, "timeout_ms", mc_probe(engine, self, timeouts[i]));
        FAILS(MC_EINVAL, "timeout_ms", mc_fence(engine, self, timeouts[i]));
    }
    FAILS(MC_EPEER, port, mc_probe(engine, port, 1000));
    FAILS(MC_EPEER, port, mc_notify_send(engine, port, "name", "message"));
    FAILS(MC_EINVAL, "name", mc_notify_send(engine, self, NULL, "message"));
    FAILS(MC_EINVAL, "message", mc_notify_send(engine, self, "name", NULL));
}

static void notifications(void) {
    char text[16];
    uint64_t n, m;
    FAILS(MC_EINVAL, "name", mc_notify_take(engine, NULL, 1, &n, text, sizeof text, &m));
    FAILS(MC_EINVAL, "message", mc_notify_take(engine, text, sizeof text, &n, NULL, 1, &m));
    FAILS(MC_EINVAL, "out_name_length",
          mc_notify_take(engine, text, sizeof text, NULL, text, sizeof text, &m));
    FAILS(MC_EINVAL, "out_message_length",
          mc_notify_take(engine, text, sizeof text, &n, text, sizeof text, NULL));
    FAILS(MC_ENOTFOUND, "", mc_notify_take(engine, text, sizeof text, &n, text, sizeof text, &m));
}

/* A thread sees its own last error only. */
static void *other_thread(void *unused) {
    CHECK(mc_last_error()[0] == 0, "another thread's error: %s", mc_last_error());
    FAILS(MC_EHANDLE, "batch", mc_cancel(1));
    return unused;
}

static void threads(void) {
    pthread_t thread;
    FAILS(MC_EHANDLE, "segment", mc_segment_close(1));
    CHECK(pthread_create(&thread, NULL, other_thread, NULL) == 0 &&
              pthread_join(thread, NULL) == 0, "threads");
    CHECK(strstr(mc_last_error(), "segment") != NULL, "the message is now %s", mc_last_error());
}

int main(void) {
    names();
    library();
    set_up();
    open_engine();
    describe_engine();
    bad_handles();
    registration();
    registration_of_many();
    segments();
    submits();
    page_groups();
    batches();
    peers();
    notifications();
    threads();
    tear_down();
    puts("errors.c: ok");
    return 0;
}
