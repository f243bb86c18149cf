/*
 * For programs that read /sys/class/infiniband and /dev/infiniband themselves: loaded
 * with LD_PRELOAD, it sends them to the tree that the software NIC keeps (tree.c).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST = 1024 };

static int own_host(void)
{
    const char *settings = getenv("SOFTNIC"), *at = settings ? strstr(settings, "host=") : NULL;
    return at ? atoi(at + strlen("host=")) : 0;
}

/* The path to use: `path` itself, or one in `there`. */
static const char *elsewhere(const char *path, char there[LONGEST])
{
    static const char *const prefixes[] = {"/sys/class/infiniband", "/dev/infiniband"};
    const char *folder = getenv("SOFTNIC_DIR");
    for (int i = 0; path && i < 2; i++) {
        size_t n = strlen(prefixes[i]);
        if (strncmp(path, prefixes[i], n))
            continue;
        int length = folder && *folder
                         ? snprintf(there, LONGEST, "%s/host-%d%s", folder, own_host(), path)
                         : snprintf(there, LONGEST, "/dev/shm/softnic-%u/host-%d%s", (unsigned)getuid(),
                                    own_host(), path);
        return length < LONGEST ? there : path;
    }
    return path;
}

/* Defines a call that takes a path first, and passes it on. */
#define REDIRECT(result, name, parameters, arguments)              \
    result name parameters                                         \
    {                                                              \
        static result(*next) parameters;                           \
        char there[LONGEST];                                       \
        if (!next)                                                 \
            *(void **)&next = dlsym(RTLD_NEXT, #name);             \
        path = elsewhere(path, there);                             \
        return next arguments;                                     \
    }

#pragma GCC diagnostic ignored "-Wnonnull-compare"

REDIRECT(FILE *, fopen, (const char *path, const char *mode), (path, mode))
REDIRECT(FILE *, fopen64, (const char *path, const char *mode), (path, mode))
REDIRECT(DIR *, opendir, (const char *path), (path))
REDIRECT(int, access, (const char *path, int mode), (path, mode))
REDIRECT(char *, realpath, (const char *path, char *to), (path, to))
REDIRECT(char *, __realpath_chk, (const char *path, char *to, size_t size), (path, to, size))
REDIRECT(ssize_t, readlink, (const char *path, char *to, size_t size), (path, to, size))

/* A file of ours stands for a character device, which only root could make. */
static int as_device(int failed, const char *path, struct stat *to)
{
    if (!failed && !strncmp(path, "/dev/infiniband/", 16))
        to->st_mode = S_IFCHR | 0666;
    return failed;
}

#define REDIRECT_STAT(name, parameters, arguments)                 \
    int name parameters                                            \
    {                                                              \
        static int(*next) parameters;                              \
        const char *asked = path;                                  \
        char there[LONGEST];                                       \
        if (!next)                                                 \
            *(void **)&next = dlsym(RTLD_NEXT, #name);             \
        path = elsewhere(path, there);                             \
        return as_device(next arguments, asked, to);               \
    }

REDIRECT_STAT(stat, (const char *path, struct stat *to), (path, to))
REDIRECT_STAT(lstat, (const char *path, struct stat *to), (path, to))
REDIRECT_STAT(__xstat, (int version, const char *path, struct stat *to), (version, path, to))
REDIRECT_STAT(__lxstat, (int version, const char *path, struct stat *to), (version, path, to))

/* The mode is there only when a file may be made. */
static mode_t mode_of(int flags, va_list more)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define REDIRECT_OPEN(name)                                        \
    int name(const char *path, int flags, ...)                     \
    {                                                              \
        static int (*next)(const char *, int, ...);                \
        char there[LONGEST];                                       \
        va_list more;                                              \
        va_start(more, flags);                                     \
        mode_t mode = mode_of(flags, more);                        \
        va_end(more);                                              \
        if (!next)                                                 \
            *(void **)&next = dlsym(RTLD_NEXT, #name);             \
        return next(elsewhere(path, there), flags, mode);          \
    }

REDIRECT_OPEN(open)
REDIRECT_OPEN(open64)
