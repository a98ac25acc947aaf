/*
 * A safetensors file whose tensors are made by the rule of the golden tests from their names and
 * shapes, so that a whole random network needs no stored weights. Included by one test program
 * each.
 */
#ifndef TESTS_RULE_FILE_H
#define TESTS_RULE_FILE_H

#include "golden/golden_common.c"

#include <unistd.h>

#define RULE_TENSORS_MAX 256

struct rule_file {
    struct tensor_to_write tensors[RULE_TENSORS_MAX];
    int count;
    char path[64];
};

/* A name in the temporary folder that no other run has. Without tensors so far. */
static inline void rule_file_begin(struct rule_file *file)
{
    memset(file, 0, sizeof *file);
    snprintf(file->path, sizeof file->path, P_tmpdir "/draftattn-rule-%ld.safetensors",
             (long)getpid());
}

/* Adds format (with number in it) of the given shape, ended by 0. Returns the values, to be
 * changed. */
static inline float *rule_file_add(struct rule_file *file, const int64_t *shape, const char *format,
                                   long long number)
{
    struct tensor_to_write *tensor = &file->tensors[file->count];
    char *name = malloc(128);
    int64_t count = 1;
    int rank = 0;
    for (; shape[rank] > 0; rank++) {
        tensor->shape[rank] = shape[rank];
        count *= shape[rank];
    }
    float *values = malloc((size_t)count * sizeof *values);
    if (!name || !values || file->count == RULE_TENSORS_MAX) {
        fprintf(stderr, "no room for a test's weights\n");
        exit(1);
    }
    snprintf(name, 128, format, number);
    golden_rule_tensor(name, shape, rank, values);
    tensor->name = name;
    tensor->dtype = STORED_F32;
    tensor->rank = rank;
    tensor->data = values;
    file->count++;
    return values;
}

#define SHAPE(...)                                                                                 \
    (const int64_t[])                                                                              \
    {                                                                                              \
        __VA_ARGS__, 0                                                                             \
    }

/* name.weight [out][in] and name.bias [out] */
static inline void rule_file_add_linear(struct rule_file *file, int64_t out, int64_t in,
                                        const char *name, long long number)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    rule_file_add(file, SHAPE(out, in), full, number);
    snprintf(full, sizeof full, "%s.bias", name);
    rule_file_add(file, SHAPE(out), full, number);
}

/* The values of a tensor that was added; NULL for an unknown name. */
static inline float *rule_file_values(struct rule_file *file, const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return (float *)file->tensors[i].data;
    return NULL;
}

/* Writes the file and opens it. The file's name is gone from the folder when this returns. */
static inline bool rule_file_open(struct rule_file *file, struct checkpoint **out,
                                  struct error *error)
{
    bool ok = safetensors_write(file->path, file->tensors, file->count, NULL, error) &&
              checkpoint_open(out, file->path, error);
    unlink(file->path);
    return ok;
}

static inline void rule_file_end(struct rule_file *file)
{
    for (int i = 0; i < file->count; i++) {
        free((char *)file->tensors[i].name);
        free((float *)file->tensors[i].data);
    }
    file->count = 0;
}

#endif
