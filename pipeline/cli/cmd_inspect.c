/* draftattn inspect: what a model folder holds, and what a size would cost in memory. */
#include "command.h"
#include "generation_options.h"
#include "model_location.h"

#include "../generate.h"
#include "../io/json_file.h"
#include "../runtime.h"
#include "../system_memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *model, *model_option, *synthetic, *size, *device, *precision;
    struct option_int frames;
    bool offload, json;
};

static const struct option_spec options[] = {
    OPTION_ROW_HEADING("Files"),
    OPTION_ROW_TEXT('m', "model", "FOLDER", model_option, "the same as naming it directly"),
    OPTION_ROW_TEXT(0, "synthetic", "NAME", synthetic,
                    "wan2.1-t2v-1.3b or wan2.1-t2v-14b, as generate has them"),
    OPTION_ROW_HEADING("Memory plan"),
    OPTION_ROW_TEXT(0, "size", "WxH", size, "in pixels (default: the model's)"),
    OPTION_ROW_INT('f', "frames", "N", frames, 1, 9999, "number of frames (default: the model's)"),
    OPTION_ROW_TEXT(0, "device", "NAME", device,
                    "as for generate: cpu, cuda, cuda:N or auto (default: auto)"),
    OPTION_ROW_TEXT(0, "precision", "NAME", precision, "bf16 or float32, as for generate"),
    OPTION_ROW_FLAG(0, "offload", offload, "the plan of generate --offload"),
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", json, "one JSON object on standard output"),
    OPTION_ROW_END,
};

const struct command_spec inspect_command = {
    .name = "inspect",
    .summary = "show what a model holds and needs",
    .usage = "[MODEL] [options]",
    .text = "Shows layout, networks, parameters and the memory plan of a model (default: as for "
            "generate).",
    .positional = "MODEL",
    .positional_offset = offsetof(struct arguments, model),
    .options = options,
};

/* Totals of one network, and its stored types. */
static bool add_network(cJSON *list, const char *name, const char *path, struct error *error)
{
    bool seen[STORED_OTHER + 1] = {false};
    struct checkpoint *weights = NULL;
    if (!checkpoint_open(&weights, path, error))
        return error_prefix(error, "%s: ", name);
    int64_t bytes = 0, elements = 0, count = checkpoint_count(weights);
    char stored[128] = "";
    checkpoint_totals(weights, &bytes, &elements);
    for (int64_t i = 0; i < count; i++) {
        enum stored_dtype dtype = checkpoint_at(weights, i)->dtype;
        size_t length = strlen(stored);
        if (!seen[dtype])
            snprintf(stored + length, sizeof stored - length, "%s%s", length ? " " : "",
                     stored_dtype_name(dtype));
        seen[dtype] = true;
    }
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "name", name);
    cJSON_AddStringToObject(item, "path", checkpoint_path(weights));
    cJSON_AddNumberToObject(item, "tensors", (double)count);
    cJSON_AddNumberToObject(item, "parameters", (double)elements);
    cJSON_AddNumberToObject(item, "bytes", (double)bytes);
    cJSON_AddStringToObject(item, "stored", stored);
    cJSON_AddItemToArray(list, item);
    checkpoint_close(weights);
    return true;
}

static void add_config(cJSON *root, const struct model *model)
{
    const struct wan_transformer_config *t = &model->transformer;
    cJSON *json = cJSON_AddObjectToObject(root, "config");
    cJSON_AddNumberToObject(json, "heads", (double)t->heads);
    cJSON_AddNumberToObject(json, "head_dim", (double)t->head_dim);
    cJSON_AddNumberToObject(json, "layers", (double)t->layers);
    cJSON_AddNumberToObject(json, "ffn", (double)t->ffn);
    cJSON_AddNumberToObject(json, "text_len", (double)t->text_len);
    cJSON_AddNumberToObject(json, "text_encoder_width", (double)model->text.width);
    cJSON_AddNumberToObject(json, "text_encoder_layers", (double)model->text.layers);
    cJSON_AddNumberToObject(json, "vae_base_dim", (double)model->vae.base_dim);
    cJSON_AddNumberToObject(json, "latent_channels", (double)model->vae.z_dim);
    const struct model_defaults *d = &model->defaults;
    json = cJSON_AddObjectToObject(root, "defaults");
    cJSON_AddNumberToObject(json, "width", (double)d->width);
    cJSON_AddNumberToObject(json, "height", (double)d->height);
    cJSON_AddNumberToObject(json, "frames", (double)d->frames);
    cJSON_AddNumberToObject(json, "fps", d->fps);
    cJSON_AddNumberToObject(json, "steps", (double)d->steps);
    cJSON_AddNumberToObject(json, "cfg", d->guidance);
    cJSON_AddNumberToObject(json, "flow_shift", d->flow_shift);
}

static bool make_plan(const struct arguments *a, const struct model *model,
                      struct memory_query *query, struct memory_plan *plan, struct error *error)
{
    struct generate_settings settings = generate_settings_default();
    struct runtime_desc desc = {.offload = a->offload};
    struct runtime runtime;
    settings.frames = a->frames.value;
    if (a->size &&
        !parse_size("--size", a->size, 1, 16384, &settings.width, &settings.height, error))
        return false;
    generate_settings_fill(&settings, model, NULL);
    if (!generation_runtime(a->device, a->precision, NULL, &desc, error) ||
        !runtime_open(&runtime, &desc, error))
        return false;
    *query = (struct memory_query){
        .model = model,
        .width = settings.width,
        .height = settings.height,
        .frames = settings.frames,
        .guided = settings.guidance > 1,
        .tile = VAE_TILE_AUTO,
        .context = runtime.context,
        .attention = settings.attention,
        .available = runtime_available(&runtime),
        .gpu = runtime.gpu,
        .activations = runtime.activations,
        .offload = a->offload,
        .host_available = system_memory_available(),
    };
    bool ok = memory_plan_make(plan, query, error);
    runtime_close(&runtime);
    return ok;
}

static bool add_memory(cJSON *root, const struct arguments *a, const struct model *model,
                       struct error *error)
{
    struct memory_query query;
    struct memory_plan plan;
    if (!make_plan(a, model, &query, &plan, error))
        return false;
    cJSON *json = cJSON_AddObjectToObject(root, "memory");
    cJSON_AddNumberToObject(json, "width", (double)query.width);
    cJSON_AddNumberToObject(json, "height", (double)query.height);
    cJSON_AddNumberToObject(json, "frames", (double)query.frames);
    cJSON_AddNumberToObject(json, "encode", (double)plan.encode);
    cJSON_AddNumberToObject(json, "denoise", (double)plan.denoise);
    cJSON_AddNumberToObject(json, "decode", (double)plan.decode);
    cJSON_AddNumberToObject(json, "peak", (double)plan.peak);
    cJSON_AddNumberToObject(json, "available", (double)query.available);
    cJSON_AddNumberToObject(json, "offloaded", (double)plan.host);
    cJSON_AddBoolToObject(json, "gpu", query.gpu);
    char text[1024];
    memory_plan_describe(&plan, &query, text, sizeof text);
    cJSON_AddStringToObject(json, "text", text);
    return true;
}

static double number_of(const cJSON *object, const char *name)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItem(object, name));
}

static const char *text_of(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(object, name));
    return text ? text : "";
}

static void print_text(const cJSON *root)
{
    const cJSON *item, *config = cJSON_GetObjectItem(root, "config");
    const cJSON *memory = cJSON_GetObjectItem(root, "memory");
    printf("model: %s (%s layout)\n", text_of(root, "model"), text_of(root, "layout"));
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "networks")) printf(
        "  %-13s %9.2f M parameters in %.0f tensors, %.1f MiB as %s\n", text_of(item, "name"),
        number_of(item, "parameters") / 1e6, number_of(item, "tensors"),
        number_of(item, "bytes") / 1048576.0, text_of(item, "stored"));
    printf("config:\n");
    cJSON_ArrayForEach(item, config) printf("  %-22s %g\n", item->string, item->valuedouble);
    printf("defaults:\n");
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "defaults"))
        printf("  %-22s %g\n", item->string, item->valuedouble);
    printf("at %.0fx%.0f, %.0f frames, ", number_of(memory, "width"), number_of(memory, "height"),
           number_of(memory, "frames"));
    printf("%s\n", text_of(memory, "text"));
}

static bool collect(cJSON *root, const struct arguments *a, const struct model *model,
                    struct error *error)
{
    cJSON_AddStringToObject(root, "model", model->folder.root);
    cJSON_AddStringToObject(root, "layout",
                            model->synthetic                                 ? "synthetic"
                            : model->folder.layout == MODEL_LAYOUT_DIFFUSERS ? "diffusers"
                                                                             : "original");
    cJSON *networks = cJSON_AddArrayToObject(root, "networks");
    add_config(root, model);
    if (model->synthetic)
        return add_memory(root, a, model, error);
    return add_network(networks, "text encoder", model->folder.text_encoder, error) &&
           add_network(networks, "transformer", model->folder.transformer, error) &&
           add_network(networks, "vae", model->folder.vae, error) &&
           add_memory(root, a, model, error);
}

bool cmd_inspect(int argc, char *const *argv, struct error *error)
{
    struct arguments a = {0};
    char path[MODEL_PATH_MAX];
    struct model model = {0};
    bool help;
    if (!options_parse(&inspect_command, argc, argv, &a, &help, error))
        return false;
    if (help) {
        options_print_help(&inspect_command, stdout);
        return true;
    }
    const char *given = a.model ? a.model : a.model_option;
    if (a.synthetic && given)
        return error_set_usage(error, "give a model or --synthetic, not both");
    if (a.synthetic ? !generation_synthetic(a.synthetic, &model, error)
                    : !model_location_find(given, path, sizeof path, error) ||
                          !model_open(&model, path, error))
        return false;
    cJSON *root = cJSON_CreateObject();
    bool ok = collect(root, &a, &model, error);
    char *json = ok && a.json ? json_print(root, false) : NULL;
    if (ok && a.json && !json)
        ok = error_out_of_memory(error, "the JSON report", 4096);
    if (json)
        printf("%s\n", json);
    else if (ok)
        print_text(root);
    free(json);
    cJSON_Delete(root);
    model_close(&model);
    return ok;
}
