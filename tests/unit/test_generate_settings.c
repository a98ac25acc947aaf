/* Settings of a generation: what the model fills in, what is rounded, what is refused. */
#include "generate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct model model = {
    .transformer = {.layers = 8, .patch = {1, 2, 2}, .rope_max = 1024},
    .defaults = {.width = 256,
                 .height = 256,
                 .frames = 33,
                 .steps = 12,
                 .steps_large = 20,
                 .guidance = 4,
                 .fps = 16,
                 .flow_shift = 3,
                 .flow_shift_large = 5,
                 .sparsity = 0.5,
                 .probes = 128,
                 .negative_prompt = (char *)"blurry"},
};

struct notes {
    int count;
    char last[512];
};

static void take_note(void *user, const char *text)
{
    struct notes *notes = user;
    notes->count++;
    snprintf(notes->last, sizeof notes->last, "%s", text);
}

static struct generate_settings asked(void)
{
    struct generate_settings s = generate_settings_default();
    s.prompt = "a ball";
    s.output = "out.mp4";
    return s;
}

static bool resolve(struct generate_settings *s, struct notes *notes, struct error *error)
{
    const struct generate_events events = {.note = take_note, .user = notes};
    *notes = (struct notes){0};
    *error = (struct error){0};
    return generate_settings_resolve(s, &model, &events, error);
}

static void test_defaults(void **state)
{
    (void)state;
    struct generate_settings s = asked();
    struct notes notes;
    struct error error;
    assert_true(resolve(&s, &notes, &error));
    assert_int_equal(notes.count, 0);
    assert_true(s.width == 256 && s.height == 256 && s.frames == 33 && s.steps == 12);
    assert_true(s.guidance == 4 && s.fps == 16 && s.flow_shift == 3);
    assert_string_equal(s.negative_prompt, "blurry");
    assert_true(s.attention.sparsity == 0.5 && s.attention.probes == 128 && s.attention.repair);
    s = asked();
    s.width = 512;
    s.guidance = 0;
    s.negative_prompt = "";
    assert_true(resolve(&s, &notes, &error));
    assert_true(s.height == 256 && s.steps == 20 && s.flow_shift == 5 && s.guidance == 0);
    assert_string_equal(s.negative_prompt, "");
    s = asked();
    s.width = s.height = 512;
    s.steps = 6;
    s.flow_shift = 2.5;
    assert_true(resolve(&s, &notes, &error));
    assert_true(s.steps == 6 && s.flow_shift == 2.5);
    assert_true(s.attention.sparsity == draftattn_plan_desc_default().sparsity);
    assert_true(s.attention.probes == draftattn_plan_desc_default().probes);
    s = asked();
    s.attention.sparsity = 0.9;
    s.attention.probes = 0;
    assert_true(resolve(&s, &notes, &error));
    assert_true(s.attention.sparsity == 0.9 && s.attention.probes == 0 && !s.attention.repair);
}

static void test_rounding(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{1, 16},    {16, 16},   {23, 16},      {24, 32},
                                       {250, 256}, {833, 832}, {16384, 16384}};
    static const int64_t frames[][2] = {{1, 1},   {2, 1},   {3, 5},   {5, 5},   {6, 5},
                                        {32, 33}, {80, 81}, {81, 81}, {83, 85}, {9999, 4093}};
    struct notes notes;
    struct error error;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct generate_settings s = asked();
        s.width = sizes[i][0];
        assert_true(resolve(&s, &notes, &error));
        assert_int_equal(s.width, sizes[i][1]);
        assert_int_equal(notes.count, sizes[i][0] != sizes[i][1]);
    }
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        struct generate_settings s = asked();
        s.frames = frames[i][0];
        assert_true(resolve(&s, &notes, &error));
        assert_int_equal(s.frames, frames[i][1]);
        assert_int_equal(notes.count, frames[i][0] != frames[i][1]);
    }
    assert_non_null(strstr(notes.last, "9999 frames rounded to 4093"));
}

static void refused(struct generate_settings *s, const char *words)
{
    struct notes notes;
    struct error error;
    assert_false(resolve(s, &notes, &error));
    assert_true(error.usage);
    assert_non_null(strstr(error.text, words));
}

static void test_refused(void **state)
{
    (void)state;
    const int32_t layers[] = {0, 8};
    struct generate_settings s = asked();
    s.prompt = " \n";
    refused(&s, "prompt is empty");
    s = asked();
    s.prompt = NULL;
    refused(&s, "prompt is empty");
    s = asked();
    s.output = "";
    refused(&s, "--output");
    s = asked();
    s.sampler = "heun";
    refused(&s, "heun");
    s = asked();
    s.attention.dense_layers = layers;
    s.attention.dense_layer_count = 2;
    refused(&s, "layers 0 to 7");
    s = asked();
    s.attention.policy = DRAFTATTN_POLICY_DRAFT_PAPER;
    s.attention.compensation = 1;
    refused(&s, "--compensation");
}

static void test_description(void **state)
{
    (void)state;
    struct generate_settings s = asked();
    struct notes notes;
    struct error error;
    char text[1024];
    s.seed = 4294967295u;
    assert_true(resolve(&s, &notes, &error));
    int length = generate_settings_describe(&s, "tiny", text, sizeof text);
    assert_true(length > 0 && (size_t)length < sizeof text);
    static const char *const words[] = {"model tiny", "seed 4294967295", "size 256x256",
                                        "frames 33",  "steps 12",        "attention draft"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        assert_non_null(strstr(text, words[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_description),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
