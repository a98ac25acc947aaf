/* One safetensors file: mapped, its header checked and listed. For checkpoint.c alone. */
#ifndef PIPELINE_IO_SAFETENSORS_H
#define PIPELINE_IO_SAFETENSORS_H

#include "checkpoint.h"

/* A list that grows; entries own their names. */
struct stored_list {
    struct stored_tensor *at;
    int64_t count, capacity;
};

struct safetensors {
    char *path;
    void *mapping;
    size_t size;
};

/* Maps path read-only, checks every entry of its header and appends the tensors to list. On failure
 * what was appended stays the caller's to free, and safetensors_close() is still due. */
bool safetensors_open(struct safetensors *out, const char *path, struct stored_list *list,
                      struct error *error);
void safetensors_close(struct safetensors *file);

enum stored_dtype stored_dtype_from_name(const char *name);

#endif
