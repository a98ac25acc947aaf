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
    return ops_cpu.create(&device, 2, &error) ? 0 : -1;
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
    assert_false(ops_cpu.create(&none, -3, &error));
    assert_null(none);
    assert_non_null(strstr(error.text, "-3"));
}

/* ---- Norms ---- */

static void check_layer_norm(int64_t rows, int64_t features, bool affine, bool modulated)
{
    float *x = numbers(rows * features, 1), *y = numbers(rows * features, 2);
    float *weight = numbers(features, 3), *bias = numbers(features, 4);
    float *scale = numbers(features, 5), *shift = numbers(features, 6);
    for (int64_t i = 0; i < rows * features; i++)
        x[i] += 30.0f; /* a mean far from zero: naive variances lose digits */
    ops_cpu.layer_norm(device, x, y, rows, features, 1e-6f, affine ? weight : NULL,
                       affine ? bias : NULL, modulated ? scale : NULL, modulated ? shift : NULL);
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * features;
        double mean = 0.0, variance = 0.0;
        for (int64_t i = 0; i < features; i++)
            mean += in[i] / (double)features;
        for (int64_t i = 0; i < features; i++)
            variance += (in[i] - mean) * (in[i] - mean) / (double)features;
        for (int64_t i = 0; i < features; i++) {
            double want = (in[i] - mean) / sqrt(variance + 1e-6);
            if (affine)
                want = want * weight[i] + bias[i];
            if (modulated)
                want = want * (1.0 + scale[i]) + shift[i];
            assert_near(y[row * features + i], want, 3e-5);
        }
    }
    ops_cpu.layer_norm(device, x, x, rows, features, 1e-6f, affine ? weight : NULL,
                       affine ? bias : NULL, modulated ? scale : NULL, modulated ? shift : NULL);
    assert_memory_equal(x, y, (size_t)(rows * features) * sizeof *x);
    free(x), free(y), free(weight), free(bias), free(scale), free(shift);
}

static void layer_norm_is_its_definition(void **state)
{
    (void)state;
    static const int64_t features[] = {2, 17, 64, 259, 1536};
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++)
        for (int options = 0; options < 4; options++)
            check_layer_norm(5, features[i], options & 1, options & 2);
}

static void rms_norm_keeps_to_its_strides(void **state)
{
    (void)state;
    const int64_t rows = 7, features = 131, x_stride = 400, y_stride = 140;
    float *x = numbers(rows * x_stride, 1), *y = numbers(rows * y_stride, 2);
    float *before = numbers(rows * y_stride, 2), *weight = numbers(features, 3);
    ops_cpu.rms_norm(device, x, x_stride, y, y_stride, rows, features, 1e-6f, weight);
    for (int64_t row = 0; row < rows; row++) {
        double square = 0.0;
        for (int64_t i = 0; i < features; i++)
            square += (double)x[row * x_stride + i] * x[row * x_stride + i] / (double)features;
        for (int64_t i = 0; i < features; i++)
            assert_near(y[row * y_stride + i],
                        x[row * x_stride + i] / sqrt(square + 1e-6) * weight[i], 5e-6);
        for (int64_t i = features; i < y_stride; i++)
            assert_true(y[row * y_stride + i] == before[row * y_stride + i]);
    }
    free(x), free(y), free(before), free(weight);
}

static void rope_turns_pairs_of_every_head(void **state)
{
    (void)state;
    const int64_t rows = 5, stride = 300;
    const int32_t heads = 3, head_dim = 64;
    float *x = numbers(rows * stride, 1), *before = numbers(rows * stride, 1);
    float *angle = numbers(rows * head_dim / 2, 2);
    float *cosine = numbers(rows * head_dim / 2, 2), *sine = numbers(rows * head_dim / 2, 2);
    for (int64_t i = 0; i < rows * head_dim / 2; i++) {
        cosine[i] = (float)cos(angle[i]);
        sine[i] = (float)sin(angle[i]);
    }
    ops_cpu.rope(device, x, stride, rows, heads, head_dim, cosine, sine);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < stride; i += 2) {
            const float *in = before + row * stride + i, *out = x + row * stride + i;
            bool inside = i < heads * head_dim;
            double turn = inside ? angle[row * head_dim / 2 + i % head_dim / 2] : 0.0;
            assert_near(out[0], in[0] * cos(turn) - in[1] * sin(turn), 1e-6);
            assert_near(out[1], in[0] * sin(turn) + in[1] * cos(turn), 1e-6);
        }
    free(x), free(before), free(angle), free(cosine), free(sine);
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
    const int64_t rows = 31, features = 333, count = rows * features;
    float *x = numbers(count, 1), *y = numbers(count, 2), *gate = numbers(features, 3);
    float *z = numbers(count, 1);
    ops_cpu.add(device, z, y, count);
    for (int64_t i = 0; i < count; i++)
        assert_true(z[i] == x[i] + y[i]);
    memcpy(z, x, (size_t)count * sizeof *z);
    ops_cpu.multiply(device, z, y, count);
    for (int64_t i = 0; i < count; i++)
        assert_true(z[i] == x[i] * y[i]);
    memcpy(z, x, (size_t)count * sizeof *z);
    ops_cpu.add_gated(device, z, y, gate, rows, features);
    for (int64_t i = 0; i < count; i++)
        assert_near(z[i], x[i] + (double)y[i] * gate[i % features], 1e-6);
    memcpy(z, x, (size_t)count * sizeof *z);
    ops_cpu.combine(device, z, -1.5f, z, 0.25f, y, count);
    for (int64_t i = 0; i < count; i++)
        assert_near(z[i], -1.5 * x[i] + 0.25 * y[i], 1e-6);
    ops_cpu.combine(device, z, 2.0f, x, 0.0f, NULL, count);
    for (int64_t i = 0; i < count; i++)
        assert_true(z[i] == 2.0f * x[i]);
    free(x), free(y), free(z), free(gate);
}

static void scatter_undoes_gather(void **state)
{
    (void)state;
    const int64_t rows = 101, features = 9;
    int64_t index[101];
    float *x = numbers(rows * features, 1), *y = numbers(rows * features, 2);
    float *z = numbers(rows * features, 3);
    for (int64_t i = 0; i < rows; i++)
        index[i] = i * 37 % rows;
    ops_cpu.gather_rows(device, x, index, y, rows, features);
    for (int64_t i = 0; i < rows; i++)
        assert_memory_equal(y + i * features, x + index[i] * features, features * sizeof *x);
    ops_cpu.scatter_rows(device, y, index, z, rows, features);
    assert_memory_equal(z, x, (size_t)(rows * features) * sizeof *x);
    free(x), free(y), free(z);
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
    const float *q = a->q + query * a->q_stride + head * a->head_dim;
    double sum = 0.0, top = -INFINITY, *weight = malloc((size_t)a->k_rows * sizeof *weight);
    assert_non_null(weight);
    for (int64_t j = 0; j < a->k_rows; j++) {
        weight[j] = a->key_bias ? a->key_bias[j] : 0.0;
        if (a->bias)
            weight[j] += a->bias[head * (a->q_rows + a->k_rows - 1) + j - query + a->q_rows - 1];
        for (int32_t d = 0; d < a->head_dim; d++)
            weight[j] += (double)a->scale * q[d] * a->k[j * a->k_stride + head * a->head_dim + d];
        top = weight[j] > top ? weight[j] : top;
    }
    memset(out, 0, (size_t)a->head_dim * sizeof *out);
    for (int64_t j = 0; j < a->k_rows; j++) {
        double w = exp(weight[j] - top);
        sum += w;
        for (int32_t d = 0; d < a->head_dim; d++)
            out[d] += w * a->v[j * a->v_stride + head * a->head_dim + d];
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
        assert_true(ops_cpu.create(&own, 1 + i, &error));
        out[i] = numbers(2 * ALL, 3);
        struct ops_attention a = {.q = x, .k = x, .v = x, .o = out[i]};
        a.q_stride = a.k_stride = a.v_stride = a.o_stride = DIM * HEADS;
        a.q_rows = a.k_rows = ROWS;
        a.heads = HEADS;
        a.head_dim = DIM;
        a.scale = 0.125f;
        assert_true(ops_cpu.attention(own, &a, &error));
        ops_cpu.rms_norm(own, x, DIM * HEADS, out[i] + ALL, DIM * HEADS, ROWS, DIM * HEADS, 1e-6f,
                         weight);
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
        cmocka_unit_test(layer_norm_is_its_definition),
        cmocka_unit_test(rms_norm_keeps_to_its_strides),
        cmocka_unit_test(rope_turns_pairs_of_every_head),
        cmocka_unit_test(activations_are_accurate_everywhere),
        cmocka_unit_test(activations_keep_nan),
        cmocka_unit_test(sums_are_their_definitions),
        cmocka_unit_test(scatter_undoes_gather),
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
