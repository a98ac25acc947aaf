/*
 * Owns the distribution of attention over threads: one task per query block (and per tile of probe
 * rows), head by head, longest first, each a list of panels for the micro-kernel: the means of the
 * skipped key blocks, then the kept ones. The means are in a cache since the task before, and each
 * panel is asked for during the one before it: nothing comes as a surprise. What a task computes
 * depends on nothing but its rows and panels, so results do not depend on the number of threads.
 */
#include "cpu_kernel.h"
#include "stages_cpu.h"

#include <math.h>
#include <omp.h>

#define LOG2_E 1.44269504088896340736

/* From so many on, outputs of a call would push out what is read, and be pushed out themselves. */
#define STREAM_BYTES (16 << 20)

static bool is_probe_task(const struct problem *problem, const struct task_cpu *task)
{
    return task->block >= problem->query_blocks;
}

/* One tile on its way: where its panels come from and where they are listed. */
struct listing {
    const struct problem *problem;
    const float *k, *v;   /* of the head, a row per token */
    const int64_t *order; /* position -> row; NULL = the same */
    const float *k_mean, *v_mean;
    const struct thread_cpu *thread;
    int64_t count;
};

static struct listing start_listing(const struct run *run, const struct scratch_cpu *scratch,
                                    int64_t head, int64_t index, const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    int64_t head_dim = problem->desc.head_dim, mean = head * problem->key_blocks * head_dim;
    int64_t copy = index * problem->tokens * head_dim;
    struct listing listing = {.problem = problem,
                              .k = scratch->k + copy,
                              .v = scratch->v + copy,
                              .k_mean = scratch->k_mean + mean,
                              .v_mean = scratch->v_mean + mean,
                              .thread = thread};
    if (keys_are_in_place(run)) {
        listing.k = (const float *)rows_of(problem, run->k, head).base;
        listing.v = (const float *)rows_of(problem, run->v, head).base;
        listing.order = problem->order;
    }
    return listing;
}

static void add_block(struct listing *listing, int64_t block)
{
    const struct problem *problem = listing->problem;
    int64_t head_dim = problem->desc.head_dim, end = problem->key_begin[block + 1];
    for (int64_t at = problem->key_begin[block]; at < end; at += ATTEND_PANEL_KEYS) {
        int64_t row = listing->order ? 0 : at, left = end - at;
        listing->thread->panels[listing->count++] = (struct attend_panel){
            .k = listing->k + row * head_dim,
            .v = listing->v + row * head_dim,
            .place = listing->order ? listing->order + at : NULL,
            .keys = (int32_t)(left < ATTEND_PANEL_KEYS ? left : ATTEND_PANEL_KEYS)};
    }
}

/* The means of the blocks that are not among the kept ones, which ascend. */
static void add_means(struct listing *listing, const int32_t *kept, int64_t kept_count)
{
    const struct problem *problem = listing->problem;
    const struct thread_cpu *thread = listing->thread;
    int64_t skipped = 0, next = 0;
    for (int64_t block = 0; block < problem->key_blocks; block++) {
        if (next < kept_count && kept[next] == block) {
            next++;
            continue;
        }
        thread->skipped[skipped] = block;
        thread->bias[skipped++] = log2f((float)block_length(problem->key_begin, block));
    }
    for (int64_t at = 0; at < skipped; at += ATTEND_PANEL_KEYS) {
        int64_t left = skipped - at;
        thread->panels[listing->count++] = (struct attend_panel){
            .k = listing->k_mean,
            .v = listing->v_mean,
            .place = thread->skipped + at,
            .bias = thread->bias + at,
            .keys = (int32_t)(left < ATTEND_PANEL_KEYS ? left : ATTEND_PANEL_KEYS)};
    }
}

/* All that the task's rows see; returns the number of panels. */
static int64_t list_panels(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                           const struct task_cpu *task, const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    struct listing listing = start_listing(run, scratch, task->head, task->head - first, thread);
    if (is_probe_task(problem, task) || !run->list) {
        for (int64_t block = 0; block < problem->key_blocks; block++)
            add_block(&listing, block);
        return listing.count;
    }
    int64_t row = list_row(problem, task->head, task->block), begin = run->list->row_ptr[row];
    int64_t kept_count = run->list->row_ptr[row + 1] - begin;
    const int32_t *kept = run->list->block_idx + begin;
    if (run->compensation)
        add_means(&listing, kept, kept_count);
    for (int64_t i = 0; i < kept_count; i++)
        add_block(&listing, kept[i]);
    return listing.count;
}

static void store_lse(const struct run *run, int64_t head, int64_t begin, int64_t rows,
                      const float *lse)
{
    struct rows to = rows_of(run->problem, run->lse, head);
    for (int64_t i = 0; i < rows; i++)
        rows_store(&to, begin + i, lse + i);
}

/* Positions that a task is about: in block order, or among the probes. */
struct span {
    int64_t begin;
    int32_t rows;
};

static struct span span_of(const struct problem *problem, const struct task_cpu *task)
{
    if (!is_probe_task(problem, task))
        return (struct span){problem->query_begin[task->block],
                             (int32_t)block_length(problem->query_begin, task->block)};
    int64_t begin = (task->block - problem->query_blocks) * ATTEND_MAX_ROWS;
    int64_t rows = problem->probes - begin;
    return (struct span){begin, (int32_t)(rows < ATTEND_MAX_ROWS ? rows : ATTEND_MAX_ROWS)};
}

static struct rows queries_of(const struct run *run, const struct scratch_cpu *scratch,
                              const struct task_cpu *task)
{
    if (is_probe_task(run->problem, task))
        return probe_queries(run, scratch, task->head);
    return rows_of(run->problem, run->q, task->head);
}

/* Probe rows go straight into scratch. */
static struct rows outputs_of(const struct run *run, const struct scratch_cpu *scratch,
                              int64_t first, const struct task_cpu *task)
{
    const struct problem *problem = run->problem;
    int32_t head_dim = problem->desc.head_dim;
    if (is_probe_task(problem, task))
        return rows_dense(scratch->exact + task->head * problem->probes * head_dim, head_dim);
    if (run->probes && task->block < problem->video_query_blocks)
        return waiting_rows(run, scratch, task->head, task->head - first);
    return rows_of(problem, run->o, task->head);
}

/* ahead is what this thread will probably do next, or NULL. */
static void attend_task(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                        const struct task_cpu *task, const struct task_cpu *ahead,
                        const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    struct span span = span_of(problem, task);
    struct rows q = queries_of(run, scratch, task), o = outputs_of(run, scratch, first, task);
    struct rows q_ahead;
    bool lse = run->lse && !is_probe_task(problem, task);
    struct attend_tile tile = {.q = &q,
                               .o = &o,
                               .q_begin = span.begin,
                               .o_begin = span.begin,
                               .rows = span.rows,
                               .stream = problem->heads * problem->tokens * problem->desc.head_dim >
                                         STREAM_BYTES / (int64_t)sizeof(float),
                               .scale = (float)((double)problem->desc.softmax_scale * LOG2_E),
                               .lse = lse ? thread->lse : NULL,
                               .panels = thread->panels,
                               .panel_count = list_panels(run, scratch, first, task, thread),
                               .scratch = thread->work};
    if (ahead) {
        struct span next = span_of(problem, ahead);
        q_ahead = queries_of(run, scratch, ahead);
        tile.q_ahead = &q_ahead, tile.ahead_begin = next.begin, tile.ahead_rows = next.rows;
    }
    cpu_kernel_of(problem)->attend(&tile);
    if (lse)
        store_lse(run, task->head, span.begin, span.rows, thread->lse);
}

static bool comes_before(const struct task_cpu *a, const struct task_cpu *b)
{
    if (a->cost != b->cost)
        return a->cost > b->cost;
    return a->block < b->block;
}

/* Shell's sort with Ciura's gaps: qsort() may allocate, and a run does not. */
static void sort_longest_first(struct task_cpu *tasks, int64_t count)
{
    static const int64_t gaps[] = {8929, 3905, 1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < sizeof(gaps) / sizeof(gaps[0]); g++) {
        for (int64_t i = gaps[g]; i < count; i++) {
            struct task_cpu task = tasks[i];
            int64_t at = i;
            for (; at >= gaps[g] && comes_before(&task, &tasks[at - gaps[g]]); at -= gaps[g])
                tasks[at] = tasks[at - gaps[g]];
            tasks[at] = task;
        }
    }
}

static void list_probe_tokens(const struct problem *problem, const struct scratch_cpu *scratch)
{
    for (int64_t i = 0; i < problem->probes; i++) {
        int64_t position = probe_position(problem, i);
        scratch->probe_tokens[i] = problem->order ? problem->order[position] : position;
    }
}

/* Head by head, as a head's keys are shared by its tasks in the last-level cache. */
static int64_t list_tasks(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                          int64_t count)
{
    const struct problem *problem = run->problem;
    int64_t listed = 0;
    for (int64_t head = first; head < first + count; head++) {
        int64_t tiles = run->probes && !head_is_full(run, head) ? probe_tiles(problem) : 0;
        int64_t tasks = problem->query_blocks + tiles;
        for (int64_t block = 0; block < tasks; block++) {
            int64_t row = list_row(problem, head, block), blocks = problem->key_blocks;
            int64_t rows = ATTEND_MAX_ROWS;
            if (block < problem->query_blocks) {
                rows = block_length(problem->query_begin, block);
                if (run->list)
                    blocks = run->list->row_ptr[row + 1] - run->list->row_ptr[row];
            }
            scratch->tasks[listed + block] =
                (struct task_cpu){(blocks + 1) * rows, (int32_t)head, (int32_t)block};
        }
        sort_longest_first(scratch->tasks + listed, tasks);
        listed += tasks;
    }
    return listed;
}

draftattn_status cpu_attend(const struct run *run, int64_t first, int64_t count)
{
    const struct problem *problem = run->problem;
    struct scratch_cpu scratch;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
    int64_t tasks = list_tasks(run, &scratch, first, count), threads = problem->threads;
    if (run->probes)
        list_probe_tokens(problem, &scratch);
#pragma omp parallel num_threads(problem->threads)
    {
        struct thread_cpu thread = scratch_cpu_thread(problem, &scratch, omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; i++) {
            const struct task_cpu *task = &scratch.tasks[i];
            attend_task(run, &scratch, first, task, i + threads < tasks ? task + threads : NULL,
                        &thread);
        }
    }
    return DRAFTATTN_SUCCESS;
}
