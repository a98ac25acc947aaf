/*
 * What the files of the Wan transformer share: wan_transformer_config.c (configuration),
 * wan_weights.c (loading), wan_context.c (prompts), wan_grid.c (token order and rotary embedding),
 * wan_time.c (time embedding) and wan_transformer.c (a forward pass). Nobody else includes this.
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
    void *y;        /* [tokens][d] of the activations' type */
    void *wide;     /* patches; q, k, v; FFN hidden; the head's input and output in float32 */
    size_t wide_bytes;
};

/* What depends on the token grid and its order alone; kept between passes. */
struct wan_grid {
    int64_t tokens; /* 0 = none yet */
    int64_t size[3];
    int64_t *host_order;  /* [tokens], in host memory: raster index of every token */
    int64_t *order;       /* the same on the device */
    float *cosine, *sine; /* [tokens][head_dim / 2] */
};

/* A forward pass seen before, by everything that decides what is enqueued. */
struct wan_pass_key {
    const float *latents;
    float *velocity;
    const struct wan_context *context;
    const struct self_attention *attention;
    bool dense;
};

struct wan_recorded {
    struct wan_pass_key key;
    struct recording *recording; /* NULL = seen once, not recorded yet */
};

/* Prompt and negative prompt, dense and sparse steps, and as many again. */
#define WAN_RECORDINGS 8

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

    /* The time embedding of the last timestep, shared by the passes of a step, and the modulations
     * that follow from it: shift, scale, gate of attention, then of the FFN. */
    double timestep;   /* NaN = none yet */
    float *time;       /* [d] */
    float *time6;      /* [6][d] */
    float *silu;       /* [d] */
    float *sinusoid;   /* [freq_dim] */
    float *modulation; /* [layers][6][d], then [2][d] of the head: shift, scale */

    struct wan_work work;
    struct wan_grid grid;
    struct wan_recorded recorded[WAN_RECORDINGS];
    int recorded_count;

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
    void *text_kv;    /* [layers][text_rows][2d] of the activations' type */
    void *image_kv;   /* [layers][image_rows][2d] of it */
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

/* Bytes of struct wan_work's wide at this many tokens. */
int64_t wan_wide_bytes(const struct wan_transformer_config *config, int64_t tokens,
                       enum element activations);

/* data + count elements, in whichever type. */
static inline void *wan_offset(const void *data, int64_t count, enum element type)
{
    return (char *)(uintptr_t)data + count * (int64_t)element_size(type);
}

/* Sees that t->grid is that of these tokens. order [size[0] * size[1] * size[2]], host memory. */
bool wan_grid_prepare(struct wan_transformer *t, const int64_t size[3], const int64_t *order,
                      struct error *error);
void wan_grid_free(struct wan_transformer *t);

/* Sees that time and modulations are those of this timestep. */
bool wan_time_prepare(struct wan_transformer *t, double timestep, struct error *error);

#endif
