/*
 * Owns the draft map: per head and query block, softmax over video key blocks of the logits of
 * means, each block weighing as many tokens as it has; and the score made from it. The products run
 * down panels of means that lie side by side, MEAN_PANEL_BLOCKS at a time.
 */
#include "stages_cpu.h"

#include <math.h>

/* Fewer are done before threads have woken up. */
#define MIN_SHARED_PAIRS 5000

/* out[MEAN_PANEL_BLOCKS] = sum_d weight[d] * panel[d][.] */
static void panel_product(const float *weight, const float *panel, int32_t head_dim, float *out)
{
    for (int i = 0; i < MEAN_PANEL_BLOCKS; i++)
        out[i] = 0;
    for (int32_t d = 0; d < head_dim; d++)
        for (int i = 0; i < MEAN_PANEL_BLOCKS; i++)
            out[i] += weight[d] * panel[d * MEAN_PANEL_BLOCKS + i];
}

static void softmax(float *row, int64_t count)
{
    float largest = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        largest = row[i] > largest ? row[i] : largest;
    for (int64_t i = 0; i < count; i++) {
        row[i] = expf(row[i] - largest);
        sum += (double)row[i];
    }
    for (int64_t i = 0; i < count; i++)
        row[i] = (float)((double)row[i] / sum);
}

static void logits_row(const struct problem *problem, const float *q, const float *panels,
                       int64_t panel_floats, float *row)
{
    float product[MEAN_PANEL_BLOCKS];
    int64_t blocks = problem->video_key_blocks;
    for (int64_t first = 0; first < blocks; first += MEAN_PANEL_BLOCKS) {
        panel_product(q, panels, problem->desc.head_dim, product);
        for (int64_t i = 0; i < MEAN_PANEL_BLOCKS && first + i < blocks; i++)
            row[first + i] = problem->desc.softmax_scale * product[i] +
                             logf((float)block_length(problem->key_begin, first + i));
        panels += panel_floats;
    }
}

/* Multiplies a row of the map by the standard deviation of the logits within each block. */
static void spread_row(const struct problem *problem, const float *q, const float *panels,
                       int64_t panel_floats, float *row)
{
    float square[ROWS_MAX_HEAD_DIM], product[MEAN_PANEL_BLOCKS];
    int64_t blocks = problem->video_key_blocks;
    for (int32_t d = 0; d < problem->desc.head_dim; d++)
        square[d] = q[d] * q[d];
    for (int64_t first = 0; first < blocks; first += MEAN_PANEL_BLOCKS) {
        panel_product(square, panels, problem->desc.head_dim, product);
        for (int64_t i = 0; i < MEAN_PANEL_BLOCKS && first + i < blocks; i++)
            row[first + i] *= problem->desc.softmax_scale * sqrtf(product[i]);
        panels += panel_floats;
    }
}

draftattn_status cpu_draft_map(const struct run *run, draftattn_score score, float *map)
{
    const struct problem *problem = run->problem;
    struct scratch_cpu scratch;
    int64_t rows = problem->video_query_blocks, columns = problem->video_key_blocks;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
    int64_t panel_floats = (int64_t)problem->desc.head_dim * MEAN_PANEL_BLOCKS;
    int64_t head_floats = scratch.mean_panels * panel_floats;
    bool threads_pay = problem->heads * rows * columns > MIN_SHARED_PAIRS;
#pragma omp parallel for schedule(static) num_threads(problem->threads) if (threads_pay)
    for (int64_t i = 0; i < problem->heads * rows; i++) {
        int64_t panels = i / rows * head_floats;
        const float *q = scratch.q_mean + i * problem->desc.head_dim;
        float *row = map + i * columns;
        logits_row(problem, q, scratch.k_mean_panels + panels, panel_floats, row);
        softmax(row, columns);
        if (score == DRAFTATTN_SCORE_SPREAD)
            spread_row(problem, q, scratch.k_spread_panels + panels, panel_floats, row);
    }
    return DRAFTATTN_SUCCESS;
}
