/*
 * Owns the search for the break-even: grids of growing length, each contender beside dense in the
 * same turns, and the length where the ratio of their fastest runs crosses 1, interpolated between
 * the last grid that did not pay and the first that did. A contender that has paid on two grids in
 * a row is done.
 */
#include "bench.h"

#include "clock.h"

#include <math.h>
#include <stdlib.h>

/* In frames of 8 x 16 tokens: query blocks. */
static const int64_t lengths[] = {2,  3,  4,  5,  6,  8,  10, 12,  14,  16, 20,
                                  24, 28, 32, 40, 48, 64, 96, 128, 192, 256};

_Static_assert(BENCH_SHORTEST == 2 * 8 * 16, "the first of lengths");

/* The last are for devices, where dense is cheap and the other stages have a floor. */
#define LENGTHS_DEVICE (sizeof lengths / sizeof *lengths)
#define LENGTHS_CPU    (LENGTHS_DEVICE - 4)
#define RUNS           5
#define ENOUGH         2

struct crossing {
    double tokens, ratio; /* of the grid before */
    int paid;             /* grids in a row */
    bool done;
};

static double fastest(const struct bench_contender *contender)
{
    double best = INFINITY;
    for (int run = 0; run < contender->runs; run++)
        best = fmin(best, contender->seconds[run]);
    return best;
}

/* Takes in the ratio to dense on a grid of so many tokens. */
static void advance(struct crossing *c, struct bench_break_even *row, double tokens, double ratio)
{
    if (ratio >= 1) {
        c->paid = 0;
        row->measured = NAN;
    } else if (c->paid++ == 0) {
        double part = (c->ratio - 1) / (c->ratio - ratio);
        row->measured = c->tokens > 0 ? c->tokens + part * (tokens - c->tokens) : 0;
    }
    c->tokens = tokens;
    c->ratio = ratio;
    c->done = c->paid == ENOUGH;
}

static bool measure_length(struct bench_lab *lab, const struct bench_setup *setup,
                           const draftattn_plan_desc *desc, struct bench_break_even *rows,
                           struct crossing *crossings, int count, struct error *error)
{
    draftattn_plan_desc dense = *desc, sparse = *desc;
    double warm_up;
    dense.policy = DRAFTATTN_POLICY_DENSE;
    if (!bench_lab_open(lab, setup, error) || !bench_lab_add(lab, &dense, error))
        return false;
    for (int i = 0; i < count; i++) {
        sparse.sparsity = rows[i].sparsity;
        sparse.probes = rows[i].probes;
        if (!crossings[i].done && !bench_lab_add(lab, &sparse, error))
            return false;
    }
    for (int i = 0; i < lab->count; i++)
        if (!bench_lab_run(lab, i, &warm_up, error))
            return false;
    for (int i = 0; i < RUNS * lab->count; i++)
        if (!bench_lab_run(lab, i % lab->count, NULL, error))
            return false;
    double limit = fastest(&lab->contenders[0]);
    for (int i = 0, at = 1; i < count; i++) {
        if (crossings[i].done)
            continue;
        const struct bench_contender *contender = &lab->contenders[at++];
        rows[i].predicted = contender->info.break_even_tokens;
        advance(&crossings[i], &rows[i], (double)contender->info.tokens,
                fastest(contender) / limit);
    }
    return true;
}

static bool all_done(const struct crossing *crossings, int count)
{
    for (int i = 0; i < count; i++)
        if (!crossings[i].done)
            return false;
    return true;
}

bool bench_break_even_measure(const struct bench_setup *setup, const draftattn_plan_desc *desc,
                              struct bench_break_even *rows, int count, double deadline,
                              struct error *error)
{
    struct crossing crossings[BENCH_MAX_SPARSE] = {{0}};
    struct bench_setup grown = *setup;
    struct bench_lab *lab = calloc(1, sizeof *lab);
    const size_t count_of_lengths =
        setup->kernel.backend == DRAFTATTN_BACKEND_CUDA ? LENGTHS_DEVICE : LENGTHS_CPU;
    bool ok = true;
    if (!lab)
        return error_out_of_memory(error, "the measurement", sizeof *lab);
    for (int i = 0; i < count; i++)
        rows[i].measured = NAN;
    for (size_t i = 0; ok && i < count_of_lengths && !all_done(crossings, count); i++) {
        double start = clock_seconds();
        grown.grid = (draftattn_grid){lengths[i], 8, 16, 0};
        ok = measure_length(lab, &grown, desc, rows, crossings, count, error);
        bench_lab_close(lab);
        double next = clock_seconds() - start; /* at the least */
        if (clock_seconds() + next > deadline)
            break;
    }
    free(lab);
    return ok;
}
