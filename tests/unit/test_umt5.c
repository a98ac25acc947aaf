/*
 * UMT5 with weights made by the rule, against the numbers published with it; and what the encoder
 * refuses. The stored names are the original ones, so the renaming is tested on the way.
 */
#include "rule_file.h"

#include "io/names_wan.h"
#include "models/umt5.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct umt5_config small = {.vocab = 100,
                                         .width = 48,
                                         .heads = 4,
                                         .head_dim = 16,
                                         .ffn = 96,
                                         .layers = 2,
                                         .buckets = 32,
                                         .max_distance = 128,
                                         .eps = 1e-6};

struct setup {
    struct rule_file file;
    struct checkpoint *checkpoint;
    struct device *device;
};

static void add_weights(struct rule_file *file)
{
    const int64_t width = small.width, inner = small.heads * small.head_dim, ffn = small.ffn;
    rule_file_begin(file);
    rule_file_add(file, SHAPE(small.vocab, width), "token_embedding.weight", 0);
    rule_file_add(file, SHAPE(width), "norm.weight", 0);
    for (int i = 0; i < small.layers; i++) {
        rule_file_add(file, SHAPE(width), "blocks.%lld.norm1.weight", i);
        rule_file_add(file, SHAPE(inner, width), "blocks.%lld.attn.q.weight", i);
        rule_file_add(file, SHAPE(inner, width), "blocks.%lld.attn.k.weight", i);
        rule_file_add(file, SHAPE(inner, width), "blocks.%lld.attn.v.weight", i);
        rule_file_add(file, SHAPE(width, inner), "blocks.%lld.attn.o.weight", i);
        rule_file_add(file, SHAPE(small.buckets, small.heads),
                      "blocks.%lld.pos_embedding.embedding.weight", i);
        rule_file_add(file, SHAPE(width), "blocks.%lld.norm2.weight", i);
        rule_file_add(file, SHAPE(ffn, width), "blocks.%lld.ffn.gate.0.weight", i);
        rule_file_add(file, SHAPE(ffn, width), "blocks.%lld.ffn.fc1.weight", i);
        rule_file_add(file, SHAPE(width, ffn), "blocks.%lld.ffn.fc2.weight", i);
    }
}

static int make(void **state)
{
    struct setup *setup = calloc(1, sizeof *setup);
    struct error error = {0};
    if (!setup)
        return -1;
    add_weights(&setup->file);
    if (!ops_cpu.create(&setup->device, &(struct device_desc){0}, &error))
        return -1;
    *state = setup;
    return 0;
}

static int drop(void **state)
{
    struct setup *setup = *state;
    checkpoint_close(setup->checkpoint);
    ops_cpu.destroy(setup->device);
    rule_file_end(&setup->file);
    free(setup);
    return 0;
}

static struct umt5 *load(struct setup *setup)
{
    struct error error = {0};
    struct umt5 *umt5 = NULL;
    if (!rule_file_open(&setup->file, &setup->checkpoint, &error))
        fail_msg("%s", error.text);
    checkpoint_set_rename(setup->checkpoint, names_wan_umt5);
    if (!umt5_load(&umt5, &small, setup->checkpoint, &ops_cpu, setup->device, NULL, &error))
        fail_msg("%s", error.text);
    return umt5;
}

static void rule_made_encoder_gives_the_published_numbers(void **state)
{
    static const double first[8] = {-0.626383, -1.379407, -0.725368, 0.365713,
                                    -0.586422, 0.709541,  0.114680,  -1.740271};
    static const double last[4] = {0.583736, -3.340194, 0.154910, 0.612283};
    enum { COUNT = 137, WIDTH = 48 };
    struct umt5 *umt5 = load(*state);
    struct error error = {0};
    int32_t ids[COUNT];
    float *out = malloc(COUNT * WIDTH * sizeof *out);
    assert_non_null(out);
    for (int i = 0; i < COUNT; i++)
        ids[i] = (7 * i + 3) % 100;
    if (!umt5_encode(umt5, ids, COUNT, out, &error))
        fail_msg("%s", error.text);
    double sum = 0.0, absolute = 0.0;
    for (int i = 0; i < COUNT * WIDTH; i++) {
        sum += out[i];
        absolute += fabs(out[i]);
    }
    for (int i = 0; i < 8; i++)
        assert_true(fabs(out[i] - first[i]) < 1e-4);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(out[COUNT * WIDTH - 4 + i] - last[i]) < 1e-4);
    assert_true(fabs(sum - 518.152700) < 1e-2);
    assert_true(fabs(absolute - 5327.366815) < 1e-2);
    free(out);
    umt5_free(umt5);
}

static void ids_outside_the_vocabulary_are_refused(void **state)
{
    struct umt5 *umt5 = load(*state);
    static const int32_t bad[] = {-1, 100};
    float out[2 * 48];
    for (int i = 0; i < 2; i++) {
        struct error error = {0};
        char expected[32];
        int32_t ids[2] = {5, bad[i]};
        snprintf(expected, sizeof expected, "token id %d", bad[i]);
        assert_false(umt5_encode(umt5, ids, 2, out, &error));
        assert_non_null(strstr(error.text, expected));
        assert_non_null(strstr(error.text, "100"));
    }
    struct error error = {0};
    assert_false(umt5_encode(umt5, bad, 0, out, &error));
    umt5_free(umt5);
}

static void nan_is_reported_with_its_layer(void **state)
{
    struct setup *setup = *state;
    rule_file_values(&setup->file, "blocks.1.ffn.fc1.weight")[7] = NAN;
    struct umt5 *umt5 = load(setup);
    struct error error = {0};
    int32_t ids[3] = {1, 2, 3};
    float out[3 * 48];
    assert_false(umt5_encode(umt5, ids, 3, out, &error));
    assert_non_null(strstr(error.text, "encoder.block.1"));
    umt5_free(umt5);
}

static void a_missing_tensor_is_named(void **state)
{
    struct setup *setup = *state;
    struct error error = {0};
    struct umt5 *umt5 = NULL;
    struct umt5_config config = small;
    config.layers = 3;
    assert_true(rule_file_open(&setup->file, &setup->checkpoint, &error));
    checkpoint_set_rename(setup->checkpoint, names_wan_umt5);
    assert_false(
        umt5_load(&umt5, &config, setup->checkpoint, &ops_cpu, setup->device, NULL, &error));
    assert_null(umt5);
    assert_non_null(strstr(error.text, "blocks.2."));
    config = small;
    config.vocab = 99;
    assert_false(
        umt5_load(&umt5, &config, setup->checkpoint, &ops_cpu, setup->device, NULL, &error));
    assert_non_null(strstr(error.text, "[99, 48]"));
}

static bool stop_after_one(void *user, int64_t done, int64_t total)
{
    assert_int_equal(total, small.layers);
    return ++*(int *)user < 2 && done == 0;
}

static void loading_can_be_interrupted(void **state)
{
    struct setup *setup = *state;
    struct error error = {0};
    struct umt5 *umt5 = NULL;
    int asked = 0;
    const struct progress progress = {stop_after_one, &asked};
    assert_true(rule_file_open(&setup->file, &setup->checkpoint, &error));
    checkpoint_set_rename(setup->checkpoint, names_wan_umt5);
    assert_false(
        umt5_load(&umt5, &small, setup->checkpoint, &ops_cpu, setup->device, &progress, &error));
    assert_null(umt5);
    assert_int_equal(asked, 2);
    assert_true(error.interrupted);
}

/* ---- Configuration ---- */

static bool read_config(const char *text, struct umt5_config *config, struct error *error)
{
    char path[64];
    snprintf(path, sizeof path, P_tmpdir "/draftattn-umt5-%ld.json", (long)getpid());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    bool ok = umt5_config_read(config, path, error);
    unlink(path);
    return ok;
}

#define SIZES                                                                                      \
    "\"vocab_size\": 256, \"d_model\": 64, \"num_heads\": 4, \"d_kv\": 16, \"d_ff\": 160, "        \
    "\"num_layers\": 2"

static void configurations_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"{" SIZES ", \"model_type\": \"t5\"}", "model_type"},
        {"{" SIZES ", \"dense_act_fn\": \"relu\"}", "dense_act_fn"},
        {"{" SIZES ", \"is_gated_act\": false}", "is_gated_act"},
        {"{" SIZES ", \"relative_attention_num_buckets\": 30}", "relative_attention_num_buckets"},
        {"{" SIZES ", \"relative_attention_max_distance\": 8}", "relative_attention_max_distance"},
        {"{\"d_model\": 64}", "vocab_size"},
    };
    struct umt5_config config;
    struct error error = {0};
    if (!read_config("{" SIZES "}", &config, &error))
        fail_msg("%s", error.text);
    assert_int_equal(config.width, 64);
    assert_int_equal(config.buckets, 32);
    assert_int_equal(config.max_distance, 128);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(read_config(bad[i].text, &config, &error));
        assert_non_null(strstr(error.text, bad[i].complaint));
    }
}

static void random_weights_stay_finite(void **state)
{
    enum { COUNT = 20, WIDTH = 48 };
    struct setup *setup = *state;
    struct umt5_config config = small;
    struct umt5 *umt5 = NULL;
    struct error error = {0};
    int32_t ids[COUNT];
    float out[COUNT * WIDTH];
    double squares = 0.0;
    config.layers = 24;
    for (int i = 0; i < COUNT; i++)
        ids[i] = 7 * i % (int32_t)config.vocab;
    if (!umt5_load(&umt5, &config, NULL, &ops_cpu, setup->device, NULL, &error) ||
        !umt5_encode(umt5, ids, COUNT, out, &error))
        fail_msg("%s", error.text);
    for (int i = 0; i < COUNT * WIDTH; i++)
        squares += (double)out[i] * out[i] / (COUNT * WIDTH);
    assert_true(squares > 0.1 && squares < 10.0); /* the last norm has a gain of 1 */
    assert_memory_not_equal(out, out + WIDTH, WIDTH * sizeof *out);
    umt5_free(umt5);
}

static void no_configuration_means_the_published_one(void **state)
{
    (void)state;
    struct umt5_config config;
    struct error error = {0};
    assert_true(umt5_config_read(&config, "", &error));
    assert_int_equal(config.layers, 24);
    assert_int_equal(config.vocab, 256384);
    /* 5,680,910,336 parameters, the embedding of 1,050,148,864 stays in the file */
    double weights = 4.0 * (5680910336.0 - 1050148864.0);
    double bytes = (double)umt5_bytes(&config, ELEMENT_F32);
    assert_true(bytes > weights && bytes < 1.05 * weights);
    bytes = (double)umt5_bytes(&config, ELEMENT_BF16);
    assert_true(bytes > weights / 2 && bytes < 1.05 * weights / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rule_made_encoder_gives_the_published_numbers, make, drop),
        cmocka_unit_test_setup_teardown(ids_outside_the_vocabulary_are_refused, make, drop),
        cmocka_unit_test_setup_teardown(nan_is_reported_with_its_layer, make, drop),
        cmocka_unit_test_setup_teardown(a_missing_tensor_is_named, make, drop),
        cmocka_unit_test_setup_teardown(loading_can_be_interrupted, make, drop),
        cmocka_unit_test_setup_teardown(random_weights_stay_finite, make, drop),
        cmocka_unit_test(configurations_are_checked),
        cmocka_unit_test(no_configuration_means_the_published_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
