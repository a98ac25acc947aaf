/*
 * Where the CUDA stages keep things during a call, and what they keep for a plan. All of it is
 * device memory; the host only works out addresses.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_SCRATCH_CUDA_H
#define DRAFTATTN_KERNELS_CUDA_SCRATCH_CUDA_H

#include "backend.h"
#include "stages_cuda.h"

/* Of a plan: what kernels read of its order and its blocks. */
struct prepared_cuda {
    int32_t *order; /* NULL where the caller holds block order; the one allocation starts here */
    int32_t *query_begin, *key_begin;
    int32_t *dense_begin; /* blocks of all tokens as they come, queries and keys alike */
    void *memory;
};

/* Of a call; NULL where the plan never needs it. See stages_cuda.h for shapes. */
struct scratch_cuda {
    void *q, *k, *v; /* copies in block order */
    float *mean_q, *mean_k, *spread_k;
    void *low_k, *low_v;
    float *bias;
    uint32_t *kept;
    int32_t *queue, *counter, *attend;
    void *probe_q;
    float *exact;
    void *select, *list, *repair;
};

/* The problem as sparse stages see it. prepared may be NULL where only sizes are wanted. */
struct shape_cuda sparse_shape(const struct problem *problem);

/* As a dense run sees it: every pair is computed, so neither order nor text matters, and tokens are
 * cut into blocks as the caller holds them. */
struct shape_cuda dense_shape(const struct problem *problem);

/* Lays scratch out over base; base NULL tells the size alone. False where it overflows. */
bool scratch_cuda_open(const struct problem *problem, void *base, struct scratch_cuda *scratch,
                       size_t *bytes);

/* Copies of what kernels read of a plan, on the current device, there when this returns. *out is
 * NULL on failure. */
cudaError_t prepare_cuda(const struct problem *problem, struct prepared_cuda **out);
cudaError_t release_cuda(struct prepared_cuda *prepared);

#endif
