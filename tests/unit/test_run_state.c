/* The state file: what is written comes back, and nothing else is believed. */
#include "run_state.h"

#include "io/checkpoint.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS (2 * 2 * 2 * 4)

static const int64_t shape[4] = {2, 2, 2, 4};

static struct model tiny(void)
{
    struct model model = {
        .folder = {.root = "/models/tiny"},
        .transformer = {.heads = 2,
                        .head_dim = 64,
                        .layers = 8,
                        .in_channels = 2,
                        .patch = {1, 2, 2},
                        .eps = 1e-6},
        .vae = {.z_dim = 2},
        .text = {.eps = 1e-6},
    };
    return model;
}

static struct generate_settings asked(void)
{
    static const int32_t layers[] = {0, 3, 7};
    struct generate_settings s = generate_settings_default();
    s.prompt = "a \"red\" ball\n";
    s.negative_prompt = "";
    s.width = 32;
    s.height = 16;
    s.frames = 5;
    s.steps = 12;
    s.fps = 23.976;
    s.flow_shift = 1.0 / 3;
    s.guidance = 4.7;
    s.seed = 4294967295u;
    s.tile = 64;
    s.save_every = 3;
    s.attention.policy = DRAFTATTN_POLICY_DRAFT;
    s.attention.sparsity = 0.99999999;
    s.attention.dense_steps = 0.1;
    s.attention.compensation = 0;
    s.attention.probes = 17;
    s.attention.repair = 0;
    s.attention.min_tokens = 99;
    s.attention.dense_layers = layers;
    s.attention.dense_layer_count = 3;
    return s;
}

static const struct runtime_desc gpu = {
    .kind = RUNTIME_CUDA, .index = 1, .precision = RUNTIME_BF16, .offload = true};

static void write_one(const char *path, int64_t step, const float *latents)
{
    struct error error = {.usage = false};
    const struct model model = tiny();
    const struct generate_settings settings = asked();
    const float *const history[2] = {latents, latents};
    const struct run_state_to_write state = {
        .model = &model,
        .settings = &settings,
        .runtime = &gpu,
        .step = step,
        .shape = shape,
        .latents = latents,
        .history = history,
        .history_count = 2,
    };
    if (!run_state_write(path, &state, &error))
        fail_msg("%s", error.text);
}

static void fill(float *values)
{
    for (int i = 0; i < ELEMENTS; i++)
        values[i] = (float)i / 7;
}

static void test_round_trip(void **state)
{
    const char *path = scratch_path(*state, "x.state.safetensors");
    const struct generate_settings a = asked();
    const struct model model = tiny();
    struct error error = {.usage = false};
    struct run_state found;
    float latents[ELEMENTS];
    fill(latents);
    write_one(path, 5, latents);
    if (!run_state_read(&found, path, &error) || !run_state_load(&found, &model, &error))
        fail_msg("%s", error.text);
    const struct generate_settings *b = &found.settings;
    assert_string_equal(b->prompt, a.prompt);
    assert_string_equal(b->negative_prompt, "");
    assert_string_equal(b->sampler, "unipc");
    assert_string_equal(found.model, "/models/tiny");
    assert_false(found.synthetic);
    assert_int_equal(found.step, 5);
    assert_true(b->width == 32 && b->height == 16 && b->frames == 5 && b->steps == 12);
    assert_true(b->seed == 4294967295u && b->tile == 64 && b->save_every == 3);
    assert_true(b->fps == a.fps && b->flow_shift == a.flow_shift && b->guidance == a.guidance);
    assert_true(b->attention.policy == a.attention.policy);
    assert_true(b->attention.sparsity == a.attention.sparsity && b->attention.dense_steps == 0.1);
    assert_true(b->attention.compensation == 0 && b->attention.probes == 17);
    assert_true(b->attention.repair == 0 && b->attention.min_tokens == 99);
    assert_int_equal(b->attention.dense_layer_count, 3);
    assert_memory_equal(b->attention.dense_layers, a.attention.dense_layers, 3 * sizeof(int32_t));
    assert_true(b->runtime.kind == RUNTIME_CUDA && b->runtime.index == 1);
    assert_true(b->runtime.precision == RUNTIME_BF16 && b->runtime.offload);
    assert_null(b->output);
    assert_null(b->save_latents);
    assert_int_equal(found.history_count, 2);
    assert_memory_equal(found.latents, latents, sizeof latents);
    assert_memory_equal(found.history[1], latents, sizeof latents);
    assert_memory_equal(found.shape, shape, sizeof shape);
    run_state_free(&found);
}

static void test_other_model(void **state)
{
    const char *path = scratch_path(*state, "x.state.safetensors");
    float latents[ELEMENTS];
    fill(latents);
    write_one(path, 5, latents);
    for (int i = 0; i < 3; i++) {
        struct model model = tiny();
        struct error error = {.usage = false};
        struct run_state found;
        if (i == 0) /* the same one, moved */
            snprintf(model.folder.root, sizeof model.folder.root, "/models/other");
        else if (i == 1)
            model.transformer.layers = 9;
        else
            model.vae.std[1] = 0.5;
        assert_true(run_state_read(&found, path, &error));
        assert_int_equal(run_state_load(&found, &model, &error), i == 0);
        assert_int_equal(strstr(error.text, "was made with the model 'tiny ") != NULL, i > 0);
        run_state_free(&found);
    }
}

static void test_not_finite(void **state)
{
    const char *path = scratch_path(*state, "x.state.safetensors");
    const struct model model = tiny();
    struct error error = {.usage = false};
    struct run_state found;
    float latents[ELEMENTS];
    fill(latents);
    latents[9] = NAN;
    write_one(path, 5, latents);
    assert_true(run_state_read(&found, path, &error));
    assert_false(run_state_load(&found, &model, &error));
    assert_non_null(strstr(error.text, "element 9"));
    run_state_free(&found);
}

struct pair {
    const char *name, *value; /* value NULL = left out */
};

/* A file of a good state's metadata, with one changed. */
static void write_changed(const char *path, const struct pair *change)
{
    static const struct pair good[] = {
        {"draftattn_state", "1"},
        {"step", "5"},
        {"prompt", "a ball"},
        {"negative_prompt", ""},
        {"model", "/models/tiny"},
        {"model_identity", "tiny 0"},
        {"model_kind", "folder"},
        {"sampler", "unipc"},
        {"attention.policy", "draft"},
        {"attention.dense_layers", "0,3"},
        {"device", "cpu"},
        {"precision", "float32"},
        {"offload", "0"},
        {"backend", "auto"},
        {"width", "32"},
        {"height", "16"},
        {"frames", "5"},
        {"steps", "12"},
        {"seed", "1"},
        {"fps", "16"},
        {"flow_shift", "3"},
        {"guidance", "4"},
        {"tile", "-1"},
        {"save_every", "0"},
        {"attention.sparsity", "0.5"},
        {"attention.dense_steps", "0.2"},
        {"attention.compensation", "1"},
        {"attention.probes", "128"},
        {"attention.repair", "1"},
        {"attention.min_tokens", "0"},
    };
    const char *metadata[2 * sizeof good / sizeof *good + 1] = {NULL};
    const float value = 0;
    const struct tensor_to_write tensor = {"latents", STORED_F32, 1, {1}, &value};
    struct error error = {.usage = false};
    size_t count = 0;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        bool changed = change && strcmp(good[i].name, change->name) == 0;
        if (changed && !change->value)
            continue;
        metadata[count++] = good[i].name;
        metadata[count++] = changed ? change->value : good[i].value;
    }
    assert_true(safetensors_write(path, &tensor, 1, metadata, &error));
}

static void test_hostile(void **state)
{
    static const struct pair changes[] = {
        {"draftattn_state", "2"},
        {"draftattn_state", NULL},
        {"step", "0"},
        {"step", "13"},
        {"step", "-1"},
        {"step", "99999999999999999999"},
        {"step", "5 "},
        {"prompt", NULL},
        {"model", NULL},
        {"model_kind", "disk"},
        {"attention.policy", "magic"},
        {"attention.dense_layers", "3,0"},
        {"attention.dense_layers", "0,0"},
        {"attention.dense_layers", "0,"},
        {"attention.dense_layers", ","},
        {"attention.dense_layers", "-1"},
        {"attention.dense_layers", "1000"},
        {"attention.dense_layers", "0;1"},
        {"attention.dense_layers", "99999999999999999999"},
        {"device", "tpu"},
        {"device", "cuda:"},
        {"device", "cuda:-1"},
        {"device", "cuda:9999"},
        {"precision", "int4"},
        {"offload", "2"},
        {"backend", "gpu9"},
        {"width", "0"},
        {"width", "16385"},
        {"height", "1e9"},
        {"height", ""},
        {"frames", "nan"},
        {"steps", "1001"},
        {"steps", "0x10"},
        {"seed", "-1"},
        {"seed", "4294967296"},
        {"fps", "inf"},
        {"fps", "nan"},
        {"fps", "1e999"},
        {"flow_shift", "0"},
        {"guidance", "-4"},
        {"tile", "-2"},
        {"attention.sparsity", "1"},
        {"attention.sparsity", "-0.1"},
        {"attention.dense_steps", "1.5"},
        {"attention.compensation", "2"},
        {"attention.probes", "1025"},
        {"attention.min_tokens", "4294967296"},
    };
    const char *path = scratch_path(*state, "x.st");
    struct error error = {.usage = false};
    struct run_state found;
    write_changed(path, NULL);
    if (!run_state_read(&found, path, &error))
        fail_msg("%s", error.text);
    assert_int_equal(found.settings.attention.dense_layer_count, 2);
    run_state_free(&found);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        write_changed(path, &changes[i]);
        error = (struct error){.usage = false};
        if (run_state_read(&found, path, &error))
            fail_msg("'%s' = '%s' is accepted", changes[i].name,
                     changes[i].value ? changes[i].value : "(none)");
        if (!strstr(error.text, "x.st"))
            fail_msg("'%s': '%s' names no file", changes[i].name, error.text);
        assert_null(found.metadata);
    }
}

/* No state, no safetensors, no file. */
static void test_other_files(void **state)
{
    struct error error = {.usage = false};
    struct run_state found;
    const float value = 0;
    const struct tensor_to_write tensor = {"latents", STORED_F32, 1, {1}, &value};
    const char *path = scratch_path(*state, "gone");
    assert_false(run_state_read(&found, path, &error));
    assert_non_null(strstr(error.text, "No such file"));
    scratch_text(*state, "text", "no safetensors, this");
    assert_false(run_state_read(&found, scratch_path(*state, "text"), &error));
    assert_non_null(strstr(error.text, "header claims"));
    scratch_text(*state, "short", "1234");
    assert_false(run_state_read(&found, scratch_path(*state, "short"), &error));
    path = scratch_path(*state, "latents");
    assert_true(safetensors_write(path, &tensor, 1, NULL, &error));
    assert_false(run_state_read(&found, path, &error));
    assert_non_null(strstr(error.text, "no state of a generation"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_other_model, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_not_finite, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_hostile, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_other_files, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
