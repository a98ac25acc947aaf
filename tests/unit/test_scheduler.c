/* Samplers against the published timetables and the worked traces of a toy model, and what they
 * refuse. */
#include "io/checkpoint.h"
#include "models/scheduler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct device *device;

static int make_device(void **state)
{
    (void)state;
    struct error error = {0};
    return ops_cpu.create(&device, &(struct device_desc){0}, &error) ? 0 : -1;
}

static int drop_device(void **state)
{
    (void)state;
    ops_cpu.destroy(device);
    return 0;
}

static struct scheduler *make(const char *sampler, int32_t steps, double shift,
                              enum scheduler_table table, int64_t elements)
{
    struct scheduler_desc desc = {sampler, steps, shift, table};
    struct scheduler *scheduler = NULL;
    struct error error = {0};
    if (!scheduler_create(&scheduler, &desc, elements, &ops_cpu, device, &error))
        fail_msg("%s", error.text);
    assert_int_equal(scheduler_steps(scheduler), steps);
    return scheduler;
}

static void check_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%.9g, expected %.9g", got, want);
}

static void check_sigmas(struct scheduler *scheduler, const double *want)
{
    int32_t steps = scheduler_steps(scheduler);
    for (int32_t i = 0; i < steps; i++)
        check_near(scheduler_sigma(scheduler, i), want[i], 6e-7);
    assert_true(scheduler_sigma(scheduler, steps) == 0.0);
    scheduler_destroy(scheduler);
}

static void check_timesteps(struct scheduler *scheduler, const int *want)
{
    for (int32_t i = 0; i < scheduler_steps(scheduler); i++)
        check_near(scheduler_timestep(scheduler, i), want[i], 0.0);
    scheduler_destroy(scheduler);
}

#define WAN       SCHEDULER_TABLE_WAN
#define DIFFUSERS SCHEDULER_TABLE_DIFFUSERS

static void sigmas_are_the_published_ones(void **state)
{
    (void)state;
    check_sigmas(make("unipc", 10, 5, WAN, 1),
                 (double[]){0.999800, 0.978048, 0.952154, 0.920810, 0.882093, 0.833055, 0.768935,
                            0.681508, 0.555247, 0.356888});
    check_sigmas(make("dpm++", 10, 5, WAN, 1),
                 (double[]){1.000000, 0.978261, 0.952381, 0.921053, 0.882353, 0.833333, 0.769231,
                            0.681818, 0.555556, 0.357143});
    check_sigmas(make("unipc", 10, 5, DIFFUSERS, 1),
                 (double[]){0.999999, 0.978284, 0.952438, 0.921156, 0.882526, 0.833611, 0.769674,
                            0.682540, 0.556788, 0.359433});
    check_sigmas(make("unipc", 10, 3, WAN, 1),
                 (double[]){0.999666, 0.963941, 0.922722, 0.874635, 0.817810, 0.749625, 0.666296,
                            0.562148, 0.428265, 0.249792});
    check_sigmas(make("dpm++", 10, 3, WAN, 1),
                 (double[]){1, 0.964286, 0.923077, 0.875000, 0.818182, 0.750000, 0.666667, 0.562500,
                            0.428571, 0.250000});
    check_sigmas(make("unipc", 10, 3, DIFFUSERS, 1),
                 (double[]){0.999999, 0.964324, 0.923166, 0.875156, 0.818430, 0.750375, 0.667222,
                            0.563320, 0.429795, 0.251872});
    check_sigmas(make("euler", 10, 7, WAN, 1),
                 (double[]){1, 0.984375, 0.965517, 0.942308, 0.913043, 0.875000, 0.823529, 0.750000,
                            0.636364, 0.437500});
}

/* FlowMatchEulerDiscreteScheduler shifts twice unless it is given sigmas. */
static void euler_of_diffusers_shifts_twice(void **state)
{
    (void)state;
    check_sigmas(make("euler", 10, 5, DIFFUSERS, 1),
                 (double[]){1, 0.975742996, 0.946272969, 0.909707129, 0.86313194, 0.801785707,
                            0.717317462, 0.593619227, 0.395095378, 0.024414066});
    check_sigmas(make("euler", 1, 5, DIFFUSERS, 1), (double[]){1});
}

static void timesteps_are_cut_to_whole_numbers(void **state)
{
    (void)state;
    check_timesteps(make("unipc", 10, 5, WAN, 1),
                    (int[]){999, 978, 952, 920, 882, 833, 768, 681, 555, 356});
    check_timesteps(make("dpm++", 10, 5, WAN, 1),
                    (int[]){1000, 978, 952, 921, 882, 833, 769, 681, 555, 357});
    check_timesteps(make("unipc", 10, 5, DIFFUSERS, 1),
                    (int[]){999, 978, 952, 921, 882, 833, 769, 682, 556, 359});
    check_timesteps(make("unipc", 10, 3, WAN, 1),
                    (int[]){999, 963, 922, 874, 817, 749, 666, 562, 428, 249});
    /* The fourth is a hair below 875, the last below 250 (its trace further down agrees). */
    check_timesteps(make("dpm++", 10, 3, WAN, 1),
                    (int[]){1000, 964, 923, 874, 818, 750, 666, 562, 428, 249});
    check_timesteps(make("unipc", 10, 3, DIFFUSERS, 1),
                    (int[]){999, 964, 923, 875, 818, 750, 667, 563, 429, 251});
    check_timesteps(make("unipc", 50, 5, WAN, 1),
                    (int[]){999, 995, 991, 987, 982, 978, 973, 968, 963, 957, 952, 946, 940,
                            934, 927, 920, 913, 906, 898, 890, 882, 873, 863, 854, 843, 833,
                            821, 809, 796, 783, 768, 753, 737, 720, 701, 681, 660, 636, 611,
                            584, 555, 522, 487, 448, 405, 356, 302, 241, 172, 92});
    check_timesteps(make("unipc", 40, 12, WAN, 1),
                    (int[]){999, 997, 995, 993, 990, 988, 985, 982, 979, 976, 972, 969, 965, 961,
                            956, 952, 947, 941, 936, 929, 922, 915, 907, 898, 888, 877, 865, 852,
                            837, 819, 799, 776, 749, 717, 678, 631, 571, 492, 386, 235});
    check_timesteps(make("unipc", 40, 5, WAN, 1),
                    (int[]){999, 994, 989, 983, 978, 972, 965, 959, 952, 944, 937, 929, 920, 911,
                            902, 892, 882, 870, 859, 846, 833, 818, 803, 786, 768, 749, 728, 706,
                            681, 654, 624, 591, 555, 514, 468, 416, 356, 288, 208, 113});
}

static void the_table_of_the_reference_run(void **state)
{
    (void)state;
    struct checkpoint *reference = NULL;
    struct error error = {0};
    float sigmas[13], timesteps[12];
    if (!checkpoint_open(&reference,
                         TEST_SOURCE_DIR "/tests/golden/cases/tiny-world/sampling.safetensors",
                         &error) ||
        !checkpoint_read(reference, "sigmas", (int64_t[]){13}, 1, sigmas, &error) ||
        !checkpoint_read(reference, "timesteps", (int64_t[]){12}, 1, timesteps, &error))
        fail_msg("%s", error.text);
    struct scheduler *scheduler = make("unipc", 12, 3, DIFFUSERS, 1);
    for (int i = 0; i <= 12; i++)
        assert_true((float)scheduler_sigma(scheduler, i) == sigmas[i]);
    for (int i = 0; i < 12; i++)
        assert_true(scheduler_timestep(scheduler, i) == (double)timesteps[i]);
    scheduler_destroy(scheduler);
    checkpoint_close(reference);
}

static void euler_timesteps_are_not_cut(void **state)
{
    (void)state;
    static const double want[] = {1000, 984.375,  965.5172, 942.3078, 913.0435,
                                  875,  823.5294, 750,      636.3636, 437.5};
    struct scheduler *scheduler = make("euler", 10, 7, WAN, 1);
    for (int32_t i = 0; i < 10; i++)
        check_near(scheduler_timestep(scheduler, i), want[i], 1e-4);
    scheduler_destroy(scheduler);
}

/* v = 0.5 x + 0.1 + 0.0002 t from x = 1; want is x after each step. Many elements take the same
 * way, so that the parallel loops are walked as well. */
static void check_trace(struct scheduler *scheduler, int64_t elements, const double *want)
{
    static float x[70000], v[70000];
    for (int64_t j = 0; j < elements; j++)
        x[j] = 1.0f;
    for (int32_t i = 0; i < scheduler_steps(scheduler); i++) {
        double time = scheduler_timestep(scheduler, i);
        for (int64_t j = 0; j < elements; j++)
            v[j] = (float)(0.5 * x[j] + 0.1 + 0.0002 * time);
        scheduler_advance(scheduler, i, v, x);
        check_near(x[0], want[i], 4e-7);
        assert_memory_equal(&x[elements - 1], &x[0], sizeof x[0]);
    }
    scheduler_destroy(scheduler);
}

static void traces_are_the_published_ones(void **state)
{
    (void)state;
    check_trace(make("unipc", 10, 5, WAN, 70000), 70000,
                (double[]){0.9826029, 0.9623890, 0.9385443, 0.9098021, 0.8745708, 0.8304953,
                           0.7739481, 0.6992109, 0.5985337, 0.4306299});
    check_trace(make("unipc", 10, 3, WAN, 3), 3,
                (double[]){0.9714268, 0.9397751, 0.9043253, 0.8639320, 0.8177649, 0.7646779,
                           0.7033395, 0.6324864, 0.5525156, 0.4460899});
    check_trace(make("dpm++", 10, 5, WAN, 70000), 70000,
                (double[]){0.9826087, 0.9622436, 0.9382333, 0.9093717, 0.8740417, 0.8298376,
                           0.7731012, 0.6982054, 0.5974278, 0.4295300});
    check_trace(make("dpm++", 10, 3, WAN, 3), 3,
                (double[]){0.9714286, 0.9393470, 0.9034711, 0.8628469, 0.8164699, 0.7632060,
                           0.7017643, 0.6309111, 0.5512335, 0.4448794});
    check_trace(make("unipc", 10, 5, DIFFUSERS, 3), 3,
                (double[]){0.9826328, 0.9624403, 0.9386594, 0.9099653, 0.8748276, 0.8308651,
                           0.7744551, 0.6999559, 0.5996205, 0.4301082});
    check_trace(make("euler", 10, 7, WAN, 70000), 70000,
                (double[]){0.9875000, 0.9725906, 0.9545012, 0.9320931, 0.9036117, 0.8662025,
                           0.8148932, 0.7401834, 0.6213893, 0.4034291});
}

/* One step goes straight to x0 = x - sigma v, whatever the sampler. */
static void one_step_gives_x0(void **state)
{
    (void)state;
    static const char *const names[] = {"unipc", "dpm++", "euler"};
    for (int i = 0; i < 3; i++)
        for (int table = WAN; table <= DIFFUSERS; table++) {
            struct scheduler *scheduler = make(names[i], 1, 5, (enum scheduler_table)table, 2);
            float x[] = {0.5f, -2.0f}, v[] = {0.25f, 4.0f};
            double sigma = scheduler_sigma(scheduler, 0);
            scheduler_advance(scheduler, 0, v, x);
            check_near(x[0], 0.5 - sigma * 0.25, 1e-7);
            check_near(x[1], -2.0 - sigma * 4.0, 1e-6);
            scheduler_destroy(scheduler);
        }
}

/* The velocity of straight paths to one point: every sampler must arrive there exactly. */
static void straight_paths_arrive(void **state)
{
    (void)state;
    static const char *const names[] = {"unipc", "dpm++", "euler"};
    static const int32_t steps[] = {1, 2, 3, 4, 7, 50, 1000};
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < sizeof steps / sizeof steps[0]; k++)
            for (int table = WAN; table <= DIFFUSERS; table++) {
                struct scheduler *scheduler =
                    make(names[i], steps[k], 8, (enum scheduler_table)table, 1);
                double first = scheduler_sigma(scheduler, 0), goal = 0.375, noise = -1.25;
                float x = (float)((1 - first) * goal + first * noise), v = (float)(noise - goal);
                for (int32_t step = 0; step < steps[k]; step++) {
                    float velocity = v; /* is used up */
                    scheduler_advance(scheduler, step, &velocity, &x);
                }
                check_near(x, goal, 2e-5);
                scheduler_destroy(scheduler);
            }
}

/* Interrupted after any step and taken up by another scheduler. */
static void restored_history_gives_the_same_bits(void **state)
{
    (void)state;
    enum { STEPS = 6, COUNT = 100 };
    static const char *const names[] = {"unipc", "dpm++", "euler"};
    static const int counts[] = {3, 1, 0};
    for (int i = 0; i < 3; i++)
        for (int32_t cut = 1; cut < STEPS; cut++) {
            float x[2][COUNT], v[COUNT], kept[SCHEDULER_HISTORY_MAX][COUNT];
            float *const to[] = {kept[0], kept[1], kept[2]};
            const float *const from[] = {kept[0], kept[1], kept[2]};
            for (int run = 0; run < 2; run++) {
                struct scheduler *scheduler = make(names[i], STEPS, 3, WAN, COUNT);
                assert_int_equal(scheduler_history_count(scheduler), counts[i]);
                for (int j = 0; j < COUNT; j++)
                    x[run][j] = sinf((float)j);
                for (int32_t step = 0; step < STEPS; step++) {
                    if (run == 1 && step == cut) {
                        scheduler_history(scheduler, to);
                        scheduler_destroy(scheduler);
                        scheduler = make(names[i], STEPS, 3, WAN, COUNT);
                        scheduler_restore(scheduler, from);
                    }
                    for (int j = 0; j < COUNT; j++)
                        v[j] = 0.7f * x[run][j] + 0.2f * sinf(3.0f * x[run][j]);
                    scheduler_advance(scheduler, step, v, x[run]);
                }
                scheduler_destroy(scheduler);
            }
            assert_memory_equal(x[0], x[1], sizeof x[0]);
        }
}

static void timetables_need_no_device(void **state)
{
    (void)state;
    const struct scheduler_desc desc = {"unipc", 10, 5, WAN};
    struct scheduler *scheduler;
    struct error error = {0};
    assert_true(scheduler_create(&scheduler, &desc, 0, NULL, NULL, &error));
    check_near(scheduler_sigma(scheduler, 9), 0.356888, 6e-7);
    scheduler_destroy(scheduler);
}

static void sigmas_of_one_are_no_trap(void **state)
{
    (void)state;
    /* This shift rounds the first sigma of the WAN table to 1, where lambda is -infinity. */
    struct scheduler *scheduler = make("unipc", 4, 1e6, WAN, 1);
    assert_true(scheduler_sigma(scheduler, 0) <= 1.0);
    float x = 1.0f, v;
    for (int32_t i = 0; i < 4; i++) {
        v = 0.5f * x;
        scheduler_advance(scheduler, i, &v, &x);
        assert_true(isfinite(x));
    }
    scheduler_destroy(scheduler);
}

static void refuse(const char *sampler, int32_t steps, double shift, const char *words)
{
    struct scheduler_desc desc = {sampler, steps, shift, WAN};
    struct scheduler *scheduler;
    struct error error = {0};
    assert_false(scheduler_create(&scheduler, &desc, 4, &ops_cpu, device, &error));
    assert_null(scheduler);
    assert_true(error.usage);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
}

static void bad_settings_are_refused_in_words(void **state)
{
    (void)state;
    refuse("ddim", 10, 5, "no sampler 'ddim'; use one of unipc, dpm++, euler");
    refuse("", 10, 5, "no sampler ''");
    refuse(NULL, 10, 5, "no sampler");
    refuse("unipc", 0, 5, "0 steps");
    refuse("unipc", -3, 5, "-3 steps");
    refuse("unipc", 1000000, 5, "1000000 steps");
    refuse("unipc", 10, 0, "shift of 0");
    refuse("unipc", 10, -1, "shift of -1");
    refuse("unipc", 10, NAN, "shift of nan");
    refuse("unipc", 10, INFINITY, "shift of inf");
    refuse("unipc", 10, 1e12, "flow shift 1e+12 with 10 steps leaves no distance");
    refuse("dpm++", 10, 1e-60, "leaves no distance");
    struct scheduler_desc desc = {"unipc", 0, 5, WAN};
    struct scheduler *scheduler;
    assert_false(scheduler_create(&scheduler, &desc, 4, &ops_cpu, device, NULL));
    scheduler_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sigmas_are_the_published_ones),
        cmocka_unit_test(euler_of_diffusers_shifts_twice),
        cmocka_unit_test(timesteps_are_cut_to_whole_numbers),
        cmocka_unit_test(the_table_of_the_reference_run),
        cmocka_unit_test(euler_timesteps_are_not_cut),
        cmocka_unit_test(traces_are_the_published_ones),
        cmocka_unit_test(one_step_gives_x0),
        cmocka_unit_test(straight_paths_arrive),
        cmocka_unit_test(restored_history_gives_the_same_bits),
        cmocka_unit_test(timetables_need_no_device),
        cmocka_unit_test(sigmas_of_one_are_no_trap),
        cmocka_unit_test(bad_settings_are_refused_in_words),
    };
    return cmocka_run_group_tests(tests, make_device, drop_device);
}
