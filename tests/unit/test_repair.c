/*
 * Repair against its definition, worked out the slow way in double: ridge regression by Gaussian
 * elimination, and the error on unseen rows by fitting again without each of them.
 */
#include "library_case.h"

#include <stdbool.h>

enum { TOKENS = 512, DIM = 64, FEATURES = 2 * DIM, PROBES = 64 };

/* Skips half of the pairs, so that there is something to repair. */
static const uint8_t checkered[16] = {1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1};

static draftattn_plan_desc describe(int32_t probes, int32_t repair)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){4, 8, 16, 0};
    desc.head_dim = DIM;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.dense_steps = 0;
    desc.probes = probes;
    desc.repair = repair;
    return desc;
}

/* Smooth inputs: what is skipped is then a function of what is there. */
static void fill(struct library_case *test, double noise)
{
    uint64_t seed = 11;
    for (int t = 0; t < TOKENS; t++) {
        for (int d = 0; d < DIM; d++) {
            double phase = 0.37 * d + 0.02 * (1 + d % 5) * t;
            int i = t * DIM + d;
            test->q[i] = (float)(sin(phase) + noise * (double)library_case_random(&seed));
            test->k[i] = (float)(cos(1.3 * phase) + noise * (double)library_case_random(&seed));
            test->v[i] =
                (float)(sin(0.7 * phase) + 0.5 + noise * (double)library_case_random(&seed));
        }
    }
}

/* Solves a x = b in place by elimination; a is symmetric positive definite. */
static void eliminate(double *a, double *b, int n, int columns)
{
    for (int k = 0; k < n; k++) {
        for (int i = k + 1; i < n; i++) {
            double factor = a[i * n + k] / a[k * n + k];
            for (int j = k; j < n; j++)
                a[i * n + j] -= factor * a[k * n + j];
            for (int c = 0; c < columns; c++)
                b[i * columns + c] -= factor * b[k * columns + c];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int c = 0; c < columns; c++) {
            for (int k = i + 1; k < n; k++)
                b[i * columns + c] -= a[i * n + k] * b[k * columns + c];
            b[i * columns + c] /= a[i * n + i];
        }
    }
}

struct regression {
    double x[PROBES][FEATURES], e[PROBES][DIM];
    double lambda, beta;
    double weight[FEATURES * DIM], x_mean[FEATURES], e_mean[DIM];
    double gram[FEATURES * FEATURES];
};

static int probe(int i)
{
    int begin = i * TOKENS / PROBES, end = (i + 1) * TOKENS / PROBES;
    uint64_t place = (uint32_t)((uint64_t)i * 0x9e3779b9u);
    return begin + (int)(place * (uint64_t)(end - begin) >> 32);
}

/* Ridge with an intercept over all probe rows but one (-1: over all). */
static void fit_without(struct regression *r, int left_out)
{
    int rows = left_out < 0 ? PROBES : PROBES - 1;
    memset(r->x_mean, 0, sizeof(r->x_mean));
    memset(r->e_mean, 0, sizeof(r->e_mean));
    memset(r->gram, 0, sizeof(r->gram));
    memset(r->weight, 0, sizeof(r->weight));
    for (int i = 0; i < PROBES; i++) {
        for (int f = 0; i != left_out && f < FEATURES; f++)
            r->x_mean[f] += r->x[i][f] / rows;
        for (int d = 0; i != left_out && d < DIM; d++)
            r->e_mean[d] += r->e[i][d] / rows;
    }
    for (int i = 0; i < PROBES; i++) {
        for (int f = 0; i != left_out && f < FEATURES; f++) {
            double x = r->x[i][f] - r->x_mean[f];
            for (int g = 0; g < FEATURES; g++)
                r->gram[f * FEATURES + g] += x * (r->x[i][g] - r->x_mean[g]);
            for (int d = 0; d < DIM; d++)
                r->weight[f * DIM + d] += x * (r->e[i][d] - r->e_mean[d]);
        }
    }
    for (int f = 0; f < FEATURES; f++)
        r->gram[f * FEATURES + f] += r->lambda;
    eliminate(r->gram, r->weight, FEATURES, DIM);
}

static void predict(const struct regression *r, const double *x, double *e)
{
    for (int d = 0; d < DIM; d++) {
        e[d] = r->e_mean[d];
        for (int f = 0; f < FEATURES; f++)
            e[d] += (x[f] - r->x_mean[f]) * r->weight[f * DIM + d];
    }
}

/* Features and residuals of the probe rows, and lambda. q enters at the scale of o. */
static void open_regression(struct regression *r, const float *o, const float *q,
                            const float *exact, double ridge)
{
    double o_norm = 0, q_norm = 0, spread = 0;
    for (int i = 0; i < PROBES; i++) {
        for (int d = 0; d < DIM; d++) {
            int at = probe(i) * DIM + d;
            o_norm += (double)o[at] * (double)o[at];
            q_norm += (double)q[at] * (double)q[at];
        }
    }
    r->beta = sqrt(o_norm / q_norm);
    for (int i = 0; i < PROBES; i++) {
        for (int d = 0; d < DIM; d++) {
            int at = probe(i) * DIM + d;
            r->x[i][d] = (double)o[at];
            r->x[i][DIM + d] = r->beta * (double)q[at];
            r->e[i][d] = (double)exact[at] - (double)o[at];
        }
    }
    for (int f = 0; f < FEATURES; f++) {
        double mean = 0;
        for (int i = 0; i < PROBES; i++)
            mean += r->x[i][f] / PROBES;
        for (int i = 0; i < PROBES; i++)
            spread += (r->x[i][f] - mean) * (r->x[i][f] - mean);
    }
    r->lambda = ridge * spread / FEATURES;
}

static void run_case(struct library_case *test, int32_t probes, int32_t repair, double noise,
                     draftattn_head_stats *stats)
{
    draftattn_plan_desc desc = describe(probes, repair);
    library_case_open(test, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    fill(test, noise);
    assert_int_equal(draftattn_block_list_from_mask(test->plan, checkered, &test->list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(library_case_run(test, NULL, &test->list), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test->plan, test->workspace, NULL, stats),
                     DRAFTATTN_SUCCESS);
}

static void dense_case(struct library_case *test, double noise)
{
    draftattn_plan_desc desc = describe(0, 0);
    desc.policy = DRAFTATTN_POLICY_DENSE;
    library_case_open(test, &desc, DRAFTATTN_BACKEND_REFERENCE, 2);
    fill(test, noise);
    assert_int_equal(library_case_run(test, NULL, NULL), DRAFTATTN_SUCCESS);
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < TOKENS * DIM; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sqrt(sum);
}

static void test_correction_is_ridge_regression(void **state)
{
    struct library_case plain, repaired, dense;
    draftattn_head_stats before, after;
    struct regression *r = calloc(1, sizeof(*r));
    double x[FEATURES], e[DIM], worst = 0;
    (void)state;
    assert_non_null(r);
    run_case(&plain, 0, 0, 0.1, &before);
    run_case(&repaired, PROBES, 1, 0.1, &after);
    dense_case(&dense, 0.1);
    assert_true(isnan(before.error) && isnan(before.error_before));
    assert_int_equal(before.repaired, 0);
    assert_int_equal(after.repaired, 1);
    assert_true(distance(repaired.o, dense.o) < 0.7 * distance(plain.o, dense.o));

    open_regression(r, plain.o, plain.q, dense.o, repaired.desc.ridge);
    fit_without(r, -1);
    for (int t = 0; t < TOKENS; t++) {
        bool is_probe = false;
        for (int i = 0; i < PROBES; i++)
            is_probe = is_probe || probe(i) == t;
        for (int d = 0; d < DIM; d++) {
            x[d] = (double)plain.o[t * DIM + d];
            x[DIM + d] = r->beta * (double)plain.q[t * DIM + d];
        }
        predict(r, x, e);
        for (int d = 0; d < DIM; d++) {
            double want = is_probe ? (double)dense.o[t * DIM + d] : x[d] + e[d];
            worst = fmax(worst, fabs((double)repaired.o[t * DIM + d] - want));
        }
    }
    assert_true(worst < 2e-5);
    library_case_close(&plain);
    library_case_close(&repaired);
    library_case_close(&dense);
    free(r);
}

static void test_unseen_error_is_leaving_one_out(void **state)
{
    struct library_case plain, repaired, dense;
    draftattn_head_stats before, after;
    struct regression *r = calloc(1, sizeof(*r));
    double e[DIM], raw = 0, unseen = 0, norm = 0;
    (void)state;
    assert_non_null(r);
    run_case(&plain, PROBES, 0, 0.1, &before);
    run_case(&repaired, PROBES, 1, 0.1, &after);
    dense_case(&dense, 0.1);
    open_regression(r, plain.o, plain.q, dense.o, repaired.desc.ridge);
    for (int i = 0; i < PROBES; i++) {
        fit_without(r, i);
        predict(r, r->x[i], e);
        for (int d = 0; d < DIM; d++) {
            double exact = (double)dense.o[probe(i) * DIM + d];
            raw += r->e[i][d] * r->e[i][d];
            unseen += (r->e[i][d] - e[d]) * (r->e[i][d] - e[d]);
            norm += exact * exact;
        }
    }
    double want_before = sqrt(raw / norm);
    double want_after = sqrt(unseen / norm * (1 - (double)PROBES / TOKENS));
    assert_true(fabs((double)before.error / want_before - 1) < 1e-3);
    assert_true(fabs((double)before.error_before / want_before - 1) < 1e-3);
    assert_true(fabs((double)after.error_before / want_before - 1) < 1e-3);
    assert_true(fabs((double)after.error / want_after - 1) < 1e-3);
    assert_int_equal(before.repaired, 0);
    library_case_close(&plain);
    library_case_close(&repaired);
    library_case_close(&dense);
    free(r);
}

/* Residuals that nothing explains: the head keeps its output, bit for bit. */
static void test_a_fit_that_does_not_help_is_dropped(void **state)
{
    struct library_case plain, repaired;
    draftattn_head_stats before, after;
    (void)state;
    run_case(&plain, 0, 0, 30, &before);
    run_case(&repaired, 24, 1, 30, &after);
    assert_int_equal(after.repaired, 0);
    assert_true(after.error == after.error_before && after.error > 0);
    assert_memory_equal(plain.o, repaired.o, TOKENS * DIM * sizeof(float));
    library_case_close(&plain);
    library_case_close(&repaired);
}

/* Rows that saw everything are exact already: untouched, and no error. */
static void test_exact_rows_are_left_alone(void **state)
{
    uint8_t mask[16];
    draftattn_plan_desc desc = describe(200, 1);
    draftattn_head_stats stats;
    struct library_case test, dense;
    (void)state;
    dense_case(&dense, 0.1);
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_PORTABLE, 2);
    fill(&test, 0.1);
    memcpy(mask, checkered, sizeof(mask));
    memset(mask, 1, 4);
    assert_int_equal(draftattn_block_list_from_mask(test.plan, mask, &test.list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(library_case_run(&test, NULL, &test.list), DRAFTATTN_SUCCESS);
    for (int i = 0; i < 128 * DIM; i++)
        assert_true(fabs((double)test.o[i] - (double)dense.o[i]) < 2e-5);

    memset(mask, 1, sizeof(mask));
    assert_int_equal(draftattn_block_list_from_mask(test.plan, mask, &test.list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(library_case_run(&test, NULL, &test.list), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, NULL, &stats),
                     DRAFTATTN_SUCCESS);
    assert_true(stats.error == 0 && stats.density == 1 && stats.repaired == 0);
    library_case_close(&test);
    library_case_close(&dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_correction_is_ridge_regression),
                                       cmocka_unit_test(test_unseen_error_is_leaving_one_out),
                                       cmocka_unit_test(test_a_fit_that_does_not_help_is_dropped),
                                       cmocka_unit_test(test_exact_rows_are_left_alone)};
    return cmocka_run_group_tests_name("repair", tests, NULL, NULL);
}
