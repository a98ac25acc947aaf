/* Dense attention for what libdraftattn is not made for: cross-attention, T5, the VAE. */
#ifndef PIPELINE_TENSOR_ATTENTION_CPU_H
#define PIPELINE_TENSOR_ATTENTION_CPU_H

#include "ops.h"

/* ops->attention */
bool attention_cpu(struct device *device, const struct ops_attention *attention,
                   struct error *error);

/* Scratch memory of such a call, for memory plans. */
int64_t attention_cpu_bytes(int32_t heads, int32_t head_dim, int64_t k_rows, int32_t threads);

#endif
