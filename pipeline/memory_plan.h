/*
 * What a generation will hold in memory at its highest points, by part, before anything is loaded:
 * the memory of the CPU, or that of the GPU where it runs there. The text encoder, the transformer
 * and the VAE are never in memory together.
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
    bool gpu;                      /* available is of the GPU, and context too */
    enum element activations;      /* of the device */
    bool offload;                  /* blocks of the transformer stay in the host's memory */
    int64_t host_available;        /* of which there are so many bytes; looked at with a GPU */
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
    int64_t host;    /* with offload: the blocks' weights in the host's memory, beside all that */
    int64_t canvas; /* where the VAE's tiles meet: part of vae_work; with a GPU the host's memory */
    struct wan_vae_tiling tiling;
};

/* The attention problem of a size. */
draftattn_plan_desc memory_plan_attention(const struct memory_query *query);

/* Fails where the attention does not take the size (a mistake of use), not where memory is short.
 * */
bool memory_plan_make(struct memory_plan *out, const struct memory_query *query,
                      struct error *error);

/* Whether it fits, on the device and beside it. */
bool memory_plan_fits(const struct memory_plan *plan, const struct memory_query *query);

/* The decoding alone: context and attention of the query are not looked at. */
void memory_plan_make_decode(struct memory_plan *out, const struct memory_query *query);

/* The largest size of the same shape and length that fits; false where none does. */
bool memory_plan_fit(const struct memory_query *query, int64_t *width, int64_t *height);

/* Says that the plan does not fit, and what would: a size, --offload, fewer frames. False. */
bool memory_plan_refuse(const struct memory_plan *plan, const struct memory_query *query,
                        struct error *error);

/* A few lines of text, one part each. Like snprintf. */
int memory_plan_describe(const struct memory_plan *plan, const struct memory_query *query,
                         char *buffer, size_t size);

#endif
