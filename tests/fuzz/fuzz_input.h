/* What the fuzz targets share: numbers out of an input, and an input as a file. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#ifndef _GNU_SOURCE
#error "memfd_create() needs _GNU_SOURCE"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What libFuzzer and replay.c call. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

/* The next bytes of the input into value; zeros where it has ended. */
static inline void fuzz_take(struct fuzz_input *input, void *value, size_t size)
{
    size_t there = size < input->size ? size : input->size;
    memset(value, 0, size);
    if (there > 0)
        memcpy(value, input->data, there);
    input->data += there;
    input->size -= there;
}

static inline uint8_t fuzz_byte(struct fuzz_input *input)
{
    uint8_t value;
    fuzz_take(input, &value, sizeof value);
    return value;
}

/* low to high, both included, by one byte. */
static inline int fuzz_range(struct fuzz_input *input, int low, int high)
{
    return low + fuzz_byte(input) % (high - low + 1);
}

static inline void *fuzz_alloc(size_t size)
{
    void *memory = malloc(size);
    if (!memory && size > 0)
        abort();
    return memory;
}

/* The input as a text that ends with NUL; to be freed. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
    char *text = fuzz_alloc(size + 1);
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

/* A file in memory, one for the whole run of the program. */
struct fuzz_file {
    int fd;
    char path[64];
};

static inline void fuzz_file_open(struct fuzz_file *file)
{
    file->fd = memfd_create("fuzz", 0);
    if (file->fd < 0)
        abort();
    snprintf(file->path, sizeof file->path, "/proc/%ld/fd/%d", (long)getpid(), file->fd);
}

static inline void fuzz_file_write(const struct fuzz_file *file, const void *bytes, size_t size,
                                   size_t at)
{
    if (ftruncate(file->fd, (off_t)at) != 0 ||
        (size > 0 && pwrite(file->fd, bytes, size, (off_t)at) != (ssize_t)size))
        abort();
}

/* The input as a file's JSON header behind its length, before zeros as data: what a fuzzer would
 * hardly find by itself, since the length has to agree. */
static inline void fuzz_file_write_header(const struct fuzz_file *file, const void *json,
                                          size_t size, size_t data_bytes)
{
    uint64_t length = size;
    fuzz_file_write(file, &length, sizeof length, 0);
    fuzz_file_write(file, json, size, sizeof length);
    if (ftruncate(file->fd, (off_t)(sizeof length + size + data_bytes)) != 0)
        abort();
}

#endif
