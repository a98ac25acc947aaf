/*
 * The Wan VAE as a list of steps, for wan_vae.c alone. Encoder and decoder are such a list each; it
 * is made from the configuration, and everything that must agree (names, shapes, memory, what runs)
 * walks the same list.
 */
#ifndef PIPELINE_MODELS_WAN_VAE_LAYERS_H
#define PIPELINE_MODELS_WAN_VAE_LAYERS_H

#include "wan_vae.h"

#define VAE_MAX_RES_BLOCKS 16
#define VAE_MAX_STEPS      96 /* of VAE_MAX_RES_BLOCKS + 1 blocks on 4 levels, and the rest */

enum vae_step_kind {
    VAE_LINEAR,    /* 1x1x1 */
    VAE_CONV,      /* causal 3x3x3 */
    VAE_RES,       /* norm, SiLU, causal 3x3x3, twice, around a shortcut */
    VAE_ATTENTION, /* one head per frame */
    VAE_UP,        /* (time x2,) space x2, 3x3 */
    VAE_DOWN,      /* 3x3 stride 2 (, time / 2) */
    VAE_HEAD       /* norm, SiLU, causal 3x3x3 */
};

struct vae_step {
    enum vae_step_kind kind;
    char name[64]; /* of the tensors, in diffusers' layout, without the last parts */
    int32_t in, out;
    bool time; /* VAE_UP, VAE_DOWN: along time as well */

    float *gamma[2];
    struct conv *conv[3]; /* VAE_UP: space, and the two halves of the time convolution */
    struct linear *linear[2];
};

struct vae_net {
    const struct ops *ops;
    struct device *device;
    bool decoder;
    int count;
    struct vae_step steps[VAE_MAX_STEPS];
};

void vae_net_describe(struct vae_net *net, const struct wan_vae_config *config, bool decoder);
int64_t vae_net_parameters(const struct vae_net *net);
/* Names, shapes and types of the tensors, without loading any. */
bool vae_net_check(struct vae_net *net, const struct checkpoint *checkpoint, struct error *error);
/* checkpoint NULL: random weights. */
bool vae_net_load(struct vae_net *net, const struct checkpoint *checkpoint, const struct ops *ops,
                  struct device *device, const struct progress *progress, struct error *error);
void vae_net_free(struct vae_net *net);

/* What one pass over one tile needs, in floats. */
struct vae_sizes {
    int64_t values;                    /* of one of the two activation buffers */
    int64_t staging;                   /* a convolution's input with its history in front */
    int64_t history[VAE_MAX_STEPS][2]; /* the last frames each convolution has seen */
    int64_t history_total;
};

/* frames: the most that enter in one chunk; first_only: there will be no second chunk. height
 * and width as they enter. false: the sizes are too large to count. */
bool vae_net_sizes(const struct vae_net *net, int64_t frames, int64_t height, int64_t width,
                   bool first_only, struct vae_sizes *out);

/* Passes over tiles, one at a time: chunk after chunk, each continuing where the last one ended. */
struct vae_pass {
    const struct vae_net *net;
    int64_t chunk; /* frames of a chunk, but for the first, which is one frame */
    bool first_only;
    struct vae_sizes sizes; /* of this tile */
    int64_t tile_height, tile_width;
    bool check; /* look for NaN and infinity behind every layer, and fail with its name */
    bool first; /* no chunk has run yet */
    float *values[2];
    float *staging;
    float *history;
    float *step_history[VAE_MAX_STEPS][2];
    /* values[0] holds [frames][height][width][channels] of the step that ran last */
    int64_t frames, height, width;
    int32_t channels;
};

/* Buffers for tiles up to this size. */
bool vae_pass_begin(struct vae_pass *pass, const struct vae_net *net, int64_t chunk, int64_t height,
                    int64_t width, bool first_only, struct error *error);
/* Starts a tile, not larger than vae_pass_begin() was told on either side. */
void vae_pass_start(struct vae_pass *pass, int64_t height, int64_t width);
/* Runs the chunk [frames][tile height][tile width][channels] that the caller has put into
 * values[0]; the result is in values[0] again, its shape in the pass. */
bool vae_pass_chunk(struct vae_pass *pass, int64_t frames, struct error *error);
void vae_pass_end(struct vae_pass *pass);

#endif
