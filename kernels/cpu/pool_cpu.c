/*
 * Owns block means: of q per video query block, of k and v per key block. Means of k and v are
 * written as panels (attend.h), so that draft map and compensation read them as they are. Sums are
 * float32 over at most 128 tokens, divided by the true count.
 */
#include "rows_cpu.h"
#include "stages_cpu.h"

#include <math.h>
#include <string.h>

/* mean[] of the positions [begin, end). */
static void mean_of(const struct rows *rows, int64_t begin, int64_t end, float *mean)
{
    float row[ROWS_MAX_HEAD_DIM], scale = 1.0f / (float)(end - begin);
    memset(mean, 0, (size_t)rows->count * sizeof(*mean));
    for (int64_t position = begin; position < end; position++) {
        rows_load(rows, position, row);
        for (int32_t i = 0; i < rows->count; i++)
            mean[i] += row[i];
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

/* One key of a transposed panel. */
static void put_key(float *kt, int64_t slot, const float *row, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        kt[i * ATTEND_PANEL_KEYS + slot] = row[i];
}

static void pool_keys(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                      int64_t block)
{
    const struct problem *problem = run->problem;
    int64_t begin = problem->key_begin[block], end = problem->key_begin[block + 1];
    int64_t slot = block % ATTEND_PANEL_KEYS, head_dim = problem->desc.head_dim;
    int64_t panel =
        (head * scratch->mean_panels + block / ATTEND_PANEL_KEYS) * scratch->panel_floats;
    float mean[ROWS_MAX_HEAD_DIM], variance[ROWS_MAX_HEAD_DIM];
    struct rows rows = rows_of(problem, run->k, head);
    mean_of(&rows, begin, end, mean);
    put_key(scratch->mean_kt + panel, slot, mean, rows.count);
    if (scratch->var_kt) {
        variance_of(&rows, begin, end, mean, variance);
        put_key(scratch->var_kt + panel, slot, variance, rows.count);
    }
    if (run->v) {
        rows = rows_of(problem, run->v, head);
        mean_of(&rows, begin, end, scratch->mean_v + panel + slot * head_dim);
    }
}

/* Padding slots hold zeros and are closed by their bias. */
static void clear_padding(const struct problem *problem, const struct scratch_cpu *scratch)
{
    int64_t slots = scratch->mean_panels * ATTEND_PANEL_KEYS;
    size_t bytes = (size_t)scratch->panel_floats * sizeof(float);
    for (int64_t i = 0; i < slots; i++)
        scratch->mean_bias[i] =
            i < problem->key_blocks ? log2f((float)block_length(problem->key_begin, i)) : -INFINITY;
    for (int64_t head = 0; head < problem->heads; head++) {
        int64_t last = ((head + 1) * scratch->mean_panels - 1) * scratch->panel_floats;
        memset(scratch->mean_kt + last, 0, bytes);
        memset(scratch->mean_v + last, 0, bytes);
        if (scratch->var_kt)
            memset(scratch->var_kt + last, 0, bytes);
    }
}

draftattn_status cpu_pool(const struct run *run)
{
    const struct problem *problem = run->problem;
    struct scratch_cpu scratch;
    int64_t query_blocks = problem->video_query_blocks, key_blocks = problem->key_blocks;
    int64_t per_head = query_blocks + key_blocks, head_dim = problem->desc.head_dim;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
    clear_padding(problem, &scratch);
#pragma omp parallel for schedule(dynamic, 4) num_threads(problem->threads)
    for (int64_t i = 0; i < problem->heads * per_head; i++) {
        int64_t head = i / per_head, block = i % per_head;
        if (block < key_blocks) {
            pool_keys(run, &scratch, head, block);
        } else {
            block -= key_blocks;
            struct rows rows = rows_of(problem, run->q, head);
            mean_of(&rows, problem->query_begin[block], problem->query_begin[block + 1],
                    scratch.q_mean + (head * query_blocks + block) * head_dim);
        }
    }
    return DRAFTATTN_SUCCESS;
}
