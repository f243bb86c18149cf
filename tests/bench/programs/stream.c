/*
 * The limit of TCP: a socket for each lane that walks the same memory, one thread on each
 * side. No header, no address, no check: both ends know the plan. A batch's share is
 * sent with up to 1,024 blocks a system call, received straight into place, and answered with 8
 * bytes; a read is asked for with 8 bytes. With one lane and batches of one block this
 * is the ping-pong that latencies are compared with.
 */
#include "frame.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Moves all of the vectors, in or out; 0 when the stream has ended. */
static int pump(int fd, const struct iovec *vectors, size_t count, int out)
{
    struct iovec window[WINDOW];
    for (size_t first = 0; first < count; first += WINDOW) {
        size_t left = count - first < WINDOW ? count - first : WINDOW;
        struct iovec *at = memcpy(window, vectors + first, left * sizeof(*window));
        while (left) {
            struct msghdr message = {.msg_iov = at, .msg_iovlen = left};
            ssize_t moved = out ? sendmsg(fd, &message, MSG_NOSIGNAL)
                                : recvmsg(fd, &message, MSG_WAITALL);
            if (moved <= 0)
                return 0;
            for (; left && (size_t)moved >= at->iov_len; at++, left--)
                moved -= (ssize_t)at->iov_len;
            if (left) {
                at->iov_base = (char *)at->iov_base + moved;
                at->iov_len -= (size_t)moved;
            }
        }
    }
    return 1;
}

static int word(int fd, int out)
{
    char eight[8] = {0};
    return pump(fd, &(struct iovec){eight, sizeof(eight)}, 1, out);
}

static void no_delay(int fd)
{
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
        die("TCP_NODELAY: %m");
}

/* -- the target */

static struct connection {
    int fd, lane;
    pthread_t thread;
} accepted[LANES_MAX];
static int accepted_count;
static const struct work *serving;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three above */
static int listener;

static void serve_batches(int fd, const struct work *work, int lane, struct iovec **vectors)
{
    for (size_t batch = 0;; batch = (batch + 1) % work->batches) {
        const struct share *share = share_of(work, batch, lane);
        if (!share->count)
            continue;
        int there = work->op == WRITE ? pump(fd, vectors[batch], share->count, 0) && word(fd, 1)
                                      : word(fd, 0) && pump(fd, vectors[batch], share->count, 1);
        if (!there)
            return;
    }
}

static void *serve(void *argument)
{
    struct connection *connection = argument;
    const struct work *work = serving;
    struct iovec **vectors = allocate(work->batches, sizeof(*vectors));
    size_t busy = 0;
    for (size_t batch = 0; batch < work->batches; batch++) {
        const struct share *share = share_of(work, batch, connection->lane);
        vectors[batch] = vectors_of(share, REMOTE, regions[REMOTE].at);
        busy += share->count;
    }
    if (word(connection->fd, 1) && busy)
        serve_batches(connection->fd, work, connection->lane, vectors);
    for (size_t batch = 0; batch < work->batches; batch++)
        free(vectors[batch]);
    free(vectors);
    return NULL;
}

static void *accept_lanes(void *unused)
{
    (void)unused;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        uint32_t lane;
        if (fd < 0 || recv(fd, &lane, sizeof(lane), MSG_WAITALL) != sizeof(lane))
            die("no lane: %m");
        no_delay(fd);
        pthread_mutex_lock(&lock);
        if (!serving || accepted_count == serving->lanes || lane >= (uint32_t)serving->lanes)
            die("a lane that nobody expects");
        struct connection *slot = &accepted[accepted_count++];
        *slot = (struct connection){.fd = fd, .lane = (int)lane};
        if (pthread_create(&slot->thread, NULL, serve, slot))
            die("no thread for lane %u", lane);
        pthread_mutex_unlock(&lock);
    }
}

void program_expect(const struct work *work)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < accepted_count; i++) {
        shutdown(accepted[i].fd, SHUT_RDWR);
        pthread_join(accepted[i].thread, NULL);
        close(accepted[i].fd);
    }
    accepted_count = 0;
    serving = work;
    pthread_mutex_unlock(&lock);
}

void program_open(int role, char *at)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    pthread_t thread;
    if (role == LOCAL)
        return;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (void *)&address, length) || listen(listener, LANES_MAX) ||
        getsockname(listener, (void *)&address, &length))
        die("listen: %m");
    snprintf(at, TEXT, "%u", ntohs(address.sin_port));
    if (pthread_create(&thread, NULL, accept_lanes, NULL))
        die("no thread to accept lanes");
}

/* -- the initiator */

static const struct work *aimed;
static int lanes[LANES_MAX];
static struct iovec **walk; /* [batch * lanes + lane] */

static void forget(void)
{
    if (!aimed)
        return;
    for (int lane = 0; lane < aimed->lanes; lane++)
        close(lanes[lane]);
    for (size_t i = 0; i < aimed->batches * (size_t)aimed->lanes; i++)
        free(walk[i]);
    free(walk);
}

void program_aim(const struct work *work, const char *at)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)atoi(at))};
    forget();
    aimed = work;
    walk = allocate(work->batches * (size_t)work->lanes, sizeof(*walk));
    for (size_t i = 0; i < work->batches * (size_t)work->lanes; i++)
        walk[i] = vectors_of(&work->shares[i], LOCAL, regions[LOCAL].at);
    for (uint32_t lane = 0; lane < (uint32_t)work->lanes; lane++) {
        int fd = lanes[lane] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (void *)&address, sizeof(address)))
            die("connect to port %s: %m", at);
        no_delay(fd);
        if (send(fd, &lane, sizeof(lane), MSG_NOSIGNAL) != sizeof(lane) || !word(fd, 0))
            die("lane %u: the target does not serve it", lane);
    }
}

void program_move(int lane, size_t batch)
{
    const struct share *share = share_of(aimed, batch, lane);
    const struct iovec *vectors = walk[batch * (size_t)aimed->lanes + (size_t)lane];
    int fd = lanes[lane];
    int moved = aimed->op == WRITE ? pump(fd, vectors, share->count, 1) && word(fd, 0)
                                   : word(fd, 1) && pump(fd, vectors, share->count, 0);
    if (!moved)
        die("lane %d: the stream has ended", lane);
}
