/*
 * The Wan transformer with weights made by the rule, against the numbers published with it, for
 * text and image to video; what must not matter (token order, padding, calls before); and what is
 * refused.
 */
#include "wan_rule.h"

enum { FRAMES = 3, HEIGHT = 6, WIDTH = 8, POSITIONS = FRAMES * HEIGHT * WIDTH };
enum { VALUES = 16 * POSITIONS, TEXT_ROWS = 9, IMAGE_ROWS = 257, IMAGE_DIM = 1280 };

static void must(bool ok, const struct error *error)
{
    if (!ok)
        fail_msg("%s", error->text);
}

static void forward(struct wan_rule *rule, const struct wan_context *context, const float *latents,
                    double timestep, float *out)
{
    struct error error = {0};
    must(wan_transformer_forward(rule->transformer, latents, FRAMES, HEIGHT, WIDTH, timestep,
                                 context, rule->attention, NULL, out, &error),
         &error);
}

static void check_output(const float *out, const double first[8], const double last[4], double sum,
                         double absolute)
{
    for (int i = 0; i < VALUES; i++) {
        sum -= out[i];
        absolute -= fabs(out[i]);
    }
    for (int i = 0; i < 8; i++)
        assert_true(fabs(out[i] - first[i]) < 1e-4);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(out[VALUES - 4 + i] - last[i]) < 1e-4);
    assert_true(fabs(sum) < 1e-2);
    assert_true(fabs(absolute) < 1e-2);
}

static double largest_difference(const float *a, const float *b, int64_t count)
{
    double worst = 0.0;
    for (int64_t i = 0; i < count; i++)
        worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst;
}

/* ---- Numbers ---- */

static void text_to_video_gives_the_published_numbers(void **state)
{
    (void)state;
    static const double first[8] = {-0.117068, 0.143813, -1.885385, -1.476320,
                                    -0.597760, 1.125457, -1.340087, -0.104932};
    static const double last[4] = {1.814076, 0.794646, 0.426250, 3.277755};
    struct error error = {0};
    struct wan_rule rule;
    struct wan_context *context;
    float *x = wan_rule_input("input.x", VALUES), out[VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    wan_rule_begin(&rule, &wan_small);
    must(wan_rule_load(&rule, &error), &error);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
    must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, NULL, 0, &error),
         &error);
    forward(&rule, context, x, 937.0, out);
    check_output(out, first, last, -38.909472, 2143.811827);
    wan_context_free(context);
    wan_rule_end(&rule);
    free(x), free(text);
}

static struct wan_transformer_config image_config(void)
{
    struct wan_transformer_config config = wan_small;
    config.in_channels = 36;
    config.image_dim = IMAGE_DIM;
    return config;
}

/* Channels of input.x, then of input.y. */
static float *image_latents(void)
{
    float *x = wan_rule_input("input.x", VALUES), *y = wan_rule_input("input.y", 20 * POSITIONS);
    float *both = malloc(36 * POSITIONS * sizeof *both);
    assert_non_null(both);
    memcpy(both, x, VALUES * sizeof *x);
    memcpy(both + VALUES, y, 20 * POSITIONS * sizeof *y);
    free(x), free(y);
    return both;
}

static void image_to_video_gives_the_published_numbers(void **state)
{
    (void)state;
    static const double first[8] = {-1.205870, -1.506541, -0.910904, 0.250808,
                                    0.551497,  -0.238461, -0.896720, -1.263525};
    static const double last[4] = {-0.916153, 1.278107, -1.402146, 1.560469};
    struct error error = {0};
    struct wan_rule rule;
    struct wan_context *context;
    struct wan_transformer_config config = image_config();
    float *latents = image_latents(), out[VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    float *image = wan_rule_input("input.clip", IMAGE_ROWS * IMAGE_DIM);
    wan_rule_begin(&rule, &config);
    must(wan_rule_load(&rule, &error), &error);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
    must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, image, IMAGE_ROWS,
                            &error),
         &error);
    forward(&rule, context, latents, 937.0, out);
    check_output(out, first, last, -387.622219, 2163.380504);
    wan_context_free(context);
    wan_rule_end(&rule);
    free(latents), free(text), free(image);
}

/* First and last frame: a position embedding is added to the image rows, which the network without
 * one can be given as a sum. */
static void position_embedding_is_added_to_image_rows(void **state)
{
    (void)state;
    enum { ROWS = 2 * IMAGE_ROWS };
    struct error error = {0};
    struct wan_transformer_config config = image_config();
    float *latents = image_latents(), out[2][VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    float *image = wan_rule_input("input.clip", ROWS * IMAGE_DIM);
    for (int with = 1; with >= 0; with--) {
        struct wan_rule rule;
        struct wan_context *context;
        config.pos_embed_seq_len = with ? ROWS : 0;
        wan_rule_begin(&rule, &config);
        must(wan_rule_load(&rule, &error), &error);
        wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
        must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, image, ROWS,
                                &error),
             &error);
        forward(&rule, context, latents, 500.0, out[with]);
        wan_context_free(context);
        if (with) {
            assert_false(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, image,
                                            IMAGE_ROWS, &error));
            assert_non_null(strstr(error.text, "514"));
            const float *position = rule_file_values(&rule.file, "img_emb.emb_pos");
            for (int64_t i = 0; i < ROWS * IMAGE_DIM; i++)
                image[i] += position[i];
        }
        wan_rule_end(&rule);
    }
    assert_true(largest_difference(out[0], out[1], VALUES) < 1e-5);
    free(latents), free(text), free(image);
}

/* ---- What must not matter ---- */

static void padding_order_and_history_do_not_matter(void **state)
{
    (void)state;
    struct error error = {0};
    struct wan_rule rule;
    struct wan_context *context, *padded;
    float *x = wan_rule_input("input.x", VALUES), want[VALUES], got[VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    float *full = calloc(512 * 64, sizeof *full);
    assert_non_null(full);
    memcpy(full, text, TEXT_ROWS * 64 * sizeof *full);
    wan_rule_begin(&rule, &wan_small);
    must(wan_rule_load(&rule, &error), &error);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
    must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, NULL, 0, &error),
         &error);
    must(wan_context_create(&padded, rule.transformer, full, 512, 512, NULL, 0, &error), &error);
    forward(&rule, context, x, 250.5, want);

    forward(&rule, padded, x, 250.5, got); /* zero rows given or not */
    assert_memory_equal(got, want, sizeof want);
    forward(&rule, context, x, 937.0, got); /* another timestep between */
    assert_true(largest_difference(got, want, VALUES) > 0.01);
    forward(&rule, context, x, 250.5, got);
    assert_memory_equal(got, want, sizeof want);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 2); /* another block order */
    forward(&rule, context, x, 250.5, got);
    assert_true(largest_difference(got, want, VALUES) < 2e-5);

    wan_context_free(context);
    wan_context_free(padded);
    wan_rule_end(&rule);
    free(x), free(text), free(full);
}

/* A few real zero rows in front of more: the bias must count all of them. */
static void fewer_padding_rows_give_another_result(void **state)
{
    (void)state;
    struct error error = {0};
    struct wan_rule rule;
    float *x = wan_rule_input("input.x", VALUES), out[2][VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    static const int64_t pad_to[2] = {512, TEXT_ROWS};
    wan_rule_begin(&rule, &wan_small);
    must(wan_rule_load(&rule, &error), &error);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
    for (int i = 0; i < 2; i++) {
        struct wan_context *context;
        must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, pad_to[i], NULL, 0,
                                &error),
             &error);
        forward(&rule, context, x, 937.0, out[i]);
        wan_context_free(context);
    }
    assert_true(largest_difference(out[0], out[1], VALUES) > 0.01);
    wan_rule_end(&rule);
    free(x), free(text);
}

/* ---- Refusals ---- */

static void broken_numbers_are_reported_with_their_place(void **state)
{
    (void)state;
    static const struct {
        const char *tensor, *place;
    } cases[] = {
        {"blocks.1.self_attn.v.weight", "blocks.1: "},
        {"blocks.0.ffn.2.bias", "blocks.0: "},
        {"blocks.1.self_attn.q.bias", "blocks.1: "},
        {"blocks.1.self_attn.norm_k.weight", "blocks.1: "},
        {"blocks.1.cross_attn.q.bias", "blocks.1: "},
        {"blocks.1.cross_attn.k.bias", "blocks.1: "},
        {"patch_embedding.bias", "patch_embedding: "},
        {"time_embedding.2.weight", "time_proj: "},
        {"head.head.weight", "proj_out: "},
        {"text_embedding.0.weight", "prompt: "},
    };
    float *x = wan_rule_input("input.x", VALUES), out[VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        struct wan_rule rule;
        struct wan_context *context;
        wan_rule_begin(&rule, &wan_small);
        rule_file_values(&rule.file, cases[i].tensor)[5] = NAN;
        must(wan_rule_load(&rule, &error), &error);
        wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
        if (wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, NULL, 0, &error))
            assert_false(wan_transformer_forward(rule.transformer, x, FRAMES, HEIGHT, WIDTH, 937.0,
                                                 context, rule.attention, NULL, out, &error));
        assert_non_null(strstr(error.text, cases[i].place));
        assert_non_null(strstr(error.text, "NaN"));
        wan_context_free(context);
        wan_rule_end(&rule);
    }
    free(x), free(text);
}

static void other_grids_are_refused(void **state)
{
    (void)state;
    struct error error = {0};
    struct wan_rule rule;
    struct wan_context *context;
    float *x = wan_rule_input("input.x", 2 * VALUES), out[2 * VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    wan_rule_begin(&rule, &wan_small);
    must(wan_rule_load(&rule, &error), &error);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
    must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, NULL, 0, &error),
         &error);
    assert_false(wan_transformer_forward(rule.transformer, x, FRAMES, WIDTH, HEIGHT, 1.0, context,
                                         rule.attention, NULL, out, &error));
    assert_non_null(strstr(error.text, "3x4x3"));
    assert_non_null(strstr(error.text, "3x3x4"));
    assert_false(wan_transformer_forward(rule.transformer, x, FRAMES, HEIGHT + 1, WIDTH, 1.0,
                                         context, rule.attention, NULL, out, &error));
    assert_non_null(strstr(error.text, "height is 7"));
    wan_context_free(context);
    assert_false(
        wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 8, NULL, 0, &error));
    assert_null(context);
    assert_false(
        wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, x, 1, &error));
    assert_non_null(strstr(error.text, "image"));
    wan_rule_end(&rule);
    free(x), free(text);
}

static void checkpoints_of_another_extent_are_refused(void **state)
{
    (void)state;
    struct {
        int64_t layers, image_dim;
        const char *complaint;
    } cases[] = {{1, IMAGE_DIM, "num_layers"}, {3, IMAGE_DIM, "blocks.2."}, {2, 0, "image branch"}};
    struct wan_transformer_config config = image_config();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {0};
        struct wan_rule rule;
        wan_rule_begin(&rule, &config);
        rule.config.layers = cases[i].layers;
        rule.config.image_dim = cases[i].image_dim;
        assert_false(wan_rule_load(&rule, &error));
        assert_null(rule.transformer);
        assert_non_null(strstr(error.text, cases[i].complaint));
        wan_rule_end(&rule);
    }
}

/* ---- Recordings ---- */

/* The CPU's operations with recordings that only count: what is recorded is also done, and a replay
 * does nothing, so that the memory shows whether a pass was run. */
static struct counts {
    int begun, replayed, dropped, runs;
} counts;

static bool count_begin(struct device *device, struct error *error)
{
    (void)device, (void)error;
    counts.begun++;
    return true;
}

static bool count_end(struct device *device, struct recording **out, struct error *error)
{
    (void)device, (void)error;
    *out = (struct recording *)&counts;
    return true;
}

static bool count_replay(struct device *device, const struct recording *recording,
                         struct error *error)
{
    (void)device, (void)error;
    assert_ptr_equal(recording, &counts);
    counts.replayed++;
    return true;
}

static void count_drop(struct device *device, struct recording *recording)
{
    (void)device;
    assert_ptr_equal(recording, &counts);
    counts.dropped++;
}

static void count_cut(struct device *device, const struct ops_patches *patches,
                      const float *latents, void *rows, enum element type)
{
    counts.runs++;
    ops_cpu.cut_patches(device, patches, latents, rows, type);
}

static void hear_nothing(void *user, const draftattn_step *step)
{
    (void)user, (void)step;
}

static void assert_counts(int begun, int replayed, int dropped, int runs)
{
    assert_int_equal(counts.begun, begun);
    assert_int_equal(counts.replayed, replayed);
    assert_int_equal(counts.dropped, dropped);
    assert_int_equal(counts.runs, runs);
}

static void a_pass_that_comes_again_is_recorded_then_replayed(void **state)
{
    (void)state;
    struct error error = {0};
    struct ops ops = ops_cpu;
    struct wan_rule rule;
    struct wan_context *context;
    float *x = wan_rule_input("input.x", VALUES), *text = wan_rule_input("input.ctx", 9 * 64);
    float out[VALUES], other[VALUES];
    ops.record_begin = count_begin;
    ops.record_end = count_end;
    ops.replay = count_replay;
    ops.recording_destroy = count_drop;
    ops.cut_patches = count_cut;
    counts = (struct counts){0};
    wan_rule_begin(&rule, &wan_small);
    must(wan_transformer_load(&rule.transformer, &wan_small, NULL, &ops, rule.device, NULL, &error),
         &error);
    wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
    must(wan_context_create(&context, rule.transformer, text, 9, 512, NULL, 0, &error), &error);
    forward(&rule, context, x, 937.0, out);
    assert_counts(0, 0, 0, 1); /* as it is */
    forward(&rule, context, x, 500.0, out);
    assert_counts(1, 1, 0, 2); /* recorded */
    forward(&rule, context, x, 250.0, out);
    assert_counts(1, 2, 0, 2); /* replayed */
    forward(&rule, context, x, 250.0, other);
    assert_counts(1, 2, 0, 3); /* another pass */
    self_attention_set_listener(rule.attention, hear_nothing, NULL);
    forward(&rule, context, x, 250.0, out);
    assert_counts(1, 2, 0, 4); /* somebody looks in */
    self_attention_set_listener(rule.attention, NULL, NULL);
    wan_transformer_forget(rule.transformer);
    assert_counts(1, 2, 1, 4);
    forward(&rule, context, x, 250.0, out);
    assert_counts(1, 2, 1, 5);
    wan_context_free(context);
    wan_rule_end(&rule);
    assert_counts(1, 2, 1, 5);
    free(x), free(text);
}

/* ---- Random weights ---- */

static void random_weights_stay_finite(void **state)
{
    (void)state;
    struct error error = {0};
    struct wan_rule rule;
    struct wan_context *context;
    struct wan_transformer_config config = wan_small;
    config.layers = 40;
    float *x = wan_rule_input("input.x", VALUES), out[2][VALUES];
    float *text = wan_rule_input("input.ctx", TEXT_ROWS * 64);
    for (int i = 0; i < 2; i++) {
        double squares = 0.0;
        wan_rule_begin(&rule, &wan_small);
        rule.config = config;
        must(wan_transformer_load(&rule.transformer, &config, NULL, &ops_cpu, rule.device, NULL,
                                  &error),
             &error);
        wan_rule_plan(&rule, FRAMES, HEIGHT, WIDTH, 8);
        must(wan_context_create(&context, rule.transformer, text, TEXT_ROWS, 512, NULL, 0, &error),
             &error);
        forward(&rule, context, x, 937.0, out[i]);
        for (int j = 0; j < VALUES; j++)
            squares += (double)out[i][j] * out[i][j] / VALUES;
        assert_true(squares > 0.01 && squares < 100.0);
        wan_context_free(context);
        wan_rule_end(&rule);
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]); /* the same weights every time */
    free(x), free(text);
}

/* ---- Configuration ---- */

static bool read_config(const char *text, struct wan_transformer_config *config,
                        struct error *error)
{
    char path[64];
    snprintf(path, sizeof path, P_tmpdir "/draftattn-wan-%ld.json", (long)getpid());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    bool ok = wan_transformer_config_read(config, path, error);
    unlink(path);
    return ok;
}

static void both_layouts_are_read(void **state)
{
    (void)state;
    static const char original[] =
        "{\"_class_name\": \"WanModel\", \"_diffusers_version\": \"0.30.0\", \"dim\": 1536, "
        "\"eps\": 1e-06, \"ffn_dim\": 8960, \"freq_dim\": 256, \"in_dim\": 16, "
        "\"model_type\": \"t2v\", \"num_heads\": 12, \"num_layers\": 30, \"out_dim\": 16, "
        "\"text_len\": 512}";
    static const char diffusers[] =
        "{\"_class_name\": \"WanTransformer3DModel\", \"patch_size\": [1, 2, 2], "
        "\"num_attention_heads\": 12, \"attention_head_dim\": 128, \"in_channels\": 16, "
        "\"out_channels\": 16, \"text_dim\": 4096, \"freq_dim\": 256, \"ffn_dim\": 8960, "
        "\"num_layers\": 30, \"cross_attn_norm\": true, \"qk_norm\": \"rms_norm_across_heads\", "
        "\"eps\": 1e-06, \"image_dim\": null, \"added_kv_proj_dim\": null, "
        "\"rope_max_seq_len\": 1024, \"pos_embed_seq_len\": null}";
    struct wan_transformer_config a, b;
    struct error error = {0};
    must(read_config(original, &a, &error), &error);
    must(read_config(diffusers, &b, &error), &error);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(a.head_dim, 128);
    /* the published file of the 1.3B model has 1,418,996,800 parameters */
    assert_true(fabs((double)wan_transformer_weight_bytes(&a, ELEMENT_F32) / (4.0 * 1418996800.0) -
                     1.0) < 0.01);
    must(read_config("{\"dim\": 5120, \"num_heads\": 40, \"num_layers\": 40, \"ffn_dim\": 13824, "
                     "\"in_dim\": 36, \"out_dim\": 16, \"model_type\": \"flf2v\"}",
                     &a, &error),
         &error);
    assert_int_equal(a.image_dim, 1280);
    assert_int_equal(a.pos_embed_seq_len, 514);
    assert_true(fabs((double)wan_transformer_weight_bytes(&a, ELEMENT_F32) / (4.0 * 16395536704.0) -
                     1.0) < 0.01);
}

#define REST "\"num_layers\": 2, \"ffn_dim\": 320, \"num_attention_heads\": 2"

static void other_networks_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"{" REST ", \"attention_head_dim\": 80}", "attention_head_dim"},
        {"{" REST ", \"attention_head_dim\": 128, \"_class_name\": \"WanVACETransformer3DModel\"}",
         "WanVACETransformer3DModel"},
        {"{" REST ", \"attention_head_dim\": 128, \"qk_norm\": \"rms_norm\"}", "qk_norm"},
        {"{" REST ", \"attention_head_dim\": 128, \"cross_attn_norm\": false}", "cross_attn_norm"},
        {"{" REST ", \"attention_head_dim\": 128, \"image_dim\": 1280}", "added_kv_proj_dim"},
        {"{" REST ", \"attention_head_dim\": 128, \"freq_dim\": 255}", "freq_dim"},
        {"{" REST ", \"attention_head_dim\": 128, \"in_channels\": 8}", "out_channels"},
        {"{\"dim\": 1000, \"num_heads\": 3, \"num_layers\": 1, \"ffn_dim\": 9}", "num_heads"},
        {"{\"dim\": 256, \"num_heads\": 2, \"num_layers\": 1, \"ffn_dim\": 9, \"model_type\": "
         "\"ti2v\"}",
         "ti2v"},
        {"{\"num_heads\": 2}", "dim"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct wan_transformer_config config;
        struct error error = {0};
        assert_false(read_config(bad[i].text, &config, &error));
        assert_non_null(strstr(error.text, bad[i].complaint));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_to_video_gives_the_published_numbers),
        cmocka_unit_test(image_to_video_gives_the_published_numbers),
        cmocka_unit_test(position_embedding_is_added_to_image_rows),
        cmocka_unit_test(padding_order_and_history_do_not_matter),
        cmocka_unit_test(fewer_padding_rows_give_another_result),
        cmocka_unit_test(broken_numbers_are_reported_with_their_place),
        cmocka_unit_test(other_grids_are_refused),
        cmocka_unit_test(checkpoints_of_another_extent_are_refused),
        cmocka_unit_test(a_pass_that_comes_again_is_recorded_then_replayed),
        cmocka_unit_test(random_weights_stay_finite),
        cmocka_unit_test(both_layouts_are_read),
        cmocka_unit_test(other_networks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
