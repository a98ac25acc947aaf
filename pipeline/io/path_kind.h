/* What a path leads to; false where it leads nowhere. */
#ifndef PIPELINE_IO_PATH_KIND_H
#define PIPELINE_IO_PATH_KIND_H

#include <stdbool.h>
#include <sys/stat.h>

static inline bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static inline bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

#endif
