/*
 * draftattn: draft-guided block-sparse attention for video diffusion transformers.
 *
 *     draftattn_context *context = NULL;
 *     draftattn_plan *plan = NULL;
 *     draftattn_plan_desc desc = draftattn_plan_desc_default();
 *     desc.grid = (draftattn_grid){.frames = 21, .height = 30, .width = 52};
 *     desc.heads = 12, desc.head_dim = 128, desc.sparsity = 0.9;
 *     draftattn_context_create(&context, NULL);
 *     draftattn_plan_create(&plan, context, &desc);
 *     draftattn_plan_workspace_size(plan, &bytes);
 *     draftattn_run(plan, &step, &q, &k, &v, &o, NULL, NULL, workspace, bytes, NULL);
 *
 * Two nouns: a context is a backend bound to a device; a plan is one problem shape bound to the
 * kernels that will run it. Both are made once. A run allocates nothing and keeps no state outside
 * the workspace that the caller hands in.
 *
 * Terms. The token grid is frames x height x width video tokens after patching, in raster order
 * (width fastest), then text_tokens. A block is 128 query tokens or 64/128 key tokens that are
 * neighbours in space and time. Block order is the token permutation that makes blocks contiguous.
 * The draft map is, per head, the softmax over key blocks of the logits of block means. Density is
 * the share of block pairs computed exactly, sparsity is 1 - density.
 *
 * Memory spaces. CPU backends work on host memory, backend CUDA on memory of its device: tensors,
 * maps and the workspace (cudaMalloc or cudaMallocManaged); a pointer of the wrong kind is refused
 * in words. Backend AUTO is CUDA where a device works, so a program with tensors in host memory
 * sets draftattn_context_desc.device to -1.
 *
 * CUDA. Calls that take a stream enqueue their work there and return; what is enqueued depends on
 * the arguments alone. draftattn_run(), draftattn_attend() and draftattn_draft_map() allocate
 * nothing, wait for nothing and read nothing back, so a stream capture can hold them: each replay
 * works on what the same memory holds then; plan and workspace stay as long as the graph. Making
 * and destroying a plan, draftattn_select(), draftattn_read_stats() and draftattn_read_block_list()
 * wait for all work on the device: not during a capture. Every call leaves the thread's current
 * device as it was. A failure of earlier work on the device can be reported by any of them
 * (DEVICE_ERROR); in a program that shares the static CUDA runtime of a static build,
 * cudaGetLastError() tells nothing of what failed before them.
 *
 * What is not in this header is not part of the interface. Values of enums never change.
 */
#ifndef DRAFTATTN_H
#define DRAFTATTN_H

#include <stddef.h>
#include <stdint.h>

#define DRAFTATTN_VERSION_MAJOR 0
#define DRAFTATTN_VERSION_MINOR 1
#define DRAFTATTN_VERSION_PATCH 0
#define DRAFTATTN_VERSION                                                                          \
    (DRAFTATTN_VERSION_MAJOR * 10000 + DRAFTATTN_VERSION_MINOR * 100 + DRAFTATTN_VERSION_PATCH)
#define DRAFTATTN_VERSION_STRING /* "MAJOR.MINOR.PATCH" */                                         \
    DRAFTATTN_QUOTE(DRAFTATTN_VERSION_MAJOR)                                                       \
    "." DRAFTATTN_QUOTE(DRAFTATTN_VERSION_MINOR) "." DRAFTATTN_QUOTE(DRAFTATTN_VERSION_PATCH)
#define DRAFTATTN_QUOTE(value)          DRAFTATTN_QUOTE_AS_IT_IS(value)
#define DRAFTATTN_QUOTE_AS_IT_IS(value) #value

#if defined(__GNUC__)
#define DRAFTATTN_API __attribute__((visibility("default")))
#else
#define DRAFTATTN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------
 * Types
 * ------------------------------------------------------------------------------------------- */

typedef enum draftattn_status {
    DRAFTATTN_SUCCESS = 0,
    DRAFTATTN_INVALID_ARGUMENT = 1, /* an argument contradicts its contract or the plan */
    DRAFTATTN_UNSUPPORTED = 2,      /* well-formed, but no kernel here does it */
    DRAFTATTN_OUT_OF_MEMORY = 3,
    DRAFTATTN_DEVICE_ERROR = 4,
    DRAFTATTN_INTERNAL = 5
} draftattn_status;

typedef enum draftattn_dtype {
    DRAFTATTN_F32 = 0,
    DRAFTATTN_F16 = 1, /* IEEE half */
    DRAFTATTN_BF16 = 2 /* upper half of an F32 */
} draftattn_dtype;

typedef enum draftattn_backend {
    DRAFTATTN_BACKEND_AUTO = 0, /* the fastest that works here */
    DRAFTATTN_BACKEND_REFERENCE =
        1,                          /* plain loops in double precision: the definition of correct */
    DRAFTATTN_BACKEND_PORTABLE = 2, /* any CPU */
    DRAFTATTN_BACKEND_AVX2 = 3,     /* x86-64 with AVX2, FMA and F16C */
    DRAFTATTN_BACKEND_AVX512 = 4,   /* x86-64 with AVX-512 F, BW, DQ and VL */
    DRAFTATTN_BACKEND_CUDA = 5      /* NVIDIA GPUs of compute capability 8.0 and later */
} draftattn_backend;

/* A rule that fills the block list. */
typedef enum draftattn_policy {
    DRAFTATTN_POLICY_DENSE = 0,      /* every pair */
    DRAFTATTN_POLICY_DRAFT = 1,      /* row-fair selection, per-head budgets */
    DRAFTATTN_POLICY_DRAFT_PAPER = 2 /* as published: arXiv 2505.14708 section 3, 8x16 patches (grid
                                        height and width must divide), one percentile per head, no
                                        compensation, no repair. Needs key_block 128; probes only
                                        estimate the error; what is marked "DRAFT only" in the plan
                                        and strip_height are ignored */
} draftattn_policy;

/* What the draft policy ranks block pairs by. p is the draft map. */
typedef enum draftattn_score {
    DRAFTATTN_SCORE_MASS = 0,  /* p */
    DRAFTATTN_SCORE_SPREAD = 1 /* p * softmax_scale * sqrt(sum_d mean_q[d]^2 * var_k[d]): what the
                                  block means cannot represent */
} draftattn_score;

/* The token order of q, k, v and o as the caller holds them. */
typedef enum draftattn_order {
    DRAFTATTN_ORDER_RASTER = 0, /* frame, row, column, then text */
    DRAFTATTN_ORDER_BLOCK = 1   /* already permuted by draftattn_plan_order() */
} draftattn_order;

typedef enum draftattn_stage {
    DRAFTATTN_STAGE_ORDER = 0, /* keys and values to block order and the compute type, where the
                                  kernels cannot read them in place */
    DRAFTATTN_STAGE_POOL = 1,
    DRAFTATTN_STAGE_DRAFT = 2,
    DRAFTATTN_STAGE_SELECT = 3,
    DRAFTATTN_STAGE_ATTEND = 4,
    DRAFTATTN_STAGE_REPAIR = 5, /* probe rows, fit, correction */
    DRAFTATTN_STAGE_COUNT = 6
} draftattn_stage;

typedef struct draftattn_context draftattn_context;
typedef struct draftattn_plan draftattn_plan;

/* Video tokens after patching, all >= 1; text_tokens >= 0 follow the video in every tensor. */
typedef struct draftattn_grid {
    int64_t frames;
    int64_t height;
    int64_t width;
    int64_t text_tokens;
} draftattn_grid;

/* [batch, heads, tokens, head_dim]. Strides in elements, 0 or more, so that every layout works
 * without a copy; of an output each must step over all that smaller ones reach. */
typedef struct draftattn_tensor {
    void *data;
    draftattn_dtype dtype;
    int64_t shape[4];
    int64_t stride[4];
} draftattn_tensor;

/* CSR over query blocks. Row r = (batch * heads + head) * query_blocks + query_block holds the key
 * blocks block_idx[row_ptr[r] .. row_ptr[r + 1]), strictly ascending. Video blocks come first, text
 * blocks after them; what is listed is what is computed exactly, text included. */
typedef struct draftattn_block_list {
    int64_t *row_ptr;   /* [batch * heads * query_blocks + 1] */
    int32_t *block_idx; /* [row_ptr[last]], capacity entries */
    int64_t capacity;
} draftattn_block_list;

typedef void (*draftattn_log_fn)(const char *message, void *user);

typedef struct draftattn_context_desc {
    size_t size; /* sizeof(draftattn_context_desc); set by draftattn_context_desc_default() */
    draftattn_backend backend; /* AUTO: the environment variable DRAFTATTN_BACKEND, else the best */
    const char *kernel;   /* NULL: the environment variable DRAFTATTN_KERNEL, else the fastest */
    int32_t threads;      /* CPU backends; 0 = OpenMP's own number */
    int32_t device;       /* CUDA ordinal; -1: none, for tensors in host memory: AUTO is the
                             fastest CPU backend then, and CUDA is refused */
    draftattn_log_fn log; /* NULL = silent */
    void *log_user;
} draftattn_context_desc;

typedef struct draftattn_plan_desc {
    size_t size; /* sizeof(draftattn_plan_desc); set by draftattn_plan_desc_default() */
    draftattn_grid grid;
    int32_t batch;            /* >= 1; default 1 */
    int32_t heads;            /* >= 1 */
    int32_t head_dim;         /* 64 or 128 */
    draftattn_dtype in_dtype; /* q, k, v; default F32 */
    draftattn_dtype out_dtype;
    float softmax_scale;     /* 0 = 1 / sqrt(head_dim) */
    draftattn_policy policy; /* default DRAFT */
    draftattn_order order;   /* default RASTER */
    double sparsity;         /* in [0, 1): 1 - budget; default 0.75 */
    int32_t key_block;       /* 128 (default) or 64 */
    int32_t strip_height;    /* rows of a strip in block order, about; default 8 */
    draftattn_score score;   /* DRAFT only; default MASS */
    double row_floor;        /* DRAFT only: guaranteed share of a row's mean budget, in [0, 1];
                                 default 1: every row alike */
    double head_spread;      /* DRAFT only: how far a head's budget may move from the mean, as a
                                 factor from 1 to 1e6; 1 = the same budget for every head */
    int32_t compensation;    /* DRAFT only: 1 (default): skipped blocks enter through their means;
                                 0: dropped */
    int32_t probes;          /* exact probe rows per head, at most 1024 and never more than there
                                 are video rows; default 256; 0 = none, no error estimate */
    int32_t repair;          /* DRAFT only: 1: apply the correction fitted on the probe rows to
                                 heads that gain by it; none without probes; default 1. Of rows
                                 far outside of what the probes saw (q several times as long as
                                 theirs) neither gain nor error is known: for models that do not
                                 normalise q, look before using it */
    double ridge;            /* share of the mean diagonal of the Gram matrix, in (0, 1e6]; default
                                 0.1 */
    double dense_steps;      /* share of the first steps that stay dense, in [0, 1], rounded to
                                 whole steps; default 0.2 */
    double dense_sigma;      /* steps with sigma above this stay dense; 0 (default) = not used */
    const int32_t *dense_layers; /* layers that stay dense; copied */
    int32_t dense_layer_count;
    int64_t min_tokens; /* grids with fewer tokens, text included, stay dense; 1 = none; default 0:
                           those below the plan's break-even (draftattn_plan_info) */
} draftattn_plan_desc;

/* Where a call stands in a generation: what the dense guards look at. */
typedef struct draftattn_step {
    int32_t step;  /* 0-based; negative = unknown */
    int32_t steps; /* 0 = unknown: guards by step do not act */
    int32_t layer; /* -1 = unknown */
    float sigma;   /* noise level in [0, 1]; negative = unknown */
} draftattn_step;

typedef struct draftattn_plan_info {
    draftattn_backend backend;
    const char *backend_name; /* static */
    const char *kernel_name;  /* static: the row of the kernel list that attends */
    int64_t tokens;           /* video + text */
    int64_t video_tokens;
    int64_t query_blocks; /* video, then text */
    int64_t video_query_blocks;
    int64_t key_blocks;
    int64_t video_key_blocks;
    int64_t max_list_entries;  /* capacity that any block list of this plan fits in */
    int64_t break_even_tokens; /* tokens, text included, from which on these settings cost less than
                                  dense on this backend, by an estimate; 0 = at any length,
                                  INT64_MAX = at none, as for policy DENSE */
} draftattn_plan_info;

typedef struct draftattn_head_stats {
    float density;      /* realised, text included */
    float error;        /* estimated relative L2 error of the output as delivered, video rows, from
                           probe rows; NaN without probes; 0 when dense */
    float error_before; /* the same before repair */
    int32_t repaired;   /* 1 where the correction was applied */
} draftattn_head_stats;

typedef struct draftattn_stats {
    int32_t dense;       /* 1 when a guard or the policy made the run dense */
    double density;      /* mean over heads */
    double error_median; /* over heads; NaN without probes */
    double error_worst;
    double seconds[DRAFTATTN_STAGE_COUNT]; /* wall time; CPU backends, 0 with CUDA */
} draftattn_stats;

/* ---------------------------------------------------------------------------------------------
 * Words
 * ------------------------------------------------------------------------------------------- */

/* DRAFTATTN_VERSION of the library that is loaded. */
DRAFTATTN_API int32_t draftattn_version(void);

/* Static text, never NULL. */
DRAFTATTN_API const char *draftattn_status_string(draftattn_status status);
DRAFTATTN_API const char *draftattn_backend_name(draftattn_backend backend);
DRAFTATTN_API const char *draftattn_policy_name(draftattn_policy policy);
DRAFTATTN_API const char *draftattn_stage_name(draftattn_stage stage);

/* From a name such as "draft-paper" or "avx2". INVALID_ARGUMENT, *out untouched, if unknown. */
DRAFTATTN_API draftattn_status draftattn_backend_from_name(const char *name,
                                                           draftattn_backend *out);
DRAFTATTN_API draftattn_status draftattn_policy_from_name(const char *name, draftattn_policy *out);

/* ---------------------------------------------------------------------------------------------
 * Context
 * ------------------------------------------------------------------------------------------- */

DRAFTATTN_API draftattn_context_desc draftattn_context_desc_default(void);

/*
 * Makes a context. desc NULL = defaults. *out is NULL on failure. A context and its plans may be
 * used from several threads at once; draftattn_context_last_error() then tells the calling thread's
 * own last failure.
 *
 * Errors: INVALID_ARGUMENT (an unknown name in DRAFTATTN_BACKEND or DRAFTATTN_KERNEL), UNSUPPORTED
 * (the backend asked for does not work on this machine), OUT_OF_MEMORY. As there is no context to
 * ask, the reason goes to desc->log and to draftattn_context_last_error(NULL).
 */
DRAFTATTN_API draftattn_status draftattn_context_create(draftattn_context **out,
                                                        const draftattn_context_desc *desc);

/* Accepts NULL. Its plans must be gone. */
DRAFTATTN_API void draftattn_context_destroy(draftattn_context *context);

/* The backend this context settled on. */
DRAFTATTN_API draftattn_backend draftattn_context_backend(const draftattn_context *context);

/* Why the calling thread's last failing call failed, in words; "" if none did. Valid until that
 * thread's next call. Never NULL. context may be NULL. */
DRAFTATTN_API const char *draftattn_context_last_error(const draftattn_context *context);

/* ---------------------------------------------------------------------------------------------
 * Plan
 * ------------------------------------------------------------------------------------------- */

DRAFTATTN_API draftattn_plan_desc draftattn_plan_desc_default(void);

/*
 * Checks desc, chooses the kernels, computes the block order. The plan is immutable and may be
 * shared between threads, each with a workspace of its own. Host memory: 12 bytes a token; device
 * memory with CUDA: 4 bytes a token (here it is allocated, and here alone: not during a capture).
 *
 * Errors: INVALID_ARGUMENT (names the field and its value), UNSUPPORTED (no kernel for it; says
 * what there is), OUT_OF_MEMORY, DEVICE_ERROR. *out is NULL on failure.
 */
DRAFTATTN_API draftattn_status draftattn_plan_create(draftattn_plan **out,
                                                     draftattn_context *context,
                                                     const draftattn_plan_desc *desc);

/* Accepts NULL. With CUDA it waits for the device. */
DRAFTATTN_API void draftattn_plan_destroy(draftattn_plan *plan);

DRAFTATTN_API draftattn_status draftattn_plan_info_get(const draftattn_plan *plan,
                                                       draftattn_plan_info *info);

/* Bytes of workspace one run needs: host memory for CPU backends, device memory for CUDA, aligned
 * to 256. Enough for every call below that takes a workspace. */
DRAFTATTN_API draftattn_status draftattn_plan_workspace_size(const draftattn_plan *plan,
                                                             size_t *bytes);

/* 1 in *dense where a guard or the policy makes this step dense. step NULL = no guard by step or
 * layer acts. */
DRAFTATTN_API draftattn_status draftattn_plan_is_dense(const draftattn_plan *plan,
                                                       const draftattn_step *step, int32_t *dense);

/* Says in words what will run at this step and why. Like snprintf: returns the length of the whole
 * text without its final NUL; writes at most size bytes. buffer may be NULL when size is 0. */
DRAFTATTN_API size_t draftattn_plan_describe(const draftattn_plan *plan, const draftattn_step *step,
                                             char *buffer, size_t size);

/* order[position in block order] = raster index, [tokens] in host memory. Text keeps its places.
 * The same permutation applies to a runtime's tokens and RoPE rows (DRAFTATTN_ORDER_BLOCK). The
 * dense policy has the order of DRAFT. */
DRAFTATTN_API draftattn_status draftattn_plan_order(const draftattn_plan *plan, int64_t *order);

/* ---------------------------------------------------------------------------------------------
 * Run
 * ------------------------------------------------------------------------------------------- */

/*
 * The whole of it: order, pool, draft map, select, attend, repair.
 *
 *     o_i = ( sum_{J in K(I)} sum_{t in J} e^{s q_i.k_t} v_t
 *           + sum_{J not in K(I)} n_J e^{s q_i.mean_k(J)} mean_v(J) ) / (the same sums without v)
 *
 * for query row i of block I with kept key blocks K(I); the second sum is the compensation.
 * Density 1 equals dense attention. A row that sees nothing gives o = 0 and lse = -infinity.
 *
 * step       NULL = no guard by step or layer acts
 * q, k, v    [batch, heads, tokens, head_dim] of in_dtype, in the memory space of the backend; must
 *            not overlap the workspace
 * o          the same shape, out_dtype; must not overlap q, k, v or the workspace
 * lse        NULL, or F32 [batch, heads, tokens, 1]: natural logarithm of the denominator above.
 *            Repair does not change it
 * list       NULL, or a block list that replaces draft map and selection, also for policy DENSE.
 *            Dense guards stand above it; the break-even, with min_tokens 0, does not. Its arrays
 *            are in host memory, and checked; with CUDA also both in device memory, where nothing
 *            is checked: entries out of range and repeated ones are left out. CUDA reads the arrays
 *            when the work is done, so they stay until then; from pageable memory the call may wait
 *            for what the stream holds; a capture needs them on the device
 * workspace  of at least draftattn_plan_workspace_size(), aligned to 64 bytes; one per run at a
 *            time
 * stream     a cudaStream_t for CUDA, where the call returns before the work is done; CPU backends
 *            ignore it
 *
 * Results do not depend on the number of threads.
 * Errors: INVALID_ARGUMENT (o and lse untouched); DEVICE_ERROR, and OUT_OF_MEMORY from the
 * reference backend, which alone allocates (both undefined).
 * Source: block-sparse draft attention arXiv 2505.14708; online softmax arXiv 2205.14135; probe-row
 * repair after arXiv 2608.18484.
 */
DRAFTATTN_API draftattn_status draftattn_run(const draftattn_plan *plan, const draftattn_step *step,
                                             const draftattn_tensor *q, const draftattn_tensor *k,
                                             const draftattn_tensor *v, const draftattn_tensor *o,
                                             const draftattn_tensor *lse,
                                             const draftattn_block_list *list, void *workspace,
                                             size_t workspace_size, void *stream);

/* What the last finished run in this workspace did. heads: NULL, or [batch * heads], host memory.
 * INVALID_ARGUMENT when no run of this plan has used the workspace. CUDA: waits for the device. */
DRAFTATTN_API draftattn_status draftattn_read_stats(const draftattn_plan *plan,
                                                    const void *workspace, draftattn_stats *stats,
                                                    draftattn_head_stats *heads);

/* Keeps what draftattn_read_stats() reads, in the order of the stream and without waiting, so that
 * the workspace can serve the next run: draftattn_read_stats(plan, to, ...) then tells what this
 * run did. to: draftattn_stats_size() bytes in the workspace's memory space, aligned to 64, the
 * caller's. Can be captured; a replay saves what the replayed run did. Errors: INVALID_ARGUMENT,
 * DEVICE_ERROR; where no run has finished, reading says so. */
DRAFTATTN_API draftattn_status draftattn_stats_size(const draftattn_plan *plan, size_t *bytes);
DRAFTATTN_API draftattn_status draftattn_save_stats(const draftattn_plan *plan,
                                                    const void *workspace, void *to, void *stream);

/* The block list of the last finished run in this workspace, copied to host memory. list->capacity
 * entries must suffice: plan_info.max_list_entries always does, else INVALID_ARGUMENT names the
 * number. After a dense run the list is full. A copy of draftattn_save_stats() has no list: it must
 * not be given for the workspace. CUDA: waits for the device. */
DRAFTATTN_API draftattn_status draftattn_read_block_list(const draftattn_plan *plan,
                                                         const void *workspace,
                                                         draftattn_block_list *list);

/* ---------------------------------------------------------------------------------------------
 * One stage at a time. Same memory rules as draftattn_run(): map is where the tensors are.
 * ------------------------------------------------------------------------------------------- */

/* map F32 [batch * heads, video_query_blocks, video_key_blocks]:
 * softmax_J(scale * mean_q(I) . mean_k(J) + log n_J). */
DRAFTATTN_API draftattn_status draftattn_draft_map(const draftattn_plan *plan,
                                                   const draftattn_tensor *q,
                                                   const draftattn_tensor *k, float *map,
                                                   void *workspace, size_t workspace_size,
                                                   void *stream);

/* Fills list from a score map of that shape (larger = kept first; a tie goes to the lower index) by
 * the plan's policy and budget. NaN scores are INVALID_ARGUMENT. What an earlier run left in the
 * workspace cannot be read any more. list is in host memory; CUDA: waits for the device. */
DRAFTATTN_API draftattn_status draftattn_select(const draftattn_plan *plan, const float *map,
                                                draftattn_block_list *list, void *workspace,
                                                size_t workspace_size, void *stream);

/* draftattn_run() with a given list and no guards: alias for the last stages. */
DRAFTATTN_API draftattn_status draftattn_attend(
    const draftattn_plan *plan, const draftattn_tensor *q, const draftattn_tensor *k,
    const draftattn_tensor *v, const draftattn_tensor *o, const draftattn_tensor *lse,
    const draftattn_block_list *list, void *workspace, size_t workspace_size, void *stream);

/* ---------------------------------------------------------------------------------------------
 * Block lists (host memory)
 * ------------------------------------------------------------------------------------------- */

/* SUCCESS, or INVALID_ARGUMENT with the first entry that is wrong. Reads nothing out of bounds
 * whatever the arrays hold, given that row_ptr has its length and block_idx capacity entries. */
DRAFTATTN_API draftattn_status draftattn_block_list_check(const draftattn_plan *plan,
                                                          const draftattn_block_list *list);

/* To and from a dense mask, [batch * heads, query_blocks, key_blocks] bytes, 0 or 1. */
DRAFTATTN_API draftattn_status draftattn_block_list_to_mask(const draftattn_plan *plan,
                                                            const draftattn_block_list *list,
                                                            uint8_t *mask);
DRAFTATTN_API draftattn_status draftattn_block_list_from_mask(const draftattn_plan *plan,
                                                              const uint8_t *mask,
                                                              draftattn_block_list *list);

/* ---------------------------------------------------------------------------------------------
 * The rows of the kernel list, for tests, benches and info screens
 * ------------------------------------------------------------------------------------------- */

typedef struct draftattn_kernel_info {
    const char *name; /* what DRAFTATTN_KERNEL takes */
    draftattn_backend backend;
    int32_t head_dim;    /* 0 = any */
    int32_t available;   /* 1 where this machine can run it */
    const char *why_not; /* "" where it can */
} draftattn_kernel_info;

DRAFTATTN_API int32_t draftattn_kernel_count(void);

/* INVALID_ARGUMENT where index is not in [0, count). */
DRAFTATTN_API draftattn_status draftattn_kernel_get(int32_t index, draftattn_kernel_info *info);

#ifdef __cplusplus
}
#endif

#endif /* DRAFTATTN_H */
