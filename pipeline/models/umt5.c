/*
 * The UMT5 text encoder. Runs the real tokens only: with the padding masked away, as the reference
 * has it, their rows come out the same. Rows of the embedding table are read from the mapped
 * checkpoint, which saves 4 GB with the published model.
 *
 * Float32 between the layers; half precision would overflow, as the reference notes. Products are
 * the device's matter. Attention is not scaled, and every layer has its own table of relative
 * positions.
 */
#include "umt5.h"

#include "../io/config.h"
#include "../tensor/attention_cpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 4096

struct umt5_layer {
    struct linear *qkv, *out;         /* width -> 3 inner, inner -> width */
    struct linear *gate, *up, *down;  /* width -> ffn twice, ffn -> width */
    float *attention_norm, *ffn_norm; /* [width] */
    float *positions;                 /* host: [buckets][heads] */
};

struct umt5 {
    struct umt5_config config;
    const struct ops *ops;
    struct device *device;
    const struct checkpoint *checkpoint;   /* NULL = random weights */
    const struct stored_tensor *embedding; /* [vocab][width] */
    float *final_norm;
    struct umt5_layer *layers;
};

/* ---- Configuration ---- */

static const struct umt5_config published = {.vocab = 256384,
                                             .width = 4096,
                                             .heads = 64,
                                             .head_dim = 64,
                                             .ffn = 10240,
                                             .layers = 24,
                                             .buckets = 32,
                                             .max_distance = 128,
                                             .eps = 1e-6};

static bool check_kind(const struct config *file, struct error *error)
{
    const char *type = config_string(file, "model_type");
    const char *activation = config_string(file, "dense_act_fn");
    bool gated;
    if (type && strcmp(type, "umt5") != 0)
        return error_set(error, "%s: 'model_type' is \"%s\", expected \"umt5\"", config_path(file),
                         type);
    if (activation && strcmp(activation, "gelu_new") != 0)
        return error_set(error, "%s: 'dense_act_fn' is \"%s\", expected \"gelu_new\"",
                         config_path(file), activation);
    if (!config_bool_or(file, "is_gated_act", true, &gated, error))
        return false;
    return gated ||
           error_set(error, "%s: 'is_gated_act' is false, expected true", config_path(file));
}

static bool read_file(struct umt5_config *out, const struct config *file, struct error *error)
{
    const struct umt5_config *p = &published;
    if (!check_kind(file, error) ||
        !config_int(file, "vocab_size", 1, 1 << 24, &out->vocab, error) ||
        !config_int(file, "d_model", 1, 1 << 16, &out->width, error) ||
        !config_int(file, "num_heads", 1, 512, &out->heads, error) ||
        !config_int(file, "d_kv", 1, 1024, &out->head_dim, error) ||
        !config_int(file, "d_ff", 1, 1 << 20, &out->ffn, error) ||
        !config_int(file, "num_layers", 1, 1024, &out->layers, error) ||
        !config_int_or(file, "relative_attention_num_buckets", 4, 1 << 16, p->buckets,
                       &out->buckets, error) ||
        !config_int_or(file, "relative_attention_max_distance", 2, 1 << 20, p->max_distance,
                       &out->max_distance, error) ||
        !config_float_or(file, "layer_norm_epsilon", 0.0, 1.0, p->eps, &out->eps, error))
        return false;
    if (out->buckets % 4 != 0 || out->max_distance <= out->buckets / 4)
        return error_set(error,
                         "%s: 'relative_attention_num_buckets' %lld (a multiple of 4) must be "
                         "below 4 times 'relative_attention_max_distance' %lld",
                         config_path(file), (long long)out->buckets, (long long)out->max_distance);
    return true;
}

bool umt5_config_read(struct umt5_config *out, const char *path, struct error *error)
{
    *out = published;
    if (path[0] == '\0')
        return true;
    struct config *file = NULL;
    if (!config_open(&file, path, error))
        return false;
    bool ok = read_file(out, file, error);
    config_close(file);
    return ok;
}

static int64_t work_floats(const struct umt5_config *config, int64_t count)
{
    int64_t inner = config->heads * config->head_dim;
    return count * (2 * config->width + 4 * inner + 2 * config->ffn) + config->heads * 2 * count;
}

int64_t umt5_bytes(const struct umt5_config *config, enum element activations)
{
    const int64_t prompt = 512, f32 = sizeof(float);
    int64_t inner = config->heads * config->head_dim;
    int64_t linears = 4 * config->width * inner + 3 * config->width * config->ffn;
    int64_t vectors = config->buckets * config->heads + 2 * config->width;
    int64_t weights =
        config->layers * (linears * (int64_t)element_size(activations) + vectors * f32) +
        config->width * f32;
    int64_t work = work_floats(config, prompt) * f32;
    if (activations != ELEMENT_F32) /* the scores of a layer */
        return weights + work + config->heads * prompt * prompt * f32;
    int64_t largest = config->width * (3 * inner > config->ffn ? 3 * inner : config->ffn);
    return weights + work + largest * f32 +
           attention_cpu_bytes((int32_t)config->heads, (int32_t)config->head_dim, prompt, 1);
}

/* ---- Loading ---- */

struct loader {
    struct umt5 *umt5;
    int64_t layer; /* negative: names stand as they are */
    float *host;   /* room for the largest stack of weights, or vector of random ones */
    uint64_t seed; /* of the next random weights */
};

static bool read_tensor(const struct loader *loader, const char *name, const int64_t shape[2],
                        float *out, struct error *error)
{
    char full[256];
    if (loader->layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "encoder.block.%lld.layer.%s", (long long)loader->layer, name);
    return checkpoint_read(loader->umt5->checkpoint, full, shape, 2, out, error);
}

/* Stacks count weights of [out][in]. */
static bool load_linear(struct loader *loader, struct linear **to, int64_t out, int64_t in,
                        const char *const *names, int count, struct error *error)
{
    const struct umt5 *umt5 = loader->umt5;
    const int64_t shape[2] = {out, in};
    for (int i = 0; umt5->checkpoint && i < count; i++)
        if (!read_tensor(loader, names[i], shape, loader->host + i * out * in, error))
            return false;
    const struct linear_desc desc = {.in = in,
                                     .out = count * out,
                                     .weight = umt5->checkpoint ? loader->host : NULL,
                                     .seed = loader->seed++};
    return umt5->ops->linear_create(umt5->device, to, &desc, error);
}

/* Number i of a random table, in [-1, 1). */
static float random_value(uint64_t i)
{
    i = (i ^ (i >> 31)) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 29)) * 0xbf58476d1ce4e5b9u;
    return (float)(i >> 40) * 0x1p-23f - 1.0f;
}

static bool load_vector(const struct loader *loader, float **to, const char *name,
                        struct error *error)
{
    const struct umt5 *umt5 = loader->umt5;
    const int64_t shape[2] = {1, umt5->config.width};
    size_t bytes = (size_t)shape[1] * sizeof(float);
    for (int64_t i = 0; i < shape[1]; i++)
        loader->host[i] = 1.0f; /* a random layer's gain */
    if (umt5->checkpoint && !read_tensor(loader, name, shape, loader->host, error))
        return false;
    *to = umt5->ops->alloc(umt5->device, bytes);
    if (!*to)
        return error_out_of_memory(error, name, bytes);
    umt5->ops->upload(umt5->device, *to, loader->host, bytes);
    return true;
}

static bool load_layer(struct loader *loader, struct umt5_layer *layer, struct error *error)
{
    static const char *const qkv[] = {"0.SelfAttention.q.weight", "0.SelfAttention.k.weight",
                                      "0.SelfAttention.v.weight"};
    static const char *const out[] = {"0.SelfAttention.o.weight"};
    static const char *const gate[] = {"1.DenseReluDense.wi_0.weight"};
    static const char *const up[] = {"1.DenseReluDense.wi_1.weight"};
    static const char *const down[] = {"1.DenseReluDense.wo.weight"};
    const struct umt5_config *config = &loader->umt5->config;
    int64_t width = config->width, ffn = config->ffn, inner = config->heads * config->head_dim;
    const int64_t table[2] = {config->buckets, config->heads};
    size_t bytes = (size_t)(table[0] * table[1]) * sizeof(float);
    layer->positions = malloc(bytes);
    if (!layer->positions)
        return error_out_of_memory(error, "the table of relative positions", bytes);
    for (int64_t i = 0; i < table[0] * table[1]; i++)
        layer->positions[i] = random_value((uint64_t)i);
    return (!loader->umt5->checkpoint ||
            read_tensor(loader, "0.SelfAttention.relative_attention_bias.weight", table,
                        layer->positions, error)) &&
           load_linear(loader, &layer->qkv, inner, width, qkv, 3, error) &&
           load_linear(loader, &layer->out, width, inner, out, 1, error) &&
           load_linear(loader, &layer->gate, ffn, width, gate, 1, error) &&
           load_linear(loader, &layer->up, ffn, width, up, 1, error) &&
           load_linear(loader, &layer->down, width, ffn, down, 1, error) &&
           load_vector(loader, &layer->attention_norm, "0.layer_norm.weight", error) &&
           load_vector(loader, &layer->ffn_norm, "1.layer_norm.weight", error);
}

static bool find_embedding(struct umt5 *umt5, struct error *error)
{
    const struct stored_tensor *table = checkpoint_find(umt5->checkpoint, "shared.weight");
    const char *path = checkpoint_path(umt5->checkpoint);
    float probe;
    if (!table)
        return error_set(error, "%s: tensor 'shared.weight' is missing: not a UMT5 encoder?", path);
    if (table->rank != 2 || table->shape[0] != umt5->config.vocab ||
        table->shape[1] != umt5->config.width)
        return error_set(error, "%s: tensor '%s' is not [%lld, %lld] as the configuration says",
                         table->file, table->name, (long long)umt5->config.vocab,
                         (long long)umt5->config.width);
    if (!stored_to_float(table->dtype, table->data, 1, &probe))
        return error_set(error, "%s: tensor '%s' is %s, expected a floating-point type",
                         table->file, table->name, stored_dtype_name(table->dtype));
    umt5->embedding = table;
    return true;
}

static bool load_all(struct umt5 *umt5, const struct progress *progress, struct error *error)
{
    const struct umt5_config *config = &umt5->config;
    int64_t inner = config->heads * config->head_dim;
    int64_t largest = config->width * (3 * inner > config->ffn ? 3 * inner : config->ffn);
    struct loader loader = {.umt5 = umt5, .layer = -1};
    if (!umt5->checkpoint)
        largest = config->width;
    else if (!find_embedding(umt5, error))
        return false;
    umt5->layers = calloc((size_t)config->layers, sizeof *umt5->layers);
    loader.host = malloc((size_t)largest * sizeof *loader.host);
    bool ok = umt5->layers && loader.host;
    if (!ok)
        error_out_of_memory(error, "loading the text encoder",
                            (unsigned long long)largest * sizeof *loader.host);
    ok = ok && load_vector(&loader, &umt5->final_norm, "encoder.final_layer_norm.weight", error);
    for (loader.layer = 0; ok && loader.layer < config->layers; loader.layer++)
        ok = progress_step(progress, loader.layer, config->layers, error) &&
             load_layer(&loader, &umt5->layers[loader.layer], error);
    free(loader.host);
    return ok && progress_step(progress, config->layers, config->layers, error);
}

bool umt5_load(struct umt5 **out, const struct umt5_config *config,
               const struct checkpoint *checkpoint, const struct ops *ops, struct device *device,
               const struct progress *progress, struct error *error)
{
    *out = NULL;
    struct umt5 *umt5 = calloc(1, sizeof *umt5);
    if (!umt5)
        return error_out_of_memory(error, "the text encoder", sizeof *umt5);
    umt5->config = *config;
    umt5->checkpoint = checkpoint;
    umt5->ops = ops;
    umt5->device = device;
    if (!load_all(umt5, progress, error)) {
        umt5_free(umt5);
        return false;
    }
    *out = umt5;
    return true;
}

void umt5_free(struct umt5 *umt5)
{
    if (!umt5)
        return;
    for (int64_t i = 0; umt5->layers && i < umt5->config.layers; i++) {
        struct umt5_layer *layer = &umt5->layers[i];
        struct linear *linears[] = {layer->qkv, layer->out, layer->gate, layer->up, layer->down};
        for (size_t j = 0; j < sizeof linears / sizeof linears[0]; j++)
            if (linears[j])
                umt5->ops->linear_destroy(umt5->device, linears[j]);
        umt5->ops->free(umt5->device, layer->attention_norm);
        umt5->ops->free(umt5->device, layer->ffn_norm);
        free(layer->positions);
    }
    umt5->ops->free(umt5->device, umt5->final_norm);
    free(umt5->layers);
    free(umt5);
}

/* ---- Encoding ---- */

/* Which bucket a key that stands delta positions after its query falls into: half of the buckets
 * for either direction, of these half exact and half logarithmic. Float32 logarithms, as in the
 * reference. */
static int64_t bucket(const struct umt5_config *config, int64_t delta)
{
    int64_t half = config->buckets / 2, exact = half / 2;
    int64_t base = delta > 0 ? half : 0, distance = delta < 0 ? -delta : delta;
    if (distance < exact)
        return base + distance;
    float steps = logf((float)distance / (float)exact) /
                  (float)log((double)config->max_distance / (double)exact) * (float)(half - exact);
    int64_t large = exact + (int64_t)steps;
    return base + (large < half ? large : half - 1);
}

/* band [heads][2 count - 1]: bias of key j for query i at j - i + count - 1 */
static void fill_band(const struct umt5_config *config, const float *positions, int64_t count,
                      float *band)
{
    for (int64_t head = 0; head < config->heads; head++)
        for (int64_t delta = 1 - count; delta < count; delta++)
            *band++ = positions[bucket(config, delta) * config->heads + head];
}

struct work {
    float *x, *y;      /* [count][width] */
    float *qkv;        /* [count][3 inner] */
    float *out;        /* [count][inner] */
    float *gate, *up;  /* [count][ffn] */
    float *band;       /* [heads][2 count - 1] */
    float *host;       /* what goes to the device: embedded rows, bands */
    int64_t band_size; /* floats */
};

static bool linear(const struct umt5 *umt5, const struct linear *layer, const float *x, float *y,
                   int64_t count, enum activation activation, struct error *error)
{
    return umt5->ops->linear(umt5->device, layer, x, ELEMENT_F32, y, ELEMENT_F32, count, activation,
                             error);
}

static bool attend(const struct umt5 *umt5, const struct umt5_layer *layer, int64_t count,
                   const struct work *work, struct error *error)
{
    const struct umt5_config *config = &umt5->config;
    const struct ops *ops = umt5->ops;
    int64_t width = config->width, inner = config->heads * config->head_dim;
    fill_band(config, layer->positions, count, work->host);
    ops->upload(umt5->device, work->band, work->host, (size_t)work->band_size * sizeof(float));
    ops->rms_norm(umt5->device, work->x, work->y, count, width, (float)config->eps,
                  layer->attention_norm);
    const struct ops_attention attention = {
        .q = work->qkv,
        .k = work->qkv + inner,
        .v = work->qkv + 2 * inner,
        .o = work->out,
        .q_stride = 3 * inner,
        .k_stride = 3 * inner,
        .v_stride = 3 * inner,
        .o_stride = inner,
        .q_rows = count,
        .k_rows = count,
        .heads = (int32_t)config->heads,
        .head_dim = (int32_t)config->head_dim,
        .scale = 1.0f,
        .bias = work->band,
    };
    if (!linear(umt5, layer->qkv, work->y, work->qkv, count, ACTIVATION_NONE, error) ||
        !ops->attention(umt5->device, &attention, error) ||
        !linear(umt5, layer->out, work->out, work->y, count, ACTIVATION_NONE, error))
        return false;
    ops->add(umt5->device, work->x, work->y, count * width);
    return true;
}

static bool feed_forward(const struct umt5 *umt5, const struct umt5_layer *layer, int64_t count,
                         const struct work *work, struct error *error)
{
    const struct umt5_config *config = &umt5->config;
    const struct ops *ops = umt5->ops;
    int64_t width = config->width;
    ops->rms_norm(umt5->device, work->x, work->y, count, width, (float)config->eps,
                  layer->ffn_norm);
    if (!linear(umt5, layer->gate, work->y, work->gate, count, ACTIVATION_GELU_TANH, error) ||
        !linear(umt5, layer->up, work->y, work->up, count, ACTIVATION_NONE, error))
        return false;
    ops->multiply(umt5->device, work->gate, work->up, count * config->ffn);
    if (!linear(umt5, layer->down, work->gate, work->y, count, ACTIVATION_NONE, error))
        return false;
    ops->add(umt5->device, work->x, work->y, count * width);
    return true;
}

static bool embed_one(const struct umt5 *umt5, int32_t id, float *to, struct error *error)
{
    const struct stored_tensor *table = umt5->embedding;
    const int64_t width = umt5->config.width;
    for (int64_t i = 0; !table && i < width; i++)
        to[i] = random_value((uint64_t)id * (uint64_t)width + (uint64_t)i);
    if (!table)
        return true;
    const size_t row = (size_t)width * stored_dtype_size(table->dtype);
    return stored_to_float(table->dtype, (const char *)table->data + (size_t)id * row, width, to) ||
           error_set(error, "%s: tensor '%s' cannot be read", table->file, table->name);
}

static bool embed(const struct umt5 *umt5, const int32_t *ids, int64_t count,
                  const struct work *work, struct error *error)
{
    int64_t width = umt5->config.width;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= umt5->config.vocab)
            return error_set(error,
                             "text encoder: token id %d at place %lld, the vocabulary has %lld: "
                             "tokenizer and text encoder do not belong together",
                             ids[i], (long long)i, (long long)umt5->config.vocab);
        if (!embed_one(umt5, ids[i], work->host + i * width, error))
            return false;
    }
    umt5->ops->upload(umt5->device, work->x, work->host, (size_t)(count * width) * sizeof(float));
    return true;
}

static bool check_finite(const struct umt5 *umt5, const float *x, int64_t count,
                         struct error *error)
{
    return umt5->ops->first_not_finite(umt5->device, x, count * umt5->config.width) < 0 ||
           error_set(error, "NaN or infinity; the checkpoint is broken");
}

static bool run(const struct umt5 *umt5, const int32_t *ids, int64_t count, const struct work *work,
                float *out, struct error *error)
{
    const struct umt5_config *config = &umt5->config;
    if (!embed(umt5, ids, count, work, error))
        return false;
    if (!check_finite(umt5, work->x, count, error))
        return error_prefix(error, "text encoder: shared.weight: ");
    for (int64_t i = 0; i < config->layers; i++)
        if (!attend(umt5, &umt5->layers[i], count, work, error) ||
            !feed_forward(umt5, &umt5->layers[i], count, work, error) ||
            !check_finite(umt5, work->x, count, error))
            return error_prefix(error, "text encoder: encoder.block.%lld: ", (long long)i);
    umt5->ops->rms_norm(umt5->device, work->x, work->y, count, config->width, (float)config->eps,
                        umt5->final_norm);
    if (!check_finite(umt5, work->y, count, error))
        return error_prefix(error, "text encoder: encoder.final_layer_norm: ");
    umt5->ops->download(umt5->device, out, work->y,
                        (size_t)(count * config->width) * sizeof(float));
    return umt5->ops->synchronise(umt5->device, error);
}

bool umt5_encode(struct umt5 *umt5, const int32_t *ids, int64_t count, float *out,
                 struct error *error)
{
    const struct umt5_config *config = &umt5->config;
    if (count < 1 || count > MAX_TOKENS)
        return error_set(error, "text encoder: %lld tokens, expected 1 to %d", (long long)count,
                         MAX_TOKENS);
    int64_t inner = config->heads * config->head_dim, stream = count * config->width;
    size_t bytes = (size_t)work_floats(config, count) * sizeof(float);
    struct work work = {.band_size = config->heads * (2 * count - 1)};
    int64_t host = stream > work.band_size ? stream : work.band_size;
    work.x = umt5->ops->alloc(umt5->device, bytes);
    work.host = malloc((size_t)host * sizeof *work.host);
    bool ok = work.x && work.host;
    if (ok) {
        work.y = work.x + stream;
        work.qkv = work.y + stream;
        work.out = work.qkv + 3 * count * inner;
        work.gate = work.out + count * inner;
        work.up = work.gate + count * config->ffn;
        work.band = work.up + count * config->ffn;
        ok = run(umt5, ids, count, &work, out, error);
    } else {
        error_out_of_memory(error, "the text encoder", bytes);
    }
    umt5->ops->free(umt5->device, work.x);
    free(work.host);
    return ok;
}
