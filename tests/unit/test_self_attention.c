/*
 * The runtime's end of libdraftattn: sums over calls against the library's own statistics of each
 * call, views at a stride, guards, and what it passes on in words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/self_attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, HEAD_DIM = 64, WIDTH = HEADS * HEAD_DIM, TOKENS = 4 * 16 * 16 };
enum { STRIDE = 3 * WIDTH, LAYERS = 2 };

static draftattn_context *context;
static struct device *device;

static int make_context(void **state)
{
    (void)state;
    struct error error = {0};
    return ops_cpu.create(&device, &(struct device_desc){0}, &error) &&
                   draftattn_context_create(&context, NULL) == DRAFTATTN_SUCCESS
               ? 0
               : -1;
}

static int drop_context(void **state)
{
    (void)state;
    draftattn_context_destroy(context);
    ops_cpu.destroy(device);
    return 0;
}

static draftattn_plan_desc description(void)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){.frames = 4, .height = 16, .width = 16};
    desc.heads = HEADS;
    desc.head_dim = HEAD_DIM;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    desc.sparsity = 0.5;
    desc.probes = 64;
    desc.repair = 1;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.dense_steps = 0.25;
    return desc;
}

/* q, k, v side by side: neighbours in a row are alike, so that blocks mean something. */
static float *make_qkv(void)
{
    float *qkv = malloc((size_t)TOKENS * STRIDE * sizeof *qkv);
    assert_non_null(qkv);
    for (int64_t i = 0; i < (int64_t)TOKENS * STRIDE; i++)
        qkv[i] = sinf((float)(i / STRIDE) * 0.02f * (float)(i % STRIDE % 31)) +
                 0.3f * sinf((float)i * 1.7f);
    return qkv;
}

static void must(bool ok, const struct error *error)
{
    if (!ok)
        fail_msg("%s", error->text);
}

static bool create(struct self_attention **out, const draftattn_plan_desc *desc,
                   struct error *error)
{
    return self_attention_create(out, context, desc, LAYERS, &ops_cpu, device, error);
}

static void order_is_a_permutation(void **state)
{
    (void)state;
    struct error error = {0};
    struct self_attention *attention;
    draftattn_plan_desc desc = description();
    bool seen[TOKENS] = {0};
    must(create(&attention, &desc, &error), &error);
    assert_int_equal(self_attention_tokens(attention), TOKENS);
    assert_int_equal(self_attention_desc(attention)->heads, HEADS);
    assert_true(self_attention_workspace_bytes(attention) > 0);
    for (int64_t i = 0; i < TOKENS; i++) {
        int64_t raster = self_attention_order(attention)[i];
        assert_in_range(raster, 0, TOKENS - 1);
        assert_false(seen[raster]);
        seen[raster] = true;
    }
    self_attention_destroy(attention);
    self_attention_destroy(NULL);
}

struct tap {
    int calls;
    int32_t layers[8];
    const float *o;
};

static void record(void *user, const draftattn_step *step, const float *q, const float *k,
                   const float *v, int64_t qkv_stride, const float *o, int64_t o_stride)
{
    struct tap *tap = user;
    assert_int_equal(k - q, WIDTH);
    assert_int_equal(v - k, WIDTH);
    assert_int_equal(qkv_stride, STRIDE);
    assert_int_equal(o_stride, WIDTH);
    tap->layers[tap->calls++] = step->layer;
    tap->o = o;
}

static void reports_are_sums_over_calls(void **state)
{
    (void)state;
    struct error error = {0};
    struct self_attention *attention;
    struct self_attention_report report;
    struct tap tap = {0};
    draftattn_plan_desc desc = description();
    float *qkv = make_qkv(), *o = malloc((size_t)TOKENS * WIDTH * sizeof *o);
    assert_non_null(o);
    must(create(&attention, &desc, &error), &error);
    self_attention_set_tap(attention, record, &tap);

    self_attention_report_get(attention, &report); /* before any call */
    assert_int_equal(report.calls, 0);
    assert_true(report.density == 1.0 && report.density_all == 1.0);
    assert_true(isnan(report.error_median) && isnan(report.error_worst));
    assert_int_equal(report.worst_layer, -1);

    for (int32_t step = 0; step < 2; step++) /* step 0 of 4 is dense by the guard, step 1 is not */
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            const draftattn_step place = {.step = step, .steps = 4, .layer = layer, .sigma = -1.0f};
            must(self_attention_run(attention, &place, qkv, qkv + WIDTH, qkv + 2 * WIDTH, STRIDE, o,
                                    WIDTH, &error),
                 &error);
        }
    self_attention_report_get(attention, &report);
    assert_int_equal(report.calls, 4);
    assert_int_equal(report.dense_calls, 2);
    assert_true(report.density > 0.4 && report.density < 0.6);
    assert_true(fabs(report.density_all - (1.0 + report.density) / 2.0) < 1e-12);
    assert_true(report.error_median > 0.0 && report.error_median <= report.error_worst);
    assert_int_equal(report.worst_step, 1);
    assert_int_equal(report.worst_layer, 0); /* both layers are the same call: the first stays */
    assert_in_range(report.worst_head, 0, HEADS - 1);
    assert_true(report.repaired_share >= 0.0 && report.repaired_share <= 1.0);
    assert_true(report.seconds[DRAFTATTN_STAGE_ATTEND] > 0.0);
    assert_int_equal(tap.calls, 4);
    assert_int_equal(tap.layers[3], 1);
    assert_ptr_equal(tap.o, o);
    self_attention_destroy(attention);
    free(qkv), free(o);
}

static void count_call(void *user, const draftattn_step *step)
{
    ++*(int *)user;
    assert_in_range(step->layer, 0, LAYERS - 1);
}

/* With a listener calls are counted one by one, without it a pass at a time: the same sums. */
static void collected_reports_are_those_of_single_calls(void **state)
{
    (void)state;
    struct error error = {0};
    struct self_attention_report reports[2];
    draftattn_plan_desc desc = description();
    float *o = malloc((size_t)TOKENS * WIDTH * sizeof *o);
    int heard = 0;
    assert_non_null(o);
    for (int collected = 0; collected < 2; collected++) {
        struct self_attention *attention;
        float *qkv = make_qkv();
        must(create(&attention, &desc, &error), &error);
        assert_false(self_attention_watched(attention));
        if (!collected)
            self_attention_set_listener(attention, count_call, &heard);
        assert_int_equal(self_attention_watched(attention), !collected);
        for (int32_t step = 0; step < 3; step++) {
            draftattn_step place = {.step = step, .steps = 4, .sigma = -1.0f};
            for (place.layer = 0; place.layer < LAYERS; place.layer++) {
                must(self_attention_run(attention, &place, qkv, qkv + WIDTH, qkv + 2 * WIDTH,
                                        STRIDE, o, WIDTH, &error),
                     &error);
            }
            must(self_attention_collect(attention, &place, &error), &error);
            qkv[step * 77] += 1.0f; /* so that calls differ */
        }
        self_attention_report_get(attention, &reports[collected]);
        self_attention_destroy(attention);
        free(qkv);
    }
    assert_int_equal(heard, 3 * LAYERS);
    assert_int_equal(reports[1].calls, 3 * LAYERS);
    assert_int_equal(reports[1].dense_calls, reports[0].dense_calls);
    assert_true(reports[1].density == reports[0].density);
    assert_true(reports[1].error_median == reports[0].error_median);
    assert_true(reports[1].error_worst == reports[0].error_worst);
    assert_int_equal(reports[1].worst_layer, reports[0].worst_layer);
    assert_int_equal(reports[1].worst_step, reports[0].worst_step);
    assert_int_equal(reports[1].worst_head, reports[0].worst_head);
    assert_true(reports[1].repaired_share == reports[0].repaired_share);
    assert_true(reports[1].seconds[DRAFTATTN_STAGE_ATTEND] > 0.0);
    free(o);
}

static void descriptions_tell_steps_apart(void **state)
{
    (void)state;
    struct error error = {0};
    struct self_attention *attention;
    char first[1024], later[1024];
    draftattn_plan_desc desc = description();
    must(create(&attention, &desc, &error), &error);
    draftattn_step step = {.step = 0, .steps = 4, .layer = 0, .sigma = -1.0f};
    assert_true(self_attention_describe(attention, &step, first, sizeof first) > 0);
    step.step = 3;
    assert_true(self_attention_describe(attention, &step, later, sizeof later) > 0);
    assert_string_not_equal(first, later);
    self_attention_destroy(attention);
}

static void refusals_are_passed_on(void **state)
{
    (void)state;
    struct error error = {0};
    struct self_attention *attention;
    draftattn_plan_desc desc = description();
    desc.head_dim = 80;
    assert_false(create(&attention, &desc, &error));
    assert_null(attention);
    assert_non_null(strstr(error.text, "80"));
    desc = description();
    desc.order = DRAFTATTN_ORDER_RASTER;
    assert_false(create(&attention, &desc, &error));
    assert_non_null(strstr(error.text, "block order"));
    assert_null(attention);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_a_permutation),
        cmocka_unit_test(reports_are_sums_over_calls),
        cmocka_unit_test(collected_reports_are_those_of_single_calls),
        cmocka_unit_test(descriptions_tell_steps_apart),
        cmocka_unit_test(refusals_are_passed_on),
    };
    return cmocka_run_group_tests(tests, make_context, drop_context);
}
