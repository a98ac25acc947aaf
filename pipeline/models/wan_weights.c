/*
 * Loads the Wan transformer: every tensor is named once, in the tables below, by its diffusers
 * name.
 *
 * Linear layers that read the same input are stacked into one (query, key, value; key, value),
 * which makes fewer and larger products. Without a checkpoint the weights are random: gains 1,
 * biases 0, tables small, so that a deep network stays finite. Refuses checkpoints that have more
 * blocks, or an image branch, than the configuration says, since those would run and give a wrong
 * video.
 */
#include "wan_transformer_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define STACK_MAX 3

struct linear_entry {
    struct linear **to;
    int64_t out, in;              /* of one of the stacked layers */
    const char *names[STACK_MAX]; /* without prefix and ".weight"; NULL ends the stack */
    bool exact;                   /* float32 on every device */
};

enum vector_kind { VECTOR_GAIN, VECTOR_BIAS, VECTOR_TABLE };

struct vector_entry {
    float **to;
    int64_t rows, features;
    const char *name; /* without prefix */
    enum vector_kind kind;
};

struct loader {
    struct wan_transformer *transformer;
    const struct checkpoint *checkpoint; /* NULL = random weights */
    uint64_t seed;                       /* of the next of these */
    char prefix[48];                     /* of names: "blocks.3." */
    float *host;                         /* one layer before it is packed */
    int64_t host_floats;                 /* its size */
};

static bool reserve_host(struct loader *loader, int64_t floats, struct error *error)
{
    if (floats <= loader->host_floats)
        return true;
    free(loader->host);
    loader->host = malloc((size_t)floats * sizeof *loader->host);
    loader->host_floats = loader->host ? floats : 0;
    return loader->host || error_out_of_memory(error, "loading a layer of the transformer",
                                               (unsigned long long)floats * sizeof(float));
}

static bool read_tensor(const struct loader *loader, const char *name, const char *suffix,
                        const int64_t *shape, int rank, float *out, struct error *error)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s%s", loader->prefix, name, suffix);
    return checkpoint_read(loader->checkpoint, full, shape, rank, out, error);
}

/* shape is that of one stacked weight; what follows its first dimension is the input. */
static bool load_stack(struct loader *loader, const struct linear_entry *entry,
                       const int64_t *shape, int rank, struct error *error)
{
    struct wan_transformer *t = loader->transformer;
    const int64_t out = entry->out, in = entry->in;
    int count = 0;
    while (count < STACK_MAX && entry->names[count])
        count++;
    struct linear_desc desc = {
        .in = in, .out = count * out, .bias = true, .exact = entry->exact, .seed = loader->seed++};
    if (loader->checkpoint) {
        if (!reserve_host(loader, count * (out * in + out), error))
            return false;
        float *weight = loader->host, *bias = loader->host + count * out * in;
        for (int i = 0; i < count; i++)
            if (!read_tensor(loader, entry->names[i], ".weight", shape, rank, weight + i * out * in,
                             error) ||
                !read_tensor(loader, entry->names[i], ".bias", &out, 1, bias + i * out, error))
                return false;
        desc.weight = weight;
        desc.bias_values = bias;
    }
    if (!t->ops->linear_create(t->device, entry->to, &desc, error))
        return false;
    t->linears[t->linear_count++] = *entry->to;
    return true;
}

static bool load_linears(struct loader *loader, const struct linear_entry *entries, size_t count,
                         struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        int64_t shape[2] = {entries[i].out, entries[i].in};
        if (!load_stack(loader, &entries[i], shape, 2, error))
            return false;
    }
    return true;
}

/* Tables get numbers in [-0.02, 0.02). */
static void fill_random(struct loader *loader, enum vector_kind kind, int64_t count)
{
    uint64_t state = loader->seed++;
    for (int64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        loader->host[i] = kind == VECTOR_GAIN   ? 1.0f
                          : kind == VECTOR_BIAS ? 0.0f
                                                : 0.04f * ((float)(state >> 40) * 0x1p-24f - 0.5f);
    }
}

static bool load_vectors(struct loader *loader, const struct vector_entry *entries, size_t count,
                         struct error *error)
{
    struct wan_transformer *t = loader->transformer;
    for (size_t i = 0; i < count; i++) {
        int64_t shape[2] = {entries[i].rows, entries[i].features};
        size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof(float);
        if (!reserve_host(loader, shape[0] * shape[1], error))
            return false;
        if (!loader->checkpoint)
            fill_random(loader, entries[i].kind, shape[0] * shape[1]);
        else if (!read_tensor(loader, entries[i].name, "", shape, 2, loader->host, error))
            return false;
        float *memory = t->ops->alloc(t->device, bytes);
        if (!memory)
            return error_out_of_memory(error, entries[i].name, bytes);
        t->ops->upload(t->device, memory, loader->host, bytes);
        *entries[i].to = t->vectors[t->vector_count++] = memory;
    }
    return true;
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* Upper bounds of what the tables below hold. */
#define BLOCK_LINEARS   8
#define BLOCK_VECTORS   8
#define OUTSIDE_LINEARS 9
#define OUTSIDE_VECTORS 6

static bool load_block(struct loader *loader, struct wan_block *block, struct error *error)
{
    const struct wan_transformer_config *config = &loader->transformer->config;
    int64_t d = wan_width(config), ffn = config->ffn;
    const struct linear_entry linears[] = {
        {&block->qkv, d, d, {"attn1.to_q", "attn1.to_k", "attn1.to_v"}, false},
        {&block->out, d, d, {"attn1.to_out.0"}, false},
        {&block->cross_q, d, d, {"attn2.to_q"}, false},
        {&block->cross_kv, d, d, {"attn2.to_k", "attn2.to_v"}, false},
        {&block->cross_out, d, d, {"attn2.to_out.0"}, false},
        {&block->ffn_in, ffn, d, {"ffn.net.0.proj"}, false},
        {&block->ffn_out, d, ffn, {"ffn.net.2"}, false},
    };
    const struct vector_entry vectors[] = {
        {&block->norm_q, 1, d, "attn1.norm_q.weight", VECTOR_GAIN},
        {&block->norm_k, 1, d, "attn1.norm_k.weight", VECTOR_GAIN},
        {&block->cross_norm_q, 1, d, "attn2.norm_q.weight", VECTOR_GAIN},
        {&block->cross_norm_k, 1, d, "attn2.norm_k.weight", VECTOR_GAIN},
        {&block->norm2_weight, 1, d, "norm2.weight", VECTOR_GAIN},
        {&block->norm2_bias, 1, d, "norm2.bias", VECTOR_BIAS},
        {&block->table, 6, d, "scale_shift_table", VECTOR_TABLE},
    };
    if (!load_linears(loader, linears, COUNT(linears), error) ||
        !load_vectors(loader, vectors, COUNT(vectors), error))
        return false;
    if (config->image_dim == 0)
        return true;
    const struct linear_entry image_linears[] = {
        {&block->image_kv, d, d, {"attn2.add_k_proj", "attn2.add_v_proj"}, false},
    };
    const struct vector_entry image_vectors[] = {
        {&block->image_norm_k, 1, d, "attn2.norm_added_k.weight", VECTOR_GAIN},
    };
    return load_linears(loader, image_linears, COUNT(image_linears), error) &&
           load_vectors(loader, image_vectors, COUNT(image_vectors), error);
}

static bool load_image_embedder(struct loader *loader, struct error *error)
{
    struct wan_transformer *t = loader->transformer;
    int64_t d = wan_width(&t->config), image = t->config.image_dim;
    const struct linear_entry linears[] = {
        {&t->image_1, image, image, {"ff.net.0.proj"}, false},
        {&t->image_2, d, image, {"ff.net.2"}, false},
    };
    const struct vector_entry vectors[] = {
        {&t->image_norm1_weight, 1, image, "norm1.weight", VECTOR_GAIN},
        {&t->image_norm1_bias, 1, image, "norm1.bias", VECTOR_BIAS},
        {&t->image_norm2_weight, 1, d, "norm2.weight", VECTOR_GAIN},
        {&t->image_norm2_bias, 1, d, "norm2.bias", VECTOR_BIAS},
        {&t->image_position, t->config.pos_embed_seq_len, image, "pos_embed",
         VECTOR_TABLE}, /* must be last */
    };
    snprintf(loader->prefix, sizeof loader->prefix, "condition_embedder.image_embedder.");
    return load_linears(loader, linears, COUNT(linears), error) &&
           load_vectors(loader, vectors, COUNT(vectors) - (t->config.pos_embed_seq_len == 0),
                        error);
}

static bool load_outside(struct loader *loader, struct error *error)
{
    struct wan_transformer *t = loader->transformer;
    const struct wan_transformer_config *config = &t->config;
    int64_t d = wan_width(config);
    const int64_t patch_shape[5] = {d, config->in_channels, config->patch[0], config->patch[1],
                                    config->patch[2]};
    const struct linear_entry patch = {
        &t->patch, d, config->in_channels * wan_patch_volume(config), {"patch_embedding"}, false};
    const struct linear_entry embedders[] = {
        {&t->text_1, d, config->text_dim, {"text_embedder.linear_1"}, false},
        {&t->text_2, d, d, {"text_embedder.linear_2"}, false},
        {&t->time_1, d, config->freq_dim, {"time_embedder.linear_1"}, true},
        {&t->time_2, d, d, {"time_embedder.linear_2"}, true},
        {&t->time_projection, 6 * d, d, {"time_proj"}, true},
    };
    const struct linear_entry head[] = {
        {&t->head, wan_patch_volume(config) * config->out_channels, d, {"proj_out"}, true}};
    const struct vector_entry head_table[] = {
        {&t->head_table, 2, d, "scale_shift_table", VECTOR_TABLE}};

    loader->prefix[0] = 0;
    if (!load_stack(loader, &patch, patch_shape, 5, error) ||
        !load_linears(loader, head, COUNT(head), error) ||
        !load_vectors(loader, head_table, COUNT(head_table), error))
        return false;
    snprintf(loader->prefix, sizeof loader->prefix, "condition_embedder.");
    return load_linears(loader, embedders, COUNT(embedders), error) &&
           (config->image_dim == 0 || load_image_embedder(loader, error));
}

static bool check_extent(const struct wan_transformer_config *config,
                         const struct checkpoint *checkpoint, struct error *error)
{
    char name[64];
    snprintf(name, sizeof name, "blocks.%lld.attn1.to_q.weight", (long long)config->layers);
    if (checkpoint_find(checkpoint, name))
        return error_set(
            error, "%s: holds block %lld, but the configuration says 'num_layers' %lld",
            checkpoint_path(checkpoint), (long long)config->layers, (long long)config->layers);
    if (config->image_dim == 0 &&
        checkpoint_find(checkpoint, "condition_embedder.image_embedder.norm1.weight"))
        return error_set(error,
                         "%s: holds an image branch, but the configuration has no 'image_dim' "
                         "(original layout: 'model_type' i2v)",
                         checkpoint_path(checkpoint));
    return true;
}

static bool load_all(struct loader *loader, const struct progress *progress, struct error *error)
{
    struct wan_transformer *t = loader->transformer;
    int64_t layers = t->config.layers;
    if (!load_outside(loader, error))
        return false;
    for (int64_t i = 0; i < layers; i++) {
        snprintf(loader->prefix, sizeof loader->prefix, "blocks.%lld.", (long long)i);
        if (!progress_step(progress, i, layers, error))
            return false;
        t->ops->group_begin(t->device);
        bool ok = load_block(loader, &t->blocks[i], error);
        if (!t->ops->group_end(t->device, ok ? error : NULL) || !ok)
            return false;
    }
    return progress_step(progress, layers, layers, error);
}

/* Lists of what will be loaded, and the buffers of the time path. */
static bool allocate(struct wan_transformer *t, struct error *error)
{
    int64_t layers = t->config.layers, d = wan_width(&t->config);
    size_t floats = (size_t)((8 + 6 * layers + 2) * d + t->config.freq_dim);
    t->blocks = calloc((size_t)layers, sizeof *t->blocks);
    t->linears = calloc((size_t)(layers * BLOCK_LINEARS + OUTSIDE_LINEARS), sizeof *t->linears);
    t->vectors = calloc((size_t)(layers * BLOCK_VECTORS + OUTSIDE_VECTORS + 1), sizeof *t->vectors);
    if (!t->blocks || !t->linears || !t->vectors)
        return error_out_of_memory(error, "the transformer", sizeof *t);
    t->time = t->ops->alloc(t->device, floats * sizeof(float));
    if (!t->time)
        return error_out_of_memory(error, "the time embedding", floats * sizeof(float));
    t->vectors[t->vector_count++] = t->time;
    t->time6 = t->time + d;
    t->silu = t->time6 + 6 * d;
    t->modulation = t->silu + d;
    t->sinusoid = t->modulation + (6 * layers + 2) * d;
    t->timestep = NAN;
    t->probe_block = -1;
    return true;
}

bool wan_transformer_load(struct wan_transformer **out, const struct wan_transformer_config *config,
                          const struct checkpoint *checkpoint, const struct ops *ops,
                          struct device *device, const struct progress *progress,
                          struct error *error)
{
    *out = NULL;
    if (!wan_transformer_config_check(
            config, checkpoint ? checkpoint_path(checkpoint) : "random weights", error) ||
        (checkpoint && !check_extent(config, checkpoint, error)))
        return false;
    struct wan_transformer *t = calloc(1, sizeof *t);
    if (!t)
        return error_out_of_memory(error, "the transformer", sizeof *t);
    t->config = *config;
    t->ops = ops;
    t->device = device;
    struct loader loader = {.transformer = t, .checkpoint = checkpoint};
    bool ok = allocate(t, error) && load_all(&loader, progress, error);
    free(loader.host);
    if (!ok) {
        wan_transformer_free(t);
        return false;
    }
    *out = t;
    return true;
}

void wan_transformer_free(struct wan_transformer *t)
{
    if (!t)
        return;
    for (int64_t i = 0; i < t->linear_count; i++)
        t->ops->linear_destroy(t->device, t->linears[i]);
    for (int64_t i = 0; i < t->vector_count; i++)
        t->ops->free(t->device, t->vectors[i]);
    wan_transformer_forget(t);
    wan_grid_free(t);
    t->ops->free(t->device, t->work.x);
    free(t->linears);
    free(t->vectors);
    free(t->blocks);
    free(t);
}
