/*
 * What was denoised is not lost: the state becomes a file when the loop stops early, when asked
 * for, and once a minute, which is what a killed process loses at most. Complete latents are saved
 * where decoding fails.
 */
#include "generation.h"

#include "clock.h"
#include "shell_word.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITE_SECONDS 60.0

bool generation_save_due(void *user, int32_t steps_done)
{
    struct generation *g = user;
    int64_t every = g->settings->save_every;
    double now = clock_seconds();
    return (every > 0 && steps_done % every == 0) || now - g->kept.written >= WRITE_SECONDS;
}

static bool write_state(struct generation *g, int64_t step, const float *latents,
                        const float *const *history, int count, struct error *error)
{
    const struct run_state_to_write state = {
        .model = g->model,
        .settings = g->settings,
        .runtime = &g->runtime.desc,
        .step = step,
        .shape = g->shape,
        .latents = latents,
        .history = history,
        .history_count = count,
    };
    if (!run_state_write(g->settings->state, &state, error))
        return false;
    g->kept.step = step;
    return true;
}

bool generation_save(void *user, int32_t steps_done, const float *latents,
                     const float *const *history, int count, struct error *error)
{
    struct generation *g = user;
    struct error why = {.usage = false};
    double start = clock_seconds();
    bool ok = write_state(g, steps_done, latents, history, count, &why);
    if (!ok && !error) { /* the loop has stopped: rescue() says it */
        snprintf(g->kept.why, sizeof g->kept.why, "%.*s", (int)sizeof g->kept.why - 1, why.text);
    } else if (!ok) {
        char text[sizeof why.text + 32];
        snprintf(text, sizeof text, "the state is not saved: %s", why.text);
        generation_note(g, text);
    }
    g->kept.written = clock_seconds(); /* once a minute is enough of failures, too */
    g->kept.seconds += g->kept.written - start;
    return true;
}

static void say_kept(const struct generation *g, int64_t step, struct error *error)
{
    const char *state = g->settings->state;
    char *word = malloc(SHELL_WORD_SIZE(strlen(state)));
    if (word)
        shell_word(word, state);
    error_append(error,
                 "; %" PRId64 " of %" PRId64
                 " steps are kept, go on from there with: draftattn generate --resume %s",
                 step, g->settings->steps, word ? word : state);
    free(word);
}

void generation_rescue(struct generation *g, struct error *error)
{
    const int64_t steps = g->settings->steps;
    const struct run_state *resumed = g->settings->resume;
    struct error why = {.usage = false};
    const char *reason = g->kept.why;
    bool complete = g->denoised && (!resumed || resumed->step < steps);
    if (!g->settings->state)
        return;
    if (complete && g->kept.step < steps && !write_state(g, steps, g->latents, NULL, 0, &why))
        reason = why.text;
    if (reason[0])
        error_append(error, "; what was denoised could not be kept (%s)", reason);
    int64_t step = g->kept.step > 0 ? g->kept.step : resumed ? resumed->step : 0;
    if (g->kept.step > 0 || (step > 0 && error && error->interrupted))
        say_kept(g, step, error);
}

void generation_forget(struct generation *g)
{
    if (g->settings->state && (g->kept.step > 0 || g->settings->resume))
        unlink(g->settings->state);
}
