/*
 * Typed, bounded reads of one JSON object. A field that is there but has the wrong type or leaves
 * its bounds is an error even where a fallback exists: a model that says something we do not
 * understand must not run as something else. null counts as absent, as in the files that diffusers
 * writes.
 */
#include "config.h"

#include "json_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)16 << 20)
#define SHOWN_MAX        64

struct config {
    char *path;
    cJSON *root;
};

bool config_open(struct config **out, const char *path, struct error *error)
{
    *out = NULL;
    struct config *config = calloc(1, sizeof *config);
    if (!config)
        return error_out_of_memory(error, path, sizeof *config);
    config->path = strdup(path);
    if (!config->path) {
        config_close(config);
        return error_out_of_memory(error, path, strlen(path));
    }
    config->root = json_read(path, CONFIG_BYTES_MAX, error);
    if (!config->root) {
        config_close(config);
        return false;
    }
    *out = config;
    return true;
}

void config_close(struct config *config)
{
    if (!config)
        return;
    cJSON_Delete(config->root);
    free(config->path);
    free(config);
}

const char *config_path(const struct config *config)
{
    return config->path;
}

/* The field, or NULL where it is absent or null. */
static const cJSON *find(const struct config *config, const char *field)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config->root, field);
    return cJSON_IsNull(item) ? NULL : item;
}

/* The value as the file has it, cut to fit a message. */
static const char *shown(const cJSON *item, char *buffer)
{
    if (cJSON_IsObject(item) || !cJSON_PrintPreallocated((cJSON *)item, buffer, SHOWN_MAX, false))
        strcpy(buffer, cJSON_IsArray(item)    ? "a list"
                       : cJSON_IsObject(item) ? "an object"
                                              : "a text");
    return buffer;
}

static bool missing(const struct config *config, const char *field, struct error *error)
{
    return error_set(error, "%s: field '%s' is missing", config->path, field);
}

bool config_has(const struct config *config, const char *field)
{
    return find(config, field) != NULL;
}

static bool whole_in(const struct config *config, const char *field, const cJSON *item, int64_t low,
                     int64_t high, int64_t *out, struct error *error)
{
    char text[SHOWN_MAX];
    int64_t value;
    if (!json_whole(item, &value) || value < low || value > high)
        return error_set(error, "%s: '%s' is %s, expected a whole number in %lld..%lld",
                         config->path, field, shown(item, text), (long long)low, (long long)high);
    *out = value;
    return true;
}

bool config_int(const struct config *config, const char *field, int64_t low, int64_t high,
                int64_t *out, struct error *error)
{
    const cJSON *item = find(config, field);
    if (!item)
        return missing(config, field, error);
    return whole_in(config, field, item, low, high, out, error);
}

bool config_int_or(const struct config *config, const char *field, int64_t low, int64_t high,
                   int64_t fallback, int64_t *out, struct error *error)
{
    if (!config_has(config, field)) {
        *out = fallback;
        return true;
    }
    return config_int(config, field, low, high, out, error);
}

bool config_float_or(const struct config *config, const char *field, double low, double high,
                     double fallback, double *out, struct error *error)
{
    const cJSON *item = find(config, field);
    if (!item) {
        *out = fallback;
        return true;
    }
    char text[SHOWN_MAX];
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= low && item->valuedouble <= high))
        return error_set(error, "%s: '%s' is %s, expected a number in %g..%g", config->path, field,
                         shown(item, text), low, high);
    *out = item->valuedouble;
    return true;
}

bool config_bool_or(const struct config *config, const char *field, bool fallback, bool *out,
                    struct error *error)
{
    const cJSON *item = find(config, field);
    if (!item) {
        *out = fallback;
        return true;
    }
    char text[SHOWN_MAX];
    if (!cJSON_IsBool(item))
        return error_set(error, "%s: '%s' is %s, expected true or false", config->path, field,
                         shown(item, text));
    *out = cJSON_IsTrue(item);
    return true;
}

const char *config_string(const struct config *config, const char *field)
{
    return cJSON_GetStringValue((cJSON *)find(config, field));
}

/* The array and its exact length, for the three below. */
static bool array_of(const struct config *config, const char *field, int count, const cJSON **out,
                     struct error *error)
{
    const cJSON *item = find(config, field);
    if (!item)
        return missing(config, field, error);
    char text[SHOWN_MAX];
    if (!cJSON_IsArray(item))
        return error_set(error, "%s: '%s' is %s, expected a list of %d values", config->path, field,
                         shown(item, text), count);
    int length = cJSON_GetArraySize(item);
    if (length != count)
        return error_set(error, "%s: '%s' has %d values, expected %d", config->path, field, length,
                         count);
    *out = item;
    return true;
}

bool config_floats(const struct config *config, const char *field, double *out, int count,
                   struct error *error)
{
    const cJSON *array, *item;
    if (!array_of(config, field, count, &array, error))
        return false;
    char text[SHOWN_MAX];
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
            return error_set(error, "%s: '%s' holds %s, expected finite numbers", config->path,
                             field, shown(item, text));
        *out++ = item->valuedouble;
    }
    return true;
}

bool config_ints(const struct config *config, const char *field, int64_t low, int64_t high,
                 int64_t *out, int count, struct error *error)
{
    const cJSON *array, *item;
    if (!array_of(config, field, count, &array, error))
        return false;
    cJSON_ArrayForEach(item, array)
    {
        if (!whole_in(config, field, item, low, high, out++, error))
            return false;
    }
    return true;
}

bool config_bools(const struct config *config, const char *field, bool *out, int count,
                  struct error *error)
{
    const cJSON *array, *item;
    if (!array_of(config, field, count, &array, error))
        return false;
    char text[SHOWN_MAX];
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsBool(item))
            return error_set(error, "%s: '%s' holds %s, expected true or false", config->path,
                             field, shown(item, text));
        *out++ = cJSON_IsTrue(item);
    }
    return true;
}
