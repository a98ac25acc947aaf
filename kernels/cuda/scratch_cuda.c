/*
 * Owns the layout of the CUDA backend's scratch, and the device's copy of a plan's order and block
 * bounds. Offsets count in size_t; a problem whose work items leave 32 bits is refused here.
 */
#include "scratch_cuda.h"

#include "carve.h"
#include "dtype.h"

#include <stdlib.h>

struct shape_cuda sparse_shape(const struct problem *problem)
{
    const struct prepared_cuda *prepared = problem->prepared;
    return (struct shape_cuda){
        .heads = (int32_t)problem->heads,
        .entry_heads = problem->desc.heads,
        .head_dim = problem->desc.head_dim,
        .key_block = problem->desc.key_block,
        .tokens = (int32_t)problem->tokens,
        .video_tokens = (int32_t)problem->video_tokens,
        .query_blocks = (int32_t)problem->query_blocks,
        .video_query_blocks = (int32_t)problem->video_query_blocks,
        .key_blocks = (int32_t)problem->key_blocks,
        .video_key_blocks = (int32_t)problem->video_key_blocks,
        .probes = (int32_t)problem->probes,
        .scale = problem->desc.softmax_scale,
        .order = prepared ? prepared->order : NULL,
        .query_begin = prepared ? prepared->query_begin : NULL,
        .key_begin = prepared ? prepared->key_begin : NULL,
    };
}

static int32_t dense_blocks(const struct problem *problem)
{
    return (int32_t)((problem->tokens + CUDA_QUERY_BLOCK - 1) / CUDA_QUERY_BLOCK);
}

struct shape_cuda dense_shape(const struct problem *problem)
{
    const struct prepared_cuda *prepared = problem->prepared;
    struct shape_cuda shape = sparse_shape(problem);
    shape.key_block = CUDA_QUERY_BLOCK;
    shape.video_tokens = shape.tokens;
    shape.query_blocks = shape.video_query_blocks = dense_blocks(problem);
    shape.key_blocks = shape.video_key_blocks = dense_blocks(problem);
    shape.probes = 0;
    shape.order = NULL;
    shape.query_begin = shape.key_begin = prepared ? prepared->dense_begin : NULL;
    return shape;
}

static void place_means(struct placer *placer, const struct problem *problem,
                        const struct shape_cuda *shape, struct scratch_cuda *out)
{
    const draftattn_plan_desc *desc = &problem->desc;
    bool draft = desc->policy == DRAFTATTN_POLICY_DRAFT;
    int64_t heads = shape->heads, rows = cuda_mean_rows(shape), head_dim = shape->head_dim;
    int64_t low = carve_product(heads, rows * head_dim);
    int64_t video = carve_product(heads, shape->video_key_blocks * head_dim);
    out->mean_q = carve_place(placer, carve_product(heads, shape->video_query_blocks * head_dim),
                              sizeof(*out->mean_q));
    out->mean_k = carve_place(placer, video, sizeof(*out->mean_k));
    if (draft && desc->score == DRAFTATTN_SCORE_SPREAD)
        out->spread_k = carve_place(placer, video, sizeof(*out->spread_k));
    if (draft && desc->compensation) {
        out->low_k = carve_place(placer, low, dtype_size(desc->in_dtype));
        out->low_v = carve_place(placer, low, dtype_size(desc->in_dtype));
        out->bias = carve_place(placer, rows, sizeof(*out->bias));
    }
}

static void place_probes(struct placer *placer, const struct problem *problem,
                         const struct shape_cuda *shape, struct scratch_cuda *out)
{
    int64_t heads = shape->heads, head_dim = shape->head_dim;
    int64_t rows = (int64_t)cuda_probe_tiles(shape) * CUDA_QUERY_BLOCK;
    out->probe_q = carve_place(placer, carve_product(heads, rows * head_dim),
                               dtype_size(problem->desc.in_dtype));
    out->exact =
        carve_place(placer, carve_product(heads, shape->probes * head_dim), sizeof(*out->exact));
    out->repair = carve_place(placer, (int64_t)cuda_repair_scratch(shape), 1);
}

bool scratch_cuda_open(const struct problem *problem, void *base, struct scratch_cuda *scratch,
                       size_t *bytes)
{
    struct placer placer = {.base = base};
    struct shape_cuda shape = sparse_shape(problem);
    size_t element = dtype_size(problem->desc.in_dtype);
    int64_t rows = carve_product(problem->heads, problem->query_blocks);
    int64_t items = carve_product(problem->heads, problem->query_blocks + cuda_probe_tiles(&shape));
    int64_t tensor = carve_product(problem->heads, problem->tokens * problem->desc.head_dim);
    *scratch = (struct scratch_cuda){0};
    if (items < 0 || items > INT32_MAX)
        return false;
    scratch->q = carve_place(&placer, tensor, element);
    scratch->k = carve_place(&placer, tensor, element);
    scratch->v = carve_place(&placer, tensor, element);
    place_means(&placer, problem, &shape, scratch);
    scratch->kept = carve_place(&placer, carve_product(rows, cuda_mean_rows(&shape) / 32),
                                sizeof(*scratch->kept));
    scratch->queue = carve_place(&placer, items, sizeof(*scratch->queue));
    scratch->counter = carve_place(&placer, 1, sizeof(*scratch->counter));
    scratch->attend = carve_place(&placer, cuda_attend_scratch(items), sizeof(*scratch->attend));
    scratch->select = carve_place(&placer, (int64_t)cuda_select_scratch(&shape), 1);
    scratch->list = carve_place(&placer, (int64_t)cuda_list_scratch(&shape), 1);
    if (problem->probes > 0)
        place_probes(&placer, problem, &shape, scratch);
    if (bytes)
        *bytes = placer.carve.size;
    return !placer.carve.overflow;
}

static void narrow(int32_t *to, const int64_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = (int32_t)from[i];
}

/* Lays the plan's arrays out over base, which may be NULL; their number of elements. */
static int64_t place_prepared(const struct problem *problem, int32_t *base,
                              struct prepared_cuda *out)
{
    int64_t order = problem->order ? problem->tokens : 0;
    int64_t query = order + problem->query_blocks + 1;
    int64_t key = query + problem->key_blocks + 1;
    if (base)
        *out = (struct prepared_cuda){.order = problem->order ? base : NULL,
                                      .query_begin = base + order,
                                      .key_begin = base + query,
                                      .dense_begin = base + key,
                                      .memory = base};
    return key + dense_blocks(problem) + 1;
}

static void fill_prepared(const struct problem *problem, const struct prepared_cuda *host)
{
    int32_t blocks = dense_blocks(problem);
    if (problem->order)
        narrow(host->order, problem->order, problem->tokens);
    narrow(host->query_begin, problem->query_begin, problem->query_blocks + 1);
    narrow(host->key_begin, problem->key_begin, problem->key_blocks + 1);
    for (int32_t block = 0; block < blocks; block++)
        host->dense_begin[block] = block * CUDA_QUERY_BLOCK;
    host->dense_begin[blocks] = (int32_t)problem->tokens;
}

cudaError_t prepare_cuda(const struct problem *problem, struct prepared_cuda **out)
{
    size_t bytes = (size_t)place_prepared(problem, NULL, NULL) * sizeof(int32_t);
    struct prepared_cuda *prepared = calloc(1, sizeof(*prepared)), host;
    int32_t *values = malloc(bytes);
    void *device = NULL;
    cudaError_t error = prepared && values ? cudaSuccess : cudaErrorMemoryAllocation;
    *out = NULL;
    if (!error)
        error = cudaMalloc(&device, bytes);
    if (!error) {
        place_prepared(problem, values, &host);
        fill_prepared(problem, &host);
        error = cudaMemcpy(device, values, bytes, cudaMemcpyHostToDevice);
    }
    /* A copy from pageable memory may return early, and other streams would not wait for it. */
    if (!error)
        error = cudaDeviceSynchronize();
    free(values);
    if (error) {
        cudaFree(device);
        free(prepared);
        return error;
    }
    place_prepared(problem, device, prepared);
    *out = prepared;
    return cudaSuccess;
}

cudaError_t release_cuda(struct prepared_cuda *prepared)
{
    cudaError_t error = cudaFree(prepared->memory);
    free(prepared);
    return error;
}
