/*
 * Wan2.1 VAE, float32: causal 3D convolutions with two frames of history, one latent frame at a
 * time, so that memory does not grow with the clip.
 */
#ifndef PIPELINE_MODELS_WAN_VAE_H
#define PIPELINE_MODELS_WAN_VAE_H

#include "../error.h"
#include "../io/checkpoint.h"
#include "../progress.h"
#include "../tensor/ops.h"

#define WAN_VAE_MAX_Z 64

struct wan_vae;

struct wan_vae_config {
    int64_t base_dim, z_dim, res_blocks;
    int64_t dim_mult[4];
    bool temporal_down[3];
    double mean[WAN_VAE_MAX_Z], std[WAN_VAE_MAX_Z];
};

/* path "" gives the published Wan2.1 VAE. */
bool wan_vae_config_read(struct wan_vae_config *out, const char *path, struct error *error);

enum wan_vae_parts { WAN_VAE_DECODER = 1, WAN_VAE_ENCODER = 2 };

/* Whether the tensors of parts are there, of the right shape and of a type that is read; looks at
 * none of their values. */
bool wan_vae_check(const struct wan_vae_config *config, int parts,
                   const struct checkpoint *checkpoint, struct error *error);

/* progress is asked whether to go on and told that nothing is done yet. checkpoint NULL: random
 * weights, for measurements. */
bool wan_vae_load(struct wan_vae **out, const struct wan_vae_config *config, int parts,
                  const struct checkpoint *checkpoint, const struct ops *ops, struct device *device,
                  const struct progress *progress, struct error *error);
void wan_vae_free(struct wan_vae *vae); /* accepts NULL */

/* Receives decoded frames in order: [count][8 height][8 width][3] in [-1, 1] (clamped), host
 * memory, valid during the call. */
typedef bool (*wan_vae_sink_fn)(void *user, const float *frames, int64_t count,
                                struct error *error);

struct wan_vae_tiling {
    int64_t tile;   /* in latent units; 0 = one tile */
    int64_t stride; /* in latent units, <= tile; the overlap is blended */
};

/*
 * Tiles go through one after the other, each over all time, as in diffusers' AutoencoderKLWan. The
 * clip they make is held in the host's memory until it is complete: wan_vae_canvas_bytes(). Without
 * tiles frames go to the sink as they are decoded.
 *
 * latents [z_dim][frames][height][width], normalised as the transformer has them (normalised true:
 * z * std + mean is applied) or raw; host memory. Gives 4 * (frames - 1) + 1 frames. Errors: a NaN
 * or infinity in the latents or what comes out (names the layer), the sink's.
 */
bool wan_vae_decode(struct wan_vae *vae, const float *latents, int64_t frames, int64_t height,
                    int64_t width, bool normalised, const struct wan_vae_tiling *tiling,
                    wan_vae_sink_fn sink, void *user, const struct progress *progress,
                    struct error *error);

/* video [frames][height][width][3] in [-1, 1], frames = 4n + 1, sides divisible by 8; mean and
 * logvar [z_dim][n + 1][height / 8][width / 8]; logvar may be NULL. mean is normalised on
 * request. */
bool wan_vae_encode(struct wan_vae *vae, const float *video, int64_t frames, int64_t height,
                    int64_t width, bool normalise, const struct wan_vae_tiling *tiling, float *mean,
                    float *logvar, const struct progress *progress, struct error *error);

/* float32 bytes: of the weights (parts as in load), and of decoding tiles of this size in latent
 * units: with the frames of a chunk, or, on a GPU, with the sums that convolutions add to. */
int64_t wan_vae_weight_bytes(const struct wan_vae_config *config, int parts);
int64_t wan_vae_decode_bytes(const struct wan_vae_config *config, int64_t height, int64_t width,
                             bool gpu);

/* Bytes of the host's memory that decoding so many frames of latents in tiles holds besides, on a
 * GPU too; 0 without tiles. */
int64_t wan_vae_canvas_bytes(const struct wan_vae_tiling *tiling, int64_t frames, int64_t height,
                             int64_t width);

#endif
