/* Lets file operations below a folder fail, in a process that loads this library with LD_PRELOAD.
 *
 * The environment variable FAULT is "KINDS NUMBER ERRNO ONCE FOLDER": operations of these kinds on paths below FOLDER are
 * counted, and the one with this number, or it and all that follow (ONCE is 0), fail with this error. Number 0 only
 * counts. fault_arm reads the variable, fault_count returns how many operations have been counted.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, CREATE = 2, MOVE = 4, LOOK = 8 };

static int kinds, once, error_number;
static long number, count;
static char folder[PATH_MAX];

void fault_arm(void) {
    const char *text = getenv("FAULT");
    count = 0;
    kinds = 0;
    if (text) {
        int mask, start = 0;
        if (sscanf(text, "%d %ld %d %d %n", &mask, &number, &error_number, &once, &start) == 4) {
            strncpy(folder, text + start, PATH_MAX - 1);
            kinds = mask;
        }
    }
}

long fault_count(void) { return count; }

__attribute__((constructor)) static void start(void) { fault_arm(); }

static int below(int base, const char *path) {
    char full[2 * PATH_MAX];
    if (!path) return 0;
    if (path[0] != '/') {
        char link[64];
        ssize_t length = 0;
        if (base == AT_FDCWD) {
            if (!getcwd(full, PATH_MAX)) return 0;
            length = strlen(full);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", base);
            if ((length = readlink(link, full, PATH_MAX - 1)) < 0) return 0;
        }
        full[length] = '/';
        strncpy(full + length + 1, path, PATH_MAX - 1);
        path = full;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int counted(int kind) {
    if (!(kinds & kind)) return 0;
    count++;
    if (number == 0 || (once ? count != number : count < number)) return 0;
    errno = error_number;
    return 1;
}

static int path_fails(int kind, int base, const char *path) { return kinds && below(base, path) && counted(kind); }

static int file_fails(int kind, int file) {
    char link[64], path[PATH_MAX];
    if (!kinds) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path[0] == '/' && below(AT_FDCWD, path) && counted(kind);
}

static int kind_of(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT) ? CREATE : LOOK; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE(flags)                                   \
    mode_t mode = 0;                                  \
    if ((flags) & (O_CREAT | O_TMPFILE)) {            \
        va_list rest;                                 \
        va_start(rest, flags);                        \
        mode = va_arg(rest, mode_t);                  \
        va_end(rest);                                 \
    }
#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        MODE(flags)                                                       \
        return path_fails(kind_of(flags), AT_FDCWD, path) ? -1 : REAL(name)(path, flags, mode); \
    }
#define OPENAT(name)                                                      \
    int name(int base, const char *path, int flags, ...) {                \
        MODE(flags)                                                       \
        return path_fails(kind_of(flags), base, path) ? -1 : REAL(name)(base, path, flags, mode); \
    }
#define FOPEN(name)                                                       \
    FILE *name(const char *path, const char *mode) {                      \
        int kind = strpbrk(mode, "wa+") ? CREATE : LOOK;                  \
        return path_fails(kind, AT_FDCWD, path) ? NULL : REAL(name)(path, mode); \
    }
#define ON_PATH(name, kind, declaration, base, path, ...)                 \
    int name declaration { return path_fails(kind, base, path) ? -1 : REAL(name)(__VA_ARGS__); }
#define ON_FILE(type, name, declaration, file, ...)                       \
    type name declaration { return file_fails(WRITE, file) ? -1 : REAL(name)(__VA_ARGS__); }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
ON_PATH(mkdir, CREATE, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
ON_PATH(mkdirat, CREATE, (int base, const char *path, mode_t mode), base, path, base, path, mode)
ON_PATH(rename, MOVE, (const char *path, const char *to), AT_FDCWD, to, path, to)
ON_PATH(renameat, MOVE, (int base, const char *path, int other, const char *to), other, to, base, path, other, to)
ON_PATH(unlink, MOVE, (const char *path), AT_FDCWD, path, path)
ON_PATH(unlinkat, MOVE, (int base, const char *path, int flags), base, path, base, path, flags)
ON_PATH(rmdir, MOVE, (const char *path), AT_FDCWD, path, path)
ON_PATH(stat, LOOK, (const char *path, struct stat *found), AT_FDCWD, path, path, found)
ON_PATH(stat64, LOOK, (const char *path, struct stat64 *found), AT_FDCWD, path, path, found)
ON_PATH(lstat, LOOK, (const char *path, struct stat *found), AT_FDCWD, path, path, found)
ON_PATH(lstat64, LOOK, (const char *path, struct stat64 *found), AT_FDCWD, path, path, found)
ON_FILE(ssize_t, write, (int file, const void *data, size_t size), file, file, data, size)
ON_FILE(ssize_t, writev, (int file, const struct iovec *parts, int n), file, file, parts, n)
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), file, file, data, size, at)
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), file, file, data, size, at)
ON_FILE(ssize_t, sendfile, (int file, int from, off_t *at, size_t size), file, file, from, at, size)
ON_FILE(ssize_t, sendfile64, (int file, int from, off64_t *at, size_t size), file, file, from, at, size)
ON_FILE(int, fsync, (int file), file, file)
ON_FILE(int, ftruncate, (int file, off_t size), file, file, size)

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    return file_fails(WRITE, fileno(file)) ? 0 : REAL(fwrite)(data, size, n, file);
}

DIR *opendir(const char *path) { return path_fails(LOOK, AT_FDCWD, path) ? NULL : REAL(opendir)(path); }
