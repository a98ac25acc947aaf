/*
 * Wan2.1 diffusion transformer (text to video, and the image branch of I2V), on any device.
 * Rules: residual stream, modulation, time path and head in float32 as in the original code; what
 * lies between the layers has the device's activations' type.
 */
#ifndef PIPELINE_MODELS_WAN_TRANSFORMER_H
#define PIPELINE_MODELS_WAN_TRANSFORMER_H

#include "../error.h"
#include "../io/checkpoint.h"
#include "../progress.h"
#include "../tensor/ops.h"
#include "self_attention.h"

struct wan_transformer;

struct wan_transformer_config {
    int64_t heads, head_dim, layers, ffn;
    int64_t in_channels, out_channels;
    int64_t text_dim, freq_dim, text_len; /* text_len 512: rows are zero-padded to it */
    int64_t patch[3];
    int64_t image_dim;         /* 0 = no image branch */
    int64_t pos_embed_seq_len; /* 0 = none (FLF2V: 514) */
    int64_t rope_max;
    double eps;
};

/* Diffusers' or the original config.json. */
bool wan_transformer_config_read(struct wan_transformer_config *out, const char *path,
                                 struct error *error);

/* Weights are converted and packed; the checkpoint may be closed afterwards. checkpoint NULL:
 * random weights that keep activations finite, for measurements. The linear layers of block i are
 * weight group i of the device (ops.h), which must have no other groups. */
bool wan_transformer_load(struct wan_transformer **out, const struct wan_transformer_config *config,
                          const struct checkpoint *checkpoint, const struct ops *ops,
                          struct device *device, const struct progress *progress,
                          struct error *error);
void wan_transformer_free(struct wan_transformer *transformer); /* accepts NULL */
void wan_transformer_channels(const struct wan_transformer *transformer, int64_t *in, int64_t *out);

/* A prompt ready for cross-attention: text (and image) embedded, keys and values of every layer
 * computed once. text [rows][text_dim], rows <= pad_to; padded with zero rows to pad_to (text_len
 * for Wan; golden cases use their own). image NULL or [image_rows][image_dim]. Host memory. */
struct wan_context;
bool wan_context_create(struct wan_context **out, struct wan_transformer *transformer,
                        const float *text, int64_t rows, int64_t pad_to, const float *image,
                        int64_t image_rows, struct error *error);
void wan_context_free(struct wan_context *context); /* accepts NULL */

/*
 * velocity [out_channels][frames][height][width] = network(latents
 * [in_channels][frames][height][width], timestep); device memory. Grid of attention = (frames,
 * height / 2, width / 2). step tells the guards and reports where this is; its layer is filled in
 * here. Waits for the result.
 * A device that records gets a recording of a pass that comes again with the same pointers; before
 * latents, velocity, context or attention are freed, wan_transformer_forget() drops them.
 * Errors: a shape that is not the attention's grid; a NaN or infinity (names the layer where it
 * first shows).
 */
bool wan_transformer_forward(struct wan_transformer *transformer, const float *latents,
                             int64_t frames, int64_t height, int64_t width, double timestep,
                             const struct wan_context *context, struct self_attention *attention,
                             const draftattn_step *step, float *velocity, struct error *error);

void wan_transformer_forget(struct wan_transformer *transformer);

/* For golden tests: the residual stream [tokens][width] in raster order after this block of the
 * next forward is copied to out. NULL = off. */
void wan_transformer_probe(struct wan_transformer *transformer, int64_t block, float *out);

/* Bytes of all weights; of a block's linear layers, which make a weight group; of a forward's work
 * at this many tokens; of a wan_context for so many rows of text (without padding) and image. */
int64_t wan_transformer_weight_bytes(const struct wan_transformer_config *config,
                                     enum element activations);
int64_t wan_transformer_block_bytes(const struct wan_transformer_config *config,
                                    enum element activations);
int64_t wan_transformer_work_bytes(const struct wan_transformer_config *config, int64_t tokens,
                                   enum element activations);
int64_t wan_context_bytes(const struct wan_transformer_config *config, int64_t text_rows,
                          int64_t image_rows, enum element activations);

#endif
