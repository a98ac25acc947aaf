/*
 * The canvas on which tiles meet (wan_vae_tiling.h). Tiles are decoded one after the other over all
 * time, while the clip is wanted frame by frame: hence the whole clip is kept here. Of earlier
 * tiles only the edges that later ones are mixed with are kept besides.
 */
#include "wan_vae_tiling.h"

#include "../tensor/checked.h"

#include <stdlib.h>
#include <string.h>

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct vae_canvas canvas_of(int64_t frames, int64_t height, int64_t width, int64_t channels,
                                   int64_t tile, int64_t stride)
{
    return (struct vae_canvas){.frames = frames,
                               .height = height,
                               .width = width,
                               .channels = channels,
                               .tile = tile,
                               .stride = stride,
                               .rows = (height - 1) / stride + 1,
                               .columns = (width - 1) / stride + 1};
}

/* Of values, lower and left; false where they are past counting. */
static bool canvas_sizes(const struct vae_canvas *c, size_t bytes[3])
{
    const int64_t overlap = c->tile - c->stride;
    const int64_t values[] = {c->frames, c->height, c->width, c->channels};
    const int64_t lower[] = {c->columns, c->frames, overlap, c->tile, c->channels};
    const int64_t left[] = {c->frames, c->tile, overlap, c->channels};
    return checked_bytes(values, 4, sizeof(float), &bytes[0]) &&
           checked_bytes(lower, 5, sizeof(float), &bytes[1]) &&
           checked_bytes(left, 4, sizeof(float), &bytes[2]);
}

int64_t vae_canvas_bytes(int64_t frames, int64_t height, int64_t width, int64_t channels,
                         int64_t tile, int64_t stride)
{
    const struct vae_canvas canvas = canvas_of(frames, height, width, channels, tile, stride);
    const int64_t most = INT64_MAX / 4;
    size_t bytes[3];
    int64_t sum;
    if (!canvas_sizes(&canvas, bytes) || !checked_add((int64_t)bytes[0], (int64_t)bytes[1], &sum) ||
        !checked_add(sum, (int64_t)bytes[2], &sum) || sum > most)
        return most;
    return sum;
}

static float *canvas_alloc(size_t bytes, struct error *error)
{
    float *memory = malloc(bytes > 0 ? bytes : 1);
    if (!memory)
        error_out_of_memory(error, "putting tiles together", bytes);
    return memory;
}

bool vae_canvas_create(struct vae_canvas *out, int64_t frames, int64_t height, int64_t width,
                       int64_t channels, int64_t tile, int64_t stride, struct error *error)
{
    size_t bytes[3];
    *out = canvas_of(frames, height, width, channels, tile, stride);
    if (!canvas_sizes(out, bytes))
        return error_set(error, "the clip is too large to be put together from tiles");
    out->values = canvas_alloc(bytes[0], error);
    out->lower = out->values ? canvas_alloc(bytes[1], error) : NULL;
    out->left = out->lower ? canvas_alloc(bytes[2], error) : NULL;
    if (!out->left) {
        vae_canvas_destroy(out);
        return false;
    }
    return true;
}

void vae_canvas_destroy(struct vae_canvas *canvas)
{
    free(canvas->values);
    free(canvas->lower);
    free(canvas->left);
    *canvas = (struct vae_canvas){0};
}

struct vae_tile vae_canvas_tile(const struct vae_canvas *canvas, int64_t row, int64_t column)
{
    const int64_t y = row * canvas->stride, x = column * canvas->stride;
    return (struct vae_tile){.row = row,
                             .column = column,
                             .y = y,
                             .x = x,
                             .height = smaller(canvas->tile, canvas->height - y),
                             .width = smaller(canvas->tile, canvas->width - x)};
}

/* to = from * (1 - share) + to * share */
static void mix(float *to, const float *from, float share, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = from[i] * (1.0f - share) + to[i] * share;
}

/* One frame of a tile: mixed with its neighbours, then its own lower and right edges take the
 * places of theirs, which nobody else reads. */
static void place_frame(struct vae_canvas *canvas, const struct vae_tile *tile, int64_t frame,
                        float *values)
{
    const int64_t channels = canvas->channels, overlap = canvas->tile - canvas->stride;
    const int64_t line = tile->width * channels, edge_line = canvas->tile * channels;
    const int64_t edge = (tile->column * canvas->frames + frame) * overlap * edge_line;
    const int64_t kept_rows = smaller(canvas->stride, tile->height);
    const int64_t kept_columns = smaller(canvas->stride, tile->width);
    float *left = canvas->left + frame * canvas->tile * overlap * channels;

    const int64_t rows = tile->row > 0 ? smaller(overlap, tile->height) : 0;
    for (int64_t y = 0; y < rows; y++)
        mix(values + y * line, canvas->lower + edge + y * edge_line, (float)y / (float)rows, line);
    const int64_t columns = tile->column > 0 ? smaller(overlap, tile->width) : 0;
    for (int64_t y = 0; y < tile->height; y++)
        for (int64_t x = 0; x < columns; x++)
            mix(values + y * line + x * channels, left + (y * overlap + x) * channels,
                (float)x / (float)columns, channels);

    for (int64_t y = kept_rows; y < tile->height; y++)
        memcpy(canvas->lower + edge + (y - kept_rows) * edge_line, values + y * line,
               (size_t)line * sizeof(float));
    for (int64_t y = 0; y < tile->height; y++)
        memcpy(left + y * overlap * channels, values + y * line + kept_columns * channels,
               (size_t)((tile->width - kept_columns) * channels) * sizeof(float));
    for (int64_t y = 0; y < kept_rows; y++)
        memcpy(canvas->values +
                   ((frame * canvas->height + tile->y + y) * canvas->width + tile->x) * channels,
               values + y * line, (size_t)(kept_columns * channels) * sizeof(float));
}

void vae_canvas_place(struct vae_canvas *canvas, const struct vae_tile *tile, int64_t first,
                      int64_t count, float *values)
{
    const int64_t frame = tile->height * tile->width * canvas->channels;
    for (int64_t i = 0; i < count; i++)
        place_frame(canvas, tile, first + i, values + i * frame);
}
