/*
 * What `draftattn compare` found, as plain data: one baseline and any number of variants from one
 * seed and one prompt. compare.c fills it, the report and the tables read it.
 */
#ifndef PIPELINE_COMPARISON_H
#define PIPELINE_COMPARISON_H

#include "generate.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stdint.h>

/* How close a variant's video is to the baseline's, by FFmpeg's definitions on the planes of the
 * written files. */
struct comparison_quality {
    double *psnr, *ssim; /* [frames] */
    double psnr_all;     /* infinity = identical */
    double ssim_all;
    double psnr_rgb;     /* of the frames before encoding */
    int64_t worst_frame; /* by PSNR */
};

/* One head at one step: its draft map and what was computed exactly. */
struct comparison_map {
    int32_t step, layer, head;
    bool negative;                    /* of the forward pass with the negative prompt */
    int64_t query_blocks, key_blocks; /* of the video */
    float *map;                       /* [query_blocks][key_blocks], softmax over key blocks */
    uint8_t *mask;                    /* the same shape: 1 = computed exactly */
    double density;                   /* of this head, text included */
    double error, error_before;       /* estimated relative L2 error; NaN without probes */
};

struct comparison_variant {
    char label[96]; /* "dense", "draft 90 %", "draft-paper 75 %" */
    draftattn_plan_desc attention;
    struct generate_report report;
    double attention_seconds;          /* sum of all stages; NaN where they are */
    char *video;                       /* the written file */
    uint8_t *frames;                   /* [frames][height][width][3] before encoding */
    struct comparison_quality quality; /* of the baseline: against itself */
    /* Estimated error, [steps][layers]: over heads and guidance passes. NaN where the call was
     * dense or had no probes. */
    float *error_median, *error_worst;
    struct comparison_map *maps; /* NULL for the baseline */
    int64_t map_count;
    char words[768];        /* what attention did in the last step (in its first sparse layer, if
                               there is one), and why */
    double capture_seconds; /* what collecting all of this took; not in the report's times */
};

struct comparison {
    const char *model, *prompt, *negative_prompt;
    const struct generate_settings *settings; /* common to all; resolved */
    const char *command;                      /* as the user typed it */
    const char *machine;                      /* "AMD EPYC, 2 threads" */
    int64_t width, height, frames, steps, layers, heads;
    double fps;
    struct comparison_variant *variants; /* [0] is the baseline */
    int64_t variant_count;
    bool measured;      /* all of the above is there */
    char *side_by_side; /* the written file; NULL = none */
    const char *page;   /* the written report; NULL = none */
};

#endif
