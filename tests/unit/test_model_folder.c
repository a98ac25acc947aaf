/* Model folders of both layouts, the names of tensors in each, and folders that are refused. */
#include "io/model_folder.h"
#include "io/names_wan.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define BUNDLED TEST_SOURCE_DIR "/samples/tiny-world/checkpoint"

static void is_inside(const char *path, const char *root, const char *name)
{
    char want[MODEL_PATH_MAX + 64];
    snprintf(want, sizeof want, "%s%s%s", root, name[0] ? "/" : "", name);
    assert_string_equal(path, want);
}

static void the_bundled_model_is_found(void **state)
{
    (void)state;
    struct model_folder folder;
    struct error error = {0};
    if (!model_folder_open(&folder, BUNDLED "//", &error))
        fail_msg("%s", error.text);
    assert_int_equal(folder.layout, MODEL_LAYOUT_DIFFUSERS);
    assert_string_equal(folder.root, BUNDLED);
    is_inside(folder.transformer, BUNDLED, "transformer");
    is_inside(folder.transformer_config, BUNDLED, "transformer/config.json");
    is_inside(folder.vae, BUNDLED, "vae");
    is_inside(folder.vae_config, BUNDLED, "vae/config.json");
    is_inside(folder.text_encoder, BUNDLED, "text_encoder");
    is_inside(folder.text_encoder_config, BUNDLED, "text_encoder/config.json");
    is_inside(folder.tokenizer, BUNDLED, "tokenizer/spiece.model");
    is_inside(folder.scheduler_config, BUNDLED, "scheduler/scheduler_config.json");
    assert_null(folder.rename_transformer);
    assert_null(folder.rename_vae);
    assert_null(folder.rename_text_encoder);
    struct checkpoint *checkpoint = NULL;
    assert_true(checkpoint_open(&checkpoint, folder.transformer, &error));
    assert_int_equal(checkpoint_count(checkpoint), 231);
    checkpoint_close(checkpoint);
}

static void touch(struct scratch *s, const char *name)
{
    scratch_text(s, name, "x");
}

static void make_original(struct scratch *s)
{
    scratch_text(s, "config.json", "{\"_class_name\": \"WanModel\", \"model_type\": \"t2v\"}");
    touch(s, "diffusion_pytorch_model.safetensors");
    touch(s, "Wan2.1_VAE.safetensors");
    touch(s, "models_t5_umt5-xxl-enc-bf16.safetensors");
    scratch_folder(s, "google");
    scratch_folder(s, "google/umt5-xxl");
    touch(s, "google/umt5-xxl/spiece.model");
}

static void the_original_layout_is_found(void **state)
{
    struct scratch *s = *state;
    make_original(s);
    struct model_folder folder;
    struct error error = {0};
    if (!model_folder_open(&folder, s->root, &error))
        fail_msg("%s", error.text);
    assert_int_equal(folder.layout, MODEL_LAYOUT_ORIGINAL);
    is_inside(folder.transformer, s->root, "");
    is_inside(folder.transformer_config, s->root, "config.json");
    is_inside(folder.vae, s->root, "Wan2.1_VAE.safetensors");
    assert_string_equal(folder.vae_config, "");
    is_inside(folder.text_encoder, s->root, "models_t5_umt5-xxl-enc-bf16.safetensors");
    assert_string_equal(folder.text_encoder_config, "");
    is_inside(folder.tokenizer, s->root, "google/umt5-xxl/spiece.model");
    assert_string_equal(folder.scheduler_config, "");
    assert_true(folder.rename_transformer == names_wan_transformer);
    assert_true(folder.rename_vae == names_wan_vae);
    assert_true(folder.rename_text_encoder == names_wan_umt5);
}

static void refuse(struct scratch *s, const char *path, const char *words)
{
    struct model_folder folder;
    struct error error = {0};
    if (model_folder_open(&folder, path ? path : s->root, &error))
        fail_msg("accepted what should say '%s'", words);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
    if (!path)
        assert_non_null(strstr(error.text, s->root));
    assert_false(model_folder_open(&folder, path ? path : s->root, NULL));
}

static void pickled_parts_are_refused(void **state)
{
    struct scratch *s = *state;
    make_original(s);
    unlink(scratch_path(s, "Wan2.1_VAE.safetensors"));
    refuse(s, NULL, "/Wan2.1_VAE.safetensors is missing; put it there, or the folder vae of ");
    touch(s, "Wan2.1_VAE.pth");
    refuse(s, NULL, "/Wan2.1_VAE.pth is a pickled PyTorch file, which is not read");
    /* The same part of the other layout serves. */
    scratch_folder(s, "vae");
    touch(s, "vae/diffusion_pytorch_model.safetensors");
    refuse(s, NULL, "/vae/config.json is missing");
    touch(s, "vae/config.json");
    struct model_folder folder;
    assert_true(model_folder_open(&folder, s->root, NULL));
    is_inside(folder.vae, s->root, "vae");
    is_inside(folder.vae_config, s->root, "vae/config.json");

    unlink(scratch_path(s, "models_t5_umt5-xxl-enc-bf16.safetensors"));
    touch(s, "models_t5_umt5-xxl-enc-bf16.pth");
    refuse(s, NULL,
           "put the folder text_encoder of Wan-AI/Wan2.1-T2V-1.3B-Diffusers beside it, or "
           "convert it to models_t5_umt5-xxl-enc-bf16.safetensors");
    touch(s, "umt5_xxl_fp16.safetensors");
    assert_true(model_folder_open(&folder, s->root, NULL));
    is_inside(folder.text_encoder, s->root, "umt5_xxl_fp16.safetensors");
    unlink(scratch_path(s, "google/umt5-xxl/spiece.model"));
    refuse(s, NULL, "/google/umt5-xxl/spiece.model is missing");
    unlink(scratch_path(s, "diffusion_pytorch_model.safetensors"));
    refuse(s, NULL, "/diffusion_pytorch_model.safetensors is missing");
}

static void make_part(struct scratch *s, const char *part, const char *weights)
{
    char name[200];
    scratch_folder(s, part);
    snprintf(name, sizeof name, "%s/config.json", part);
    touch(s, name);
    snprintf(name, sizeof name, "%s/%s", part, weights);
    touch(s, name);
}

static void make_diffusers(struct scratch *s)
{
    scratch_text(s, "model_index.json",
                 "{\"_class_name\": \"WanPipeline\", \"transformer_2\": [null, null]}");
    make_part(s, "transformer", "diffusion_pytorch_model.safetensors.index.json");
    make_part(s, "vae", "diffusion_pytorch_model.safetensors");
    make_part(s, "text_encoder", "model.safetensors.index.json");
    make_part(s, "tokenizer", "spiece.model");
    make_part(s, "scheduler", "scheduler_config.json");
}

static void missing_parts_are_named(void **state)
{
    struct scratch *s = *state;
    make_diffusers(s);
    struct model_folder folder;
    struct error error = {0};
    if (!model_folder_open(&folder, s->root, &error))
        fail_msg("%s", error.text);
    static const char *const files[] = {"scheduler/scheduler_config.json", "tokenizer/spiece.model",
                                        "text_encoder/config.json", "vae/config.json",
                                        "transformer/config.json"};
    char words[200];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        unlink(scratch_path(s, files[i]));
        snprintf(words, sizeof words, "%s/%s is missing; download it", s->root, files[i]);
        refuse(s, NULL, words);
    }
    unlink(scratch_path(s, "transformer/diffusion_pytorch_model.safetensors.index.json"));
    refuse(s, NULL, "/transformer holds no weights: expected a .safetensors file");
    touch(s, "transformer/diffusion_pytorch_model.bin");
    refuse(s, NULL, "/transformer/diffusion_pytorch_model.bin is a pickled PyTorch file");
    scratch_remove(scratch_path(s, "transformer"));
    refuse(s, NULL, "/transformer is missing; download it");
}

static void other_pipelines_are_refused(void **state)
{
    struct scratch *s = *state;
    static const char *const indexes[][2] = {
        {"{\"_class_name\": \"HunyuanVideoPipeline\"}",
         "'_class_name' is 'HunyuanVideoPipeline'; WanPipeline"},
        {"{\"_class_name\": \"WanImageToVideoPipeline\"}", "'WanImageToVideoPipeline'"},
        {"{\"_class_name\": 5}", "has no text '_class_name'"},
        {"{}", "has no text '_class_name'"},
        {"{\"_class_name\"", "broken JSON"},
        {"{\"_class_name\": \"WanPipeline\", \"transformer_2\": [\"diffusers\", "
         "\"WanTransformer3DModel\"]}",
         "names a second transformer (Wan2.2 A14B)"},
        {"{\"_class_name\": \"WanPipeline\", \"expand_timesteps\": true}",
         "a timestep per token (Wan2.2 TI2V)"},
    };
    make_diffusers(s);
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        scratch_text(s, "model_index.json", indexes[i][0]);
        refuse(s, NULL, indexes[i][1]);
    }
    unlink(scratch_path(s, "model_index.json"));
    refuse(s, NULL, "holds no model; expected model_index.json (diffusers layout");
    scratch_text(s, "config.json", "{\"_class_name\": \"WanTransformer3DModel\"}");
    refuse(s, NULL,
           "'_class_name' is 'WanTransformer3DModel', expected WanModel; the folder of a "
           "whole model is needed");
    scratch_text(s, "config.json", "{\"_class_name\": \"WanModel\", \"model_type\": \"i2v\"}");
    refuse(s, NULL, "'model_type' is 'i2v'");
    scratch_folder(s, "high_noise_model");
    refuse(s, NULL, "holds Wan2.2 A14B");
}

static void places_that_are_no_folder(void **state)
{
    struct scratch *s = *state;
    refuse(s, NULL, "is empty; expected model_index.json");
    refuse(s, "", "has 0 bytes");
    touch(s, "file");
    char path[256], longest[MODEL_PATH_MAX + 10];
    snprintf(path, sizeof path, "%s/file", s->root);
    refuse(s, path, "is a file; give the folder");
    snprintf(path, sizeof path, "%s/none", s->root);
    refuse(s, path, "cannot open: No such file");
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    refuse(s, longest, "name has 4105 bytes");
}

static void check_name(checkpoint_rename_fn rename, const char *name, const char *want)
{
    char buffer[200];
    assert_string_equal(rename(name, buffer, sizeof buffer), want);
}

static void names_of_the_transformer(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"patch_embedding.weight", "patch_embedding.weight"},
        {"condition_embedder.text_embedder.linear_1.weight", "text_embedding.0.weight"},
        {"condition_embedder.text_embedder.linear_2.bias", "text_embedding.2.bias"},
        {"condition_embedder.time_embedder.linear_1.bias", "time_embedding.0.bias"},
        {"condition_embedder.time_embedder.linear_2.weight", "time_embedding.2.weight"},
        {"condition_embedder.time_proj.weight", "time_projection.1.weight"},
        {"blocks.0.scale_shift_table", "blocks.0.modulation"},
        {"blocks.12.attn1.to_q.weight", "blocks.12.self_attn.q.weight"},
        {"blocks.12.attn1.to_k.bias", "blocks.12.self_attn.k.bias"},
        {"blocks.12.attn1.to_v.bias", "blocks.12.self_attn.v.bias"},
        {"blocks.12.attn1.to_out.0.weight", "blocks.12.self_attn.o.weight"},
        {"blocks.12.attn1.norm_q.weight", "blocks.12.self_attn.norm_q.weight"},
        {"blocks.12.attn1.norm_k.weight", "blocks.12.self_attn.norm_k.weight"},
        {"blocks.3.norm2.weight", "blocks.3.norm3.weight"},
        {"blocks.3.attn2.to_q.weight", "blocks.3.cross_attn.q.weight"},
        {"blocks.3.attn2.to_k.weight", "blocks.3.cross_attn.k.weight"},
        {"blocks.3.attn2.to_v.weight", "blocks.3.cross_attn.v.weight"},
        {"blocks.3.attn2.to_out.0.bias", "blocks.3.cross_attn.o.bias"},
        {"blocks.3.attn2.norm_q.weight", "blocks.3.cross_attn.norm_q.weight"},
        {"blocks.3.attn2.norm_k.weight", "blocks.3.cross_attn.norm_k.weight"},
        {"blocks.3.attn2.add_k_proj.weight", "blocks.3.cross_attn.k_img.weight"},
        {"blocks.3.attn2.add_v_proj.bias", "blocks.3.cross_attn.v_img.bias"},
        {"blocks.3.attn2.norm_added_k.weight", "blocks.3.cross_attn.norm_k_img.weight"},
        {"blocks.39.ffn.net.0.proj.weight", "blocks.39.ffn.0.weight"},
        {"blocks.39.ffn.net.2.bias", "blocks.39.ffn.2.bias"},
        {"scale_shift_table", "head.modulation"},
        {"proj_out.weight", "head.head.weight"},
        {"condition_embedder.image_embedder.norm1.weight", "img_emb.proj.0.weight"},
        {"condition_embedder.image_embedder.ff.net.0.proj.bias", "img_emb.proj.1.bias"},
        {"condition_embedder.image_embedder.ff.net.2.weight", "img_emb.proj.3.weight"},
        {"condition_embedder.image_embedder.norm2.bias", "img_emb.proj.4.bias"},
        {"condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"},
        /* no names of a tensor */
        {"blocks.x.norm2.weight", "blocks.x.norm2.weight"},
        {"blocks..norm2.weight", "blocks..norm2.weight"},
        {"scale_shift_table.more", "scale_shift_table.more"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_name(names_wan_transformer, names[i][0], names[i][1]);
    char little[8]; /* too long an answer: the name as it is, and nothing beyond the buffer */
    assert_string_equal(names_wan_transformer("proj_out.weight", little, sizeof little),
                        "proj_out.weight");
}

static void names_of_the_vae(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"encoder.conv_in.weight", "encoder.conv1.weight"},
        {"encoder.down_blocks.0.norm1.gamma", "encoder.downsamples.0.residual.0.gamma"},
        {"encoder.down_blocks.1.conv2.bias", "encoder.downsamples.1.residual.6.bias"},
        {"encoder.down_blocks.2.resample.1.weight", "encoder.downsamples.2.resample.1.weight"},
        {"encoder.down_blocks.3.conv_shortcut.weight", "encoder.downsamples.3.shortcut.weight"},
        {"encoder.down_blocks.5.time_conv.bias", "encoder.downsamples.5.time_conv.bias"},
        {"encoder.down_blocks.10.conv1.weight", "encoder.downsamples.10.residual.2.weight"},
        {"encoder.mid_block.resnets.0.norm2.gamma", "encoder.middle.0.residual.3.gamma"},
        {"encoder.mid_block.attentions.0.norm.gamma", "encoder.middle.1.norm.gamma"},
        {"encoder.mid_block.attentions.0.to_qkv.weight", "encoder.middle.1.to_qkv.weight"},
        {"encoder.mid_block.resnets.1.conv1.weight", "encoder.middle.2.residual.2.weight"},
        {"encoder.norm_out.gamma", "encoder.head.0.gamma"},
        {"encoder.conv_out.weight", "encoder.head.2.weight"},
        {"quant_conv.weight", "conv1.weight"},
        {"post_quant_conv.bias", "conv2.bias"},
        {"decoder.conv_in.weight", "decoder.conv1.weight"},
        {"decoder.mid_block.attentions.0.proj.bias", "decoder.middle.1.proj.bias"},
        {"decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.upsamples.2.residual.2.weight"},
        {"decoder.up_blocks.0.upsamplers.0.time_conv.weight",
         "decoder.upsamples.3.time_conv.weight"},
        {"decoder.up_blocks.1.resnets.0.conv_shortcut.bias", "decoder.upsamples.4.shortcut.bias"},
        {"decoder.up_blocks.1.upsamplers.0.resample.1.bias", "decoder.upsamples.7.resample.1.bias"},
        {"decoder.up_blocks.2.resnets.2.norm1.gamma", "decoder.upsamples.10.residual.0.gamma"},
        {"decoder.up_blocks.2.upsamplers.0.resample.1.weight",
         "decoder.upsamples.11.resample.1.weight"},
        {"decoder.up_blocks.3.resnets.2.conv2.weight", "decoder.upsamples.14.residual.6.weight"},
        {"decoder.norm_out.gamma", "decoder.head.0.gamma"},
        {"decoder.conv_out.bias", "decoder.head.2.bias"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_name(names_wan_vae, names[i][0], names[i][1]);
}

static void names_of_the_text_encoder(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"shared.weight", "token_embedding.weight"},
        {"encoder.embed_tokens.weight", "token_embedding.weight"},
        {"encoder.block.7.layer.0.layer_norm.weight", "blocks.7.norm1.weight"},
        {"encoder.block.7.layer.0.SelfAttention.q.weight", "blocks.7.attn.q.weight"},
        {"encoder.block.7.layer.0.SelfAttention.k.weight", "blocks.7.attn.k.weight"},
        {"encoder.block.7.layer.0.SelfAttention.v.weight", "blocks.7.attn.v.weight"},
        {"encoder.block.7.layer.0.SelfAttention.o.weight", "blocks.7.attn.o.weight"},
        {"encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight",
         "blocks.23.pos_embedding.embedding.weight"},
        {"encoder.block.7.layer.1.layer_norm.weight", "blocks.7.norm2.weight"},
        {"encoder.block.7.layer.1.DenseReluDense.wi_0.weight", "blocks.7.ffn.gate.0.weight"},
        {"encoder.block.7.layer.1.DenseReluDense.wi_1.weight", "blocks.7.ffn.fc1.weight"},
        {"encoder.block.7.layer.1.DenseReluDense.wo.weight", "blocks.7.ffn.fc2.weight"},
        {"encoder.final_layer_norm.weight", "norm.weight"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_name(names_wan_umt5, names[i][0], names[i][1]);
}

/* Every tensor of the bundled model has a name in the other layout, and no two the same one. */
static void all_names_translate(void **state)
{
    (void)state;
    static const struct {
        const char *part;
        checkpoint_rename_fn rename;
        int64_t tensors, unchanged;
    } parts[] = {
        {BUNDLED "/transformer", names_wan_transformer, 231, 2}, /* patch_embedding */
        {BUNDLED "/vae", names_wan_vae, 194, 0},
        {BUNDLED "/text_encoder", names_wan_umt5, 22, 0},
    };
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        struct checkpoint *c = NULL;
        assert_true(checkpoint_open(&c, parts[p].part, NULL));
        assert_int_equal(checkpoint_count(c), parts[p].tensors);
        static char names[256][200];
        int64_t unchanged = 0;
        for (int64_t i = 0; i < checkpoint_count(c); i++) {
            const char *name = checkpoint_at(c, i)->name;
            char buffer[200];
            snprintf(names[i], sizeof names[i], "%s", parts[p].rename(name, buffer, sizeof buffer));
            unchanged += strcmp(names[i], name) == 0;
            for (int64_t k = 0; k < i; k++)
                assert_string_not_equal(names[i], names[k]);
        }
        assert_int_equal(unchanged, parts[p].unchanged);
        checkpoint_close(c);
    }
}

#define WITH_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bundled_model_is_found), WITH_SCRATCH(the_original_layout_is_found),
        WITH_SCRATCH(pickled_parts_are_refused),      WITH_SCRATCH(missing_parts_are_named),
        WITH_SCRATCH(other_pipelines_are_refused),    WITH_SCRATCH(places_that_are_no_folder),
        cmocka_unit_test(names_of_the_transformer),   cmocka_unit_test(names_of_the_vae),
        cmocka_unit_test(names_of_the_text_encoder),  cmocka_unit_test(all_names_translate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
