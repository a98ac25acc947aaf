/* draftattn decode: latents of an earlier run to a video. */
#include "command.h"
#include "console.h"
#include "generation_options.h"
#include "model_location.h"

#include "../clock.h"
#include "../decode_video.h"
#include "../io/json_file.h"
#include "../io/output_file.h"
#include "../io/safetensors_metadata.h"
#include "../latents_file.h"
#include "../runtime.h"
#include "../system_memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FPS_MIN 1
#define FPS_MAX 240

struct arguments {
    const char *latents, *model, *output, *tile, *device, *precision;
    struct option_real fps;
    struct option_int threads;
    bool json, quiet;
};

static const struct option_spec options[] = {
    OPTION_ROW_HEADING("Files"),
    OPTION_ROW_TEXT('m', "model", "FOLDER", model,
                    "the model that made the latents (default: as for generate)"),
    OPTION_ROW_TEXT('o', "output", "FILE", output,
                    ".mp4, .webm, .gif, or a series such as out-%05d.png"),
    OPTION_ROW_HEADING("Video"),
    OPTION_ROW_REAL(0, "fps", "X", fps, FPS_MIN, FPS_MAX,
                    "frames a second (default: what the latents were made for, else the model's)"),
    OPTION_ROW_HEADING("Machine"),
    OPTION_ROW_TEXT(0, "device", "NAME", device,
                    "cpu, cuda, cuda:N or auto: a GPU where one works (default: auto)"),
    OPTION_ROW_TEXT(0, "precision", "NAME", precision,
                    "bf16 (of a GPU: convolutions in TF32) or float32 (default: bf16 on a GPU)"),
    OPTION_ROW_INT('t', "threads", "N", threads, 1, 1024, "CPU threads (default: all)"),
    OPTION_ROW_TEXT(
        0, "tile", "N", tile,
        "VAE tiles: auto (when memory is short), off, or a side in pixels (default: auto)"),
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", json, "one JSON object with measurements on standard output"),
    OPTION_ROW_FLAG('q', "quiet", quiet, "errors only"),
    OPTION_ROW_END,
};

const struct command_spec decode_command = {
    .name = "decode",
    .summary = "make a video from saved latents",
    .usage = "LATENTS -o FILE [options]",
    .text = "Makes a video from latents that 'generate --save-latents' kept, or from a state.",
    .positional = "LATENTS",
    .positional_offset = offsetof(struct arguments, latents),
    .options = options,
};

/* Where it runs, and who hears of it. */
struct place {
    struct console *console;
    struct runtime runtime;
    int64_t device_peak; /* of the GPU, by whomever; 0 without one */
};

static bool step(void *user, int64_t done, int64_t total)
{
    struct place *place = user;
    int64_t taken = runtime_taken(&place->runtime);
    if (taken > place->device_peak)
        place->device_peak = taken;
    return console_step(place->console, PHASE_DECODE, done, total);
}

static bool choose_tiles(const struct arguments *a, const struct runtime *runtime, int64_t tile,
                         struct decode_video *job, struct error *error)
{
    const struct memory_query query = {
        .model = job->model,
        .width = job->width * MODEL_VAE_STRIDE,
        .height = job->height * MODEL_VAE_STRIDE,
        .frames = (job->frames - 1) * MODEL_VAE_STRIDE_TIME + 1,
        .tile = tile,
        .available = runtime_available(runtime),
        .gpu = runtime->gpu,
        .activations = runtime->activations,
    };
    struct memory_plan plan;
    memory_plan_make_decode(&plan, &query);
    job->tiling = plan.tiling;
    return plan.peak <= query.available ||
           error_set(error,
                     "%s: decoding %" PRId64 "x%" PRId64 ", %" PRId64
                     " frames needs about %.2f GiB%s, %.2f GiB are available%s",
                     a->latents, query.width, query.height, query.frames,
                     (double)plan.peak / 1073741824.0, runtime->gpu ? " of the GPU" : "",
                     (double)query.available / 1073741824.0,
                     tile == VAE_TILE_AUTO ? "" : "; --tile auto may fit");
}

static bool print_json(const struct arguments *a, const char *model_path,
                       const struct decode_video *job, const struct place *place,
                       const struct decode_video_times *times, struct error *error)
{
    const struct runtime *runtime = &place->runtime;
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "output", a->output);
    cJSON_AddStringToObject(root, "latents", a->latents);
    cJSON_AddStringToObject(root, "model", model_path);
    cJSON_AddNumberToObject(root, "width", (double)job->width * MODEL_VAE_STRIDE);
    cJSON_AddNumberToObject(root, "height", (double)job->height * MODEL_VAE_STRIDE);
    cJSON_AddNumberToObject(root, "frames",
                            (double)((job->frames - 1) * MODEL_VAE_STRIDE_TIME + 1));
    cJSON_AddNumberToObject(root, "fps", job->fps);
    cJSON_AddStringToObject(root, "device", runtime->name);
    cJSON_AddStringToObject(root, "precision", runtime_precision_name(runtime->desc.precision));
    cJSON *seconds = cJSON_AddObjectToObject(root, "seconds");
    cJSON_AddNumberToObject(seconds, "load", times->load);
    cJSON_AddNumberToObject(seconds, "decode", times->decode);
    cJSON_AddNumberToObject(seconds, "write", times->write);
    cJSON *memory = cJSON_AddObjectToObject(root, "memory");
    cJSON_AddNumberToObject(memory, "peak", (double)system_memory_peak());
    cJSON_AddNumberToObject(memory, "device_peak", (double)place->device_peak);
    char *text = json_print(root, false);
    cJSON_Delete(root);
    if (!text)
        return error_out_of_memory(error, "the JSON report", 4096);
    printf("%s\n", text);
    free(text);
    return true;
}

/* Opens the device and chooses tiles for it; a GPU that was only the best choice may be too small.
 */
static bool prepare(const struct arguments *a, struct runtime_desc *desc, struct place *place,
                    int64_t tile, struct decode_video *job, struct error *error)
{
    struct runtime *runtime = &place->runtime;
    struct error why = {.usage = false};
    if (!runtime_open(runtime, desc, error))
        return false;
    if (runtime->why_cpu[0])
        console_note(place->console, runtime->why_cpu);
    bool second = runtime->gpu && runtime->chosen;
    bool ok = choose_tiles(a, runtime, tile, job, second ? &why : error);
    if (!ok && second) {
        console_print(place->console, "this runs on the CPU: %s\n", why.text);
        runtime_close(runtime);
        desc->kind = RUNTIME_CPU;
        ok = runtime_open(runtime, desc, error) && choose_tiles(a, runtime, tile, job, error);
    }
    job->ops = runtime->ops;
    job->device = runtime->device;
    return ok;
}

/* As asked, else as the file says (latents and states under one name), else the model's. */
static bool choose_fps(const struct arguments *a, const struct model *model, double *fps,
                       struct error *error)
{
    *fps = a->fps.given ? a->fps.value : model->defaults.fps;
    cJSON *about = a->fps.given ? NULL : safetensors_metadata(a->latents, NULL);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(about, "fps"));
    bool ok = !text || parse_real("its fps", text, FPS_MIN, FPS_MAX, false, fps, NULL) ||
              error_set(error, "%s: 'fps' is \"%.100s\", expected %d to %d; --fps says it instead",
                        a->latents, text, FPS_MIN, FPS_MAX);
    cJSON_Delete(about);
    return ok;
}

static bool run(const struct arguments *a, struct runtime_desc *desc, int64_t tile,
                struct console *console, struct error *error)
{
    char path[MODEL_PATH_MAX];
    struct model model = {0};
    struct place place = {.console = console};
    float *latents = NULL;
    int64_t shape[4];
    struct decode_video job = {.model = &model, .output = a->output, .progress = {step, &place}};
    struct decode_video_times times;
    bool ok = model_location_find(a->model, path, sizeof path, error) &&
              model_open(&model, path, error) &&
              latents_read(a->latents, model.vae.z_dim, &latents, shape, error) &&
              choose_fps(a, &model, &job.fps, error);
    if (ok) {
        job.latents = latents;
        job.frames = shape[1];
        job.height = shape[2];
        job.width = shape[3];
        ok = prepare(a, desc, &place, tile, &job, error) && decode_video(&job, &times, error);
    }
    console_close(console);
    if (ok)
        console_print(console, "time: load %.1f s, decode %.1f s, write %.1f s\nwrote %s\n",
                      times.load, times.decode, times.write, a->output);
    if (ok && a->json)
        ok = print_json(a, path, &job, &place, &times, error);
    runtime_close(&place.runtime);
    free(latents);
    model_close(&model);
    return ok;
}

bool cmd_decode(int argc, char *const *argv, struct error *error)
{
    struct arguments a = {0};
    struct console console;
    int64_t tile = VAE_TILE_AUTO;
    bool help;
    if (!options_parse(&decode_command, argc, argv, &a, &help, error))
        return false;
    if (help) {
        options_print_help(&decode_command, stdout);
        return true;
    }
    if (!a.latents)
        return error_set_usage(error, "no latents: name the file that --save-latents wrote");
    if (!a.output)
        return error_set_usage(error, "no output file; name one with --output FILE");
    if (output_file_same(a.latents, a.output))
        return error_set_usage(error, "--output '%s' is the latents' file; name another", a.output);
    struct runtime_desc desc = {.threads = (int32_t)a.threads.value};
    if (!parse_tile("--tile", a.tile, &tile, error) ||
        !generation_runtime(a.device, a.precision, NULL, &desc, error))
        return false;
    console_open(&console, a.quiet);
    return run(&a, &desc, tile, &console, error);
}
