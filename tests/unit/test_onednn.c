/*
 * Linear layers and convolutions against plain loops in double: sizes around vector widths, one
 * row, no bias, every activation, paddings on one side, strides, residual sums, and more shapes
 * than a layer keeps.
 */
#include "tensor/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct device *device;
    struct error error;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    *state = fixture;
    return fixture && ops_cpu.create(&fixture->device, &(struct device_desc){0}, &fixture->error)
               ? 0
               : -1;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    ops_cpu.destroy(fixture->device);
    free(fixture);
    return 0;
}

static float *numbers(int64_t count, uint32_t seed)
{
    float *out = malloc((size_t)count * sizeof(*out));
    assert_non_null(out);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
    }
    return out;
}

static void assert_near(const float *got, const double *want, int64_t count, double tolerance)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(got[i] - want[i]) <= tolerance))
            fail_msg("element %lld is %.9g, expected %.9g", (long long)i, (double)got[i], want[i]);
}

static double activated(double x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case ACTIVATION_GELU_ERF:
        return 0.5 * x * (1 + erf(x * 0.7071067811865476));
    case ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case ACTIVATION_NONE:
        break;
    }
    return x;
}

static void check_linear(struct fixture *fixture, int64_t in, int64_t out, bool has_bias,
                         const int64_t *rows, int row_count)
{
    float *weight = numbers(in * out, 1), *bias = numbers(out, 2);
    struct linear *linear = NULL;
    const struct linear_desc desc = {
        .in = in, .out = out, .bias = has_bias, .weight = weight, .bias_values = bias};
    assert_true(ops_cpu.linear_create(fixture->device, &linear, &desc, &fixture->error));
    for (int r = 0; r < row_count; r++) {
        const enum activation activation = (enum activation)(r % 4);
        float *x = numbers(rows[r] * in, 3 + (uint32_t)r);
        float *y = malloc((size_t)(rows[r] * out) * sizeof(*y));
        double *want = malloc((size_t)(rows[r] * out) * sizeof(*want));
        for (int64_t i = 0; i < rows[r]; i++)
            for (int64_t o = 0; o < out; o++) {
                double sum = has_bias ? bias[o] : 0;
                for (int64_t k = 0; k < in; k++)
                    sum += (double)x[i * in + k] * weight[o * in + k];
                want[i * out + o] = activated(sum, activation);
            }
        if (!ops_cpu.linear(fixture->device, linear, x, ELEMENT_F32, y, ELEMENT_F32, rows[r],
                            activation, &fixture->error))
            fail_msg("%s", fixture->error.text);
        assert_near(y, want, rows[r] * out, 2e-5);
        free(x);
        free(y);
        free(want);
    }
    ops_cpu.linear_destroy(fixture->device, linear);
    free(weight);
    free(bias);
}

static void test_linear(void **state)
{
    const int64_t rows[] = {1, 2, 33, 130, 7, 64, 17, 128, 3, 1, 300, 2};
    const int count = (int)(sizeof(rows) / sizeof(*rows));
    check_linear(*state, 256, 96, true, rows, count);
    check_linear(*state, 100, 7, true, rows, count);
    check_linear(*state, 1, 1, false, rows, 4);
    check_linear(*state, 48, 64, false, rows, 4);
    check_linear(*state, 16, 16, true, rows, 4);
}

static void test_linear_without_rows(void **state)
{
    struct fixture *fixture = *state;
    const float weight[2] = {1, 2};
    struct linear *linear = NULL;
    const struct linear_desc desc = {.in = 2, .out = 1, .weight = weight};
    assert_true(ops_cpu.linear_create(fixture->device, &linear, &desc, &fixture->error));
    float y = 5;
    assert_true(ops_cpu.linear(fixture->device, linear, weight, ELEMENT_F32, &y, ELEMENT_F32, 0,
                               ACTIVATION_NONE, &fixture->error));
    assert_true(y == 5);
    ops_cpu.linear_destroy(fixture->device, linear);
    ops_cpu.linear_destroy(fixture->device, NULL);
}

/* y = x W^T of the unit matrix is the weight. */
static float *random_weight(struct device *device, uint64_t seed, int64_t in, int64_t out)
{
    struct error error = {0};
    struct linear *linear = NULL;
    const struct linear_desc desc = {.in = in, .out = out, .bias = true, .seed = seed};
    float *unit = calloc((size_t)(in * in), sizeof *unit);
    float *weight = malloc((size_t)(in * out) * sizeof *weight);
    for (int64_t i = 0; i < in; i++)
        unit[i * in + i] = 1.0f;
    assert_true(ops_cpu.linear_create(device, &linear, &desc, &error));
    assert_true(ops_cpu.linear(device, linear, unit, ELEMENT_F32, weight, ELEMENT_F32, in,
                               ACTIVATION_NONE, &error));
    ops_cpu.linear_destroy(device, linear);
    free(unit);
    return weight;
}

static void test_random_weights(void **state)
{
    struct fixture *fixture = *state;
    enum { IN = 300, OUT = 200, COUNT = IN * OUT };
    float *one = random_weight(fixture->device, 1, IN, OUT);
    float *same = random_weight(fixture->device, 1, IN, OUT);
    float *other = random_weight(fixture->device, 2, IN, OUT);
    double sum = 0, squares = 0, product = 0, largest = 0;
    for (int i = 0; i < COUNT; i++) {
        sum += one[i];
        squares += (double)one[i] * one[i];
        product += (double)one[i] * other[i];
        largest = fmax(largest, fabs(one[i]));
    }
    /* Four standard deviations of these estimates. */
    assert_true(fabs(sum / COUNT) < 4 * sqrt(1.0 / IN / COUNT));
    assert_true(fabs(squares / COUNT * IN - 1) < 4 * sqrt(0.8 / COUNT));
    assert_true(fabs(product / COUNT * IN) < 4 * sqrt(1.0 / COUNT));
    assert_true(largest <= sqrt(3.0 / IN) * (1 + 1e-6) && largest > 0.999 * sqrt(3.0 / IN));
    assert_memory_equal(one, same, COUNT * sizeof *one);
    free(one), free(same), free(other);
}

struct size {
    int64_t frames, height, width;
};

/* A convolution from its definition. */
static double *convolve(const struct conv_desc *d, const float *weight, const float *bias,
                        const float *x, struct size in, const float *add, struct size *out)
{
    out->frames = (in.frames - d->kt) / d->stride_t + 1;
    out->height = (in.height + d->pad_top + d->pad_bottom - d->kh) / d->stride_h + 1;
    out->width = (in.width + d->pad_left + d->pad_right - d->kw) / d->stride_w + 1;
    const int64_t total = out->frames * out->height * out->width * d->out;
    const int64_t taps = (int64_t)d->kt * d->kh * d->kw;
    double *y = malloc((size_t)total * sizeof(*y));
    assert_non_null(y);
    for (int64_t i = 0; i < total; i++) {
        const int64_t o = i % d->out, column = i / d->out % out->width;
        const int64_t row = i / d->out / out->width % out->height;
        const int64_t frame = i / d->out / out->width / out->height;
        double sum = (bias ? bias[o] : 0) + (add ? add[i] : 0);
        for (int64_t tap = 0; tap < taps; tap++) {
            const int64_t t = frame * d->stride_t + tap / (d->kh * d->kw);
            const int64_t r = row * d->stride_h + tap / d->kw % d->kh - d->pad_top;
            const int64_t c = column * d->stride_w + tap % d->kw - d->pad_left;
            if (r < 0 || r >= in.height || c < 0 || c >= in.width)
                continue;
            for (int64_t k = 0; k < d->in; k++)
                sum += (double)x[((t * in.height + r) * in.width + c) * d->in + k] *
                       weight[(o * d->in + k) * taps + tap];
        }
        y[i] = sum;
    }
    return y;
}

enum sum { SUM_NONE, SUM_OTHER, SUM_SELF };

static void check_conv_once(struct fixture *fixture, const struct conv *conv,
                            const struct conv_desc *d, const float *weight, const float *bias,
                            struct size in, enum sum sum)
{
    struct size out;
    float *x = numbers(in.frames * in.height * in.width * d->in, 7);
    double *want = convolve(d, weight, bias, x, in, NULL, &out);
    const int64_t total = out.frames * out.height * out.width * d->out;
    float *y = numbers(total, 9), *add = numbers(total, sum == SUM_SELF ? 9 : 10);
    for (int64_t i = 0; sum != SUM_NONE && i < total; i++)
        want[i] += add[i];
    const float *given = sum == SUM_NONE ? NULL : sum == SUM_SELF ? y : add;
    if (!ops_cpu.conv(fixture->device, conv, x, in.frames, in.height, in.width, given, y,
                      &fixture->error))
        fail_msg("%s", fixture->error.text);
    assert_near(y, want, total, 1e-4);
    free(x);
    free(y);
    free(add);
    free(want);
}

static void check_conv(struct fixture *fixture, struct conv_desc d, bool has_bias,
                       const struct size *sizes, int count)
{
    const int64_t taps = (int64_t)d.kt * d.kh * d.kw;
    float *weight = numbers(d.out * d.in * taps, 4), *bias = numbers(d.out, 5);
    struct conv *conv = NULL;
    if (!ops_cpu.conv_create(fixture->device, &conv, &d, weight, has_bias ? bias : NULL,
                             &fixture->error))
        fail_msg("%s", fixture->error.text);
    for (int i = 0; i < count; i++)
        for (int sum = SUM_NONE; sum <= SUM_SELF; sum++)
            check_conv_once(fixture, conv, &d, weight, has_bias ? bias : NULL, sizes[i],
                            (enum sum)sum);
    ops_cpu.conv_destroy(fixture->device, conv);
    free(weight);
    free(bias);
}

static struct conv_desc cube(int32_t in, int32_t out, int32_t kt, int32_t k)
{
    return (struct conv_desc){in, out, kt, k, k, 1, 1, 1, k / 2, k / 2, k / 2, k / 2};
}

static void test_conv(void **state)
{
    const struct size sizes[] = {{3, 5, 7}, {6, 4, 4}, {3, 1, 1}, {4, 9, 16}};
    const int32_t widths[][2] = {{16, 16}, {3, 8}, {8, 3}, {16, 32}, {5, 7}, {40, 24}};
    for (int i = 0; i < 6; i++) {
        check_conv(*state, cube(widths[i][0], widths[i][1], 3, 3), true, sizes, 4);
        check_conv(*state, cube(widths[i][0], widths[i][1], 1, 3), i % 2, sizes, 4);
        check_conv(*state, cube(widths[i][0], widths[i][1], 3, 1), true, sizes, 4);
    }
    check_conv(*state, cube(16, 16, 1, 1), false, sizes, 4);
}

static void test_conv_that_shrinks(void **state)
{
    const struct size even[] = {{1, 8, 8}, {4, 6, 2}}, odd[] = {{3, 4, 5}, {5, 3, 3}};
    struct conv_desc space = cube(16, 16, 1, 3), time = cube(16, 16, 3, 1);
    space.stride_h = space.stride_w = 2;
    space.pad_top = space.pad_left = 0;
    time.stride_t = 2;
    check_conv(*state, space, true, even, 2);
    check_conv(*state, time, true, odd, 2);
}

static void test_more_shapes_than_are_kept(void **state)
{
    struct size sizes[12];
    for (int i = 0; i < 12; i++)
        sizes[i] = (struct size){3, 2 + i, 3};
    sizes[11] = sizes[0];
    check_conv(*state, cube(16, 8, 3, 3), true, sizes, 12);
}

static void test_conv_that_does_not_fit(void **state)
{
    struct fixture *fixture = *state;
    const struct conv_desc d = cube(1, 1, 3, 1);
    const float weight[3] = {1, 1, 1}, x[2] = {1, 1};
    float y;
    struct conv *conv = NULL;
    assert_true(ops_cpu.conv_create(fixture->device, &conv, &d, weight, NULL, &fixture->error));
    assert_false(ops_cpu.conv(fixture->device, conv, x, 2, 1, 1, NULL, &y, &fixture->error));
    assert_non_null(strstr(fixture->error.text, "does not fit"));
    ops_cpu.conv_destroy(fixture->device, conv);
    ops_cpu.conv_destroy(fixture->device, NULL);
}

/* The same bits from one thread and from two. */
static void test_threads_do_not_matter(void **state)
{
    (void)state;
    enum { ROWS = 300, IN = 256, OUT = 160, SIDE = 20, CHANNELS = 16 };
    const struct conv_desc d = cube(CHANNELS, CHANNELS, 3, 3);
    float *weight = numbers(IN * OUT, 1), *x = numbers(ROWS * IN, 2);
    const struct linear_desc desc = {.in = IN, .out = OUT, .weight = weight};
    float *y[2], *z[2];
    for (int i = 0; i < 2; i++) {
        struct device *device = NULL;
        struct linear *linear = NULL;
        struct conv *conv = NULL;
        struct error error;
        y[i] = calloc(ROWS * OUT, sizeof(float));
        z[i] = calloc(2 * SIDE * SIDE * CHANNELS, sizeof(float));
        assert_true(ops_cpu.create(&device, &(struct device_desc){.threads = 1 + i}, &error));
        assert_true(ops_cpu.linear_create(device, &linear, &desc, &error));
        assert_true(ops_cpu.conv_create(device, &conv, &d, weight, NULL, &error));
        assert_true(ops_cpu.linear(device, linear, x, ELEMENT_F32, y[i], ELEMENT_F32, ROWS,
                                   ACTIVATION_SILU, &error));
        assert_true(ops_cpu.conv(device, conv, x, 4, SIDE, SIDE, NULL, z[i], &error));
        ops_cpu.linear_destroy(device, linear);
        ops_cpu.conv_destroy(device, conv);
        ops_cpu.destroy(device);
    }
    assert_memory_equal(y[0], y[1], ROWS * OUT * sizeof(float));
    assert_memory_equal(z[0], z[1], 2 * SIDE * SIDE * CHANNELS * sizeof(float));
    for (int i = 0; i < 2; i++) {
        free(y[i]);
        free(z[i]);
    }
    free(weight);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_linear_without_rows),
        cmocka_unit_test(test_random_weights),
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_conv_that_shrinks),
        cmocka_unit_test(test_more_shapes_than_are_kept),
        cmocka_unit_test(test_conv_that_does_not_fit),
        cmocka_unit_test(test_threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
