/*
 * A C program that uses nothing but mooncake.h: two engines in one process move
 * scattered blocks both ways, and every outcome is looked at. Exits 0, or prints
 * what went wrong.
 */
#include "check.h"

#include <dirent.h>
#include <poll.h>
#include <unistd.h>

enum { SIZE = 4 << 20, BLOCK = 512, BLOCKS = SIZE / BLOCK / 4 };

/* Two engines, each with a registered range, and a segment from a to b. */
struct pair {
    mc_engine_t a, b;
    char session_a[128], session_b[128];
    uint8_t *source, *destination;
    mc_memory_t source_memory, destination_memory;
    mc_segment_t segment;
};

static void open_pair(struct pair *p) {
    mc_engine_options_t options = {.struct_size = sizeof options, .protocol = "tcp"};
    uint16_t port_a = 0, port_b = 0;
    OK(mc_engine_open("127.0.0.1", NULL, &p->a));
    OK(mc_engine_open("127.0.0.1:1", &options, &p->b));
    CHECK(p->a != 0 && p->b != 0 && p->a != p->b, "handles");
    OK(mc_engine_rpc_port(p->a, &port_a));
    OK(mc_engine_rpc_port(p->b, &port_b));
    CHECK(port_a >= 1024 && port_b >= 1024 && port_a != port_b, "ports %u, %u", port_a, port_b);

    char expected[128];
    snprintf(expected, sizeof expected, "127.0.0.1:%u", port_a);
    session(p->a, p->session_a, sizeof p->session_a);
    session(p->b, p->session_b, sizeof p->session_b);
    CHECK(strcmp(p->session_a, expected) == 0, "%s, expected %s", p->session_a, expected);

    p->source = map(SIZE);
    p->destination = map(SIZE);
    OK(mc_register(p->a, address_of(p->source), SIZE, NULL, &p->source_memory));
    OK(mc_register(p->b, address_of(p->destination), SIZE, "cpu:0", &p->destination_memory));
    OK(mc_segment_open(p->a, p->session_b, &p->segment));
}

static void close_pair(struct pair *p) {
    OK(mc_segment_close(p->segment));
    OK(mc_deregister(p->source_memory));
    OK(mc_deregister_batch(&p->destination_memory, 1));
    nothing_leaked(p->a);
    nothing_leaked(p->b);
    OK(mc_engine_close(p->a));
    OK(mc_engine_close(p->b));
    FAILS(MC_EHANDLE, "engine", mc_engine_close(p->a));
    munmap(p->source, SIZE);
    munmap(p->destination, SIZE);
}

/* Blocks that are contiguous on neither side: block i is at a place of its own,
 * a spare block apart from the next one, and the remote side runs backwards. */
static void scatter(const struct pair *p, uint64_t *local, uint64_t *remote, uint64_t *length) {
    for (uint64_t i = 0; i < BLOCKS; i++) {
        local[i] = address_of(p->source) + 2 * i * BLOCK;
        remote[i] = address_of(p->destination) + 2 * (BLOCKS - 1 - i) * BLOCK;
        length[i] = BLOCK;
    }
}

static void check_done(const mc_batch_status_t *status, uint64_t blocks, uint64_t bytes) {
    CHECK(status->state == MC_BATCH_DONE, "state %u", status->state);
    CHECK(status->error == MC_OK, "error %d", status->error);
    CHECK(status->quiet == MC_QUIET_NONE, "quiet %u", status->quiet);
    CHECK(status->flags == 0, "flags %u", status->flags);
    CHECK(status->blocks == blocks, "blocks %llu", (unsigned long long)status->blocks);
    CHECK(status->bytes == bytes, "bytes %llu", (unsigned long long)status->bytes);
    CHECK(status->bytes_done == bytes, "bytes_done %llu", (unsigned long long)status->bytes_done);
    CHECK(status->duration_ns > 0 || blocks == 0, "no time passed");
}

static void write_and_read_back(struct pair *p) {
    static uint64_t local[BLOCKS], remote[BLOCKS], length[BLOCKS];
    mc_batch_t batch = 0;
    mc_batch_status_t status;
    scatter(p, local, remote, length);
    fill(p->source, SIZE, 1);
    OK(mc_submit(p->segment, MC_WRITE, local, remote, length, BLOCKS, 0, &batch));
    OK(mc_wait(batch, -1, &status));
    check_done(&status, BLOCKS, BLOCKS * BLOCK);
    CHECK(status.runs == BLOCKS, "runs %llu", (unsigned long long)status.runs);
    OK(mc_batch_close(batch));
    for (uint64_t i = 0; i < BLOCKS; i++) {
        const uint8_t *at = p->destination + (remote[i] - address_of(p->destination));
        CHECK(memcmp(at, p->source + 2 * i * BLOCK, BLOCK) == 0, "block %llu differs",
              (unsigned long long)i);
        for (int j = 0; j < BLOCK; j++)
            CHECK(at[BLOCK + j] == 0, "a byte between blocks was written");
    }

    static uint8_t before[SIZE];
    memcpy(before, p->source, SIZE);
    memset(p->source, 0, SIZE);
    OK(mc_submit(p->segment, MC_READ, local, remote, length, BLOCKS, -1, &batch));
    OK(mc_wait(batch, 30000, &status));
    check_done(&status, BLOCKS, BLOCKS * BLOCK);
    OK(mc_batch_close(batch));
    for (uint64_t i = 0; i < BLOCKS; i++)
        CHECK(memcmp(before + 2 * i * BLOCK, p->source + 2 * i * BLOCK, BLOCK) == 0,
              "block %llu differs after reading back", (unsigned long long)i);
}

/* Pages of 64 bytes in three layers: dense ones here, slices of heads at the peer. Both
 * widths of page numbers, and a group of its own for a layer with other pages. */
static void pages(struct pair *p) {
    enum { PAGES = 300, PAGE = 64, STRIDE = 192 };
    static int32_t narrow[PAGES];
    static int64_t wide[PAGES];
    const int32_t one = 7;
    mc_layer_t layers[3], other = {.local_base = address_of(p->source),
                                   .remote_base = address_of(p->destination) + SIZE / 2,
                                   .local_stride = 100, .remote_stride = 100, .length = 1000};
    for (int i = 0; i < PAGES; i++)
        narrow[i] = i / 3, wide[i] = PAGES - 1 - i;
    for (int k = 0; k < 3; k++)
        layers[k] = (mc_layer_t){.local_base = address_of(p->source) + k * PAGES * PAGE,
                                 .remote_base = address_of(p->destination) + k * PAGE,
                                 .local_stride = PAGE, .remote_stride = STRIDE, .length = PAGE};
    mc_page_group_t groups[2] = {
        {.local_pages = narrow, .local_width = 4, .remote_pages = wide, .remote_width = 8,
         .page_count = PAGES, .layers = layers, .layer_count = 3},
        {.local_pages = &one, .local_width = 4, .remote_pages = &one, .remote_width = 4,
         .page_count = 1, .layers = &other, .layer_count = 1}};
    mc_batch_status_t status;
    mc_batch_t batch = 77;
    fill(p->source, SIZE, 9);
    memset(p->destination, 0, SIZE);
    OK(mc_transfer_pages(p->segment, MC_WRITE, groups, 2, 0, -1, &status, &batch));
    CHECK(batch == 0, "a transfer that is done left %llu in out", (unsigned long long)batch);
    check_done(&status, 3 * PAGES + 1, 3 * PAGES * PAGE + 1000);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < PAGES; i++)
            CHECK(memcmp(p->destination + wide[i] * STRIDE + k * PAGE,
                         p->source + (k * PAGES + narrow[i]) * PAGE, PAGE) == 0, "layer %d page %d", k, i);
    CHECK(memcmp(p->destination + SIZE / 2 + 700, p->source + 700, 1000) == 0, "the other group");
    CHECK(p->destination[SIZE / 2 + 699] == 0 && p->destination[SIZE / 2 + 1700] == 0 &&
              p->destination[PAGES * STRIDE] == 0, "a byte beside the pages was written");

    /* And back, in a batch that is waited for; the arrays may go at once. */
    static uint8_t before[SIZE];
    memcpy(before, p->source, SIZE);
    for (int i = 0; i < PAGES; i++)
        narrow[i] = i; /* a page must not be read into twice */
    memset(p->source, 0, SIZE);
    OK(mc_submit_pages(p->segment, MC_READ, groups, 1, 0, &batch));
    memset(layers, 0xFF, sizeof layers), memset(narrow, 0xFF, sizeof narrow);
    OK(mc_wait(batch, 30000, &status));
    check_done(&status, 3 * PAGES, 3 * PAGES * PAGE);
    OK(mc_batch_close(batch));
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < PAGES; i++)
            CHECK(memcmp(p->source + (k * PAGES + i) * PAGE, before + (k * PAGES + i / 3) * PAGE,
                         PAGE) == 0, "layer %d page %d after reading back", k, i);
    CHECK(p->source[3 * PAGES * PAGE] == 0, "a byte behind the pages was written");
}

/* One call that moves and waits; and one that does not wait, whose batch goes on. */
static void in_one_call(struct pair *p) {
    static uint64_t local[BLOCKS], remote[BLOCKS], length[BLOCKS];
    mc_batch_status_t status;
    mc_batch_t batch = 77;
    scatter(p, local, remote, length);
    fill(p->source, SIZE, 3);
    OK(mc_transfer(p->segment, MC_WRITE, local, remote, length, BLOCKS, 0, -1, &status, &batch));
    CHECK(batch == 0, "a transfer that is done left %llu in out", (unsigned long long)batch);
    check_done(&status, BLOCKS, BLOCKS * BLOCK);
    CHECK(memcmp(p->destination + (remote[0] - address_of(p->destination)), p->source, BLOCK) == 0,
          "bytes differ");
    int code = mc_transfer(p->segment, MC_READ, local, remote, length, BLOCKS, 0, 0, &status, &batch);
    CHECK(code == MC_OK || code == MC_ETIMEDOUT, "code %d", code);
    CHECK((batch != 0) == (code == MC_ETIMEDOUT), "code %d, out %llu", code, (unsigned long long)batch);
    if (batch != 0) {
        OK(mc_wait(batch, -1, &status));
        OK(mc_batch_close(batch));
    }
    check_done(&status, BLOCKS, BLOCKS * BLOCK);
}

/* One batch whose blocks come in pieces; one with a bad piece. */
static void in_pieces(struct pair *p) {
    static uint64_t local[BLOCKS], remote[BLOCKS], length[BLOCKS];
    mc_batch_status_t status;
    mc_batch_t batch;
    scatter(p, local, remote, length);
    fill(p->source, SIZE, 4);
    memset(p->destination, 0, SIZE);
    OK(mc_batch_open(p->segment, MC_WRITE, 0, &batch));
    for (uint64_t i = 0; i < BLOCKS; i += BLOCKS / 2)
        OK(mc_batch_add(batch, local + i, remote + i, length + i, BLOCKS / 2));
    CHECK(mc_wait(batch, 1, &status) == MC_ETIMEDOUT, "a batch that is not sealed has ended");
    OK(mc_batch_seal(batch));
    OK(mc_wait(batch, -1, &status));
    check_done(&status, BLOCKS, BLOCKS * BLOCK);
    OK(mc_batch_close(batch));
    for (uint64_t i = 0; i < BLOCKS; i++)
        CHECK(memcmp(p->destination + (remote[i] - address_of(p->destination)),
                     p->source + (local[i] - address_of(p->source)), BLOCK) == 0,
              "block %llu differs", (unsigned long long)i);

    OK(mc_batch_open(p->segment, MC_WRITE, 0, &batch));
    OK(mc_batch_add(batch, NULL, NULL, NULL, 0));
    remote[1] = 1;
    CHECK(mc_batch_add(batch, local, remote, length, BLOCKS) == MC_EADDR, "%s", mc_last_error());
    CHECK(mc_wait(batch, -1, &status) == MC_EADDR, "%s", mc_last_error());
    CHECK(status.state == MC_BATCH_FAILED && status.quiet == MC_QUIET_BOTH, "state %u, quiet %u",
          status.state, status.quiet);
    OK(mc_batch_close(batch));
}

/* Neighbours on both sides become one run; blocks without bytes count as blocks. */
static void merged(struct pair *p) {
    enum { COUNT = 64 };
    uint64_t local[COUNT + 1], remote[COUNT + 1], length[COUNT + 1];
    mc_batch_t batch;
    mc_batch_status_t status;
    for (int i = 0; i < COUNT; i++) {
        local[i] = address_of(p->source) + (uint64_t)i * 100;
        remote[i] = address_of(p->destination) + 7 + (uint64_t)i * 100;
        length[i] = 100;
    }
    local[COUNT] = local[0], remote[COUNT] = remote[0], length[COUNT] = 0;
    fill(p->source, SIZE, 2);
    OK(mc_submit(p->segment, MC_WRITE, local, remote, length, COUNT + 1, 1000, &batch));
    OK(mc_wait(batch, -1, &status));
    check_done(&status, COUNT + 1, COUNT * 100);
    CHECK(status.runs == 1, "runs %llu", (unsigned long long)status.runs);
    CHECK(memcmp(p->destination + 7, p->source, COUNT * 100) == 0, "bytes differ");
    OK(mc_batch_close(batch));
}

/* An ended batch is polled, waited for again, cancelled and watched in vain. */
static void after_the_end(struct pair *p) {
    uint64_t local = address_of(p->source), remote = address_of(p->destination), length = SIZE;
    mc_batch_t batch;
    mc_batch_status_t status;
    int32_t fd = -1;
    OK(mc_submit(p->segment, MC_WRITE, &local, &remote, &length, 1, INT64_MAX, &batch));
    OK(mc_batch_fd(batch, &fd));
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    CHECK(poll(&watched, 1, 30000) == 1 && (watched.revents & POLLIN), "the fd did not wake us");
    OK(mc_poll(batch, &status));
    check_done(&status, 1, SIZE);
    OK(mc_wait(batch, 0, NULL));
    OK(mc_wait(batch, INT64_MIN, NULL));
    OK(mc_wait(batch, INT64_MAX, &status));
    OK(mc_cancel(batch));
    OK(mc_wait(batch, 0, &status));
    check_done(&status, 1, SIZE);
    CHECK(memcmp(p->source, p->destination, SIZE) == 0, "bytes differ");
    OK(mc_batch_close(batch));
    FAILS(MC_EHANDLE, "batch", mc_batch_close(batch));

    OK(mc_submit(p->segment, MC_READ, NULL, NULL, NULL, 0, 0, &batch));
    OK(mc_wait(batch, 0, &status));
    check_done(&status, 0, 0);
    OK(mc_batch_close(batch));
}

static void own_segment(struct pair *p) {
    uint64_t local = address_of(p->source), remote = local + SIZE / 2, length = SIZE / 2;
    mc_segment_t self;
    mc_batch_t batch;
    OK(mc_segment_open(p->a, p->session_a, &self));
    fill(p->source, SIZE, 3);
    OK(mc_submit(self, MC_WRITE, &local, &remote, &length, 1, 0, &batch));
    OK(mc_wait(batch, -1, NULL));
    CHECK(memcmp(p->source, p->source + SIZE / 2, SIZE / 2) == 0, "bytes differ");
    OK(mc_batch_close(batch));
    OK(mc_segment_close(self));
}

static void describe(struct pair *p) {
    uint64_t address = 0, length = 0;
    int32_t stale = -1;
    OK(mc_segment_buffer(p->segment, 0, &address, &length));
    CHECK(address == address_of(p->destination) && length == SIZE, "buffer 0");
    FAILS(MC_ENOTFOUND, "1", mc_segment_buffer(p->segment, 1, &address, &length));
    OK(mc_segment_stale(p->segment, &stale));
    CHECK(stale == 0, "stale %d", stale);
    OK(mc_segment_connect(p->segment, 5000));
    OK(mc_segment_connect(p->segment, -1));

    FAILS(MC_EFULL, "", mc_local_topology(NULL, NULL, 0, &length));
    char *text = malloc(length + 1);
    FAILS(MC_EFULL, "capacity", mc_local_topology("", text, length, &length));
    OK(mc_local_topology("", text, length + 1, &length));
    CHECK(strlen(text) == length && strncmp(text, "{\"cpu:0\"", 8) == 0, "topology %s", text);
    free(text);

    /* Whatever this host has: a list, or a reason. */
    char *ports = malloc(1 << 20);
    OK(mc_rdma_ports("", ports, 1 << 20, &length));
    CHECK(strlen(ports) == length && strncmp(ports, "{\"ports\":[", 10) == 0, "ports %s", ports);
    FAILS(MC_EFULL, "capacity", mc_rdma_ports(NULL, ports, 1, &length));
    free(ports);
}

static void control(struct pair *p) {
    const char *text = "f\xc3\xa4ng an, \"wei\xc3\x9f\"\n";
    char name[8], message[64];
    uint64_t name_length = 0, message_length = 0;
    OK(mc_probe(p->a, p->session_b, 5000));
    OK(mc_probe(p->b, p->session_a, INT64_MAX));
    OK(mc_fence(p->b, p->session_a, 5000));

    OK(mc_notify_send(p->a, p->session_b, "kv", text));
    OK(mc_notify_send(p->a, p->session_b, "two", ""));
    FAILS(MC_EFULL, "", mc_notify_take(p->b, NULL, 0, &name_length, NULL, 0, &message_length));
    CHECK(name_length == 2 && message_length == strlen(text), "lengths %llu, %llu",
          (unsigned long long)name_length, (unsigned long long)message_length);
    FAILS(MC_EFULL, "message",
          mc_notify_take(p->b, name, sizeof name, &name_length, message, strlen(text),
                         &message_length));
    OK(mc_notify_take(p->b, name, sizeof name, &name_length, message, strlen(text) + 1,
                      &message_length));
    CHECK(strcmp(name, "kv") == 0 && strcmp(message, text) == 0, "took %s: %s", name, message);
    OK(mc_notify_take(p->b, name, 4, &name_length, message, 1, &message_length));
    CHECK(strcmp(name, "two") == 0 && message[0] == 0 && message_length == 0, "took %s", name);
    FAILS(MC_ENOTFOUND, "",
          mc_notify_take(p->b, name, sizeof name, &name_length, message, sizeof message,
                         &message_length));
}

static void counters(struct pair *p) {
    mc_engine_stats_t a, b;
    OK(mc_engine_stats(p->a, &a));
    OK(mc_engine_stats(p->b, &b));
    uint64_t scattered = (uint64_t)BLOCKS * BLOCK;
    CHECK(a.batches == 10 && a.batches_failed == 1 && a.batches_open == 0, "batches %llu, %llu, %llu",
          (unsigned long long)a.batches, (unsigned long long)a.batches_failed,
          (unsigned long long)a.batches_open);
    CHECK(a.bytes_read == 2 * scattered, "read %llu", (unsigned long long)a.bytes_read);
    CHECK(a.bytes_written == 3 * scattered + 6400 + SIZE + SIZE / 2, "written %llu",
          (unsigned long long)a.bytes_written);
    CHECK(a.memories == 1 && b.memories == 1, "memories");
    CHECK(b.served_read == 2 * scattered, "served %llu", (unsigned long long)b.served_read);
    CHECK(b.served_written == 3 * scattered + 6400 + SIZE, "served %llu",
          (unsigned long long)b.served_written);
    CHECK(b.batches == 0 && b.served_rejected == 0, "of b");
}

static int open_files(void) {
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL, "/proc/self/fd");
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static void main_path(void) {
    struct pair p = {0};
    open_pair(&p);
    describe(&p);
    write_and_read_back(&p);
    in_one_call(&p);
    in_pieces(&p);
    merged(&p);
    after_the_end(&p);
    own_segment(&p);
    counters(&p);
    pages(&p);
    control(&p);
    /* A fence ends connections, not the peer: the next batch works. */
    merged(&p);
    close_pair(&p);
}

int main(void) {
    CHECK(mc_version()[0] != 0, "version");
    CHECK(mc_last_error()[0] == 0, "an error before the first call: %s", mc_last_error());
    main_path();
    /* The first round has opened what the process keeps, such as Go's epoll. */
    int before = open_files();
    main_path();
    double deadline = seconds() + 5;
    while (open_files() > before && seconds() < deadline)
        poll(NULL, 0, 1);
    CHECK(open_files() <= before, "%d files were open, %d are now", before, open_files());
    puts("smoke.c: ok");
    return 0;
}
