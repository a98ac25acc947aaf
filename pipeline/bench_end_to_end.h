/*
 * Timing whole networks: text encoder, transformer with dense and with draft attention, VAE, one
 * after the other on one device as a generation has them, and from that what a generation takes.
 *
 *     settings = (struct end_to_end_settings){.model = &model, .video = ..., ...}
 *     end_to_end_run(&settings, &events, &report, error)
 *     end_to_end_generation(&settings, &report, &report.rows[1], 0)
 */
#ifndef PIPELINE_BENCH_END_TO_END_H
#define PIPELINE_BENCH_END_TO_END_H

#include "bench.h"
#include "generate.h"
#include "memory_plan.h"
#include "tensor/ops_profile.h"

#define END_TO_END_MAX_SHARES 4

struct end_to_end_settings {
    const struct model *model;
    /* Filled by generate_settings_fill(). Prompts and output are not looked at: there are as many
     * tokens of text as the transformer takes, and no file. */
    struct generate_settings video;
    double sparsity[BENCH_MAX_SPARSITY];
    int sparsity_count;
    double shares[END_TO_END_MAX_SHARES]; /* of the steps that stay dense, in [0, 1] */
    int share_count;
    int runs;  /* steps of each row that are timed, after one that is not; at most BENCH_MAX_RUNS */
    bool full; /* also denoises with all steps, for every row and share */
};

/* The transformer with one kind of attention. Seconds. */
struct end_to_end_row {
    bool dense;
    double sparsity;                          /* asked for; 0 for dense */
    double density;                           /* of its calls */
    double forward, forward_min, forward_max; /* a forward pass: median, and its spread */
    double step;                              /* a step's passes, guidance and sampler: median */
    struct profile_times parts; /* of a forward pass, measured with waiting in between: shares */
    double denoise[END_TO_END_MAX_SHARES]; /* all steps, by share; NaN = not run. Dense: the same
                                              for every share */
};

struct end_to_end_report {
    char device[sizeof((struct runtime *)0)->name];
    const char *kernel; /* static */
    bool gpu;
    enum element activations;
    int64_t tokens, text_tokens;
    int passes; /* forward passes of a step: 2 with guidance */
    /* Seconds. load: text encoder, transformer, VAE's decoder; text: of all prompts of a generation
     */
    double load_text, load_transformer, load_vae, text, decode;
    struct memory_plan memory;
    /* Bytes, measured: on a GPU what was taken on it, by whomever, in each phase; on the CPU of the
     * process, and 0 by phase. */
    int64_t peak, peak_text, peak_denoise, peak_decode;
    int row_count; /* dense first */
    struct end_to_end_row rows[1 + BENCH_MAX_SPARSITY];
};

/* Refuses what does not fit into memory before any weight is read. After Ctrl-C report holds the
 * rows that were done. */
bool end_to_end_run(const struct end_to_end_settings *settings,
                    const struct generate_events *events, struct end_to_end_report *report,
                    struct error *error);

/* What a generation takes, without loading and writing. Seconds. */
struct end_to_end_generation {
    double total, text, decode;
    double denoise[PROFILE_KIND_COUNT]; /* by the shares of the rows; the three parts make up the
                                           total */
    bool measured;                      /* all steps were run; else reckoned from the medians */
};

/* One whose first steps are dense, by an index into shares, and the others this row's. */
struct end_to_end_generation end_to_end_generation(const struct end_to_end_settings *settings,
                                                   const struct end_to_end_report *report,
                                                   const struct end_to_end_row *row, int share);

#endif
