/*
 * Memory of the process's current CUDA device, for tensors and workspaces that attention on it
 * reads and writes. In a build without CUDA, and where no device answers, everything that can fail
 * does, and says so.
 */
#ifndef PIPELINE_DEVICE_MEMORY_H
#define PIPELINE_DEVICE_MEMORY_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

/* "NVIDIA H100 80GB HBM3, 132 multiprocessors"; "" without a device. size >= 1. */
void device_memory_device(char *text, size_t size);

/* Bytes that nobody has taken yet; 0 without a device. */
int64_t device_memory_available(void);
/* All that the device has; 0 without one. */
int64_t device_memory_total(void);

/* Aligned to 256; *memory is NULL on failure. what: "the data". */
bool device_memory_alloc(void **memory, size_t bytes, const char *what, struct error *error);
void device_memory_free(void *memory); /* accepts NULL */

/* To and from host memory and within the device, after all work that was enqueued before; done on
 * return. */
bool device_memory_copy(void *to, const void *from, size_t bytes, struct error *error);

/* Waits for all work that was enqueued, and tells whether it failed. */
bool device_memory_synchronise(struct error *error);

#endif
