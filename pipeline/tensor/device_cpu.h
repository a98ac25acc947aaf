/*
 * The CPU's struct device, shared by the files that fill ops_cpu. One caller at a time: operations
 * of one device must not run concurrently (they share the scratch memory).
 */
#ifndef PIPELINE_TENSOR_DEVICE_CPU_H
#define PIPELINE_TENSOR_DEVICE_CPU_H

#include <stddef.h>
#include <stdint.h>

struct watched_row {
    int32_t place;
    int64_t row; /* negative = none */
};

struct device {
    int32_t threads; /* >= 1; also OpenMP's number for the thread that made the device */
    void *onednn;    /* engine, stream and primitive caches: set by onednn_open(), freed by
                        onednn_close(), known to onednn_cpu.c alone */
    void *scratch;   /* see device_scratch() */
    size_t scratch_bytes;
    int32_t place;              /* see ops->watch() */
    struct watched_row watched; /* the lowest that was not finite */
};

/* At least this many bytes, 64-byte aligned, contents undefined; valid until the next call for this
 * device. Grows on demand and is kept. NULL when memory is out. */
void *device_scratch(struct device *device, size_t bytes);

#endif
