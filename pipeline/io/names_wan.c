/*
 * The two sets of names that Wan's tensors go by, as tables. An entry translates the beginning of a
 * name that ends with its dot, or a whole name; {} is a number, the same on both sides. What
 * follows the beginning is translated by the entry's inner table or kept. A name without an entry
 * is the same in both layouts. Beware of the transformer's norm2 and norm3, which trade names.
 */
#include "names_wan.h"

#include <stdio.h>
#include <string.h>

struct entry {
    const char *from, *to;
    const struct entry *inner;
};

static const struct entry transformer_image[] = {
    {"norm1.", "0.", NULL},    {"ff.net.0.proj.", "1.", NULL},
    {"ff.net.2.", "3.", NULL}, {"norm2.", "4.", NULL},
    {NULL, NULL, NULL},
};

static const struct entry transformer_block[] = {
    {"scale_shift_table", "modulation", NULL},
    {"attn1.to_q.", "self_attn.q.", NULL},
    {"attn1.to_k.", "self_attn.k.", NULL},
    {"attn1.to_v.", "self_attn.v.", NULL},
    {"attn1.to_out.0.", "self_attn.o.", NULL},
    {"attn1.norm_q.", "self_attn.norm_q.", NULL},
    {"attn1.norm_k.", "self_attn.norm_k.", NULL},
    {"norm2.", "norm3.", NULL},
    {"attn2.to_q.", "cross_attn.q.", NULL},
    {"attn2.to_k.", "cross_attn.k.", NULL},
    {"attn2.to_v.", "cross_attn.v.", NULL},
    {"attn2.to_out.0.", "cross_attn.o.", NULL},
    {"attn2.norm_q.", "cross_attn.norm_q.", NULL},
    {"attn2.norm_k.", "cross_attn.norm_k.", NULL},
    {"attn2.add_k_proj.", "cross_attn.k_img.", NULL},
    {"attn2.add_v_proj.", "cross_attn.v_img.", NULL},
    {"attn2.norm_added_k.", "cross_attn.norm_k_img.", NULL},
    {"ffn.net.0.proj.", "ffn.0.", NULL},
    {"ffn.net.2.", "ffn.2.", NULL},
    {NULL, NULL, NULL},
};

static const struct entry transformer[] = {
    {"blocks.{}.", "blocks.{}.", transformer_block},
    {"condition_embedder.text_embedder.linear_1.", "text_embedding.0.", NULL},
    {"condition_embedder.text_embedder.linear_2.", "text_embedding.2.", NULL},
    {"condition_embedder.time_embedder.linear_1.", "time_embedding.0.", NULL},
    {"condition_embedder.time_embedder.linear_2.", "time_embedding.2.", NULL},
    {"condition_embedder.time_proj.", "time_projection.1.", NULL},
    {"condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos", NULL},
    {"condition_embedder.image_embedder.", "img_emb.proj.", transformer_image},
    {"scale_shift_table", "head.modulation", NULL},
    {"proj_out.", "head.head.", NULL},
    {NULL, NULL, NULL},
};

static const struct entry vae_residual[] = {
    {"norm1.", "residual.0.", NULL},       {"conv1.", "residual.2.", NULL},
    {"norm2.", "residual.3.", NULL},       {"conv2.", "residual.6.", NULL},
    {"conv_shortcut.", "shortcut.", NULL}, {NULL, NULL, NULL},
};

/* The original layout counts residual blocks and upsamplers of the decoder in one row. */
static const struct entry vae[] = {
    {"quant_conv.", "conv1.", NULL},
    {"post_quant_conv.", "conv2.", NULL},
    {"encoder.conv_in.", "encoder.conv1.", NULL},
    {"encoder.down_blocks.{}.", "encoder.downsamples.{}.", vae_residual},
    {"encoder.mid_block.resnets.0.", "encoder.middle.0.", vae_residual},
    {"encoder.mid_block.attentions.0.", "encoder.middle.1.", NULL},
    {"encoder.mid_block.resnets.1.", "encoder.middle.2.", vae_residual},
    {"encoder.norm_out.", "encoder.head.0.", NULL},
    {"encoder.conv_out.", "encoder.head.2.", NULL},
    {"decoder.conv_in.", "decoder.conv1.", NULL},
    {"decoder.mid_block.resnets.0.", "decoder.middle.0.", vae_residual},
    {"decoder.mid_block.attentions.0.", "decoder.middle.1.", NULL},
    {"decoder.mid_block.resnets.1.", "decoder.middle.2.", vae_residual},
    {"decoder.up_blocks.0.resnets.0.", "decoder.upsamples.0.", vae_residual},
    {"decoder.up_blocks.0.resnets.1.", "decoder.upsamples.1.", vae_residual},
    {"decoder.up_blocks.0.resnets.2.", "decoder.upsamples.2.", vae_residual},
    {"decoder.up_blocks.0.upsamplers.0.", "decoder.upsamples.3.", NULL},
    {"decoder.up_blocks.1.resnets.0.", "decoder.upsamples.4.", vae_residual},
    {"decoder.up_blocks.1.resnets.1.", "decoder.upsamples.5.", vae_residual},
    {"decoder.up_blocks.1.resnets.2.", "decoder.upsamples.6.", vae_residual},
    {"decoder.up_blocks.1.upsamplers.0.", "decoder.upsamples.7.", NULL},
    {"decoder.up_blocks.2.resnets.0.", "decoder.upsamples.8.", vae_residual},
    {"decoder.up_blocks.2.resnets.1.", "decoder.upsamples.9.", vae_residual},
    {"decoder.up_blocks.2.resnets.2.", "decoder.upsamples.10.", vae_residual},
    {"decoder.up_blocks.2.upsamplers.0.", "decoder.upsamples.11.", NULL},
    {"decoder.up_blocks.3.resnets.0.", "decoder.upsamples.12.", vae_residual},
    {"decoder.up_blocks.3.resnets.1.", "decoder.upsamples.13.", vae_residual},
    {"decoder.up_blocks.3.resnets.2.", "decoder.upsamples.14.", vae_residual},
    {"decoder.norm_out.", "decoder.head.0.", NULL},
    {"decoder.conv_out.", "decoder.head.2.", NULL},
    {NULL, NULL, NULL},
};

static const struct entry umt5_layer[] = {
    {"layer.0.layer_norm.", "norm1.", NULL},
    {"layer.0.SelfAttention.q.", "attn.q.", NULL},
    {"layer.0.SelfAttention.k.", "attn.k.", NULL},
    {"layer.0.SelfAttention.v.", "attn.v.", NULL},
    {"layer.0.SelfAttention.o.", "attn.o.", NULL},
    {"layer.0.SelfAttention.relative_attention_bias.", "pos_embedding.embedding.", NULL},
    {"layer.1.layer_norm.", "norm2.", NULL},
    {"layer.1.DenseReluDense.wi_0.", "ffn.gate.0.", NULL},
    {"layer.1.DenseReluDense.wi_1.", "ffn.fc1.", NULL},
    {"layer.1.DenseReluDense.wo.", "ffn.fc2.", NULL},
    {NULL, NULL, NULL},
};

static const struct entry umt5[] = {
    {"shared.", "token_embedding.", NULL},
    {"encoder.embed_tokens.", "token_embedding.", NULL},
    {"encoder.block.{}.", "blocks.{}.", umt5_layer},
    {"encoder.final_layer_norm.", "norm.", NULL},
    {NULL, NULL, NULL},
};

/* A piece of the name that {} stands for. */
struct number {
    const char *digits;
    int length;
};

/* Where name goes on after the beginning from; NULL if it does not begin so. */
static const char *match(const char *name, const char *from, struct number *number)
{
    const char *start = from;
    while (*from) {
        if (strncmp(from, "{}", 2) == 0) {
            *number = (struct number){name, (int)strspn(name, "0123456789")};
            if (number->length == 0)
                return NULL;
            name += number->length;
            from += 2;
        } else if (*name++ != *from++) {
            return NULL;
        }
    }
    return from > start && (from[-1] == '.' || *name == '\0') ? name : NULL;
}

static const struct entry *find(const struct entry *table, const char *name, struct number *number,
                                const char **rest)
{
    for (; table->from; table++) {
        const char *after = match(name, table->from, number);
        if (after) {
            *rest = after;
            return table;
        }
    }
    return NULL;
}

static const char *translate(const struct entry *table, const char *name, char *buffer, size_t size)
{
    struct number number = {"", 0};
    const char *rest = name;
    const struct entry *entry = find(table, name, &number, &rest);
    if (!entry)
        return name;
    const char *hole = strstr(entry->to, "{}"), *to = entry->to;
    const char *tail = hole ? hole + 2 : to + strlen(to);
    struct number unused;
    const struct entry *inner = entry->inner ? find(entry->inner, rest, &unused, &rest) : NULL;
    int length = snprintf(buffer, size, "%.*s%.*s%s%s%s", (int)(tail - to) - (hole ? 2 : 0), to,
                          number.length, number.digits, tail, inner ? inner->to : "", rest);
    return length >= 0 && (size_t)length < size ? buffer : name;
}

const char *names_wan_transformer(const char *name, char *buffer, size_t size)
{
    return translate(transformer, name, buffer, size);
}

const char *names_wan_vae(const char *name, char *buffer, size_t size)
{
    return translate(vae, name, buffer, size);
}

const char *names_wan_umt5(const char *name, char *buffer, size_t size)
{
    return translate(umt5, name, buffer, size);
}
