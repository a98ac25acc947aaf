/*
 * Loaded into the program with LD_PRELOAD: ends it at a chosen file operation, or lets the disk be
 * full after so many bytes. Unlike a signal from outside or a small file system it hits every
 * moment there is, and needs no rights.
 *
 *     FAULT_KILL_AT=12         SIGKILL at the 12th operation on files
 *     FAULT_DISK_BYTES=4096    writing fails with ENOSPC once so many bytes are written
 *     FAULT_CUT=FILE           cuts FILE to a page as soon as it is mapped for the second time: the
 *                              first time its header is checked, the second it is read
 *     FAULT_COUNT=FILE         writes to FILE how many operations and bytes there were
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_llong operations, bytes, mappings;

static long long setting(const char *name)
{
    const char *text = getenv(name);
    return text ? atoll(text) : -1;
}

__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("FAULT_COUNT");
    char text[64];
    int fd =
        path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
    if (fd < 0)
        return;
    int length =
        snprintf(text, sizeof text, "%lld %lld\n", (long long)operations, (long long)bytes);
    (void)!syscall(SYS_write, fd, text, length);
    syscall(SYS_close, fd);
}

/* An operation that a kill could come before. */
static void operation(void)
{
    if (atomic_fetch_add(&operations, 1) + 1 == setting("FAULT_KILL_AT"))
        kill(getpid(), SIGKILL);
}

/* How many of count bytes still go to the file; those of terminals and pipes always do. */
static size_t room(int fd, size_t count)
{
    struct stat info;
    long long limit = setting("FAULT_DISK_BYTES");
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return count;
    operation();
    long long before = atomic_fetch_add(&bytes, (long long)count);
    if (limit < 0 || before + (long long)count <= limit)
        return count;
    return before < limit ? (size_t)(limit - before) : 0;
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *data, size_t count)
{
    size_t fits = room(fd, count);
    if (fits > 0 || count == 0)
        return NEXT(ssize_t(*)(int, const void *, size_t), "write")(fd, data, fits);
    errno = ENOSPC;
    return -1;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file)
{
    size_t fits = size > 0 && file != stderr ? room(fileno(file), size * count) / size : count;
    size_t done =
        NEXT(size_t(*)(const void *, size_t, size_t, FILE *), "fwrite")(data, size, fits, file);
    if (fits < count)
        errno = ENOSPC;
    return done;
}

int fclose(FILE *file)
{
    operation();
    return NEXT(int (*)(FILE *), "fclose")(file);
}

int rename(const char *from, const char *to)
{
    operation();
    return NEXT(int (*)(const char *, const char *), "rename")(from, to);
}

int unlink(const char *path)
{
    operation();
    return NEXT(int (*)(const char *), "unlink")(path);
}

int fsync(int fd)
{
    operation();
    return NEXT(int (*)(int), "fsync")(fd);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    const char *cut = getenv("FAULT_CUT");
    struct stat mapped, wanted;
    void *mapping = NEXT(void *(*)(void *, size_t, int, int, int, off_t),
                         "mmap")(at, size, protection, flags, fd, offset);
    if (cut && fd >= 0 && fstat(fd, &mapped) == 0 && stat(cut, &wanted) == 0 &&
        mapped.st_ino == wanted.st_ino && mapped.st_dev == wanted.st_dev &&
        atomic_fetch_add(&mappings, 1) == 1)
        (void)!truncate(cut, 4096);
    return mapping;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (flags & (O_CREAT | O_WRONLY | O_RDWR))
        operation();
    return NEXT(int (*)(const char *, int, ...), "open")(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (flags & (O_CREAT | O_WRONLY | O_RDWR))
        operation();
    return NEXT(int (*)(const char *, int, ...), "open64")(path, flags, mode);
}
