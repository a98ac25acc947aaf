/*
 * Latents to patches and back: what the patch embedding of a transformer reads and what its head
 * writes. A token's row is short and its latents lie far apart, so the loop goes over tokens.
 */
#include "patches_cpu.h"

#include "device_cpu.h"

#include <assert.h>
#include <string.h>

/* Index of the first latent value of a token's patch, in channel 0. */
static int64_t patch_begin(const struct ops_patches *p, int64_t token)
{
    const int64_t raster = p->order[token];
    const int64_t frame = raster / (p->height * p->width), row = raster / p->width % p->height;
    return (frame * p->patch[0] * p->height * p->patch[1] + row * p->patch[1]) * p->width *
               p->patch[2] +
           raster % p->width * p->patch[2];
}

void patches_cut_cpu(struct device *device, const struct ops_patches *p, const float *latents,
                     void *rows, enum element type)
{
    assert(type == ELEMENT_F32);
    (void)type; /* where assert() is nothing */
    const int64_t tokens = p->frames * p->height * p->width, line = p->width * p->patch[2];
    const int64_t frame = p->height * p->patch[1] * line, channel = p->frames * p->patch[0] * frame;
    const int64_t row = p->channels * p->patch[0] * p->patch[1] * p->patch[2];
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const float *from = latents + patch_begin(p, token);
        float *to = (float *)rows + token * row;
        for (int64_t c = 0; c < p->channels; c++)
            for (int64_t dt = 0; dt < p->patch[0]; dt++)
                for (int64_t dy = 0; dy < p->patch[1]; dy++, to += p->patch[2])
                    memcpy(to, from + c * channel + dt * frame + dy * line,
                           (size_t)p->patch[2] * sizeof *to);
    }
}

void patches_join_cpu(struct device *device, const struct ops_patches *p, const float *rows,
                      float *latents)
{
    const int64_t tokens = p->frames * p->height * p->width, line = p->width * p->patch[2];
    const int64_t frame = p->height * p->patch[1] * line, channel = p->frames * p->patch[0] * frame;
    const int64_t row = p->channels * p->patch[0] * p->patch[1] * p->patch[2];
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const float *from = rows + token * row;
        float *to = latents + patch_begin(p, token);
        for (int64_t dt = 0; dt < p->patch[0]; dt++)
            for (int64_t dy = 0; dy < p->patch[1]; dy++)
                for (int64_t dx = 0; dx < p->patch[2]; dx++)
                    for (int64_t c = 0; c < p->channels; c++)
                        to[c * channel + dt * frame + dy * line + dx] = *from++;
    }
}
