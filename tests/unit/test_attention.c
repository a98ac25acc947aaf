/*
 * Whole calls: what must hold whatever the numbers are. Agreement with the double reference is the
 * kernel check's subject (tests/kernels).
 */
#include "library_case.h"

#include <sys/mman.h>

static draftattn_plan_desc small_grid(void)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){4, 9, 17, 150};
    desc.batch = 2;
    desc.heads = 2;
    desc.head_dim = 64;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.dense_steps = 0;
    desc.probes = 0;
    return desc;
}

static void run(struct library_case *test, const draftattn_plan_desc *desc, int32_t threads)
{
    library_case_open(test, desc, DRAFTATTN_BACKEND_AUTO, threads);
    assert_int_equal(library_case_run(test, NULL, NULL), DRAFTATTN_SUCCESS);
}

static double largest_difference(const struct library_case *a, const struct library_case *b)
{
    double worst = 0;
    for (int64_t i = 0; i < a->elements; i++)
        worst = fmax(worst, fabs((double)a->o[i] - (double)b->o[i]));
    return worst;
}

static void test_density_one_is_dense(void **state)
{
    struct library_case sparse, dense;
    draftattn_plan_desc desc = small_grid();
    draftattn_stats stats;
    (void)state;
    desc.sparsity = 0;
    run(&sparse, &desc, 2);
    desc.policy = DRAFTATTN_POLICY_DENSE;
    run(&dense, &desc, 2);
    assert_true(largest_difference(&sparse, &dense) < 1e-5);
    assert_int_equal(draftattn_read_stats(sparse.plan, sparse.workspace, &stats, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(stats.dense, 0);
    assert_true(stats.density == 1);
    assert_int_equal(draftattn_read_stats(dense.plan, dense.workspace, &stats, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(stats.dense, 1);
    assert_true(stats.error_worst == 0 && stats.error_median == 0);
    library_case_close(&sparse);
    library_case_close(&dense);
}

/* Bit for bit, repair included. */
static void test_threads_do_not_matter(void **state)
{
    struct library_case one, many;
    draftattn_plan_desc desc = small_grid();
    (void)state;
    desc.probes = 100;
    desc.repair = 1;
    desc.head_spread = 2;
    run(&one, &desc, 1);
    for (int32_t threads = 2; threads <= 5; threads++) {
        run(&many, &desc, threads);
        assert_memory_equal(one.o, many.o, (size_t)one.elements * sizeof(float));
        assert_memory_equal(one.lse, many.lse, (size_t)(4 * one.info.tokens) * sizeof(float));
        library_case_close(&many);
    }
    library_case_close(&one);
}

/* Tokens that the caller has permuted give the same outputs at the permuted places. */
static void test_block_order_is_a_permutation_away(void **state)
{
    struct library_case raster, block;
    draftattn_plan_desc desc = small_grid();
    (void)state;
    desc.probes = 64;
    desc.repair = 1;
    run(&raster, &desc, 2);
    desc.order = DRAFTATTN_ORDER_BLOCK;
    library_case_open(&block, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    int64_t tokens = raster.info.tokens, *order = library_case_alloc((size_t)tokens * 8);
    assert_int_equal(draftattn_plan_order(block.plan, order), DRAFTATTN_SUCCESS);
    for (int64_t i = 0; i < 4 * tokens; i++) {
        int64_t from = (i / tokens * tokens + order[i % tokens]) * 64;
        memcpy(block.q + i * 64, raster.q + from, 64 * sizeof(float));
        memcpy(block.k + i * 64, raster.k + from, 64 * sizeof(float));
        memcpy(block.v + i * 64, raster.v + from, 64 * sizeof(float));
    }
    assert_int_equal(library_case_run(&block, NULL, NULL), DRAFTATTN_SUCCESS);
    for (int64_t i = 0; i < 4 * tokens; i++) {
        int64_t from = i / tokens * tokens + order[i % tokens];
        assert_memory_equal(block.o + i * 64, raster.o + from * 64, 64 * sizeof(float));
        assert_true(block.lse[i] == raster.lse[from]);
    }
    free(order);
    library_case_close(&raster);
    library_case_close(&block);
}

static void test_empty_rows_give_zero(void **state)
{
    struct library_case test;
    draftattn_plan_desc desc = small_grid();
    (void)state;
    desc.compensation = 0;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    int64_t rows = 4 * test.info.query_blocks;
    memset(test.list.row_ptr, 0, (size_t)(rows + 1) * sizeof(int64_t));
    draftattn_block_list empty = {.row_ptr = test.list.row_ptr}; /* no entries, no array */
    for (int64_t i = 0; i < test.elements; i++)
        test.o[i] = 7;
    assert_int_equal(draftattn_attend(test.plan, &test.tq, &test.tk, &test.tv, &test.to, &test.tlse,
                                      &empty, test.workspace, test.workspace_size, NULL),
                     DRAFTATTN_SUCCESS);
    for (int64_t i = 0; i < test.elements; i++)
        assert_true(test.o[i] == 0);
    for (int64_t i = 0; i < 4 * test.info.tokens; i++)
        assert_true(test.lse[i] == -INFINITY);
    library_case_close(&test);
}

/* The list that a run made gives that run's output again. */
static void test_own_list_comes_to_the_same(void **state)
{
    struct library_case first, second;
    draftattn_plan_desc desc = small_grid();
    (void)state;
    run(&first, &desc, 2);
    library_case_open(&second, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    assert_int_equal(draftattn_read_block_list(first.plan, first.workspace, &second.list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(library_case_run(&second, NULL, &second.list), DRAFTATTN_SUCCESS);
    assert_memory_equal(first.o, second.o, (size_t)first.elements * sizeof(float));
    library_case_close(&first);
    library_case_close(&second);
}

/* Realised density, text included, is the budget where rows and text leave room for it. */
static int32_t was_dense(const struct library_case *test)
{
    draftattn_stats stats;
    assert_int_equal(draftattn_read_stats(test->plan, test->workspace, &stats, NULL),
                     DRAFTATTN_SUCCESS);
    return stats.dense;
}

/* A list of one's own runs below the break-even too; a guard stands above it. */
static void test_own_list_is_not_weighed(void **state)
{
    struct library_case test;
    draftattn_plan_desc desc = small_grid();
    draftattn_step first = {0, 10, -1, -1};
    (void)state;
    desc.grid = (draftattn_grid){2, 8, 16, 0};
    desc.probes = 256;
    desc.dense_steps = 0.1;
    desc.min_tokens = 0;
    run(&test, &desc, 1);
    assert_true(test.info.break_even_tokens > test.info.tokens);
    assert_int_equal(was_dense(&test), 1);
    int64_t rows = (int64_t)desc.batch * desc.heads * test.info.query_blocks;
    for (int64_t row = 0; row <= rows; row++)
        test.list.row_ptr[row] = row; /* the first block each */
    memset(test.list.block_idx, 0, (size_t)rows * sizeof(*test.list.block_idx));
    assert_int_equal(library_case_run(&test, NULL, &test.list), DRAFTATTN_SUCCESS);
    assert_int_equal(was_dense(&test), 0);
    assert_int_equal(library_case_run(&test, &first, &test.list), DRAFTATTN_SUCCESS);
    assert_int_equal(was_dense(&test), 1);
    assert_int_equal(draftattn_attend(test.plan, &test.tq, &test.tk, &test.tv, &test.to, NULL,
                                      &test.list, test.workspace, test.workspace_size, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(was_dense(&test), 0);
    library_case_close(&test);
}

static void test_budget_is_kept(void **state)
{
    struct library_case test;
    draftattn_plan_desc desc = small_grid();
    draftattn_head_stats heads[4];
    draftattn_stats stats;
    (void)state;
    desc.sparsity = 0.25; /* 7 x 7 blocks, 24 pairs with text */
    run(&test, &desc, 2);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &stats, heads),
                     DRAFTATTN_SUCCESS);
    for (int i = 0; i < 4; i++)
        assert_true(fabs((double)heads[i].density - 37.0 / 49) < 1e-6);
    assert_true(fabs(stats.density - 37.0 / 49) < 1e-6);
    assert_true(isnan(stats.error_median) && isnan(stats.error_worst));
    library_case_close(&test);
}

static void refused(struct library_case *test, const char *words)
{
    test->o[0] = 7;
    assert_int_equal(library_case_run(test, NULL, NULL), DRAFTATTN_INVALID_ARGUMENT);
    assert_true(test->o[0] == 7);
    assert_error_names(words);
}

#define REFUSED(field, value, words)                                                               \
    do {                                                                                           \
        struct library_case changed = test;                                                        \
        changed.field = value;                                                                     \
        refused(&changed, words);                                                                  \
    } while (0)

static void test_wrong_arguments_are_refused(void **state)
{
    struct library_case test;
    draftattn_plan_desc desc = small_grid();
    (void)state;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    REFUSED(tq.data, NULL, "q is NULL");
    REFUSED(tk.dtype, DRAFTATTN_F16, "k is F16; the plan says F32");
    REFUSED(tv.shape[2], 5, "v has shape [2, 2, 5, 64]");
    REFUSED(tq.stride[1], -1, "q.stride[1] is -1");
    REFUSED(tk.stride[0], INT64_MAX, "k reach beyond 63 bits");
    REFUSED(tv.data, (char *)test.workspace + test.workspace_size - 4, "v overlaps the workspace");
    REFUSED(to.stride[2], 63, "o with strides");
    REFUSED(to.stride[1], 0, "o with strides");
    REFUSED(to.data, test.q, "o is the same memory");
    REFUSED(to.data, test.workspace, "o overlaps the workspace");
    REFUSED(tlse.shape[3], 64, "lse has shape");
    REFUSED(tlse.data, test.o, "lse is the same memory");
    REFUSED(workspace, NULL, "workspace is NULL");
    REFUSED(workspace, (char *)test.workspace + 4, "aligned");
    REFUSED(workspace_size, test.workspace_size - 1, "workspace_size is");
    test.tk.stride[1] = 0; /* an input may repeat itself: one key head for all */
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    library_case_close(&test);
}

/* Infinities and NaN give what they give, but nothing crashes, hangs or leaves the list
 * malformed. */
static void test_hostile_numbers_are_survived(void **state)
{
    static const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-45f};
    draftattn_plan_desc desc = small_grid();
    struct library_case test;
    (void)state;
    desc.score = DRAFTATTN_SCORE_SPREAD;
    desc.head_spread = 3;
    desc.probes = 300;
    desc.repair = 1;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    float *inputs[3] = {test.q, test.k, test.v};
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < 5; i++) {
            library_case_fill(&test, 5);
            for (int64_t j = i; j < test.elements; j += t == 1 ? 1 : 977)
                inputs[t][j] = values[i];
            assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
            assert_int_equal(draftattn_read_block_list(test.plan, test.workspace, &test.list),
                             DRAFTATTN_SUCCESS);
            assert_int_equal(draftattn_block_list_check(test.plan, &test.list), DRAFTATTN_SUCCESS);
        }
    }
    library_case_close(&test);
}

/* The reference takes any head_dim, with all that hangs on it. */
static void test_reference_takes_any_head_dim(void **state)
{
    static const int32_t head_dims[] = {1, 3, 80, 96};
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct library_case test;
        draftattn_plan_desc desc = small_grid();
        draftattn_stats stats;
        desc.head_dim = head_dims[i];
        desc.probes = 40;
        desc.repair = 1;
        library_case_open(&test, &desc, DRAFTATTN_BACKEND_REFERENCE, 2);
        assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
        assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &stats, NULL),
                         DRAFTATTN_SUCCESS);
        assert_true(stats.error_worst > 0 && stats.error_worst < 2);
        library_case_close(&test);
    }
}

/* Rows so far apart that offsets pass 2^31 elements; what is between them is never touched. */
static void test_offsets_are_64_bit(void **state)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    const int64_t stride = INT64_C(1) << 23;
    const size_t bytes = (size_t)(300 * stride) * sizeof(float);
    struct library_case test;
    (void)state;
    desc.grid = (draftattn_grid){3, 10, 10, 0};
    desc.head_dim = 64;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.dense_steps = 0;
    float *far = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (far == MAP_FAILED)
        skip();
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    float *near = test.o, *inputs[3] = {test.q, test.k, test.v};
    draftattn_tensor *tensors[4] = {&test.tq, &test.tk, &test.tv, &test.to};
    for (int t = 0; t < 4; t++) {
        tensors[t]->data = far + 64 * t;
        tensors[t]->stride[2] = stride;
        for (int64_t i = 0; t < 3 && i < 300; i++)
            memcpy(far + i * stride + 64 * t, inputs[t] + i * 64, 64 * sizeof(float));
    }
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    for (int64_t i = 0; i < 300; i++)
        assert_memory_equal(far + i * stride + 192, near + i * 64, 64 * sizeof(float));
    munmap(far, bytes);
    library_case_close(&test);
}

/* A NaN that went in comes out, in the row that held it and in no other: a runtime must be able to
 * see that its network broke. */
static void test_nan_is_not_swallowed(void **state)
{
    static const draftattn_backend backends[] = {DRAFTATTN_BACKEND_REFERENCE,
                                                 DRAFTATTN_BACKEND_PORTABLE, DRAFTATTN_BACKEND_AVX2,
                                                 DRAFTATTN_BACKEND_AVX512};
    /* All bits set, and low bits that carry out of 32 when an exponent is made of them. */
    static const uint32_t payloads[] = {0x7fffffff, 0x7fc000a9};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof backends / sizeof *backends; i++) {
        draftattn_context *context = NULL;
        draftattn_context_desc context_desc = draftattn_context_desc_default();
        draftattn_plan_desc desc = small_grid();
        struct library_case test;
        context_desc.backend = backends[i / 2];
        if (draftattn_context_create(&context, &context_desc) != DRAFTATTN_SUCCESS)
            continue;
        draftattn_context_destroy(context);
        desc.policy = DRAFTATTN_POLICY_DENSE;
        library_case_open(&test, &desc, backends[i / 2], 2);
        int64_t d = desc.head_dim, row = 5, rows = test.elements / d;
        memcpy(&test.q[row * d + 3], &payloads[i % 2], sizeof *payloads);
        assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
        for (int64_t r = 0; r < rows; r++) {
            assert_int_equal(!!isnan(test.lse[r]), r == row);
            for (int64_t c = 0; c < d; c++)
                assert_int_equal(!!isnan(test.o[r * d + c]), r == row);
        }
        library_case_close(&test);
    }
}

/* NaN in an output must not be reported as no error. */
static void test_error_of_nan_is_nan(void **state)
{
    draftattn_plan_desc desc = small_grid();
    draftattn_head_stats heads[4];
    draftattn_stats stats;
    struct library_case test;
    (void)state;
    desc.probes = 300; /* every row */
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_AUTO, 2);
    test.v[0] = NAN;
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &stats, heads),
                     DRAFTATTN_SUCCESS);
    assert_true(isnan(heads[0].error) && !isnan(heads[1].error));
    assert_true(isnan(stats.error_median) && isnan(stats.error_worst));
    library_case_close(&test);
}

/* What a plan left in a workspace is not another's, even where the other took its place in
 * memory. */
static void test_a_later_plan_reads_nothing_of_an_earlier_one(void **state)
{
    draftattn_plan_desc desc = small_grid();
    struct library_case test;
    draftattn_stats stats;
    (void)state;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_AUTO, 1);
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &stats, NULL),
                     DRAFTATTN_SUCCESS);
    draftattn_plan_destroy(test.plan);
    assert_int_equal(draftattn_plan_create(&test.plan, test.context, &desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &stats, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("no finished run of this plan");
    library_case_close(&test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_density_one_is_dense),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_block_order_is_a_permutation_away),
        cmocka_unit_test(test_empty_rows_give_zero),
        cmocka_unit_test(test_own_list_comes_to_the_same),
        cmocka_unit_test(test_own_list_is_not_weighed),
        cmocka_unit_test(test_budget_is_kept),
        cmocka_unit_test(test_wrong_arguments_are_refused),
        cmocka_unit_test(test_hostile_numbers_are_survived),
        cmocka_unit_test(test_nan_is_not_swallowed),
        cmocka_unit_test(test_error_of_nan_is_nan),
        cmocka_unit_test(test_a_later_plan_reads_nothing_of_an_earlier_one),
        cmocka_unit_test(test_reference_takes_any_head_dim),
        cmocka_unit_test(test_offsets_are_64_bit)};
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
