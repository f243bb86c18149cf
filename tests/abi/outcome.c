/*
 * Batches that do not simply succeed, from C: the peer is another process, which is
 * frozen, so that a batch stays in flight for as long as the test wants, and killed
 * at last. Exits 0, or prints what went wrong.
 */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* More than the sockets between two processes hold. */
enum { SIZE = 64 << 20 };

/* ---- the peer: this program, started again ---------------------------------- */

static int peer(void) {
    mc_engine_t engine;
    mc_memory_t memory;
    char name[128], end;
    uint8_t *at = map(SIZE);
    OK(mc_engine_open("127.0.0.1", NULL, &engine));
    OK(mc_register(engine, address_of(at), SIZE, NULL, &memory));
    printf("%s %llu\n", session(engine, name, sizeof name), (unsigned long long)address_of(at));
    fflush(stdout);
    /* Ends with the process that started it, at the end of its pipe. */
    while (read(STDIN_FILENO, &end, 1) > 0)
        ;
    OK(mc_engine_close(engine));
    return 0;
}

struct process {
    pid_t pid;
    int in;
    char session[128];
    uint64_t address;
};

/* Not fork: the library does not survive it. */
static struct process start(void) {
    struct process p;
    int in[2], out[2];
    char *const arguments[] = {"outcome", "peer", NULL};
    posix_spawn_file_actions_t actions;
    CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipes");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    CHECK(posix_spawn(&p.pid, "/proc/self/exe", &actions, NULL, arguments, environ) == 0, "spawn");
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]), close(out[1]);
    p.in = in[1];
    FILE *lines = fdopen(out[0], "r");
    unsigned long long address = 0;
    CHECK(lines && fscanf(lines, "%127s %llu", p.session, &address) == 2, "the peer did not start");
    fclose(lines);
    p.address = address;
    return p;
}

static void freeze(const struct process *p) {
    int status;
    CHECK(kill(p->pid, SIGSTOP) == 0, "SIGSTOP");
    CHECK(waitpid(p->pid, &status, WUNTRACED) == p->pid && WIFSTOPPED(status), "not stopped");
}

static void thaw(const struct process *p) { CHECK(kill(p->pid, SIGCONT) == 0, "SIGCONT"); }

/* ---- the tests --------------------------------------------------------------- */

static mc_engine_t engine;
static uint8_t *memory_at;
static mc_memory_t memory;

static mc_batch_t submit(mc_segment_t segment, const struct process *p, int64_t deadline_ms) {
    uint64_t local = address_of(memory_at), length = SIZE;
    mc_batch_t batch;
    OK(mc_submit(segment, MC_WRITE, &local, &p->address, &length, 1, deadline_ms, &batch));
    return batch;
}

/* Waits for the batch to fail, which must not take long. */
static void fails(mc_batch_t batch, int code, mc_batch_status_t *status) {
    double start_time = seconds();
    FAILS(code, "", mc_wait(batch, 20000, status));
    CHECK(mc_last_error()[0] != 0, "no message");
    CHECK(status->state == MC_BATCH_FAILED && status->error == code, "state %u, error %d",
          status->state, status->error);
    CHECK(status->quiet == MC_QUIET_BOTH || status->quiet == MC_QUIET_LOCAL, "quiet %u",
          status->quiet);
    CHECK(status->bytes_done < SIZE, "all bytes arrived");
    fprintf(stderr, "  %s after %.0f ms, quiet %u\n", mc_status_name(code),
            (seconds() - start_time) * 1e3, status->quiet);
    FAILS(code, "", mc_wait(batch, -1, NULL));
    OK(mc_poll(batch, status));
    CHECK(status->error == code, "the outcome changed to %d", status->error);
}

/* A wait that times out cancels nothing. */
static void wait_times_out(mc_segment_t segment, const struct process *p) {
    mc_batch_status_t status;
    freeze(p);
    mc_batch_t batch = submit(segment, p, -1);
    double start_time = seconds();
    FAILS(MC_ETIMEDOUT, "", mc_wait(batch, 100, &status));
    CHECK(seconds() - start_time >= 0.099, "the wait was too short");
    CHECK(status.state == MC_BATCH_RUNNING && status.error == MC_OK && status.quiet == MC_QUIET_NONE,
          "state %u, error %d, quiet %u", status.state, status.error, status.quiet);
    FAILS(MC_ETIMEDOUT, "", mc_wait(batch, 0, NULL));
    OK(mc_poll(batch, &status));
    CHECK(status.state == MC_BATCH_RUNNING && status.bytes == SIZE, "state %u", status.state);
    int32_t fd;
    OK(mc_batch_fd(batch, &fd));
    struct pollfd watched = {.fd = fd, .events = POLLIN};
    CHECK(poll(&watched, 1, 0) == 0, "the fd is readable before the end");
    thaw(p);
    OK(mc_wait(batch, 30000, &status));
    CHECK(status.bytes_done == SIZE, "bytes_done %llu", (unsigned long long)status.bytes_done);
    CHECK(poll(&watched, 1, 0) == 1, "the fd is not readable after the end");
    OK(mc_batch_close(batch));
}

/* The peer runs again, and so do batches. A batch that failed makes the engine ask
 * the peer who it is, which a frozen one would not answer. */
static void recovers(mc_segment_t segment, const struct process *p) {
    mc_batch_status_t status;
    thaw(p);
    mc_batch_t batch = submit(segment, p, 0);
    OK(mc_wait(batch, 30000, &status));
    CHECK(status.bytes_done == SIZE, "bytes_done %llu", (unsigned long long)status.bytes_done);
    OK(mc_batch_close(batch));
}

static void cancel(mc_segment_t segment, const struct process *p) {
    mc_batch_status_t status;
    freeze(p);
    mc_batch_t batch = submit(segment, p, -1);
    OK(mc_cancel(batch));
    OK(mc_cancel(batch));
    fails(batch, MC_ECANCELED, &status);
    CHECK(status.quiet == MC_QUIET_LOCAL, "a frozen peer cannot have confirmed anything");
    OK(mc_batch_close(batch));
    recovers(segment, p);
    /* Closing a batch in flight cancels it. */
    freeze(p);
    OK(mc_batch_close(submit(segment, p, -1)));
    recovers(segment, p);
}

static void deadline(mc_segment_t segment, const struct process *p) {
    mc_batch_status_t status;
    freeze(p);
    mc_batch_t batch = submit(segment, p, 100);
    fails(batch, MC_EDEADLINE, &status);
    OK(mc_batch_close(batch));
    recovers(segment, p);
}

static void peer_dies(mc_segment_t segment, const struct process *p) {
    mc_batch_status_t status;
    int exit_status;
    freeze(p);
    mc_batch_t batch = submit(segment, p, -1);
    CHECK(kill(p->pid, SIGKILL) == 0 && waitpid(p->pid, &exit_status, 0) == p->pid, "kill");
    fails(batch, MC_EPEER, &status);
    OK(mc_batch_close(batch));
    FAILS(MC_EPEER, p->session, mc_probe(engine, p->session, 2000));
    close(p->in);
}

/* Closing the engine fails what is in flight, and does not wait for the peer. */
static void close_engine(const struct process *p) {
    mc_segment_t segment;
    OK(mc_segment_open(engine, p->session, &segment));
    freeze(p);
    mc_batch_t batch = submit(segment, p, -1);
    double start_time = seconds();
    OK(mc_engine_close(engine));
    CHECK(seconds() - start_time < 10, "closing took %.1f s", seconds() - start_time);
    FAILS(MC_EHANDLE, "batch", mc_wait(batch, 0, NULL));
    FAILS(MC_EHANDLE, "memory", mc_deregister(memory));
    munmap(memory_at, SIZE);
    thaw(p);
}

static void end(const struct process *p) {
    int status;
    close(p->in);
    CHECK(waitpid(p->pid, &status, 0) == p->pid && WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "the peer ended with %d", status);
}

int main(int argc, char **argv) {
    /* In memory, a peer that stands still does not hold a batch up: these are outcomes of
     * tcp. posix_spawn hands it on. */
    setenv("MC_LOCAL", "0", 1);
    if (argc > 1 && strcmp(argv[1], "peer") == 0)
        return peer();
    mc_segment_t segment;
    memory_at = map(SIZE);
    fill(memory_at, 1 << 20, 1);
    OK(mc_engine_open("127.0.0.1", NULL, &engine));
    OK(mc_register(engine, address_of(memory_at), SIZE, NULL, &memory));
    struct process p = start();
    OK(mc_segment_open(engine, p.session, &segment));
    wait_times_out(segment, &p);
    cancel(segment, &p);
    deadline(segment, &p);
    peer_dies(segment, &p);
    OK(mc_segment_close(segment));

    p = start();
    close_engine(&p);
    end(&p);
    puts("outcome.c: ok");
    return 0;
}
