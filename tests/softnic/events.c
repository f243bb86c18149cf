/* Completion channels and asynchronous events. */
#include "softnic.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int events_open(struct events *events)
{
    memset(events, 0, sizeof *events);
    pthread_mutex_init(&events->lock, NULL);
    events->fd = eventfd(0, EFD_CLOEXEC);
    return events->fd < 0 ? errno : 0;
}

void events_close(struct events *events)
{
    close(events->fd);
    free(events->list);
    pthread_mutex_destroy(&events->lock);
}

/* The descriptor counts 1 exactly while the list is not empty. It changes under the
 * lock only, so that neither of these blocks, whatever flags the caller has set. */
static void mark(struct events *events, bool readable)
{
    uint64_t one = 1;
    ssize_t n = readable ? write(events->fd, &one, sizeof one) : read(events->fd, &one, sizeof one);
    (void)n;
}

static void grow(struct events *events)
{
    uint32_t size = events->size ? 2 * events->size : 16;
    struct event *list = malloc(size * sizeof *list);
    if (!list)
        abort();
    for (uint32_t i = 0; i < events->count; i++)
        list[i] = events->list[(events->first + i) % events->size];
    free(events->list);
    events->list = list;
    events->first = 0;
    events->size = size;
}

void events_add(struct events *events, struct event event)
{
    pthread_mutex_lock(&events->lock);
    if (events->count == events->size)
        grow(events);
    events->list[(events->first + events->count++) % events->size] = event;
    if (events->count == 1)
        mark(events, true);
    pthread_mutex_unlock(&events->lock);
}

static bool take(struct events *events, struct event *event)
{
    pthread_mutex_lock(&events->lock);
    bool found = events->count > 0;
    if (found) {
        *event = events->list[events->first];
        events->first = (events->first + 1) % events->size;
        if (--events->count == 0)
            mark(events, false);
    }
    pthread_mutex_unlock(&events->lock);
    return found;
}

int events_take(struct events *events, struct event *event)
{
    while (!take(events, event)) {
        if (fcntl(events->fd, F_GETFL) & O_NONBLOCK) {
            errno = EAGAIN;
            return -1;
        }
        struct pollfd wait = {.fd = events->fd, .events = POLLIN};
        if (poll(&wait, 1, -1) < 0)
            return -1;
    }
    return 0;
}

void events_drop(struct events *events, const void *subject)
{
    pthread_mutex_lock(&events->lock);
    uint32_t kept = 0, had = events->count;
    for (uint32_t i = 0; i < had; i++) {
        struct event event = events->list[(events->first + i) % events->size];
        if (event.subject != subject)
            events->list[(events->first + kept++) % events->size] = event;
    }
    events->count = kept;
    if (had && !kept)
        mark(events, false);
    pthread_mutex_unlock(&events->lock);
}

/* -- completion channels */

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    struct channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        return NULL;
    int failed = events_open(&channel->events);
    if (failed) {
        free(channel);
        errno = failed;
        return NULL;
    }
    channel->ib.context = context;
    channel->ib.fd = channel->events.fd;
    atomic_fetch_add(&to_context(context)->objects, 1);
    return &channel->ib;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *ib)
{
    struct channel *channel = (struct channel *)ib;
    if (ib->refcnt > 0)
        return EBUSY;
    atomic_fetch_sub(&to_context(ib->context)->objects, 1);
    events_close(&channel->events);
    free(channel);
    return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *ib, struct ibv_cq **cq, void **cq_context)
{
    struct event event;
    if (events_take(&((struct channel *)ib)->events, &event))
        return -1;
    *cq = event.subject;
    *cq_context = (*cq)->cq_context;
    pthread_mutex_lock(&(*cq)->mutex);
    ((struct cq *)*cq)->reported++;
    pthread_mutex_unlock(&(*cq)->mutex);
    return 0;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
    pthread_mutex_lock(&cq->mutex);
    cq->comp_events_completed += count;
    pthread_cond_signal(&cq->cond);
    pthread_mutex_unlock(&cq->mutex);
}

/* -- asynchronous events */

static bool of_cq(uint32_t type)
{
    return type == IBV_EVENT_CQ_ERR;
}

static bool of_qp(uint32_t type)
{
    return type == IBV_EVENT_QP_FATAL || type == IBV_EVENT_QP_REQ_ERR ||
           type == IBV_EVENT_QP_ACCESS_ERR || type == IBV_EVENT_COMM_EST ||
           type == IBV_EVENT_SQ_DRAINED || type == IBV_EVENT_QP_LAST_WQE_REACHED;
}

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    struct event taken;
    if (events_take(&to_context(context)->async, &taken))
        return -1;
    memset(event, 0, sizeof *event);
    event->event_type = (enum ibv_event_type)taken.type;
    if (of_cq(taken.type)) {
        event->element.cq = taken.subject;
        pthread_mutex_lock(&event->element.cq->mutex);
        ((struct cq *)taken.subject)->async_reported++;
        pthread_mutex_unlock(&event->element.cq->mutex);
    } else if (of_qp(taken.type)) {
        event->element.qp = taken.subject;
        pthread_mutex_lock(&event->element.qp->mutex);
        ((struct qp *)taken.subject)->async_reported++;
        pthread_mutex_unlock(&event->element.qp->mutex);
    } else {
        event->element.port_num = 1;
    }
    return 0;
}

void ibv_ack_async_event(struct ibv_async_event *event)
{
    if (of_cq(event->event_type)) {
        struct ibv_cq *cq = event->element.cq;
        pthread_mutex_lock(&cq->mutex);
        cq->async_events_completed++;
        pthread_cond_signal(&cq->cond);
        pthread_mutex_unlock(&cq->mutex);
    } else if (of_qp(event->event_type)) {
        struct ibv_qp *qp = event->element.qp;
        pthread_mutex_lock(&qp->mutex);
        qp->events_completed++;
        pthread_cond_signal(&qp->cond);
        pthread_mutex_unlock(&qp->mutex);
    }
}
