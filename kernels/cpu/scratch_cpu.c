/*
 * Owns the layout of the CPU backends' scratch, and where rows are found. Copies of keys and values
 * are for as many heads as keep all threads busy to the end of a group, so that they do not grow
 * with the number of heads.
 */
#include "scratch_cpu.h"

#include "carve.h"
#include "cpu_kernel.h"
#include "stages_cpu.h"

/* Tasks a thread should have in a group: the last ones to finish leave the others idle. */
#define TASKS_PER_THREAD 32

static float *place_floats(struct placer *placer, int64_t a, int64_t b)
{
    return carve_place(placer, carve_product(a, b), sizeof(float));
}

/* Outputs of this type cannot wait for repair in the caller's memory. */
static bool waits_in_scratch(const struct problem *problem)
{
    return problem->probes > 0 && problem->desc.out_dtype != DRAFTATTN_F32;
}

static void place_means(struct placer *placer, const struct problem *problem,
                        struct scratch_cpu *out)
{
    int64_t head_dim = problem->desc.head_dim;
    int64_t key_floats = carve_product(problem->key_blocks, head_dim);
    int64_t panel_floats = carve_product(out->mean_panels, head_dim * MEAN_PANEL_BLOCKS);
    out->q_mean =
        place_floats(placer, problem->heads, carve_product(problem->video_query_blocks, head_dim));
    out->k_mean = place_floats(placer, problem->heads, key_floats);
    out->v_mean = place_floats(placer, problem->heads, key_floats);
    out->k_mean_panels = place_floats(placer, problem->heads, panel_floats);
    if (problem->desc.score == DRAFTATTN_SCORE_SPREAD)
        out->k_spread_panels = place_floats(placer, problem->heads, panel_floats);
}

static void place_probes(struct placer *placer, const struct problem *problem,
                         struct scratch_cpu *out)
{
    int64_t head_dim = problem->desc.head_dim;
    out->exact = place_floats(placer, problem->heads, problem->probes * head_dim);
    out->weight = place_floats(placer, problem->heads, 2 * head_dim * head_dim);
    out->shift = place_floats(placer, problem->heads, head_dim);
    out->probe_tokens = carve_place(placer, problem->probes, sizeof(int64_t));
}

static void place_copies(struct placer *placer, const struct problem *problem,
                         struct scratch_cpu *out)
{
    int64_t rows = carve_product(out->group, problem->tokens), head_dim = problem->desc.head_dim;
    if (cpu_kernel_of(problem)->attend) {
        out->k = place_floats(placer, rows, head_dim);
        out->v = place_floats(placer, rows, head_dim);
    } else if (problem->probes > 0) {
        out->by_token = place_floats(placer, problem->tokens, head_dim);
    }
    if (waits_in_scratch(problem))
        out->o = place_floats(placer, rows, head_dim);
}

static void place_thread(struct placer *placer, const struct problem *problem,
                         struct thread_cpu *out)
{
    int32_t head_dim = problem->desc.head_dim;
    int64_t tile = attend_scratch_floats(head_dim), rows = 3 * ATTEND_MAX_ROWS * head_dim;
    int64_t mean_panels = (problem->key_blocks + ATTEND_PANEL_KEYS - 1) / ATTEND_PANEL_KEYS;
    int64_t key_panels = problem->key_blocks * (problem->desc.key_block / ATTEND_PANEL_KEYS);
    out->work = place_floats(placer, tile > rows ? tile : rows, 1);
    out->lse = place_floats(placer, ATTEND_MAX_ROWS, 1);
    out->bias = place_floats(placer, problem->key_blocks, 1);
    out->skipped = carve_place(placer, problem->key_blocks, sizeof(int64_t));
    out->panels = carve_place(placer, key_panels + mean_panels, sizeof(struct attend_panel));
    out->fit_o = place_floats(placer, problem->probes, head_dim);
    out->fit_q = place_floats(placer, problem->probes, head_dim);
    out->fit_exact = place_floats(placer, problem->probes, head_dim);
    out->fit = carve_place(placer, repair_fit_bytes(problem->probes, head_dim), 1);
}

bool scratch_cpu_open(const struct problem *problem, void *base, struct scratch_cpu *scratch,
                      size_t *bytes)
{
    struct placer placer = {.base = base}, one_thread = {0};
    struct thread_cpu thread;
    bool simd = cpu_kernel_of(problem)->attend != NULL;
    int64_t busy = (int64_t)problem->threads * TASKS_PER_THREAD;
    int64_t group = (busy + problem->query_blocks - 1) / problem->query_blocks;
    *scratch = (struct scratch_cpu){0};
    scratch->mean_panels = (problem->key_blocks + MEAN_PANEL_BLOCKS - 1) / MEAN_PANEL_BLOCKS;
    scratch->group = !simd ? 1 : group < problem->heads ? group : problem->heads;

    if (simd) {
        int64_t tasks = problem->query_blocks + probe_tiles(problem);
        place_means(&placer, problem, scratch);
        scratch->tasks =
            carve_place(&placer, carve_product(problem->heads, tasks), sizeof(struct task_cpu));
    }
    if (problem->probes > 0)
        place_probes(&placer, problem, scratch);
    place_copies(&placer, problem, scratch);
    place_thread(&one_thread, problem, &thread);
    scratch->thread_bytes = one_thread.carve.size;
    scratch->threads = carve_place(&placer, one_thread.carve.overflow ? -1 : problem->threads,
                                   scratch->thread_bytes);
    if (bytes)
        *bytes = placer.carve.size;
    return !placer.carve.overflow;
}

struct thread_cpu scratch_cpu_thread(const struct problem *problem,
                                     const struct scratch_cpu *scratch, int thread)
{
    struct placer placer = {.base = scratch->threads + (size_t)thread * scratch->thread_bytes};
    struct thread_cpu out;
    place_thread(&placer, problem, &out);
    return out;
}

bool keys_are_in_place(const struct run *run)
{
    const int64_t *k = run->k->stride, *v = run->v->stride, head_dim = run->problem->desc.head_dim;
    return run->problem->desc.in_dtype == DRAFTATTN_F32 && k[3] == 1 && v[3] == 1 &&
           k[2] == head_dim && v[2] == head_dim;
}

bool cpu_scratch_size(const struct problem *problem, size_t *bytes)
{
    struct scratch_cpu scratch;
    return scratch_cpu_open(problem, NULL, &scratch, bytes);
}

int64_t cpu_group_heads(const struct run *run)
{
    struct scratch_cpu scratch;
    scratch_cpu_open(run->problem, run->scratch, &scratch, NULL);
    bool copies = !keys_are_in_place(run) || waits_in_scratch(run->problem);
    return copies || !scratch.tasks ? scratch.group : run->problem->heads;
}

struct rows waiting_rows(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                         int64_t index)
{
    int32_t head_dim = run->problem->desc.head_dim;
    if (!scratch->o)
        return rows_of(run->problem, run->o, head);
    return rows_dense(scratch->o + index * run->problem->tokens * head_dim, head_dim);
}

struct rows probe_queries(const struct run *run, const struct scratch_cpu *scratch, int64_t head)
{
    struct rows rows = rows_of(run->problem, run->q, head);
    rows.order = scratch->probe_tokens;
    return rows;
}
