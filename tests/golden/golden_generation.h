/* What the two cases that are whole generations share: a dense denoising run and a decode. */
#ifndef TESTS_GOLDEN_GENERATION_H
#define TESTS_GOLDEN_GENERATION_H

#include "golden.h"

#include "io/model_folder.h"
#include "models/wan_vae.h"

struct golden_network {
    const char *config;  /* path of its config.json */
    const char *weights; /* what checkpoint_open() takes */
    checkpoint_rename_fn rename;
};

struct golden_denoise {
    struct golden_network transformer;
    const float *texts[2]; /* prompt, negative: [rows][text_dim] */
    int64_t rows[2];
    int64_t pad_to;
    int64_t steps;
    double guidance, flow_shift;
    const int64_t *shape; /* of the latents: channels, frames, height, width */
};

/* latents: noise in, the result of a dense run with UniPC on diffusers' timetable out. */
bool golden_denoise(const struct golden *golden, const struct golden_denoise *desc, float *latents,
                    struct error *error);

bool golden_decode(const struct golden *golden, const struct golden_network *vae,
                   const float *latents, const int64_t *shape, wan_vae_sink_fn sink, void *user,
                   struct error *error);

#endif
