/*
 * The helpers that golden tests stand on: the rule that makes weights, against the numbers
 * published with it, and the comparison, which must not let a NaN pass.
 */
#include "golden/golden_common.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_hash_of_the_rule(void **state)
{
    (void)state;
    assert_int_equal(fnv1a("input.x"), 58590741);
}

static void test_first_values_of_the_rule(void **state)
{
    (void)state;
    const double expected[] = {0.20599854, 0.65790318, -0.12682060};
    for (int i = 0; i < 3; i++)
        assert_true(fabs(golden_rule("input.x", i) - expected[i]) < 5e-9);
}

static void test_the_kind_of_a_tensor_sets_offset_and_scale(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t shape[3];
        int rank;
        double offset, scale;
    } cases[] = {
        {"input.x", {2, 3, 1}, 3, 0, 1},
        {"decoder.head.0.gamma", {2, 1, 1}, 3, 1, 0.1},
        {"blocks.0.norm3.weight", {2, 0, 0}, 1, 1, 0.1},
        {"blocks.0.ffn.0.bias", {2, 0, 0}, 1, 0, 0.1},
        {"blocks.0.modulation", {1, 6, 2}, 3, 0, 0.1},
        {"img_emb.emb_pos", {1, 4, 2}, 3, 0, 0.1},
        {"token_embedding.weight", {5, 4, 0}, 2, 0, 1},
        {"blocks.1.pos_embedding.embedding.weight", {5, 4, 0}, 2, 0, 1},
        {"blocks.0.ffn.0.weight", {5, 12, 0}, 2, 0, 0.5},
        {"conv1.weight", {5, 3, 4}, 3, 0, 0.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float out[60];
        golden_rule_tensor(cases[i].name, cases[i].shape, cases[i].rank, out);
        double u = golden_rule(cases[i].name, 1);
        assert_true(fabs(out[1] - (cases[i].offset + cases[i].scale * u)) < 1e-7);
    }
}

static const struct golden cpu = {.ops = &ops_cpu};

static void test_close_takes_what_is_within_the_tolerance(void **state)
{
    (void)state;
    const float got[] = {1.0f, 2.0f, INFINITY};
    const float want[] = {1.0f, 2.0005f, INFINITY};
    struct error error = {0};
    assert_true(golden_close(&cpu, "values", got, want, 3, 1e-3, &error));
    assert_false(golden_close(&cpu, "values", got, want, 3, 1e-4, &error));
    assert_non_null(strstr(error.text, "element 1"));
}

static void test_close_refuses_what_is_not_a_number(void **state)
{
    (void)state;
    const float want[] = {1.0f, 2.0f};
    const float nan_inside[] = {NAN, 2.0f};
    const float infinite[] = {1.0f, INFINITY};
    struct error error = {0};
    assert_false(golden_close(&cpu, "values", nan_inside, want, 2, 1e30, &error));
    assert_false(golden_close(&cpu, "values", infinite, want, 2, 1e30, &error));
    assert_false(golden_close(&cpu, "values", want, nan_inside, 2, 1e30, &error));
}

/* 3 of 100 in the L2 norm, wherever they are. */
static void test_bfloat16_is_judged_by_the_whole(void **state)
{
    (void)state;
    const struct golden gpu = {.gpu = true, .activations = ELEMENT_BF16};
    const float want[] = {60.0f, 80.0f, 0.0f};
    const float near[] = {60.0f, 80.0f, 2.9f}, far[] = {60.0f, 83.1f, 0.0f};
    const float nan_inside[] = {60.0f, 80.0f, NAN};
    struct error error = {0};
    assert_true(golden_close(&gpu, "values", near, want, 3, 1e-6, &error));
    assert_false(golden_close(&gpu, "values", far, want, 3, 1.0, &error));
    assert_non_null(strstr(error.text, "relative L2"));
    assert_false(golden_close(&gpu, "values", nan_inside, want, 3, 1.0, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_of_the_rule),
        cmocka_unit_test(test_first_values_of_the_rule),
        cmocka_unit_test(test_the_kind_of_a_tensor_sets_offset_and_scale),
        cmocka_unit_test(test_close_takes_what_is_within_the_tolerance),
        cmocka_unit_test(test_close_refuses_what_is_not_a_number),
        cmocka_unit_test(test_bfloat16_is_judged_by_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
