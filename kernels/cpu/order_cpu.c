/*
 * Owns the way into block order: q as rows, already scaled for base-2 logits, k and v as panels
 * (attend.h). One pass over the caller's tensors, which also converts them to float.
 */
#include "rows_cpu.h"
#include "stages_cpu.h"

#include <math.h>
#include <string.h>

#define LOG2_E 1.44269504088896340736

static void pack_panel(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                       int64_t index, int64_t panel)
{
    const struct problem *problem = run->problem;
    int64_t block = panel / scratch->block_panels, head_dim = problem->desc.head_dim;
    int64_t begin = problem->key_begin[block] + panel % scratch->block_panels * ATTEND_PANEL_KEYS;
    int64_t count = problem->key_begin[block + 1] - begin;
    int64_t offset = (index * scratch->key_panels + panel) * scratch->panel_floats;
    float *kt = scratch->kt + offset, *v = scratch->v + offset, row[ROWS_MAX_HEAD_DIM];
    struct rows k_rows = rows_of(problem, run->k, first + index);
    struct rows v_rows = rows_of(problem, run->v, first + index);
    if (count <= 0)
        return; /* the second half of a short block is in no list */
    if (count < ATTEND_PANEL_KEYS) {
        memset(kt, 0, (size_t)scratch->panel_floats * sizeof(*kt));
        memset(v, 0, (size_t)scratch->panel_floats * sizeof(*v));
    }
    for (int64_t slot = 0; slot < count && slot < ATTEND_PANEL_KEYS; slot++) {
        rows_load(&k_rows, begin + slot, row);
        for (int64_t d = 0; d < head_dim; d++)
            kt[d * ATTEND_PANEL_KEYS + slot] = row[d];
        rows_load(&v_rows, begin + slot, v + slot * head_dim);
    }
}

/* Biases that close the padding slots of the last panel of the video and of the text. */
static void fill_tail_bias(const struct problem *problem, const struct scratch_cpu *scratch)
{
    const int64_t ends[2] = {problem->video_key_blocks, problem->key_blocks};
    for (int i = 0; i < 2; i++) {
        int64_t filled = block_length(problem->key_begin, ends[i] - 1) % ATTEND_PANEL_KEYS;
        for (int64_t slot = 0; slot < ATTEND_PANEL_KEYS; slot++)
            scratch->tail_bias[i * ATTEND_PANEL_KEYS + slot] =
                slot < filled || filled == 0 ? 0 : -INFINITY;
    }
}

static void gather_block(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                         int64_t index, int64_t block, float factor)
{
    const struct problem *problem = run->problem;
    int64_t head_dim = problem->desc.head_dim;
    struct rows rows = rows_of(problem, run->q, first + index);
    float *q = scratch->q + index * problem->tokens * head_dim;
    for (int64_t i = problem->query_begin[block]; i < problem->query_begin[block + 1]; i++) {
        rows_load(&rows, i, q + i * head_dim);
        for (int64_t d = 0; d < head_dim; d++)
            q[i * head_dim + d] *= factor;
    }
}

void cpu_gather_queries(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                        int64_t count, float factor)
{
    const struct problem *problem = run->problem;
    int64_t blocks = problem->query_blocks, head_dim = problem->desc.head_dim;
#pragma omp parallel for schedule(static) num_threads(problem->threads)
    for (int64_t i = 0; i < count * blocks; i++)
        gather_block(run, scratch, first, i / blocks, i % blocks, factor);
    if (!run->probes)
        return;
    for (int64_t index = 0; index < count; index++) {
        const float *q = scratch->q + index * problem->tokens * head_dim;
        float *probe_q = scratch->probe_q + index * problem->probes * head_dim;
        for (int64_t i = 0; i < problem->probes; i++)
            memcpy(probe_q + i * head_dim, q + probe_position(problem, i) * head_dim,
                   (size_t)head_dim * sizeof(*q));
    }
}

draftattn_status cpu_gather(const struct run *run, int64_t first, int64_t count)
{
    const struct problem *problem = run->problem;
    struct scratch_cpu scratch;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
    float factor = (float)((double)problem->desc.softmax_scale * LOG2_E);
    fill_tail_bias(problem, &scratch);
    cpu_gather_queries(run, &scratch, first, count, factor);
#pragma omp parallel for schedule(static) num_threads(problem->threads)
    for (int64_t i = 0; i < count * scratch.key_panels; i++)
        pack_panel(run, &scratch, first, i / scratch.key_panels, i % scratch.key_panels);
    return DRAFTATTN_SUCCESS;
}
