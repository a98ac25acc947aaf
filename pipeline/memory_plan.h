/*
 * What a generation will hold in memory at its highest points, by part, before anything is loaded.
 * The text encoder, the transformer and the VAE are never in memory together.
 */
#ifndef PIPELINE_MEMORY_PLAN_H
#define PIPELINE_MEMORY_PLAN_H

#include "error.h"
#include "model.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VAE_TILE_AUTO = -1, VAE_TILE_OFF = 0 };

struct memory_query {
    const struct model *model;
    int64_t width, height, frames; /* pixels, frames of the video */
    bool guided;                   /* two prompts instead of one */
    int64_t tile;                  /* VAE_TILE_AUTO, VAE_TILE_OFF, or a side in pixels */
    draftattn_context *context;
    draftattn_plan_desc attention; /* without grid and heads, which follow from model and size */
    int64_t available;             /* bytes; tiles are chosen to fit */
};

/* Bytes. */
struct memory_plan {
    int64_t program; /* code and buffers of the libraries: there all the time */
    int64_t latents; /* with the sampler's history: there all the time */
    int64_t text_encoder;
    int64_t transformer_weights, transformer_work, prompts, attention;
    int64_t vae_weights, vae_work, video;
    int64_t encode, denoise, decode; /* the three phases, program and latents included */
    int64_t peak;
    int64_t weights; /* of the larger of text encoder and transformer: needed at any size */
    struct wan_vae_tiling tiling;
};

/* The attention problem of a size. */
draftattn_plan_desc memory_plan_attention(const struct memory_query *query);

/* Fails where the attention does not take the size (a mistake of use), not where memory is short.
 * */
bool memory_plan_make(struct memory_plan *out, const struct memory_query *query,
                      struct error *error);

/* The decoding alone: context and attention of the query are not looked at. */
void memory_plan_make_decode(struct memory_plan *out, const struct memory_query *query);

/* The largest size of the same shape and length that fits; false where none does. */
bool memory_plan_fit(const struct memory_query *query, int64_t *width, int64_t *height);

/* A few lines of text, one part each. Like snprintf. */
int memory_plan_describe(const struct memory_plan *plan, int64_t available, char *buffer,
                         size_t size);

#endif
