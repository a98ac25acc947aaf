/*
 * Prompts to rows for cross-attention: tokenizer and text encoder. The encoder is gone before the
 * transformer comes.
 */
#include "generation.h"

#include "clock.h"
#include "io/tokenizer.h"
#include "synthetic_prompt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void note_cut(const struct generation *g, const char *flag, int64_t cut)
{
    char message[160];
    snprintf(message, sizeof message,
             "%s is %" PRId64 " tokens longer than the %" PRId64
             " this model takes; its end is cut",
             flag, cut, g->model->transformer.text_len);
    generation_note(g, message);
}

/* tokenizer NULL = of a synthetic model. */
static bool tokenize_one(struct generation *g, const struct tokenizer *tokenizer, const char *flag,
                         const char *text, struct generate_prompt *out, struct error *error)
{
    int64_t limit = g->model->transformer.text_len, cut = 0;
    out->ids = calloc((size_t)limit, sizeof *out->ids);
    if (!out->ids)
        return error_out_of_memory(error, "prompt tokens", (size_t)limit * sizeof *out->ids);
    if (!tokenizer) {
        out->count = synthetic_prompt(text, out->ids, limit, g->model->text.vocab, &cut);
    } else if (!tokenizer_prompt(tokenizer, text, out->ids, limit, &out->count, &cut, error)) {
        error->usage = true;
        return error_prefix(error, "%s: ", flag);
    }
    for (int64_t i = 0; i < out->count; i++)
        if (out->ids[i] < 0 || out->ids[i] >= g->model->text.vocab)
            return error_set(
                error,
                "%s: token id %d of %s is outside the text encoder's vocabulary of %" PRId64
                "; the tokenizer and the encoder are not of one model",
                g->model->folder.tokenizer, out->ids[i], flag, g->model->text.vocab);
    if (cut > 0)
        note_cut(g, flag, cut);
    return true;
}

static bool tokenize(struct generation *g, struct error *error)
{
    struct tokenizer *tokenizer = NULL;
    const struct generate_settings *s = g->settings;
    bool ok =
        (g->model->synthetic || tokenizer_open(&tokenizer, g->model->folder.tokenizer, error)) &&
        tokenize_one(g, tokenizer, "--prompt", s->prompt, &g->text->prompt, error) &&
        (!g->guided || tokenize_one(g, tokenizer, "--negative-prompt", s->negative_prompt,
                                    &g->text->negative, error));
    tokenizer_close(tokenizer);
    return ok;
}

static bool encode_one(struct generation *g, struct umt5 *encoder, struct generate_prompt *prompt,
                       struct error *error)
{
    size_t bytes = (size_t)prompt->count * (size_t)g->model->text.width * sizeof(float);
    prompt->rows = malloc(bytes);
    if (!prompt->rows)
        return error_out_of_memory(error, "the encoded prompt", bytes);
    return umt5_encode(encoder, prompt->ids, prompt->count, prompt->rows, error);
}

static bool encode_text(struct generation *g, struct error *error)
{
    const struct model *model = g->model;
    const struct ops *ops = g->runtime.ops;
    struct checkpoint *weights = NULL;
    struct umt5 *encoder = NULL;
    double start = clock_seconds();
    struct progress progress = generation_enter(g, PHASE_LOAD);
    bool ok =
        model_open_weights(&weights, model->folder.text_encoder, model->folder.rename_text_encoder,
                           error) &&
        umt5_load(&encoder, &model->text, weights, ops, g->runtime.device, &progress, error) &&
        ops->synchronise(g->runtime.device, error);
    double loaded = clock_seconds();
    progress = generation_enter(g, PHASE_TEXT);
    ok = ok && progress_step(&progress, 0, 2, error) &&
         encode_one(g, encoder, &g->text->prompt, error) && progress_step(&progress, 1, 2, error) &&
         (!g->guided || encode_one(g, encoder, &g->text->negative, error)) &&
         progress_step(&progress, 2, 2, error);
    umt5_free(encoder);
    checkpoint_close(weights);
    g->text->encoded = ok;
    g->text->load_seconds = loaded - start;
    g->text->encode_seconds = clock_seconds() - loaded;
    return ok;
}

bool generation_prepare_text(struct generation *g, struct error *error)
{
    bool ready = g->text->encoded;
    if (!ready && !(tokenize(g, error) && encode_text(g, error)))
        return false;
    g->report->seconds[PHASE_LOAD] += g->text->load_seconds;
    g->report->seconds[PHASE_TEXT] += g->text->encode_seconds;
    if (ready)
        g->report->total_seconds += g->text->load_seconds + g->text->encode_seconds;
    return true;
}

void generate_text_free(struct generate_text *text)
{
    free(text->prompt.ids);
    free(text->prompt.rows);
    free(text->negative.ids);
    free(text->negative.rows);
    *text = (struct generate_text){0};
}
