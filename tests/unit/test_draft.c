/* The draft map against the double reference on every backend: odd grids, text, both key blocks. */
#include "library_case.h"
#include "reference.h"

static draftattn_plan_desc odd_grid(int32_t key_block)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){3, 13, 19, 77};
    desc.batch = 2;
    desc.heads = 3;
    desc.head_dim = 64;
    desc.key_block = key_block;
    desc.min_tokens = 1; /* sparse whatever it costs */
    return desc;
}

/* Bounds of the blocks as the header tells: video blocks, then text blocks. */
static int64_t begins(int64_t video, int64_t tokens, int64_t size, int64_t *begin)
{
    int64_t count = 0;
    for (int64_t at = 0; at < video; at += size)
        begin[count++] = at;
    for (int64_t at = video; at < tokens; at += size)
        begin[count++] = at;
    begin[count] = tokens;
    return count;
}

static float *reference_map(const struct library_case *test, draftattn_score score)
{
    const draftattn_plan_info *info = &test->info;
    int64_t query_begin[32], key_begin[32];
    int64_t entries = 6 * info->video_query_blocks * info->video_key_blocks;
    int64_t *order = library_case_alloc((size_t)info->tokens * sizeof(*order));
    float *map = library_case_alloc((size_t)entries * sizeof(*map));
    assert_int_equal(draftattn_plan_order(test->plan, order), DRAFTATTN_SUCCESS);
    struct reference_problem problem = {.q = &test->tq,
                                        .k = &test->tk,
                                        .order = order,
                                        .query_begin = query_begin,
                                        .key_begin = key_begin,
                                        .scale = 1 / sqrt(test->desc.head_dim)};
    problem.query_blocks = begins(info->video_tokens, info->tokens, 128, query_begin);
    problem.key_blocks = begins(info->video_tokens, info->tokens, test->desc.key_block, key_begin);
    assert_int_equal(problem.query_blocks, info->query_blocks);
    assert_int_equal(problem.key_blocks, info->key_blocks);
    assert_true(reference_score_map(&problem, info->video_query_blocks, info->video_key_blocks,
                                    score, map));
    free(order);
    return map;
}

static void check(draftattn_backend backend, int32_t key_block)
{
    struct library_case test;
    draftattn_plan_desc desc = odd_grid(key_block);
    library_case_open(&test, &desc, backend, 2);
    int64_t columns = test.info.video_key_blocks;
    int64_t entries = 6 * test.info.video_query_blocks * columns;
    float *want = reference_map(&test, DRAFTATTN_SCORE_MASS);
    float *got = library_case_alloc((size_t)entries * sizeof(*got));
    assert_int_equal(draftattn_draft_map(test.plan, &test.tq, &test.tk, got, test.workspace,
                                         test.workspace_size, NULL),
                     DRAFTATTN_SUCCESS);
    double sum = 0;
    for (int64_t i = 0; i < entries; i++) {
        assert_true(fabs((double)got[i] - (double)want[i]) < 1e-6);
        sum = i % columns ? sum + (double)got[i] : (double)got[i];
        if (i % columns == columns - 1)
            assert_true(fabs(sum - 1) < 1e-5);
    }
    free(want);
    free(got);
    library_case_close(&test);
}

static void test_map_is_the_definition(void **state)
{
    (void)state;
    for (int backend = DRAFTATTN_BACKEND_REFERENCE; backend <= DRAFTATTN_BACKEND_AVX512;
         backend++) {
        draftattn_context_desc desc = draftattn_context_desc_default();
        draftattn_context *context;
        desc.backend = (draftattn_backend)backend;
        if (draftattn_context_create(&context, &desc) != DRAFTATTN_SUCCESS)
            continue; /* this machine has no such instructions */
        draftattn_context_destroy(context);
        check((draftattn_backend)backend, 128);
        check((draftattn_backend)backend, 64);
    }
}

/* A run ranked by SPREAD keeps what draftattn_select() keeps of the reference's spread map. */
static void test_spread_ranks_a_run(void **state)
{
    struct library_case test;
    draftattn_plan_desc desc = odd_grid(64);
    (void)state;
    desc.score = DRAFTATTN_SCORE_SPREAD;
    desc.dense_steps = 0;
    desc.sparsity = 0.6;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_PORTABLE, 2);
    int64_t rows = 6 * test.info.query_blocks;
    size_t entries = (size_t)test.info.max_list_entries;
    float *map = reference_map(&test, DRAFTATTN_SCORE_SPREAD);
    uint8_t *want = library_case_alloc(entries), *got = library_case_alloc(entries);
    assert_int_equal(
        draftattn_select(test.plan, map, &test.list, test.workspace, test.workspace_size, NULL),
        DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_block_list_to_mask(test.plan, &test.list, want), DRAFTATTN_SUCCESS);
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_block_list(test.plan, test.workspace, &test.list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_block_list_to_mask(test.plan, &test.list, got), DRAFTATTN_SUCCESS);
    assert_memory_equal(got, want, entries);
    assert_true(test.list.row_ptr[rows] < test.info.max_list_entries);

    map[7] = NAN;
    assert_int_equal(
        draftattn_select(test.plan, map, &test.list, test.workspace, test.workspace_size, NULL),
        DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("NaN");
    free(map);
    free(want);
    free(got);
    library_case_close(&test);
}

/* Block means would be written over what they are made of. */
static void test_inputs_outside_the_workspace(void **state)
{
    struct library_case test;
    draftattn_plan_desc desc = odd_grid(128);
    float map[6 * 6 * 6];
    (void)state;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_PORTABLE, 1);
    assert_int_equal(test.info.video_query_blocks, 6);
    draftattn_tensor inside = test.tk;
    inside.data = (char *)test.workspace + test.workspace_size - sizeof(float);
    assert_int_equal(draftattn_draft_map(test.plan, &test.tq, &inside, map, test.workspace,
                                         test.workspace_size, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("k overlaps the workspace");
    assert_int_equal(draftattn_draft_map(test.plan, &inside, &test.tk, map, test.workspace,
                                         test.workspace_size, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("q overlaps the workspace");
    assert_int_equal(
        draftattn_draft_map(test.plan, &test.tq, &inside, map, test.workspace, SIZE_MAX, NULL),
        DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("k overlaps the workspace");
    assert_int_equal(draftattn_draft_map(test.plan, &test.tq, &test.tk, test.workspace,
                                         test.workspace, test.workspace_size, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("map overlaps the workspace");
    library_case_close(&test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_map_is_the_definition),
                                       cmocka_unit_test(test_spread_ranks_a_run),
                                       cmocka_unit_test(test_inputs_outside_the_workspace)};
    return cmocka_run_group_tests_name("draft", tests, NULL, NULL);
}
