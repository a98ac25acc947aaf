/* A generation under way, shared by the files that make it: generate.c, generate_text.c and
 * generate_state.c. */
#ifndef PIPELINE_GENERATION_H
#define PIPELINE_GENERATION_H

#include "generate.h"
#include "models/scheduler.h"
#include "run_state.h"

/* What the state file has. */
struct generation_kept {
    int64_t step;   /* steps done; 0 = this run has written none */
    double written; /* when; clock_seconds() */
    double seconds; /* spent on it, all in all */
    char why[256];  /* what the last step could not be saved for; "" */
};

/* Seconds of the steps of this run, dense ones and sparse ones. */
struct generation_times {
    float *dense, *sparse; /* [steps] each */
    double start, kept;    /* when the step under way began, and kept.seconds then */
};

struct generation {
    const struct model *model;
    const struct generate_settings *settings;
    const struct generate_events *events;
    struct generate_report *report;
    struct runtime runtime;
    struct memory_query query;
    draftattn_plan_desc attention;
    struct self_attention *attend; /* while it denoises, as is the scheduler */
    struct scheduler *scheduler;
    struct generate_text *text;
    bool guided;
    int64_t shape[4]; /* of the latents */
    int64_t elements;
    float *latents;
    bool denoised; /* latents are those of the last step */
    struct generation_kept kept;
    struct generation_times times;
    char comment[1024];
    enum generate_phase phase; /* that progress reports are about */
};

void generation_note(const struct generation *g, const char *text);

/* Progress reports are about this phase from here on. */
struct progress generation_enter(struct generation *g, enum generate_phase phase);

/* Encodes the prompts, or takes them from an earlier run with what they took then. */
bool generation_prepare_text(struct generation *g, struct error *error);

/* For struct denoise. What fails here does not stop the work: it is said in a note. */
bool generation_save_due(void *user, int32_t steps_done);
bool generation_save(void *user, int32_t steps_done, const float *latents,
                     const float *const *history, int count, struct error *error);

/* After a failure or an interruption: saves latents that are complete, and says in error what is
 * kept and where. */
void generation_rescue(struct generation *g, struct error *error);
/* After the video is there: removes the state file of this run, and the one it resumed. */
void generation_forget(struct generation *g);

#endif
