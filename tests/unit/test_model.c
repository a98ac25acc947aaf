/* Models without files, and what tells one model from another. */
#include "model.h"
#include "synthetic_prompt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Every tensor of the published network, by its shape. */
static int64_t parameters(const struct wan_transformer_config *t)
{
    const int64_t d = t->heads * t->head_dim, linear = d * d + d;
    const int64_t patch = t->patch[0] * t->patch[1] * t->patch[2];
    const int64_t attention = 4 * linear + 2 * d; /* q, k, v, o and the norms of q and k */
    const int64_t ffn = d * t->ffn + t->ffn + t->ffn * d + d;
    const int64_t block = 2 * attention + ffn + 2 * d + 6 * d; /* a norm, a table */
    const int64_t text = t->text_dim * d + d + linear, time = t->freq_dim * d + d + linear;
    const int64_t head = d * patch * t->out_channels + patch * t->out_channels + 2 * d;
    return t->layers * block + patch * t->in_channels * d + d + text + time + 6 * d * d + 6 * d +
           head;
}

static void test_synthetic(void **state)
{
    static const struct {
        const char *name;
        int64_t parameters; /* published */
    } expected[] = {{"wan2.1-t2v-1.3b", 1418996800}, {"wan2.1-t2v-14b", 14288491584}};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct model model;
        struct error error = {.usage = false};
        assert_string_equal(model_synthetic_name(i), expected[i].name);
        assert_true(model_open_synthetic(&model, expected[i].name, &error));
        assert_true(model.synthetic);
        assert_int_equal(parameters(&model.transformer), expected[i].parameters);
        double planned = (double)wan_transformer_weight_bytes(&model.transformer, ELEMENT_F32);
        assert_true(planned > 3.99 * (double)expected[i].parameters);
        assert_true(planned < 4.05 * (double)expected[i].parameters);
        /* 73,295,331 parameters of the decoder, packed */
        double vae = (double)wan_vae_weight_bytes(&model.vae, WAN_VAE_DECODER);
        assert_true(vae > 4 * 73295331.0 && vae < 4.4 * 73295331.0);
        assert_int_equal(model.text.layers, 24);
        assert_true(model.defaults.width == 832 && model.defaults.height == 480);
        assert_true(model.defaults.frames == 81 && model.defaults.steps == 50);
        struct checkpoint *none = (struct checkpoint *)&model;
        assert_true(model_open_weights(&none, model.folder.transformer, NULL, &error));
        assert_null(none);
        model_close(&model);
    }
    assert_null(model_synthetic_name(2));
}

static void test_unknown(void **state)
{
    struct model model;
    struct error error = {.usage = false};
    (void)state;
    assert_false(model_open_synthetic(&model, "wan3", &error));
    assert_true(error.usage);
    assert_non_null(strstr(error.text, "'wan3'"));
}

static void test_identity(void **state)
{
    struct model model;
    struct error error = {.usage = false};
    char first[MODEL_PATH_MAX + 32], other[MODEL_PATH_MAX + 32];
    (void)state;
    assert_true(model_open_synthetic(&model, "wan2.1-t2v-1.3b", &error));
    model_identity(&model, first, sizeof first);
    assert_non_null(strstr(first, "wan2.1-t2v-1.3b "));
    int64_t *const changed[] = {&model.transformer.heads, &model.transformer.ffn,
                                &model.transformer.patch[2], &model.vae.dim_mult[3],
                                &model.text.buckets};
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        ++*changed[i];
        model_identity(&model, other, sizeof other);
        assert_string_not_equal(first, other);
        --*changed[i];
    }
    model.vae.mean[3] += 1e-9;
    model_identity(&model, other, sizeof other);
    assert_string_not_equal(first, other);
    snprintf(model.folder.root, sizeof model.folder.root, "/somewhere/else/wan2.1-t2v-1.3b");
    model.vae.mean[3] = 0.1075;
    model_identity(&model, other, sizeof other);
    assert_string_equal(first, other); /* where it lies does not matter */
    model_close(&model);
}

static void test_prompt(void **state)
{
    int32_t ids[8], again[8];
    int64_t cut;
    (void)state;
    assert_int_equal(synthetic_prompt("  ", ids, 8, 1000, &cut), 1);
    assert_int_equal(ids[0], 1);
    assert_int_equal(synthetic_prompt("a red\tball a\n", ids, 8, 1000, &cut), 5);
    assert_int_equal(cut, 0);
    assert_int_equal(ids[0], ids[3]);
    assert_int_not_equal(ids[1], ids[2]);
    for (int i = 0; i < 4; i++)
        assert_in_range(ids[i], 2, 999);
    assert_int_equal(ids[4], 1);
    assert_int_equal(synthetic_prompt("a red ball a", again, 3, 1000, &cut), 3);
    assert_int_equal(cut, 2);
    assert_memory_equal(again, ids, 2 * sizeof *ids);
    assert_int_equal(again[2], 1);
    assert_int_equal(synthetic_prompt("word", ids, 8, 3, &cut), 2);
    assert_int_equal(ids[0], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synthetic),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
