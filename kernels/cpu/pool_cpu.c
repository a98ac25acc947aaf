/*
 * Owns block means: of q per video query block, of k and v per key block. Those of k are also
 * written side by side, as the draft map reads them. Sums are float32 over at most 128 tokens,
 * divided by the true count.
 *
 * Ladder, q, k and v of 12 x 4096 x 128 floats (75 MB), raster order, AMD EPYC (Zen 5), 2 threads:
 *   1  row by row through a copy                                    6.0 ms
 *   2  four rows at a time where they lie, rows asked for ahead     3.5 ms
 *   3  in registers, by instruction set (pool_simd.c)               1.8 ms
 *   4  the last head first: attending finds the first ones in the last-level cache, and takes
 *      0.3 ms less of 37 at 90 % sparsity
 *   failed: rows in ascending order within a block, so that they lie in longer pieces: a third
 *   slower, as eight rows of a strip are eight streams from memory at once
 */
#include "cpu_kernel.h"
#include "stages_cpu.h"

#include <string.h>

/* mean[] of the positions [begin, end). */
static void mean_of(const struct problem *problem, const struct rows *rows, int64_t begin,
                    int64_t end, float *mean)
{
    float row[ROWS_MAX_HEAD_DIM], scale = 1.0f / (float)(end - begin);
    if (rows_are_floats(rows)) {
        const float *base = (const float *)rows->base;
        const int64_t *place = rows->order ? rows->order + begin : NULL;
        cpu_kernel_of(problem)->pool(place ? base : base + begin * rows->token_stride,
                                     rows->token_stride, place, end - begin, rows->count, mean);
    } else {
        memset(mean, 0, (size_t)rows->count * sizeof(*mean));
        for (int64_t position = begin; position < end; position++) {
            rows_load(rows, position, row);
            for (int32_t i = 0; i < rows->count; i++)
                mean[i] += row[i];
        }
    }
    for (int32_t i = 0; i < rows->count; i++)
        mean[i] *= scale;
}

static void variance_of(const struct rows *rows, int64_t begin, int64_t end, const float *mean,
                        float *variance)
{
    float row[ROWS_MAX_HEAD_DIM], scale = 1.0f / (float)(end - begin);
    memset(variance, 0, (size_t)rows->count * sizeof(*variance));
    for (int64_t position = begin; position < end; position++) {
        rows_load(rows, position, row);
        for (int32_t i = 0; i < rows->count; i++)
            variance[i] += (row[i] - mean[i]) * (row[i] - mean[i]);
    }
    for (int32_t i = 0; i < rows->count; i++)
        variance[i] *= scale;
}

/* Side by side with the other blocks of its panel, for the draft map. */
static void put_in_panel(float *panels, int64_t block, const float *row, int32_t count)
{
    float *panel = panels + block / MEAN_PANEL_BLOCKS * count * MEAN_PANEL_BLOCKS;
    for (int32_t i = 0; i < count; i++)
        panel[i * MEAN_PANEL_BLOCKS + block % MEAN_PANEL_BLOCKS] = row[i];
}

static void pool_keys(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                      int64_t block)
{
    const struct problem *problem = run->problem;
    int64_t begin = problem->key_begin[block], end = problem->key_begin[block + 1];
    int64_t head_dim = problem->desc.head_dim;
    int64_t offset = (head * problem->key_blocks + block) * head_dim;
    int64_t panels = head * scratch->mean_panels * head_dim * MEAN_PANEL_BLOCKS;
    float *mean = scratch->k_mean + offset, variance[ROWS_MAX_HEAD_DIM];
    struct rows rows = rows_of(problem, run->k, head);
    mean_of(problem, &rows, begin, end, mean);
    put_in_panel(scratch->k_mean_panels + panels, block, mean, rows.count);
    if (scratch->k_spread_panels) {
        variance_of(&rows, begin, end, mean, variance);
        put_in_panel(scratch->k_spread_panels + panels, block, variance, rows.count);
    }
    if (run->v) {
        rows = rows_of(problem, run->v, head);
        mean_of(problem, &rows, begin, end, scratch->v_mean + offset);
    }
}

/* The last panel of a head may not be full. */
static void clear_padding(const struct problem *problem, const struct scratch_cpu *scratch)
{
    int64_t panel_floats = (int64_t)problem->desc.head_dim * MEAN_PANEL_BLOCKS;
    for (int64_t head = 0; head < problem->heads; head++) {
        int64_t last = ((head + 1) * scratch->mean_panels - 1) * panel_floats;
        memset(scratch->k_mean_panels + last, 0, (size_t)panel_floats * sizeof(float));
        if (scratch->k_spread_panels)
            memset(scratch->k_spread_panels + last, 0, (size_t)panel_floats * sizeof(float));
    }
}

draftattn_status cpu_pool(const struct run *run)
{
    const struct problem *problem = run->problem;
    struct scratch_cpu scratch;
    int64_t query_blocks = problem->video_query_blocks, key_blocks = problem->key_blocks;
    int64_t per_head = query_blocks + key_blocks, head_dim = problem->desc.head_dim;
    int64_t blocks = problem->heads * per_head;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
    clear_padding(problem, &scratch);
#pragma omp parallel for schedule(dynamic, 4) num_threads(problem->threads)
    for (int64_t i = 0; i < blocks; i++) {
        /* Attending starts with the first head: it should be what the caches saw last. */
        int64_t head = problem->heads - 1 - i / per_head, block = i % per_head;
        if (block < key_blocks) {
            pool_keys(run, &scratch, head, block);
        } else {
            block -= key_blocks;
            struct rows rows = rows_of(problem, run->q, head);
            mean_of(problem, &rows, problem->query_begin[block], problem->query_begin[block + 1],
                    scratch.q_mean + (head * query_blocks + block) * head_dim);
        }
    }
    return DRAFTATTN_SUCCESS;
}
