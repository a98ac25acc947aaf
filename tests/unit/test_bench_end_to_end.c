/* What a generation takes, reckoned from a step of each kind, against sums by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench_end_to_end.h"

#include <math.h>

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) < 1e-9))
        fail_msg("got %.12g, expected %.12g", got, want);
}

static struct end_to_end_settings settings_of(int64_t steps)
{
    return (struct end_to_end_settings){
        .video = {.steps = steps}, .shares = {0.2, 0.1, 0, 1}, .share_count = 4};
}

static struct end_to_end_report report_of(void)
{
    struct end_to_end_report report = {
        .text = 0.5, .decode = 20, .load_transformer = 1000, .row_count = 2};
    report.rows[0] = (struct end_to_end_row){.dense = true, .step = 22};
    report.rows[1] = (struct end_to_end_row){.sparsity = 0.9, .step = 9};
    report.rows[0].parts.total = 12; /* waited around every operation: longer than a pass */
    report.rows[0].parts.seconds[PROFILE_ATTENTION] = 9;
    report.rows[0].parts.seconds[PROFILE_MATMUL] = 3;
    report.rows[1].parts.total = 5;
    report.rows[1].parts.seconds[PROFILE_ATTENTION] = 2;
    report.rows[1].parts.seconds[PROFILE_MATMUL] = 2.5;
    report.rows[1].parts.seconds[PROFILE_ELEMENTWISE] = 0.5;
    for (int row = 0; row < 2; row++)
        for (int share = 0; share < END_TO_END_MAX_SHARES; share++)
            report.rows[row].denoise[share] = NAN;
    return report;
}

static double total_of(const struct end_to_end_settings *settings,
                       const struct end_to_end_report *report, int row, int share)
{
    return end_to_end_generation(settings, report, &report->rows[row], share).total;
}

static void dense_steps_come_first(void **state)
{
    (void)state;
    const struct end_to_end_settings settings = settings_of(50);
    const struct end_to_end_report report = report_of();
    for (int share = 0; share < 4; share++)
        assert_near(total_of(&settings, &report, 0, share), 0.5 + 50 * 22 + 20);
    assert_near(total_of(&settings, &report, 1, 0), 0.5 + 10 * 22 + 40 * 9 + 20);
    assert_near(total_of(&settings, &report, 1, 1), 0.5 + 5 * 22 + 45 * 9 + 20);
    assert_near(total_of(&settings, &report, 1, 2), 0.5 + 50 * 9 + 20);
    assert_near(total_of(&settings, &report, 1, 3), 0.5 + 50 * 22 + 20);
}

/* As draftattn_plan_desc.dense_steps says it: rounded to whole steps. */
static void shares_are_rounded(void **state)
{
    (void)state;
    const struct end_to_end_settings settings = settings_of(13);
    const struct end_to_end_report report = report_of();
    assert_near(total_of(&settings, &report, 1, 0), 0.5 + 3 * 22 + 10 * 9 + 20);
    assert_near(total_of(&settings, &report, 1, 1), 0.5 + 1 * 22 + 12 * 9 + 20);
}

static void parts_are_by_the_shares_of_both_rows(void **state)
{
    (void)state;
    const struct end_to_end_settings settings = settings_of(50);
    const struct end_to_end_report report = report_of();
    const struct end_to_end_generation g =
        end_to_end_generation(&settings, &report, &report.rows[1], 0);
    assert_near(g.denoise[PROFILE_ATTENTION], 220 * 0.75 + 360 * 0.4);
    assert_near(g.denoise[PROFILE_MATMUL], 220 * 0.25 + 360 * 0.5);
    assert_near(g.denoise[PROFILE_ELEMENTWISE], 360 * 0.1);
    assert_near(g.denoise[PROFILE_TRANSFER], 0);
    assert_near(g.text, 0.5);
    assert_near(g.decode, 20);
    assert_false(g.measured);
}

static void what_was_run_counts(void **state)
{
    (void)state;
    const struct end_to_end_settings settings = settings_of(50);
    struct end_to_end_report report = report_of();
    report.rows[1].denoise[1] = 1030; /* twice what is reckoned */
    const struct end_to_end_generation g =
        end_to_end_generation(&settings, &report, &report.rows[1], 1);
    assert_true(g.measured);
    assert_near(g.total, 0.5 + 1030 + 20);
    assert_near(g.denoise[PROFILE_ELEMENTWISE], 2 * 405 * 0.1);
    assert_near(total_of(&settings, &report, 1, 0), 0.5 + 10 * 22 + 40 * 9 + 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_steps_come_first),
        cmocka_unit_test(shares_are_rounded),
        cmocka_unit_test(parts_are_by_the_shares_of_both_rows),
        cmocka_unit_test(what_was_run_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
