/*
 * Residual, norms and rotary embedding on the GPU.
 *
 * A transformer spends time here in residual and norm_rope, and they touch each element once: a CTA
 * holds a row in registers, 16 or 32 elements a thread, between reading and writing it. The
 * variance is summed around the mean, so nothing cancels; sums have a fixed order. What is the same
 * for every row (gates, scales, shifts, weights) is left to the first-level cache, and rows stream
 * past it. Rows that are too long, or that 16-byte accesses cannot reach, go through a kernel that
 * reads them from memory again for each pass. All arithmetic is float32.
 *
 * Bound by memory. At 75,600 x 5,120 in bfloat16 residual moves 4.6 GB, norm_rope 1.5 GB.
 *
 * Ladder, H100, warm, medians
 *   v1  as above, 75,600 x 5,120: residual with gate and modulation 1.59 ms (2.92 TB/s), without
 *       norm 1.31 ms (2.97 TB/s), norm_rope of rows of q, k, v 0.562 ms (2.75 TB/s), layer norm of
 *       float32 1.04 ms (2.98 TB/s); 32,760 x 1,536: 0.246 (2.45 TB/s), 0.176, 0.081, 0.143 ms
 */
#include "elementwise_cuda.h"

#include "elements_cuda.cuh"

enum {
    THREADS = 256, /* at most */
    FEW = 16,      /* elements of a row that a thread holds */
    MANY = 32,     /* or these */
    QUAD = 4       /* floats of 16 bytes */
};

/* Where residual() and norm_rope() keep the first row that is not finite. */
struct watch {
    unsigned long long *first; /* NULL = nowhere */
    unsigned long long place;  /* in its bits */
};

/* Rows to be normalised by their mean square, and turned. */
struct turned_rows {
    const void *from;
    void *to; /* from, or elsewhere */
    int64_t stride, features, head_dim;
    float eps;
    const float *weight, *cosine, *sine;
};

/* ---- on the device -------------------------------------------------------------------------- */

/* What every row reads. */
template <int COUNT> DEVICE void load_shared(const float *from, float (&to)[COUNT])
{
    if constexpr (COUNT == 2) {
        const float2 word = __ldg((const float2 *)from);
        to[0] = word.x, to[1] = word.y;
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            const float4 word = __ldg((const float4 *)(from + i));
            to[i] = word.x, to[i + 1] = word.y, to[i + 2] = word.z, to[i + 3] = word.w;
        }
    }
}

/* Sums over the CTA, the same in every thread. sums is of this call alone. */
DEVICE float2 cta_sum(float2 value, float2 (&sums)[THREADS / 32])
{
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        value.x += __shfl_xor_sync(~0u, value.x, lanes);
        value.y += __shfl_xor_sync(~0u, value.y, lanes);
    }
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = make_float2(0, 0);
#pragma unroll
    for (unsigned warp = 0; warp < THREADS / 32; warp++) {
        const float2 more = warp < blockDim.x / 32 ? sums[warp] : make_float2(0, 0);
        value.x += more.x;
        value.y += more.y;
    }
    return value;
}

/* zero: the sum of what the thread has read times 0, which is NaN where one was not finite. */
DEVICE void watch_row(const struct watch &watch, int64_t row, float zero)
{
    const unsigned long long key = watch.place | (unsigned long long)row;

    if (watch.first && isnan(zero) && key < *(volatile unsigned long long *)watch.first)
        atomicMin(watch.first, key);
}

/* Mean and 1 / deviation from the first mean and sums around it: that of the differences corrects
 * the mean's rounding. */
DEVICE float2 moments(float mean, float2 around, int64_t features, float eps)
{
    const float drift = around.x / (float)features;
    const float variance = around.y / (float)features - drift * drift;

    return make_float2(mean + drift, 1.0f / sqrtf(variance + eps));
}

template <int ELEMENTS, typename Add, typename Y>
__global__ static void __launch_bounds__(THREADS)
    residual_kernel(const struct ops_residual r, const struct watch watch)
{
    constexpr int QUADS = ELEMENTS / QUAD;
    const int64_t row = blockIdx.x, begin = row * r.features;
    const int features = (int)r.features, step = (int)blockDim.x * QUAD;
    const int first = (int)threadIdx.x * QUAD;
    typename word_of<Add, QUAD>::type add[QUADS];
    float x[QUADS][QUAD], zero = 0;
    float2 sum = make_float2(0, 0), around = make_float2(0, 0);
    __shared__ float2 sums[2][THREADS / 32];

#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        if (first + q * step < features)
            open_word(__ldcs((const float4 *)(r.x + begin + first + q * step)), x[q]);
    }
    if (r.add) {
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
            const Add *from = (const Add *)r.add + begin + first + q * step;
            if (first + q * step < features)
                add[q] = __ldcs((const typename word_of<Add, QUAD>::type *)from);
        }
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
            const int at = first + q * step;
            float more[QUAD], gate[QUAD] = {1, 1, 1, 1};
            if (at >= features)
                continue;
            open_word(add[q], more);
            if (r.gate)
                load_shared(r.gate + at, gate);
#pragma unroll
            for (int i = 0; i < QUAD; i++) {
                x[q][i] += more[i] * gate[i];
            }
            __stcs((float4 *)(r.x + begin + at), make_float4(x[q][0], x[q][1], x[q][2], x[q][3]));
        }
    }
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
#pragma unroll
        for (int i = 0; i < QUAD && first + q * step < features; i++) {
            sum.x += x[q][i];
            zero += x[q][i] * 0.0f;
        }
    }
    watch_row(watch, row, zero);
    if (!r.y)
        return;

    const float mean = cta_sum(sum, sums[0]).x / (float)features;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
#pragma unroll
        for (int i = 0; i < QUAD && first + q * step < features; i++) {
            around.x += x[q][i] - mean;
            around.y += (x[q][i] - mean) * (x[q][i] - mean);
        }
    }
    const float2 norm = moments(mean, cta_sum(around, sums[1]), features, r.eps);
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        const int at = first + q * step;
        float y[QUAD], weight[QUAD] = {1, 1, 1, 1}, bias[QUAD] = {};
        float scale[QUAD] = {}, shift[QUAD] = {};
        if (at >= features)
            continue;
        if (r.weight)
            load_shared(r.weight + at, weight);
        if (r.bias)
            load_shared(r.bias + at, bias);
        if (r.scale)
            load_shared(r.scale + at, scale);
        if (r.shift)
            load_shared(r.shift + at, shift);
#pragma unroll
        for (int i = 0; i < QUAD; i++) {
            y[i] = (x[q][i] - norm.x) * norm.y * weight[i] + bias[i];
            y[i] = y[i] * (1.0f + scale[i]) + shift[i];
        }
        store((Y *)r.y + begin + at, y);
    }
}

/* The same for any row. */
template <typename Add, typename Y>
__global__ static void __launch_bounds__(THREADS)
    residual_any_kernel(const struct ops_residual r, const struct watch watch)
{
    const int64_t row = blockIdx.x;
    float *x = r.x + row * r.features;
    Y *y = r.y ? (Y *)r.y + row * r.features : NULL;
    float zero = 0;
    float2 sum = make_float2(0, 0), around = make_float2(0, 0);
    __shared__ float2 sums[2][THREADS / 32];

    for (int64_t i = threadIdx.x; i < r.features; i += blockDim.x) {
        if (r.add)
            x[i] +=
                to_float(((const Add *)r.add)[row * r.features + i]) * (r.gate ? r.gate[i] : 1.0f);
        sum.x += x[i];
        zero += x[i] * 0.0f;
    }
    watch_row(watch, row, zero);
    if (!r.y)
        return;

    const float mean = cta_sum(sum, sums[0]).x / (float)r.features;
    for (int64_t i = threadIdx.x; i < r.features; i += blockDim.x) {
        around.x += x[i] - mean;
        around.y += (x[i] - mean) * (x[i] - mean);
    }
    const float2 norm = moments(mean, cta_sum(around, sums[1]), r.features, r.eps);
    for (int64_t i = threadIdx.x; i < r.features; i += blockDim.x) {
        float value = (x[i] - norm.x) * norm.y;
        value = value * (r.weight ? r.weight[i] : 1.0f) + (r.bias ? r.bias[i] : 0.0f);
        value = value * (1.0f + (r.scale ? r.scale[i] : 0.0f)) + (r.shift ? r.shift[i] : 0.0f);
        store(y + i, value);
    }
}

template <typename T, int ELEMENTS>
__global__ static void __launch_bounds__(THREADS)
    norm_rope_kernel(const struct turned_rows r, const struct watch watch)
{
    constexpr int PIECE = 16 / sizeof(T), PIECES = ELEMENTS / PIECE;
    const int64_t row = blockIdx.x;
    const int features = (int)r.features, step = (int)blockDim.x * PIECE;
    const int first = (int)threadIdx.x * PIECE;
    const T *from = (const T *)r.from + row * r.stride;
    T *to = (T *)r.to + row * r.stride;
    typename word_of<T, PIECE>::type words[PIECES];
    float x[PIECES][PIECE], zero = 0;
    float2 sum = make_float2(0, 0);
    __shared__ float2 sums[THREADS / 32];

#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        if (first + p * step < features)
            words[p] = __ldcs((const typename word_of<T, PIECE>::type *)(from + first + p * step));
    }
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        open_word(words[p], x[p]);
#pragma unroll
        for (int i = 0; i < PIECE && first + p * step < features; i++) {
            sum.x += x[p][i] * x[p][i];
            zero += x[p][i] * 0.0f;
        }
    }
    watch_row(watch, row, zero);
    const float factor = 1.0f / sqrtf(cta_sum(sum, sums).x / (float)features + r.eps);
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const int at = first + p * step;
        float weight[PIECE];
        if (at >= features)
            continue;
        load_shared(r.weight + at, weight);
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            x[p][i] = rounded<T>(x[p][i] * factor) * weight[i];
        }
        if (r.cosine) {
            const int64_t angle = (row * r.head_dim + at % (int)r.head_dim) / 2;
            float cosine[PIECE / 2], sine[PIECE / 2];
            load_shared(r.cosine + angle, cosine);
            load_shared(r.sine + angle, sine);
#pragma unroll
            for (int i = 0; i < PIECE / 2; i++) {
                const float a = x[p][2 * i], b = x[p][2 * i + 1];
                x[p][2 * i] = a * cosine[i] - b * sine[i];
                x[p][2 * i + 1] = a * sine[i] + b * cosine[i];
            }
        }
        store(to + at, x[p]);
    }
}

/* The same for any row: a thread takes pairs, of which the last of an odd head is one element. */
template <typename T>
__global__ static void __launch_bounds__(THREADS)
    norm_rope_any_kernel(const struct turned_rows r, const struct watch watch)
{
    const int64_t row = blockIdx.x, head_pairs = (r.head_dim + 1) / 2;
    const int64_t pairs = r.features / r.head_dim * head_pairs;
    const T *from = (const T *)r.from + row * r.stride;
    T *to = (T *)r.to + row * r.stride;
    float zero = 0;
    float2 sum = make_float2(0, 0);
    __shared__ float2 sums[THREADS / 32];

    for (int64_t i = threadIdx.x; i < r.features; i += blockDim.x) {
        const float x = to_float(from[i]);
        sum.x += x * x;
        zero += x * 0.0f;
    }
    watch_row(watch, row, zero);
    const float factor = 1.0f / sqrtf(cta_sum(sum, sums).x / (float)r.features + r.eps);
    for (int64_t pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        const int64_t i = pair % head_pairs, at = pair / head_pairs * r.head_dim + 2 * i;
        const bool whole = 2 * i + 1 < r.head_dim;
        float a = rounded<T>(to_float(from[at]) * factor) * r.weight[at];
        float b = whole ? rounded<T>(to_float(from[at + 1]) * factor) * r.weight[at + 1] : 0;
        if (r.cosine && whole) {
            const int64_t angle = row * (r.head_dim / 2) + i;
            const float turned = a * r.cosine[angle] - b * r.sine[angle];
            b = a * r.sine[angle] + b * r.cosine[angle];
            a = turned;
        }
        store(to + at, a);
        if (whole)
            store(to + at + 1, b);
    }
}

/* ---- on the host ---------------------------------------------------------------------------- */

static bool fits_a_grid(struct device *device, int64_t rows, const char *what)
{
    return rows <= INT32_MAX || device_cuda_check(device, cudaErrorInvalidValue, what);
}

/* Threads that hold a row of features, pieces of them at a time and elements altogether. */
static unsigned row_threads(int64_t features, int piece, int elements)
{
    const int64_t each = elements / piece, pieces = (features + piece - 1) / piece;

    return (unsigned)((pieces + each - 1) / each + 31) / 32 * 32;
}

static struct watch watch_of(const struct device *device)
{
    return {(unsigned long long *)device->watched, (unsigned long long)device->place << 40};
}

template <typename Add, typename Y>
static void launch_residual(struct device *device, const struct ops_residual *r,
                            const struct watch watch)
{
    const unsigned rows = (unsigned)r->rows;
    const bool quads = r->features % QUAD == 0 && r->features <= THREADS * MANY &&
                       aligned(r->x, 16) && aligned(r->add, QUAD * sizeof(Add)) &&
                       aligned(r->y, QUAD * sizeof(Y)) && aligned(r->gate, 16) &&
                       aligned(r->weight, 16) && aligned(r->bias, 16) && aligned(r->scale, 16) &&
                       aligned(r->shift, 16);

    if (!quads)
        residual_any_kernel<Add, Y><<<rows, THREADS, 0, device->stream>>>(*r, watch);
    else if (r->features <= THREADS * FEW)
        residual_kernel<FEW, Add, Y>
            <<<rows, row_threads(r->features, QUAD, FEW), 0, device->stream>>>(*r, watch);
    else
        residual_kernel<MANY, Add, Y>
            <<<rows, row_threads(r->features, QUAD, MANY), 0, device->stream>>>(*r, watch);
}

static void residual(struct device *device, const struct ops_residual *r, const struct watch watch,
                     const char *what)
{
    if (r->rows == 0 || r->features == 0 || !fits_a_grid(device, r->rows, what))
        return;
    if (r->add_type == ELEMENT_BF16 && r->type == ELEMENT_BF16)
        launch_residual<__nv_bfloat16, __nv_bfloat16>(device, r, watch);
    else if (r->add_type == ELEMENT_BF16)
        launch_residual<__nv_bfloat16, float>(device, r, watch);
    else if (r->type == ELEMENT_BF16)
        launch_residual<float, __nv_bfloat16>(device, r, watch);
    else
        launch_residual<float, float>(device, r, watch);
    device_cuda_launched(device, what);
}

extern "C" void elementwise_cuda_residual(struct device *device, const struct ops_residual *r)
{
    residual(device, r, watch_of(device), "residual");
}

extern "C" void elementwise_cuda_layer_norm(struct device *device, const float *x, float *y,
                                            int64_t rows, int64_t features, float eps,
                                            const float *weight, const float *bias)
{
    struct ops_residual r = {};

    r.x = (float *)x; /* nothing is added: it is only read */
    r.y = y;
    r.weight = weight;
    r.bias = bias;
    r.rows = rows;
    r.features = features;
    r.eps = eps;
    residual(device, &r, {}, "layer norm");
}

template <typename T>
static void launch_norm_rope(struct device *device, const struct turned_rows *r, int64_t rows,
                             const struct watch watch, const char *what)
{
    constexpr int PIECE = 16 / sizeof(T);
    const unsigned ctas = (unsigned)rows;
    const bool turned = r->cosine != NULL;
    const bool pieces =
        r->features % PIECE == 0 && r->features <= THREADS * MANY && r->stride % PIECE == 0 &&
        aligned(r->from, 16) && aligned(r->to, 16) && aligned(r->weight, 16) &&
        (!turned || (r->head_dim % PIECE == 0 && aligned(r->cosine, 16) && aligned(r->sine, 16)));

    if (rows == 0 || r->features == 0 || !fits_a_grid(device, rows, what))
        return;
    if (!pieces)
        norm_rope_any_kernel<T><<<ctas, THREADS, 0, device->stream>>>(*r, watch);
    else if (r->features <= THREADS * FEW)
        norm_rope_kernel<T, FEW>
            <<<ctas, row_threads(r->features, PIECE, FEW), 0, device->stream>>>(*r, watch);
    else
        norm_rope_kernel<T, MANY>
            <<<ctas, row_threads(r->features, PIECE, MANY), 0, device->stream>>>(*r, watch);
    device_cuda_launched(device, what);
}

extern "C" void elementwise_cuda_norm_rope(struct device *device, const struct ops_norm_rope *norm)
{
    const int64_t features = (int64_t)norm->heads * norm->head_dim;
    const struct turned_rows r = {norm->x,   norm->x,      norm->stride, features,  norm->head_dim,
                                  norm->eps, norm->weight, norm->cosine, norm->sine};

    if (norm->type == ELEMENT_BF16)
        launch_norm_rope<__nv_bfloat16>(device, &r, norm->rows, watch_of(device), "norm and RoPE");
    else
        launch_norm_rope<float>(device, &r, norm->rows, watch_of(device), "norm and RoPE");
}

extern "C" void elementwise_cuda_rms_norm(struct device *device, const float *x, float *y,
                                          int64_t rows, int64_t features, float eps,
                                          const float *weight)
{
    const struct turned_rows r = {x, y, features, features, features, eps, weight, NULL, NULL};

    launch_norm_rope<float>(device, &r, rows, {}, "RMS norm");
}
