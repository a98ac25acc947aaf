/* The cost model: what it must not do whatever its constants are, and the sums it is made of. */
#include "library_case.h"

#include "cost.h"
#include "plan.h"

/* Round numbers, so that sums can be done by hand. */
static const struct backend_cost cost = {.row = 100, .apply = 1, .fit = 3};

static struct problem make(double sparsity, int32_t probes, int32_t compensation)
{
    struct problem problem = {.desc = draftattn_plan_desc_default()};
    problem.desc.sparsity = sparsity;
    problem.desc.probes = probes;
    problem.desc.compensation = compensation;
    return problem;
}

static int64_t break_even(double sparsity, int32_t probes, int32_t compensation)
{
    struct problem problem = make(sparsity, probes, compensation);
    return cost_break_even(&problem, &cost);
}

static void test_sums(void **state)
{
    (void)state;
    struct problem problem = make(0.75, 0, 0);
    assert_float_equal(cost_sparse(&problem, &cost, 4096), 1024 + 100, 1e-9);
    problem.desc.compensation = 1; /* 24 of 32 blocks are skipped */
    assert_float_equal(cost_sparse(&problem, &cost, 4096), 1024 + 100 + 24, 1e-9);
    problem.desc.key_block = 64;
    assert_float_equal(cost_sparse(&problem, &cost, 4096), 1024 + 100 + 48, 1e-9);
    problem.desc.key_block = 128;
    problem.desc.probes = 128;
    problem.desc.repair = 0;
    assert_float_equal(cost_sparse(&problem, &cost, 4096), 1148 + 128, 1e-9);
    problem.desc.repair = 1; /* 3 * 128^2 * 1.5 / 4096 = 18 */
    assert_float_equal(cost_sparse(&problem, &cost, 4096), 1148 + 128 + 128 + 18, 1e-9);
    problem.desc.policy = DRAFTATTN_POLICY_DRAFT_PAPER; /* probe rows measure, no more */
    assert_float_equal(cost_sparse(&problem, &cost, 4096), 1124 + 128, 1e-9);
}

static void test_density_has_a_floor(void **state)
{
    (void)state;
    struct problem problem = make(0.99, 0, 0); /* a row keeps one block */
    assert_float_equal(cost_sparse(&problem, &cost, 1280), 128 + 100, 1e-9);
    problem.desc.grid.text_tokens = 280; /* and text is whole: 1 - (1000 / 1280)^2 of it */
    double text = (1280.0 * 1280 - 1000.0 * 1000) / 1280;
    assert_float_equal(cost_sparse(&problem, &cost, 1280), text + 1000 * 128 / 1280.0 + 100, 1e-9);
}

/* 0.25 T saved against 100: the point where they meet. */
static void test_break_even_is_where_costs_meet(void **state)
{
    (void)state;
    assert_int_equal(break_even(0.25, 0, 0), 401);
    assert_int_equal(break_even(0.25, 0, 1), 404);
    assert_int_equal(break_even(0.9, 0, 0), 229); /* a block is kept: T - 128 saved */
    for (int32_t probes = 0; probes <= 1024; probes += 256) {
        struct problem problem = make(0.9, probes, 1);
        int64_t from = cost_break_even(&problem, &cost);
        assert_true(cost_sparse(&problem, &cost, from) < (double)from);
        assert_true(cost_sparse(&problem, &cost, from - 1) >= (double)(from - 1));
    }
}

static void test_more_work_breaks_even_later(void **state)
{
    static const double sparsity[] = {0.05, 0.2, 0.5, 0.75, 0.9};
    (void)state;
    for (size_t i = 0; i < sizeof(sparsity) / sizeof(*sparsity); i++) {
        for (int32_t probes = 0; probes < 1024; probes += 64) {
            int64_t from = break_even(sparsity[i], probes, 1);
            assert_true(break_even(sparsity[i], probes + 64, 1) > from);
            assert_true(break_even(sparsity[i], probes, 0) <= from);
            if (i > 0) /* where one block a row is all there is, they are the same */
                assert_true(break_even(sparsity[i - 1], probes, 1) >= from);
        }
    }
}

static void test_sparse_costs_less_the_sparser_it_is(void **state)
{
    (void)state;
    for (int64_t tokens = 300; tokens < 100000; tokens = tokens * 3 / 2) {
        double last = INFINITY;
        for (double sparsity = 0; sparsity < 0.96; sparsity += 0.05) {
            struct problem problem = make(sparsity, 256, 1);
            double keys = cost_sparse(&problem, &cost, tokens);
            assert_true(keys <= last && keys > 0);
            last = keys;
        }
    }
}

static void test_never_and_always(void **state)
{
    static const struct backend_cost nothing = {.row = 0};
    (void)state;
    assert_int_equal(break_even(0, 0, 0), INT64_MAX);
    assert_int_equal(break_even(1e-9, 0, 1), INT64_MAX); /* no grid is large enough */
    struct problem problem = make(0.5, 0, 0);
    problem.desc.policy = DRAFTATTN_POLICY_DENSE;
    assert_int_equal(cost_break_even(&problem, &cost), INT64_MAX);
    problem.desc.policy = DRAFTATTN_POLICY_DRAFT_PAPER; /* no floor: half is saved at once */
    assert_int_equal(cost_break_even(&problem, &nothing), 0);
    assert_int_equal(cost_break_even(&problem, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums),
                                       cmocka_unit_test(test_density_has_a_floor),
                                       cmocka_unit_test(test_break_even_is_where_costs_meet),
                                       cmocka_unit_test(test_more_work_breaks_even_later),
                                       cmocka_unit_test(test_sparse_costs_less_the_sparser_it_is),
                                       cmocka_unit_test(test_never_and_always)};
    return cmocka_run_group_tests_name("cost", tests, NULL, NULL);
}
