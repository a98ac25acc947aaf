/*
 * The Wan transformer's configuration, in diffusers' and in the original layout, and what follows
 * from it without any weights: bounds and memory.
 *
 * Refuses what this network is not: other classes (VACE, Animate), other norms, head sizes that
 * libdraftattn has no kernel for.
 */
#include "wan_transformer_parts.h"

#include "../io/config.h"
#include "../tensor/attention_cpu.h"

#include <string.h>

#define ORIGINAL_IMAGE_DIM    1280 /* CLIP ViT-H, not stored in the original layout */
#define ORIGINAL_FLF_SEQUENCE 514  /* two images of 257 rows */

static bool in_bounds(const char *where, const char *field, int64_t value, int64_t low,
                      int64_t high, struct error *error)
{
    if (value >= low && value <= high)
        return true;
    return error_set(error, "%s: '%s' is %lld, expected %lld to %lld", where, field,
                     (long long)value, (long long)low, (long long)high);
}

bool wan_transformer_config_check(const struct wan_transformer_config *config, const char *where,
                                  struct error *error)
{
    const struct {
        const char *field;
        int64_t value, low, high;
    } bounds[] = {
        {"num_attention_heads", config->heads, 1, 512},
        {"num_layers", config->layers, 1, 1024},
        {"ffn_dim", config->ffn, 1, 1 << 20},
        {"in_channels", config->in_channels, 1, 4096},
        {"out_channels", config->out_channels, 1, config->in_channels},
        {"text_dim", config->text_dim, 1, 1 << 16},
        {"freq_dim", config->freq_dim, 2, 1 << 16},
        {"text_len", config->text_len, 1, 1 << 16},
        {"patch_size[0]", config->patch[0], 1, 16},
        {"patch_size[1]", config->patch[1], 1, 16},
        {"patch_size[2]", config->patch[2], 1, 16},
        {"image_dim", config->image_dim, 0, 1 << 16},
        {"pos_embed_seq_len", config->pos_embed_seq_len, 0, 1 << 16},
        {"rope_max_seq_len", config->rope_max, 1, 1 << 20},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
        if (!in_bounds(where, bounds[i].field, bounds[i].value, bounds[i].low, bounds[i].high,
                       error))
            return false;
    if (config->head_dim != 64 && config->head_dim != 128)
        return error_set(error,
                         "%s: 'attention_head_dim' is %lld; sparse attention has kernels for 64 "
                         "and 128",
                         where, (long long)config->head_dim);
    if (config->freq_dim % 2 != 0)
        return error_set(error, "%s: 'freq_dim' is %lld, expected an even number", where,
                         (long long)config->freq_dim);
    if (!(config->eps > 0.0 && config->eps < 1.0))
        return error_set(error, "%s: 'eps' is %g, expected a number in (0, 1)", where, config->eps);
    return true;
}

static bool expect_string(const struct config *file, const char *field, const char *expected,
                          struct error *error)
{
    const char *value = config_string(file, field);
    if (!value || strcmp(value, expected) == 0)
        return true;
    return error_set(error, "%s: '%s' is \"%s\", expected \"%s\"", config_path(file), field, value,
                     expected);
}

static bool read_diffusers(struct wan_transformer_config *out, const struct config *file,
                           struct error *error)
{
    bool cross_attn_norm;
    int64_t added = 0;
    if (!expect_string(file, "qk_norm", "rms_norm_across_heads", error) ||
        !config_bool_or(file, "cross_attn_norm", true, &cross_attn_norm, error) ||
        !config_int(file, "num_attention_heads", 1, 512, &out->heads, error) ||
        !config_int(file, "attention_head_dim", 1, 4096, &out->head_dim, error) ||
        !config_int(file, "num_layers", 1, 1024, &out->layers, error) ||
        !config_int(file, "ffn_dim", 1, 1 << 20, &out->ffn, error) ||
        !config_int_or(file, "in_channels", 1, 4096, 16, &out->in_channels, error) ||
        !config_int_or(file, "out_channels", 1, 4096, 16, &out->out_channels, error) ||
        !config_int_or(file, "image_dim", 0, 1 << 16, 0, &out->image_dim, error) ||
        !config_int_or(file, "added_kv_proj_dim", 0, 1 << 16, 0, &added, error) ||
        !config_int_or(file, "pos_embed_seq_len", 0, 1 << 16, 0, &out->pos_embed_seq_len, error) ||
        !config_int_or(file, "rope_max_seq_len", 1, 1 << 20, 1024, &out->rope_max, error))
        return false;
    if (!cross_attn_norm)
        return error_set(error, "%s: 'cross_attn_norm' is false, expected true", config_path(file));
    if (added != 0 && added != wan_width(out))
        return error_set(error, "%s: 'added_kv_proj_dim' is %lld, expected the width %lld or null",
                         config_path(file), (long long)added, (long long)wan_width(out));
    if ((added != 0) != (out->image_dim != 0))
        return error_set(error,
                         "%s: 'image_dim' and 'added_kv_proj_dim' must both be set (image to "
                         "video) or both be null",
                         config_path(file));
    return true;
}

static bool read_original(struct wan_transformer_config *out, const struct config *file,
                          struct error *error)
{
    int64_t width;
    if (!config_int(file, "dim", 1, 1 << 20, &width, error) ||
        !config_int(file, "num_heads", 1, 512, &out->heads, error) ||
        !config_int(file, "num_layers", 1, 1024, &out->layers, error) ||
        !config_int(file, "ffn_dim", 1, 1 << 20, &out->ffn, error) ||
        !config_int_or(file, "in_dim", 1, 4096, 16, &out->in_channels, error) ||
        !config_int_or(file, "out_dim", 1, 4096, 16, &out->out_channels, error) ||
        !config_int_or(file, "text_len", 1, 1 << 16, 512, &out->text_len, error))
        return false;
    if (width % out->heads != 0)
        return error_set(error, "%s: 'dim' is %lld, not a multiple of 'num_heads' %lld",
                         config_path(file), (long long)width, (long long)out->heads);
    out->head_dim = width / out->heads;
    out->rope_max = 1024;
    out->image_dim = out->pos_embed_seq_len = 0;
    const char *type = config_string(file, "model_type");
    if (type && (strcmp(type, "i2v") == 0 || strcmp(type, "flf2v") == 0))
        out->image_dim = ORIGINAL_IMAGE_DIM;
    if (type && strcmp(type, "flf2v") == 0)
        out->pos_embed_seq_len = ORIGINAL_FLF_SEQUENCE;
    if (type && !out->image_dim && strcmp(type, "t2v") != 0)
        return error_set(error, "%s: 'model_type' is \"%s\", expected t2v, i2v or flf2v",
                         config_path(file), type);
    return true;
}

static bool read_file(struct wan_transformer_config *out, const struct config *file,
                      struct error *error)
{
    const char *name = config_string(file, "_class_name");
    bool diffusers = config_has(file, "num_attention_heads");
    if (name && strcmp(name, "WanTransformer3DModel") != 0 && strcmp(name, "WanModel") != 0)
        return error_set(error,
                         "%s: '_class_name' is \"%s\"; this program runs WanTransformer3DModel "
                         "(diffusers) and WanModel (original)",
                         config_path(file), name);
    memset(out, 0, sizeof *out);
    out->text_len = 512;
    out->patch[0] = 1;
    out->patch[1] = out->patch[2] = 2;
    if (!(diffusers ? read_diffusers(out, file, error) : read_original(out, file, error)) ||
        !config_int_or(file, "text_dim", 1, 1 << 16, 4096, &out->text_dim, error) ||
        !config_int_or(file, "freq_dim", 2, 1 << 16, 256, &out->freq_dim, error) ||
        !config_float_or(file, "eps", 0.0, 1.0, 1e-6, &out->eps, error))
        return false;
    if (config_has(file, "patch_size") &&
        !config_ints(file, "patch_size", 1, 16, out->patch, 3, error))
        return false;
    return wan_transformer_config_check(out, config_path(file), error);
}

bool wan_transformer_config_read(struct wan_transformer_config *out, const char *path,
                                 struct error *error)
{
    struct config *file = NULL;
    if (!config_open(&file, path, error))
        return false;
    bool ok = read_file(out, file, error);
    config_close(file);
    return ok;
}

int64_t wan_transformer_block_bytes(const struct wan_transformer_config *config,
                                    enum element activations)
{
    int64_t d = wan_width(config), image = config->image_dim > 0;
    int64_t weights = (8 + 2 * image) * d * d + 2 * d * config->ffn;
    int64_t biases = (8 + 2 * image) * d + config->ffn + d;
    return weights * (int64_t)element_size(activations) + biases * (int64_t)sizeof(float);
}

int64_t wan_transformer_weight_bytes(const struct wan_transformer_config *config,
                                     enum element activations)
{
    const int64_t size = (int64_t)element_size(activations), f32 = sizeof(float);
    int64_t d = wan_width(config), image = config->image_dim > 0;
    int64_t block = wan_transformer_block_bytes(config, activations) + (12 + image) * d * f32;
    int64_t exact = wan_patch_volume(config) * config->out_channels * d + config->freq_dim * d +
                    d * d + 6 * d * d + 20 * d;
    int64_t rounded =
        wan_patch_volume(config) * config->in_channels * d + config->text_dim * d + d * d;
    if (image) {
        rounded += config->image_dim * (config->image_dim + d);
        exact += config->image_dim * config->pos_embed_seq_len;
    }
    return config->layers * block + exact * f32 + rounded * size;
}

static int64_t max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t wan_wide_bytes(const struct wan_transformer_config *config, int64_t tokens,
                       enum element activations)
{
    const int64_t size = (int64_t)element_size(activations), f32 = sizeof(float);
    const int64_t d = wan_width(config), volume = wan_patch_volume(config);
    int64_t row = max(3 * d, volume * config->in_channels) * size;
    row = max(row, (d + volume * config->out_channels) * f32); /* the head, float32 */
    return max(tokens * row, config->ffn * size);
}

int64_t wan_transformer_work_bytes(const struct wan_transformer_config *config, int64_t tokens,
                                   enum element activations)
{
    const int64_t size = (int64_t)element_size(activations), f32 = sizeof(float);
    int64_t row = wan_width(config) * (f32 + size) + config->head_dim * f32 + 16;
    int64_t cpu = activations == ELEMENT_F32
                      ? attention_cpu_bytes((int32_t)config->heads, (int32_t)config->head_dim,
                                            config->text_len, 1)
                      : 0;
    return tokens * row + wan_wide_bytes(config, tokens, activations) +
           (config->layers * 6 + 2) * wan_width(config) * f32 + cpu;
}

int64_t wan_context_bytes(const struct wan_transformer_config *config, int64_t text_rows,
                          int64_t image_rows, enum element activations)
{
    int64_t rows = text_rows + (text_rows < config->text_len) + image_rows;
    return config->layers * rows * 2 * wan_width(config) * (int64_t)element_size(activations);
}
