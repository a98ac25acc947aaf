/*
 * What a backend with memory of its own is asked before a run: a backend that works here, but says
 * what it is told to about places.
 */
#include "library_case.h"

#include "context.h"
#include "error.h"

static const void *odd_place; /* the only one that is not the backend's own */
static enum memory odd_memory;

static enum memory told_memory(const struct problem *problem, const void *data)
{
    (void)problem;
    if (data != odd_place)
        return MEMORY_OWN;
    if (odd_memory == MEMORY_UNKNOWN)
        error_report(DRAFTATTN_DEVICE_ERROR, "the device burns");
    return odd_memory;
}

static void open_case(struct library_case *test, struct backend *backend)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){2, 9, 17, 30};
    desc.head_dim = 64;
    desc.min_tokens = 1;
    library_case_open(test, &desc, DRAFTATTN_BACKEND_PORTABLE, 1);
    *backend = *test->context->backend;
    backend->memory = told_memory;
    test->context->backend = backend;
    odd_place = NULL;
}

static void expect(struct library_case *test, const void *place, enum memory memory,
                   draftattn_status status, const char *words)
{
    odd_place = place;
    odd_memory = memory;
    test->o[0] = 7;
    assert_int_equal(library_case_run(test, NULL, &test->list), status);
    assert_error_names(words);
    assert_true(test->o[0] == 7);
}

static void test_places_are_named(void **state)
{
    struct library_case test;
    struct backend backend;
    (void)state;
    open_case(&test, &backend);
    const struct {
        const void *place;
        const char *words;
    } all[] = {{test.q, "q is in"}, {test.k, "k is in"},     {test.v, "v is in"},
               {test.o, "o is in"}, {test.lse, "lse is in"}, {test.workspace, "workspace is in"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        expect(&test, all[i].place, MEMORY_HOST, DRAFTATTN_INVALID_ARGUMENT, all[i].words);
        assert_error_names("host memory");
        expect(&test, all[i].place, MEMORY_FOREIGN, DRAFTATTN_INVALID_ARGUMENT, all[i].words);
        assert_error_names("another device");
    }
    library_case_close(&test);
}

/* A device that failed earlier is not the caller's mistake. */
static void test_a_lost_device_is_a_device_error(void **state)
{
    struct library_case test;
    struct backend backend;
    (void)state;
    open_case(&test, &backend);
    const void *const places[] = {
        test.q, test.o, test.lse, test.workspace, test.list.row_ptr, test.list.block_idx};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        expect(&test, places[i], MEMORY_UNKNOWN, DRAFTATTN_DEVICE_ERROR, "the device burns");
    odd_place = test.workspace;
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, NULL, NULL),
                     DRAFTATTN_DEVICE_ERROR);
    library_case_close(&test);
}

static void test_a_list_lies_in_one_place(void **state)
{
    struct library_case test;
    struct backend backend;
    (void)state;
    open_case(&test, &backend);
    expect(&test, test.list.row_ptr, MEMORY_HOST, DRAFTATTN_INVALID_ARGUMENT, "not both");
    expect(&test, test.list.block_idx, MEMORY_HOST, DRAFTATTN_INVALID_ARGUMENT, "not both");
    expect(&test, test.list.row_ptr, MEMORY_FOREIGN, DRAFTATTN_INVALID_ARGUMENT,
           "list.row_ptr is in");
    expect(&test, test.list.block_idx, MEMORY_FOREIGN, DRAFTATTN_INVALID_ARGUMENT,
           "list.block_idx is in");
    test.list.row_ptr[0] = 5; /* one in host memory is looked at */
    test.list.capacity = 0;
    expect(&test, test.list.row_ptr, MEMORY_HOST, DRAFTATTN_INVALID_ARGUMENT,
           "list.row_ptr[0] is 5");
    library_case_close(&test);
}

/* What is saved tells of the run it was saved after, whatever the workspace serves next. */
static void test_saved_stats_stay(void **state)
{
    struct library_case test;
    struct backend backend;
    draftattn_stats sparse, dense, saved;
    draftattn_head_stats heads[64], kept[64];
    const draftattn_step guarded = {.step = 0, .steps = 10, .sigma = -1};
    size_t bytes;
    (void)state;
    open_case(&test, &backend);
    assert_true(test.desc.heads <= 64);
    assert_int_equal(draftattn_stats_size(test.plan, &bytes), DRAFTATTN_SUCCESS);
    char *copy = library_case_alloc(bytes + 64);
    memset(copy, 0x5a, bytes + 64);
    assert_int_equal(draftattn_save_stats(test.plan, test.workspace, copy, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, copy, NULL, NULL),
                     DRAFTATTN_INVALID_ARGUMENT); /* nothing had run */

    assert_int_equal(library_case_run(&test, NULL, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &sparse, heads),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_save_stats(test.plan, test.workspace, copy, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(library_case_run(&test, &guarded, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, test.workspace, &dense, NULL),
                     DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(test.plan, copy, &saved, kept), DRAFTATTN_SUCCESS);
    assert_true(dense.dense && !sparse.dense && !saved.dense);
    assert_true(saved.density == sparse.density && saved.density < 1);
    assert_memory_equal(kept, heads, (size_t)test.desc.heads * sizeof *heads);
    for (size_t i = bytes; i < bytes + 64; i++)
        assert_int_equal(copy[i], 0x5a);

    assert_int_equal(draftattn_save_stats(test.plan, test.workspace, copy + 4, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("aligned");
    odd_place = copy;
    odd_memory = MEMORY_HOST;
    assert_int_equal(draftattn_save_stats(test.plan, test.workspace, copy, NULL),
                     DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("to is in host memory");
    assert_int_equal(draftattn_save_stats(test.plan, NULL, copy, NULL), DRAFTATTN_INVALID_ARGUMENT);
    assert_int_equal(draftattn_stats_size(test.plan, NULL), DRAFTATTN_INVALID_ARGUMENT);
    free(copy);
    library_case_close(&test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places_are_named),
        cmocka_unit_test(test_a_lost_device_is_a_device_error),
        cmocka_unit_test(test_a_list_lies_in_one_place),
        cmocka_unit_test(test_saved_stats_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
