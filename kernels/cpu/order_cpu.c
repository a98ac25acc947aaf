/*
 * Owns the way into block order for keys and values that cannot be used where the caller has them:
 * rows of floats, one behind the other. One pass, which also converts. Queries are read once and
 * need no copy.
 */
#include "stages_cpu.h"

static void copy_block(const struct run *run, const draftattn_tensor *from, int64_t head,
                       int64_t block, float *out)
{
    const struct problem *problem = run->problem;
    struct rows rows = rows_of(problem, from, head);
    for (int64_t i = problem->key_begin[block]; i < problem->key_begin[block + 1]; i++)
        rows_load(&rows, i, out + i * rows.count);
}

draftattn_status cpu_gather(const struct run *run, int64_t first, int64_t count)
{
    const struct problem *problem = run->problem;
    int64_t blocks = problem->key_blocks, head_floats = problem->tokens * problem->desc.head_dim;
    struct scratch_cpu scratch;
    if (keys_are_in_place(run))
        return DRAFTATTN_SUCCESS;
    scratch_cpu_open(problem, run->scratch, &scratch, NULL);
#pragma omp parallel for schedule(static) num_threads(problem->threads)
    for (int64_t i = 0; i < count * blocks; i++) {
        int64_t index = i / blocks, block = i % blocks;
        copy_block(run, run->k, first + index, block, scratch.k + index * head_floats);
        copy_block(run, run->v, first + index, block, scratch.v + index * head_floats);
    }
    return DRAFTATTN_SUCCESS;
}
