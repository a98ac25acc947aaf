/* The last third of the way: latents, VAE decoder, frames, file. Shared by generate and decode. */
#ifndef PIPELINE_DECODE_VIDEO_H
#define PIPELINE_DECODE_VIDEO_H

#include "model.h"
#include "progress.h"

struct decode_video {
    const struct model *model;
    const struct ops *ops;
    struct device *device;
    const float *latents;          /* normalised, [z_dim][frames][height][width] */
    int64_t frames, height, width; /* of the latents */
    struct wan_vae_tiling tiling;
    const char *output;
    double fps;
    int32_t crf_offset;          /* as in struct video_desc */
    const char *const *metadata; /* for the file; NULL = none */
    struct progress progress;    /* of the decoder */
    /* Every frame before it is encoded, [height][width][3]; its time counts as writing. NULL = not
     * wanted. */
    void (*frame)(void *user, const uint8_t *rgb);
    void *frame_user;
};

struct decode_video_times {
    double load, decode, write; /* seconds */
};

/* Whether the model's decoder is there: a tensor that is missing or wrong is found. */
bool decode_video_check(const struct model *model, struct error *error);

/* On failure there is no output file. */
bool decode_video(const struct decode_video *job, struct decode_video_times *times,
                  struct error *error);

/* [-1, 1] to bytes: round((clamp(x) + 1) * 127.5). NaN gives 0. */
void decode_video_to_bytes(const float *values, uint8_t *bytes, int64_t count);

#endif
