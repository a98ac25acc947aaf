/*
 * Tiles that overlap, put together to one clip with linear blends, as in diffusers'
 * AutoencoderKLWan: a tile is mixed with the tile above it, then with the one to its left, each as
 * already mixed, and of the result the first `stride` rows and columns stay.
 */
#ifndef PIPELINE_MODELS_WAN_VAE_TILING_H
#define PIPELINE_MODELS_WAN_VAE_TILING_H

#include "../error.h"

#include <stdbool.h>
#include <stdint.h>

struct vae_canvas {
    int64_t frames, height, width, channels; /* of the whole clip */
    int64_t tile, stride;
    int64_t rows, columns; /* of tiles */
    float *values;         /* [frames][height][width][channels] */
    float *lower;          /* [columns][frames][overlap][tile][channels]: edges of the last row */
    float *left;           /* [frames][tile][overlap][channels]: the right edge of the last tile */
};

/* Bytes: the whole clip is kept, in float, and next to it the edges that later tiles are mixed
 * with, from a seventh of the clip (720p in tiles of 256 pixels) to two thirds (of 768).
 * INT64_MAX / 4 where they are past counting. */
int64_t vae_canvas_bytes(int64_t frames, int64_t height, int64_t width, int64_t channels,
                         int64_t tile, int64_t stride);
bool vae_canvas_create(struct vae_canvas *out, int64_t frames, int64_t height, int64_t width,
                       int64_t channels, int64_t tile, int64_t stride, struct error *error);
void vae_canvas_destroy(struct vae_canvas *canvas);

/* Where a tile lies: cut at the edges of the clip. */
struct vae_tile {
    int64_t row, column;
    int64_t y, x, height, width;
};
struct vae_tile vae_canvas_tile(const struct vae_canvas *canvas, int64_t row, int64_t column);

/* Takes frames [first, first + count) of a tile, [count][tile height][tile width][channels],
 * which are blended in place. Tiles come row by row, each with all its frames. */
void vae_canvas_place(struct vae_canvas *canvas, const struct vae_tile *tile, int64_t first,
                      int64_t count, float *values);

#endif
