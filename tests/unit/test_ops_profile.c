/*
 * The measuring table over the CPU's: it changes no result, attributes every moment to a kind, and
 * lets a device record only while it does not measure.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tensor/ops_profile.h"

#include <math.h>
#include <string.h>
#include <time.h>

enum { ROWS = 64, FEATURES = 32 };

static struct device *inner, *device;

static int make_devices(void **state)
{
    (void)state;
    struct error error = {0};
    return ops_cpu.create(&inner, &(struct device_desc){.threads = 1}, &error) &&
                   ops_profile_wrap(&device, &ops_cpu, inner, &error)
               ? 0
               : -1;
}

static int drop_devices(void **state)
{
    (void)state;
    ops_profile.destroy(device);
    ops_cpu.destroy(inner);
    return 0;
}

static void wait_milliseconds(long milliseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

static struct linear *make_linear(const struct ops *ops, struct device *on)
{
    struct error error = {0};
    struct linear *linear = NULL;
    const struct linear_desc desc = {.in = FEATURES, .out = FEATURES, .bias = true, .seed = 7};
    if (!ops->linear_create(on, &linear, &desc, &error))
        fail_msg("%s", error.text);
    return linear;
}

/* A layer and a sum, with a pause in between, as libdraftattn makes one. */
static void run(const struct ops *ops, struct device *on, const float *x, float *y)
{
    struct error error = {0};
    struct linear *linear = make_linear(ops, on);
    assert_true(ops->linear(on, linear, x, ELEMENT_F32, y, ELEMENT_F32, ROWS, ACTIVATION_GELU_TANH,
                            &error));
    wait_milliseconds(20);
    ops->add(on, y, x, ROWS * FEATURES);
    ops->linear_destroy(on, linear);
}

static void results_are_the_inner_tables(void **state)
{
    (void)state;
    struct profile_times times;
    static float x[ROWS * FEATURES], direct[ROWS * FEATURES], measured[ROWS * FEATURES];
    for (int i = 0; i < ROWS * FEATURES; i++)
        x[i] = sinf((float)i);
    run(&ops_cpu, inner, x, direct);
    run(&ops_profile, device, x, measured);
    assert_memory_equal(direct, measured, sizeof direct);
    memset(measured, 0, sizeof measured);
    ops_profile_begin(device);
    run(&ops_profile, device, x, measured);
    ops_profile_end(device, &times);
    assert_memory_equal(direct, measured, sizeof direct);
}

static void every_moment_has_a_kind(void **state)
{
    (void)state;
    struct profile_times times;
    static float x[ROWS * FEATURES], y[ROWS * FEATURES];
    double sum = 0;
    ops_profile_begin(device);
    run(&ops_profile, device, x, y);
    ops_profile_end(device, &times);
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        sum += times.seconds[kind];
    assert_true(fabs(sum - times.total) < 1e-12);
    assert_true(times.seconds[PROFILE_ATTENTION] >= 0.02);
    assert_true(times.seconds[PROFILE_MATMUL] > 0);
    assert_true(times.seconds[PROFILE_ELEMENTWISE] > 0);
    assert_true(times.seconds[PROFILE_CROSS_ATTENTION] == 0);
    assert_true(times.seconds[PROFILE_CONVOLUTION] == 0);
    run(&ops_profile, device, x, y); /* not measured: a new begin starts from zero */
    ops_profile_begin(device);
    ops_profile_end(device, &times);
    assert_true(times.seconds[PROFILE_MATMUL] == 0);
    assert_true(times.total < 0.01);
}

/* A device that counts what reaches it. */
static int begun, ended;

static bool count_begin(struct device *on, struct error *error)
{
    (void)on, (void)error;
    begun++;
    return true;
}

static bool count_end(struct device *on, struct recording **out, struct error *error)
{
    (void)on, (void)error;
    *out = (struct recording *)&ended;
    ended++;
    return true;
}

static void nothing_is_recorded_while_measuring(void **state)
{
    (void)state;
    struct error error = {0};
    struct ops counting = ops_cpu;
    struct device *wrapped;
    struct recording *recording = NULL;
    struct profile_times times;
    counting.record_begin = count_begin;
    counting.record_end = count_end;
    assert_true(ops_profile_wrap(&wrapped, &counting, inner, &error));
    assert_true(ops_profile.record_begin(wrapped, &error));
    assert_true(ops_profile.record_end(wrapped, &recording, &error));
    assert_ptr_equal(recording, &ended);
    ops_profile_begin(wrapped);
    assert_true(ops_profile.record_begin(wrapped, &error));
    assert_true(ops_profile.record_end(wrapped, &recording, &error));
    assert_null(recording);
    ops_profile_end(wrapped, &times);
    assert_int_equal(begun, 1);
    assert_int_equal(ended, 1);
    ops_profile.destroy(wrapped);
}

static void names_are_told_apart(void **state)
{
    (void)state;
    for (int a = 0; a < PROFILE_KIND_COUNT; a++)
        for (int b = 0; b < a; b++)
            assert_string_not_equal(profile_kind_name((enum profile_kind)a),
                                    profile_kind_name((enum profile_kind)b));
    assert_string_equal(profile_kind_name(PROFILE_KIND_COUNT), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_the_inner_tables),
        cmocka_unit_test(every_moment_has_a_kind),
        cmocka_unit_test(nothing_is_recorded_while_measuring),
        cmocka_unit_test(names_are_told_apart),
    };
    return cmocka_run_group_tests(tests, make_devices, drop_devices);
}
