/*
 * Timing attention: libdraftattn on random data of a real grid's shape, dense and sparse runs
 * taking turns, so that what else the machine does meets all of them.
 *
 *     bench_lab_open(&lab, &(struct bench_setup){...}, error)
 *     bench_lab_add(&lab, &desc, error)                once for each contender
 *     bench_lab_run(&lab, contender, error)            as often as there is time
 *     bench_lab_row(&lab, contender, &row)
 */
#ifndef PIPELINE_BENCH_H
#define PIPELINE_BENCH_H

#include "error.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stdint.h>

#define BENCH_SEED         1
#define BENCH_MAX_SPARSITY 16
#define BENCH_MAX_RUNS     100

/* Beside dense: every sparsity without probe rows and with them. */
#define BENCH_MAX_SPARSE (2 * BENCH_MAX_SPARSITY)

struct bench_setup {
    draftattn_kernel_info kernel;
    draftattn_grid grid;
    int32_t heads, head_dim;
    draftattn_dtype dtype; /* of q, k, v and o: F32 or BF16 */
    int32_t threads;
};

struct bench_contender {
    draftattn_plan *plan;
    draftattn_plan_desc desc;
    draftattn_plan_info info;
    draftattn_stats stats; /* of the last run */
    int runs;
    double seconds[BENCH_MAX_RUNS];
    double stages[DRAFTATTN_STAGE_COUNT][BENCH_MAX_RUNS];
};

/* One grid on one kernel, with its data and everything that is timed on it. */
struct bench_lab {
    struct bench_setup setup;
    draftattn_context *context;
    int count;
    struct bench_contender contenders[1 + BENCH_MAX_SPARSE];
    bool device; /* data and workspace are in device memory */
    void *data;  /* q, k, v, o, each [heads][tokens][head_dim] */
    void *workspace;
    size_t workspace_bytes;
};

/* What a contender did. Seconds are what a caller waits for: on a device until its work is done.
 * Operations: 4 head_dim for each pair of a query and an exact key, a block's means counting as one
 * key, probe rows included; by them gflops is reckoned over the whole run. */
struct bench_row {
    int runs;
    double sparsity; /* asked for; 0 for dense */
    bool dense;
    double density;
    double median, min, max;              /* seconds */
    double stages[DRAFTATTN_STAGE_COUNT]; /* NaN where the backend tells none */
    double flops, gflops;
    double error; /* estimated, median over heads; NaN = not measured */
};

/* Makes context and data. lab is zeroed by the caller and closed in every case. */
bool bench_lab_open(struct bench_lab *lab, const struct bench_setup *setup, struct error *error);

/* Adds a contender: desc without grid, heads and head_dim, and without guards. What the library
 * refuses is a mistake of use. */
bool bench_lab_add(struct bench_lab *lab, const draftattn_plan_desc *desc, struct error *error);

/* Runs a contender once; *seconds, where asked for, instead of into its samples. Fails after
 * Ctrl-C. */
bool bench_lab_run(struct bench_lab *lab, int contender, double *seconds, struct error *error);

void bench_lab_row(const struct bench_lab *lab, int contender, struct bench_row *row);
void bench_lab_close(struct bench_lab *lab);

/* Bytes that q, k, v and o of so many heads take; INT64_MAX where they leave 64 bits. */
int64_t bench_data_bytes(const draftattn_grid *grid, int64_t heads, int64_t head_dim,
                         draftattn_dtype dtype);

/* Bytes that can be taken where a backend keeps its data. */
int64_t bench_memory_available(draftattn_backend backend);

/* Operations of a dense run: 4 head_dim for each pair of tokens. */
double bench_dense_flops(const draftattn_grid *grid, int64_t heads, int64_t head_dim);

/* Random q, k and v [heads][tokens][head_dim] of the heads from first on, the same for a seed:
 * neighbours in space and time are alike, and attend to each other; text is noise. */
void bench_fill(const draftattn_grid *grid, int64_t first, int64_t heads, int64_t head_dim,
                uint64_t seed, float *q, float *k, float *v);

/* Values in a type, F32 or BF16 (to nearest, ties to even). */
void bench_round(const float *values, int64_t count, draftattn_dtype dtype, void *out);

/* GFLOP/s of multiply-adds in registers on all threads, with the vectors of a CPU backend. */
double bench_peak(draftattn_backend backend, int32_t threads);

/* GFLOP/s of the CUDA device in cuBLAS's product of large bfloat16 matrices; 0 where there is no
 * device or no cuBLAS. Takes 400 MB of its memory. */
double bench_peak_device(void);

#define BENCH_SHORTEST 256 /* tokens of the smallest grid */

/* Where a sparse run takes as long as a dense one, on grids of n x 8 x 16 tokens. */
struct bench_break_even {
    double sparsity;
    int32_t probes;
    double measured; /* tokens, by interpolation; 0 = it paid on the smallest grid, NaN = on none */
    int64_t predicted; /* the plan's; INT64_MAX = never */
};

/* Fills rows[count], of which there are at most BENCH_MAX_SPARSE, for the settings with these
 * sparsities and probes; setup without grid. Fails after Ctrl-C. */
bool bench_break_even_measure(const struct bench_setup *setup, const draftattn_plan_desc *desc,
                              struct bench_break_even *rows, int count, double deadline,
                              struct error *error);

#endif
