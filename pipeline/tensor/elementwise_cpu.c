/*
 * Norms, rotary embedding, activations and sums on the CPU.
 *
 * Each operation is a short loop over one row or one chunk, compiled per SIMD level
 * (simd_clones.h), under an OpenMP loop over rows or chunks. Rows and chunks do not depend on the
 * number of threads, so neither do results. All of these are bound by memory: what helps is to
 * touch data once, hence the fused residual() and norm_rope(), which also look for NaN on the way.
 */
#include "elementwise_cpu.h"

#include "device_cpu.h"
#include "exp_fast.h"
#include "simd_clones.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Elements that one thread takes at a time: 16 KiB, half of a first-level cache. */
#define CHUNK 4096

static int64_t chunk_count(int64_t begin, int64_t count)
{
    return count - begin < CHUNK ? count - begin : CHUNK;
}

/* 0 times a number is 0; 0 times a NaN or infinity is NaN, and NaN survives every sum. */
SIMD_CLONES static float zero_unless_not_finite(const float *x, int64_t count)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += x[i] * 0.0f;
    return sum;
}

SIMD_CLONES static void layer_norm_row(const float *x, float *y, int64_t features, float eps,
                                       const float *weight, const float *bias, const float *scale,
                                       const float *shift)
{
    /* The mean of what is left after the first mean corrects its rounding, which counts where the
     * mean is far from zero. */
    float sum = 0.0f, drift = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < features; i++)
        sum += x[i];
    float mean = sum / (float)features;
#pragma omp simd reduction(+ : drift, squares)
    for (int64_t i = 0; i < features; i++) {
        drift += x[i] - mean;
        squares += (x[i] - mean) * (x[i] - mean);
    }
    drift /= (float)features;
    mean += drift;
    float factor = 1.0f / sqrtf(squares / (float)features - drift * drift + eps);

#pragma omp simd
    for (int64_t i = 0; i < features; i++)
        y[i] = (x[i] - mean) * factor;
    if (weight)
#pragma omp simd
        for (int64_t i = 0; i < features; i++)
            y[i] *= weight[i];
    if (bias)
#pragma omp simd
        for (int64_t i = 0; i < features; i++)
            y[i] += bias[i];
    if (scale)
#pragma omp simd
        for (int64_t i = 0; i < features; i++)
            y[i] *= 1.0f + scale[i];
    if (shift)
#pragma omp simd
        for (int64_t i = 0; i < features; i++)
            y[i] += shift[i];
}

void elementwise_layer_norm(struct device *device, const float *x, float *y, int64_t rows,
                            int64_t features, float eps, const float *weight, const float *bias)
{
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        layer_norm_row(x + row * features, y + row * features, features, eps, weight, bias, NULL,
                       NULL);
}

SIMD_CLONES static void add_row(float *x, const float *add, const float *gate, int64_t features)
{
    if (gate)
#pragma omp simd
        for (int64_t i = 0; i < features; i++)
            x[i] += add[i] * gate[i];
    else
#pragma omp simd
        for (int64_t i = 0; i < features; i++)
            x[i] += add[i];
}

/* Keeps the lowest place, and of that the lowest row; row = rows: none. */
static void keep_watched(struct device *device, int64_t row, int64_t rows)
{
    if (row == rows)
        return;
    const struct watched_row found = {.place = device->place, .row = row};
    struct watched_row *kept = &device->watched;
    if (kept->row < 0 || found.place < kept->place ||
        (found.place == kept->place && found.row < kept->row))
        *kept = found;
}

void elementwise_residual(struct device *device, const struct ops_residual *r)
{
    assert(r->type == ELEMENT_F32 && r->add_type == ELEMENT_F32);
    const float *add = r->add;
    float *y = r->y;
    int64_t broken = r->rows; /* the first row that is */
#pragma omp parallel for num_threads(device->threads) schedule(static) reduction(min : broken)
    for (int64_t row = 0; row < r->rows; row++) {
        const int64_t at = row * r->features;
        float *x = r->x + at;
        if (add)
            add_row(x, add + at, r->gate, r->features);
        if (isnan(zero_unless_not_finite(x, r->features)) && row < broken)
            broken = row;
        if (y)
            layer_norm_row(x, y + at, r->features, r->eps, r->weight, r->bias, r->scale, r->shift);
    }
    keep_watched(device, broken, r->rows);
}

SIMD_CLONES static void rms_norm_row(const float *x, float *y, int64_t features, float eps,
                                     const float *weight)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < features; i++)
        squares += x[i] * x[i];
    float factor = 1.0f / sqrtf(squares / (float)features + eps);
#pragma omp simd
    for (int64_t i = 0; i < features; i++)
        y[i] = x[i] * factor * weight[i];
}

void elementwise_rms_norm(struct device *device, const float *x, float *y, int64_t rows,
                          int64_t features, float eps, const float *weight)
{
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        rms_norm_row(x + row * features, y + row * features, features, eps, weight);
}

SIMD_CLONES static void rope_row(float *x, int32_t heads, int32_t head_dim, const float *cosine,
                                 const float *sine)
{
    for (int32_t head = 0; head < heads; head++, x += head_dim)
#pragma omp simd
        for (int32_t i = 0; i < head_dim / 2; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * cosine[i] - b * sine[i];
            x[2 * i + 1] = a * sine[i] + b * cosine[i];
        }
}

void elementwise_norm_rope(struct device *device, const struct ops_norm_rope *norm)
{
    assert(norm->type == ELEMENT_F32);
    const int64_t features = (int64_t)norm->heads * norm->head_dim, pairs = norm->head_dim / 2;
    float *x = norm->x;
    int64_t broken = norm->rows; /* the first row that is */
#pragma omp parallel for num_threads(device->threads) schedule(static) reduction(min : broken)
    for (int64_t row = 0; row < norm->rows; row++) {
        float *at = x + row * norm->stride;
        rms_norm_row(at, at, features, norm->eps, norm->weight);
        /* The norm spreads what is not finite over its row, or leaves it at its place. */
        if (isnan(zero_unless_not_finite(at, features)) && row < broken)
            broken = row;
        if (norm->cosine)
            rope_row(at, norm->heads, norm->head_dim, norm->cosine + row * pairs,
                     norm->sine + row * pairs);
    }
    keep_watched(device, broken, norm->rows);
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3) */
SIMD_CLONES static void gelu_tanh_chunk(float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float u = x[i] * (0.79788456f + 0.035677408f * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exp_fast(-2.0f * u));
    }
}

SIMD_CLONES static void silu_chunk(float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] = x[i] / (1.0f + exp_fast(-x[i]));
}

static void gelu_erf_chunk(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
}

void elementwise_activate(struct device *device, float *x, int64_t count,
                          enum activation activation)
{
    void (*chunk)(float *x, int64_t count) = NULL;
    switch (activation) {
    case ACTIVATION_NONE:
        return;
    case ACTIVATION_GELU_TANH:
        chunk = gelu_tanh_chunk;
        break;
    case ACTIVATION_GELU_ERF:
        chunk = gelu_erf_chunk;
        break;
    case ACTIVATION_SILU:
        chunk = silu_chunk;
        break;
    }
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i += CHUNK)
        chunk(x + i, chunk_count(i, count));
}

SIMD_CLONES static void multiply_chunk(float *restrict x, const float *restrict y, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] *= y[i];
}

void elementwise_multiply(struct device *device, float *x, const float *y, int64_t count)
{
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i += CHUNK)
        multiply_chunk(x + i, y + i, chunk_count(i, count));
}

SIMD_CLONES static void add_chunk(float *restrict x, const float *restrict y, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] += y[i];
}

void elementwise_add(struct device *device, float *x, const float *y, int64_t count)
{
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i += CHUNK)
        add_chunk(x + i, y + i, chunk_count(i, count));
}

SIMD_CLONES static void scale_chunk(float *out, float a, const float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = a * x[i];
}

SIMD_CLONES static void combine_chunk(float *out, float a, const float *x, float b, const float *y,
                                      int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = a * x[i] + b * y[i];
}

void elementwise_combine(struct device *device, float *out, float a, const float *x, float b,
                         const float *y, int64_t count)
{
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i += CHUNK)
        if (b == 0.0f)
            scale_chunk(out + i, a, x + i, chunk_count(i, count));
        else
            combine_chunk(out + i, a, x + i, b, y + i, chunk_count(i, count));
}

void elementwise_scatter_rows(struct device *device, const float *x, const int64_t *index, float *y,
                              int64_t rows, int64_t features)
{
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        memcpy(y + index[row] * features, x + row * features, (size_t)features * sizeof *y);
}

int64_t elementwise_first_not_finite(struct device *device, const float *x, int64_t count)
{
    int64_t first = count; /* begin of the first chunk that holds one */
#pragma omp parallel for num_threads(device->threads) schedule(static) reduction(min : first)
    for (int64_t i = 0; i < count; i += CHUNK)
        if (i < first && isnan(zero_unless_not_finite(x + i, chunk_count(i, count))))
            first = i;
    for (int64_t i = first; i < count; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}
