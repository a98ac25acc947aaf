/*
 * Dense attention on a GPU for what libdraftattn is not made for: cross-attention, T5, the VAE.
 * attention_cuda() picks the way; the rest is what it enqueues, on the device's stream.
 */
#ifndef PIPELINE_TENSOR_ATTENTION_CUDA_H
#define PIPELINE_TENSOR_ATTENTION_CUDA_H

#include "ops.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ops->attention. BF16: weights are rounded before they meet v, and what is accumulated is rounded
 * before and after the addition, as the original has it. Float32 is exact: no TF32. */
bool attention_cuda(struct device *device, const struct ops_attention *attention,
                    struct error *error);

/* The most that logits take of scratch memory, beyond which queries are done in several passes; all
 * scratch that float32 takes, unless the logits of one query are more. */
#define ATTENTION_CUDA_SCRATCH ((int64_t)256 << 20)

/* attention_cuda.cu: in one kernel, on tensor cores. BF16, head_dim 64 or 128, no Toeplitz bias, a
 * scale above 0; any strides and alignments. */
bool attention_cuda_fused_takes(const struct ops_attention *attention);
cudaError_t attention_cuda_fused(const struct ops_attention *attention, cudaStream_t stream);

/* attention_scores_cuda.cu: what surrounds the two products where logits are stored. */

/* Logits of some queries of some heads, which become their softmax in place. */
struct attention_scores {
    float *scores; /* [heads][rows][stride] */
    int64_t heads, rows, stride;
    int64_t columns;       /* keys, <= stride */
    const float *bias;     /* of the first head and query, see ops_attention; NULL = none */
    int64_t bias_stride;   /* from head to head; from query to query it is -1 */
    const float *key_bias; /* [columns] or NULL */
};

void attention_scores_softmax(struct device *device, const struct attention_scores *scores);

/* Rows of bfloat16, stride elements apart, to or from contiguous rows of float32. */
struct attention_rows {
    void *rows;
    int64_t stride, count, width;
};

void attention_rows_widen(struct device *device, const struct attention_rows *rows, float *to);
/* add: to what is there. */
void attention_rows_narrow(struct device *device, const struct attention_rows *rows,
                           const float *from, bool add);

#ifdef __cplusplus
}
#endif

#endif
