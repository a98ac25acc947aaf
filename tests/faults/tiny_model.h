/*
 * The smallest model that generates: transformer and VAE of the golden tests, a text encoder made
 * by their rule, and a tokenizer of ten pieces. In a scratch folder, as links where there are
 * files. Included by one test program each.
 */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include "unit/rule_file.h"
#include "unit/scratch.h"

#define TINY_WIDTH 48 /* what the transformer takes */
#define TINY_INNER 16
#define TINY_FFN   32
#define TINY_VOCAB 16

static inline void tiny_model_link(struct scratch *scratch, const char *target, const char *name)
{
    if (symlink(target, scratch_path(scratch, name)) != 0)
        abort();
}

static inline void tiny_model_text_encoder(struct scratch *scratch)
{
    static struct rule_file file;
    struct error error = {0};
    const int64_t width = TINY_WIDTH, inner = TINY_INNER, ffn = TINY_FFN;
    rule_file_begin(&file);
    rule_file_add(&file, SHAPE(TINY_VOCAB, width), "shared.weight", 0);
    rule_file_add(&file, SHAPE(width), "encoder.final_layer_norm.weight", 0);
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"encoder.block.0.layer.0.SelfAttention.q.weight",
                                            "encoder.block.0.layer.0.SelfAttention.k.weight",
                                            "encoder.block.0.layer.0.SelfAttention.v.weight"};
        rule_file_add(&file, SHAPE(inner, width), names[i], 0);
    }
    rule_file_add(&file, SHAPE(width, inner), "encoder.block.0.layer.0.SelfAttention.o.weight", 0);
    rule_file_add(&file, SHAPE(32, 1),
                  "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 0);
    rule_file_add(&file, SHAPE(width), "encoder.block.0.layer.0.layer_norm.weight", 0);
    rule_file_add(&file, SHAPE(width), "encoder.block.0.layer.1.layer_norm.weight", 0);
    rule_file_add(&file, SHAPE(ffn, width), "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
                  0);
    rule_file_add(&file, SHAPE(ffn, width), "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
                  0);
    rule_file_add(&file, SHAPE(width, ffn), "encoder.block.0.layer.1.DenseReluDense.wo.weight", 0);
    if (!safetensors_write(scratch_path(scratch, "model/text_encoder/model.safetensors"),
                           file.tensors, file.count, NULL, &error))
        abort();
    rule_file_end(&file);
    scratch_text(scratch, "model/text_encoder/config.json",
                 "{\"model_type\": \"umt5\", \"vocab_size\": 16, \"d_model\": 48, \"num_heads\": 1,"
                 " \"d_kv\": 16, \"d_ff\": 32, \"num_layers\": 1}");
}

/* The folder, good as long as the scratch folder is. */
static inline const char *tiny_model_make(struct scratch *scratch)
{
    static char path[512];
    static const char cases[] = TEST_SOURCE_DIR "/tests/golden/cases/wan-pipeline";
    char target[600];
    snprintf(path, sizeof path, "%s", scratch_folder(scratch, "model"));
    scratch_folder(scratch, "model/text_encoder");
    scratch_folder(scratch, "model/tokenizer");
    scratch_text(scratch, "model/model_index.json", "{\"_class_name\": \"WanPipeline\"}");
    scratch_text(scratch, "model/generation_defaults.json",
                 "{\"width\": 16, \"height\": 16, \"frames\": 5, \"steps\": 1, \"guidance\": 4,"
                 " \"negative_prompt\": \"red\", \"prompt\": \"a red ball\"}");
    tiny_model_text_encoder(scratch);
    static const char *const parts[] = {"transformer", "vae", "scheduler"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(target, sizeof target, "%s/%s", cases, parts[i]);
        snprintf(name, sizeof name, "model/%s", parts[i]);
        tiny_model_link(scratch, target, name);
    }
    tiny_model_link(scratch, TEST_SOURCE_DIR "/tests/fuzz/corpus/tokenizer/small",
                    "model/tokenizer/spiece.model");
    return path;
}

#endif
