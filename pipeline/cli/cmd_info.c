/* draftattn info: what this build and this machine have. */
#include "command.h"
#include "model_location.h"

#include "../io/json_file.h"
#include "../io/video_writer.h"
#include "../device_memory.h"
#include "../machine.h"
#include "../runtime.h"

#include <draftattn.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct arguments {
    bool json;
};

static const struct option_spec options[] = {
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", json, "one JSON object on standard output"),
    OPTION_ROW_END,
};

const struct command_spec info_command = {
    .name = "info",
    .summary = "show version, kernels, encoders and the bundled model",
    .usage = "[options]",
    .text = "Shows the version, what this machine can run and why not the rest, the video encoders "
            "found, and where the bundled model is.",
    .options = options,
};

/* Whether a backend works here, and the library's words where it does not. */
static void add_backends(cJSON *root)
{
    cJSON *list = cJSON_AddArrayToObject(root, "backends");
    for (int b = DRAFTATTN_BACKEND_REFERENCE; b <= DRAFTATTN_BACKEND_CUDA; b++) {
        draftattn_context *context = NULL;
        draftattn_context_desc desc = draftattn_context_desc_default();
        desc.backend = (draftattn_backend)b;
        bool works = draftattn_context_create(&context, &desc) == DRAFTATTN_SUCCESS;
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", draftattn_backend_name((draftattn_backend)b));
        cJSON_AddBoolToObject(item, "works", works);
        cJSON_AddStringToObject(item, "why_not", works ? "" : draftattn_context_last_error(NULL));
        cJSON_AddItemToArray(list, item);
        draftattn_context_destroy(context);
    }
}

/* The first GPU, and whether the networks run on it. */
static void add_gpu(cJSON *root)
{
    struct error why = {.usage = false};
    struct runtime runtime;
    const struct runtime_desc desc = {.kind = RUNTIME_CUDA};
    char name[96];
    bool works = runtime_open(&runtime, &desc, &why);
    device_memory_device(name, sizeof name);
    cJSON *gpu = cJSON_AddObjectToObject(root, "gpu");
    cJSON_AddStringToObject(gpu, "name", name);
    cJSON_AddNumberToObject(gpu, "memory", (double)device_memory_total());
    cJSON_AddNumberToObject(gpu, "available", (double)device_memory_available());
    cJSON_AddBoolToObject(gpu, "works", works);
    cJSON_AddStringToObject(gpu, "why_not", works ? "" : why.text);
    runtime_close(&runtime);
}

static void add_kernels(cJSON *root)
{
    cJSON *list = cJSON_AddArrayToObject(root, "kernels");
    for (int32_t i = 0; i < draftattn_kernel_count(); i++) {
        draftattn_kernel_info kernel;
        if (draftattn_kernel_get(i, &kernel) != DRAFTATTN_SUCCESS)
            continue;
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", kernel.name);
        cJSON_AddStringToObject(item, "backend", draftattn_backend_name(kernel.backend));
        cJSON_AddNumberToObject(item, "head_dim", kernel.head_dim);
        cJSON_AddBoolToObject(item, "works", kernel.available);
        cJSON_AddStringToObject(item, "why_not", kernel.why_not);
        cJSON_AddItemToArray(list, item);
    }
}

static cJSON *collect(void)
{
    cJSON *root = cJSON_CreateObject();
    char text[4096];
    cJSON_AddStringToObject(root, "version", DRAFTATTN_VERSION_STRING);
    cJSON_AddStringToObject(root, "compiler", __VERSION__);
    machine_cpu_name(text, sizeof text);
    cJSON_AddStringToObject(root, "cpu", text);
    cJSON_AddNumberToObject(root, "threads", (double)sysconf(_SC_NPROCESSORS_ONLN));
    add_gpu(root);
    add_backends(root);
    add_kernels(root);
    cJSON *encoders = cJSON_AddObjectToObject(root, "encoders");
    cJSON_AddStringToObject(encoders, "mp4", video_writer_encoder("x.mp4"));
    cJSON_AddStringToObject(encoders, "webm", video_writer_encoder("x.webm"));
    cJSON_AddStringToObject(encoders, "gif", video_writer_encoder("x.gif"));
    struct error why = {0};
    bool found = model_location_find(NULL, text, sizeof text, &why);
    cJSON_AddStringToObject(root, "model", found ? text : "");
    return root;
}

static const char *text_of(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(object, name));
    return text ? text : "";
}

static void print_list(const cJSON *list, const char *heading)
{
    const cJSON *item;
    printf("%s\n", heading);
    cJSON_ArrayForEach(item, list)
    {
        bool works = cJSON_IsTrue(cJSON_GetObjectItem(item, "works"));
        printf("  %-22s %s%s\n", text_of(item, "name"),
               works ? "works" : "no: ", text_of(item, "why_not"));
    }
}

static void print_gpu(const cJSON *gpu)
{
    const double mib = 1048576.0;
    const char *name = text_of(gpu, "name");
    printf("gpu: %s", name[0] ? name : "none");
    if (name[0])
        printf(", %.0f of %.0f MiB free",
               cJSON_GetNumberValue(cJSON_GetObjectItem(gpu, "available")) / mib,
               cJSON_GetNumberValue(cJSON_GetObjectItem(gpu, "memory")) / mib);
    if (cJSON_IsTrue(cJSON_GetObjectItem(gpu, "works")))
        printf("; the networks run on it\n");
    else
        printf("; the networks run on the CPU (%s)\n", text_of(gpu, "why_not"));
}

static void print_text(const cJSON *root)
{
    const cJSON *encoders = cJSON_GetObjectItem(root, "encoders"), *item;
    printf("draftattn %s (compiler %s)\n", text_of(root, "version"), text_of(root, "compiler"));
    printf("cpu: %s, %.0f threads\n", text_of(root, "cpu"),
           cJSON_GetNumberValue(cJSON_GetObjectItem(root, "threads")));
    print_gpu(cJSON_GetObjectItem(root, "gpu"));
    print_list(cJSON_GetObjectItem(root, "backends"), "backends:");
    print_list(cJSON_GetObjectItem(root, "kernels"), "kernels:");
    printf("encoders:\n");
    cJSON_ArrayForEach(item, encoders)
        printf("  %-22s %s\n", item->string, item->valuestring[0] ? item->valuestring : "none");
    const char *model = text_of(root, "model");
    printf("model: %s\n", model[0] ? model : "none found; give one with --model");
}

bool cmd_info(int argc, char *const *argv, struct error *error)
{
    struct arguments a = {0};
    bool help;
    if (!options_parse(&info_command, argc, argv, &a, &help, error))
        return false;
    if (help) {
        options_print_help(&info_command, stdout);
        return true;
    }
    cJSON *root = collect();
    char *json = a.json ? json_print(root, false) : NULL;
    bool ok = !a.json || json || error_out_of_memory(error, "the JSON report", 4096);
    if (json)
        printf("%s\n", json);
    else if (ok)
        print_text(root);
    free(json);
    cJSON_Delete(root);
    return ok;
}
