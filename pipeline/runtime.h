/*
 * Where the networks and their attention run: a table of operations with its device, and the
 * library's context for the same memory. Opened together, so that tensors of one are good for the
 * other.
 */
#ifndef PIPELINE_RUNTIME_H
#define PIPELINE_RUNTIME_H

#include "error.h"
#include "tensor/ops.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum runtime_kind {
    RUNTIME_AUTO, /* a GPU where one works, else the CPU */
    RUNTIME_CPU,
    RUNTIME_CUDA
};

enum runtime_precision {
    RUNTIME_PRECISION_AUTO, /* bfloat16 on a GPU */
    RUNTIME_BF16,           /* bfloat16 between the layers and in their products; GPUs alone */
    RUNTIME_F32
};

/* Zeroed: the best there is, as the device has it. */
struct runtime_desc {
    enum runtime_kind kind;
    int32_t index; /* of the GPU */
    enum runtime_precision precision;
    bool offload;              /* the transformer's blocks stay in host memory; GPUs alone */
    int32_t threads;           /* of the CPU; 0 = all */
    draftattn_backend backend; /* of attention; it has to be of the same device */
};

struct runtime {
    const struct ops *ops;
    struct device *device;
    draftattn_context *context;
    struct runtime_desc desc; /* kind and precision decided */
    bool gpu;
    bool chosen; /* kind was AUTO, and nothing else decided it */
    enum element activations;
    char name[128];    /* "cpu", or "cuda:0 (NVIDIA H100 80GB HBM3, 132 multiprocessors)" */
    char why_cpu[384]; /* AUTO found a GPU that it does not take, and why; "" otherwise */
};

/* Refuses, as a mistake of use, a device that is not there, and flags that contradict each other.
 * *out is zeroed on failure. */
bool runtime_open(struct runtime *out, const struct runtime_desc *desc, struct error *error);
void runtime_close(struct runtime *runtime); /* accepts a zeroed struct */

/* Bytes that can still be taken where this device's tensors are. */
int64_t runtime_available(const struct runtime *runtime);
/* Bytes of the GPU that are taken, by whomever; 0 on the CPU. */
int64_t runtime_taken(const struct runtime *runtime);

/* "auto", "cpu", "cuda" or "cuda:N", and back; false for another word. size >= 16. */
void runtime_kind_describe(const struct runtime_desc *desc, char *buffer, size_t size);
bool runtime_kind_from_name(const char *name, enum runtime_kind *kind, int32_t *index);
/* "auto", "bf16", "float32". */
const char *runtime_precision_name(enum runtime_precision precision);
bool runtime_precision_from_name(const char *name, enum runtime_precision *out);

#endif
