/*
 * What the files of the Wan transformer share: wan_transformer_config.c (configuration),
 * wan_weights.c (loading), wan_context.c (prompts) and wan_transformer.c (a forward pass). Nobody
 * else includes this.
 */
#ifndef PIPELINE_MODELS_WAN_TRANSFORMER_PARTS_H
#define PIPELINE_MODELS_WAN_TRANSFORMER_PARTS_H

#include "wan_transformer.h"

/* Pointers to weights are owned by struct wan_transformer's lists. d is the width. */
struct wan_block {
    struct linear *qkv;       /* d -> 3d: query, key, value */
    struct linear *out;       /* d -> d */
    struct linear *cross_q;   /* d -> d */
    struct linear *cross_kv;  /* d -> 2d: key, value of the text */
    struct linear *image_kv;  /* d -> 2d, NULL without an image branch */
    struct linear *cross_out; /* d -> d */
    struct linear *ffn_in;    /* d -> ffn */
    struct linear *ffn_out;   /* ffn -> d */
    float *norm_q, *norm_k;   /* [d] gains; means run over all heads */
    float *cross_norm_q, *cross_norm_k, *image_norm_k;
    float *norm2_weight, *norm2_bias; /* before cross-attention */
    float *table;                     /* [6][d]: shift, scale, gate of attention, then of the FFN */
};

struct wan_work {
    int64_t tokens; /* that it is large enough for */
    float *x;       /* [tokens][d]: the residual stream */
    float *y;       /* [tokens][d] */
    float *wide;    /* q, k, v; FFN hidden; patches in and out */
    int64_t wide_floats;
    float *cosine, *sine; /* [tokens][head_dim / 2] */
    float *staging;       /* host: [tokens][staging_row] */
    int64_t staging_row;
};

struct wan_transformer {
    struct wan_transformer_config config;
    const struct ops *ops;
    struct device *device;

    struct linear *patch, *text_1, *text_2, *time_1, *time_2, *time_projection, *head;
    struct linear *image_1, *image_2;
    float *image_norm1_weight, *image_norm1_bias, *image_norm2_weight, *image_norm2_bias;
    float *image_position; /* [pos_embed_seq_len][image_dim] or NULL */
    float *head_table;     /* [2][d]: shift, scale */
    struct wan_block *blocks;

    /* Everything that was loaded, for freeing. */
    struct linear **linears;
    float **vectors;
    int64_t linear_count, vector_count;

    /* The time embedding of the last timestep, shared by the passes of a step. */
    double timestep;   /* NaN = none yet */
    float *time;       /* [d] */
    float *time6;      /* [6][d] */
    float *modulation; /* [6][d]: of the block under way */
    float *sinusoid;   /* [freq_dim] */
    struct wan_work work;

    int64_t probe_block; /* -1 = off */
    float *probe_out;
};

/* A prompt: keys and values of every block. The zero rows that pad a prompt are all equal, and so
 * are their keys and values: one row stands for them, with log(how many) added to its logit. */
struct wan_context {
    const struct ops *ops;
    struct device *device;
    int64_t text_rows, image_rows; /* image_rows 0 = none */
    int64_t layers, width;
    float *text_kv;   /* [layers][text_rows][2d] */
    float *image_kv;  /* [layers][image_rows][2d] */
    float *text_bias; /* [text_rows] or NULL */
};

static inline int64_t wan_width(const struct wan_transformer_config *config)
{
    return config->heads * config->head_dim;
}

/* Latent values of one token, without channels. */
static inline int64_t wan_patch_volume(const struct wan_transformer_config *config)
{
    return config->patch[0] * config->patch[1] * config->patch[2];
}

/* Every field within its bounds: all products of two of them and a token count fit 64 bits. where
 * is the file for messages. */
bool wan_transformer_config_check(const struct wan_transformer_config *config, const char *where,
                                  struct error *error);

/* Floats of struct wan_work's wide at this many tokens. */
int64_t wan_wide_floats(const struct wan_transformer_config *config, int64_t tokens);
/* Floats of one row of its staging. */
int64_t wan_staging_row(const struct wan_transformer_config *config);

#endif
