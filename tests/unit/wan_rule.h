/*
 * A small Wan transformer with weights made by the rule, under the original layout's names.
 * Included by one test program each.
 */
#ifndef TESTS_WAN_RULE_H
#define TESTS_WAN_RULE_H

#include "rule_file.h"

#include "io/names_wan.h"
#include "models/wan_transformer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The configuration that the published numbers are for. */
static const struct wan_transformer_config wan_small = {.heads = 2,
                                                        .head_dim = 128,
                                                        .layers = 2,
                                                        .ffn = 320,
                                                        .in_channels = 16,
                                                        .out_channels = 16,
                                                        .text_dim = 64,
                                                        .freq_dim = 256,
                                                        .text_len = 512,
                                                        .patch = {1, 2, 2},
                                                        .rope_max = 1024,
                                                        .eps = 1e-6};

struct wan_rule {
    struct wan_transformer_config config;
    struct rule_file file;
    struct device *device;
    draftattn_context *context;
    struct checkpoint *checkpoint;
    struct wan_transformer *transformer;
    struct self_attention *attention;
};

static inline void wan_rule_add_block(struct rule_file *file,
                                      const struct wan_transformer_config *config, int i)
{
    static const char *const square[] = {
        "blocks.%lld.self_attn.q",  "blocks.%lld.self_attn.k",  "blocks.%lld.self_attn.v",
        "blocks.%lld.self_attn.o",  "blocks.%lld.cross_attn.q", "blocks.%lld.cross_attn.k",
        "blocks.%lld.cross_attn.v", "blocks.%lld.cross_attn.o",
    };
    const int64_t d = config->heads * config->head_dim;
    for (size_t j = 0; j < sizeof square / sizeof square[0]; j++)
        rule_file_add_linear(file, d, d, square[j], i);
    rule_file_add_linear(file, config->ffn, d, "blocks.%lld.ffn.0", i);
    rule_file_add_linear(file, d, config->ffn, "blocks.%lld.ffn.2", i);
    rule_file_add(file, SHAPE(1, 6, d), "blocks.%lld.modulation", i);
    rule_file_add(file, SHAPE(d), "blocks.%lld.self_attn.norm_q.weight", i);
    rule_file_add(file, SHAPE(d), "blocks.%lld.self_attn.norm_k.weight", i);
    rule_file_add(file, SHAPE(d), "blocks.%lld.cross_attn.norm_q.weight", i);
    rule_file_add(file, SHAPE(d), "blocks.%lld.cross_attn.norm_k.weight", i);
    rule_file_add(file, SHAPE(d), "blocks.%lld.norm3.weight", i);
    rule_file_add(file, SHAPE(d), "blocks.%lld.norm3.bias", i);
    if (config->image_dim > 0) {
        rule_file_add_linear(file, d, d, "blocks.%lld.cross_attn.k_img", i);
        rule_file_add_linear(file, d, d, "blocks.%lld.cross_attn.v_img", i);
        rule_file_add(file, SHAPE(d), "blocks.%lld.cross_attn.norm_k_img.weight", i);
    }
}

static inline void wan_rule_add(struct rule_file *file, const struct wan_transformer_config *config)
{
    const int64_t d = config->heads * config->head_dim, image = config->image_dim;
    rule_file_begin(file);
    rule_file_add(file, SHAPE(d, config->in_channels, 1, 2, 2), "patch_embedding.weight", 0);
    rule_file_add(file, SHAPE(d), "patch_embedding.bias", 0);
    rule_file_add_linear(file, d, config->text_dim, "text_embedding.0", 0);
    rule_file_add_linear(file, d, d, "text_embedding.2", 0);
    rule_file_add_linear(file, d, config->freq_dim, "time_embedding.0", 0);
    rule_file_add_linear(file, d, d, "time_embedding.2", 0);
    rule_file_add_linear(file, 6 * d, d, "time_projection.1", 0);
    rule_file_add_linear(file, 4 * config->out_channels, d, "head.head", 0);
    rule_file_add(file, SHAPE(1, 2, d), "head.modulation", 0);
    for (int i = 0; i < config->layers; i++)
        wan_rule_add_block(file, config, i);
    if (image > 0) {
        rule_file_add(file, SHAPE(image), "img_emb.proj.0.weight", 0);
        rule_file_add(file, SHAPE(image), "img_emb.proj.0.bias", 0);
        rule_file_add_linear(file, image, image, "img_emb.proj.1", 0);
        rule_file_add_linear(file, d, image, "img_emb.proj.3", 0);
        rule_file_add(file, SHAPE(d), "img_emb.proj.4.weight", 0);
        rule_file_add(file, SHAPE(d), "img_emb.proj.4.bias", 0);
    }
    if (config->pos_embed_seq_len > 0)
        rule_file_add(file, SHAPE(1, config->pos_embed_seq_len, image), "img_emb.emb_pos", 0);
}

static inline void wan_rule_begin(struct wan_rule *rule,
                                  const struct wan_transformer_config *config)
{
    struct error error = {0};
    memset(rule, 0, sizeof *rule);
    rule->config = *config;
    wan_rule_add(&rule->file, config);
    if (!ops_cpu.create(&rule->device, &(struct device_desc){0}, &error))
        fail_msg("%s", error.text);
    assert_int_equal(draftattn_context_create(&rule->context, NULL), DRAFTATTN_SUCCESS);
}

static inline bool wan_rule_load(struct wan_rule *rule, struct error *error)
{
    if (!rule_file_open(&rule->file, &rule->checkpoint, error))
        return false;
    checkpoint_set_rename(rule->checkpoint, names_wan_transformer);
    return wan_transformer_load(&rule->transformer, &rule->config, rule->checkpoint, &ops_cpu,
                                rule->device, NULL, error);
}

/* A dense plan for latents of this size. */
static inline void wan_rule_plan(struct wan_rule *rule, int64_t frames, int64_t height,
                                 int64_t width, int32_t strip_height)
{
    struct error error = {0};
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){.frames = frames, .height = height / 2, .width = width / 2};
    desc.heads = (int32_t)rule->config.heads;
    desc.head_dim = (int32_t)rule->config.head_dim;
    desc.policy = DRAFTATTN_POLICY_DENSE;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    desc.strip_height = strip_height;
    wan_transformer_forget(rule->transformer);
    self_attention_destroy(rule->attention);
    if (!self_attention_create(&rule->attention, rule->context, &desc, (int32_t)rule->config.layers,
                               &ops_cpu, rule->device, &error))
        fail_msg("%s", error.text);
}

static inline void wan_rule_end(struct wan_rule *rule)
{
    self_attention_destroy(rule->attention);
    wan_transformer_free(rule->transformer);
    checkpoint_close(rule->checkpoint);
    draftattn_context_destroy(rule->context);
    ops_cpu.destroy(rule->device);
    rule_file_end(&rule->file);
}

/* Input tensors of the rule: "input.x" and so on. */
static inline float *wan_rule_input(const char *name, int64_t count)
{
    float *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    golden_rule_tensor(name, &count, 1, values);
    return values;
}

#endif
