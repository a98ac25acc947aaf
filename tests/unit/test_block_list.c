/* Block lists: to masks and back, and every way in which one can be wrong. */
#include "library_case.h"

/* 2 heads, 3 video query blocks, 3 + 1 key blocks, one text query block. */
static struct library_case make(void)
{
    struct library_case test;
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){3, 8, 16, 20};
    desc.heads = 2;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.head_dim = 64;
    library_case_open(&test, &desc, DRAFTATTN_BACKEND_PORTABLE, 1);
    return test;
}

static void test_there_and_back(void **state)
{
    struct library_case test = make();
    uint8_t mask[32], back[32];
    uint64_t seed = 3;
    (void)state;
    for (int trial = 0; trial < 50; trial++) {
        for (int i = 0; i < 32; i++)
            mask[i] = library_case_random(&seed) > 0;
        assert_int_equal(draftattn_block_list_from_mask(test.plan, mask, &test.list),
                         DRAFTATTN_SUCCESS);
        assert_int_equal(draftattn_block_list_check(test.plan, &test.list), DRAFTATTN_SUCCESS);
        assert_int_equal(draftattn_block_list_to_mask(test.plan, &test.list, back),
                         DRAFTATTN_SUCCESS);
        assert_memory_equal(mask, back, sizeof(mask));
    }
    library_case_close(&test);
}

static void wrong(const struct library_case *test, const char *words)
{
    assert_int_equal(draftattn_block_list_check(test->plan, &test->list),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names(words);
}

static void test_wrong_lists_are_refused(void **state)
{
    struct library_case test = make();
    uint8_t mask[32];
    (void)state;
    memset(mask, 1, sizeof(mask));
    assert_int_equal(draftattn_block_list_from_mask(test.plan, mask, &test.list),
                     DRAFTATTN_SUCCESS);

    test.list.block_idx[5] = 4;
    wrong(&test, "block_idx[5] is 4");
    test.list.block_idx[5] = -1;
    wrong(&test, "block_idx[5] is -1");
    test.list.block_idx[5] = 0;
    wrong(&test, "strictly ascending");
    test.list.block_idx[5] = 1;
    test.list.row_ptr[2] = 3;
    wrong(&test, "falls from 4 to 3");
    test.list.row_ptr[2] = INT64_MAX;
    wrong(&test, "list.capacity is 32");
    test.list.row_ptr[2] = 8;
    test.list.row_ptr[0] = -1;
    wrong(&test, "row_ptr[0] is -1");
    test.list.row_ptr[0] = 0;
    test.list.capacity = 31;
    wrong(&test, "list.capacity is 31");
    assert_int_equal(draftattn_block_list_from_mask(test.plan, mask, &test.list),
                     DRAFTATTN_INVALID_ARGUMENT);
    test.list.capacity = 32;
    mask[9] = 2;
    assert_int_equal(draftattn_block_list_from_mask(test.plan, mask, &test.list),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("mask[9] is 2");
    assert_int_equal(draftattn_block_list_check(test.plan, &test.list), DRAFTATTN_SUCCESS);

    draftattn_block_list empty = {0};
    assert_int_equal(draftattn_block_list_check(test.plan, &empty), DRAFTATTN_INVALID_ARGUMENT);
    library_case_close(&test);
}

/* What a run leaves behind can be read, and only then. */
static void test_read_back(void **state)
{
    struct library_case test = make();
    uint8_t mask[32];
    (void)state;
    assert_int_equal(draftattn_read_block_list(test.plan, test.workspace, &test.list),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("no finished run");
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, NULL, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_block_list(test.plan, test.workspace, &test.list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_block_list_to_mask(test.plan, &test.list, mask), DRAFTATTN_SUCCESS);
    for (int i = 0; i < 32; i++)
        if (i % 4 == 3 || i / 4 % 4 == 3) /* pairs with text */
            assert_int_equal(mask[i], 1);
    int64_t entries = test.list.row_ptr[8];
    test.list.capacity = entries - 1;
    assert_int_equal(draftattn_read_block_list(test.plan, test.workspace, &test.list),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("list.capacity");

    draftattn_step step = {0, 12, 0, -1}; /* a dense step: the list is full */
    test.list.capacity = 32;
    assert_int_equal(library_case_run(&test, &step, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_block_list(test.plan, test.workspace, &test.list),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(test.list.row_ptr[8], 32);
    library_case_close(&test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_there_and_back),
                                       cmocka_unit_test(test_wrong_lists_are_refused),
                                       cmocka_unit_test(test_read_back)};
    return cmocka_run_group_tests_name("block_list", tests, NULL, NULL);
}
