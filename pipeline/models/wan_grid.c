/*
 * What a transformer keeps of its token grid: the order of the tokens and the angles by which
 * rotary embedding turns their queries and keys. Both are made once for a grid and an order, and
 * made anew where either is another one.
 */
#include "wan_transformer_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A head's pairs are split between time, height and width; each axis has its own frequencies. */
static void axis_pairs(int64_t head_dim, int64_t pairs[3])
{
    pairs[1] = pairs[2] = head_dim / 6;
    pairs[0] = head_dim / 2 - 2 * pairs[1];
}

/* table [positions][pairs] = turn(position * 10000^(-k / pairs)) */
static void fill_axis(float *table, int64_t positions, int64_t pairs, double (*turn)(double))
{
    for (int64_t i = 0; i < positions; i++)
        for (int64_t k = 0; k < pairs; k++)
            table[i * pairs + k] =
                (float)turn((double)i * pow(10000.0, -(double)k / (double)pairs));
}

/* to [tokens][head_dim / 2], in the order of the tokens */
static void fill_angles(const struct wan_grid *grid, float *const axis[3], const int64_t pairs[3],
                        float *to)
{
    for (int64_t token = 0; token < grid->tokens; token++) {
        const int64_t raster = grid->host_order[token];
        const int64_t index[3] = {raster / (grid->size[1] * grid->size[2]),
                                  raster / grid->size[2] % grid->size[1], raster % grid->size[2]};
        for (int a = 0; a < 3; to += pairs[a], a++)
            memcpy(to, axis[a] + index[a] * pairs[a], (size_t)pairs[a] * sizeof *to);
    }
}

/* Cosines and sines of all tokens, to the device. */
static bool upload_angles(struct wan_transformer *t, struct error *error)
{
    const struct wan_grid *grid = &t->grid;
    double (*const turns[2])(double) = {cos, sin};
    float *const tables[2] = {grid->cosine, grid->sine};
    const int64_t *size = grid->size, half = t->config.head_dim / 2;
    int64_t pairs[3];
    axis_pairs(t->config.head_dim, pairs);
    const size_t rows = (size_t)(grid->tokens * half) * sizeof(float);
    const size_t axes = (size_t)((size[0] + size[1] + size[2]) * half) * sizeof(float);
    float *memory = malloc(axes), *staging = malloc(rows);
    bool ok = memory && staging;
    if (!ok)
        error_out_of_memory(error, "the rotary embedding", axes + rows);
    for (int i = 0; ok && i < 2; i++) {
        float *axis[3] = {memory, memory + size[0] * pairs[0],
                          memory + size[0] * pairs[0] + size[1] * pairs[1]};
        for (int a = 0; a < 3; a++)
            fill_axis(axis[a], size[a], pairs[a], turns[i]);
        fill_angles(grid, axis, pairs, staging);
        t->ops->upload(t->device, tables[i], staging, rows);
    }
    free(memory);
    free(staging);
    return ok;
}

void wan_grid_free(struct wan_transformer *t)
{
    t->ops->free(t->device, t->grid.order);
    t->ops->free(t->device, t->grid.cosine);
    free(t->grid.host_order);
    t->grid = (struct wan_grid){0};
}

static bool allocate(struct wan_transformer *t, const int64_t size[3], struct error *error)
{
    struct wan_grid *grid = &t->grid;
    const int64_t tokens = size[0] * size[1] * size[2];
    const size_t order = (size_t)tokens * sizeof(int64_t);
    const size_t angles = (size_t)(tokens * t->config.head_dim) * sizeof(float);
    grid->host_order = malloc(order);
    grid->order = t->ops->alloc(t->device, order);
    grid->cosine = t->ops->alloc(t->device, angles);
    if (!grid->host_order || !grid->order || !grid->cosine)
        return error_out_of_memory(error, "the order of the tokens", 2 * order + angles);
    grid->sine = grid->cosine + tokens * (t->config.head_dim / 2);
    grid->tokens = tokens;
    memcpy(grid->size, size, sizeof grid->size);
    return true;
}

bool wan_grid_prepare(struct wan_transformer *t, const int64_t size[3], const int64_t *order,
                      struct error *error)
{
    struct wan_grid *grid = &t->grid;
    const size_t bytes = (size_t)(size[0] * size[1] * size[2]) * sizeof *order;
    if (grid->tokens > 0 && memcmp(grid->size, size, sizeof grid->size) == 0 &&
        memcmp(grid->host_order, order, bytes) == 0)
        return true;
    wan_transformer_forget(t);
    wan_grid_free(t);
    bool ok = allocate(t, size, error);
    if (ok) {
        memcpy(grid->host_order, order, bytes);
        t->ops->upload(t->device, grid->order, order, bytes);
        ok = upload_angles(t, error);
    }
    if (!ok)
        wan_grid_free(t);
    return ok;
}
