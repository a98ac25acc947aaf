/*
 * The stages of backend.h on a CUDA device, as launches: backend_cuda.c enqueues them in the order
 * of this file, the .cu files define them. All pointers are device memory. A launch allocates
 * nothing, waits for nothing and reads nothing back, so that a stream capture can hold it; what it
 * returns is the first status of its launches that is not success.
 *
 * Sizes of up to 2^31 - 1 tokens are checked by the plan; products are 64-bit. Heads are counted
 * through the batch. "Position" is a place in block order, order[position] the caller's token.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_STAGES_CUDA_H
#define DRAFTATTN_KERNELS_CUDA_STAGES_CUDA_H

#include <draftattn.h>

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_QUERY_BLOCK = 128,
    CUDA_KEPT_BITS = 128 /* rows of kept bits, and rows of low means, are padded to so many */
};

/* A problem, as kernels take it by value. */
struct shape_cuda {
    int32_t heads;       /* batch * heads per batch entry */
    int32_t entry_heads; /* heads of a batch entry: head h is [h / entry_heads][h % entry_heads] */
    int32_t head_dim;    /* 64 or 128 */
    int32_t key_block;   /* 64 or 128 */
    int32_t tokens, video_tokens;
    int32_t query_blocks, video_query_blocks;
    int32_t key_blocks, video_key_blocks;
    int32_t probes;       /* rows per head, <= min(video_tokens, 1024); 0 = none */
    float scale;          /* softmax_scale */
    const int32_t *order; /* [tokens] position -> token; NULL = the tensors hold block order */
    const int32_t *query_begin; /* [query_blocks + 1]: every 128 from 0, and from video_tokens on */
    const int32_t *key_begin;   /* [key_blocks + 1]: every key_block, in the same way */
};

static inline int32_t cuda_round_up(int32_t value, int32_t to)
{
    return (value + to - 1) / to * to;
}

/* Rows of low_k and low_v of a head; kept words of a query block are a 32nd of it. */
static inline int32_t cuda_mean_rows(const struct shape_cuda *shape)
{
    return cuda_round_up(shape->key_blocks, CUDA_KEPT_BITS);
}

static inline int32_t cuda_probe_tiles(const struct shape_cuda *shape)
{
    return (shape->probes + CUDA_QUERY_BLOCK - 1) / CUDA_QUERY_BLOCK;
}

/* ---- gather_pool.cu: into block order, block means ------------------------------------------ */

struct pool_cuda {
    struct shape_cuda shape;
    draftattn_tensor q, k, v; /* the caller's; any strides, any of the three types. v.data may be
                                 NULL where only the map is wanted */
    void *q_copy, *k_copy, *v_copy; /* [heads][tokens][head_dim] of the same type, in block order,
                                       16-byte aligned; NULL = not wanted */
    float *mean_q;                  /* [heads][video_query_blocks][head_dim]; NULL = not wanted */
    float *mean_k;                  /* [heads][video_key_blocks][head_dim]; NULL = not wanted */
    /* Variances of k in each block (divided by its count), the same shape; NULL = not wanted. */
    float *spread_k;
    /* Means of all key blocks in the type of k: [heads][cuda_mean_rows()][head_dim], rows from
     * key_blocks on are 0; NULL = not wanted. */
    void *low_k, *low_v;
    /* [cuda_mean_rows()]: log2 of the length of each key block, -INFINITY from key_blocks on; NULL
     * = not wanted. */
    float *bias;
};

/* One pass over each tensor: it is copied and pooled together. Sums are float32. */
cudaError_t cuda_gather_pool(const struct pool_cuda *pool, cudaStream_t stream);

/* ---- draft_map.cu --------------------------------------------------------------------------- */

/* map [heads][video_query_blocks][video_key_blocks] =
 *     softmax_J(scale * mean_q(I) . mean_k(J) + log n_J),
 * times scale * sqrt(sum_d mean_q[d]^2 spread_k[d]) where spread_k is not NULL. Products in float32
 * (no TF32). mean_q, mean_k and spread_k begin at multiples of 16 bytes. */
cudaError_t cuda_draft_map(const struct shape_cuda *shape, const float *mean_q, const float *mean_k,
                           const float *spread_k, float *map, cudaStream_t stream);

/* ---- select.cu: map -> kept bits ------------------------------------------------------------ */

/* What the policy comes to in numbers; the host works them out as src/policy_*.c do. */
struct select_cuda {
    struct shape_cuda shape;
    bool paper;       /* DRAFT_PAPER: by a cut for each head, ties included */
    int64_t dropped;  /* paper: entries >= the so many-th smallest of a head stay; 0 = all */
    int64_t mean;     /* draft: video pairs a head keeps on average */
    double row_floor; /* draft */
    bool spread;      /* draft: heads of a batch entry share heads * mean within [low, high] */
    int64_t low, high;
    const float *map; /* [heads][video_query_blocks][video_key_blocks], no NaN */
    uint32_t *kept;   /* out: [heads * query_blocks][cuda_mean_rows() / 32]; bit j % 32 of word
                         j / 32: key block j is kept. Text rows and text keys are all kept; bits
                         from key_blocks on are 0 */
    void *scratch;    /* cuda_select_scratch() bytes */
};

size_t cuda_select_scratch(const struct shape_cuda *shape);

/* The set that select.c defines, to the last tie. */
cudaError_t cuda_select(const struct select_cuda *select, cudaStream_t stream);

/* ---- block_list.cu: kept bits -> block list, queue, density --------------------------------- */

/* Bits of a block list. Entries out of range are ignored: the list may not have been checked. */
cudaError_t cuda_kept_from_list(const struct shape_cuda *shape, const int64_t *row_ptr,
                                const int32_t *block_idx, int64_t capacity, uint32_t *kept,
                                cudaStream_t stream);

struct list_cuda {
    struct shape_cuda shape;
    const uint32_t *kept; /* NULL = every pair: then only heads and queue are written */
    int64_t *row_ptr;     /* out: [heads * query_blocks + 1] */
    int32_t *block_idx;   /* out: strictly ascending in a row; room for every pair */
    int32_t *queue;       /* out: [heads * (query_blocks + probe tiles)], see attend_cuda */
    int32_t *counter;     /* out: 0 */
    draftattn_head_stats
        *heads;    /* out: [heads] density; error and error_before 0 where nothing is skipped,
                                    else NaN; repaired 0 */
    bool probes;   /* the queue holds probe tiles too */
    void *scratch; /* cuda_list_scratch() bytes */
};

size_t cuda_list_scratch(const struct shape_cuda *shape);
cudaError_t cuda_list(const struct list_cuda *list, cudaStream_t stream);

/* ---- attend_*.cu ---------------------------------------------------------------------------- */

/* Rows in block order whose elements lie side by side. */
struct rows_cuda {
    const void *data;
    int64_t stride_entry, stride_head, stride_token; /* in elements; see entry_heads */
};

/* int32_t of scratch for so many items. */
static inline int64_t cuda_attend_scratch(int64_t items)
{
    return 2 + items / 32 + 1 + items;
}

/*
 * Items of the queue, longest first, taken in turn by *counter:
 *     item < heads * query_blocks    query block item % query_blocks of head item / query_blocks
 *     else                           with t = item - heads * query_blocks, probe tile t % tiles of
 *                                    head t / tiles: rows [128 * tile, ...) of probe_q, all keys,
 *                                    no compensation; into exact
 */
struct attend_cuda {
    struct shape_cuda shape;
    draftattn_dtype dtype; /* of q, k, v, probe_q, low_k, low_v */
    struct rows_cuda q, k, v;
    const int64_t *row_ptr; /* NULL = every pair: then kept is NULL too */
    const int32_t *block_idx;
    const uint32_t *kept; /* NULL = no compensation: what is skipped is dropped */
    const void *low_k, *low_v;
    const float *bias;    /* log2 n_J, as pool_cuda has it */
    const int32_t *queue; /* NULL = items in their order */
    int32_t items;
    int32_t *counter;    /* 0 on entry */
    int32_t *scratch;    /* [cuda_attend_scratch(items)]: the kernel's own */
    const void *probe_q; /* [heads][128 * probe tiles][head_dim]; rows from probes on are 0 */
    float *exact;        /* out: [heads][probes][head_dim]; NULL = no probe tiles in the queue */
    draftattn_tensor o;  /* out: the caller's, any strides, any type, at order[position] */
    draftattn_tensor
        lse; /* out: the caller's F32 [batch, heads, tokens, 1]; data NULL = not wanted */
};

/* A kernel: a row of variants.def. implementation of a CUDA kernel_row points to one. */
struct cuda_kernel {
    int32_t least, most; /* compute capabilities * 10 that it runs on, both inclusive: 90, 90 */
    bool half;           /* F16 and BF16; else F32 */
    cudaError_t (*attend)(const struct attend_cuda *attend, cudaStream_t stream);
    bool aligned; /* takes only rows of q, k and v that begin at multiples of 16 bytes */
};

/* ---- repair.cu ------------------------------------------------------------------------------ */

/* Query rows of the probes, probe_position() of backend.h, into probe_q (see attend_cuda), and 0 in
 * those behind them: attention computes whole tiles. */
cudaError_t cuda_probe_queries(const struct shape_cuda *shape, draftattn_dtype dtype,
                               const struct rows_cuda *q, void *probe_q, cudaStream_t stream);

struct repair_cuda {
    struct shape_cuda shape;
    draftattn_dtype dtype; /* of q */
    struct rows_cuda q;
    draftattn_tensor o;     /* in and out: the caller's */
    const float *exact;     /* [heads][probes][head_dim] */
    const int64_t *row_ptr; /* rows that list every key block are left alone */
    double ridge;
    bool apply;                  /* false: only the error is estimated */
    draftattn_head_stats *heads; /* out: error, error_before, repaired */
    void *scratch;               /* cuda_repair_scratch() bytes */
};

size_t cuda_repair_scratch(const struct shape_cuda *shape);

/* Fit, judgement, correction: what repair_cpu.c and repair_simd.c do. */
cudaError_t cuda_repair(const struct repair_cuda *repair, cudaStream_t stream);

/* ---- store.cu ------------------------------------------------------------------------------- */

enum { CUDA_STORE_BYTES = 128 };

/* At most CUDA_STORE_BYTES of host memory, free on return. */
cudaError_t cuda_store(void *to, const void *from, size_t bytes, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
