/*
 * Finds the parts of a Wan model in a folder. Only looks whether files are there and what the
 * folder says it is; the parts themselves are opened by their readers. Refuses, in words and with
 * the way out: folders of other pipelines, of Wan models that this program does not run, parts that
 * are missing, and parts that are there only as pickled PyTorch files, which can run code when they
 * are read.
 */
#include "model_folder.h"

#include "json_file.h"
#include "names_wan.h"
#include "path_kind.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define JSON_BYTES_MAX ((size_t)16 << 20)
#define EXAMPLE        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"

/* out [MODEL_PATH_MAX] = root/name, or "" where that is too long. */
static const char *join(char *out, const char *root, const char *name)
{
    size_t root_length = strlen(root), name_length = strlen(name);
    out[0] = '\0';
    if (root_length + name_length + 2 > MODEL_PATH_MAX)
        return out;
    memcpy(out, root, root_length);
    out[root_length] = '/';
    memcpy(out + root_length + 1, name, name_length + 1);
    return out;
}

static bool find_file(char *out, const char *root, const char *name)
{
    if (is_file(join(out, root, name)))
        return true;
    out[0] = '\0';
    return false;
}

static bool require_file(char *out, const char *root, const char *name, const char *remedy,
                         struct error *error)
{
    if (find_file(out, root, name))
        return true;
    return error_set(error, "%s/%s is missing; %s", root, name, remedy);
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t length = strlen(text), tail = strlen(suffix);
    return length > tail && strcmp(text + length - tail, suffix) == 0;
}

/* The first file of folder that only PyTorch's unpickler reads; false for none. */
static bool find_pickled(const char *folder, char *name, size_t size)
{
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        const char *file = entry->d_name;
        if (ends_with(file, ".pth") || ends_with(file, ".bin") || ends_with(file, ".pt") ||
            ends_with(file, ".ckpt")) {
            snprintf(name, size, "%s", file);
            found = true;
        }
    }
    if (dir)
        closedir(dir);
    return found;
}

static bool has_weights(const char *folder)
{
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors",
                                        "model.safetensors.index.json", "model.safetensors"};
    char path[MODEL_PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (find_file(path, folder, names[i]))
            return true;
    return false;
}

/* A folder of weights with its configuration: root/part. */
static bool require_part(char *weights, char *config, const char *root, const char *part,
                         struct error *error)
{
    char name[256];
    if (!is_folder(join(weights, root, part)))
        return error_set(error, "%s/%s is missing; download it from the model's page", root, part);
    if (!has_weights(weights)) {
        if (find_pickled(weights, name, sizeof name))
            return error_set(
                error,
                "%s/%s is a pickled PyTorch file, which is not read (reading it can run "
                "code); download the .safetensors files of %s instead",
                weights, name, part);
        return error_set(error,
                         "%s holds no weights: expected a .safetensors file or the "
                         ".safetensors.index.json of several; download it again",
                         weights);
    }
    return require_file(config, weights, "config.json", "download it from the model's page", error);
}

/* What model_index.json says is in the folder. */
static bool check_index(const char *path, struct error *error)
{
    cJSON *root = json_read(path, JSON_BYTES_MAX, error);
    if (!root)
        return false;
    bool ok = true;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "_class_name"));
    const cJSON *second = cJSON_GetObjectItemCaseSensitive(root, "transformer_2");
    if (!name)
        ok = error_set(error, "%s: has no text '_class_name'", path);
    else if (strcmp(name, "WanPipeline") != 0)
        ok = error_set(error,
                       "%s: '_class_name' is '%.100s'; WanPipeline (Wan2.1 text to video, such as "
                       "%s) is what runs here",
                       path, name, EXAMPLE);
    else if (cJSON_IsArray(second) && cJSON_IsString(cJSON_GetArrayItem(second, 1)))
        ok =
            error_set(error,
                      "%s: names a second transformer (Wan2.2 A14B), which is not supported; use a "
                      "Wan2.1 model such as %s",
                      path, EXAMPLE);
    else if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "expand_timesteps")))
        ok = error_set(
            error,
            "%s: asks for a timestep per token (Wan2.2 TI2V), which is not supported; use "
            "a Wan2.1 model such as %s",
            path, EXAMPLE);
    cJSON_Delete(root);
    return ok;
}

static bool open_diffusers(struct model_folder *out, struct error *error)
{
    const char *root = out->root;
    char index[MODEL_PATH_MAX];
    out->layout = MODEL_LAYOUT_DIFFUSERS;
    return check_index(join(index, root, "model_index.json"), error) &&
           require_part(out->transformer, out->transformer_config, root, "transformer", error) &&
           require_part(out->vae, out->vae_config, root, "vae", error) &&
           require_part(out->text_encoder, out->text_encoder_config, root, "text_encoder", error) &&
           require_file(out->tokenizer, root, "tokenizer/spiece.model",
                        "download it; tokenizer.json alone is not enough", error) &&
           require_file(out->scheduler_config, root, "scheduler/scheduler_config.json",
                        "download it from the model's page", error);
}

/* A part of an original-layout folder: what it may be called, and what to get where it is not
 * there. */
struct original_part {
    const char *const *files; /* ended by NULL */
    const char *folder;       /* of the diffusers layout, which serves as well */
    const char *pickled;
};

static const char *const vae_files[] = {"Wan2.1_VAE.safetensors",
                                        "Wan2_1_VAE_fp32.safetensors",
                                        "Wan2_1_VAE_bf16.safetensors",
                                        "wan_2.1_vae.safetensors",
                                        "vae.safetensors",
                                        NULL};
static const char *const text_encoder_files[] = {"models_t5_umt5-xxl-enc-bf16.safetensors",
                                                 "umt5-xxl-enc-bf16.safetensors",
                                                 "umt5-xxl-enc-fp32.safetensors",
                                                 "umt5_xxl_fp16.safetensors",
                                                 "umt5_xxl_bf16.safetensors",
                                                 "text_encoder.safetensors",
                                                 NULL};

static const struct original_part original_vae = {vae_files, "vae", "Wan2.1_VAE.pth"};
static const struct original_part original_text_encoder = {text_encoder_files, "text_encoder",
                                                           "models_t5_umt5-xxl-enc-bf16.pth"};

static bool find_original(char *weights, char *config, const char *root,
                          const struct original_part *part, struct error *error)
{
    char folder[MODEL_PATH_MAX];
    config[0] = '\0';
    for (int i = 0; part->files[i]; i++)
        if (find_file(weights, root, part->files[i]))
            return true;
    if (is_folder(join(folder, root, part->folder)) && has_weights(folder))
        return require_part(weights, config, root, part->folder, error);
    if (find_file(weights, root, part->pickled))
        return error_set(
            error,
            "%s is a pickled PyTorch file, which is not read (reading it can run code); "
            "put the folder %s of %s beside it, or convert it to %s",
            weights, part->folder, EXAMPLE, part->files[0]);
    return error_set(error, "%s/%s is missing; put it there, or the folder %s of %s", root,
                     part->files[0], part->folder, EXAMPLE);
}

static bool check_original(const char *path, struct error *error)
{
    cJSON *root = json_read(path, JSON_BYTES_MAX, error);
    if (!root)
        return false;
    bool ok = true;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "_class_name"));
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "model_type"));
    if (!name || strcmp(name, "WanModel") != 0)
        ok = error_set(
            error,
            "%s: '_class_name' is '%.100s', expected WanModel; the folder of a whole model "
            "is needed, with model_index.json or in Wan's original layout",
            path, name ? name : "");
    else if (type && strcmp(type, "t2v") != 0)
        ok = error_set(error,
                       "%s: 'model_type' is '%.100s'; t2v (Wan2.1 text to video) is what runs here",
                       path, type);
    cJSON_Delete(root);
    return ok;
}

static bool open_original(struct model_folder *out, struct error *error)
{
    static const char *const tokenizers[] = {"google/umt5-xxl/spiece.model",
                                             "tokenizer/spiece.model", "spiece.model"};
    const char *root = out->root;
    out->layout = MODEL_LAYOUT_ORIGINAL;
    out->rename_transformer = names_wan_transformer;
    out->rename_vae = names_wan_vae;
    out->rename_text_encoder = names_wan_umt5;
    join(out->transformer_config, root, "config.json");
    if (!check_original(out->transformer_config, error))
        return false;
    snprintf(out->transformer, sizeof out->transformer, "%s", root);
    if (!has_weights(root))
        return error_set(error,
                         "%s/diffusion_pytorch_model.safetensors is missing (or its .index.json); "
                         "download it again",
                         root);
    if (!find_original(out->vae, out->vae_config, root, &original_vae, error) ||
        !find_original(out->text_encoder, out->text_encoder_config, root, &original_text_encoder,
                       error))
        return false;
    for (size_t i = 0; i < sizeof tokenizers / sizeof tokenizers[0]; i++)
        if (find_file(out->tokenizer, root, tokenizers[i]))
            return true;
    return error_set(error, "%s/%s is missing; download it from the model's page", root,
                     tokenizers[0]);
}

static bool is_empty(const char *folder)
{
    DIR *dir = opendir(folder);
    int entries = 0;
    while (dir && readdir(dir))
        entries++;
    if (dir)
        closedir(dir);
    return entries <= 2; /* . and .. */
}

bool model_folder_open(struct model_folder *out, const char *path, struct error *error)
{
    *out = (struct model_folder){0};
    const size_t room = 256; /* for the names below it */
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length == 0 || length + room > MODEL_PATH_MAX)
        return error_set(error, "the model folder's name has %zu bytes, expected 1..%zu", length,
                         MODEL_PATH_MAX - room);
    memcpy(out->root, path, length);
    const char *root = out->root;
    char probe[MODEL_PATH_MAX];
    struct stat info;
    if (stat(root, &info) != 0)
        return error_set(error, "model folder %s: cannot open: %s", root, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return error_set(error, "model folder %s: is a file; give the folder that holds the model",
                         root);
    if (find_file(probe, root, "model_index.json"))
        return open_diffusers(out, error);
    if (is_folder(join(probe, root, "high_noise_model")))
        return error_set(error,
                         "model folder %s: holds Wan2.2 A14B, which is not supported; use a Wan2.1 "
                         "model such as %s",
                         root, EXAMPLE);
    if (find_file(probe, root, "config.json"))
        return open_original(out, error);
    return error_set(
        error,
        "model folder %s: %s; expected model_index.json (diffusers layout, such as %s) "
        "or config.json of a WanModel (original layout)",
        root, is_empty(root) ? "is empty" : "holds no model", EXAMPLE);
}
