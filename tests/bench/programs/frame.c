/*
 * The commands:
 *
 *   open ROLE FILE              map ROLE's region, local or remote, with FILE's bytes
 *   fill ROLE FILE              the bytes again
 *   same ROLE FILE              are they FILE's?
 *   expect PLAN OP LANES        to the target, before the initiator's
 *   aim PLAN OP LANES AT        to the initiator; AT is what the target answered to open
 *   once                        move every batch of the plan once
 *   run SECONDS                 batches, round and round
 *   latency SECONDS             the same by one lane, each timed: P50 and P99
 *
 * A plan is a file of 64 bit numbers: bytes of a block, blocks in a batch, number of
 * blocks, their local offsets, their remote offsets.
 */
#include "frame.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

enum { SAMPLES_MAX = 200000 };

struct region regions[2];

static struct work *expected, *aimed;
static size_t next[LANES_MAX]; /* the batch that each lane moves next */

void die(const char *format, ...)
{
    char text[TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (*c == '"' || *c == '\\' || *c == '\n')
            *c = ' ';
    printf("{\"ok\": false, \"error\": \"%s\"}\n", text);
    fflush(stdout);
    _Exit(1);
}

void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        die("out of memory for %zu times %zu bytes", count, size);
    return memory;
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* -- memory */

static void *contents(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die("%s: %m", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    void *bytes = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fileno(file), 0);
    fclose(file);
    if (bytes == MAP_FAILED)
        die("%s: mmap: %m", path);
    return bytes;
}

static int role_of(const char *name)
{
    if (strcmp(name, "local") && strcmp(name, "remote"))
        die("the role must be local or remote, not %s", name);
    return strcmp(name, "local") ? REMOTE : LOCAL;
}

static void fill(int role, const char *path)
{
    size_t size;
    void *bytes = contents(path, &size);
    if (size != regions[role].size)
        die("%s has %zu bytes, the region %zu", path, size, regions[role].size);
    memcpy(regions[role].at, bytes, size);
    munmap(bytes, size);
}

static void open_region(int role, const char *path, char *at)
{
    size_t size;
    void *bytes = contents(path, &size);
    munmap(bytes, size);
    /* A margin of two pages: two regions side by side would be one to a peer. */
    char *memory = mmap(NULL, size + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + 4096, size, PROT_READ | PROT_WRITE))
        die("region of %zu bytes: %m", size);
    regions[role] = (struct region){memory + 4096, size};
    fill(role, path);
    program_open(role, at);
}

static int same(int role, const char *path)
{
    size_t size;
    void *bytes = contents(path, &size);
    int equal = size == regions[role].size && memcmp(bytes, regions[role].at, size) == 0;
    munmap(bytes, size);
    return equal;
}

/* -- plan */

/* The share of blocks [first, last), neighbours merged. */
static void cut(struct share *share, const uint64_t *local, const uint64_t *remote, uint64_t size,
                size_t first, size_t last)
{
    share->ranges = allocate(last - first, sizeof(struct range));
    for (size_t i = first; i < last; i++) {
        struct range *end = share->count ? &share->ranges[share->count - 1] : NULL;
        if (end && end->local + end->length == local[i] && end->remote + end->length == remote[i])
            end->length += size;
        else
            share->ranges[share->count++] = (struct range){local[i], remote[i], size};
        share->bytes += size;
    }
}

static struct work *work_of(const char *path, const char *op, int lanes)
{
    size_t bytes;
    const uint64_t *plan = contents(path, &bytes);
    if (lanes < 1 || lanes > LANES_MAX)
        die("lanes must be 1 to %d, not %d", LANES_MAX, lanes);
    uint64_t size = plan[0], batch = plan[1], count = plan[2];
    if (bytes != 8 * (3 + 2 * count) || batch == 0 || count % batch)
        die("%s is no plan", path);
    struct work *work = allocate(1, sizeof(*work));
    *work = (struct work){.op = strcmp(op, "read") ? WRITE : READ, .lanes = lanes,
                          .batches = count / batch, .blocks = count, .size = size};
    work->shares = allocate(work->batches * (size_t)lanes, sizeof(struct share));
    for (size_t b = 0; b < work->batches; b++)
        for (size_t lane = 0; lane < (size_t)lanes; lane++)
            cut(&work->shares[b * (size_t)lanes + lane], plan + 3, plan + 3 + count, size,
                b * batch + batch * lane / (size_t)lanes,
                b * batch + batch * (lane + 1) / (size_t)lanes);
    munmap((void *)plan, bytes);
    return work;
}

static void release(struct work *work)
{
    if (!work)
        return;
    for (size_t i = 0; i < work->batches * (size_t)work->lanes; i++)
        free(work->shares[i].ranges);
    free(work->shares);
    free(work);
}

struct iovec *vectors_of(const struct share *share, int role, char *base)
{
    struct iovec *vectors = allocate(share->count, sizeof(*vectors));
    for (size_t i = 0; i < share->count; i++) {
        const struct range *range = &share->ranges[i];
        vectors[i].iov_base = base + (role == LOCAL ? range->local : range->remote);
        vectors[i].iov_len = range->length;
    }
    return vectors;
}

/* -- lanes */

struct lane {
    pthread_t thread;
    int number;
    size_t batches; /* to move; 0: until end */
    uint64_t end;   /* ns */
    uint64_t bytes;
};

static void *lane_runs(void *argument)
{
    struct lane *lane = argument;
    size_t done = 0;
    /* One batch at least, however late the scheduler let this thread begin. */
    do {
        size_t batch = next[lane->number];
        next[lane->number] = (batch + 1) % aimed->batches;
        if (share_of(aimed, batch, lane->number)->count) {
            program_move(lane->number, batch);
            lane->bytes += share_of(aimed, batch, lane->number)->bytes;
        } else if (!lane->batches) {
            break; /* fewer blocks than lanes: this one has no work */
        }
        done++;
    } while (lane->batches ? done < lane->batches : now_ns() < lane->end);
    return NULL;
}

/* All lanes at once: every batch once, or for so many seconds. The bytes moved. */
static uint64_t lanes_run(size_t batches, double seconds)
{
    struct lane lanes[LANES_MAX] = {0};
    uint64_t bytes = 0, end = now_ns() + (uint64_t)(seconds * 1e9);
    if (!aimed)
        die("aim comes first");
    for (int i = 0; i < aimed->lanes; i++) {
        lanes[i] = (struct lane){.number = i, .batches = batches, .end = end};
        if (i && pthread_create(&lanes[i].thread, NULL, lane_runs, &lanes[i]))
            die("no thread for lane %d", i);
    }
    lane_runs(&lanes[0]);
    for (int i = 0; i < aimed->lanes; i++) {
        if (i)
            pthread_join(lanes[i].thread, NULL);
        bytes += lanes[i].bytes;
    }
    return bytes;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void latency(double seconds)
{
    static uint32_t took[SAMPLES_MAX];
    size_t count = 0;
    uint64_t now, end = now_ns() + (uint64_t)(seconds * 1e9);
    if (!aimed || aimed->lanes != 1)
        die("latency is measured on one lane");
    do {
        uint64_t began = now_ns();
        program_move(0, next[0]);
        now = now_ns();
        took[count++] = (uint32_t)(now - began);
        next[0] = (next[0] + 1) % aimed->batches;
    } while (now < end && count < SAMPLES_MAX);
    qsort(took, count, sizeof(*took), ascending);
    printf("{\"ok\": true, \"calls\": %zu, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", count,
           took[count / 2] / 1e3, took[count * 99 / 100] / 1e3);
}

/* -- commands */

static void retarget(struct work **work, char words[5][TEXT], int count)
{
    struct work *old = *work, *fresh = work_of(words[1], words[2], atoi(words[3]));
    if (work == &expected) {
        program_expect(fresh);
    } else {
        memset(next, 0, sizeof(next));
        program_aim(fresh, count > 4 ? words[4] : "-");
    }
    *work = fresh;
    release(old);
    printf("{\"ok\": true}\n");
}

static void timed_run(double seconds)
{
    uint64_t began = now_ns();
    uint64_t bytes = lanes_run(0, seconds);
    printf("{\"ok\": true, \"seconds\": %.9f, \"bytes\": %llu}\n", (double)(now_ns() - began) / 1e9,
           (unsigned long long)bytes);
}

static void obey(char words[5][TEXT], int count)
{
    const char *op = words[0];
    if (!strcmp(op, "open") && count == 3) {
        char at[TEXT] = "-";
        open_region(role_of(words[1]), words[2], at);
        printf("{\"ok\": true, \"at\": \"%s\", \"about\": \"\"}\n", at);
    } else if (!strcmp(op, "fill") && count == 3) {
        fill(role_of(words[1]), words[2]);
        printf("{\"ok\": true}\n");
    } else if (!strcmp(op, "same") && count == 3) {
        printf("{\"ok\": true, \"same\": %s}\n",
               same(role_of(words[1]), words[2]) ? "true" : "false");
    } else if (!strcmp(op, "expect") && count >= 4) {
        retarget(&expected, words, count);
    } else if (!strcmp(op, "aim") && count == 5) {
        retarget(&aimed, words, count);
    } else if (!strcmp(op, "once")) {
        lanes_run(aimed ? aimed->batches : 1, 0);
        printf("{\"ok\": true}\n");
    } else if (!strcmp(op, "run") && count == 2) {
        timed_run(atof(words[1]));
    } else if (!strcmp(op, "latency") && count == 2) {
        latency(atof(words[1]));
    } else if (!strcmp(op, "counters")) {
        printf("{\"ok\": true, \"counters\": {}}\n");
    } else {
        die("unknown command %s with %d words", op, count);
    }
    fflush(stdout);
}

int main(void)
{
    static char line[5 * TEXT], words[5][TEXT];
    /* A pair that is stopped when its parent is killed must not stay for ever. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (fgets(line, sizeof(line), stdin)) {
        int count = sscanf(line, "%511s %511s %511s %511s %511s", words[0], words[1], words[2],
                           words[3], words[4]);
        if (count > 0)
            obey(words, count);
    }
    /* Threads may wait for a peer that is gone. */
    _Exit(0);
}
