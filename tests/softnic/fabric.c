/* The shared file: mapping it, joining and leaving, and what dead processes leave. */
#define _GNU_SOURCE
#include "fabric.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings.h"

#define MAGIC 0x736f66746e696331ull /* changes with the layout */

struct fabric *fabric;
int own_proc = -1;
static int fabric_fd = -1;

const char *fabric_folder(void)
{
    static char folder[200];
    const char *named = getenv("SOFTNIC_DIR");
    if (named && *named)
        return named;
    snprintf(folder, sizeof folder, "/dev/shm/softnic-%u", (unsigned)getuid());
    return folder;
}

/* Field 22 of /proc/PID/stat, 0 when the process has ended, also as a zombie. */
static uint64_t start_of(int pid)
{
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *field = strrchr(text, ')'); /* the name may hold anything */
    if (!field || !field[1] || field[2] == 'Z' || field[2] == 'X')
        return 0;
    for (int i = 0; i < 20 && field; i++)
        field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : 0;
}

bool proc_alive(int index)
{
    struct proc *proc = &fabric->procs[index];
    int pid = atomic_load(&proc->pid);
    return pid != 0 && (pid == getpid() || start_of(pid) == proc->started);
}

int fabric_map(void)
{
    if (fabric)
        return 0;
    char path[300];
    mkdir(fabric_folder(), 0700);
    snprintf(path, sizeof path, "%s/fabric", fabric_folder());
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    struct fabric *mapped = MAP_FAILED;
    if (ftruncate(fd, sizeof(struct fabric)) == 0)
        mapped = mmap(NULL, sizeof(struct fabric), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        int failed = errno;
        close(fd);
        return failed;
    }
    fabric = mapped;
    fabric_fd = fd;
    return 0;
}

/* Under the file's lock: nobody else joins or clears. */
static void clear_dead(void)
{
    for (int i = 0; i < MAX_PROCS; i++) {
        struct proc *proc = &fabric->procs[i];
        if (atomic_load(&proc->pid) == 0 || proc_alive(i))
            continue;
        uint32_t owner = i + 1;
        for (uint32_t q = 0; q < atomic_load(&fabric->top_qp); q++)
            if (atomic_load(&fabric->qps[q].owner) == owner)
                qp_give(atomic_load(&fabric->qps[q].number));
        for (uint32_t m = 0; m < atomic_load(&fabric->top_mr); m++)
            if (atomic_load(&fabric->mrs[m].owner) == owner)
                mr_give(m);
        atomic_store(&proc->pid, 0);
    }
}

/* Settings and counts last as long as anybody uses the fabric. */
static bool unused(void)
{
    for (int i = 0; i < MAX_PROCS; i++)
        if (atomic_load(&fabric->procs[i].pid))
            return false;
    return true;
}

static void reset(void)
{
    /* Generations, and where to look next, go on: a key or number of an earlier use
     * must not be valid again soon. */
    for (int i = 0; i < MAX_PORTS; i++) {
        struct shared_port *port = &fabric->ports[i];
        memset(port, 0, sizeof *port);
        settings_reset(i);
    }
    atomic_store(&fabric->magic, MAGIC);
}

void fabric_clear_dead(void)
{
    flock(fabric_fd, LOCK_EX);
    clear_dead();
    flock(fabric_fd, LOCK_UN);
}

/* A child has neither our threads nor our objects; it joins as a process of its own. */
static void forget(void)
{
    own_proc = -1;
}

int fabric_join(void)
{
    int failed = fabric_map();
    if (failed || own_proc >= 0)
        return failed;
    flock(fabric_fd, LOCK_EX);
    uint64_t magic = atomic_load(&fabric->magic);
    if (magic != 0 && magic != MAGIC) {
        flock(fabric_fd, LOCK_UN);
        fprintf(stderr, "softnic: %s is of another build: remove it\n", fabric_folder());
        return EINVAL;
    }
    clear_dead();
    if (magic == 0 || unused())
        reset();
    failed = ENOMEM;
    for (int i = 0; i < MAX_PROCS && failed; i++) {
        struct proc *proc = &fabric->procs[i];
        if (atomic_load(&proc->pid))
            continue;
        memset(proc->bells, 0, sizeof proc->bells);
        proc->started = start_of(getpid());
        atomic_store(&proc->pid, getpid());
        own_proc = i;
        failed = 0;
    }
    flock(fabric_fd, LOCK_UN);
    /* Peers read and write our memory also where only a debugger may (Yama). */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    static bool watched;
    if (!watched)
        pthread_atfork(NULL, NULL, forget);
    watched = true;
    return failed;
}

void fabric_leave(void)
{
    if (own_proc < 0)
        return;
    atomic_store(&fabric->procs[own_proc].pid, 0);
    own_proc = -1;
}
