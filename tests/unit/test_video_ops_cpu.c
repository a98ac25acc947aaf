/*
 * Channel norm and nearest upsampling against their definitions: widths with and without a constant
 * of their own, chunk edges, zero vectors, and NaN, which must come out again.
 */
#include "tensor/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static int setup(void **state)
{
    struct error error;
    return ops_cpu.create((struct device **)state, &(struct device_desc){0}, &error) ? 0 : -1;
}

static int teardown(void **state)
{
    ops_cpu.destroy(*state);
    return 0;
}

static float number(int64_t i)
{
    return (float)(sin((double)i * 12.9898) * 3.0);
}

static void check_norm(struct device *device, int64_t positions, int64_t channels, bool silu,
                       bool in_place)
{
    const int64_t total = positions * channels;
    float *x = malloc((size_t)total * sizeof(*x)), *gamma = malloc((size_t)channels * sizeof(*x));
    float *y = in_place ? x : malloc((size_t)total * sizeof(*y));
    double *want = malloc((size_t)total * sizeof(*want));
    assert_true(x && y && gamma && want);
    for (int64_t c = 0; c < channels; c++)
        gamma[c] = 1 + 0.1f * number(c);
    for (int64_t i = 0; i < total; i++)
        x[i] = i / channels == 1 ? 0.0f : number(i); /* position 1 is all zeros */
    for (int64_t p = 0; p < positions; p++) {
        double squares = 0;
        for (int64_t c = 0; c < channels; c++)
            squares += (double)x[p * channels + c] * x[p * channels + c];
        for (int64_t c = 0; c < channels; c++) {
            double t = x[p * channels + c] / fmax(sqrt(squares), 1e-12) * sqrt((double)channels) *
                       gamma[c];
            want[p * channels + c] = silu ? t / (1 + exp(-t)) : t;
        }
    }
    ops_cpu.channel_norm(device, x, y, positions, channels, gamma, silu);
    for (int64_t i = 0; i < total; i++)
        if (!(fabs(y[i] - want[i]) <= 3e-6 * (1 + fabs(want[i]))))
            fail_msg("%lld channels: element %lld is %.9g, expected %.9g", (long long)channels,
                     (long long)i, (double)y[i], want[i]);
    if (!in_place)
        free(y);
    free(x);
    free(gamma);
    free(want);
}

static void test_channel_norm(void **state)
{
    const int64_t channels[] = {1, 3, 8, 12, 16, 32, 64, 96, 100, 384, 5000};
    const int64_t positions[] = {2, 255, 256, 257, 700};
    for (int c = 0; c < 11; c++)
        for (int p = 0; p < (channels[c] > 1000 ? 1 : 5); p++) {
            check_norm(*state, positions[p], channels[c], true, false);
            check_norm(*state, positions[p], channels[c], false, p % 2);
        }
    check_norm(*state, 300, 16, true, true);
}

static void test_nan_survives_the_norm(void **state)
{
    for (int silu = 0; silu < 2; silu++) {
        float x[32], gamma[16];
        for (int i = 0; i < 32; i++)
            x[i] = 1;
        for (int i = 0; i < 16; i++)
            gamma[i] = 1;
        x[3] = silu ? INFINITY : NAN;
        ops_cpu.channel_norm(*state, x, x, 2, 16, gamma, silu);
        assert_true(isnan(x[3]));
        assert_true(isfinite(x[16]));
    }
}

static void test_upsample(void **state)
{
    enum { FRAMES = 2, HEIGHT = 3, WIDTH = 5, CHANNELS = 7 };
    float x[FRAMES * HEIGHT * WIDTH * CHANNELS];
    float y[4 * FRAMES * HEIGHT * WIDTH * CHANNELS];
    for (int i = 0; i < FRAMES * HEIGHT * WIDTH * CHANNELS; i++)
        x[i] = number(i);
    ops_cpu.upsample2(*state, x, y, FRAMES, HEIGHT, WIDTH, CHANNELS);
    for (int f = 0; f < FRAMES; f++)
        for (int r = 0; r < 2 * HEIGHT; r++)
            for (int c = 0; c < 2 * WIDTH * CHANNELS; c++) {
                const int column = c / CHANNELS, channel = c % CHANNELS;
                assert_true(y[(f * 2 * HEIGHT + r) * 2 * WIDTH * CHANNELS + c] ==
                            x[((f * HEIGHT + r / 2) * WIDTH + column / 2) * CHANNELS + channel]);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_channel_norm),
        cmocka_unit_test(test_nan_survives_the_norm),
        cmocka_unit_test(test_upsample),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
