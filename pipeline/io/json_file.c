/*
 * JSON as the files of a model use it: one object per document. Refuses what would cost far more
 * memory than it has bytes (a node of cJSON takes 64, a comma makes a node), text after the
 * document, and numbers that a double does not hold exactly where a whole number is wanted. cJSON
 * itself refuses deep nesting.
 */
#include "json_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <utf8proc.h>

#define VALUES_MAX (4 << 20)

static bool few_values(const char *bytes, size_t length)
{
    size_t values = 0;
    for (size_t i = 0; i < length; i++)
        values += bytes[i] == ',' || bytes[i] == '[' || bytes[i] == '{';
    return values <= VALUES_MAX;
}

cJSON *json_parse(const char *bytes, size_t length, const char *what, struct error *error)
{
    if (!few_values(bytes, length)) {
        error_set(error, "%s: more than %d JSON values; this is no file of a model", what,
                  VALUES_MAX);
        return NULL;
    }
    const char *end = bytes;
    cJSON *root = cJSON_ParseWithLengthOpts(bytes, length, &end, false);
    if (!root) {
        size_t at = end >= bytes && end <= bytes + length ? (size_t)(end - bytes) : 0;
        error_set(error, "%s: broken JSON near byte %zu of %zu (file damaged? download it again)",
                  what, at, length);
        return NULL;
    }
    while (end < bytes + length && strchr(" \t\r\n", *end)) /* also takes NUL padding */
        end++;
    if (end < bytes + length) {
        error_set(error, "%s: text after the JSON document at byte %zu of %zu", what,
                  (size_t)(end - bytes), length);
        cJSON_Delete(root);
        return NULL;
    }
    if (!cJSON_IsObject(root)) {
        error_set(error, "%s: a JSON object { ... } was expected", what);
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

/* Size of a regular file; looked at before it is opened, since opening a pipe would wait. */
static bool file_size(const char *path, size_t limit, size_t *size, struct error *error)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return error_set(error, "%s: is not a regular file", path);
    if (info.st_size <= 0)
        return error_set(error, "%s: is empty (file truncated? download it again)", path);
    if ((uint64_t)info.st_size > limit)
        return error_set(error, "%s: has %lld bytes, at most %zu are read as JSON", path,
                         (long long)info.st_size, limit);
    *size = (size_t)info.st_size;
    return true;
}

cJSON *json_read(const char *path, size_t limit, struct error *error)
{
    size_t size = 0;
    if (!file_size(path, limit, &size, error))
        return NULL;
    FILE *file = fopen(path, "rb");
    if (!file) {
        error_set(error, "%s: cannot open: %s", path, strerror(errno));
        return NULL;
    }
    cJSON *root = NULL;
    char *bytes = malloc(size);
    if (!bytes)
        error_out_of_memory(error, path, size);
    else if (fread(bytes, 1, size, file) != size)
        error_set(error, "%s: cannot read all of its %zu bytes", path, size);
    else
        root = json_parse(bytes, size, path, error);
    free(bytes);
    fclose(file);
    return root;
}

char *json_print(const cJSON *root, bool indented)
{
    char *text = indented ? cJSON_Print(root) : cJSON_PrintUnformatted(root), *at = text;
    for (size_t left = text ? strlen(text) : 0; left > 0;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used =
            utf8proc_iterate((utf8proc_uint8_t *)at, (utf8proc_ssize_t)left, &code);
        if (used <= 0) {
            *at = '?';
            used = 1;
        }
        at += used;
        left -= (size_t)used;
    }
    return text;
}

bool json_whole(const cJSON *item, int64_t *out)
{
    if (!cJSON_IsNumber(item))
        return false;
    double value = item->valuedouble;
    if (!(fabs(value) < 9007199254740992.0) || value != floor(value))
        return false;
    *out = (int64_t)value;
    return true;
}
