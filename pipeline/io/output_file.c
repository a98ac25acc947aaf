/*
 * Files that appear whole or not at all.
 *
 * The temporary stands in the target's own folder, because a rename is atomic only within a file
 * system, and carries the process id, so that two runs do not write into each other's. Targets that
 * exist and are no regular files are refused: a rename would replace /dev/null for everybody.
 */
#include "output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* "folder/name" -> "folder/.name.PID.part" */
static char *temporary_name(const char *target)
{
    size_t folder = folder_length(target), size = strlen(target) + 32;
    char *name = malloc(size);
    if (name)
        snprintf(name, size, "%.*s.%s.%ld.part", (int)folder, target, target + folder,
                 (long)getpid());
    return name;
}

static bool check_target(const char *target, struct error *error)
{
    struct stat info;
    if (!target[0] || target[strlen(target) - 1] == '/')
        return error_set_usage(error, "output '%s' names no file", target);
    if (stat(target, &info) != 0)
        return true; /* what is wrong with the folder shows when the temporary is made */
    if (S_ISDIR(info.st_mode))
        return error_set_usage(error, "output '%s' is a folder; name a file in it", target);
    if (!S_ISREG(info.st_mode))
        return error_set_usage(error, "output '%s' is not a regular file; name another", target);
    return true;
}

const char *output_file_reason(int reason)
{
    switch (reason) {
    case ENOSPC:
        return "No space left on device; make room there, or name a file elsewhere";
    case EDQUOT:
        return "Disk quota exceeded; make room there, or name a file elsewhere";
    case EFBIG:
        return "File too large; raise the limit (ulimit -f), or make a smaller file";
    case ENAMETOOLONG:
        return "File name too long; name it shorter";
    default:
        return strerror(reason);
    }
}

bool output_file_create(struct output_file *out, const char *target, struct error *error)
{
    *out = (struct output_file){0};
    if (!check_target(target, error))
        return false;
    out->target = strdup(target);
    out->temporary = temporary_name(target);
    if (!out->target || !out->temporary) {
        free(out->temporary);
        out->temporary = NULL; /* nothing was created yet */
        output_file_discard(out);
        return error_set(error, "out of memory: the name of the output '%s'", target);
    }
    unlink(out->temporary); /* left by a killed run that had our process id */
    int fd = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        int reason = errno;
        free(out->temporary);
        out->temporary = NULL;
        output_file_discard(out);
        size_t folder = folder_length(target);
        return error_set(error, "output '%s': cannot write in the folder '%.*s': %s", target,
                         folder ? (int)folder : 1, folder ? target : ".",
                         output_file_reason(reason));
    }
    close(fd);
    return true;
}

bool output_file_check(const char *target, struct error *error)
{
    struct output_file file;
    if (!output_file_create(&file, target, error))
        return false;
    output_file_discard(&file);
    return true;
}

static bool same_inode(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool output_file_same(const char *a, const char *b)
{
    size_t folder_a = folder_length(a), folder_b = folder_length(b);
    if (strcmp(a, b) == 0 || same_inode(a, b))
        return true;
    if (strcmp(a + folder_a, b + folder_b) != 0)
        return false;
    char *x = folder_a ? strndup(a, folder_a) : strdup(".");
    char *y = folder_b ? strndup(b, folder_b) : strdup(".");
    bool same = x && y && same_inode(x, y);
    free(x);
    free(y);
    return same;
}

/* Gets the bytes of path (a file, or a folder with its entries) onto the disk. */
static bool flush_to_disk(const char *path, bool folder)
{
    int fd = open(path, (folder ? O_RDONLY | O_DIRECTORY : O_RDWR) | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = fsync(fd) == 0 || errno == EINVAL || errno == EROFS; /* some file systems have none */
    int reason = errno;
    if (close(fd) != 0 && ok) {
        reason = errno;
        ok = false;
    }
    errno = reason;
    return ok;
}

bool output_file_commit(struct output_file *file, struct error *error)
{
    bool ok = flush_to_disk(file->temporary, false) && rename(file->temporary, file->target) == 0;
    if (!ok) {
        error_set(error, "output '%s': %s", file->target, output_file_reason(errno));
    } else {
        free(file->temporary);
        file->temporary = NULL; /* renamed: nothing to remove */
        size_t folder = folder_length(file->target);
        file->target[folder] = '\0';
        flush_to_disk(folder ? file->target : ".", true); /* the name itself; best effort */
    }
    output_file_discard(file);
    return ok;
}

void output_file_discard(struct output_file *file)
{
    if (file->temporary)
        unlink(file->temporary);
    free(file->temporary);
    free(file->target);
    *file = (struct output_file){0};
}
