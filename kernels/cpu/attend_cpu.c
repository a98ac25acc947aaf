/*
 * Owns the distribution of attention over threads: one task per query block (and per tile of probe
 * rows), longest first, each a list of panels for the micro-kernel: the kept key blocks, then the
 * means of the skipped ones. What a task computes depends on nothing but its panels, so results do
 * not depend on the number of threads.
 */
#include "cpu_kernel.h"
#include "rows_cpu.h"
#include "stages_cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Appends the filled panels of a key block; returns the new count. */
static int64_t add_block(const struct problem *problem, const struct scratch_cpu *scratch,
                         int64_t index, int64_t block, struct attend_panel *panels, int64_t count)
{
    int64_t left = block_length(problem->key_begin, block);
    int64_t panel = index * scratch->key_panels + block * scratch->block_panels;
    const float *tail = scratch->tail_bias;
    if (block >= problem->video_key_blocks)
        tail += ATTEND_PANEL_KEYS;
    for (; left > 0; left -= ATTEND_PANEL_KEYS, panel++)
        panels[count++] = (struct attend_panel){.kt = scratch->kt + panel * scratch->panel_floats,
                                                .v = scratch->v + panel * scratch->panel_floats,
                                                .bias = left < ATTEND_PANEL_KEYS ? tail : NULL};
    return count;
}

static int64_t add_every_block(const struct problem *problem, const struct scratch_cpu *scratch,
                               int64_t index, struct attend_panel *panels)
{
    int64_t count = 0;
    for (int64_t block = 0; block < problem->key_blocks; block++)
        count = add_block(problem, scratch, index, block, panels, count);
    return count;
}

/* Appends the panels of means that hold a skipped block, with the kept ones closed. */
static int64_t add_means(const struct problem *problem, const struct scratch_cpu *scratch,
                         int64_t head, const int32_t *kept, int64_t kept_count,
                         const struct thread_cpu *thread, int64_t count)
{
    int64_t slots = scratch->mean_panels * ATTEND_PANEL_KEYS, at = 0;
    memcpy(thread->bias, scratch->mean_bias, (size_t)slots * sizeof(*thread->bias));
    for (int64_t panel = 0; panel < scratch->mean_panels; panel++) {
        int64_t first = panel * ATTEND_PANEL_KEYS, end = first + ATTEND_PANEL_KEYS;
        int64_t open = (end < problem->key_blocks ? end : problem->key_blocks) - first;
        for (; at < kept_count && kept[at] < end; at++, open--)
            thread->bias[kept[at]] = -INFINITY;
        if (open == 0)
            continue;
        int64_t offset = (head * scratch->mean_panels + panel) * scratch->panel_floats;
        thread->panels[count++] = (struct attend_panel){.kt = scratch->mean_kt + offset,
                                                        .v = scratch->mean_v + offset,
                                                        .bias = thread->bias + first};
    }
    return count;
}

static int64_t list_panels(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                           const struct task_cpu *task, const struct thread_cpu *thread)
{
    const struct problem *problem = run->problem;
    int64_t head = first + task->head, count = 0;
    if (task->block >= problem->query_blocks || !run->list)
        return add_every_block(problem, scratch, task->head, thread->panels);
    int64_t row = list_row(problem, head, task->block), begin = run->list->row_ptr[row];
    int64_t kept_count = run->list->row_ptr[row + 1] - begin;
    const int32_t *kept = run->list->block_idx + begin;
    for (int64_t i = 0; i < kept_count; i++)
        count = add_block(problem, scratch, task->head, kept[i], thread->panels, count);
    if (run->compensation)
        count = add_means(problem, scratch, head, kept, kept_count, thread, count);
    return count;
}

static void store_lse(const struct run *run, int64_t head, int64_t begin, int64_t rows,
                      const float *lse)
{
    struct rows to = rows_of(run->problem, run->lse, head);
    for (int64_t i = 0; i < rows; i++)
        rows_store(&to, begin + i, lse + i);
}

/* Probe rows: every key, straight into scratch. */
static void attend_probes(const struct run *run, const struct scratch_cpu *scratch,
                          const struct task_cpu *task, struct attend_tile *tile)
{
    const struct problem *problem = run->problem;
    int64_t begin = (task->block - problem->query_blocks) * ATTEND_MAX_ROWS;
    int64_t offset = (task->head * problem->probes + begin) * problem->desc.head_dim;
    int64_t rows = problem->probes - begin;
    tile->rows = (int32_t)(rows < ATTEND_MAX_ROWS ? rows : ATTEND_MAX_ROWS);
    tile->q = scratch->probe_q + offset;
    tile->o = scratch->exact + offset;
    tile->lse = NULL;
    cpu_kernel_of(problem)->attend(tile);
}

static void attend_block(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                         const struct task_cpu *task, const struct thread_cpu *thread,
                         struct attend_tile *tile)
{
    const struct problem *problem = run->problem;
    int64_t begin = problem->query_begin[task->block], head = first + task->head;
    int64_t rows = block_length(problem->query_begin, task->block);
    int64_t offset = (task->head * problem->tokens + begin) * problem->desc.head_dim;
    bool waits = run->probes && task->block < problem->video_query_blocks;
    tile->rows = (int32_t)rows;
    tile->q = scratch->q + offset;
    tile->o = waits ? scratch->o + offset : thread->o;
    tile->lse = run->lse ? thread->lse : NULL;
    cpu_kernel_of(problem)->attend(tile);
    if (run->lse)
        store_lse(run, head, begin, rows, thread->lse);
    if (waits)
        return;
    struct rows to = rows_of(problem, run->o, head);
    for (int64_t i = 0; i < rows; i++)
        rows_store(&to, begin + i, thread->o + i * problem->desc.head_dim);
}

static bool comes_before(const struct task_cpu *a, const struct task_cpu *b)
{
    if (a->cost != b->cost)
        return a->cost > b->cost;
    return a->head != b->head ? a->head < b->head : a->block < b->block;
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

static int64_t list_tasks(const struct run *run, const struct scratch_cpu *scratch, int64_t first,
                          int64_t count)
{
    const struct problem *problem = run->problem;
    int64_t tasks = 0, rows;
    for (int64_t index = 0; index < count; index++) {
        int64_t tiles = run->probes && !head_is_full(run, first + index) ? probe_tiles(problem) : 0;
        for (int64_t block = 0; block < problem->query_blocks + tiles; block++) {
            int64_t row = list_row(problem, first + index, block), blocks = problem->key_blocks;
            rows = ATTEND_MAX_ROWS;
            if (block < problem->query_blocks) {
                rows = block_length(problem->query_begin, block);
                if (run->list)
                    blocks = run->list->row_ptr[row + 1] - run->list->row_ptr[row];
            }
            scratch->tasks[tasks++] =
                (struct task_cpu){(blocks + 1) * rows, (int32_t)index, (int32_t)block};
        }
    }
    sort_longest_first(scratch->tasks, tasks);
    return tasks;
}

draftattn_status cpu_attend(const struct run *run, int64_t first, int64_t count)
{
    const struct problem *problem = run->problem;
    struct scratch_cpu scratch;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
    int64_t tasks = list_tasks(run, &scratch, first, count);
#pragma omp parallel num_threads(problem->threads)
    {
        struct thread_cpu thread = scratch_cpu_thread(problem, &scratch, omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; i++) {
            const struct task_cpu *task = &scratch.tasks[i];
            struct attend_tile tile = {.panels = thread.panels, .scratch = thread.work};
            tile.panel_count = list_panels(run, &scratch, first, task, &thread);
            if (task->block < problem->query_blocks)
                attend_block(run, &scratch, first, task, &thread, &tile);
            else
                attend_probes(run, &scratch, task, &tile);
        }
    }
    return DRAFTATTN_SUCCESS;
}
