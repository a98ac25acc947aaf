/* Plans: counts, guards and words of well-formed descriptions, refusals of the others. */
#include "library_case.h"

#include <stdio.h>

static draftattn_context *context;

static int open_context(void **state)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    (void)state;
    desc.backend = DRAFTATTN_BACKEND_PORTABLE;
    return draftattn_context_create(&context, &desc) != DRAFTATTN_SUCCESS;
}

static int close_context(void **state)
{
    (void)state;
    draftattn_context_destroy(context);
    return 0;
}

static draftattn_plan *make(const draftattn_plan_desc *desc)
{
    draftattn_plan *plan = NULL;
    assert_int_equal(draftattn_plan_create(&plan, context, desc), DRAFTATTN_SUCCESS);
    return plan;
}

static void refused(const draftattn_plan_desc *desc, draftattn_status status, const char *words)
{
    draftattn_plan *plan = (draftattn_plan *)context;
    assert_int_equal(draftattn_plan_create(&plan, context, desc), status);
    assert_null(plan);
    assert_error_names(words);
}

static void test_counts(void **state)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    draftattn_plan_info info;
    (void)state;
    desc.grid = (draftattn_grid){3, 7, 11, 130}; /* 231 video tokens: 2 blocks; text: 2 blocks */
    desc.key_block = 64;                         /* 4 + 3 */
    desc.heads = 3;
    desc.batch = 2;
    draftattn_plan *plan = make(&desc);
    assert_int_equal(draftattn_plan_info_get(plan, &info), DRAFTATTN_SUCCESS);
    assert_int_equal(info.tokens, 361);
    assert_int_equal(info.video_tokens, 231);
    assert_int_equal(info.video_query_blocks, 2);
    assert_int_equal(info.query_blocks, 4);
    assert_int_equal(info.video_key_blocks, 4);
    assert_int_equal(info.key_blocks, 7);
    assert_int_equal(info.max_list_entries, 6 * 4 * 7);
    assert_int_equal(info.backend, DRAFTATTN_BACKEND_PORTABLE);
    assert_string_equal(info.kernel_name, "attend_portable_d128");

    int64_t order[361];
    assert_int_equal(draftattn_plan_order(plan, order), DRAFTATTN_SUCCESS);
    for (int i = 231; i < 361; i++)
        assert_int_equal(order[i], i);
    draftattn_plan_destroy(plan);
    draftattn_plan_destroy(NULL);
}

#define REFUSED(field, value, words)                                                               \
    do {                                                                                           \
        draftattn_plan_desc changed = desc;                                                        \
        changed.field = value;                                                                     \
        refused(&changed, DRAFTATTN_INVALID_ARGUMENT, words);                                      \
    } while (0)

static void test_refusals_name_field_and_value(void **state)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    (void)state;
    desc.grid = (draftattn_grid){2, 8, 16, 0};
    REFUSED(size, 4, "draftattn_plan_desc.size is 4");
    REFUSED(grid.frames, 0, "0 x 8 x 16");
    REFUSED(grid.height, -5, "2 x -5 x 16");
    REFUSED(grid.width, INT64_MAX, "9223372036854775807");
    REFUSED(grid.text_tokens, -1, "text_tokens is -1");
    REFUSED(batch, 0, "batch is 0");
    REFUSED(heads, -2, "heads is -2");
    REFUSED(head_dim, 0, "head_dim is 0");
    REFUSED(in_dtype, (draftattn_dtype)7, "in_dtype is 7");
    REFUSED(out_dtype, (draftattn_dtype)-1, "out_dtype is -1");
    REFUSED(softmax_scale, -1, "softmax_scale is -1");
    REFUSED(softmax_scale, NAN, "softmax_scale is");
    REFUSED(policy, (draftattn_policy)9, "policy is 9");
    REFUSED(order, (draftattn_order)9, "order is 9");
    REFUSED(sparsity, 1, "sparsity is 1");
    REFUSED(sparsity, NAN, "sparsity is");
    REFUSED(key_block, 96, "key_block is 96");
    REFUSED(strip_height, 0, "strip_height is 0");
    REFUSED(score, (draftattn_score)4, "score is 4");
    REFUSED(row_floor, 1.5, "row_floor is 1.5");
    REFUSED(head_spread, 0.5, "head_spread is 0.5");
    REFUSED(head_spread, 2e6, "it is a factor, 1 to 1e6");
    REFUSED(compensation, 2, "compensation is 2");
    REFUSED(probes, -1, "probes is -1");
    REFUSED(repair, 2, "repair is 2");
    REFUSED(ridge, 0, "ridge is 0");
    REFUSED(ridge, 1e44, "ridge is 1e+44; it is in (0, 1e6]");
    REFUSED(dense_steps, 1.1, "dense_steps is 1.1");
    REFUSED(dense_sigma, -1, "dense_sigma is -1");
    REFUSED(dense_layer_count, 2, "dense_layers is NULL");
    REFUSED(min_tokens, -1, "min_tokens is -1");
    refused(NULL, DRAFTATTN_INVALID_ARGUMENT, "desc is NULL");
    desc.head_dim = 80;
    refused(&desc, DRAFTATTN_UNSUPPORTED, "head_dim is 80");
}

static void test_patches_must_divide(void **state)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    (void)state;
    desc.policy = DRAFTATTN_POLICY_DRAFT_PAPER;
    desc.grid = (draftattn_grid){21, 30, 52, 0};
    refused(&desc, DRAFTATTN_INVALID_ARGUMENT, "30 x 52");
    assert_error_names("32 x 48"); /* the nearest */
    desc.grid = (draftattn_grid){21, 32, 48, 0};
    draftattn_plan_destroy(make(&desc));
}

static void test_sizes_that_do_not_fit_are_refused(void **state)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    (void)state;
    desc.grid = (draftattn_grid){1, 32768, 65535, 0}; /* just under 2^31 tokens */
    desc.heads = INT32_MAX;
    desc.batch = INT32_MAX;
    refused(&desc, DRAFTATTN_INVALID_ARGUMENT, "address space");
}

static int32_t dense(const draftattn_plan *plan, int32_t step, int32_t steps, int32_t layer,
                     float sigma)
{
    draftattn_step at = {step, steps, layer, sigma};
    int32_t answer = -1;
    assert_int_equal(draftattn_plan_is_dense(plan, &at, &answer), DRAFTATTN_SUCCESS);
    return answer;
}

static void test_guards(void **state)
{
    static const int32_t layers[] = {0, 7};
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    int32_t answer = -1;
    (void)state;
    desc.grid = (draftattn_grid){2, 8, 16, 0};
    desc.min_tokens = 1;
    desc.dense_steps = 0.2;
    desc.dense_sigma = 0.9;
    desc.dense_layers = layers;
    desc.dense_layer_count = 2;
    draftattn_plan *plan = make(&desc);
    assert_int_equal(dense(plan, 1, 10, 3, -1), 1); /* 0.2 of 10 = 2 steps */
    assert_int_equal(dense(plan, 2, 10, 3, -1), 0);
    assert_int_equal(dense(plan, 0, 0, 3, -1), 0); /* steps unknown */
    assert_int_equal(dense(plan, -1, 0, 3, -1), 0);
    assert_int_equal(dense(plan, -1, 10, 3, -1), 0);
    assert_int_equal(dense(plan, 9, 10, 7, -1), 1);
    assert_int_equal(dense(plan, 9, 10, -1, -1), 0);
    assert_int_equal(dense(plan, 9, 10, 3, 0.91f), 1);
    assert_int_equal(dense(plan, 9, 10, 3, 0.89f), 0);
    assert_int_equal(draftattn_plan_is_dense(plan, NULL, &answer), DRAFTATTN_SUCCESS);
    assert_int_equal(answer, 0);
    assert_int_equal(draftattn_plan_is_dense(NULL, NULL, &answer), DRAFTATTN_INVALID_ARGUMENT);
    draftattn_plan_destroy(plan);

    desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){2, 8, 16, 0};
    desc.min_tokens = 257;
    plan = make(&desc);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 1);
    draftattn_plan_destroy(plan);
}

static void test_description_in_words(void **state)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    draftattn_step step = {4, 12, 3, -1};
    char text[1024], tight[20];
    (void)state;
    desc.grid = (draftattn_grid){9, 16, 16, 0};
    draftattn_plan *plan = make(&desc);
    size_t length = draftattn_plan_describe(plan, &step, text, sizeof(text));
    assert_int_equal(length, strlen(text));
    assert_non_null(strstr(text, "Layer 3, step 5 of 12: draft attention"));
    assert_non_null(strstr(text, "324 block pairs"));
    assert_non_null(strstr(text, "compensation on"));
    assert_non_null(strstr(text, "attend_portable_d128"));
    assert_int_equal(draftattn_plan_describe(plan, &step, NULL, 0), length);
    assert_int_equal(draftattn_plan_describe(plan, &step, tight, sizeof(tight)), length);
    assert_memory_equal(tight, text, sizeof(tight) - 1);
    assert_int_equal(tight[sizeof(tight) - 1], '\0');

    assert_non_null(strstr(text, "repair fitted on 256 probe rows"));
    desc.probes = 0;
    draftattn_plan *without = make(&desc);
    draftattn_plan_describe(without, &step, text, sizeof(text));
    assert_null(strstr(text, "probe"));
    draftattn_plan_destroy(without);

    step.step = INT32_MAX;
    draftattn_plan_describe(plan, &step, text, sizeof(text));
    assert_non_null(strstr(text, "step 2147483648 of 12"));
    step.step = 0;
    draftattn_plan_describe(plan, &step, text, sizeof(text));
    assert_non_null(strstr(text, "dense attention"));
    assert_non_null(strstr(text, "the first 2 of 12 steps stay dense"));
    draftattn_plan_destroy(plan);
}

/* A grid of frames x 8 x 16 tokens that wants repair or not. */
static draftattn_plan_desc small_grid(int64_t frames, int32_t probes)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){frames, 8, 16, 0};
    desc.heads = 4;
    desc.probes = probes;
    return desc;
}

static int64_t break_even(const draftattn_plan *plan)
{
    draftattn_plan_info info;
    assert_int_equal(draftattn_plan_info_get(plan, &info), DRAFTATTN_SUCCESS);
    return info.break_even_tokens;
}

static void test_break_even_keeps_small_grids_dense(void **state)
{
    (void)state;
    draftattn_plan_desc desc = small_grid(2, 256);
    draftattn_plan *plan = make(&desc);
    int64_t from = break_even(plan);
    assert_true(from > 256 && from < 10000);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 1);
    draftattn_plan_destroy(plan);

    /* Both sides of the number that the plan tells. */
    desc.grid = (draftattn_grid){1, 1, from - 1, 0};
    plan = make(&desc);
    assert_int_equal(break_even(plan), from);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 1);
    draftattn_plan_destroy(plan);
    desc.grid.width = from;
    plan = make(&desc);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 0);
    draftattn_plan_destroy(plan);

    desc.grid.width = from - 1;
    desc.min_tokens = 1;
    plan = make(&desc);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 0);
    draftattn_plan_destroy(plan);
    desc.grid.width = from;
    desc.min_tokens = from + 1;
    plan = make(&desc);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 1);
    draftattn_plan_destroy(plan);
}

static void test_break_even_where_there_is_none(void **state)
{
    (void)state;
    draftattn_plan_desc desc = small_grid(2, 256);
    desc.policy = DRAFTATTN_POLICY_DENSE;
    draftattn_plan *plan = make(&desc);
    assert_int_equal(break_even(plan), INT64_MAX);
    draftattn_plan_destroy(plan);
    desc.policy = DRAFTATTN_POLICY_DRAFT;
    desc.sparsity = 0;
    plan = make(&desc);
    assert_int_equal(break_even(plan), INT64_MAX);
    assert_int_equal(dense(plan, 9, 10, 3, -1), 1);
    draftattn_plan_destroy(plan);
}

static void test_break_even_in_words(void **state)
{
    char text[1024], words[64];
    (void)state;
    draftattn_plan_desc desc = small_grid(2, 256);
    draftattn_step step = {9, 10, 3, -1};
    draftattn_plan *plan = make(&desc);
    draftattn_plan_describe(plan, &step, text, sizeof(text));
    snprintf(words, sizeof(words), "estimated to pay from %lld on", (long long)break_even(plan));
    assert_non_null(strstr(text, "dense attention over all 4 block pairs"));
    assert_non_null(strstr(text, "the grid has 256 tokens"));
    assert_non_null(strstr(text, words));
    assert_non_null(strstr(text, "min_tokens 1 "));
    step.step = 0; /* the reason that holds for any grid comes first */
    draftattn_plan_describe(plan, &step, text, sizeof(text));
    assert_non_null(strstr(text, "the first 2 of 10 steps stay dense"));
    draftattn_plan_destroy(plan);

    desc.sparsity = 0;
    plan = make(&desc);
    draftattn_plan_describe(plan, NULL, text, sizeof(text));
    assert_non_null(strstr(text, "at sparsity 0 sparse attention is estimated to take longer"));
    draftattn_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts),
                                       cmocka_unit_test(test_refusals_name_field_and_value),
                                       cmocka_unit_test(test_patches_must_divide),
                                       cmocka_unit_test(test_sizes_that_do_not_fit_are_refused),
                                       cmocka_unit_test(test_guards),
                                       cmocka_unit_test(test_break_even_keeps_small_grids_dense),
                                       cmocka_unit_test(test_break_even_where_there_is_none),
                                       cmocka_unit_test(test_break_even_in_words),
                                       cmocka_unit_test(test_description_in_words)};
    return cmocka_run_group_tests_name("plan", tests, open_context, close_context);
}
