/*
 * The JSON files of a model folder, one by one: the first byte chooses which, the rest is what
 * stands in it. What is accepted is planned with, as 'draftattn inspect' does, because sizes that
 * are possible one by one may not be in their product.
 */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "unit/scratch.h"

#include "generate.h"
#include "io/tokenizer.h"

static const struct place {
    const char *folder;
    const char *file;
} places[] = {
    {"diffusers", "model_index.json"},
    {"diffusers", "transformer/config.json"},
    {"diffusers", "vae/config.json"},
    {"diffusers", "text_encoder/config.json"},
    {"diffusers", "scheduler/scheduler_config.json"},
    {"diffusers", "generation_defaults.json"},
    {"diffusers", "tokenizer/tokenizer_config.json"},
    {"original", "config.json"},
    {"original", "diffusion_pytorch_model.safetensors.index.json"},
};
#define PLACE_COUNT (sizeof places / sizeof *places)
#define MODEL       TEST_SOURCE_DIR "/samples/tiny-world/checkpoint/"
#define TOKENIZER   TEST_SOURCE_DIR "/tests/fuzz/corpus/tokenizer/small"
#define VAE         "Wan2.1_VAE.safetensors"

static struct scratch scratch;
static struct fuzz_file file;

static void close_scratch(void)
{
    scratch_close(&scratch);
}

static void link_to(const char *target, const char *folder, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s/%s", scratch.root, folder, name);
    unlink(path);
    if (symlink(target, path) != 0)
        abort();
}

/* Two folders of links: the bundled model, and one in the original layout with the same parts. */
static void make_folders(void)
{
    static const char *const parts[] = {
        "model_index.json",         "scheduler/scheduler_config.json",
        "text_encoder/config.json", "text_encoder/model.safetensors",
        "tokenizer/spiece.model",   "tokenizer/tokenizer_config.json",
        "transformer/config.json",  "transformer/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",          "vae/diffusion_pytorch_model.safetensors",
    };
    static const char *const folders[] = {
        "original",
        "diffusers",
        "diffusers/vae",
        "diffusers/transformer",
        "diffusers/scheduler",
        "diffusers/text_encoder",
        "diffusers/tokenizer",
    };
    char target[512];
    if (scratch_open(&scratch) != 0)
        abort();
    atexit(close_scratch);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        scratch_folder(&scratch, folders[i]);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(target, sizeof target, MODEL "%s", parts[i]);
        link_to(target, "diffusers", parts[i]);
    }
    link_to(TOKENIZER, "diffusers", "tokenizer/spiece.model");
    link_to(MODEL "vae/diffusion_pytorch_model.safetensors", "original", VAE);
    link_to(MODEL "vae", "original", "vae");
    link_to(MODEL "text_encoder", "original", "text_encoder");
    link_to(MODEL "tokenizer", "original", "tokenizer");
    link_to(MODEL "vae/diffusion_pytorch_model.safetensors", "original",
            "diffusion_pytorch_model.safetensors");
}

static void plan(const struct model *model)
{
    struct generate_settings settings = generate_settings_default();
    struct memory_plan memory;
    struct error error = {0};
    char text[1024];
    settings.prompt = "a ball";
    settings.output = "x.mp4";
    if (!generate_settings_resolve(&settings, model, NULL, &error))
        return;
    struct memory_query query = {
        .model = model,
        .width = settings.width,
        .height = settings.height,
        .frames = settings.frames,
        .guided = true,
        .tile = VAE_TILE_AUTO,
        .attention = settings.attention,
        .available = 1 << 28,
    };
    if (draftattn_context_create(&query.context, NULL) != DRAFTATTN_SUCCESS)
        abort();
    for (int gpu = 0; gpu < 2; gpu++) {
        query.gpu = query.offload = gpu;
        query.activations = gpu ? ELEMENT_BF16 : ELEMENT_F32;
        if (!memory_plan_make(&memory, &query, &error))
            continue;
        memory_plan_describe(&memory, &query, text, sizeof text);
        if (memory.peak < 0 || memory.weights < 0 || memory.host < 0)
            abort();
        if (!memory_plan_fits(&memory, &query))
            memory_plan_refuse(&memory, &query, &error);
    }
    draftattn_context_destroy(query.context);
}

static void open_model(const char *path)
{
    struct error error = {0};
    struct model model;
    if (model_open(&model, path, &error))
        plan(&model);
    else if (!error.text[0])
        abort();
    model_close(&model);
}

static void open_rest(const char *folder, const char *name)
{
    struct error error = {0};
    struct checkpoint *weights = NULL;
    struct tokenizer *tokenizer = NULL;
    if (strstr(name, "index.json") && checkpoint_open(&weights, folder, &error))
        checkpoint_close(weights);
    if (strstr(name, "tokenizer") &&
        tokenizer_open(&tokenizer, scratch_path(&scratch, "diffusers/tokenizer/spiece.model"),
                       &error))
        tokenizer_close(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[256];
    struct fuzz_input input = {data, size};
    if (!file.path[0]) {
        fuzz_file_open(&file);
        make_folders();
    }
    const struct place *place = &places[fuzz_byte(&input) % PLACE_COUNT];
    fuzz_file_write(&file, input.data, input.size, 0);
    snprintf(name, sizeof name, "%s/%s", place->folder, place->file);
    const char *path = scratch_path(&scratch, name);
    char *kept = NULL, target[512];
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (length > 0) {
        target[length] = '\0';
        kept = target;
    }
    link_to(file.path, place->folder, place->file);
    open_rest(scratch_path(&scratch, place->folder), place->file);
    open_model(scratch_path(&scratch, place->folder));
    if (kept)
        link_to(kept, place->folder, place->file);
    else
        unlink(path);
    return 0;
}
