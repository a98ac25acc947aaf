/* Timing attention: samples become rows, contenders run what they are asked for, data is what it is
 * said to be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench.h"

static draftattn_kernel_info portable(int32_t head_dim)
{
    draftattn_kernel_info kernel;
    for (int32_t i = 0; draftattn_kernel_get(i, &kernel) == DRAFTATTN_SUCCESS; i++)
        if (kernel.backend == DRAFTATTN_BACKEND_PORTABLE && kernel.head_dim == head_dim)
            return kernel;
    fail_msg("no portable kernel for head_dim %d", head_dim);
    return kernel;
}

static struct bench_setup setup_of(draftattn_grid grid, int32_t heads)
{
    return (struct bench_setup){
        .kernel = portable(64), .grid = grid, .heads = heads, .head_dim = 64, .threads = 1};
}

static struct bench_lab *open_lab(const struct bench_setup *setup)
{
    struct error error = {0};
    struct bench_lab *lab = calloc(1, sizeof *lab);
    assert_non_null(lab);
    if (!bench_lab_open(lab, setup, &error))
        fail_msg("%s", error.text);
    return lab;
}

static void close_lab(struct bench_lab *lab)
{
    bench_lab_close(lab);
    free(lab);
}

static void test_rows(void **state)
{
    (void)state;
    struct error error = {0};
    struct bench_row row;
    struct bench_setup setup = setup_of((draftattn_grid){4, 8, 16, 40}, 2);
    struct bench_lab *lab = open_lab(&setup);
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.probes = 32;
    desc.sparsity = 0.5;
    desc.policy = DRAFTATTN_POLICY_DENSE;
    assert_true(bench_lab_add(lab, &desc, &error));
    desc.policy = DRAFTATTN_POLICY_DRAFT; /* far below its break-even, and runs all the same */
    assert_true(bench_lab_add(lab, &desc, &error));
    bench_lab_row(lab, 1, &row);
    assert_int_equal(row.runs, 0);
    double seconds = 0;
    assert_true(bench_lab_run(lab, 1, &seconds, &error));
    assert_true(seconds > 0 && lab->contenders[1].runs == 0);
    for (int i = 0; i < 6; i++)
        assert_true(bench_lab_run(lab, i % 2, NULL, &error));

    bench_lab_row(lab, 0, &row);
    assert_true(row.dense && row.runs == 3 && row.density == 1 && row.error == 0);
    assert_true(row.flops == bench_dense_flops(&setup.grid, 2, 64));
    assert_true(row.flops == 4.0 * 64 * 2 * 552 * 552);
    bench_lab_row(lab, 1, &row);
    assert_true(!row.dense && row.sparsity == 0.5 && row.error > 0 && row.stages[1] > 0);
    double keys = row.density * 552 + (1 - row.density) * 5 + 32; /* 4 blocks and one of text */
    assert_true(fabs(row.flops / (4.0 * 64 * 2 * 552 * keys) - 1) < 1e-12);
    assert_true(row.density < 0.8);

    /* Known samples, even and odd in number. */
    static const double samples[] = {4, 1, 3, 10};
    memcpy(lab->contenders[0].seconds, samples, sizeof samples);
    bench_lab_row(lab, 0, &row);
    assert_true(row.median == 3 && row.min == 1 && row.max == 4);
    assert_true(row.gflops == row.flops / 3 * 1e-9);
    lab->contenders[0].runs = 4;
    bench_lab_row(lab, 0, &row);
    assert_true(row.median == 3.5 && row.max == 10);
    close_lab(lab);
}

static void test_refusals(void **state)
{
    (void)state;
    struct error error = {0};
    struct bench_setup setup = setup_of((draftattn_grid){1, 30, 52, 0}, 1);
    struct bench_lab *lab = open_lab(&setup);
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.policy = DRAFTATTN_POLICY_DRAFT_PAPER;
    assert_false(bench_lab_add(lab, &desc, &error));
    assert_true(error.usage);
    assert_non_null(strstr(error.text, "32 x 48"));
    close_lab(lab);

    setup = setup_of((draftattn_grid){64, 512, 512, 0}, INT32_MAX);
    lab = calloc(1, sizeof *lab);
    assert_non_null(lab);
    assert_false(bench_lab_open(lab, &setup, &error));
    assert_non_null(strstr(error.text, "fewer --heads"));
    close_lab(lab);
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < 64; i++)
        sum += (double)a[i] * (double)b[i];
    return sum / 64;
}

/* Neighbours are alike in q, and between q and k; far tokens and text are not. */
static void test_data(void **state)
{
    (void)state;
    const draftattn_grid grid = {16, 24, 24, 8};
    const int64_t tokens = 16 * 24 * 24 + 8, floats = tokens * 64;
    float *data = malloc((size_t)(4 * floats) * sizeof *data);
    assert_non_null(data);
    float *q = data, *k = q + floats, *v = k + floats, *again = v + floats;
    bench_fill(&grid, 0, 1, 64, 7, again, k, v);
    bench_fill(&grid, 0, 1, 64, 7, q, k, v);
    assert_memory_equal(q, again, (size_t)floats * sizeof *q);
    bench_fill(&grid, 0, 1, 64, 8, again, k, v);
    assert_memory_not_equal(q, again, (size_t)floats * sizeof *q);
    bench_fill(&grid, 0, 1, 64, 7, q, k, v);

    double near = 0, crossed = 0, far = 0, power = 0;
    const int64_t count = 8 * 24 * 24 - 1;
    for (int64_t t = 0; t < count; t++) {
        power += dot(q + t * 64, q + t * 64) / (double)count;
        near += dot(q + t * 64, q + (t + 1) * 64) / (double)count;
        crossed += dot(q + t * 64, k + (t + 1) * 64) / (double)count;
        far += dot(q + t * 64, k + (t + 8 * 24 * 24) * 64) / (double)count;
    }
    assert_true(fabs(power - 3 * 0.36) < 0.05);
    assert_true(near > 0.4 && crossed > 0.4);
    assert_true(fabs(far) < 0.1);
    assert_true(fabs(dot(q + (tokens - 1) * 64, q + (tokens - 2) * 64)) < 0.25);
    free(data);
}

/* To nearest, ties to even; float32 stays what it is. */
static void test_round(void **state)
{
    (void)state;
    static const float values[] = {1, -2.5f, 0x1.008p0f, 0x1.01p0f, 0x1.03p0f, 0x1.0101p0f, 0};
    static const uint16_t expected[] = {0x3f80, 0xc020, 0x3f80, 0x3f80, 0x3f82, 0x3f81, 0};
    uint16_t rounded[7];
    float same[7];
    bench_round(values, 7, DRAFTATTN_BF16, rounded);
    assert_memory_equal(rounded, expected, sizeof expected);
    bench_round(values, 7, DRAFTATTN_F32, same);
    assert_memory_equal(same, values, sizeof values);
}

/* The lab holds the float32 data rounded, head by head, and the library takes it. */
static void test_bf16(void **state)
{
    (void)state;
    struct error error = {0};
    struct bench_setup setup = setup_of((draftattn_grid){2, 8, 16, 3}, 2);
    struct bench_lab *exact = open_lab(&setup);
    setup.dtype = DRAFTATTN_BF16;
    struct bench_lab *lab = open_lab(&setup);
    const int64_t count = 3 * 2 * 259 * 64; /* q, k and v */
    uint16_t *rounded = malloc((size_t)count * sizeof *rounded);
    assert_non_null(rounded);
    bench_round(exact->data, count, DRAFTATTN_BF16, rounded);
    assert_memory_equal(rounded, lab->data, (size_t)count * sizeof *rounded);
    assert_int_equal(bench_data_bytes(&setup.grid, 2, 64, DRAFTATTN_BF16), count / 3 * 4 * 2);
    free(rounded);

    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.sparsity = 0.5;
    assert_true(bench_lab_add(lab, &desc, &error) && bench_lab_run(lab, 0, NULL, &error));
    close_lab(lab);
    close_lab(exact);
}

static void test_break_even(void **state)
{
    (void)state;
    struct error error = {0};
    struct bench_setup setup = setup_of((draftattn_grid){0}, 1);
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    struct bench_break_even rows[] = {{.sparsity = 0.9}, {.sparsity = 0}};
    assert_true(bench_break_even_measure(&setup, &desc, rows, 2, 0, &error)); /* the first grid */
    assert_int_equal(rows[1].predicted, INT64_MAX);
    assert_true(rows[0].predicted > 0 && rows[0].predicted < 1000);
    assert_true(isnan(rows[1].measured) || rows[1].measured == 0);
}

static void test_peak(void **state)
{
    (void)state;
    assert_true(bench_peak(DRAFTATTN_BACKEND_PORTABLE, 1) > 0.01);
    double device = bench_peak_device(); /* 0 without a device */
    assert_true(device == 0 || device > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_data), cmocka_unit_test(test_round),
        cmocka_unit_test(test_bf16), cmocka_unit_test(test_break_even),
        cmocka_unit_test(test_peak)};
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
