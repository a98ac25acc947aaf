/* The work of draftattn bench: every kernel on every grid, within a time limit. */
#ifndef PIPELINE_CLI_BENCH_JOBS_H
#define PIPELINE_CLI_BENCH_JOBS_H

#include "bench_report.h"
#include "console.h"

struct bench_settings {
    struct bench_grid grids[BENCH_MAX_GRIDS]; /* fewest tokens first */
    int grid_count;
    draftattn_kernel_info kernels[BENCH_MAX_KERNELS]; /* fastest first */
    int kernel_count;
    double sparsity[BENCH_MAX_SPARSITY];
    int sparsity_count;
    draftattn_plan_desc desc; /* policy, compensation, probes, repair; in_dtype */
    bool any_dtype; /* in_dtype is not asked for: F32, on CUDA BF16 where the kernel has it */
    int32_t threads;
    int runs;     /* at most */
    double limit; /* seconds */
    bool break_even;
    int32_t break_even_heads, break_even_head_dim;
};

/* Fills report, which points into settings and has to be freed in every case: after Ctrl-C it holds
 * what was done until then. */
bool bench_jobs_run(const struct bench_settings *settings, struct console *console,
                    struct bench_report *report, struct error *error);
void bench_jobs_free(struct bench_report *report);

#endif
