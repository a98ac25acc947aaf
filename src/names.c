/* Owns the words for the values of the public enums, and the way back from a word. */
#include "error.h"
#include "names.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static const char *const backend_names[] = {"auto", "reference", "portable",
                                            "avx2", "avx512",    "cuda"};
static const char *const policy_names[] = {"dense", "draft", "draft-paper"};
static const char *const stage_names[] = {"order",  "pool",   "draft map",
                                          "select", "attend", "repair"};

static const char *name_of(const char *const *names, int count, int value)
{
    return value >= 0 && value < count ? names[value] : "unknown";
}

int32_t draftattn_version(void)
{
    return DRAFTATTN_VERSION;
}

const char *draftattn_status_string(draftattn_status status)
{
    static const char *const names[] = {"success",       "invalid argument", "unsupported",
                                        "out of memory", "device error",     "internal error"};
    return name_of(names, COUNT(names), (int)status);
}

const char *draftattn_backend_name(draftattn_backend backend)
{
    return name_of(backend_names, COUNT(backend_names), (int)backend);
}

const char *draftattn_policy_name(draftattn_policy policy)
{
    return name_of(policy_names, COUNT(policy_names), (int)policy);
}

const char *draftattn_stage_name(draftattn_stage stage)
{
    return name_of(stage_names, COUNT(stage_names), (int)stage);
}

const char *dtype_name(draftattn_dtype dtype)
{
    static const char *const names[] = {"F32", "F16", "BF16"};
    return name_of(names, COUNT(names), (int)dtype);
}

void names_join(const char *const *names, int count, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < count && used < size; i++) {
        int written = snprintf(out + used, size - used, "%s%s", i ? ", " : "", names[i]);
        used += written > 0 ? (size_t)written : 0;
    }
}

static draftattn_status value_of(const char *what, const char *const *names, int count,
                                 const char *name, int *value)
{
    char list[256];
    RETURN_IF(!name, DRAFTATTN_INVALID_ARGUMENT, "the name of a %s is NULL", what);
    for (int i = 0; i < count; i++) {
        if (strcmp(name, names[i]) == 0) {
            *value = i;
            return DRAFTATTN_SUCCESS;
        }
    }
    names_join(names, count, list, sizeof(list));
    error_report(DRAFTATTN_INVALID_ARGUMENT, "there is no %s '%s'; there are: %s", what, name,
                 list);
    return DRAFTATTN_INVALID_ARGUMENT;
}

draftattn_status draftattn_backend_from_name(const char *name, draftattn_backend *out)
{
    int value;
    RETURN_IF(!out, DRAFTATTN_INVALID_ARGUMENT, "out is NULL");
    TRY(value_of("backend", backend_names, COUNT(backend_names), name, &value));
    *out = (draftattn_backend)value;
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_policy_from_name(const char *name, draftattn_policy *out)
{
    int value;
    RETURN_IF(!out, DRAFTATTN_INVALID_ARGUMENT, "out is NULL");
    TRY(value_of("policy", policy_names, COUNT(policy_names), name, &value));
    *out = (draftattn_policy)value;
    return DRAFTATTN_SUCCESS;
}
