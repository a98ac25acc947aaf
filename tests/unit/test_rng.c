/* Noise against torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed)), float32. */
#include "io/checkpoint.h"
#include "io/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check(uint64_t seed, int64_t count, const double *want, int64_t known)
{
    float *got = malloc((size_t)count * sizeof *got);
    assert_non_null(got);
    rng_normal(seed, got, count);
    for (int64_t i = 0; i < known; i++)
        if (!(fabs((double)got[i] - want[i]) <= 6e-7))
            fail_msg("seed %llu, %lld values: value %lld is %.9g, expected %.9g",
                     (unsigned long long)seed, (long long)count, (long long)i, (double)got[i],
                     want[i]);
    free(got);
}

static void blocks_of_sixteen(void **state)
{
    (void)state;
    static const double seed42[] = {1.92691529,   1.48728406,   0.900717199,   -2.10552096,
                                    0.678418458,  -1.23454487,  -0.0430674776, -1.60466695,
                                    -0.752135277, 1.64872301,   -0.392478645,  -1.40360713,
                                    -0.727881312, -0.559430182, -0.768838882,  0.76244539};
    static const double seed3[] = {-0.076644294,  0.35988152,   -0.782016814, 0.0715277344,
                                   0.664839387,   -0.286780298, 1.62055075,   -1.59670806,
                                   -0.0516809635, -0.305975705, 0.248501748,  -0.222560838,
                                   0.91315192,    0.204341114,  0.573984683,  0.416331291};
    check(42, 16, seed42, 16);
    check(3, 16, seed3, 16);
}

/* The reference run of the bundled model was drawn with seed 1. */
static void noise_of_the_reference_run(void **state)
{
    (void)state;
    enum { COUNT = 16 * 9 * 32 * 32 };
    float *want = malloc(COUNT * sizeof *want), *got = malloc(COUNT * sizeof *got);
    assert_true(want && got);
    struct checkpoint *reference = NULL;
    struct error error = {0};
    if (!checkpoint_open(&reference,
                         TEST_SOURCE_DIR "/tests/golden/cases/tiny-world/sampling.safetensors",
                         &error) ||
        !checkpoint_read(reference, "noise", (int64_t[]){16, 9, 32, 32}, 4, want, &error))
        fail_msg("%s", error.text);
    rng_normal(1, got, COUNT);
    for (int i = 0; i < COUNT; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 6e-7))
            fail_msg("value %d is %.9g, expected %.9g", i, (double)got[i], (double)want[i]);
    checkpoint_close(reference);
    free(want);
    free(got);
}

/* What is left over 16 is covered by 16 new numbers that end with the last value. */
static void a_rest_is_drawn_anew(void **state)
{
    (void)state;
    static const double seed42[] = {1.92691529,   1.48728406,   0.900717199,  0.439589262,
                                    -0.758131146, 1.07831764,   0.800800562,  1.68062055,
                                    0.355859905,  -0.686622977, -0.493356347, 1.33473778,
                                    -0.23162432,  0.041759491,  -0.251575291, 0.859858513,
                                    -0.309726775, -0.395710498, 0.803409338};
    check(42, 19, seed42, 19);
}

static void few_values_are_drawn_in_pairs(void **state)
{
    (void)state;
    static const double seed42[] = {0.336690366, 0.128809407, 0.234462366, 0.23033303, -1.12285638};
    static const double seed3[] = {0.803276062, 0.174833387, 0.0889780968, -0.613718033,
                                   0.0461824499};
    check(42, 5, seed42, 5);
    check(42, 4, seed42, 4);
    check(42, 1, seed42, 1);
    check(3, 5, seed3, 5);
    rng_normal(42, NULL, 0);
}

/* torch seeds the twister with the low 32 bits. */
static void only_32_bits_of_the_seed_count(void **state)
{
    (void)state;
    float low[100], high[100];
    rng_normal(42, low, 100);
    rng_normal((UINT64_C(1) << 32) + 42, high, 100);
    assert_memory_equal(low, high, sizeof low);
    rng_normal(43, high, 100);
    assert_memory_not_equal(low, high, sizeof low);
}

static void the_numbers_are_normal(void **state)
{
    (void)state;
    enum { COUNT = 1 << 20 };
    float *x = malloc(COUNT * sizeof *x);
    assert_non_null(x);
    rng_normal(7, x, COUNT);
    double sum = 0, squares = 0, fourth = 0;
    for (int i = 0; i < COUNT; i++) {
        double square = (double)x[i] * x[i];
        sum += x[i];
        squares += square;
        fourth += square * square;
    }
    free(x);
    /* five standard deviations of each moment's estimate */
    assert_true(fabs(sum / COUNT) < 5 * 1.0 / 1024);
    assert_true(fabs(squares / COUNT - 1) < 5 * 1.42 / 1024);
    assert_true(fabs(fourth / COUNT - 3) < 5 * 9.8 / 1024);
}

static void random_seeds_differ(void **state)
{
    (void)state;
    uint32_t first = rng_random_seed(), second = rng_random_seed(), third = rng_random_seed();
    assert_true(first != second || second != third);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_sixteen),
        cmocka_unit_test(noise_of_the_reference_run),
        cmocka_unit_test(a_rest_is_drawn_anew),
        cmocka_unit_test(few_values_are_drawn_in_pairs),
        cmocka_unit_test(only_32_bits_of_the_seed_count),
        cmocka_unit_test(the_numbers_are_normal),
        cmocka_unit_test(random_seeds_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
