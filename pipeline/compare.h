/*
 * Dense attention and any number of variants, from one seed and one prompt, in one process: videos,
 * times, likeness, and what attention did.
 *
 *     compare_run(&job, &comparison, error)
 *     ... comparison.h says what is in it ...
 *     comparison_free(&comparison)
 */
#ifndef PIPELINE_COMPARE_H
#define PIPELINE_COMPARE_H

#include "capture.h"
#include "comparison.h"

struct compare_variant {
    char label[sizeof((struct comparison_variant *)0)->label];
    char name[96]; /* of its video, without extension */
    draftattn_plan_desc attention;
};

struct compare_job {
    const struct model *model;
    const struct generate_settings *settings; /* resolved; output and text are not looked at */
    const struct compare_variant *variants;   /* [0] is the baseline */
    int64_t variant_count;
    const struct capture_place *places; /* as in struct capture_desc */
    int32_t place_count;
    /* Outputs: prefix + name + ".mp4", prefix + "side-by-side.mp4", the report, the figures. */
    const char *prefix, *report, *json;
    const char *command, *machine; /* for the report */
    const struct generate_events *events;
    /* Called before the events of a run (index < count), and of what follows the last (index =
     * count; label says what). May be NULL. */
    void (*begin)(void *user, int64_t index, int64_t count, const char *label);
};

/* The videos are written by FFmpeg at a quality well above what is compared; figures about videos
 * are those of the written files. Loading the networks and encoding the prompt are the same work
 * for all variants and count the same in all; frames and maps are collected outside of the times.
 *
 * What can be refused is refused before the first run. After a failure or an interruption the
 * videos that were finished stay; once out->measured, files that cannot be written keep none of the
 * others away, and the message names each. out is to be freed in every case. */
bool compare_run(const struct compare_job *job, struct comparison *out, struct error *error);

void comparison_free(struct comparison *comparison);

/* The figures as one JSON object, indented; malloc'd, NULL without memory. What was not measured is
 * null, as is the PSNR of identical frames. */
char *comparison_json(const struct comparison *comparison);

#endif
