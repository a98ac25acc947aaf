/*
 * Owns the layout of the CPU backends' scratch. Heads are worked on in groups: just as many as keep
 * all threads busy to the end, so that packed copies of q, k and v do not grow with the number of
 * heads.
 */
#include "scratch_cpu.h"

#include "carve.h"
#include "cpu_kernel.h"

/* Tasks a thread should have in a group: the last ones to finish leave the others idle. */
#define TASKS_PER_THREAD 32

struct placer {
    struct carve carve;
    char *base;
};

static void *place(struct placer *placer, int64_t count, size_t element)
{
    size_t offset = carve_array(&placer->carve, count, element);
    return placer->base && !placer->carve.overflow ? placer->base + offset : NULL;
}

static float *place_floats(struct placer *placer, int64_t a, int64_t b)
{
    return place(placer, carve_product(a, b), sizeof(float));
}

static void place_means(struct placer *placer, const struct problem *problem,
                        struct scratch_cpu *out)
{
    int64_t mean_floats = carve_product(out->mean_panels, out->panel_floats);
    out->q_mean = place_floats(placer, problem->heads,
                               carve_product(problem->video_query_blocks, problem->desc.head_dim));
    out->mean_kt = place_floats(placer, problem->heads, mean_floats);
    out->mean_v = place_floats(placer, problem->heads, mean_floats);
    if (problem->desc.score == DRAFTATTN_SCORE_SPREAD)
        out->var_kt = place_floats(placer, problem->heads, mean_floats);
    out->mean_bias = place_floats(placer, out->mean_panels, ATTEND_PANEL_KEYS);
    out->tail_bias = place_floats(placer, 2, ATTEND_PANEL_KEYS);
}

static void place_group(struct placer *placer, const struct problem *problem,
                        struct scratch_cpu *out)
{
    int64_t rows = carve_product(out->group, problem->tokens), head_dim = problem->desc.head_dim;
    int64_t panel_floats = carve_product(out->key_panels, out->panel_floats);
    int64_t probe_rows = carve_product(out->group, problem->probes);
    out->q = place_floats(placer, rows, head_dim);
    if (cpu_kernel_of(problem)->attend) {
        out->kt = place_floats(placer, out->group, panel_floats);
        out->v = place_floats(placer, out->group, panel_floats);
        out->tasks = place(placer, out->group * (problem->query_blocks + probe_tiles(problem)),
                           sizeof(struct task_cpu));
    }
    if (problem->probes == 0)
        return;
    out->o = place_floats(placer, rows, head_dim);
    out->probe_q = place_floats(placer, probe_rows, head_dim);
    out->exact = place_floats(placer, probe_rows, head_dim);
    out->fit_o = place_floats(placer, probe_rows, head_dim);
    out->fit_q = place_floats(placer, probe_rows, head_dim);
    out->fit_exact = place_floats(placer, probe_rows, head_dim);
    out->weight = place_floats(placer, out->group, 2 * head_dim * head_dim);
    out->shift = place_floats(placer, out->group, head_dim);
    if (!cpu_kernel_of(problem)->attend) {
        out->by_token = place_floats(placer, problem->tokens, head_dim);
        out->probe_rows = place(placer, problem->probes, sizeof(int64_t));
    }
}

static void place_thread(struct placer *placer, const struct problem *problem,
                         const struct scratch_cpu *scratch, struct thread_cpu *out)
{
    int32_t head_dim = problem->desc.head_dim;
    out->work = place_floats(placer, attend_scratch_floats(head_dim), 1);
    out->o = place_floats(placer, ATTEND_MAX_ROWS, head_dim);
    out->lse = place_floats(placer, ATTEND_MAX_ROWS, 1);
    out->bias = place_floats(placer, scratch->mean_panels, ATTEND_PANEL_KEYS);
    out->panels =
        place(placer, scratch->key_panels + scratch->mean_panels, sizeof(struct attend_panel));
    out->fit = place(placer, repair_fit_bytes(problem->probes, head_dim), 1);
}

bool scratch_cpu_open(const struct problem *problem, void *base, struct scratch_cpu *scratch,
                      size_t *bytes)
{
    struct placer placer = {.base = base}, one_thread = {0};
    struct thread_cpu thread;
    int64_t busy = (int64_t)problem->threads * TASKS_PER_THREAD;
    int64_t group = (busy + problem->query_blocks - 1) / problem->query_blocks;
    *scratch = (struct scratch_cpu){0};
    scratch->block_panels = problem->desc.key_block / ATTEND_PANEL_KEYS;
    scratch->key_panels = problem->key_blocks * scratch->block_panels;
    scratch->mean_panels = (problem->key_blocks + ATTEND_PANEL_KEYS - 1) / ATTEND_PANEL_KEYS;
    scratch->panel_floats = (int64_t)problem->desc.head_dim * ATTEND_PANEL_KEYS;
    scratch->group = group < problem->heads ? group : problem->heads;

    if (cpu_kernel_of(problem)->attend)
        place_means(&placer, problem, scratch);
    else
        scratch->group = 1;
    place_group(&placer, problem, scratch);
    place_thread(&one_thread, problem, scratch, &thread);
    scratch->thread_bytes = one_thread.carve.size;
    scratch->threads =
        place(&placer, one_thread.carve.overflow ? -1 : problem->threads, scratch->thread_bytes);
    if (bytes)
        *bytes = placer.carve.size;
    return !placer.carve.overflow;
}

struct thread_cpu scratch_cpu_thread(const struct problem *problem,
                                     const struct scratch_cpu *scratch, int thread)
{
    struct placer placer = {.base = scratch->threads + (size_t)thread * scratch->thread_bytes};
    struct thread_cpu out;
    place_thread(&placer, problem, scratch, &out);
    return out;
}
