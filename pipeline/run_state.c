/*
 * The state file: one table says which numbers of the settings are in it, under which names and in
 * which bounds, and both ways follow it. Numbers are written so that they come back exactly.
 */
#include "run_state.h"

#include "io/checkpoint.h"
#include "io/safetensors_metadata.h"
#include "tensor/checked.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMAT     "1"
#define LAYERS_MAX 1000

enum number { INT32, INT64, REAL };

struct field {
    const char *name;
    enum number number;
    size_t offset; /* in struct generate_settings */
    double low, high;
};

#define FIELD(name, number, member, low, high)                                                     \
    {                                                                                              \
        name, number, offsetof(struct generate_settings, member), low, high                        \
    }

static const struct field fields[] = {
    FIELD("width", INT64, width, 1, 16384),
    FIELD("height", INT64, height, 1, 16384),
    FIELD("frames", INT64, frames, 1, 9999),
    FIELD("steps", INT64, steps, 1, 1000),
    FIELD("seed", INT64, seed, 0, 4294967295.0),
    FIELD("fps", REAL, fps, 1, 240),
    FIELD("flow_shift", REAL, flow_shift, 0.01, 1000),
    FIELD("guidance", REAL, guidance, 0, 100),
    FIELD("tile", INT64, tile, VAE_TILE_AUTO, 16384),
    FIELD("save_every", INT64, save_every, 0, 1000),
    FIELD("attention.sparsity", REAL, attention.sparsity, 0, 1 - DBL_EPSILON / 2), /* below 1 */
    FIELD("attention.dense_steps", REAL, attention.dense_steps, 0, 1),
    FIELD("attention.compensation", INT32, attention.compensation, 0, 1),
    FIELD("attention.probes", INT32, attention.probes, 0, 1024),
    FIELD("attention.repair", INT32, attention.repair, 0, 1),
    FIELD("attention.min_tokens", INT64, attention.min_tokens, 0, INT32_MAX),
};

#define FIELDS      (sizeof fields / sizeof *fields)
#define OTHER_PAIRS 16 /* more than the texts below */

/* ---- writing --------------------------------------------------------------------------------- */

struct writer {
    const char *pairs[2 * (FIELDS + OTHER_PAIRS) + 1];
    size_t count;
    char numbers[FIELDS][32];
};

static void put(struct writer *w, const char *name, const char *text)
{
    w->pairs[w->count++] = name;
    w->pairs[w->count++] = text;
}

static void put_fields(struct writer *w, const struct generate_settings *settings)
{
    for (size_t i = 0; i < FIELDS; i++) {
        const char *at = (const char *)settings + fields[i].offset;
        char *text = w->numbers[i];
        if (fields[i].number == REAL)
            snprintf(text, sizeof w->numbers[i], "%.17g", *(const double *)at);
        else
            snprintf(text, sizeof w->numbers[i], "%" PRId64,
                     fields[i].number == INT64 ? *(const int64_t *)at : *(const int32_t *)at);
        put(w, fields[i].name, text);
    }
}

/* "0,1,5"; malloc'd. */
static char *layers_text(const draftattn_plan_desc *attention)
{
    char *text = malloc((size_t)attention->dense_layer_count * 12 + 1), *at = text;
    if (!text)
        return NULL;
    *at = '\0';
    for (int32_t i = 0; i < attention->dense_layer_count; i++)
        at += sprintf(at, i ? ",%d" : "%d", attention->dense_layers[i]);
    return text;
}

/* The model from any folder. */
static bool model_text(const struct model *model, char *text, size_t size)
{
    const char *root = model->folder.root;
    char folder[MODEL_PATH_MAX];
    bool whole = model->synthetic || root[0] == '/' || !getcwd(folder, sizeof folder);
    int length = snprintf(text, size, "%s%s%s", whole ? "" : folder, whole ? "" : "/", root);
    return length >= 0 && (size_t)length < size;
}

static bool write_tensors(const char *path, const struct run_state_to_write *state,
                          const char *const *metadata, struct error *error)
{
    static const char *const names[] = {"history.0", "history.1", "history.2"};
    struct tensor_to_write tensors[1 + RUN_STATE_HISTORY];
    int count = 0;
    for (int i = -1; i < state->history_count; i++) {
        tensors[count] = (struct tensor_to_write){
            .name = i < 0 ? "latents" : names[i],
            .dtype = STORED_F32,
            .rank = 4,
            .data = i < 0 ? state->latents : state->history[i],
        };
        memcpy(tensors[count++].shape, state->shape, 4 * sizeof *state->shape);
    }
    return safetensors_write(path, tensors, count, metadata, error);
}

bool run_state_write(const char *path, const struct run_state_to_write *state, struct error *error)
{
    const struct generate_settings *s = state->settings;
    char identity[MODEL_PATH_MAX + 32], model[2 * MODEL_PATH_MAX], device[16], step[24];
    char *layers = layers_text(&s->attention);
    struct writer w = {.count = 0};
    if (!layers)
        return error_out_of_memory(error, "the state of the run", 4096);
    model_identity(state->model, identity, sizeof identity);
    runtime_kind_describe(state->runtime, device, sizeof device);
    snprintf(step, sizeof step, "%" PRId64, state->step);
    put(&w, "draftattn_state", FORMAT);
    put(&w, "step", step);
    put(&w, "prompt", s->prompt);
    put(&w, "negative_prompt", s->negative_prompt);
    put(&w, "model", model);
    put(&w, "model_identity", identity);
    put(&w, "model_kind", state->model->synthetic ? "synthetic" : "folder");
    put(&w, "sampler", s->sampler);
    put(&w, "attention.policy", draftattn_policy_name(s->attention.policy));
    put(&w, "attention.dense_layers", layers);
    put(&w, "device", device);
    put(&w, "precision", runtime_precision_name(state->runtime->precision));
    put(&w, "offload", state->runtime->offload ? "1" : "0");
    put(&w, "backend", draftattn_backend_name(state->runtime->backend));
    put_fields(&w, s);
    bool ok = model_text(state->model, model, sizeof model)
                  ? write_tensors(path, state, w.pairs, error)
                  : error_set(error, "%s: the model's path is too long", path);
    free(layers);
    return ok;
}

/* ---- reading --------------------------------------------------------------------------------- */

static const char *text_of(const struct run_state *state, const char *name, struct error *error)
{
    const char *text =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(state->metadata, name));
    if (!text)
        error_set(error, "%s: '%s' is missing: this is no state of a generation", state->path,
                  name);
    return text;
}

static bool value_fails(const struct run_state *state, const char *name, const char *text,
                        struct error *error)
{
    return error_set(error, "%s: '%s' is \"%.100s\", which cannot be", state->path, name, text);
}

static bool parse_number(const char *text, const struct field *field, int64_t *whole, double *real)
{
    char *end = NULL;
    errno = 0;
    if (strspn(text, "0123456789.eE+-") != strlen(text))
        return false;
    if (field->number == REAL) {
        *real = strtod(text, &end);
    } else {
        *whole = strtoll(text, &end, 10);
        *real = (double)*whole;
    }
    return end != text && !*end && errno == 0 && *real >= field->low && *real <= field->high;
}

static bool read_field(struct run_state *state, const struct field *field, struct error *error)
{
    const char *text = text_of(state, field->name, error);
    char *at = (char *)&state->settings + field->offset;
    int64_t whole = 0;
    double real = 0;
    if (!text)
        return false;
    if (!parse_number(text, field, &whole, &real))
        return error_set(error, "%s: '%s' is \"%.100s\", expected a number from %g to %g",
                         state->path, field->name, text, field->low, field->high);
    if (field->number == REAL)
        *(double *)at = real;
    else if (field->number == INT64)
        *(int64_t *)at = whole;
    else
        *(int32_t *)at = (int32_t)whole;
    return true;
}

/* Ascending numbers below LAYERS_MAX; whether the model has them is seen later. */
static bool read_layers(struct run_state *state, struct error *error)
{
    static const char name[] = "attention.dense_layers";
    draftattn_plan_desc *attention = &state->settings.attention;
    const char *text = text_of(state, name, error), *at = text;
    if (!text || !*text)
        return text != NULL;
    state->dense_layers = malloc(LAYERS_MAX * sizeof *state->dense_layers);
    if (!state->dense_layers)
        return error_out_of_memory(error, "the list of dense layers", LAYERS_MAX * sizeof(int32_t));
    attention->dense_layers = state->dense_layers;
    for (long last = -1;; at++) {
        char *end;
        long layer = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : -1;
        if (layer <= last || layer >= LAYERS_MAX || (*end && *end != ','))
            return value_fails(state, name, text, error);
        state->dense_layers[attention->dense_layer_count++] = (int32_t)layer;
        last = layer;
        at = end;
        if (!*at)
            return true;
    }
}

static bool read_runtime(struct run_state *state, struct error *error)
{
    struct runtime_desc *runtime = &state->settings.runtime;
    const char *device = text_of(state, "device", error);
    const char *precision = device ? text_of(state, "precision", error) : NULL;
    const char *backend = precision ? text_of(state, "backend", error) : NULL;
    const char *offload = backend ? text_of(state, "offload", error) : NULL;
    if (!offload)
        return false;
    if (!runtime_kind_from_name(device, &runtime->kind, &runtime->index))
        return value_fails(state, "device", device, error);
    if (!runtime_precision_from_name(precision, &runtime->precision))
        return value_fails(state, "precision", precision, error);
    if (draftattn_backend_from_name(backend, &runtime->backend) != DRAFTATTN_SUCCESS)
        return value_fails(state, "backend", backend, error);
    runtime->offload = strcmp(offload, "1") == 0;
    return runtime->offload || strcmp(offload, "0") == 0 ||
           value_fails(state, "offload", offload, error);
}

static bool read_texts(struct run_state *state, struct error *error)
{
    struct generate_settings *s = &state->settings;
    const char *kind = text_of(state, "model_kind", error);
    const char *policy = kind ? text_of(state, "attention.policy", error) : NULL;
    if (!policy || !(s->prompt = text_of(state, "prompt", error)) ||
        !(s->negative_prompt = text_of(state, "negative_prompt", error)) ||
        !(s->sampler = text_of(state, "sampler", error)) ||
        !(state->model = text_of(state, "model", error)))
        return false;
    if (draftattn_policy_from_name(policy, &s->attention.policy) != DRAFTATTN_SUCCESS)
        return value_fails(state, "attention.policy", policy, error);
    state->synthetic = strcmp(kind, "synthetic") == 0;
    return state->synthetic || strcmp(kind, "folder") == 0 ||
           value_fails(state, "model_kind", kind, error);
}

static bool read_step(struct run_state *state, struct error *error)
{
    const struct field step = {
        .name = "step", .number = INT64, .low = 1, .high = (double)state->settings.steps};
    const char *text = text_of(state, step.name, error);
    double real;
    return text && (parse_number(text, &step, &state->step, &real) ||
                    error_set(error, "%s: 'step' is \"%.100s\", expected 1 to %" PRId64,
                              state->path, text, state->settings.steps));
}

bool run_state_read(struct run_state *out, const char *path, struct error *error)
{
    *out = (struct run_state){.path = path, .settings = generate_settings_default()};
    out->metadata = safetensors_metadata(path, error);
    const char *format = out->metadata ? text_of(out, "draftattn_state", error) : NULL;
    bool ok = format && (strcmp(format, FORMAT) == 0 ||
                         error_set(error,
                                   "%s: is a state of format %.20s, this program reads " FORMAT
                                   "; take the version of draftattn that made it",
                                   path, format));
    for (size_t i = 0; ok && i < FIELDS; i++)
        ok = read_field(out, &fields[i], error);
    ok = ok && read_texts(out, error) && read_step(out, error) && read_layers(out, error) &&
         read_runtime(out, error);
    if (!ok)
        run_state_free(out);
    return ok;
}

static bool read_tensor(const struct run_state *state, const struct checkpoint *file,
                        const char *name, float **out, struct error *error)
{
    size_t bytes = 0;
    if (!checked_bytes(state->shape, 4, sizeof(float), &bytes))
        return error_set(error, "%s: latents of this size are not possible", state->path);
    /* before memory is asked for, which a hostile size could make much */
    if (!checkpoint_read(file, name, state->shape, 4, NULL, error))
        return false;
    if (!(*out = malloc(bytes)))
        return error_out_of_memory(error, "latents", bytes);
    if (!checkpoint_read(file, name, state->shape, 4, *out, error))
        return false;
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        if (!isfinite((*out)[i]))
            return error_set(error, "%s: tensor '%s' holds a NaN or an infinity at element %zu",
                             state->path, name, i);
    return true;
}

static bool read_tensors(struct run_state *state, const struct checkpoint *file,
                         struct error *error)
{
    if (!read_tensor(state, file, "latents", &state->latents, error))
        return false;
    for (; state->history_count < RUN_STATE_HISTORY; state->history_count++) {
        char name[32];
        snprintf(name, sizeof name, "history.%d", state->history_count);
        if (!checkpoint_find(file, name))
            return true;
        if (!read_tensor(state, file, name, &state->history[state->history_count], error))
            return false;
    }
    return true;
}

/* Of "name hash": a folder may be moved and renamed. */
static const char *hash_of(const char *identity)
{
    const char *space = strrchr(identity, ' ');
    return space ? space + 1 : identity;
}

bool run_state_load(struct run_state *state, const struct model *model, struct error *error)
{
    const struct generate_settings *s = &state->settings;
    struct checkpoint *file = NULL;
    char identity[MODEL_PATH_MAX + 32];
    const char *expected = text_of(state, "model_identity", error);
    model_identity(model, identity, sizeof identity);
    if (!expected)
        return false;
    if (strcmp(hash_of(expected), hash_of(identity)) != 0)
        return error_set(error,
                         "%s: was made with the model '%.200s', and this is '%.200s': give the "
                         "one it was made with by --model",
                         state->path, expected, identity);
    state->shape[0] = model->transformer.in_channels;
    state->shape[1] = (s->frames - 1) / MODEL_VAE_STRIDE_TIME + 1;
    state->shape[2] = s->height / MODEL_VAE_STRIDE;
    state->shape[3] = s->width / MODEL_VAE_STRIDE;
    bool ok = checkpoint_open(&file, state->path, error) && read_tensors(state, file, error);
    checkpoint_close(file);
    return ok;
}

void run_state_free(struct run_state *state)
{
    free(state->latents);
    for (int i = 0; i < RUN_STATE_HISTORY; i++)
        free(state->history[i]);
    free(state->dense_layers);
    cJSON_Delete(state->metadata);
    *state = (struct run_state){.step = 0};
}
