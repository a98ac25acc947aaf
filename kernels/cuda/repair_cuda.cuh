/*
 * What the files of repair share on the device: where a fit keeps its matrices, the sums of a head,
 * elements of tensors of any type. repair.cu reads the probe rows; repair_fit.cu, repair_factor.cu
 * and repair_solve.cu do the linear algebra, and judge it by repair_judge.cuh; repair_apply.cu
 * corrects rows.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_REPAIR_CUDA_CUH
#define DRAFTATTN_KERNELS_CUDA_REPAIR_CUDA_CUH

#include "../repair_rules.h"
#include "stages_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum {
    FIT_TILE = 64,  /* squares that x^T x is cut into; divides head_dim */
    FIT_BLOCK = 32, /* squares that it is factorised and solved by, columns that go together */
    FIT_SLICE = FIT_BLOCK, /* columns that a block of collect_kernel() has: a warp's width */
    MAX_SLICES = 2 * 128 / FIT_SLICE,
    MAX_PROBES = 1024
};

/* Sums of a slice over the probe rows of blocks that skip something; norm is over all of them. */
struct slice_sums {
    double raw;     /* squares of o or q */
    double centred; /* the same without their means */
    double error;   /* squares of exact - o; 0 in slices of q */
    double norm;    /* squares of exact; 0 in slices of q */
    double rows;    /* how many rows count */
};

/* Scratch, [heads] of each. Rows are probe rows up to a whole tile; those that do not count are 0.
 * Features are those of o, then those of q. */
struct fit_arrays {
    int32_t rows, features, slices;
    float *x;            /* [rows][features], centred */
    float *residual;     /* [rows][head_dim]: exact - o, centred */
    float *counted;      /* [rows]: 1 or 0 */
    float *mean;         /* [3 * head_dim]: of o, q and the residual */
    float *gram;         /* [features][features]: x^T x, lower half; then repair_factor.cu's */
    float *cross;        /* [features][head_dim]: x^T residual */
    float *weight;       /* [features][head_dim]; where it is not packed into fragments */
    float *shift;        /* [head_dim] */
    uint32_t *fragments; /* [features * head_dim / 2]: weight as repair_apply.cu multiplies by it */
    float
        *unscale; /* [head_dim / FIT_BLOCK][2]: what undoes the scaling of fragments, for o and q */
    float *leverage;      /* [rows]: diagonal of x (gram + ridge)^-1 x^T */
    float *left, *before; /* [head_dim / FIT_BLOCK][rows]: squares of the residual after, before */
    struct slice_sums *sums; /* [slices] */
    int32_t *solved;         /* [1]: a fit was due and came to an end */
    uint32_t *done;          /* [1]: blocks of solve_kernel() that have ended; see last_cta.cuh */
};

/* Whether weights are rounded to q's type and multiplied by tensor cores. */
bool repair_is_packed(const struct repair_cuda *repair);

/* How apply_kernel() shares out rows among its blocks, and which of them warm_rows() is for. */
struct apply_plan {
    int32_t shares, rows; /* of a head, and video rows of each; the last may have fewer */
    uint32_t warm_shares; /* of all heads together: those that begin at once */
    int32_t warm_rows;    /* of each, the first */
    int32_t idle;         /* multiprocessors that a block a head leaves without work; 0 where
                             there is nothing to warm */
};

/* All 0 where weights are not packed. */
cudaError_t repair_plan(const struct repair_cuda *repair, struct apply_plan *plan);

/* From sums, x and residual to weight, fragments and shift, and statistics. */
cudaError_t repair_fit(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                       const struct apply_plan *plan, cudaStream_t stream);

/* Its parts. gram: C C^T = gram + ridge, C below the diagonal blocks of FIT_BLOCK; on them, their
 * factors' inverses, whole. */
cudaError_t repair_factor(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                          const struct apply_plan *plan, cudaStream_t stream);
cudaError_t repair_solve(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                         cudaStream_t stream);

/* o += shift + [o, q] weight in the blocks of repaired heads that skip something; probe rows in
 * them become the exact ones. */
cudaError_t repair_apply(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                         const struct apply_plan *plan, cudaStream_t stream);

/* Launches of repair follow one another in a chain, the first of a kernel that calls
 * await_all_before(), each other of one that calls await_launch_before(): where its code is for 9.0
 * and up, its blocks come while those before are still at work, instead of after them. shared:
 * dynamic, in bytes. */
template <typename... Wanted, typename... Given>
static inline cudaError_t launch_next(void (*kernel)(Wanted...), int64_t blocks, int32_t threads,
                                      size_t shared, cudaStream_t stream, const Given &...arguments)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute early = {};
    cudaFuncAttributes code;
    int driver = 0;
    cudaError_t error = cudaFuncGetAttributes(&code, (const void *)kernel);
    if (error == cudaSuccess)
        error = cudaDriverGetVersion(&driver);
    if (error == cudaSuccess && shared > 0)
        error = cudaFuncSetAttribute((const void *)kernel,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess)
        return error;
    config.gridDim = dim3((uint32_t)blocks);
    config.blockDim = dim3((uint32_t)threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    /* Graphs have known of it since 12.3. Code may be older than the device it runs on. */
    config.numAttrs = CUDART_VERSION >= 12030 && driver >= 12030 && code.ptxVersion >= 90;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* By all threads, before anything is written, or read that launches of the chain write. That the
 * next launch may come before this one has so much as begun is no harm: it waits here too, until
 * this one has ended and what it wrote is there, and so for all that are before. Blocks that
 * neither read nor write such things need not wait, as long as others of the launch do. */
static __device__ inline void await_launch_before(void)
{
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
#endif
}

/* The same in the first launch of the chain: the others come when all that was before is there, for
 * those among them that read of it without waiting. */
static __device__ inline void await_all_before(void)
{
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* What slices add up to. */
struct head_sums {
    double raw_o, raw_q, centred_o, centred_q, error, norm, rows;
};

static __device__ inline struct head_sums sums_of(const struct fit_arrays &arrays, int32_t head)
{
    const struct slice_sums *sums = arrays.sums + (int64_t)head * arrays.slices;
    struct head_sums all = {};
#pragma unroll /* for all loads to be under way at once */
    for (int32_t i = 0; i < MAX_SLICES; i++) {
        bool o = i < arrays.slices / 2;
        if (i >= arrays.slices)
            continue;
        (o ? all.raw_o : all.raw_q) += sums[i].raw;
        (o ? all.centred_o : all.centred_q) += sums[i].centred;
        all.error += sums[i].error;
        all.norm += sums[i].norm;
    }
    all.rows = sums[0].rows;
    return all;
}

/* Whether there is something to fit. What is not a number goes on, to be refused later. */
static __device__ inline bool fit_is_due(const struct head_sums &sums)
{
    return sums.rows >= MIN_FIT_ROWS && sums.error != 0;
}

static __device__ inline bool fit_is_due(const struct fit_arrays &arrays, int32_t head)
{
    return fit_is_due(sums_of(arrays, head));
}

/* probe_position() of backend.h. */
static __device__ inline int32_t probe_position(const struct shape_cuda &shape, int32_t index)
{
    int64_t begin = (int64_t)index * shape.video_tokens / shape.probes;
    int64_t end = ((int64_t)index + 1) * shape.video_tokens / shape.probes;
    uint64_t place = (uint32_t)index * 0x9e3779b9u;
    return (int32_t)(begin + (int64_t)(place * (uint64_t)(end - begin) >> 32));
}

/* Whether the query block that holds a video position lists every key block. */
static __device__ inline bool block_is_full(const struct repair_cuda &repair, int32_t head,
                                            int32_t position)
{
    const int64_t *row =
        repair.row_ptr + (int64_t)head * repair.shape.query_blocks + position / CUDA_QUERY_BLOCK;
    return row[1] - row[0] == repair.shape.key_blocks;
}

static __device__ inline bool head_is_full(const struct repair_cuda &repair, int32_t head)
{
    int64_t blocks = repair.shape.query_blocks;
    return repair.row_ptr[(head + 1) * blocks] - repair.row_ptr[head * blocks] ==
           blocks * repair.shape.key_blocks;
}

/* Probes with positions in [begin, end) are among those from first_probe() to before
 * past_probes(), which are those and hardly more. */
static __device__ inline int32_t first_probe(const struct shape_cuda &shape, int32_t begin)
{
    return (int32_t)((int64_t)begin * shape.probes / shape.video_tokens);
}

static __device__ inline int32_t past_probes(const struct shape_cuda &shape, int32_t end)
{
    return (int32_t)(((int64_t)end * shape.probes + shape.video_tokens - 1) / shape.video_tokens);
}

/* Where a row starts, in elements. */
static __device__ inline int64_t o_row(const struct repair_cuda &repair, int32_t head,
                                       int32_t position)
{
    const struct shape_cuda &shape = repair.shape;
    int64_t token = shape.order ? shape.order[position] : position;
    return head / shape.entry_heads * repair.o.stride[0] +
           head % shape.entry_heads * repair.o.stride[1] + token * repair.o.stride[2];
}

static __device__ inline int64_t q_row(const struct shape_cuda &shape, const struct rows_cuda &q,
                                       int32_t head, int32_t position)
{
    return head / shape.entry_heads * q.stride_entry + head % shape.entry_heads * q.stride_head +
           position * q.stride_token;
}

static __device__ inline float load_element(const void *data, draftattn_dtype dtype, int64_t index)
{
    if (dtype == DRAFTATTN_F32)
        return ((const float *)data)[index];
    if (dtype == DRAFTATTN_F16)
        return __half2float(((const __half *)data)[index]);
    return __bfloat162float(((const __nv_bfloat16 *)data)[index]);
}

static __device__ inline void store_element(void *data, draftattn_dtype dtype, int64_t index,
                                            float value)
{
    if (dtype == DRAFTATTN_F32)
        ((float *)data)[index] = value;
    else if (dtype == DRAFTATTN_F16)
        ((__half *)data)[index] = __float2half_rn(value);
    else
        ((__nv_bfloat16 *)data)[index] = __float2bfloat16_rn(value);
}

/*
 * By block `index` of `blocks` that have nothing else to do: brings the rows of q and o that
 * apply_kernel() takes first into the second-level cache, while memory is idle. Nothing writes to
 * them from here on but apply_kernel(), so that there is nothing to wait for. Wasted where heads
 * turn out not to gain.
 */
static __device__ inline void warm_rows(const struct repair_cuda &repair,
                                        const struct apply_plan &plan, int32_t index,
                                        int32_t blocks)
{
    enum { PIECE = 32 / 2 }; /* elements that caches fetch together */
    const struct shape_cuda &shape = repair.shape;
    int32_t pieces = shape.head_dim / PIECE, step = blocks * (int32_t)blockDim.x;
    int32_t all = (int32_t)plan.warm_shares * plan.warm_rows * pieces;
    for (int32_t at = index * (int32_t)blockDim.x + (int32_t)threadIdx.x; at < all; at += step) {
        int32_t row = at / pieces, share = row / plan.warm_rows, head = share / plan.shares;
        int32_t position = share % plan.shares * plan.rows + row % plan.warm_rows;
        position = min(position, shape.video_tokens - 1);
        int64_t q = q_row(shape, repair.q, head, position) + at % pieces * PIECE;
        int64_t o = o_row(repair, head, position) + at % pieces * PIECE;
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint16_t *)repair.q.data + q));
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint16_t *)repair.o.data + o));
    }
}

/* The sum over a block of threads, the same in all of them. room holds a number per warp. */
static __device__ inline double block_sum(double value, double *room)
{
    int32_t warps = (int32_t)(blockDim.x / 32);
    for (int32_t lane = 16; lane > 0; lane /= 2)
        value += __shfl_xor_sync(0xffffffff, value, lane);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0;
    for (int32_t i = 0; i < warps; i++)
        sum += room[i];
    __syncthreads();
    return sum;
}

#endif
