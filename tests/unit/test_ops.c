/*
 * The CPU's operations against their definitions in double precision, with odd sizes, strides,
 * every option, and the values that must not be swallowed: NaN and infinity.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tensor/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct device *device;

static int make_device(void **state)
{
    (void)state;
    struct error error = {0};
    return ops_cpu.create(&device, &(struct device_desc){.threads = 2}, &error) ? 0 : -1;
}

static int drop_device(void **state)
{
    (void)state;
    ops_cpu.destroy(device);
    return 0;
}

/* Numbers in [-2, 2) that repeat in every run. */
static float *numbers(int64_t count, uint32_t seed)
{
    float *x = malloc((size_t)count * sizeof *x);
    assert_non_null(x);
    uint64_t state = seed;
    for (int64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(state >> 40) / (1 << 22) - 2.0);
    }
    return x;
}

static void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("got %.9g, expected %.9g within %.3g", got, want, tolerance);
}

/* ---- Memory and device ---- */

static void memory_is_aligned(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 200; bytes += 37) {
        void *memory = ops_cpu.alloc(device, bytes);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        ops_cpu.free(device, memory);
    }
    ops_cpu.free(device, NULL);
    assert_null(ops_cpu.alloc(device, SIZE_MAX));
}

static void negative_threads_are_refused(void **state)
{
    (void)state;
    struct error error = {0};
    struct device *none = (struct device *)&error;
    assert_false(ops_cpu.create(&none, &(struct device_desc){.threads = -3}, &error));
    assert_null(none);
    assert_non_null(strstr(error.text, "-3"));
}

static void other_activations_are_refused(void **state)
{
    (void)state;
    struct error error = {0};
    struct device *none = (struct device *)&error;
    assert_false(ops_cpu.create(&none, &(struct device_desc){.activations = ELEMENT_BF16}, &error));
    assert_null(none);
    assert_non_null(strstr(error.text, "float32"));
    assert_int_equal(ops_cpu.activations(device), ELEMENT_F32);
}

/* ---- Norms ---- */

/* y = LN(x) * weight + bias, then * (1 + scale) + shift; any of them may be NULL. */
static void norm_definition(const float *x, double *y, int64_t features, const float *weight,
                            const float *bias, const float *scale, const float *shift)
{
    double mean = 0.0, variance = 0.0;
    for (int64_t i = 0; i < features; i++)
        mean += x[i] / (double)features;
    for (int64_t i = 0; i < features; i++)
        variance += (x[i] - mean) * (x[i] - mean) / (double)features;
    for (int64_t i = 0; i < features; i++) {
        y[i] = (x[i] - mean) / sqrt(variance + 1e-6);
        y[i] = y[i] * (weight ? weight[i] : 1.0) + (bias ? bias[i] : 0.0);
        y[i] = y[i] * (1.0 + (scale ? scale[i] : 0.0)) + (shift ? shift[i] : 0.0);
    }
}

static void check_layer_norm(int64_t rows, int64_t features, bool affine)
{
    float *x = numbers(rows * features, 1), *y = numbers(rows * features, 2);
    float *weight = numbers(features, 3), *bias = numbers(features, 4);
    double *want = malloc((size_t)features * sizeof *want);
    assert_non_null(want);
    for (int64_t i = 0; i < rows * features; i++)
        x[i] += 30.0f; /* a mean far from zero: naive variances lose digits */
    ops_cpu.layer_norm(device, x, y, rows, features, 1e-6f, affine ? weight : NULL,
                       affine ? bias : NULL);
    for (int64_t row = 0; row < rows; row++) {
        norm_definition(x + row * features, want, features, affine ? weight : NULL,
                        affine ? bias : NULL, NULL, NULL);
        for (int64_t i = 0; i < features; i++)
            assert_near(y[row * features + i], want[i], 3e-5);
    }
    ops_cpu.layer_norm(device, x, x, rows, features, 1e-6f, affine ? weight : NULL,
                       affine ? bias : NULL);
    assert_memory_equal(x, y, (size_t)(rows * features) * sizeof *x);
    free(x), free(y), free(weight), free(bias), free(want);
}

static void layer_norm_is_its_definition(void **state)
{
    (void)state;
    static const int64_t features[] = {2, 17, 64, 259, 1536};
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++)
        for (int affine = 0; affine < 2; affine++)
            check_layer_norm(5, features[i], affine);
}

/* options: 1 add, 2 gate, 4 weight and bias, 8 scale and shift, 16 no norm, 32 y is add */
static void check_residual(int64_t rows, int64_t features, int options)
{
    const int64_t count = rows * features;
    float *x = numbers(count, 1), *before = numbers(count, 1), *add = numbers(count, 2);
    float *sum = numbers(count, 2), *y = numbers(count, 3), *small[5];
    double *want = malloc((size_t)features * sizeof *want);
    assert_non_null(want);
    for (int i = 0; i < 5; i++)
        small[i] = numbers(features, 4 + (uint32_t)i);
    const struct ops_residual r = {.x = x,
                                   .add = options & 1 ? add : NULL,
                                   .gate = options & 2 ? small[0] : NULL,
                                   .y = options & 16   ? NULL
                                        : options & 32 ? add
                                                       : y,
                                   .weight = options & 4 ? small[1] : NULL,
                                   .bias = options & 4 ? small[2] : NULL,
                                   .scale = options & 8 ? small[3] : NULL,
                                   .shift = options & 8 ? small[4] : NULL,
                                   .rows = rows,
                                   .features = features,
                                   .eps = 1e-6f};
    ops_cpu.residual(device, &r);
    for (int64_t row = 0; row < rows; row++) {
        const float *got = x + row * features;
        for (int64_t i = 0; i < features; i++) {
            double gate = options & 2 ? small[0][i] : 1.0;
            double moved = options & 1 ? sum[row * features + i] * gate : 0.0;
            assert_near(got[i], before[row * features + i] + moved, 1e-6);
        }
        norm_definition(got, want, features, r.weight, r.bias, r.scale, r.shift);
        for (int64_t i = 0; r.y && i < features; i++)
            assert_near(((const float *)r.y)[row * features + i], want[i], 3e-5);
    }
    for (int i = 0; i < 5; i++)
        free(small[i]);
    free(x), free(before), free(add), free(sum), free(y), free(want);
}

static void residual_is_its_parts(void **state)
{
    (void)state;
    static const int64_t features[] = {2, 17, 259, 1536};
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++)
        for (int options = 0; options < 64; options++)
            check_residual(5, features[i], options);
}

static void rms_norm_is_its_definition(void **state)
{
    (void)state;
    const int64_t rows = 7, features = 131;
    float *x = numbers(rows * features, 1), *y = numbers(rows * features, 2);
    float *weight = numbers(features, 3);
    ops_cpu.rms_norm(device, x, y, rows, features, 1e-6f, weight);
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * features;
        double square = 0.0;
        for (int64_t i = 0; i < features; i++)
            square += (double)in[i] * in[i] / (double)features;
        for (int64_t i = 0; i < features; i++)
            assert_near(y[row * features + i], in[i] / sqrt(square + 1e-6) * weight[i], 5e-6);
    }
    ops_cpu.rms_norm(device, x, x, rows, features, 1e-6f, weight);
    assert_memory_equal(x, y, (size_t)(rows * features) * sizeof *x);
    free(x), free(y), free(weight);
}

/* Rows of a wider array: what lies beside them stays. */
static void check_norm_rope(bool rotate)
{
    const int64_t rows = 5, stride = 300;
    enum { HEADS = 3, HEAD_DIM = 64, FEATURES = HEADS * HEAD_DIM };
    float *x = numbers(rows * stride, 1), *before = numbers(rows * stride, 1);
    float *weight = numbers(FEATURES, 3), *angle = numbers(rows * HEAD_DIM / 2, 2);
    float *cosine = numbers(rows * HEAD_DIM / 2, 2), *sine = numbers(rows * HEAD_DIM / 2, 2);
    for (int64_t i = 0; i < rows * HEAD_DIM / 2; i++) {
        cosine[i] = (float)cos(angle[i]);
        sine[i] = (float)sin(angle[i]);
    }
    const struct ops_norm_rope norm = {.x = x,
                                       .stride = stride,
                                       .rows = rows,
                                       .heads = HEADS,
                                       .head_dim = HEAD_DIM,
                                       .eps = 1e-6f,
                                       .weight = weight,
                                       .cosine = rotate ? cosine : NULL,
                                       .sine = rotate ? sine : NULL};
    ops_cpu.norm_rope(device, &norm);
    for (int64_t row = 0; row < rows; row++) {
        const float *in = before + row * stride, *out = x + row * stride;
        double square = 0.0;
        for (int64_t i = 0; i < FEATURES; i++)
            square += (double)in[i] * in[i] / FEATURES;
        for (int64_t i = 0; i < FEATURES; i += 2) {
            double turn = rotate ? angle[row * HEAD_DIM / 2 + i % HEAD_DIM / 2] : 0.0;
            double a = in[i] / sqrt(square + 1e-6) * weight[i];
            double b = in[i + 1] / sqrt(square + 1e-6) * weight[i + 1];
            assert_near(out[i], a * cos(turn) - b * sin(turn), 5e-6);
            assert_near(out[i + 1], a * sin(turn) + b * cos(turn), 5e-6);
        }
        assert_memory_equal(out + FEATURES, in + FEATURES, (size_t)(stride - FEATURES) * sizeof *x);
    }
    free(x), free(before), free(angle), free(cosine), free(sine), free(weight);
}

static void norm_rope_is_its_definition(void **state)
{
    (void)state;
    check_norm_rope(true);
    check_norm_rope(false);
}

/* Rows of one head, without gaps, that are not rotated. */
static struct ops_norm_rope one_head(float *x, const float *weight, int64_t rows, int32_t features)
{
    return (struct ops_norm_rope){.x = x,
                                  .stride = features,
                                  .rows = rows,
                                  .heads = 1,
                                  .head_dim = features,
                                  .eps = 1e-6f,
                                  .weight = weight};
}

/* The lowest place, and of it the lowest row, whichever operation came first. */
static void watched_names_place_and_row(void **state)
{
    (void)state;
    enum { ROWS = 40, FEATURES = 64 };
    float *x = numbers(ROWS * FEATURES, 1), *weight = numbers(FEATURES, 2);
    int32_t place;
    int64_t row;
    const struct ops_residual stream = {.x = x, .rows = ROWS, .features = FEATURES};
    const struct ops_norm_rope keys = one_head(x, weight, ROWS, FEATURES);
    ops_cpu.watch(device, 3);
    ops_cpu.residual(device, &stream);
    ops_cpu.norm_rope(device, &keys);
    assert_false(ops_cpu.watched(device, &place, &row));

    ops_cpu.watch(device, 7);
    x[31 * FEATURES + 5] = INFINITY;
    ops_cpu.residual(device, &stream);
    x[12 * FEATURES] = NAN;
    ops_cpu.norm_rope(device, &keys);
    assert_true(ops_cpu.watched(device, &place, &row));
    assert_true(place == 7 && row == 12);
    assert_false(ops_cpu.watched(device, &place, &row));

    ops_cpu.watch(device, 5);
    x[20 * FEATURES] = -INFINITY;
    ops_cpu.norm_rope(device, &keys);
    ops_cpu.watch(device, 6);
    ops_cpu.residual(device, &stream);
    assert_true(ops_cpu.watched(device, &place, &row));
    assert_true(place == 5 && row == 12);
    free(x), free(weight);
}

static void what_a_norm_weight_breaks_is_seen(void **state)
{
    (void)state;
    enum { ROWS = 3, FEATURES = 32 };
    float *x = numbers(ROWS * FEATURES, 1), *weight = numbers(FEATURES, 2);
    int32_t place;
    int64_t row;
    weight[9] = NAN;
    const struct ops_norm_rope keys = one_head(x, weight, ROWS, FEATURES);
    ops_cpu.watch(device, 1);
    ops_cpu.norm_rope(device, &keys);
    assert_true(ops_cpu.watched(device, &place, &row));
    assert_true(place == 1 && row == 0);
    free(x), free(weight);
}

/* ---- Patches ---- */

enum { CHANNELS = 3, PT = 2, PH = 2, PW = 3, GF = 2, GH = 3, GW = 4, TOKENS = GF * GH * GW };
enum { PATCH = PT * PH * PW, LATENTS = CHANNELS * TOKENS * PATCH };

/* Index of a latent by the token's raster index and the place in its patch. */
static int64_t latent_at(int64_t raster, int64_t c, int64_t dt, int64_t dy, int64_t dx)
{
    int64_t t = raster / (GH * GW) * PT + dt, y = raster / GW % GH * PH + dy;
    return ((c * GF * PT + t) * GH * PH + y) * GW * PW + raster % GW * PW + dx;
}

static void patches_are_cut_and_joined(void **state)
{
    (void)state;
    int64_t order[TOKENS];
    float *latents = numbers(LATENTS, 1), *rows = numbers(LATENTS, 2), *back = numbers(LATENTS, 3);
    for (int64_t i = 0; i < TOKENS; i++)
        order[i] = i * 7 % TOKENS;
    const struct ops_patches p = {.order = order,
                                  .channels = CHANNELS,
                                  .frames = GF,
                                  .height = GH,
                                  .width = GW,
                                  .patch = {PT, PH, PW}};
    ops_cpu.cut_patches(device, &p, latents, rows, ELEMENT_F32);
    const float *at = rows;
    for (int64_t i = 0; i < TOKENS; i++) /* the channel slowest */
        for (int64_t c = 0; c < CHANNELS; c++)
            for (int64_t inside = 0; inside < PATCH; inside++)
                assert_true(*at++ == latents[latent_at(order[i], c, inside / (PH * PW),
                                                       inside / PW % PH, inside % PW)]);
    float *turned = numbers(LATENTS, 4);
    for (int64_t i = 0; i < TOKENS; i++) /* the channel fastest */
        for (int64_t c = 0; c < CHANNELS; c++)
            for (int64_t inside = 0; inside < PATCH; inside++)
                turned[(i * PATCH + inside) * CHANNELS + c] =
                    rows[(i * CHANNELS + c) * PATCH + inside];
    ops_cpu.join_patches(device, &p, turned, back);
    assert_memory_equal(back, latents, LATENTS * sizeof *back);
    free(latents), free(rows), free(back), free(turned);
}

/* ---- Activations ---- */

static double activated(double x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case ACTIVATION_SILU:
        return x / (1.0 + exp(-x));
    default:
        return x;
    }
}

static void activations_are_accurate_everywhere(void **state)
{
    (void)state;
    const int64_t count = 20011; /* not a multiple of anything */
    float *x = malloc((size_t)count * sizeof *x);
    assert_non_null(x);
    for (int activation = ACTIVATION_NONE; activation <= ACTIVATION_SILU; activation++) {
        for (int64_t i = 0; i < count; i++)
            x[i] = (float)(i - count / 2) * 0.0123f;
        ops_cpu.activate(device, x, count, (enum activation)activation);
        for (int64_t i = 0; i < count; i++) {
            double in = (float)(i - count / 2) * 0.0123f;
            double want = activated(in, (enum activation)activation);
            assert_near(x[i], want, 1e-6 * (1.0 + fabs(want)));
        }
    }
    free(x);
}

static void activations_keep_nan(void **state)
{
    (void)state;
    for (int activation = ACTIVATION_NONE; activation <= ACTIVATION_SILU; activation++) {
        float x[19] = {0};
        x[3] = x[18] = NAN;
        ops_cpu.activate(device, x, 19, (enum activation)activation);
        assert_true(isnan(x[3]) && isnan(x[18]) && x[4] == 0.0f);
    }
}

/* ---- Sums ---- */

static void sums_are_their_definitions(void **state)
{
    (void)state;
    const int64_t count = 10323;
    float *x = numbers(count, 1), *y = numbers(count, 2), *z = numbers(count, 1);
    ops_cpu.add(device, z, y, count);
    for (int64_t i = 0; i < count; i++)
        assert_true(z[i] == x[i] + y[i]);
    memcpy(z, x, (size_t)count * sizeof *z);
    ops_cpu.multiply(device, z, y, count);
    for (int64_t i = 0; i < count; i++)
        assert_true(z[i] == x[i] * y[i]);
    memcpy(z, x, (size_t)count * sizeof *z);
    ops_cpu.combine(device, z, -1.5f, z, 0.25f, y, count);
    for (int64_t i = 0; i < count; i++)
        assert_near(z[i], -1.5 * x[i] + 0.25 * y[i], 1e-6);
    ops_cpu.combine(device, z, 2.0f, x, 0.0f, NULL, count);
    for (int64_t i = 0; i < count; i++)
        assert_true(z[i] == 2.0f * x[i]);
    free(x), free(y), free(z);
}

static void scattered_rows_lie_at_their_index(void **state)
{
    (void)state;
    const int64_t rows = 101, features = 9;
    int64_t index[101];
    float *x = numbers(rows * features, 1), *y = numbers(rows * features, 2);
    for (int64_t i = 0; i < rows; i++)
        index[i] = i * 37 % rows;
    ops_cpu.scatter_rows(device, x, index, y, rows, features);
    for (int64_t i = 0; i < rows; i++)
        assert_memory_equal(y + index[i] * features, x + i * features, features * sizeof *x);
    free(x), free(y);
}

static void first_not_finite_finds_the_first(void **state)
{
    (void)state;
    const int64_t count = 20000;
    float *x = numbers(count, 1);
    x[7] = 3.4e38f;
    assert_int_equal(ops_cpu.first_not_finite(device, x, count), -1);
    assert_int_equal(ops_cpu.first_not_finite(device, x, 0), -1);
    static const int64_t places[] = {19999, 12345, 4096, 4095, 1, 0};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        x[places[i]] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
        assert_int_equal(ops_cpu.first_not_finite(device, x, count), places[i]);
    }
    free(x);
}

/* ---- Attention ---- */

/* The definition, one query of one head; out [head_dim]. */
static void attend_one(const struct ops_attention *a, int64_t head, int64_t query, double *out)
{
    const float *q = (const float *)a->q + query * a->q_stride + head * a->head_dim;
    const float *k = (const float *)a->k + head * a->head_dim;
    const float *v = (const float *)a->v + head * a->head_dim;
    double sum = 0.0, top = -INFINITY, *weight = malloc((size_t)a->k_rows * sizeof *weight);
    assert_non_null(weight);
    for (int64_t j = 0; j < a->k_rows; j++) {
        weight[j] = a->key_bias ? a->key_bias[j] : 0.0;
        if (a->bias)
            weight[j] += a->bias[head * (a->q_rows + a->k_rows - 1) + j - query + a->q_rows - 1];
        for (int32_t d = 0; d < a->head_dim; d++)
            weight[j] += (double)a->scale * q[d] * k[j * a->k_stride + d];
        top = weight[j] > top ? weight[j] : top;
    }
    memset(out, 0, (size_t)a->head_dim * sizeof *out);
    for (int64_t j = 0; j < a->k_rows; j++) {
        double w = exp(weight[j] - top);
        sum += w;
        for (int32_t d = 0; d < a->head_dim; d++)
            out[d] += w * v[j * a->v_stride + d];
    }
    for (int32_t d = 0; d < a->head_dim; d++)
        out[d] /= sum;
    free(weight);
}

static void check_attention(int32_t heads, int32_t head_dim, int64_t q_rows, int64_t k_rows,
                            bool band, bool keys, bool accumulate)
{
    int64_t features = heads * head_dim, stride = features + 5;
    float *q = numbers(q_rows * stride, 1), *k = numbers(k_rows * 2 * stride, 2);
    float *o = numbers(q_rows * stride, 3), *before = numbers(q_rows * stride, 3);
    float *bias = numbers(heads * (q_rows + k_rows - 1), 4), *key_bias = numbers(k_rows, 5);
    double *want = malloc((size_t)head_dim * sizeof *want);
    assert_non_null(want);
    struct ops_attention a = {.q = q,
                              .k = k,
                              .v = k + stride,
                              .o = o,
                              .q_stride = stride,
                              .k_stride = 2 * stride,
                              .v_stride = 2 * stride,
                              .o_stride = stride,
                              .q_rows = q_rows,
                              .k_rows = k_rows,
                              .heads = heads,
                              .head_dim = head_dim,
                              .scale = 1.0f / sqrtf((float)head_dim),
                              .bias = band ? bias : NULL,
                              .key_bias = keys ? key_bias : NULL,
                              .accumulate = accumulate};
    struct error error = {0};
    assert_true(ops_cpu.attention(device, &a, &error));
    for (int64_t row = 0; row < q_rows; row++) {
        for (int32_t head = 0; head < heads; head++) {
            attend_one(&a, head, row, want);
            for (int32_t d = 0; d < head_dim; d++) {
                int64_t at = row * stride + head * head_dim + d;
                assert_near(o[at], want[d] + (accumulate ? before[at] : 0.0), 5e-6);
            }
        }
        assert_memory_equal(o + row * stride + features, before + row * stride + features,
                            5 * sizeof *o);
    }
    free(q), free(k), free(o), free(before), free(bias), free(key_bias), free(want);
}

static void attention_is_its_definition(void **state)
{
    (void)state;
    static const struct {
        int32_t heads, head_dim;
        int64_t q_rows, k_rows;
    } shapes[] = {{1, 1, 1, 1},    {4, 16, 160, 160}, {2, 128, 49, 14},  {3, 7, 6, 17},
                  {2, 64, 5, 512}, {1, 32, 97, 513},  {1, 80, 50, 1100}, {1, 384, 20, 30}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int options = 0; options < 8; options++)
            check_attention(shapes[i].heads, shapes[i].head_dim, shapes[i].q_rows, shapes[i].k_rows,
                            options & 1, options & 2, options & 4);
}

static void a_biased_key_stands_for_equal_keys(void **state)
{
    (void)state;
    enum { DIM = 64, QUERIES = 10, REAL = 13, ALL = 512 };
    float *q = numbers(QUERIES * DIM, 1), *k = numbers(ALL * DIM, 2), *v = numbers(ALL * DIM, 3);
    float few[QUERIES * DIM], bias[REAL + 1] = {0};
    for (int64_t j = REAL; j < ALL; j++) {
        memcpy(k + j * DIM, k + REAL * DIM, DIM * sizeof *k);
        memcpy(v + j * DIM, v + REAL * DIM, DIM * sizeof *v);
    }
    bias[REAL] = logf(ALL - REAL);
    struct ops_attention all = {.q = q, .k = k, .v = v, .o = few};
    all.q_stride = all.k_stride = all.v_stride = all.o_stride = all.head_dim = DIM;
    all.q_rows = QUERIES;
    all.k_rows = ALL;
    all.heads = 1;
    all.scale = 0.125f;
    struct ops_attention short_form = all;
    short_form.k_rows = REAL + 1;
    short_form.key_bias = bias;
    struct error error = {0};
    assert_true(ops_cpu.attention(device, &short_form, &error));
    for (int64_t row = 0; row < QUERIES; row++) {
        double want[DIM];
        attend_one(&all, 0, row, want);
        for (int d = 0; d < DIM; d++)
            assert_near(few[row * DIM + d], want[d], 2e-6);
    }
    free(q), free(k), free(v);
}

static void attention_hides_no_nan(void **state)
{
    (void)state;
    enum { DIM = 32, ROWS = 70 };
    for (int which = 0; which < 3; which++)
        for (int infinite = 0; infinite < 2; infinite++) {
            float *x[3] = {numbers(ROWS * DIM, 1), numbers(ROWS * DIM, 2), numbers(ROWS * DIM, 3)};
            float o[ROWS * DIM];
            x[which][5 * DIM + 1] = infinite ? INFINITY : NAN;
            struct ops_attention a = {.q = x[0], .k = x[1], .v = x[2], .o = o};
            a.q_stride = a.k_stride = a.v_stride = a.o_stride = a.head_dim = DIM;
            a.q_rows = a.k_rows = ROWS;
            a.heads = 1;
            a.scale = 1.0f;
            struct error error = {0};
            assert_true(ops_cpu.attention(device, &a, &error));
            assert_false(isfinite(o[5 * DIM + 1]));
            free(x[0]), free(x[1]), free(x[2]);
        }
}

static void huge_logits_stay_finite(void **state)
{
    (void)state;
    enum { DIM = 16, ROWS = 40 };
    float *q = numbers(ROWS * DIM, 1), *v = numbers(ROWS * DIM, 3), o[ROWS * DIM];
    for (int i = 0; i < ROWS * DIM; i++)
        q[i] *= 1e6f;
    struct ops_attention a = {.q = q, .k = q, .v = v, .o = o};
    a.q_stride = a.k_stride = a.v_stride = a.o_stride = a.head_dim = DIM;
    a.q_rows = a.k_rows = ROWS;
    a.heads = 1;
    a.scale = 1.0f;
    struct error error = {0};
    double want[DIM];
    assert_true(ops_cpu.attention(device, &a, &error));
    for (int64_t row = 0; row < ROWS; row++) {
        attend_one(&a, 0, row, want);
        for (int d = 0; d < DIM; d++)
            assert_near(o[row * DIM + d], want[d], 1e-6);
    }
    free(q), free(v);
}

static void empty_attention_is_refused(void **state)
{
    (void)state;
    struct ops_attention a = {.heads = 2, .head_dim = 64, .q_rows = 5, .k_rows = 0};
    struct error error = {0};
    assert_false(ops_cpu.attention(device, &a, &error));
    assert_non_null(strstr(error.text, "0 keys"));
}

static void threads_do_not_change_results(void **state)
{
    (void)state;
    enum { DIM = 64, HEADS = 2, ROWS = 300, ALL = ROWS * DIM * HEADS };
    float *x = numbers(ALL, 1), *weight = numbers(DIM * HEADS, 2), *out[2];
    for (int i = 0; i < 2; i++) {
        struct error error = {0};
        struct device *own;
        assert_true(ops_cpu.create(&own, &(struct device_desc){.threads = 1 + i}, &error));
        out[i] = numbers(2 * ALL, 3);
        struct ops_attention a = {.q = x, .k = x, .v = x, .o = out[i]};
        a.q_stride = a.k_stride = a.v_stride = a.o_stride = DIM * HEADS;
        a.q_rows = a.k_rows = ROWS;
        a.heads = HEADS;
        a.head_dim = DIM;
        a.scale = 0.125f;
        assert_true(ops_cpu.attention(own, &a, &error));
        ops_cpu.rms_norm(own, x, out[i] + ALL, ROWS, DIM * HEADS, 1e-6f, weight);
        ops_cpu.destroy(own);
    }
    assert_memory_equal(out[0], out[1], 2 * ALL * sizeof *out[0]);
    free(x), free(weight), free(out[0]), free(out[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_aligned),
        cmocka_unit_test(negative_threads_are_refused),
        cmocka_unit_test(other_activations_are_refused),
        cmocka_unit_test(layer_norm_is_its_definition),
        cmocka_unit_test(residual_is_its_parts),
        cmocka_unit_test(rms_norm_is_its_definition),
        cmocka_unit_test(norm_rope_is_its_definition),
        cmocka_unit_test(watched_names_place_and_row),
        cmocka_unit_test(what_a_norm_weight_breaks_is_seen),
        cmocka_unit_test(patches_are_cut_and_joined),
        cmocka_unit_test(activations_are_accurate_everywhere),
        cmocka_unit_test(activations_keep_nan),
        cmocka_unit_test(sums_are_their_definitions),
        cmocka_unit_test(scattered_rows_lie_at_their_index),
        cmocka_unit_test(first_not_finite_finds_the_first),
        cmocka_unit_test(attention_is_its_definition),
        cmocka_unit_test(a_biased_key_stands_for_equal_keys),
        cmocka_unit_test(attention_hides_no_nan),
        cmocka_unit_test(huge_logits_stay_finite),
        cmocka_unit_test(empty_attention_is_refused),
        cmocka_unit_test(threads_do_not_change_results),
    };
    return cmocka_run_group_tests(tests, make_device, drop_device);
}
