/*
 * Selection against its definition (select.c), worked out by sorting: budgets, row floors, ties,
 * heads that trade, the published percentile.
 */
#include "select.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

static uint64_t random_state = 7;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

/* Few distinct values: many ties. */
static float coarse(void)
{
    return (float)(random_bits() % 7) / 8 - 0.25f;
}

static float fine(void)
{
    return (float)random_bits() / 2147483648.0f;
}

struct ranked {
    float score;
    int64_t index;
};

static int best_first(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

/* The definition: sort by score, then index; take the first wanted that are not kept yet. */
static void sort_and_mark(const float *score, uint8_t *keep, int64_t count, int64_t wanted)
{
    struct ranked *all = malloc((size_t)count * sizeof(*all));
    assert_non_null(all);
    for (int64_t i = 0; i < count; i++)
        all[i] = (struct ranked){score[i], i};
    qsort(all, (size_t)count, sizeof(*all), best_first);
    for (int64_t i = 0; i < count && wanted > 0; i++) {
        if (!keep[all[i].index]) {
            keep[all[i].index] = 1;
            wanted--;
        }
    }
    free(all);
}

static void test_keys_order_floats(void **state)
{
    static const float ascending[] = {-INFINITY, -3e38f, -1, -1e-40f, 0,     1e-45f,
                                      1e-40f,    0.5f,   1,  2,       3e38f, INFINITY};
    (void)state;
    for (size_t i = 1; i < sizeof(ascending) / sizeof(ascending[0]); i++)
        assert_true(select_key(ascending[i - 1]) < select_key(ascending[i]));
    assert_int_equal(select_key(-0.0f), select_key(0.0f));
}

static void test_marks_the_best(void **state)
{
    enum { COUNT = 300 };
    float score[COUNT];
    uint8_t got[COUNT], want[COUNT];
    (void)state;
    for (int trial = 0; trial < 200; trial++) {
        int64_t count = 1 + random_bits() % COUNT, kept = 0;
        for (int64_t i = 0; i < count; i++) {
            score[i] = trial % 2 ? coarse() : fine();
            want[i] = got[i] = random_bits() % 4 == 0;
            kept += got[i];
        }
        int64_t wanted = random_bits() % (count - kept + 1);
        sort_and_mark(score, want, count, wanted);
        select_mark_best(score, got, count, wanted);
        assert_memory_equal(got, want, (size_t)count);
    }
}

static struct problem make_problem(int64_t rows, int64_t columns, int32_t heads)
{
    struct problem problem = {.desc = draftattn_plan_desc_default(),
                              .threads = 2,
                              .heads = heads,
                              .query_blocks = rows,
                              .video_query_blocks = rows,
                              .key_blocks = columns,
                              .video_key_blocks = columns};
    problem.desc.heads = heads;
    return problem;
}

static void test_draft_budget_and_floor(void **state)
{
    enum { ROWS = 9, COLUMNS = 13, HEADS = 3, ENTRIES = ROWS * COLUMNS };
    float score[HEADS * ENTRIES];
    uint8_t got[HEADS * ENTRIES], want[HEADS * ENTRIES];
    int64_t scratch[HEADS * 257];
    struct problem problem = make_problem(ROWS, COLUMNS, HEADS);
    (void)state;
    for (int trial = 0; trial < 60; trial++) {
        problem.desc.sparsity = (double)(random_bits() % 100) / 100;
        problem.desc.row_floor = (double)(random_bits() % 5) / 4;
        for (int i = 0; i < HEADS * ENTRIES; i++)
            score[i] = trial % 2 ? coarse() : fine();
        memset(got, 0, sizeof(got));
        memset(want, 0, sizeof(want));
        int64_t budget = llround((1 - problem.desc.sparsity) * ENTRIES);
        budget = budget < ROWS ? ROWS : budget;
        int64_t least = (int64_t)(problem.desc.row_floor * (double)budget / ROWS);
        least = least < 1 ? 1 : least;
        for (int head = 0; head < HEADS; head++) {
            for (int row = 0; row < ROWS; row++)
                sort_and_mark(score + head * ENTRIES + row * COLUMNS,
                              want + head * ENTRIES + row * COLUMNS, COLUMNS, least);
            sort_and_mark(score + head * ENTRIES, want + head * ENTRIES, ENTRIES,
                          budget - ROWS * least);
        }
        policy_draft(&problem, score, got, scratch);
        assert_memory_equal(got, want, sizeof(got));
    }
}

/* Text pairs come out of the same budget, and every row keeps one block however small it is. */
static void test_budget_counts_text(void **state)
{
    struct problem problem = make_problem(10, 10, 1);
    (void)state;
    problem.query_blocks = problem.key_blocks = 12; /* 44 of 144 pairs touch text */
    problem.desc.sparsity = 0.5;
    assert_int_equal(policy_draft_budget(&problem), 72 - 44);
    problem.desc.sparsity = 0.9;
    assert_int_equal(policy_draft_budget(&problem), 10);
    problem.desc.sparsity = 0;
    assert_int_equal(policy_draft_budget(&problem), 100);
}

/* The definition: walk the thresholds down until the clipped counts reach the total. */
static void share_by_definition(const float *score, int64_t heads, int64_t count, int64_t mean,
                                int64_t low, int64_t high, int64_t *budget)
{
    struct ranked *all = malloc((size_t)(heads * count) * sizeof(*all));
    int64_t above[16] = {0}, reached[16] = {0}, at = 0, sum = 0;
    assert_non_null(all);
    for (int64_t i = 0; i < heads * count; i++)
        all[i] = (struct ranked){score[i], i};
    qsort(all, (size_t)(heads * count), sizeof(*all), best_first);
    while (at < heads * count && sum < heads * mean) {
        memcpy(above, reached, sizeof(above));
        float threshold = all[at].score;
        for (; at < heads * count && all[at].score == threshold; at++)
            reached[all[at].index / count]++;
        sum = 0;
        for (int64_t head = 0; head < heads; head++)
            sum += reached[head] < low ? low : reached[head] > high ? high : reached[head];
    }
    int64_t missing = heads * mean;
    for (int64_t head = 0; head < heads; head++) {
        budget[head] = above[head] < low ? low : above[head] > high ? high : above[head];
        missing -= budget[head];
    }
    for (int64_t head = 0; head < heads; head++) {
        int64_t to = reached[head] < low ? low : reached[head] > high ? high : reached[head];
        int64_t extra = to - budget[head] < missing ? to - budget[head] : missing;
        budget[head] += extra;
        missing -= extra;
    }
    assert_int_equal(missing, 0);
    free(all);
}

static void test_heads_share_a_mean(void **state)
{
    enum { HEADS = 5, COUNT = 120 };
    float score[HEADS * COUNT];
    int64_t got[HEADS], want[HEADS], histogram[HEADS * 256];
    (void)state;
    for (int trial = 0; trial < 100; trial++) {
        int64_t mean = 10 + random_bits() % 60, sum = 0;
        int64_t low = mean / (1 + random_bits() % 3), high = mean * (1 + random_bits() % 2);
        for (int i = 0; i < HEADS * COUNT; i++)
            score[i] = (trial % 2 ? coarse() : fine()) * (float)(1 + i / COUNT);
        share_by_definition(score, HEADS, COUNT, mean, low, high, want);
        select_share(score, HEADS, COUNT, mean, low, high, got, histogram, 2);
        for (int head = 0; head < HEADS; head++) {
            assert_int_equal(got[head], want[head]);
            assert_in_range(got[head], low, high);
            sum += got[head];
        }
        assert_int_equal(sum, HEADS * mean);
    }
}

/* k = floor(N * sparsity): what is at least the k-th smallest stays, ties too; k = 0 keeps all. */
static void test_published_percentile(void **state)
{
    static const float map[] = {0.1f, 0.2f, 0.2f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f};
    static const int kept_at[][2] = {{0, 10}, {9, 10}, {10, 10}, {20, 9},
                                     {30, 9}, {49, 9}, {50, 6},  {90, 2}};
    struct problem problem = make_problem(1, 10, 1);
    (void)state;
    for (size_t i = 0; i < sizeof(kept_at) / sizeof(kept_at[0]); i++) {
        uint8_t keep[10] = {0};
        int kept = 0;
        problem.desc.sparsity = kept_at[i][0] / 100.0;
        policy_draft_paper(&problem, map, keep, NULL);
        for (int j = 0; j < 10; j++)
            kept += keep[j];
        assert_int_equal(kept, kept_at[i][1]);
        assert_int_equal(keep[9], 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_order_floats),      cmocka_unit_test(test_marks_the_best),
        cmocka_unit_test(test_draft_budget_and_floor), cmocka_unit_test(test_budget_counts_text),
        cmocka_unit_test(test_heads_share_a_mean),     cmocka_unit_test(test_published_percentile)};
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
