/*
 * The bundled model, prompt to frames, against one run of diffusers' WanPipeline in float32 from
 * the same noise: token ids, prompt embeddings, final latents of a dense run, decoded frames. What
 * a user runs is compared here, so every part is opened the way the program opens it.
 */
#include "golden_generation.h"

#include "io/config.h"
#include "io/tokenizer.h"
#include "models/umt5.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define IDS_MAX           512
#define EMBEDS_TOLERANCE  1e-3
#define LATENTS_TOLERANCE 1e-3 /* relative L2 */
#define FRAMES_PSNR       50.0 /* dB, at least */
#define FRAMES_PSNR_BF16  38.0
#define COLOUR_TOLERANCE  2e-3 /* mean of a frame, of a range of 2 */

struct text {
    float *embeds; /* [rows][width] */
    int64_t rows;
};

struct run {
    const struct golden *golden;
    struct model_folder model;
    char prompt[1024];
    int64_t frames, height, width; /* of the video */
    int64_t steps, context_rows;
    double guidance, flow_shift;
    const struct stored_tensor *shape; /* of the noise: [channels][frames][height][width] */
    float *latents;                    /* noise, then what came out */
    struct text texts[2];              /* prompt, empty text */
};

static bool read_settings(struct run *run, struct error *error)
{
    char path[4200];
    struct config *config = NULL;
    int64_t size[3] = {0};
    snprintf(path, sizeof path, "%s/reference.json", run->golden->dir);
    bool ok = config_open(&config, path, error) &&
              config_ints(config, "size", 1, 1 << 20, size, 3, error) &&
              config_int(config, "steps", 1, 1000, &run->steps, error) &&
              config_int_or(config, "context_rows", 1, 4096, 512, &run->context_rows, error) &&
              config_float_or(config, "guidance", 0, 100, 4, &run->guidance, error) &&
              config_float_or(config, "shift", 1e-3, 100, 3, &run->flow_shift, error);
    const char *prompt = ok ? config_string(config, "prompt") : NULL;
    if (ok && !prompt)
        ok = error_set(error, "%s: has no field 'prompt'", path);
    if (ok)
        snprintf(run->prompt, sizeof run->prompt, "%s", prompt);
    run->frames = size[0];
    run->height = size[1];
    run->width = size[2];
    config_close(config);
    return ok;
}

static bool check_ids(const struct checkpoint *io, const char *name, const int32_t *ids,
                      int64_t count, struct error *error)
{
    float *want = NULL;
    const struct stored_tensor *info = NULL;
    if (!golden_floats(io, name, &want, &info, error))
        return false;
    bool ok = info->rank == 1 && info->shape[0] == count;
    if (!ok)
        error_set(error, "%s: the tokenizer gives %lld ids, expected %lld", name, (long long)count,
                  (long long)info->shape[0]);
    for (int64_t i = 0; ok && i < count; i++)
        if ((float)ids[i] != want[i])
            ok = error_set(error, "%s: id %lld is %d, expected %.0f", name, (long long)i, ids[i],
                           (double)want[i]);
    free(want);
    return ok;
}

/* Token ids and embeddings of one text, both compared. */
static bool encode_text(const struct golden *golden, const struct checkpoint *io,
                        const struct tokenizer *tokenizer, struct umt5 *umt5, int64_t width,
                        const char *which, const char *prompt, struct text *out,
                        struct error *error)
{
    char name[64];
    int32_t ids[IDS_MAX];
    int64_t count, cut;
    float *want = NULL;
    const struct stored_tensor *info = NULL;
    snprintf(name, sizeof name, "%s_ids", which);
    if (!tokenizer_prompt(tokenizer, prompt, ids, IDS_MAX, &count, &cut, error) ||
        !check_ids(io, name, ids, count, error))
        return false;
    out->rows = count;
    out->embeds = malloc((size_t)(count * width) * sizeof *out->embeds);
    if (!out->embeds)
        return error_out_of_memory(error, "embeddings", (unsigned long long)(count * width) * 4);
    snprintf(name, sizeof name, "%s_embeds", which);
    bool ok = umt5_encode(umt5, ids, count, out->embeds, error) &&
              golden_floats(io, name, &want, &info, error);
    if (ok && info->bytes != (size_t)(count * width) * sizeof *want)
        ok = error_set(error, "%s: is not [%lld][%lld] float32", name, (long long)count,
                       (long long)width);
    ok =
        ok && golden_close(golden, name, out->embeds, want, count * width, EMBEDS_TOLERANCE, error);
    free(want);
    return ok;
}

static bool encode_texts(struct run *run, const struct checkpoint *io, struct error *error)
{
    struct tokenizer *tokenizer = NULL;
    struct checkpoint *weights = NULL;
    struct umt5 *umt5 = NULL;
    struct umt5_config config;
    const struct golden *golden = run->golden;
    bool ok = tokenizer_open(&tokenizer, run->model.tokenizer, error) &&
              umt5_config_read(&config, run->model.text_encoder_config, error) &&
              checkpoint_open(&weights, run->model.text_encoder, error);
    if (ok) {
        checkpoint_set_rename(weights, run->model.rename_text_encoder);
        ok = umt5_load(&umt5, &config, weights, golden->ops, golden->device, NULL, error) &&
             encode_text(golden, io, tokenizer, umt5, config.width, "prompt", run->prompt,
                         &run->texts[0], error) &&
             encode_text(golden, io, tokenizer, umt5, config.width, "empty", "", &run->texts[1],
                         error);
    }
    umt5_free(umt5);
    checkpoint_close(weights);
    tokenizer_close(tokenizer);
    return ok;
}

static bool denoise(const struct run *run, struct error *error)
{
    const struct model_folder *model = &run->model;
    struct golden_denoise desc = {
        .transformer = {model->transformer_config, model->transformer, model->rename_transformer},
        .texts = {run->texts[0].embeds, run->texts[1].embeds},
        .rows = {run->texts[0].rows, run->texts[1].rows},
        .pad_to = run->context_rows,
        .steps = run->steps,
        .guidance = run->guidance,
        .flow_shift = run->flow_shift,
        .shape = run->shape->shape};
    return golden_denoise(run->golden, &desc, run->latents, error);
}

static bool check_latents(const struct run *run, const struct checkpoint *io, struct error *error)
{
    float *want = NULL;
    const bool rounded = run->golden->activations == ELEMENT_BF16;
    const struct stored_tensor *info = NULL;
    if (!golden_floats(io, "latents", &want, &info, error))
        return false;
    int64_t count = (int64_t)(info->bytes / sizeof *want);
    bool ok = info->bytes == run->shape->bytes
                  ? golden_near("latents", run->latents, want, count,
                                rounded ? GOLDEN_BF16_TOLERANCE : LATENTS_TOLERANCE, error)
                  : error_set(error, "latents: noise and result differ in size");
    free(want);
    return ok;
}

/* Compares frames as they are decoded. The case holds every stride-th one. */
struct sink {
    const uint8_t *want; /* [stored][height][width][3] */
    float *colour;       /* [frames][3] */
    int64_t stored, stride, frames, area, done;
    double squares;
};

static void take_frame(struct sink *sink, const float *frame)
{
    int64_t at = sink->done / sink->stride;
    const uint8_t *want = sink->done % sink->stride == 0 && at < sink->stored
                              ? sink->want + at * sink->area * 3
                              : NULL;
    double sums[3] = {0};
    for (int64_t i = 0; i < sink->area * 3; i++) {
        sums[i % 3] += (double)frame[i];
        if (want)
            sink->squares += pow(nearbyint(((double)frame[i] + 1) * 127.5) - want[i], 2);
    }
    for (int c = 0; c < 3; c++)
        sink->colour[sink->done * 3 + c] = (float)(sums[c] / (double)sink->area);
    sink->done++;
}

static bool take_frames(void *user, const float *frames, int64_t count, struct error *error)
{
    struct sink *sink = user;
    if (sink->done + count > sink->frames)
        return error_set(error, "the decoder gives more than the %lld frames expected",
                         (long long)sink->frames);
    for (int64_t f = 0; f < count; f++)
        take_frame(sink, frames + f * sink->area * 3);
    return true;
}

static bool decode(const struct run *run, struct sink *sink, struct error *error)
{
    const struct model_folder *model = &run->model;
    struct golden_network vae = {model->vae_config, model->vae, model->rename_vae};
    if (!golden_decode(run->golden, &vae, run->latents, run->shape->shape, take_frames, sink,
                       error))
        return false;
    if (sink->done != sink->frames)
        return error_set(error, "the decoder gives %lld frames, expected %lld",
                         (long long)sink->done, (long long)sink->frames);
    return true;
}

static bool check_psnr(const struct golden *golden, const struct sink *sink, struct error *error)
{
    const double least = golden->activations == ELEMENT_BF16 ? FRAMES_PSNR_BF16 : FRAMES_PSNR;
    double mean = sink->squares / (double)(sink->stored * sink->area * 3);
    double psnr = mean > 0 ? 10 * log10(255.0 * 255.0 / mean) : 99;
    printf(" frames %.1f/%.0f dB", psnr, least);
    if (psnr >= least)
        return true;
    return error_set(error, "frames: %.2f dB, at least %.0f wanted", psnr, least);
}

static bool check_frames(const struct run *run, struct error *error)
{
    struct checkpoint *file = NULL;
    float *want_colour = NULL;
    const struct stored_tensor *colour = NULL;
    struct sink sink = {.frames = run->frames, .area = run->height * run->width};
    bool ok = golden_open(run->golden, "frames.safetensors", &file, error) &&
              golden_floats(file, "mean_colour", &want_colour, &colour, error);
    const struct stored_tensor *stored = ok ? checkpoint_find(file, "frames") : NULL;
    if (ok && (!stored || stored->dtype != STORED_U8 || stored->rank != 4 || stored->shape[0] < 2 ||
               stored->shape[0] > run->frames || stored->shape[1] != run->height ||
               stored->shape[2] != run->width || stored->shape[3] != 3 ||
               colour->bytes != (size_t)run->frames * 12 ||
               run->shape->shape[2] * 8 != run->height || run->shape->shape[3] * 8 != run->width))
        ok = error_set(error, "%s: shapes do not belong to the settings", checkpoint_path(file));
    if (ok) {
        sink.want = stored->data;
        sink.stored = stored->shape[0];
        sink.stride = (run->frames - 1) / (stored->shape[0] - 1);
        sink.colour = malloc((size_t)run->frames * 3 * sizeof *sink.colour);
        ok = sink.colour || error_out_of_memory(error, "colours", (size_t)run->frames * 12);
    }
    ok = ok && decode(run, &sink, error) && check_psnr(run->golden, &sink, error) &&
         golden_close(run->golden, "colour", sink.colour, want_colour, run->frames * 3,
                      COLOUR_TOLERANCE, error);
    free(sink.colour);
    free(want_colour);
    checkpoint_close(file);
    return ok;
}

bool golden_tiny_world(const struct golden *golden, struct error *error)
{
    struct run *run = calloc(1, sizeof *run); /* model_folder is large */
    struct checkpoint *io = NULL;
    if (!run)
        return error_out_of_memory(error, "settings", sizeof *run);
    run->golden = golden;
    bool ok = model_folder_open(&run->model, golden->model, error) && read_settings(run, error) &&
              golden_open(golden, "sampling.safetensors", &io, error) &&
              golden_floats(io, "noise", &run->latents, &run->shape, error);
    if (ok && (run->shape->rank != 4 || run->shape->dtype != STORED_F32))
        ok = error_set(error, "%s: the noise is not float32 of rank 4", checkpoint_path(io));
    ok = ok && encode_texts(run, io, error) && denoise(run, error) &&
         check_latents(run, io, error) && check_frames(run, error);
    free(run->texts[0].embeds);
    free(run->texts[1].embeds);
    free(run->latents);
    free(run);
    checkpoint_close(io);
    return ok;
}
