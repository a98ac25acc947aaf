/* draftattn bench --end-to-end: its options, from what was given to figures on standard output. */
#ifndef PIPELINE_CLI_END_TO_END_H
#define PIPELINE_CLI_END_TO_END_H

#include "bench_jobs.h"
#include "end_to_end_report.h"
#include "options.h"

/* A command keeps one in a member called flow of its struct arguments. */
struct end_to_end_arguments {
    bool wanted, offload, full, markdown;
    const char *synthetic, *model, *size, *dense_steps, *device, *precision; /* NULL = not given */
    double shares[END_TO_END_MAX_SHARES]; /* what dense_steps says */
    int share_count;
    struct option_int frames, steps;
    struct option_real cfg;
};

#define END_TO_END_ROWS                                                                            \
    OPTION_ROW_HEADING("Whole networks"),                                                          \
        OPTION_ROW_FLAG(0, "end-to-end", flow.wanted,                                              \
                        "time text encoder, transformer and VAE instead of attention alone; the "  \
                        "options below go with it"),                                               \
        OPTION_ROW_TEXT('m', "model", "FOLDER", flow.model,                                        \
                        "Wan2.1 model (default: $DRAFTATTN_MODEL, else the bundled model)"),       \
        OPTION_ROW_TEXT(0, "synthetic", "NAME", flow.synthetic,                                    \
                        "wan2.1-t2v-1.3b or wan2.1-t2v-14b with random weights instead"),          \
        OPTION_ROW_TEXT(0, "size", "WxH", flow.size, "in pixels (default: the model's)"),          \
        OPTION_ROW_INT('f', "frames", "N", flow.frames, 1, 9999, "(default: the model's)"),        \
        OPTION_ROW_INT('s', "steps", "N", flow.steps, 1, 1000,                                     \
                       "of the generation that is reckoned (default: the model's)"),               \
        OPTION_ROW_REAL(0, "cfg", "X", flow.cfg, 0, 100,                                           \
                        "guidance; up to 1 = none, one pass a step (default: the model's)"),       \
        OPTION_ROW_TEXT(0, "dense-steps", "LIST", flow.dense_steps,                                \
                        "shares of the steps that stay dense (default: 0.2,0.1)"),                 \
        OPTION_ROW_FLAG(0, "full", flow.full, "run all steps instead of reckoning from a few"),    \
        OPTION_ROW_TEXT(0, "device", "NAME", flow.device,                                          \
                        "auto, cpu or cuda[:N] (default: auto)"),                                  \
        OPTION_ROW_TEXT(0, "precision", "NAME", flow.precision,                                    \
                        "bf16 or float32 (default: bf16 on a GPU)"),                               \
        OPTION_ROW_FLAG(0, "offload", flow.offload,                                                \
                        "keep the transformer's blocks in host memory"),                           \
        OPTION_ROW_FLAG(0, "markdown", flow.markdown, "tables in Markdown")

/* common: sparsity, desc, runs and threads. backend: of attention, NULL = the device's fastest. */
bool end_to_end_command(const struct end_to_end_arguments *arguments,
                        const struct bench_settings *common, const char *backend, bool json,
                        bool quiet, struct error *error);

#endif
