/*
 * A C program that uses page pools and nothing else of mooncake.h: every function with
 * what it promises and with arguments that it must refuse. Exits 0, or prints what went wrong.
 */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FIRST = 1000, COUNT = 100 };
#define NUMBER(x) ((unsigned long long)(x))

static const uint32_t kinds[] = {MC_PAGES_RUNS, MC_PAGES_FIFO, MC_PAGES_SORTED};

static mc_pages_t create(uint32_t kind) {
    mc_pages_t pool = 0;
    OK(mc_pages_create(FIRST, COUNT, kind, 0, &pool));
    return pool;
}

static mc_pages_stats_t stats_of(mc_pages_t pool) {
    mc_pages_stats_t stats;
    OK(mc_pages_stats(pool, &stats));
    CHECK(stats.pages == COUNT, "pages %llu", NUMBER(stats.pages));
    CHECK(stats.pages_free + stats.pages_allocated == COUNT, "%llu free, %llu allocated",
          NUMBER(stats.pages_free), NUMBER(stats.pages_allocated));
    return stats;
}

static void expect_pages(const int64_t *pages, int64_t from, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        CHECK(pages[i] == from + (int64_t)i, "page %llu is %lld, expected %lld", NUMBER(i),
              (long long)pages[i], (long long)(from + (int64_t)i));
}

/* The common life of two requests. */
static void life(uint32_t kind) {
    mc_pages_t pool = create(kind);
    int64_t pages[COUNT];
    uint64_t runs[2 * COUNT], count = 77;
    memset(pages, 0xff, sizeof pages);
    OK(mc_pages_alloc(pool, 1, 10, 5, pages, COUNT));
    expect_pages(pages, FIRST, 10);
    CHECK(pages[10] == -1, "written past the last page");
    OK(mc_pages_alloc(pool, 2, 10, 0, NULL, 0));
    OK(mc_pages_grow(pool, 1, 3, pages, 3));
    OK(mc_pages_grow(pool, 1, 1, NULL, 0));

    const uint64_t requests[] = {2, 1, 2}, counts[] = {0, 1, 2};
    OK(mc_pages_grow_batch(pool, requests, counts, 3, pages, 3, &count));
    CHECK(count == 3, "count %llu", NUMBER(count));
    OK(mc_pages_grow_batch(pool, requests, NULL, 2, pages + 3, 2, &count));
    CHECK(count == 2, "count %llu", NUMBER(count));
    OK(mc_pages_grow_batch(pool, NULL, NULL, 0, NULL, 0, &count));
    CHECK(count == 0, "count %llu", NUMBER(count));

    OK(mc_pages_runs(pool, 1, runs, COUNT, &count));
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += runs[2 * i + 1];
    CHECK(runs[0] == FIRST && sum == 16, "%llu runs, %llu pages", NUMBER(count), NUMBER(sum));
    if (kind == MC_PAGES_RUNS)
        CHECK(runs[1] == 15 && count == 2, "growth is not in place: %llu pages, %llu runs",
              NUMBER(runs[1]), NUMBER(count));

    mc_pages_stats_t stats = stats_of(pool);
    CHECK(stats.requests == 2 && stats.pages_allocated == 29, "%llu requests, %llu pages",
          NUMBER(stats.requests), NUMBER(stats.pages_allocated));
    OK(mc_pages_free(pool, 2, pages + 1, 2));
    OK(mc_pages_free(pool, MC_ANYONE, pages + 3, 2));
    OK(mc_pages_free(pool, MC_ANYONE, NULL, 0));
    OK(mc_pages_release(pool, 1, &count));
    CHECK(count == 15, "released %llu", NUMBER(count));
    OK(mc_pages_release(pool, 2, NULL));
    stats = stats_of(pool);
    CHECK(stats.pages_free == COUNT && stats.requests == 0 && stats.pages_reserved == 0, "%llu free",
          NUMBER(stats.pages_free));
    if (kind == MC_PAGES_RUNS)
        CHECK(stats.runs_free == 1 && stats.longest_free == COUNT && stats.fragmentation == 0 &&
                  stats.histogram[6] == 1, "%llu runs", NUMBER(stats.runs_free));
    else
        CHECK(stats.runs_free > 1 && stats.fragmentation > 0, "%llu runs", NUMBER(stats.runs_free));
    OK(mc_pages_destroy(pool));
    FAILS(MC_EHANDLE, "page pool", mc_pages_destroy(pool));
}

static void room(void) {
    mc_pages_t pool = create(MC_PAGES_RUNS);
    uint64_t got = 77;
    OK(mc_pages_alloc(pool, 1, 10, 20, NULL, 0));
    CHECK(stats_of(pool).pages_reserved == 20, "room");
    OK(mc_pages_reserve(pool, 1, UINT64_MAX, &got));
    CHECK(got == COUNT - 10, "room for %llu", NUMBER(got));
    OK(mc_pages_reserve(pool, 1, 0, NULL));
    CHECK(stats_of(pool).pages_reserved == 0, "room was not given back");
    FAILS(MC_ENOTFOUND, "room of request 5", mc_pages_reserve(pool, 5, 1, &got));
    OK(mc_pages_destroy(pool));
}

static void refused_create(void) {
    mc_pages_t out = 77;
    FAILS(MC_EINVAL, "out", mc_pages_create(0, 10, MC_PAGES_RUNS, 0, NULL));
    FAILS(MC_EINVAL, "empty", mc_pages_create(0, 0, MC_PAGES_RUNS, 0, &out));
    FAILS(MC_EINVAL, "kind is 3", mc_pages_create(0, 10, 3, 0, &out));
    FAILS(MC_EINVAL, "kind", mc_pages_create(0, 10, UINT32_MAX, 0, &out));
    FAILS(MC_EINVAL, "flags is 0x1", mc_pages_create(0, 10, MC_PAGES_RUNS, 1, &out));
    FAILS(MC_EINVAL, "2^63", mc_pages_create(INT64_MAX, 1, MC_PAGES_RUNS, 0, &out));
    FAILS(MC_EINVAL, "2^63", mc_pages_create(UINT64_MAX, UINT64_MAX, MC_PAGES_RUNS, 0, &out));
    FAILS(MC_EINVAL, "a list has at most", mc_pages_create(0, INT64_MAX, MC_PAGES_FIFO, 0, &out));
    CHECK(out == 77, "a failed create wrote out");
    OK(mc_pages_create(0, INT64_MAX, MC_PAGES_RUNS, 0, &out));
    OK(mc_pages_destroy(out));
}

static void refused_alloc(mc_pages_t pool) {
    int64_t pages[COUNT], *none = NULL;
    FAILS(MC_EINVAL, "alloc of 0 pages for request 9", mc_pages_alloc(pool, 9, 0, 0, pages, COUNT));
    FAILS(MC_EINVAL, "any request", mc_pages_alloc(pool, MC_ANYONE, 1, 0, NULL, 0));
    FAILS(MC_EINVAL, "request 1", mc_pages_alloc(pool, 1, 1, 0, pages, COUNT));
    FAILS(MC_ENOPAGES, "alloc of 81 pages for request 9: 80 are free",
          mc_pages_alloc(pool, 9, 81, 0, pages, COUNT));
    FAILS(MC_ENOPAGES, "request 9", mc_pages_alloc(pool, 9, UINT64_MAX, UINT64_MAX, NULL, 0));
    FAILS(MC_EFULL, "capacity is 4", mc_pages_alloc(pool, 9, 5, 0, pages, 4));
    FAILS(MC_EINVAL, "pages is NULL", mc_pages_alloc(pool, 9, 5, 0, none, 5));
    FAILS(MC_EINVAL, "pages", mc_pages_alloc(pool, 9, 5, 0, (int64_t *)8, 5));
    FAILS(MC_EINVAL, "count", mc_pages_alloc(pool, 9, UINT64_MAX, 0, pages, UINT64_MAX));
    FAILS(MC_ENOTFOUND, "runs of request 9", mc_pages_runs(pool, 9, NULL, 0, &(uint64_t){0}));
}

static void refused_growth(mc_pages_t pool) {
    int64_t pages[COUNT];
    uint64_t out = 77, requests[] = {1, 2}, counts[] = {40, 41};
    FAILS(MC_ENOTFOUND, "growth by 1 pages of request 9", mc_pages_grow(pool, 9, 1, pages, 1));
    FAILS(MC_ENOPAGES, "growth by 81 pages of request 1", mc_pages_grow(pool, 1, 81, pages, COUNT));
    FAILS(MC_EFULL, "capacity is 1", mc_pages_grow(pool, 1, 2, pages, 1));
    FAILS(MC_ENOPAGES, "growth by 41 pages of request 2: 40 are free",
          mc_pages_grow_batch(pool, requests, counts, 2, pages, COUNT, &out));
    FAILS(MC_EFULL, "capacity is 80", mc_pages_grow_batch(pool, requests, counts, 2, pages, 80, &out));
    CHECK(out == 81, "out_count %llu", NUMBER(out));
    counts[1] = UINT64_MAX;
    FAILS(MC_ENOPAGES, "counts[1]", mc_pages_grow_batch(pool, requests, counts, 2, pages, COUNT, &out));
    requests[1] = 9;
    FAILS(MC_ENOTFOUND, "request 9", mc_pages_grow_batch(pool, requests, NULL, 2, pages, 2, &out));
    FAILS(MC_EINVAL, "requests", mc_pages_grow_batch(pool, NULL, NULL, 2, pages, 2, &out));
    FAILS(MC_EINVAL, "counts", mc_pages_grow_batch(pool, requests, (uint64_t *)8, 2, pages, 2, &out));
    FAILS(MC_EINVAL, "pages", mc_pages_grow_batch(pool, requests, NULL, 2, NULL, 2, &out));
    FAILS(MC_EINVAL, "out_count", mc_pages_grow_batch(pool, requests, NULL, 2, pages, 2, NULL));
    FAILS(MC_EINVAL, "count", mc_pages_grow_batch(pool, requests, NULL, UINT64_MAX, pages, UINT64_MAX, &out));
}

static void refused_free(mc_pages_t pool, const int64_t *one, const int64_t *two) {
    int64_t list[] = {one[0], one[1], one[0]}, foreign[] = {one[0], FIRST + COUNT};
    uint64_t out = 77;
    char text[32];
    FAILS(MC_EINVAL, "listed twice", mc_pages_free(pool, 1, list, 3));
    FAILS(MC_EPAGE, "page 1100", mc_pages_free(pool, 1, foreign, 2));
    foreign[1] = FIRST - 1;
    FAILS(MC_EPAGE, "page 999", mc_pages_free(pool, MC_ANYONE, foreign, 2));
    foreign[1] = -1;
    FAILS(MC_EPAGE, "page -1", mc_pages_free(pool, 1, foreign, 2));
    snprintf(text, sizeof text, "page %lld", (long long)two[0]);
    FAILS(MC_EPAGE, text, mc_pages_free(pool, 1, two, 1));
    FAILS(MC_EPAGE, "request 2 has it", mc_pages_free(pool, 1, two, 1));
    FAILS(MC_EPAGE, "of request 9", mc_pages_free(pool, 9, two, 1));
    FAILS(MC_EINVAL, "pages is NULL", mc_pages_free(pool, 1, NULL, 1));
    FAILS(MC_EINVAL, "pages", mc_pages_free(pool, 1, (int64_t *)4096, 1));
    FAILS(MC_EINVAL, "count", mc_pages_free(pool, 1, list, UINT64_MAX));
    FAILS(MC_ENOTFOUND, "release of request 9", mc_pages_release(pool, 9, &out));
    FAILS(MC_EINVAL, "out_count", mc_pages_release(pool, 1, (uint64_t *)8));
    CHECK(out == 77, "a failed release wrote out_count");

    /* Given back twice. */
    OK(mc_pages_free(pool, 1, one, 1));
    snprintf(text, sizeof text, "page %lld", (long long)one[0]);
    FAILS(MC_EPAGE, text, mc_pages_free(pool, 1, one, 1));
    FAILS(MC_EPAGE, "not allocated", mc_pages_free(pool, MC_ANYONE, one, 1));
}

static void refused_runs(mc_pages_t pool) {
    uint64_t runs[2] = {7, 7}, out = 77;
    int64_t pages[3];
    OK(mc_pages_alloc(pool, 3, 3, 0, pages, 3));
    OK(mc_pages_free(pool, 3, pages + 1, 1));
    FAILS(MC_EFULL, "request 3 has 2 runs", mc_pages_runs(pool, 3, runs, 1, &out));
    CHECK(out == 2 && runs[0] == 7 && runs[1] == 7, "out_count %llu", NUMBER(out));
    FAILS(MC_EFULL, "capacity is 0", mc_pages_runs(pool, 3, NULL, 0, &out));
    FAILS(MC_EINVAL, "runs is NULL", mc_pages_runs(pool, 3, NULL, 2, &out));
    FAILS(MC_EINVAL, "out_count", mc_pages_runs(pool, 3, runs, 1, NULL));
    FAILS(MC_EINVAL, "out", mc_pages_stats(pool, NULL));
    OK(mc_pages_release(pool, 3, NULL));
}

static void refused(uint32_t kind) {
    mc_pages_t pool = create(kind);
    int64_t one[10], two[10];
    OK(mc_pages_alloc(pool, 1, 10, 0, one, 10));
    OK(mc_pages_alloc(pool, 2, 10, 0, two, 10));
    mc_pages_stats_t before = stats_of(pool), now;
    refused_alloc(pool);
    refused_growth(pool);
    now = stats_of(pool);
    CHECK(memcmp(&before, &now, sizeof now) == 0, "a refused call changed the pool");
    refused_free(pool, one, two);
    CHECK(stats_of(pool).pages_allocated == 19, "a refused call freed pages");
    refused_runs(pool);
    OK(mc_pages_destroy(pool));
}

static void bad_handle(mc_pages_t bad) {
    int64_t page = FIRST;
    uint64_t number = 1;
    mc_pages_stats_t stats;
    FAILS(MC_EHANDLE, "page pool", mc_pages_destroy(bad));
    FAILS(MC_EHANDLE, "page pool", mc_pages_alloc(bad, 1, 1, 0, &page, 1));
    FAILS(MC_EHANDLE, "page pool", mc_pages_grow(bad, 1, 1, &page, 1));
    FAILS(MC_EHANDLE, "page pool", mc_pages_grow_batch(bad, &number, &number, 1, &page, 1, &number));
    FAILS(MC_EHANDLE, "page pool", mc_pages_reserve(bad, 1, 1, &number));
    FAILS(MC_EHANDLE, "page pool", mc_pages_free(bad, 1, &page, 1));
    FAILS(MC_EHANDLE, "page pool", mc_pages_release(bad, 1, &number));
    FAILS(MC_EHANDLE, "page pool", mc_pages_runs(bad, 1, &number, 0, &number));
    FAILS(MC_EHANDLE, "page pool", mc_pages_stats(bad, &stats));
}

static void bad_handles(void) {
    const uint64_t never[] = {0, 1, 77, INT64_MAX, UINT64_MAX};
    mc_pages_t closed = create(MC_PAGES_RUNS);
    OK(mc_pages_destroy(closed));
    bad_handle(closed);
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        bad_handle(never[i]);
    mc_engine_t engine;
    OK(mc_engine_open("127.0.0.1", NULL, &engine));
    bad_handle(engine);
    mc_pages_t pool = create(MC_PAGES_RUNS);
    FAILS(MC_EHANDLE, "page pool handle, where a engine handle", mc_engine_close(pool));
    OK(mc_pages_destroy(pool));
    OK(mc_engine_close(engine));
}

/* Threads write to what they hold, and find it untouched. */
enum { USERS = 4, EACH = 20, ROUNDS = 300 };
static mc_pages_t shared;
static _Atomic int64_t owner[COUNT];

static void *use(void *argument) {
    int64_t me = (int64_t)(intptr_t)argument, pages[EACH];
    uint64_t request = (uint64_t)me, count = 0;
    for (int round = 0; round < ROUNDS; round++) {
        OK(mc_pages_alloc(shared, request, EACH - 4, 2, pages, EACH));
        for (int i = EACH - 4; i < EACH; i++)
            OK(mc_pages_grow_batch(shared, &request, NULL, 1, pages + i, 1, &count));
        for (int i = 0; i < EACH; i++) {
            int64_t before = 0;
            CHECK(atomic_compare_exchange_strong(&owner[pages[i] - FIRST], &before, me), "page %lld is %lld's and %lld's",
                  (long long)pages[i], (long long)before, (long long)me);
        }
        for (int i = 0; i < EACH; i++)
            atomic_store(&owner[pages[i] - FIRST], 0);
        OK(mc_pages_free(shared, request, pages + round % EACH, 1));
        OK(mc_pages_release(shared, request, &count));
        CHECK(count == EACH - 1, "released %llu", NUMBER(count));
    }
    return NULL;
}

static void threads(uint32_t kind) {
    pthread_t users[USERS];
    shared = create(kind);
    for (intptr_t i = 0; i < USERS; i++)
        CHECK(pthread_create(&users[i], NULL, use, (void *)(i + 1)) == 0, "thread");
    for (int i = 0; i < USERS; i++)
        pthread_join(users[i], NULL);
    CHECK(stats_of(shared).pages_free == COUNT, "pages were lost");
    OK(mc_pages_destroy(shared));
}

int main(void) {
    refused_create();
    room();
    bad_handles();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        life(kinds[i]);
        refused(kinds[i]);
        threads(kinds[i]);
    }
    puts("pages.c: ok");
    return 0;
}
