/* Block order: a permutation for any grid, compact blocks, a walk without leaps, the published
 * order. */
#include "order.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static int64_t *strips(int64_t frames, int64_t height, int64_t width, int64_t strip)
{
    draftattn_grid grid = {frames, height, width, 0};
    int64_t *order = malloc((size_t)(frames * height * width) * sizeof(*order));
    assert_non_null(order);
    order_strips(&grid, strip, order);
    return order;
}

static void assert_permutation(const int64_t *order, int64_t count)
{
    char *seen = calloc((size_t)count, 1);
    assert_non_null(seen);
    for (int64_t i = 0; i < count; i++) {
        assert_in_range(order[i], 0, count - 1);
        assert_int_equal(seen[order[i]], 0);
        seen[order[i]] = 1;
    }
    free(seen);
}

static void test_any_grid_is_a_permutation(void **state)
{
    static const int64_t grids[][4] = {
        {1, 1, 1, 8},   {1, 1, 7, 8},  {1, 9, 1, 8},   {5, 1, 1, 8},   {3, 7, 5, 3},
        {2, 16, 16, 8}, {4, 17, 9, 8}, {2, 6, 6, 100}, {7, 33, 13, 1}, {33, 45, 80, 8}};
    (void)state;
    for (size_t i = 0; i < sizeof(grids) / sizeof(grids[0]); i++) {
        int64_t *order = strips(grids[i][0], grids[i][1], grids[i][2], grids[i][3]);
        assert_permutation(order, grids[i][0] * grids[i][1] * grids[i][2]);
        free(order);
    }
}

/* Worked out by hand: strips of 2 rows of a 3 x 3 frame, then the same path back. */
static void test_walk_by_hand(void **state)
{
    static const int64_t want[] = {0, 3, 4, 1, 2, 5, 8, 7, 6, 15, 16, 17, 14, 11, 10, 13, 12, 9};
    int64_t *order = strips(2, 3, 3, 2);
    (void)state;
    for (int i = 0; i < 18; i++)
        assert_int_equal(order[i], want[i]);
    free(order);
}

/* Neighbours on the walk are neighbours in the video, but for one move of a strip's height between
 * strips of even width. */
static void walk_has_no_leaps(int64_t frames, int64_t height, int64_t width, int64_t strip)
{
    int64_t area = height * width, leaps = 0;
    int64_t strips_per_frame = (height + strip / 2) / strip + (strip > 2 * height);
    int64_t *order = strips(frames, height, width, strip);
    for (int64_t i = 1; i < frames * area; i++) {
        int64_t a = order[i - 1], b = order[i];
        int64_t dx = llabs(a % width - b % width), dt = llabs(a / area - b / area);
        int64_t dy = llabs(a % area / width - b % area / width);
        assert_in_range(dx + dy + dt, 1, strip + strip / 2);
        leaps += dx + dy + dt > 1;
    }
    assert_in_range(leaps, 0, width % 2 ? 0 : frames * (strips_per_frame - 1));
    free(order);
}

static void test_walk_has_no_leaps(void **state)
{
    (void)state;
    walk_has_no_leaps(3, 16, 9, 8);
    walk_has_no_leaps(3, 20, 16, 8);
    walk_has_no_leaps(2, 45, 80, 8);
    walk_has_no_leaps(4, 5, 7, 3);
}

/* Mean squared distance of a block's tokens from its centre: the ideal 128-token square has 21.1,
 * the published 8 x 16 patch 26.5; here neither divides, and strips of 8 rows must come close. */
static void test_blocks_are_compact(void **state)
{
    int64_t height = 45, width = 80, frames = 5, blocks = frames * height * width / 128;
    int64_t *order = strips(frames, height, width, 8);
    double total = 0;
    (void)state;
    for (int64_t block = 0; block < blocks; block++) {
        double sum[3] = {0}, square = 0;
        for (int64_t i = block * 128; i < block * 128 + 128; i++) {
            int64_t token = order[i];
            double at[3] = {(double)(token % width), (double)(token / width % height),
                            (double)(token / width / height)};
            for (int d = 0; d < 3; d++) {
                sum[d] += at[d];
                square += at[d] * at[d];
            }
        }
        total += square / 128 - (sum[0] * sum[0] + sum[1] * sum[1] + sum[2] * sum[2]) / 128 / 128;
    }
    assert_true(total / (double)blocks < 30);
    free(order);
}

/* frame, patch row, patch column, row, column */
static void test_published_patches(void **state)
{
    draftattn_grid grid = {2, 16, 32, 0};
    int64_t order[2 * 16 * 32];
    (void)state;
    order_patches(&grid, order);
    assert_permutation(order, 2 * 16 * 32);
    assert_int_equal(order[0], 0);
    assert_int_equal(order[15], 15);
    assert_int_equal(order[16], 32);       /* next row of the patch */
    assert_int_equal(order[128], 16);      /* next patch to the right */
    assert_int_equal(order[256], 8 * 32);  /* first patch of the next row of patches */
    assert_int_equal(order[512], 16 * 32); /* next frame */
    assert_int_equal(order[1023], 1023);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_grid_is_a_permutation), cmocka_unit_test(test_walk_by_hand),
        cmocka_unit_test(test_walk_has_no_leaps), cmocka_unit_test(test_blocks_are_compact),
        cmocka_unit_test(test_published_patches)};
    return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
