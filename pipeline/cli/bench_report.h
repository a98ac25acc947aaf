/* What draftattn bench found, as a table, CSV or JSON. */
#ifndef PIPELINE_CLI_BENCH_REPORT_H
#define PIPELINE_CLI_BENCH_REPORT_H

#include "../bench.h"

#include <stdio.h>

#define BENCH_MAX_KERNELS 32
#define BENCH_MAX_GRIDS   16

struct bench_grid {
    const char *name; /* of a preset; NULL = given by its numbers */
    draftattn_grid grid;
    int32_t heads, head_dim;
};

/* One grid on one kernel. */
struct bench_result {
    const struct bench_grid *grid;
    const draftattn_kernel_info *kernel;
    int32_t heads; /* measured: as many as there was time and memory for */
    draftattn_dtype dtype;
    int row_count; /* dense first; 0 = left out */
    struct bench_row rows[BENCH_MAX_SPARSITY + 1];
    char why[256]; /* it was left out */
};

struct bench_break_evens {
    const draftattn_kernel_info *kernel;
    int32_t heads, head_dim;
    draftattn_dtype dtype;
    int count;
    struct bench_break_even rows[BENCH_MAX_SPARSE];
    char why[256]; /* it was left out */
};

struct bench_report {
    char cpu[128];
    char device[320]; /* "" where no kernel is of CUDA */
    int32_t threads;
    draftattn_plan_desc desc; /* policy, compensation and probes of the sparse runs */
    double peak[DRAFTATTN_BACKEND_CUDA + 1]; /* GFLOP/s by backend; 0 = not measured */
    int result_count, break_even_count;
    struct bench_result *results;
    struct bench_break_evens break_evens[BENCH_MAX_KERNELS];
};

int64_t bench_grid_tokens(const struct bench_grid *grid);

/* "float32" or "bfloat16", as --dtype takes them. */
const char *bench_dtype_name(draftattn_dtype dtype);

/* "wan-480p", or "21x30x52+256" where it has no name. */
void bench_grid_name(const struct bench_grid *grid, char *text, size_t size);

void bench_report_table(FILE *out, const struct bench_report *report);
void bench_report_csv(FILE *out, const struct bench_report *report);
bool bench_report_json(FILE *out, const struct bench_report *report, struct error *error);

#endif
