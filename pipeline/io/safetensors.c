/*
 * The safetensors format: eight bytes of header length, a JSON header, then the data. Nothing of it
 * is believed: the header must fit the file, every tensor must lie in the data and have the bytes
 * that its shape asks for, and sorted by offset the tensors must cover the data exactly, without
 * holes, overlaps or a rest, as the format demands. A file that passes can be read without any
 * further check.
 */
#include "safetensors.h"

#include "../tensor/checked.h"
#include "json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors holds little-endian numbers, used where they lie: a little-endian CPU is needed"
#endif

#define HEADER_MAX   (100u << 20)
#define LENGTH_BYTES 8
#define NAME_MAX_LEN 500
#define AGAIN        "(file truncated? download it again)"

/* Some uploads of single files put this in front of every name. */
#define STRAY_PREFIX "model.diffusion_model."

struct header {
    const char *path;
    const unsigned char *data;
    size_t data_bytes;
};

static bool map_file(struct safetensors *file, struct error *error)
{
    const char *path = file->path;
    struct stat info;
    /* Looked at before it is opened: opening a pipe would wait. */
    if (stat(path, &info) != 0)
        return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return error_set(error, "%s: is not a regular file", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    bool ok = false;
    if (fstat(fd, &info) != 0) {
        error_set(error, "%s: cannot read: %s", path, strerror(errno));
    } else if (info.st_size < LENGTH_BYTES) {
        error_set(error, "%s: has %lld bytes, a safetensors file has at least %d " AGAIN, path,
                  (long long)info.st_size, LENGTH_BYTES);
    } else {
        void *mapping = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (mapping == MAP_FAILED) {
            error_set(error, "%s: cannot map %lld bytes: %s", path, (long long)info.st_size,
                      strerror(errno));
        } else {
            file->mapping = mapping;
            file->size = (size_t)info.st_size;
            ok = true;
        }
    }
    close(fd);
    return ok;
}

static bool entry_fails(const struct header *header, const char *name, struct error *error,
                        const char *why)
{
    return error_set(error, "%s: tensor '%.200s' %s", header->path, name, why);
}

static bool read_shape(const struct header *header, const cJSON *entry,
                       struct stored_tensor *tensor, struct error *error)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    if (!cJSON_IsArray(shape))
        return entry_fails(header, tensor->name, error, "has no list 'shape'");
    int rank = cJSON_GetArraySize(shape);
    int most = (int)(sizeof tensor->shape / sizeof tensor->shape[0]);
    if (rank > most)
        return error_set(error, "%s: tensor '%.200s' has %d dimensions, at most %d are read",
                         header->path, tensor->name, rank, most);
    const cJSON *item;
    cJSON_ArrayForEach(item, shape)
    {
        int64_t *dim = &tensor->shape[tensor->rank++];
        if (!json_whole(item, dim) || *dim < 0)
            return error_set(error,
                             "%s: tensor '%.200s': dimension %d of 'shape' is %.17g, no size",
                             header->path, tensor->name, tensor->rank - 1,
                             cJSON_IsNumber(item) ? item->valuedouble : -1.0);
    }
    return true;
}

static bool read_range(const struct header *header, const cJSON *entry,
                       struct stored_tensor *tensor, struct error *error)
{
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    int64_t begin, end;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2)
        return entry_fails(header, tensor->name, error, "has no pair 'data_offsets'");
    if (!json_whole(offsets->child, &begin) || !json_whole(offsets->child->next, &end) || begin < 0)
        return entry_fails(header, tensor->name, error,
                           "has 'data_offsets' that are no whole numbers of bytes below 2^53");
    if (end < begin)
        return error_set(error, "%s: tensor '%.200s' begins at byte %lld and ends before, at %lld",
                         header->path, tensor->name, (long long)begin, (long long)end);
    if ((uint64_t)end > header->data_bytes)
        return error_set(
            error, "%s: tensor '%.200s' ends at byte %lld, but the data ends at byte %zu " AGAIN,
            header->path, tensor->name, (long long)end, header->data_bytes);
    tensor->data = header->data + begin;
    tensor->bytes = (size_t)(end - begin);
    return true;
}

static bool check_size(const struct header *header, const char *dtype,
                       const struct stored_tensor *tensor, struct error *error)
{
    size_t expected;
    if (!checked_bytes(tensor->shape, tensor->rank, 1, &expected))
        return entry_fails(header, tensor->name, error, "has a shape of more than 2^63 elements");
    if (tensor->dtype == STORED_OTHER)
        return true;
    if (!checked_bytes(tensor->shape, tensor->rank, stored_dtype_size(tensor->dtype), &expected))
        return entry_fails(header, tensor->name, error, "has a shape of more than 2^63 bytes");
    if (expected != tensor->bytes)
        return error_set(error, "%s: tensor '%.200s' has %zu bytes, its shape asks for %zu (%s)",
                         header->path, tensor->name, tensor->bytes, expected, dtype);
    return true;
}

/* Names in the list are without the stray prefix. */
static bool append(struct stored_list *list, const char *name, const char *path,
                   struct stored_tensor **out, struct error *error)
{
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity ? list->capacity * 2 : 256;
        struct stored_tensor *at = realloc(list->at, (size_t)capacity * sizeof *at);
        if (!at)
            return error_out_of_memory(error, path, (size_t)capacity * sizeof *at);
        list->at = at;
        list->capacity = capacity;
    }
    if (strncmp(name, STRAY_PREFIX, strlen(STRAY_PREFIX)) == 0)
        name += strlen(STRAY_PREFIX);
    char *copy = strdup(name);
    if (!copy)
        return error_out_of_memory(error, path, strlen(name));
    *out = &list->at[list->count++];
    **out = (struct stored_tensor){.name = copy, .file = path};
    return true;
}

static bool read_entry(const struct header *header, const cJSON *entry, struct stored_list *list,
                       struct error *error)
{
    size_t length = strlen(entry->string);
    if (length == 0 || length > NAME_MAX_LEN)
        return error_set(error, "%s: a tensor's name has %zu bytes, expected 1..%d", header->path,
                         length, NAME_MAX_LEN);
    if (!cJSON_IsObject(entry))
        return entry_fails(header, entry->string, error, "is not described by a JSON object");
    const char *dtype =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive((cJSON *)entry, "dtype"));
    if (!dtype)
        return entry_fails(header, entry->string, error, "has no text 'dtype'");
    struct stored_tensor *tensor = NULL;
    if (!append(list, entry->string, header->path, &tensor, error))
        return false;
    tensor->dtype = stored_dtype_from_name(dtype);
    return read_shape(header, entry, tensor, error) && read_range(header, entry, tensor, error) &&
           check_size(header, dtype, tensor, error);
}

static int by_offset(const void *a, const void *b)
{
    const struct stored_tensor *x = a, *y = b;
    const char *begin_x = x->data, *begin_y = y->data;
    if (begin_x != begin_y)
        return begin_x < begin_y ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Sorts the tensors of one file by offset and checks that each begins where the one before ends. */
static bool check_cover(const struct header *header, struct stored_tensor *tensors, int64_t count,
                        struct error *error)
{
    if (count > 1)
        qsort(tensors, (size_t)count, sizeof *tensors, by_offset);
    size_t end = 0;
    for (int64_t i = 0; i < count; i++) {
        size_t begin = (size_t)((const unsigned char *)tensors[i].data - header->data);
        if (begin < end)
            return error_set(error, "%s: tensors '%.200s' and '%.200s' overlap at byte %zu",
                             header->path, tensors[i - 1].name, tensors[i].name, begin);
        if (begin > end)
            return error_set(error,
                             "%s: bytes %zu to %zu before tensor '%.200s' belong to no tensor",
                             header->path, end, begin, tensors[i].name);
        end = begin + tensors[i].bytes;
    }
    if (end != header->data_bytes)
        return error_set(error,
                         "%s: the last tensor ends at byte %zu, but the data ends at byte %zu",
                         header->path, end, header->data_bytes);
    return true;
}

bool safetensors_open(struct safetensors *out, const char *path, struct stored_list *list,
                      struct error *error)
{
    *out = (struct safetensors){.path = strdup(path)};
    if (!out->path)
        return error_out_of_memory(error, path, strlen(path));
    if (!map_file(out, error))
        return false;
    const unsigned char *bytes = out->mapping;
    uint64_t length;
    memcpy(&length, bytes, sizeof length);
    if (length > HEADER_MAX)
        return error_set(error,
                         "%s: the header claims %llu bytes, at most %u are allowed (is this a "
                         "safetensors file?)",
                         path, (unsigned long long)length, HEADER_MAX);
    if (length > out->size - LENGTH_BYTES)
        return error_set(error,
                         "%s: the header claims %llu bytes, but the file ends after %zu " AGAIN,
                         path, (unsigned long long)length, out->size - LENGTH_BYTES);
    struct header header = {.path = out->path,
                            .data = bytes + LENGTH_BYTES + length,
                            .data_bytes = out->size - LENGTH_BYTES - (size_t)length};
    cJSON *root = json_parse((const char *)bytes + LENGTH_BYTES, (size_t)length, path, error);
    if (!root)
        return error_prefix(error, "safetensors header: ");
    int64_t first = list->count;
    bool ok = true;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root)
    {
        if (strcmp(entry->string, "__metadata__") == 0)
            continue;
        if (!(ok = read_entry(&header, entry, list, error)))
            break;
    }
    cJSON_Delete(root);
    struct stored_tensor *tensors = list->at ? list->at + first : NULL; /* a file may hold none */
    return ok && check_cover(&header, tensors, list->count - first, error);
}

void safetensors_close(struct safetensors *file)
{
    if (file->mapping)
        munmap(file->mapping, file->size);
    free(file->path);
    *file = (struct safetensors){0};
}
