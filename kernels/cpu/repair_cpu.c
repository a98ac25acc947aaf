/*
 * Owns repair: choosing the probe rows that the fit looks at, judging the fit, correcting and
 * delivering the rows. A head is corrected only where rows that the fit has not seen gain by it;
 * probe rows of a corrected head are delivered as they were computed, exactly. Rows that saw every
 * key are left alone.
 */
#include "../repair_rules.h"
#include "cpu_kernel.h"
#include "stages_cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static int64_t block_of(const struct problem *problem, int64_t position)
{
    return position / block_length(problem->query_begin, 0);
}

/* Copies the probe rows of blocks that skip something; returns how many there are. */
static int64_t collect_rows(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                            int64_t index, const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    int64_t head_dim = problem->desc.head_dim, rows = 0;
    const float *exact = scratch->exact + head * problem->probes * head_dim;
    struct rows o = waiting_rows(run, scratch, head, index);
    struct rows q = rows_of(problem, run->q, head);
    for (int64_t i = 0; i < problem->probes; i++) {
        int64_t position = probe_position(problem, i);
        if (block_is_full(run, head, block_of(problem, position)))
            continue;
        rows_load(&o, position, thread->fit_o + rows * head_dim);
        rows_load(&q, position, thread->fit_q + rows * head_dim);
        memcpy(thread->fit_exact + rows * head_dim, exact + i * head_dim,
               (size_t)head_dim * sizeof(*exact));
        rows++;
    }
    return rows;
}

/* NaN in either stays NaN: it must not read as no error. */
static float relative(double error, double norm)
{
    if (error > 0 && norm == 0)
        return INFINITY;
    return error == 0 ? 0 : (float)sqrt(error / norm);
}

static void fit_head(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                     int64_t index, const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    const struct repair_kernels *kernels = cpu_kernel_of(problem)->repair;
    int64_t head_dim = problem->desc.head_dim, probe_floats = problem->probes * head_dim;
    draftattn_head_stats *stats = &run->heads[head];
    struct repair_fit fit = {.head_dim = (int32_t)head_dim,
                             .ridge = problem->desc.ridge,
                             .o = thread->fit_o,
                             .q = thread->fit_q,
                             .exact = thread->fit_exact,
                             .weight = scratch->weight + head * 2 * head_dim * head_dim,
                             .shift = scratch->shift + head * head_dim,
                             .scratch = thread->fit};
    if (head_is_full(run, head))
        return;
    fit.rows = collect_rows(run, scratch, head, index, thread);
    double norm = kernels->squares(scratch->exact + head * probe_floats, NULL, probe_floats);
    double error = kernels->squares(fit.exact, fit.o, fit.rows * head_dim);
    stats->error = stats->error_before = relative(error, norm);
    if (!run->repair || fit.rows < MIN_FIT_ROWS || error == 0)
        return;
    fit.error = error;
    if (!kernels->fit(&fit))
        return;
    double gain = error - fit.error_unseen;
    if (!(gain > MIN_GAIN * error && gain > MIN_SPREADS * fit.gain_spread))
        return;
    /* The unseen error holds for the rows that are not probes; those are delivered exactly. */
    double unseen = 1 - (double)problem->probes / (double)problem->video_tokens;
    stats->error = relative(fit.error_unseen * unseen, norm);
    stats->repaired = 1;
}

/* Probe rows of a block as they were computed, exactly. */
static void put_exact_rows(const struct problem *problem, const struct scratch_cpu *scratch,
                           int64_t head, int64_t begin, int64_t end, float *o)
{
    int64_t head_dim = problem->desc.head_dim;
    for (int64_t i = 0; i < problem->probes; i++) {
        int64_t position = probe_position(problem, i);
        if (position >= begin && position < end)
            memcpy(o + (position - begin) * head_dim,
                   scratch->exact + (head * problem->probes + i) * head_dim,
                   (size_t)head_dim * sizeof(*o));
    }
}

static void deliver_block(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                          int64_t index, int64_t block, const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    int64_t head_dim = problem->desc.head_dim, tile = ATTEND_MAX_ROWS * head_dim;
    int64_t begin = problem->query_begin[block], rows = block_length(problem->query_begin, block);
    bool corrected = run->heads[head].repaired && !block_is_full(run, head, block);
    float *o = thread->work, *q = o + tile, *fixed = q + tile;
    if (!corrected && !scratch->o)
        return; /* it is there already */
    struct rows o_rows = waiting_rows(run, scratch, head, index);
    struct rows q_rows = rows_of(problem, run->q, head), to = rows_of(problem, run->o, head);
    for (int64_t i = 0; i < rows; i++)
        rows_load(&o_rows, begin + i, o + i * head_dim);
    if (corrected) {
        for (int64_t i = 0; i < rows; i++)
            rows_load(&q_rows, begin + i, q + i * head_dim);
        cpu_kernel_of(problem)->repair->apply(rows, (int32_t)head_dim,
                                              scratch->weight + head * 2 * head_dim * head_dim,
                                              scratch->shift + head * head_dim, q, o, fixed);
        put_exact_rows(problem, scratch, head, begin, begin + rows, o);
    }
    for (int64_t i = 0; i < rows; i++)
        rows_store(&to, begin + i, o + i * head_dim);
}

draftattn_status cpu_repair(const struct run *run, int64_t first, int64_t count)
{
    const struct problem *problem = run->problem;
    int64_t blocks = problem->video_query_blocks;
    struct scratch_cpu scratch;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
#pragma omp parallel num_threads(problem->threads)
    {
        struct thread_cpu thread = scratch_cpu_thread(problem, &scratch, omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++)
            fit_head(run, &scratch, first + i, i, &thread);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count * blocks; i++)
            deliver_block(run, &scratch, first + i / blocks, i / blocks, i % blocks, &thread);
    }
    return DRAFTATTN_SUCCESS;
}
