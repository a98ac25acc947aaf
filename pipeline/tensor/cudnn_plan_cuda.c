/*
 * Convolutions in cuDNN's graph API, through its C interface; conv_cuda.c says what for.
 *
 * A problem becomes a graph of one operation; cuDNN's heuristics list engine configurations for it,
 * the expected fastest first; one that fits becomes a plan. The API is one of descriptors that are
 * filled attribute by attribute: the first failure is kept, and nothing happens after it. What an
 * engine refuses shows as a plan less, for the caller has its own way to convolve; that cuDNN
 * itself does not work is told, or all would be slow without a word.
 */
#include "cudnn_plan_cuda.h"

#include <stdlib.h>
#include <string.h>

enum {
    CONFIGURATIONS = 64, /* of the heuristics' list that are looked at */
    PARTS = 8            /* descriptors of a graph */
};

enum tensor_id { TENSOR_X = 'x', TENSOR_WEIGHT = 'w', TENSOR_Y = 'y' };

/* A descriptor and what it refers to. */
struct cudnn_graph {
    cudnnHandle_t handle;
    struct cudnn_problem problem;
    cudnnBackendDescriptor_t parts[PARTS];
    int count;
    cudnnBackendDescriptor_t operations; /* the last of parts */
    cudnnStatus_t status;                /* the first failure */
    cudnnStatus_t broken;                /* the first that is not for want of a way to do it */
};

/* ---- descriptors ----------------------------------------------------------------------------- */

static void descriptor_free(cudnnBackendDescriptor_t descriptor)
{
    if (descriptor)
        cudnnBackendDestroyDescriptor(descriptor);
}

static cudnnBackendDescriptor_t part_make(struct cudnn_graph *graph,
                                          cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t part = NULL;
    if (!graph->status)
        graph->status = cudnnBackendCreateDescriptor(type, &part);
    if (!graph->status)
        graph->parts[graph->count++] = part;
    return graph->status ? NULL : part;
}

static void part_set(struct cudnn_graph *graph, cudnnBackendDescriptor_t part,
                     cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     int64_t count, const void *values)
{
    if (!graph->status)
        graph->status = cudnnBackendSetAttribute(part, name, type, count, values);
}

static void part_finish(struct cudnn_graph *graph, cudnnBackendDescriptor_t part)
{
    if (!graph->status)
        graph->status = cudnnBackendFinalize(part);
}

/* ---- the graph ------------------------------------------------------------------------------- */

static cudnnBackendDescriptor_t tensor(struct cudnn_graph *graph, enum tensor_id name, int spatial,
                                       const int64_t *dims)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const int64_t id = name, alignment = CUDNN_PLAN_ALIGNMENT;
    int64_t strides[2 + CUDNN_PLAN_SPATIAL];
    int64_t stride = dims[1];
    for (int i = 1 + spatial; i > 1; i--) {
        strides[i] = stride;
        stride *= dims[i];
    }
    strides[1] = 1;
    strides[0] = stride;
    cudnnBackendDescriptor_t part = part_make(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    part_set(graph, part, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    part_set(graph, part, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 2 + spatial, dims);
    part_set(graph, part, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 2 + spatial, strides);
    part_set(graph, part, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    part_set(graph, part, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    part_finish(graph, part);
    return part;
}

static cudnnBackendDescriptor_t convolution(struct cudnn_graph *graph,
                                            const struct cudnn_problem *p)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t spatial = p->spatial, ones[CUDNN_PLAN_SPATIAL] = {1, 1, 1};
    cudnnBackendDescriptor_t part = part_make(graph, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, spatial, ones);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, spatial,
             p->stride);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, spatial,
             p->padding);
    part_set(graph, part, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, spatial,
             p->padding);
    part_finish(graph, part);
    return part;
}

/* Describes y = conv(x). */
static void graph_describe(struct cudnn_graph *graph)
{
    const struct cudnn_problem *p = &graph->problem;
    const float one = 1.0f, zero = 0.0f;
    cudnnBackendDescriptor_t x = tensor(graph, TENSOR_X, p->spatial, p->x);
    cudnnBackendDescriptor_t weight = tensor(graph, TENSOR_WEIGHT, p->spatial, p->weight);
    cudnnBackendDescriptor_t y = tensor(graph, TENSOR_Y, p->spatial, p->y);
    cudnnBackendDescriptor_t conv = convolution(graph, p);
    cudnnBackendDescriptor_t forward =
        part_make(graph, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    part_set(graph, forward, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1,
             &one);
    part_set(graph, forward, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1,
             &zero);
    part_set(graph, forward, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
             CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &conv);
    part_set(graph, forward, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
             CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
    part_set(graph, forward, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
             CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &weight);
    part_set(graph, forward, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
             CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y);
    part_finish(graph, forward);
    graph->operations = part_make(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    part_set(graph, graph->operations, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
             1, &forward);
    part_set(graph, graph->operations, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
             &graph->handle);
    part_finish(graph, graph->operations);
}

/* Keeps what another problem would meet as well: parts of cuDNN that are missing or do not fit, the
 * device, memory. Returns the status. */
static cudnnStatus_t note(struct cudnn_graph *graph, cudnnStatus_t status)
{
    const int category = CUDNN_STATUS_CATEGORY((int)status);
    const bool broken = category == CUDNN_STATUS_CATEGORY(CUDNN_STATUS_NOT_INITIALIZED) ||
                        category == CUDNN_STATUS_EXECUTION_FAILED ||
                        status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
                        status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
    if (broken && !graph->broken)
        graph->broken = status;
    return status;
}

static void graph_free(struct cudnn_graph *graph)
{
    if (!graph)
        return;
    while (graph->count > 0)
        descriptor_free(graph->parts[--graph->count]);
    free(graph);
}

static struct cudnn_graph *graph_make(cudnnHandle_t handle, const struct cudnn_problem *problem)
{
    struct cudnn_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return NULL;
    graph->handle = handle;
    graph->problem = *problem;
    graph_describe(graph);
    note(graph, graph->status);
    return graph;
}

/* ---- engines --------------------------------------------------------------------------------- */

/* Whether an engine computes what the device promises. */
static bool engine_fits(struct cudnn_graph *graph, cudnnBackendDescriptor_t configuration,
                        int64_t *index)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count = 0, got = 0;
    cudnnStatus_t status = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (!status)
        status = cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &got, &engine);
    if (!status)
        status = cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64,
                                          1, &got, index);
    if (!status)
        status = cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                          CUDNN_TYPE_NUMERICAL_NOTE,
                                          CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes);
    bool fits = !note(graph, status);
    for (int64_t i = 0; fits && i < count && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
        fits = notes[i] == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP ||
               (graph->problem.tensor_cores && notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
    descriptor_free(engine);
    return fits;
}

/* false: this engine cannot do it, or not in the workspace there is. */
static bool plan_make(struct cudnn_plan *out, cudnnBackendDescriptor_t configuration)
{
    struct cudnn_graph *graph = out->graph;
    cudnnBackendDescriptor_t plan = NULL;
    int64_t got = 0;
    cudnnStatus_t status =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);
    if (!status)
        status = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE,
                                          1, &graph->handle);
    if (!status)
        status = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &configuration);
    if (!status)
        status = cudnnBackendFinalize(plan);
    if (!status)
        status = cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                          CUDNN_TYPE_INT64, 1, &got, &out->workspace);
    if (note(graph, status) || out->workspace > graph->problem.most_workspace) {
        descriptor_free(plan);
        return false;
    }
    out->plan = plan;
    return true;
}

/* The heuristics' configurations in their order of preference; the caller frees them all. */
static int64_t configurations(struct cudnn_graph *graph, cudnnBackendHeurMode_t mode,
                              cudnnBackendDescriptor_t out[CONFIGURATIONS])
{
    cudnnBackendDescriptor_t heuristics = NULL;
    int64_t count = 0;
    memset(out, 0, CONFIGURATIONS * sizeof *out);
    cudnnStatus_t status =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristics);
    if (!status)
        status = cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph->operations);
    if (!status)
        status = cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE,
                                          CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (!status)
        status = cudnnBackendFinalize(heuristics);
    for (int i = 0; !status && i < CONFIGURATIONS; i++)
        status = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &out[i]);
    if (!status)
        status =
            cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGURATIONS, &count, out);
    descriptor_free(heuristics);
    return note(graph, status) ? 0 : count < CONFIGURATIONS ? count : CONFIGURATIONS;
}

/* The first that fits, of one of cuDNN's two lists. */
static bool plan_find(struct cudnn_plan *out, cudnnBackendHeurMode_t mode)
{
    cudnnBackendDescriptor_t list[CONFIGURATIONS];
    const int64_t count = configurations(out->graph, mode, list);
    bool found = false;
    for (int64_t i = 0; i < count && !found; i++)
        found = engine_fits(out->graph, list[i], &out->engine) && plan_make(out, list[i]);
    for (int i = 0; i < CONFIGURATIONS; i++)
        descriptor_free(list[i]);
    return found;
}

cudnnStatus_t cudnn_plan_create(struct cudnn_plan *out, cudnnHandle_t handle,
                                const struct cudnn_problem *problem)
{
    *out = (struct cudnn_plan){.graph = graph_make(handle, problem)};
    if (!out->graph)
        return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    if (!out->graph->status &&
        (plan_find(out, CUDNN_HEUR_MODE_A) || plan_find(out, CUDNN_HEUR_MODE_FALLBACK)))
        return CUDNN_STATUS_SUCCESS;
    const cudnnStatus_t broken = out->graph->broken;
    cudnn_plan_destroy(out);
    return broken;
}

void cudnn_plan_destroy(struct cudnn_plan *plan)
{
    descriptor_free(plan->plan);
    graph_free(plan->graph);
    *plan = (struct cudnn_plan){0};
}

cudnnStatus_t cudnn_plan_run(const struct cudnn_plan *plan, cudnnHandle_t handle, const float *x,
                             const float *weight, float *y, void *workspace)
{
    const int64_t ids[] = {TENSOR_X, TENSOR_WEIGHT, TENSOR_Y};
    const void *data[] = {x, weight, y};
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t status =
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (!status)
        status = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                                          CUDNN_TYPE_INT64, 3, ids);
    if (!status)
        status = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                          CUDNN_TYPE_VOID_PTR, 3, data);
    if (!status)
        status = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                          CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (!status)
        status = cudnnBackendFinalize(pack);
    if (!status)
        status = cudnnBackendExecute(handle, plan->plan, pack);
    descriptor_free(pack);
    return status;
}
