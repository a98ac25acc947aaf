/*
 * Owns the CUDA backend: which devices and kernels it takes, and what is enqueued for each stage of
 * a run (stages_cuda.h). Nothing here waits, allocates or reads back between prepare() and read(),
 * and every call leaves the calling thread on the device it was on.
 *
 * Rows are read where the caller has them if they lie in the order that kernels want and where the
 * copy engine can take them; else gathering makes copies, in the same pass that pools.
 */
#include "dtype.h"
#include "error.h"
#include "scratch_cuda.h"
#include "select.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(CUDA_STORE_BYTES >= BACKEND_STORE_BYTES, "store() takes what src/ stores");

/* ---- devices ------------------------------------------------------------------------------- */

/* An error that has been seen to: else the caller's own next call would meet it. */
static void forget(cudaError_t error)
{
    if (error)
        cudaGetLastError();
}

static draftattn_status status_of(cudaError_t error)
{
    forget(error);
    if (error == cudaSuccess)
        return DRAFTATTN_SUCCESS;
    if (error == cudaErrorMemoryAllocation)
        return DRAFTATTN_OUT_OF_MEMORY;
    return error_report(DRAFTATTN_DEVICE_ERROR, "CUDA: %s", cudaGetErrorString(error));
}

/* Makes device the current one; *before is the one to go back to. What a call of the caller's left
 * behind, who has seen its status, must not pass for a launch's: in a static build the runtime is
 * the same. */
static cudaError_t enter(int32_t device, int *before)
{
    cudaGetLastError();
    cudaError_t error = cudaGetDevice(before);
    if (error)
        *before = device;
    return error || *before == device ? error : cudaSetDevice(device);
}

static void leave(int32_t device, int before)
{
    if (before != device)
        forget(cudaSetDevice(before));
}

/* 90 for 9.0; 0 where the device does not tell. */
static int capability_of(int32_t device)
{
    int major = 0, minor = 0;
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (!error)
        error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    forget(error);
    return error ? 0 : major * 10 + minor;
}

/* Whether this build holds code for the device: DRAFTATTN_CUDA_CODE is words such as 86, which runs
 * on 8.6 to 8.9, 90a, on 9.0 alone, and 120+, which is PTX and runs on all from 12.0 on. */
static bool code_runs_on(const char *code, int capability)
{
    while (*code) {
        char *end;
        long made_for = strtol(code, &end, 10);
        bool alone = *end == 'a', later;
        end += *end == 'a' || *end == 'f';
        later = *end == '+';
        if (capability == made_for ||
            (!alone && capability > made_for && (later || capability / 10 == made_for / 10)))
            return true;
        code = end + later;
        code += strspn(code, " ");
    }
    return false;
}

static const char *cuda_why_not(int32_t device)
{
    int count = 0;
    if (device == -1)
        return "the tensors are in host memory (device is -1), where CPU backends work";
    cudaError_t error = cudaGetDeviceCount(&count);
    forget(error);
    if (error == cudaErrorInsufficientDriver)
        return "the NVIDIA driver is missing or older than the CUDA of this build; nvidia-smi "
               "tells";
    if (error || count == 0)
        return "no CUDA device answers; nvidia-smi tells whether the NVIDIA driver is installed";
    if (device < 0 || device >= count)
        return "there is no CUDA device with this number; nvidia-smi -L lists them";
    int capability = capability_of(device);
    if (capability < 80)
        return "its compute capability is below 8.0, and the kernels need 8.0 (Ampere) or later";
    if (!code_runs_on(DRAFTATTN_CUDA_CODE, capability))
        return "this build holds code for " DRAFTATTN_CUDA_CODE
               ", not for this device; build on its machine, or set CMAKE_CUDA_ARCHITECTURES";
    return NULL;
}

#define MOST_PROBE_TILES (1024 / CUDA_QUERY_BLOCK) /* a plan has so many probes at most */

static const char *cuda_row_why_not(const struct kernel_row *row, const struct problem *problem,
                                    int32_t device)
{
    const struct cuda_kernel *kernel = row->implementation;
    int capability = capability_of(device);
    if (capability < kernel->least)
        return "the device's compute capability is too low for it";
    if (capability > kernel->most)
        return "it is for an older compute capability than the device's";
    if (problem && kernel->half != (problem->desc.in_dtype != DRAFTATTN_F32))
        return kernel->half ? "it takes F16 and BF16" : "it takes F32";
    if (!problem)
        return NULL;
    if (problem->heads > INT32_MAX / (problem->query_blocks + MOST_PROBE_TILES))
        return "its queue ends at 2^31 - 1 query blocks of all heads";
    if (problem->video_query_blocks > (int64_t)UINT32_MAX / problem->video_key_blocks)
        return "its selection ends at 2^32 - 1 entries of a head's draft map";
    return NULL;
}

static enum memory cuda_memory(const struct problem *problem, const void *data)
{
    struct cudaPointerAttributes attributes;
    int before;
    cudaError_t error = enter(problem->device, &before);
    if (!error)
        error = cudaPointerGetAttributes(&attributes, data);
    leave(problem->device, before);
    if (error) {
        forget(error);
        error_report(DRAFTATTN_DEVICE_ERROR, "CUDA: %s", cudaGetErrorString(error));
        return MEMORY_UNKNOWN;
    }
    if (attributes.type == cudaMemoryTypeUnregistered || attributes.type == cudaMemoryTypeHost)
        return MEMORY_HOST;
    bool own = attributes.type == cudaMemoryTypeManaged || attributes.device == problem->device;
    return own ? MEMORY_OWN : MEMORY_FOREIGN;
}

/* ---- plans --------------------------------------------------------------------------------- */

static bool cuda_scratch_size(const struct problem *problem, size_t *bytes)
{
    struct scratch_cuda scratch;
    return scratch_cuda_open(problem, NULL, &scratch, bytes);
}

/* Selection's part is in scratch. */
static bool cuda_select_size(const struct problem *problem, size_t *bytes)
{
    (void)problem;
    *bytes = 0;
    return true;
}

static int64_t cuda_group_heads(const struct run *run)
{
    return run->problem->heads;
}

static draftattn_status cuda_prepare(const struct problem *problem, void **prepared)
{
    struct prepared_cuda *out = NULL;
    int before;
    cudaError_t error = enter(problem->device, &before);
    if (!error)
        error = prepare_cuda(problem, &out);
    leave(problem->device, before);
    *prepared = out;
    return status_of(error);
}

static void cuda_release(const struct problem *problem, void *prepared)
{
    int before;
    forget(enter(problem->device, &before));
    forget(release_cuda(prepared));
    leave(problem->device, before);
}

/* ---- rows ---------------------------------------------------------------------------------- */

#define COPY_ENGINE_BYTES 16                 /* what addresses and strides are multiples of */
#define COPY_ENGINE_REACH ((int64_t)1 << 40) /* what strides are below */

static struct shape_cuda shape_of(const struct run *run)
{
    return run->list ? sparse_shape(run->problem) : dense_shape(run->problem);
}

static bool stride_fits(const draftattn_tensor *tensor, int dimension)
{
    int64_t element = (int64_t)dtype_size(tensor->dtype), stride = tensor->stride[dimension];
    if (tensor->shape[dimension] == 1)
        return true; /* rows_of() makes one up */
    return stride > 0 && stride < COPY_ENGINE_REACH / element &&
           stride * element % COPY_ENGINE_BYTES == 0;
}

/* Kernels can read the rows where the caller has them. */
static bool in_place(const struct run *run, const draftattn_tensor *tensor)
{
    bool ordered = !run->list || !run->problem->order;
    if (!ordered || tensor->stride[3] != 1)
        return false;
    return (uintptr_t)tensor->data % COPY_ENGINE_BYTES == 0 && stride_fits(tensor, 0) &&
           stride_fits(tensor, 1) && stride_fits(tensor, 2);
}

static struct rows_cuda rows_of(const struct run *run, const draftattn_tensor *tensor,
                                const void *copy)
{
    const struct problem *problem = run->problem;
    int64_t row = problem->desc.head_dim, head = problem->tokens * row;
    struct rows_cuda rows = {copy, problem->desc.heads * head, head, row};
    if (!in_place(run, tensor))
        return rows;
    rows.data = tensor->data;
    if (tensor->shape[0] > 1)
        rows.stride_entry = tensor->stride[0];
    if (tensor->shape[1] > 1)
        rows.stride_head = tensor->stride[1];
    if (tensor->shape[2] > 1)
        rows.stride_token = tensor->stride[2];
    return rows;
}

/* The copies that the run needs; false where it needs none. */
static bool want_copies(const struct run *run, const struct scratch_cuda *scratch,
                        struct pool_cuda *pool)
{
    pool->q_copy = in_place(run, run->q) ? NULL : scratch->q;
    pool->k_copy = in_place(run, run->k) ? NULL : scratch->k;
    pool->v_copy = in_place(run, run->v) ? NULL : scratch->v;
    return pool->q_copy || pool->k_copy || pool->v_copy;
}

/* ---- stages -------------------------------------------------------------------------------- */

static struct scratch_cuda open_scratch(const struct run *run)
{
    struct scratch_cuda scratch;
    scratch_cuda_open(run->problem, run->scratch, &scratch, NULL);
    return scratch;
}

/* Runs a stage on the plan's device. */
static draftattn_status on_device(const struct run *run, cudaError_t (*stage)(const struct run *))
{
    int32_t device = run->problem->device;
    int before;
    cudaError_t error = enter(device, &before);
    if (!error)
        error = stage(run);
    leave(device, before);
    return status_of(error);
}

/* What pool() has been called for: a map, or means for compensation. */
static bool pools(const struct run *run)
{
    return run->list && (!run->given || run->compensation);
}

static cudaError_t enqueue_pool(const struct run *run)
{
    struct scratch_cuda scratch = open_scratch(run);
    struct pool_cuda pool = {.shape = sparse_shape(run->problem), .q = *run->q, .k = *run->k};
    if (run->v) {
        pool.v = *run->v;
        want_copies(run, &scratch, &pool);
    }
    if (!run->given) {
        pool.mean_q = scratch.mean_q;
        pool.mean_k = scratch.mean_k;
        pool.spread_k = scratch.spread_k;
    }
    if (run->compensation) {
        pool.low_k = scratch.low_k;
        pool.low_v = scratch.low_v;
        pool.bias = scratch.bias;
    }
    return cuda_gather_pool(&pool, run->stream);
}

static draftattn_status cuda_pool(const struct run *run)
{
    return on_device(run, enqueue_pool);
}

static draftattn_status cuda_map(const struct run *run, draftattn_score score, float *map)
{
    struct scratch_cuda scratch = open_scratch(run);
    struct shape_cuda shape = sparse_shape(run->problem);
    const float *spread = score == DRAFTATTN_SCORE_SPREAD ? scratch.spread_k : NULL;
    int before;
    cudaError_t error = enter(run->problem->device, &before);
    if (!error)
        error = cuda_draft_map(&shape, scratch.mean_q, scratch.mean_k, spread, map, run->stream);
    leave(run->problem->device, before);
    return status_of(error);
}

static cudaError_t keep_by_policy(const struct run *run, const struct scratch_cuda *scratch)
{
    const struct problem *problem = run->problem;
    struct select_cuda select = {.shape = sparse_shape(problem),
                                 .map = run->map,
                                 .kept = scratch->kept,
                                 .scratch = scratch->select};
    if (problem->desc.policy == DRAFTATTN_POLICY_DRAFT) {
        struct policy_draft_range range = policy_draft_range(problem);
        select.mean = range.mean, select.low = range.low, select.high = range.high;
        select.row_floor = problem->desc.row_floor;
        select.spread = problem->desc.head_spread > 1;
    } else {
        /* Dense comes here by draftattn_select() alone, and drops nothing. */
        bool dense = problem->desc.policy == DRAFTATTN_POLICY_DENSE;
        select.paper = true;
        select.dropped = dense ? 0 : policy_draft_paper_dropped(problem);
    }
    return cuda_select(&select, run->stream);
}

/* The caller's list; one in host memory, which has been checked, goes by way of the workspace's. */
static cudaError_t keep_given(const struct run *run, const struct scratch_cuda *scratch)
{
    const struct problem *problem = run->problem;
    struct shape_cuda shape = sparse_shape(problem);
    draftattn_block_list list = *run->given;
    if (cuda_memory(problem, list.row_ptr) == MEMORY_HOST) {
        int64_t rows = list_row(problem, problem->heads, 0), entries = list.row_ptr[rows];
        cudaError_t error = cudaMemcpyAsync(run->list->row_ptr, list.row_ptr,
                                            (size_t)(rows + 1) * sizeof(*list.row_ptr),
                                            cudaMemcpyHostToDevice, run->stream);
        if (!error && entries > 0)
            error = cudaMemcpyAsync(run->list->block_idx, list.block_idx,
                                    (size_t)entries * sizeof(*list.block_idx),
                                    cudaMemcpyHostToDevice, run->stream);
        if (error)
            return error;
        list = *run->list;
    }
    return cuda_kept_from_list(&shape, list.row_ptr, list.block_idx, list.capacity, scratch->kept,
                               run->stream);
}

static cudaError_t enqueue_select(const struct run *run)
{
    struct scratch_cuda scratch = open_scratch(run);
    struct list_cuda list = {.shape = shape_of(run),
                             .queue = scratch.queue,
                             .counter = scratch.counter,
                             .heads = run->heads,
                             .probes = run->probes,
                             .scratch = scratch.list};
    if (run->list) {
        cudaError_t error = run->given ? keep_given(run, &scratch) : keep_by_policy(run, &scratch);
        if (error)
            return error;
        list.kept = scratch.kept;
        list.row_ptr = run->list->row_ptr;
        list.block_idx = run->list->block_idx;
    }
    return cuda_list(&list, run->stream);
}

static draftattn_status cuda_select_stage(const struct run *run)
{
    return on_device(run, enqueue_select);
}

static cudaError_t enqueue_gather(const struct run *run)
{
    struct scratch_cuda scratch = open_scratch(run);
    struct shape_cuda shape = shape_of(run);
    struct pool_cuda pool = {.shape = shape, .q = *run->q, .k = *run->k, .v = *run->v};
    cudaError_t error = cudaSuccess;
    if (!pools(run) && want_copies(run, &scratch, &pool))
        error = cuda_gather_pool(&pool, run->stream);
    if (error || !run->probes)
        return error;
    struct rows_cuda q = rows_of(run, run->q, scratch.q);
    return cuda_probe_queries(&shape, run->problem->desc.in_dtype, &q, scratch.probe_q,
                              run->stream);
}

static draftattn_status cuda_gather(const struct run *run, int64_t first, int64_t count)
{
    (void)first, (void)count; /* all heads are one group */
    return on_device(run, enqueue_gather);
}

static cudaError_t enqueue_attend(const struct run *run)
{
    const struct cuda_kernel *kernel = run->problem->kernel->implementation;
    struct scratch_cuda scratch = open_scratch(run);
    struct attend_cuda attend = {.shape = shape_of(run),
                                 .dtype = run->problem->desc.in_dtype,
                                 .q = rows_of(run, run->q, scratch.q),
                                 .k = rows_of(run, run->k, scratch.k),
                                 .v = rows_of(run, run->v, scratch.v),
                                 .queue = scratch.queue,
                                 .counter = scratch.counter,
                                 .scratch = scratch.attend,
                                 .o = *run->o};
    attend.items = attend.shape.heads * attend.shape.query_blocks;
    if (run->lse)
        attend.lse = *run->lse;
    if (run->list) {
        attend.row_ptr = run->list->row_ptr;
        attend.block_idx = run->list->block_idx;
    }
    if (run->compensation) {
        attend.kept = scratch.kept;
        attend.low_k = scratch.low_k;
        attend.low_v = scratch.low_v;
        attend.bias = scratch.bias;
    }
    if (run->probes) {
        attend.items += attend.shape.heads * cuda_probe_tiles(&attend.shape);
        attend.probe_q = scratch.probe_q;
        attend.exact = scratch.exact;
    }
    return kernel->attend(&attend, run->stream);
}

static draftattn_status cuda_attend(const struct run *run, int64_t first, int64_t count)
{
    (void)first, (void)count;
    return on_device(run, enqueue_attend);
}

static cudaError_t enqueue_repair(const struct run *run)
{
    struct scratch_cuda scratch = open_scratch(run);
    struct repair_cuda repair = {.shape = shape_of(run),
                                 .dtype = run->problem->desc.in_dtype,
                                 .q = rows_of(run, run->q, scratch.q),
                                 .o = *run->o,
                                 .exact = scratch.exact,
                                 .row_ptr = run->list->row_ptr,
                                 .ridge = run->problem->desc.ridge,
                                 .apply = run->repair,
                                 .heads = run->heads,
                                 .scratch = scratch.repair};
    return cuda_repair(&repair, run->stream);
}

static draftattn_status cuda_repair_stage(const struct run *run, int64_t first, int64_t count)
{
    (void)first, (void)count;
    return on_device(run, enqueue_repair);
}

/* ---- the workspace ------------------------------------------------------------------------- */

static draftattn_status cuda_store_stage(const struct problem *problem, void *stream, void *to,
                                         const void *from, size_t bytes)
{
    int before;
    cudaError_t error = enter(problem->device, &before);
    if (!error)
        error = cuda_store(to, from, bytes, stream);
    leave(problem->device, before);
    return status_of(error);
}

static draftattn_status cuda_read(const struct problem *problem, void *to, const void *from,
                                  size_t bytes)
{
    int before;
    cudaError_t error = enter(problem->device, &before);
    if (!error)
        error = cudaDeviceSynchronize();
    if (!error)
        error = cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
    leave(problem->device, before);
    return status_of(error);
}

static draftattn_status cuda_copy(const struct problem *problem, void *stream, void *to,
                                  const void *from, size_t bytes)
{
    int before;
    cudaError_t error = enter(problem->device, &before);
    if (!error)
        error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
    leave(problem->device, before);
    return status_of(error);
}

/* From the stages of a call on an H100, 24 heads of 118,800 + 256 tokens at 90 %, where a row takes
 * in 119,056 keys in 241 ms: pool, draft map and selection 1.74 ms, the correction 0.82 ms; and, as
 * it hardly depends on the length, the fit at 12 heads of 32,760 tokens, 0.105 beside 8.5 ms. */
static const struct backend_cost cuda_cost = {.row = 860, .apply = 3.2, .fit = 100};

const struct backend backend_cuda = {.version = BACKEND_VERSION,
                                     .id = DRAFTATTN_BACKEND_CUDA,
                                     .automatic = true,
                                     .why_not = cuda_why_not,
                                     .scratch_size = cuda_scratch_size,
                                     .group_heads = cuda_group_heads,
                                     .pool = cuda_pool,
                                     .draft_map = cuda_map,
                                     .gather = cuda_gather,
                                     .attend = cuda_attend,
                                     .repair = cuda_repair_stage,
                                     .asynchronous = true,
                                     .row_why_not = cuda_row_why_not,
                                     .prepare = cuda_prepare,
                                     .release = cuda_release,
                                     .memory = cuda_memory,
                                     .select_size = cuda_select_size,
                                     .select = cuda_select_stage,
                                     .store = cuda_store_stage,
                                     .read = cuda_read,
                                     .copy = cuda_copy,
                                     .cost = &cuda_cost};
