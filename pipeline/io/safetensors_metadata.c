/* Eight bytes of length, then the header. Members that are no text are an error: the format has
 * none. */
#include "safetensors_metadata.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HEADER_MAX ((uint64_t)16 << 20)

/* The header's bytes, malloc'd. */
static char *read_header(FILE *file, const char *path, uint64_t *length, struct error *error)
{
    if (fread(length, 1, sizeof *length, file) != sizeof *length) {
        error_set(error, "%s: too short for a safetensors file", path);
        return NULL;
    }
    if (*length > HEADER_MAX) {
        error_set(error,
                  "%s: the header claims %llu bytes, at most %llu are read (is this a safetensors "
                  "file?)",
                  path, (unsigned long long)*length, (unsigned long long)HEADER_MAX);
        return NULL;
    }
    char *header = malloc((size_t)*length + 1);
    if (!header) {
        error_out_of_memory(error, path, *length);
    } else if (fread(header, 1, (size_t)*length, file) != *length) {
        error_set(error, "%s: ends inside its header of %llu bytes (file truncated?)", path,
                  (unsigned long long)*length);
        free(header);
        header = NULL;
    }
    return header;
}

static cJSON *parse(const char *header, uint64_t length, const char *path, struct error *error)
{
    cJSON *root = json_parse(header, (size_t)length, path, error);
    if (!root) {
        error_prefix(error, "safetensors header: ");
        return NULL;
    }
    cJSON *metadata = cJSON_DetachItemFromObjectCaseSensitive(root, "__metadata__");
    cJSON_Delete(root);
    if (!metadata && !(metadata = cJSON_CreateObject())) {
        error_out_of_memory(error, path, sizeof *metadata);
        return NULL;
    }
    const cJSON *item = NULL;
    bool ok = cJSON_IsObject(metadata);
    if (ok)
        cJSON_ArrayForEach(item, metadata) ok = ok && cJSON_IsString(item);
    if (!ok) {
        error_set(error, "%s: its metadata are not texts by name", path);
        cJSON_Delete(metadata);
        return NULL;
    }
    return metadata;
}

cJSON *safetensors_metadata(const char *path, struct error *error)
{
    struct stat info;
    /* Looked at before it is opened: opening a pipe would wait. */
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
        error_set(error, "%s: is not a regular file", path);
        return NULL;
    }
    FILE *file = fopen(path, "rb");
    if (!file) {
        error_set(error, "%s: cannot open: %s", path, strerror(errno));
        return NULL;
    }
    uint64_t length = 0;
    char *header = read_header(file, path, &length, error);
    cJSON *metadata = header ? parse(header, length, path, error) : NULL;
    free(header);
    fclose(file);
    return metadata;
}
