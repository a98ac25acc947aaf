/*
 * The tensors of one network under one roof: a single safetensors file, or shards through their
 * index. The format's own checks are safetensors.c's; here a checkpoint refuses what concerns
 * several files (shards that are missing or lie outside the folder, names that come twice, an index
 * that promises what a shard does not hold) and hands out tensors by name, checked against the
 * shape a network expects.
 */
#include "checkpoint.h"

#include "../tensor/checked.h"
#include "json_file.h"
#include "path_kind.h"
#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_BYTES_MAX ((size_t)100 << 20)
#define INDEX_SUFFIX    ".index.json"
#define NAME_BYTES      600

struct checkpoint {
    char *path;
    struct safetensors *files;
    int64_t file_count;
    struct stored_list list; /* sorted by name */
    checkpoint_rename_fn rename;
};

static bool ends_with(const char *text, const char *suffix)
{
    size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

/* folder + "/" + name on the heap */
static char *join(const char *folder, size_t folder_length, const char *name)
{
    size_t size = folder_length + strlen(name) + 2;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%.*s/%s", (int)folder_length, folder, name);
    return path;
}

/* What to open for path: itself, or the known file in the folder it names. */
static char *resolve(const char *path, struct error *error)
{
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors",
                                        "model.safetensors.index.json", "model.safetensors"};
    char *found = NULL;
    size_t length = strlen(path);
    if (!is_folder(path)) {
        found = strdup(path);
        if (!found)
            error_out_of_memory(error, path, strlen(path));
        return found;
    }
    while (length > 1 && path[length - 1] == '/')
        length--;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        found = join(path, length, names[i]);
        if (!found) {
            error_out_of_memory(error, path, strlen(path));
            return NULL;
        }
        if (is_file(found))
            return found;
        free(found);
    }
    error_set(error,
              "%s: holds no weights: expected diffusion_pytorch_model.safetensors or "
              "model.safetensors, or the .index.json of one (.pth and .bin files are not read)",
              path);
    return NULL;
}

static bool add_file(struct checkpoint *checkpoint, const char *path, struct error *error)
{
    size_t count = (size_t)checkpoint->file_count + 1;
    struct safetensors *files = realloc(checkpoint->files, count * sizeof *files);
    if (!files)
        return error_out_of_memory(error, path, count * sizeof *files);
    checkpoint->files = files;
    return safetensors_open(&files[checkpoint->file_count++], path, &checkpoint->list, error);
}

static bool shard_is_open(const struct checkpoint *checkpoint, const char *path)
{
    for (int64_t i = 0; i < checkpoint->file_count; i++)
        if (strcmp(checkpoint->files[i].path, path) == 0)
            return true;
    return false;
}

/* A shard lies beside its index: a name with a folder in it, such as ../x, is refused. */
static bool add_shard(struct checkpoint *checkpoint, const char *index, const char *tensor,
                      const char *shard, struct error *error)
{
    if (!shard || shard[0] == '\0')
        return error_set(error, "%s: 'weight_map' gives no file name for tensor '%.200s'", index,
                         tensor);
    if (strchr(shard, '/') || strchr(shard, '\\') || strcmp(shard, "..") == 0)
        return error_set(
            error,
            "%s: tensor '%.200s' is said to be in '%.200s', which is outside the folder "
            "of the index; shards must lie beside it",
            index, tensor, shard);
    const char *slash = strrchr(index, '/');
    char *path = slash ? join(index, (size_t)(slash - index), shard) : strdup(shard);
    if (!path)
        return error_out_of_memory(error, index, strlen(shard));
    bool ok = true;
    if (!shard_is_open(checkpoint, path)) {
        if (!is_file(path))
            ok = error_set(error,
                           "%s: shard '%.200s' is missing beside it (tensor '%.200s' is in it); "
                           "download it again",
                           index, shard, tensor);
        else
            ok = add_file(checkpoint, path, error);
    }
    free(path);
    return ok;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct stored_tensor *)a)->name, ((const struct stored_tensor *)b)->name);
}

/* Sorts by name, so that tensors are found by bisection and doubles are neighbours. */
static bool sort_names(struct checkpoint *checkpoint, struct error *error)
{
    struct stored_list *list = &checkpoint->list;
    if (list->count > 1)
        qsort(list->at, (size_t)list->count, sizeof *list->at, by_name);
    for (int64_t i = 1; i < list->count; i++)
        if (strcmp(list->at[i - 1].name, list->at[i].name) == 0)
            return error_set(error, "%s: tensor '%.200s' comes twice (also in %s)",
                             list->at[i].file, list->at[i].name, list->at[i - 1].file);
    return true;
}

static const struct stored_tensor *find_exact(const struct checkpoint *checkpoint, const char *name)
{
    if (checkpoint->list.count == 0)
        return NULL;
    struct stored_tensor key = {.name = name};
    return bsearch(&key, checkpoint->list.at, (size_t)checkpoint->list.count, sizeof key, by_name);
}

static bool open_shards(struct checkpoint *checkpoint, const cJSON *map, struct error *error)
{
    /* Neighbours in the map are mostly of one shard: only a change of file is worth a look. */
    const char *last = NULL;
    const cJSON *item;
    cJSON_ArrayForEach(item, map)
    {
        const char *shard = cJSON_GetStringValue((cJSON *)item);
        if (shard && last && strcmp(shard, last) == 0)
            continue;
        if (!add_shard(checkpoint, checkpoint->path, item->string, shard, error))
            return false;
        last = shard;
    }
    return true;
}

/* Every tensor of the map is in the shard that the map says. */
static bool check_map(const struct checkpoint *checkpoint, const cJSON *map, struct error *error)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, map)
    {
        const struct stored_tensor *tensor = find_exact(checkpoint, item->string);
        const char *slash = tensor ? strrchr(tensor->file, '/') : NULL;
        const char *file = slash ? slash + 1 : tensor ? tensor->file : NULL;
        if (!file || strcmp(file, item->valuestring) != 0)
            return error_set(error, "%s: tensor '%.200s' is not in '%.200s' as the index says",
                             checkpoint->path, item->string, item->valuestring);
    }
    return true;
}

static bool open_index(struct checkpoint *checkpoint, struct error *error)
{
    cJSON *root = json_read(checkpoint->path, INDEX_BYTES_MAX, error);
    if (!root)
        return false;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
    bool ok;
    if (!cJSON_IsObject(map) || !map->child)
        ok = error_set(error, "%s: has no 'weight_map' from tensors to files", checkpoint->path);
    else
        ok = open_shards(checkpoint, map, error) && sort_names(checkpoint, error) &&
             check_map(checkpoint, map, error);
    cJSON_Delete(root);
    return ok;
}

bool checkpoint_open(struct checkpoint **out, const char *path, struct error *error)
{
    *out = NULL;
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint)
        return error_out_of_memory(error, path, sizeof *checkpoint);
    bool ok = (checkpoint->path = resolve(path, error)) != NULL;
    if (ok && ends_with(checkpoint->path, INDEX_SUFFIX))
        ok = open_index(checkpoint, error);
    else if (ok)
        ok = add_file(checkpoint, checkpoint->path, error) && sort_names(checkpoint, error);
    if (!ok) {
        checkpoint_close(checkpoint);
        return false;
    }
    *out = checkpoint;
    return true;
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    for (int64_t i = 0; i < checkpoint->list.count; i++)
        free((char *)checkpoint->list.at[i].name);
    free(checkpoint->list.at);
    for (int64_t i = 0; i < checkpoint->file_count; i++)
        safetensors_close(&checkpoint->files[i]);
    free(checkpoint->files);
    free(checkpoint->path);
    free(checkpoint);
}

const char *checkpoint_path(const struct checkpoint *checkpoint)
{
    return checkpoint->path;
}

int64_t checkpoint_count(const struct checkpoint *checkpoint)
{
    return checkpoint->list.count;
}

const struct stored_tensor *checkpoint_at(const struct checkpoint *checkpoint, int64_t index)
{
    return &checkpoint->list.at[index];
}

void checkpoint_totals(const struct checkpoint *checkpoint, int64_t *bytes, int64_t *elements)
{
    *bytes = 0;
    *elements = 0;
    for (int64_t i = 0; i < checkpoint->list.count; i++) {
        const struct stored_tensor *tensor = &checkpoint->list.at[i];
        size_t count = 0;
        checked_bytes(tensor->shape, tensor->rank, 1, &count); /* was checked when it was opened */
        *bytes += (int64_t)tensor->bytes;
        *elements += (int64_t)count;
    }
}

void checkpoint_set_rename(struct checkpoint *checkpoint, checkpoint_rename_fn rename)
{
    checkpoint->rename = rename;
}

/* UMT5 ties its embedding: files hold it under one name, the other, or both. */
static const char *tied_name(const char *name)
{
    static const char *const tied[] = {"shared.weight", "encoder.embed_tokens.weight"};
    return strcmp(name, tied[0]) == 0 ? tied[1] : strcmp(name, tied[1]) == 0 ? tied[0] : NULL;
}

const struct stored_tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name)
{
    char buffer[NAME_BYTES];
    const char *renamed =
        checkpoint->rename ? checkpoint->rename(name, buffer, sizeof buffer) : NULL;
    const struct stored_tensor *tensor = renamed ? find_exact(checkpoint, renamed) : NULL;
    /* Parts of an original-layout folder may come from the other layout: its name is tried as well.
     * */
    if (!tensor)
        tensor = find_exact(checkpoint, name);
    if (!tensor && tied_name(name))
        tensor = find_exact(checkpoint, tied_name(name));
    return tensor;
}

static void print_shape(char *text, size_t size, const int64_t *shape, int rank)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used +=
            (size_t)snprintf(text + used, size - used, i ? ", %lld" : "%lld", (long long)shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

/* The same dimensions in the same order, those of 1 apart. */
static bool same_shape(const int64_t *a, int rank_a, const int64_t *b, int rank_b)
{
    int i = 0, j = 0;
    for (;;) {
        while (i < rank_a && a[i] == 1)
            i++;
        while (j < rank_b && b[j] == 1)
            j++;
        if (i == rank_a || j == rank_b)
            return i == rank_a && j == rank_b;
        if (a[i++] != b[j++])
            return false;
    }
}

bool checkpoint_read(const struct checkpoint *checkpoint, const char *name, const int64_t *shape,
                     int rank, float *out, struct error *error)
{
    const struct stored_tensor *tensor = checkpoint_find(checkpoint, name);
    if (!tensor) {
        char buffer[NAME_BYTES];
        const char *renamed =
            checkpoint->rename ? checkpoint->rename(name, buffer, sizeof buffer) : name;
        return error_set(error,
                         "%s: tensor '%.200s' is missing among its %lld (wrong model, or a "
                         "download that broke off?)",
                         checkpoint->path, renamed, (long long)checkpoint->list.count);
    }
    if (!same_shape(tensor->shape, tensor->rank, shape, rank)) {
        char has[200], expected[200];
        print_shape(has, sizeof has, tensor->shape, tensor->rank);
        print_shape(expected, sizeof expected, shape, rank);
        return error_set(error,
                         "%s: tensor '%.200s' has shape %s, expected %s (does config.json "
                         "belong to these weights?)",
                         tensor->file, tensor->name, has, expected);
    }
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= shape[i];
    if (!stored_to_float(tensor->dtype, tensor->data, out ? count : 0, out))
        return error_set(
            error,
            "%s: tensor '%.200s' is stored as %s, which is not read; use a checkpoint in "
            "F32, BF16 or F16",
            tensor->file, tensor->name, stored_dtype_name(tensor->dtype));
    return true;
}
