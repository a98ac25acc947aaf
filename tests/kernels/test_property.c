/*
 * What holds for every problem, over random grids from 1x1x1 to 33x45x80: the output is that of the
 * double reference on the list that was used (large grids on sampled rows), density 1 is dense
 * attention, block order and raster order say the same, layouts and threads change no bit.
 *
 *     test_property [--seed N]                                  other random grids
 *     test_property [--seed N] --backend NAME [--runs N]        random problems of any kind on that
 *                                                               backend, and nothing else
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "check_kernels.h"

#include "backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --- one call, kept whole ------------------------------------------------------------------ */

struct outcome {
    float *q, *k, *v, *o, *lse;
    int64_t *order;
    int64_t tokens, rows; /* rows = batch * heads * tokens */
    bool woven;           /* [tokens][heads][head_dim]; else [heads][tokens][head_dim] */
    draftattn_stats stats;
};

/* Where a row of the usual layout goes in the woven one. One batch entry. */
static int64_t woven_row(const struct outcome *outcome, const draftattn_plan_desc *desc,
                         int64_t row)
{
    return row % outcome->tokens * desc->heads + row / outcome->tokens;
}

static draftattn_tensor tensor_of(const draftattn_plan_desc *desc, int64_t tokens, float *data,
                                  int64_t width)
{
    const int64_t heads = desc->heads;
    return (draftattn_tensor){
        .data = data,
        .dtype = DRAFTATTN_F32,
        .shape = {desc->batch, heads, tokens, width},
        .stride = {heads * tokens * width, tokens * width, width, 1},
    };
}

static void make_inputs(struct outcome *outcome, const draftattn_plan_desc *desc, uint64_t seed)
{
    struct random random = {seed};
    const draftattn_grid *grid = &desc->grid;

    outcome->tokens = grid->frames * grid->height * grid->width + grid->text_tokens;
    outcome->rows = (int64_t)desc->batch * desc->heads * outcome->tokens;
    const size_t bytes = (size_t)(outcome->rows * desc->head_dim) * sizeof(float);
    outcome->q = check_alloc(bytes);
    outcome->k = check_alloc(bytes);
    outcome->v = check_alloc(bytes);
    outcome->o = check_alloc(bytes);
    outcome->lse = check_alloc((size_t)outcome->rows * sizeof(float));
    outcome->order = check_alloc((size_t)outcome->tokens * sizeof(int64_t));
    for (int64_t i = 0; i < outcome->rows * desc->head_dim; i++) {
        /* Neighbours resemble each other, or block means would mean nothing. */
        const int64_t row = i / desc->head_dim, d = i % desc->head_dim;
        double wave = sin((double)row * 0.01 + (double)d);
        outcome->q[i] = (float)(wave + 0.7 * random_normal(&random));
        outcome->k[i] = (float)(wave + 0.7 * random_normal(&random));
        outcome->v[i] = (float)(wave + 0.7 * random_normal(&random));
    }
}

static void free_outcome(struct outcome *outcome)
{
    free(outcome->q);
    free(outcome->k);
    free(outcome->v);
    free(outcome->o);
    free(outcome->lse);
    free(outcome->order);
}

static void run(struct outcome *outcome, const draftattn_plan_desc *desc, int32_t threads)
{
    draftattn_context_desc context_desc = draftattn_context_desc_default();
    draftattn_context *context;
    draftattn_plan *plan;
    size_t size;

    context_desc.threads = threads;
    assert_int_equal(draftattn_context_create(&context, &context_desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_create(&plan, context, desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_workspace_size(plan, &size), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_order(plan, outcome->order), DRAFTATTN_SUCCESS);
    void *workspace = check_alloc(size);
    draftattn_tensor q = tensor_of(desc, outcome->tokens, outcome->q, desc->head_dim);
    draftattn_tensor k = tensor_of(desc, outcome->tokens, outcome->k, desc->head_dim);
    draftattn_tensor v = tensor_of(desc, outcome->tokens, outcome->v, desc->head_dim);
    draftattn_tensor o = tensor_of(desc, outcome->tokens, outcome->o, desc->head_dim);
    draftattn_tensor lse = tensor_of(desc, outcome->tokens, outcome->lse, 1);
    draftattn_tensor *rows[] = {&q, &k, &v, &o};
    for (int i = 0; outcome->woven && i < 4; i++) {
        rows[i]->stride[1] = desc->head_dim;
        rows[i]->stride[2] = (int64_t)desc->heads * desc->head_dim;
    }
    assert_int_equal(draftattn_run(plan, NULL, &q, &k, &v, &o, &lse, NULL, workspace, size, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(plan, workspace, &outcome->stats, NULL),
                     DRAFTATTN_SUCCESS);
    free(workspace);
    draftattn_plan_destroy(plan);
    draftattn_context_destroy(context);
}

static draftattn_plan_desc plan_of(int64_t frames, int64_t height, int64_t width, int64_t text)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();

    desc.grid = (draftattn_grid){frames, height, width, text};
    desc.heads = 2;
    desc.head_dim = 64;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.dense_steps = 0;
    desc.probes = 0; /* a repaired output is not the definition's */
    return desc;
}

static double largest_difference(const float *a, const float *b, int64_t count)
{
    double largest = 0;

    for (int64_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - b[i]);
        largest = difference <= largest ? largest : difference;
    }
    return largest;
}

/* --- the properties ------------------------------------------------------------------------ */

static void check_against_reference(draftattn_context *context, const struct test_case *test)
{
    struct verdict verdict = {0};
    char text[400];

    check_case(context, test, &verdict);
    if (!(verdict.measured <= 1)) {
        test_case_describe(test, text, sizeof(text));
        fail_msg("%s\n    %s", verdict.where, text);
    }
}

static struct test_case case_of(int64_t frames, int64_t height, int64_t width, double sparsity,
                                uint64_t seed)
{
    struct test_case test = {.desc = plan_of(frames, height, width, 0)};

    test.desc.heads = 1;
    test.desc.sparsity = sparsity;
    test.desc.probes = 0, test.desc.repair = 0;
    test.deviation = 1;
    test.list_share = -1;
    test.rows = 24;
    test.seed = seed;
    return test;
}

static void test_grids_match_reference(void **state)
{
    draftattn_context *context;
    struct random random = {*(const uint64_t *)*state};

    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_SUCCESS);
    for (int i = 0; i < 60; i++) {
        /* Skewed to small sizes, where the edges are; one side in ten is 1. */
        int64_t side[3];
        for (int j = 0; j < 3; j++) {
            double size = random_uniform(&random);
            side[j] = random_chance(&random, 0.1) ? 1 : 1 + (int64_t)(size * size * (12 + 10 * j));
        }
        struct test_case test = case_of(side[0], side[1], side[2], random_uniform(&random) * 0.97,
                                        random_bits(&random));
        test.desc.grid.text_tokens =
            random_chance(&random, 0.4) ? random_between(&random, 1, 400) : 0;
        test.desc.heads = (int32_t)random_between(&random, 1, 3);
        test.desc.strip_height = (int32_t)random_between(&random, 1, 16);
        test.desc.compensation = random_chance(&random, 0.5);
        check_against_reference(context, &test);
    }
    draftattn_context_destroy(context);
}

static void test_large_grids_match_reference(void **state)
{
    draftattn_context *context;
    struct test_case tests[] = {
        case_of(1, 1, 1, 0.5, 1),    case_of(2, 64, 64, 0.9, 2),  case_of(21, 30, 52, 0.95, 3),
        case_of(13, 24, 24, 0.8, 4), case_of(1, 90, 160, 0.9, 5), case_of(33, 45, 80, 0.99, 6),
        case_of(5000, 1, 1, 0.7, 7), case_of(1, 1, 5000, 0.7, 8), case_of(1, 5000, 1, 0.7, 9),
    };

    (void)state;
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_SUCCESS);
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        check_against_reference(context, &tests[i]);
    }
    draftattn_context_destroy(context);
}

static void test_density_one_is_dense(void **state)
{
    struct outcome sparse = {0}, dense = {0};
    draftattn_plan_desc desc = plan_of(4, 13, 17, 77);

    (void)state;
    desc.sparsity = 0;
    make_inputs(&sparse, &desc, 11);
    make_inputs(&dense, &desc, 11);
    run(&sparse, &desc, 0);
    desc.policy = DRAFTATTN_POLICY_DENSE;
    run(&dense, &desc, 0);
    assert_true(largest_difference(sparse.o, dense.o, sparse.rows * desc.head_dim) <= 2e-6);
    assert_true(largest_difference(sparse.lse, dense.lse, sparse.rows) <= 4e-6);
    assert_true(sparse.stats.density == 1);
    assert_true(dense.stats.density == 1);
    assert_int_equal(dense.stats.dense, 1);
    free_outcome(&sparse);
    free_outcome(&dense);
}

static void test_threads_change_no_bit(void **state)
{
    static const int32_t threads[] = {2, 3, 5};
    draftattn_plan_desc desc = plan_of(5, 17, 23, 40);
    struct outcome one = {0};

    (void)state;
    desc.batch = 2;
    desc.sparsity = 0.7;
    desc.score = DRAFTATTN_SCORE_SPREAD;
    desc.head_spread = 1.5;
    desc.probes = 200, desc.repair = 1;
    make_inputs(&one, &desc, 13);
    run(&one, &desc, 1);
    for (size_t i = 0; i < sizeof(threads) / sizeof(threads[0]); i++) {
        struct outcome many = {0};
        make_inputs(&many, &desc, 13);
        run(&many, &desc, threads[i]);
        assert_memory_equal(one.o, many.o, (size_t)(one.rows * desc.head_dim) * sizeof(float));
        assert_memory_equal(one.lse, many.lse, (size_t)one.rows * sizeof(float));
        free_outcome(&many);
    }
    free_outcome(&one);
}

/* A runtime that permutes its tokens once gets what a raster caller gets. */
static void test_orders_agree(void **state)
{
    draftattn_plan_desc desc = plan_of(3, 19, 22, 33);
    struct outcome raster = {0}, block = {0};

    (void)state;
    desc.sparsity = 0.6;
    make_inputs(&raster, &desc, 17);
    make_inputs(&block, &desc, 17);
    run(&raster, &desc, 0);
    for (int64_t row = 0; row < raster.rows; row++) {
        int64_t head = row / raster.tokens, token = raster.order[row % raster.tokens];
        int64_t from = (head * raster.tokens + token) * desc.head_dim, to = row * desc.head_dim;
        size_t bytes = (size_t)desc.head_dim * sizeof(float);
        memcpy(block.q + to, raster.q + from, bytes);
        memcpy(block.k + to, raster.k + from, bytes);
        memcpy(block.v + to, raster.v + from, bytes);
    }
    desc.order = DRAFTATTN_ORDER_BLOCK;
    run(&block, &desc, 0);
    for (int64_t row = 0; row < raster.rows; row++) {
        int64_t head = row / raster.tokens, token = raster.order[row % raster.tokens];
        assert_memory_equal(block.o + row * desc.head_dim,
                            raster.o + (head * raster.tokens + token) * desc.head_dim,
                            (size_t)desc.head_dim * sizeof(float));
    }
    free_outcome(&raster);
    free_outcome(&block);
}

/* Rows that are read where they lie and rows that had to be copied, group by group of heads, give
 * the same bits. */
static void test_layouts_agree(void **state)
{
    draftattn_plan_desc desc = plan_of(5, 31, 29, 20);
    struct outcome apart = {0}, woven = {0};

    (void)state;
    desc.heads = 3;
    desc.sparsity = 0.8;
    desc.probes = 150, desc.repair = 1;
    make_inputs(&apart, &desc, 23);
    make_inputs(&woven, &desc, 23);
    run(&apart, &desc, 1);
    for (int64_t row = 0; row < apart.rows; row++) {
        int64_t from = row * desc.head_dim, to = woven_row(&apart, &desc, row) * desc.head_dim;
        size_t bytes = (size_t)desc.head_dim * sizeof(float);
        memcpy(woven.q + to, apart.q + from, bytes);
        memcpy(woven.k + to, apart.k + from, bytes);
        memcpy(woven.v + to, apart.v + from, bytes);
    }
    woven.woven = true;
    run(&woven, &desc, 1);
    for (int64_t row = 0; row < apart.rows; row++) {
        assert_memory_equal(woven.o + woven_row(&apart, &desc, row) * desc.head_dim,
                            apart.o + row * desc.head_dim, (size_t)desc.head_dim * sizeof(float));
    }
    free_outcome(&apart);
    free_outcome(&woven);
}

/* Elements lie further apart than 32 bits can count; pages that nobody touches cost nothing. */
static void test_strides_beyond_32_bits(void **state)
{
    enum { TOKENS = 6, DIM = 64 };
    const int64_t far = (int64_t)1 << 29;
    const size_t bytes = (size_t)(TOKENS * far) * sizeof(float);
    draftattn_plan_desc desc = plan_of(1, 2, 3, 0);
    struct outcome near = {0};
    draftattn_context *context;
    draftattn_plan *plan;
    draftattn_tensor tensor[4];
    size_t size;

    (void)state;
    float *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        skip();
    }
    desc.heads = 1;
    make_inputs(&near, &desc, 19);
    run(&near, &desc, 0);
    const float *inputs[] = {near.q, near.k, near.v};
    for (int i = 0; i < 4; i++) {
        tensor[i] = tensor_of(&desc, TOKENS, memory + i * DIM, DIM);
        tensor[i].stride[2] = far;
        for (int64_t row = 0; i < 3 && row < TOKENS; row++) {
            memcpy(memory + i * DIM + row * far, inputs[i] + row * DIM, DIM * sizeof(float));
        }
    }
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_create(&plan, context, &desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_workspace_size(plan, &size), DRAFTATTN_SUCCESS);
    void *workspace = check_alloc(size);
    assert_int_equal(draftattn_run(plan, NULL, &tensor[0], &tensor[1], &tensor[2], &tensor[3], NULL,
                                   NULL, workspace, size, NULL),
                     DRAFTATTN_SUCCESS);
    for (int64_t row = 0; row < TOKENS; row++) {
        assert_memory_equal(memory + 3 * DIM + row * far, near.o + row * DIM, DIM * sizeof(float));
    }
    free(workspace);
    draftattn_plan_destroy(plan);
    draftattn_context_destroy(context);
    free_outcome(&near);
    munmap(memory, bytes);
}

/* Errors differ by place in a strip and in a block, so probe rows must meet every place alike. */
static void test_probes_meet_every_place(void **state)
{
    static const int64_t tokens[] = {256, 300, 2304, 7488, 17408, 32760, 75600, 118800};
    static const int64_t periods[] = {2, 4, 8, 16};

    (void)state;
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        struct problem problem = {.video_tokens = tokens[i], .probes = 256};
        for (size_t j = 0; j < sizeof(periods) / sizeof(periods[0]); j++) {
            int64_t met[16] = {0}, last = -1;
            for (int64_t probe = 0; probe < problem.probes; probe++) {
                int64_t position = probe_position(&problem, probe);
                assert_true(position > last && position < problem.video_tokens);
                last = position;
                met[position % periods[j]]++;
            }
            for (int64_t place = 0; place < periods[j]; place++) {
                assert_in_range(met[place] * periods[j], problem.probes / 2,
                                problem.probes * 3 / 2);
            }
        }
    }
}

/* --- problems of any kind ------------------------------------------------------------------- */

/* As many at a time as there are threads, so that streams and plans meet, too. */
static int run_problems(draftattn_context *context, uint64_t seed, int64_t runs)
{
    int64_t failures = 0;

#pragma omp parallel for schedule(dynamic) reduction(+ : failures)
    for (int64_t i = 0; i < runs; i++) {
        struct random random = {seed + (uint64_t)i * 0x9e3779b97f4a7c15u};
        struct test_case test = random_case(&random);
        struct verdict verdict = {0};
        char text[400];
        check_case(context, &test, &verdict);
        if (!(verdict.measured <= 1)) {
            test_case_describe(&test, text, sizeof(text));
            printf("problem %lld fails: %s\n    %s\n", (long long)i, verdict.where, text);
            failures++;
        }
    }
    printf("%s: %lld problems from seed %llu, %lld failures\n",
           draftattn_backend_name(draftattn_context_backend(context)), (long long)runs,
           (unsigned long long)seed, (long long)failures);
    return failures != 0;
}

static int check_backend(const char *name, uint64_t seed, int64_t runs)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context;

    if (draftattn_backend_from_name(name, &desc.backend) != DRAFTATTN_SUCCESS) {
        fprintf(stderr, "--backend %s: %s\n", name, draftattn_context_last_error(NULL));
        return 2;
    }
    if (draftattn_context_create(&context, &desc) != DRAFTATTN_SUCCESS) {
        printf("skipped: %s\n", draftattn_context_last_error(NULL));
        return 77;
    }
    int code = run_problems(context, seed, runs);
    draftattn_context_destroy(context);
    return code;
}

int main(int count, char **words)
{
    const char *backend = NULL;
    uint64_t seed = 7;
    int64_t runs = 200;

    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? words[i + 1] : NULL;
        if (value && strcmp(words[i], "--seed") == 0) {
            seed = strtoull(value, NULL, 10);
        } else if (value && strcmp(words[i], "--backend") == 0) {
            backend = value;
        } else if (value && strcmp(words[i], "--runs") == 0) {
            runs = strtoll(value, NULL, 10);
        } else {
            fprintf(stderr, "usage: %s [--seed N] [--backend NAME [--runs N]]\n", words[0]);
            return 2;
        }
    }
    if (backend) {
        return check_backend(backend, seed, runs);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_grids_match_reference, &seed),
        cmocka_unit_test(test_large_grids_match_reference),
        cmocka_unit_test(test_density_one_is_dense),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_orders_agree),
        cmocka_unit_test(test_layouts_agree),
        cmocka_unit_test(test_strides_beyond_32_bits),
        cmocka_unit_test(test_probes_meet_every_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
