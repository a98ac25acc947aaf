/*
 * Dense attention with any head size, any number of queries and keys, and additive biases.
 *
 * Keys and values of all heads are packed once into panels 16 wide, so that both products, scores =
 * q k^T and out = p v, are the same inner loop: ROWS rows of the left matrix times one panel. A
 * task is one head and BLOCK queries; it walks the keys KEYS at a time with an online softmax
 * (arXiv 2205.14135), so the score matrix never exists as a whole. Tasks are independent of each
 * other and of the threads.
 *
 * NaN and infinities of q, k and v come out as NaN: nothing here may hide a broken layer.
 */
#include "attention_cpu.h"

#include "checked.h"
#include "device_cpu.h"
#include "exp_fast.h"
#include "simd_clones.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#define PANEL 16  /* floats: one AVX-512 register, two AVX2 registers */
#define ROWS  6   /* times PANEL: accumulators that fit AVX2's sixteen registers */
#define BLOCK 48  /* queries of a task */
#define KEYS  512 /* keys between two rescalings; a multiple of PANEL */

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(PANEL * sizeof(float)), aligned(4), may_alias));

/* What one task needs of the call; in floats. */
struct layout {
    int64_t keys;   /* k_rows rounded up to whole panels */
    int64_t width;  /* head_dim rounded up to whole panels */
    int64_t head_k; /* packed keys of a head: [keys / PANEL][head_dim][PANEL] */
    int64_t head_v; /* packed values of a head: [width / PANEL][keys][PANEL] */
    int64_t work;   /* of a thread: q [BLOCK][head_dim], s [BLOCK][KEYS], o [BLOCK][width] */
    int64_t total;
};

static bool layout_make(struct layout *layout, int64_t heads, int64_t head_dim, int64_t k_rows,
                        int64_t threads)
{
    int64_t k, v, work;
    layout->width = (head_dim + PANEL - 1) / PANEL * PANEL;
    if (!checked_add(k_rows, PANEL - 1, &layout->keys))
        return false;
    layout->keys = layout->keys / PANEL * PANEL;
    layout->work = BLOCK * (layout->width + KEYS + layout->width);
    if (!checked_mul(layout->keys, layout->width, &layout->head_v) ||
        !checked_mul(heads, layout->head_v, &v) || !checked_mul(threads, layout->work, &work))
        return false;
    layout->head_k = layout->keys * head_dim;
    k = heads * layout->head_k;
    return checked_add(k, v, &layout->total) && checked_add(layout->total, work, &layout->total) &&
           checked_mul(layout->total, sizeof(float), &work);
}

int64_t attention_cpu_bytes(int32_t heads, int32_t head_dim, int64_t k_rows, int32_t threads)
{
    struct layout layout;
    return layout_make(&layout, heads, head_dim, k_rows, threads)
               ? layout.total * (int64_t)sizeof(float)
               : INT64_MAX;
}

/* One panel of PANEL keys (transposed) and the same rows of v; rows past the end are zero. */
SIMD_CLONES static void pack_panel(const struct ops_attention *a, const struct layout *layout,
                                   int64_t head, int64_t panel, float *packed_k, float *packed_v)
{
    int64_t first = panel * PANEL, head_dim = a->head_dim;
    int64_t count = a->k_rows - first < PANEL ? a->k_rows - first : PANEL;
    float *to = packed_k + head * layout->head_k + first * head_dim;
    for (int64_t j = 0; j < PANEL; j++) {
        const float *from = (const float *)a->k + (first + j) * a->k_stride + head * head_dim;
        for (int64_t d = 0; d < head_dim; d++)
            to[d * PANEL + j] = j < count ? from[d] : 0.0f;
    }
    for (int64_t w = 0; w < layout->width; w += PANEL) {
        int64_t filled = head_dim - w < PANEL ? head_dim - w : PANEL;
        to = packed_v + head * layout->head_v + w * layout->keys + first * PANEL;
        memset(to, 0, PANEL * PANEL * sizeof *to);
        for (int64_t j = 0; j < count; j++)
            memcpy(to + j * PANEL,
                   (const float *)a->v + (first + j) * a->v_stride + head * head_dim + w,
                   (size_t)filled * sizeof *to);
    }
}

/* c [ROWS][PANEL] = or += a [ROWS][depth] times b [depth][PANEL] */
INLINE void multiply_tile(const float *a, int64_t a_stride, const float *b, int64_t depth, float *c,
                          int64_t c_stride, bool add)
{
    vector sum[ROWS];
    for (int r = 0; r < ROWS; r++)
        sum[r] = add ? *(const vector *)(c + r * c_stride) : (vector){0};
    for (int64_t i = 0; i < depth; i++) {
        vector w = *(const vector *)(b + i * PANEL);
        for (int r = 0; r < ROWS; r++)
            sum[r] += a[r * a_stride + i] * w;
    }
    for (int r = 0; r < ROWS; r++)
        *(vector *)(c + r * c_stride) = sum[r];
}

/* c [rows][panels * PANEL] = or += a [rows][depth] times panels of b, panel_stride apart; rows is a
 * multiple of ROWS. */
INLINE void multiply(const float *a, int64_t a_stride, const float *b, int64_t panel_stride,
                     int64_t depth, float *c, int64_t c_stride, int64_t rows, int64_t panels,
                     bool add)
{
    for (int64_t p = 0; p < panels; p++)
        for (int64_t r = 0; r < rows; r += ROWS)
            multiply_tile(a + r * a_stride, a_stride, b + p * panel_stride, depth,
                          c + r * c_stride + p * PANEL, c_stride, add);
}

/* Adds the biases to count scores and returns their maximum. */
INLINE float bias_row(float *s, int64_t count, const float *band, const float *key_bias)
{
    if (band)
#pragma omp simd
        for (int64_t j = 0; j < count; j++)
            s[j] += band[j];
    if (key_bias)
#pragma omp simd
        for (int64_t j = 0; j < count; j++)
            s[j] += key_bias[j];
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < count; j++)
        top = s[j] > top ? s[j] : top;
    return top;
}

/* s = e^(s - top) over count scores; returns their sum, NaN where a score is not finite (the
 * comparison in the maximum and exp_fast() would both swallow it). */
INLINE float exponentiate_row(float *s, int64_t count, float top)
{
    float sum = 0.0f, broken = 0.0f;
#pragma omp simd reduction(+ : sum, broken)
    for (int64_t j = 0; j < count; j++) {
        broken += s[j] * 0.0f;
        s[j] = exp_fast(s[j] - top);
        sum += s[j];
    }
    return sum + broken;
}

/* The state of a task's online softmax, per query. */
struct running {
    float top[BLOCK];
    float sum[BLOCK];
};

/* Turns scores of keys [first, first + count) into weights and rescales what is summed so far. */
INLINE void softmax_block(const struct ops_attention *a, int64_t head, int64_t query, int64_t rows,
                          int64_t first, int64_t count, float *s, float *o, int64_t width,
                          struct running *running)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *band = a->bias ? a->bias + head * (a->q_rows + a->k_rows - 1) + first -
                                          (query + r) + a->q_rows - 1
                                    : NULL;
        float *row = s + r * KEYS;
        float top = bias_row(row, count, band, a->key_bias ? a->key_bias + first : NULL);
        top = top > running->top[r] ? top : running->top[r];
        float sum = exponentiate_row(row, count, top);
        float factor = first == 0 ? 0.0f : exp_fast(running->top[r] - top);
        running->sum[r] = running->sum[r] * factor + sum;
        running->top[r] = top;
        if (factor != 1.0f)
#pragma omp simd
            for (int64_t d = 0; d < width; d++)
                o[r * width + d] *= factor;
    }
}

/* Queries [query, query + rows) of one head. */
SIMD_CLONES static void attend(const struct ops_attention *a, const struct layout *layout,
                               int64_t head, int64_t query, int64_t rows, const float *packed_k,
                               const float *packed_v, float *work)
{
    int64_t head_dim = a->head_dim, width = layout->width;
    int64_t padded = (rows + ROWS - 1) / ROWS * ROWS;
    float *q = work, *s = q + BLOCK * width, *o = s + BLOCK * KEYS;
    struct running running;
    for (int64_t r = 0; r < padded; r++) {
        const float *from = (const float *)a->q + (query + r) * a->q_stride + head * head_dim;
        for (int64_t d = 0; d < head_dim; d++)
            q[r * head_dim + d] = r < rows ? from[d] * a->scale : 0.0f;
        running.top[r] = -INFINITY;
        running.sum[r] = 0.0f;
    }
    memset(o, 0, (size_t)(padded * width) * sizeof *o);

    for (int64_t first = 0; first < a->k_rows; first += KEYS) {
        int64_t count = a->k_rows - first < KEYS ? a->k_rows - first : KEYS;
        multiply(q, head_dim, packed_k + head * layout->head_k + first * head_dim, head_dim * PANEL,
                 head_dim, s, KEYS, padded, (count + PANEL - 1) / PANEL, false);
        softmax_block(a, head, query, rows, first, count, s, o, width, &running);
        multiply(s, KEYS, packed_v + head * layout->head_v + first * PANEL, layout->keys * PANEL,
                 count, o, width, padded, width / PANEL, true);
    }

    for (int64_t r = 0; r < rows; r++) {
        float *to = (float *)a->o + (query + r) * a->o_stride + head * head_dim;
        float factor = 1.0f / running.sum[r];
        if (a->accumulate)
#pragma omp simd
            for (int64_t d = 0; d < head_dim; d++)
                to[d] += o[r * width + d] * factor;
        else
#pragma omp simd
            for (int64_t d = 0; d < head_dim; d++)
                to[d] = o[r * width + d] * factor;
    }
}

bool attention_cpu(struct device *device, const struct ops_attention *a, struct error *error)
{
    struct layout layout;
    assert(a->type == ELEMENT_F32);
    if (a->heads < 1 || a->head_dim < 1 || a->q_rows < 1 || a->k_rows < 1)
        return error_set(error,
                         "attention: %d heads of %d, %lld queries, %lld keys: each must be >= 1",
                         a->heads, a->head_dim, (long long)a->q_rows, (long long)a->k_rows);
    if (!layout_make(&layout, a->heads, a->head_dim, a->k_rows, device->threads))
        return error_set(error, "attention: %d heads of %d with %lld keys exceed 64-bit sizes",
                         a->heads, a->head_dim, (long long)a->k_rows);
    float *packed_k = device_scratch(device, (size_t)layout.total * sizeof(float));
    if (!packed_k)
        return error_out_of_memory(error, "attention",
                                   (unsigned long long)layout.total * sizeof(float));
    float *packed_v = packed_k + a->heads * layout.head_k;
    float *work = packed_v + a->heads * layout.head_v;

    int64_t panels = layout.keys / PANEL, blocks = (a->q_rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < a->heads * panels; i++)
        pack_panel(a, &layout, i / panels, i % panels, packed_k, packed_v);
#pragma omp parallel for num_threads(device->threads) schedule(dynamic)
    for (int64_t i = 0; i < a->heads * blocks; i++) {
        int64_t query = i % blocks * BLOCK;
        int64_t rows = a->q_rows - query < BLOCK ? a->q_rows - query : BLOCK;
        attend(a, &layout, i / blocks, query, rows, packed_k, packed_v,
               work + omp_get_thread_num() * layout.work);
    }
    return true;
}
