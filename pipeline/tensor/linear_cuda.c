/*
 * Owns fully connected layers on the GPU: weights in the type that they are multiplied in, and
 * products through cuBLASLt with the algorithm that is fastest for their shape.
 *
 * Rows are slowest here and columns are in cuBLASLt's eyes, so that it is asked for the transposed
 * product: y^T [out][rows] = W [out][in] x^T [in][rows]. Bias and, where weights are BF16, GELU
 * (cuBLASLt's is the tanh form) are epilogues; other activations follow as a pass of their own.
 * Float32 layers never use TF32.
 *
 * The first product of a large shape times the algorithms that cuBLASLt's heuristic names. A faster
 * one is taken only if it gives the same bits as the heuristic's first, so that no result depends
 * on a stopwatch.
 *
 * Ladder, bfloat16 with bias on an H100, warm, medians
 *   v1  as above: 75,600 rows from 5,120 features to 15,360 15.6 ms (761 TFLOP/s), to 5,120 5.15 ms
 *       (770), to 13,824 with GELU 15.6 ms (688), from 13,824 to 5,120 14.2 ms (753); 32,760 rows
 *       from 1,536 to 8,960 with GELU 1.23 ms (736), back 1.10 ms (818). Choosing takes 12 to 300
 *       ms a shape, once
 */
#include "linear_cuda.h"

#include "checked.h"
#include "linear_convert_cuda.h"
#include "random_cuda.h"
#include "weight_groups_cuda.h"

#include <stdlib.h>

enum { CHOICES = 256, CANDIDATES = 8, TIMED = 4, REPEATS = 2, ALIGNMENT = 256 };

static const size_t workspace_bytes = (size_t)64 << 20;
static const int64_t weight_piece = (int64_t)1 << 24;      /* elements converted at once */
static const int64_t converted_bytes = (int64_t)128 << 20; /* of x and y at once */
static const double worth_timing = 1e10;                   /* floating-point operations */

struct linear {
    int64_t in, out;
    enum element type;             /* of weight */
    void *weight;                  /* NULL: it is of a group */
    struct grouped_weight grouped; /* without a home: it is not */
    void *bias[2];                 /* by enum element, in one allocation; NULL = none */
};

/* What an algorithm is chosen for. */
struct shape {
    int64_t in, out, rows;
    enum element type, y_type;
    uint32_t x_alignment, y_alignment;
    bool bias, gelu;
};

struct choice {
    struct shape shape;
    cublasLtMatmulAlgo_t algorithm;
    bool fused; /* gelu is an epilogue */
};

struct blas {
    cublasLtHandle_t handle;
    void *workspace;
    uint64_t *sum; /* device memory */
    cudaEvent_t start, stop;
    struct choice choices[CHOICES];
    int count, next; /* the one that goes when all are taken */
};

/* One call of cuBLASLt. */
struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t weight_layout, x_layout, y_layout;
    const void *weight, *x;
    void *y;
    size_t y_bytes;
};

static bool blas_ok(cublasStatus_t status, const char *what, struct error *error)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return true;
    return error_set(error, "cuBLASLt: %s: %s", what, cublasLtGetStatusString(status));
}

/* ---- the library ----------------------------------------------------------------------------- */

bool linear_cuda_open(struct device *device, struct error *error)
{
    struct blas *blas = calloc(1, sizeof *blas);
    if (!blas)
        return error_out_of_memory(error, "cuBLASLt", sizeof *blas);
    device->blas = blas;
    if (!blas_ok(cublasLtCreate(&blas->handle), "it does not start", error))
        return false;
    blas->workspace = device_cuda_alloc(device, workspace_bytes);
    blas->sum = device_cuda_alloc(device, sizeof *blas->sum);
    if (!blas->workspace || !blas->sum)
        return error_out_of_memory(error, "cuBLASLt's workspace on the GPU", workspace_bytes);
    device_cuda_check(device, cudaEventCreate(&blas->start), "event");
    device_cuda_check(device, cudaEventCreate(&blas->stop), "event");
    return device_cuda_ok(device, error);
}

void linear_cuda_close(struct device *device)
{
    struct blas *blas = device->blas;
    if (!blas)
        return;
    if (blas->stop)
        cudaEventDestroy(blas->stop);
    if (blas->start)
        cudaEventDestroy(blas->start);
    device_cuda_free(device, blas->sum);
    device_cuda_free(device, blas->workspace);
    if (blas->handle)
        cublasLtDestroy(blas->handle);
    free(blas);
    device->blas = NULL;
}

cublasLtHandle_t device_blas(struct device *device)
{
    const struct blas *blas = device->blas;
    return blas->handle;
}

void *device_blas_workspace(struct device *device, size_t *bytes)
{
    const struct blas *blas = device->blas;
    *bytes = workspace_bytes;
    return blas->workspace;
}

/* The largest power of two, at most 256, that all addresses are multiples of. */
static uint32_t alignment_of(uintptr_t addresses)
{
    const uintptr_t bits = addresses | ALIGNMENT;
    return (uint32_t)(bits & (~bits + 1));
}

int device_blas_algorithms(struct device *device, cublasLtMatmulDesc_t desc,
                           cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                           cublasLtMatrixLayout_t d, const struct blas_places *places,
                           uint32_t schemes, cublasLtMatmulHeuristicResult_t *found, int most)
{
    const uint32_t of_a = alignment_of(places->a), of_b = alignment_of(places->b);
    const uint32_t of_d = alignment_of(places->d);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t size;
    } wanted[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &of_a, sizeof of_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &of_b, sizeof of_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &of_d, sizeof of_d},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &of_d, sizeof of_d},
    };
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasStatus_t status = cublasLtMatmulPreferenceInit(&preference);
    for (size_t i = 0; !status && i < sizeof wanted / sizeof *wanted; i++)
        status = cublasLtMatmulPreferenceSetAttribute(&preference, wanted[i].attribute,
                                                      wanted[i].value, wanted[i].size);
    int count = 0;
    if (!status)
        status = cublasLtMatmulAlgoGetHeuristic(device_blas(device), desc, a, b, d, d, &preference,
                                                most, found, &count);
    return status ? 0 : count;
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* Weights reach their place by pieces, through scratch where they are converted or where their
 * place is on the host. */
static bool fill_weight(struct device *device, struct linear *linear,
                        const struct linear_desc *desc, struct error *error)
{
    const int64_t count = linear->in * linear->out;
    const int64_t most = count < weight_piece ? count : weight_piece;
    const size_t size = element_size(linear->type);
    const size_t staged_bytes =
        ((size_t)most * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *staged = device_cuda_scratch(device, staged_bytes + (size_t)most * size);
    if (!staged)
        return error_out_of_memory(error, "weights on their way to the GPU",
                                   staged_bytes + (size_t)most * size);
    char *passing = staged + staged_bytes;
    for (int64_t first = 0; first < count; first += most) {
        const int64_t now = count - first < most ? count - first : most;
        const size_t offset = (size_t)first * size;
        void *to = linear->weight ? (char *)linear->weight + offset : passing;
        if (!desc->weight) {
            random_cuda_fill(device, to, linear->type, first, now, linear->in, desc->seed);
        } else {
            device_cuda_upload(device, staged, desc->weight + first, (size_t)now * sizeof(float));
            linear_convert_cuda(device, staged, ELEMENT_F32, to, linear->type, now,
                                ACTIVATION_NONE);
        }
        if (!linear->weight)
            device_cuda_check(device,
                              cudaMemcpyAsync((char *)linear->grouped.home + offset, to,
                                              (size_t)now * size, cudaMemcpyDeviceToHost,
                                              device->stream),
                              "weights to the host");
    }
    return device_cuda_ok(device, error);
}

/* In both types: a product takes the one of its result. */
static bool make_bias(struct device *device, struct linear *linear, const float *values,
                      struct error *error)
{
    const size_t bytes = (size_t)linear->out * sizeof(float);
    const size_t half = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *bias = device_cuda_alloc(device, half + bytes / 2);
    if (!bias)
        return error_out_of_memory(error, "a bias on the GPU", half + bytes / 2);
    linear->bias[ELEMENT_F32] = bias;
    linear->bias[ELEMENT_BF16] = bias + half;
    if (values)
        device_cuda_upload(device, bias, values, bytes);
    else
        device_cuda_check(device, cudaMemsetAsync(bias, 0, bytes, device->stream), "bias");
    linear_convert_cuda(device, bias, ELEMENT_F32, bias + half, ELEMENT_BF16, linear->out,
                        ACTIVATION_NONE);
    return device_cuda_ok(device, error);
}

static bool make_weight(struct device *device, struct linear *linear,
                        const struct linear_desc *desc, struct error *error)
{
    const int64_t dims[] = {desc->out, desc->in};
    size_t bytes;
    if (desc->in <= 0 || desc->out <= 0 ||
        !checked_bytes(dims, 2, sizeof(float), &bytes)) /* what is uploaded */
        return error_set(error, "a linear layer of %lld by %lld: the size cannot be",
                         (long long)desc->out, (long long)desc->in);
    bytes = bytes / sizeof(float) * element_size(linear->type);
    if (weight_groups_cuda_wanted(device)) {
        if (!weight_groups_cuda_add(device, &linear->grouped, bytes, error))
            return false;
    } else {
        linear->weight = device_cuda_alloc(device, bytes);
        if (!linear->weight)
            return error_out_of_memory(error, "a linear layer's weights on the GPU", bytes);
    }
    return fill_weight(device, linear, desc, error);
}

bool linear_cuda_create(struct device *device, struct linear **out, const struct linear_desc *desc,
                        struct error *error)
{
    struct linear *linear = calloc(1, sizeof *linear);
    *out = NULL;
    if (!linear)
        return error_out_of_memory(error, "a linear layer", sizeof *linear);
    linear->in = desc->in;
    linear->out = desc->out;
    linear->type = desc->exact ? ELEMENT_F32 : device->activations;
    if (!make_weight(device, linear, desc, error) ||
        (desc->bias &&
         !make_bias(device, linear, desc->weight ? desc->bias_values : NULL, error))) {
        linear_cuda_destroy(device, linear);
        return false;
    }
    *out = linear;
    return true;
}

void linear_cuda_destroy(struct device *device, struct linear *linear)
{
    if (!linear)
        return;
    weight_groups_cuda_remove(device, &linear->grouped);
    device_cuda_free(device, linear->weight);
    device_cuda_free(device, linear->bias[ELEMENT_F32]);
    free(linear);
}

/* ---- products -------------------------------------------------------------------------------- */

static cudaDataType_t data_type(enum element type)
{
    return type == ELEMENT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool set_epilogue(struct product *product, const struct shape *shape, bool gelu,
                         struct error *error)
{
    static const cublasLtEpilogue_t epilogues[2][2] = {
        {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_GELU},
        {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS}};
    const cublasLtEpilogue_t epilogue = epilogues[shape->bias][gelu];
    return blas_ok(cublasLtMatmulDescSetAttribute(&product->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                  &epilogue, sizeof epilogue),
                   "epilogue", error);
}

static bool describe(struct product *product, const struct shape *shape, const void *bias,
                     struct error *error)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t type = data_type(shape->type), y_type = data_type(shape->y_type);
    const uint64_t in = (uint64_t)shape->in, out = (uint64_t)shape->out;
    const uint64_t rows = (uint64_t)shape->rows;
    cublasStatus_t status = cublasLtMatmulDescInit(&product->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(&product->desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &transposed, sizeof transposed);
    if (!status && bias)
        status = cublasLtMatmulDescSetAttribute(&product->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                &bias, sizeof bias);
    if (!status && bias)
        status = cublasLtMatmulDescSetAttribute(&product->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                                &y_type, sizeof y_type);
    if (!status)
        status = cublasLtMatrixLayoutInit(&product->weight_layout, type, in, out, shape->in);
    if (!status)
        status = cublasLtMatrixLayoutInit(&product->x_layout, type, in, rows, shape->in);
    if (!status)
        status = cublasLtMatrixLayoutInit(&product->y_layout, y_type, out, rows, shape->out);
    product->y_bytes = (size_t)(shape->out * shape->rows) * element_size(shape->y_type);
    return blas_ok(status, "a product's description", error);
}

static cublasStatus_t multiply(struct device *device, struct product *product,
                               const cublasLtMatmulAlgo_t *algorithm)
{
    const struct blas *blas = device->blas;
    const float one = 1, zero = 0;
    return cublasLtMatmul(blas->handle, &product->desc, &one, product->weight,
                          &product->weight_layout, product->x, &product->x_layout, &zero,
                          product->y, &product->y_layout, product->y, &product->y_layout, algorithm,
                          blas->workspace, workspace_bytes, device->stream);
}

/* How many algorithms the heuristic has for it, best first. Sums that are split among blocks are
 * added up in float32, not as bfloat16 in y; whole: none are split. */
static int ask(struct device *device, struct product *product, bool whole,
               cublasLtMatmulHeuristicResult_t found[CANDIDATES])
{
    const struct blas_places places = {ALIGNMENT, (uintptr_t)product->x, (uintptr_t)product->y};
    return device_blas_algorithms(
        device, &product->desc, &product->weight_layout, &product->x_layout, &product->y_layout,
        &places, whole ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
        found, CANDIDATES);
}

/* Milliseconds, and what came of it; below 0: it does not work. */
static float time_algorithm(struct device *device, struct product *product,
                            const cublasLtMatmulAlgo_t *algorithm, uint64_t *sum)
{
    const struct blas *blas = device->blas;
    float least = -1;
    if (multiply(device, product, algorithm)) /* also brings its code to the device */
        return -1;
    linear_convert_cuda_sum(device, product->y, product->y_bytes, blas->sum);
    device_cuda_download(device, sum, blas->sum, sizeof *sum);
    for (int i = 0; i < REPEATS; i++) {
        float now = 0;
        device_cuda_check(device, cudaEventRecord(blas->start, device->stream), "timing");
        if (multiply(device, product, algorithm))
            return -1;
        device_cuda_check(device, cudaEventRecord(blas->stop, device->stream), "timing");
        device_cuda_check(device, cudaEventSynchronize(blas->stop), "timing");
        if (!device_cuda_check(device, cudaEventElapsedTime(&now, blas->start, blas->stop),
                               "timing"))
            return -1;
        if (least < 0 || now < least)
            least = now;
    }
    return least;
}

/* The index of the fastest that does as the first does. */
static int fastest(struct device *device, struct product *product,
                   const cublasLtMatmulHeuristicResult_t *found, int count)
{
    uint64_t expected = 0, sum = 0;
    float least = -1;
    int best = 0;
    for (int i = 0; i < count && i < TIMED; i++) {
        const float now = time_algorithm(device, product, &found[i].algo, &sum);
        if (now < 0 || (least >= 0 && (now >= least || sum != expected)))
            continue;
        expected = sum;
        least = now;
        best = i;
    }
    return best;
}

static bool choose(struct device *device, struct product *product, struct choice *choice,
                   struct error *error)
{
    const struct shape *shape = &choice->shape;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    const bool large =
        2.0 * (double)shape->in * (double)shape->out * (double)shape->rows >= worth_timing;
    const bool checkable = shape->y_alignment >= 16 && product->y_bytes % 16 == 0;
    int count = 0;
    for (int plain = 0; count == 0 && plain <= shape->gelu; plain++) {
        choice->fused = shape->gelu && !plain;
        if (!set_epilogue(product, shape, choice->fused, error))
            return false;
        count = ask(device, product, large, found);
        if (count == 0 && large)
            count = ask(device, product, false, found);
    }
    if (count == 0)
        return error_set(error,
                         "cuBLASLt has no algorithm for a linear layer of %lld to %lld features "
                         "with %lld rows",
                         (long long)shape->in, (long long)shape->out, (long long)shape->rows);
    const bool timed = large && checkable && count > 1 && !device->recording;
    choice->algorithm = found[timed ? fastest(device, product, found, count) : 0].algo;
    return true;
}

static bool same_shape(const struct shape *a, const struct shape *b)
{
    return a->in == b->in && a->out == b->out && a->rows == b->rows && a->type == b->type &&
           a->y_type == b->y_type && a->x_alignment == b->x_alignment &&
           a->y_alignment == b->y_alignment && a->bias == b->bias && a->gelu == b->gelu;
}

/* The choice for a shape, made on first use. NULL on failure. */
static const struct choice *choice_for(struct device *device, struct product *product,
                                       const struct shape *shape, struct error *error)
{
    struct blas *blas = device->blas;
    for (int i = 0; i < blas->count; i++)
        if (same_shape(&blas->choices[i].shape, shape))
            return &blas->choices[i];
    struct choice choice = {.shape = *shape};
    if (!choose(device, product, &choice, error))
        return NULL;
    struct choice *kept = &blas->choices[blas->next];
    *kept = choice;
    blas->next = (blas->next + 1) % CHOICES;
    blas->count += blas->count < CHOICES;
    return kept;
}

/* x in the type of the weights; y in one that cuBLASLt gives for them. */
static bool run(struct device *device, const struct linear *linear, const void *weight,
                const void *x, void *y, enum element y_type, int64_t rows,
                enum activation activation, struct error *error)
{
    struct product product = {.weight = weight, .x = x, .y = y};
    const bool half = linear->type == ELEMENT_BF16;
    const struct shape shape = {.in = linear->in,
                                .out = linear->out,
                                .rows = rows,
                                .type = linear->type,
                                .y_type = y_type,
                                .x_alignment = alignment_of((uintptr_t)x),
                                .y_alignment = alignment_of((uintptr_t)y),
                                .bias = linear->bias[y_type] != NULL,
                                .gelu = half && activation == ACTIVATION_GELU_TANH};
    if (!describe(&product, &shape, linear->bias[y_type], error))
        return false;
    const struct choice *choice = choice_for(device, &product, &shape, error);
    if (!choice || !set_epilogue(&product, &shape, choice->fused, error) ||
        !blas_ok(multiply(device, &product, &choice->algorithm), "a linear layer", error))
        return false;
    if (activation != ACTIVATION_NONE && !choice->fused)
        linear_convert_cuda(device, y, y_type, y, y_type, rows * linear->out, activation);
    return true;
}

/* Rows of one call of cuBLASLt: no index of theirs leaves 31 bits, and conversions fit scratch. */
static int64_t rows_at_once(const struct linear *linear, int64_t bytes_per_row, int64_t rows)
{
    const int64_t wide = linear->in > linear->out ? linear->in : linear->out;
    int64_t most = INT32_MAX / wide;
    if (bytes_per_row > 0 && most > converted_bytes / bytes_per_row)
        most = converted_bytes / bytes_per_row;
    most = most > 128 ? most / 128 * 128 : most;
    most = most < 1 ? 1 : most;
    return rows < most ? rows : most;
}

bool linear_cuda(struct device *device, const struct linear *linear, const void *x,
                 enum element x_type, void *y, enum element y_type, int64_t rows,
                 enum activation activation, struct error *error)
{
    const bool convert_x = x_type != linear->type;
    const bool convert_y = linear->type == ELEMENT_F32 && y_type == ELEMENT_BF16;
    const enum element made = convert_y ? ELEMENT_F32 : y_type;
    const int64_t x_row = linear->in * (int64_t)element_size(linear->type) * convert_x;
    const int64_t y_row = linear->out * (int64_t)sizeof(float) * convert_y;
    const int64_t most = rows_at_once(linear, x_row + y_row, rows);
    const size_t x_bytes = ((size_t)(most * x_row) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t scratch_bytes = x_bytes + (size_t)(most * y_row);
    const void *weight =
        linear->grouped.home ? weight_groups_cuda_find(device, &linear->grouped) : linear->weight;
    if (!weight)
        return error_set(error, "offload: group %lld of weights is used before it was asked for",
                         (long long)linear->grouped.group);
    char *scratch = scratch_bytes > 0 ? device_cuda_scratch(device, scratch_bytes) : NULL;
    if (scratch_bytes > 0 && !scratch)
        return error_out_of_memory(error, "conversions around a linear layer on the GPU",
                                   scratch_bytes);
    for (int64_t row = 0; row < rows; row += most) {
        const int64_t now = rows - row < most ? rows - row : most;
        const void *from = (const char *)x + (size_t)(row * linear->in) * element_size(x_type);
        char *to = (char *)y + (size_t)(row * linear->out) * element_size(y_type);
        if (convert_x)
            linear_convert_cuda(device, from, x_type, scratch, linear->type, now * linear->in,
                                ACTIVATION_NONE);
        if (!run(device, linear, weight, convert_x ? scratch : from,
                 convert_y ? scratch + x_bytes : to, made, now, activation, error))
            return false;
        if (convert_y)
            linear_convert_cuda(device, scratch + x_bytes, made, to, y_type, now * linear->out,
                                ACTIVATION_NONE);
    }
    return device_cuda_ok(device, error);
}
