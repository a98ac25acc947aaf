/* A temporary folder for tests that write files: scratch_open() makes it, scratch_close() removes
 * it and everything in it. One at a time. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
    char root[128];
    char path[8][512];
    int next;
};

static inline int scratch_open(struct scratch *scratch)
{
    *scratch = (struct scratch){0};
    const char *base = getenv("TMPDIR");
    snprintf(scratch->root, sizeof scratch->root, "%.90s/draftattn-test-XXXXXX",
             base && base[0] ? base : P_tmpdir);
    return mkdtemp(scratch->root) ? 0 : -1;
}

/* root/name; good for eight further calls. */
static inline const char *scratch_path(struct scratch *scratch, const char *name)
{
    char *path = scratch->path[scratch->next++ % 8];
    size_t folder = strlen(scratch->root), length = strlen(name);
    if (folder + length + 2 > sizeof scratch->path[0])
        abort();
    memcpy(path, scratch->root, folder);
    path[folder] = '/';
    memcpy(path + folder + 1, name, length + 1);
    return path;
}

static inline const char *scratch_folder(struct scratch *scratch, const char *name)
{
    const char *path = scratch_path(scratch, name);
    mkdir(path, 0700);
    return path;
}

static inline const char *scratch_write(struct scratch *scratch, const char *name,
                                        const void *bytes, size_t size)
{
    const char *path = scratch_path(scratch, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        abort();
    return path;
}

static inline const char *scratch_text(struct scratch *scratch, const char *name, const char *text)
{
    return scratch_write(scratch, name, text, strlen(text));
}

static inline void scratch_remove(const char *folder)
{
    DIR *dir = opendir(folder);
    char path[1024];
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%.500s/%.300s", folder, entry->d_name);
        if (unlink(path) != 0)
            scratch_remove(path);
    }
    if (dir)
        closedir(dir);
    rmdir(folder);
}

static inline void scratch_close(struct scratch *scratch)
{
    scratch_remove(scratch->root);
}

/* For cmocka: *state is the folder. */
static inline int scratch_setup(void **state)
{
    static struct scratch scratch;
    *state = &scratch;
    return scratch_open(&scratch);
}

static inline int scratch_teardown(void **state)
{
    scratch_close(*state);
    return 0;
}

#endif
