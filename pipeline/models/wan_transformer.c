/*
 * A forward pass of the Wan transformer.
 *
 * Everything but self-attention treats tokens one by one, so the tokens take the plan's block order
 * when the latents are cut into patches and leave it when the output is put together;
 * self-attention sees whole blocks and copies nothing. The residual stream, modulation, time path
 * and head are float32, as in the original code; what lies between has the device's activations'
 * type. Rows of the feed-forward network go through in chunks that fit the buffer of q, k, v.
 *
 * What is made once for a grid or a timestep is made first. The rest is enqueued without waiting,
 * uploading or allocating, so that a device can record it; where the pass comes again, the
 * recording is replayed.
 *
 * Refuses grids that are not the plan's, and NaN: the first layer that shows one is named.
 */
#include "wan_transformer_parts.h"

#include <math.h>
#include <string.h>

/* One forward pass. */
struct pass {
    struct wan_transformer *t;
    const struct ops *ops;
    struct device *device;
    const struct wan_context *context;
    struct self_attention *attention;
    const float *latents;
    float *velocity;
    draftattn_step step;
    enum element type; /* of what lies between the layers */
    int64_t tokens, width;
    int64_t grid[3]; /* tokens: frames, height, width */
};

/* Places of ops->watch(): the patch embedding, then the blocks, then the head. */
enum { PLACE_PATCHES, PLACE_BLOCKS };

void wan_transformer_channels(const struct wan_transformer *transformer, int64_t *in, int64_t *out)
{
    *in = transformer->config.in_channels;
    *out = transformer->config.out_channels;
}

void wan_transformer_probe(struct wan_transformer *transformer, int64_t block, float *out)
{
    transformer->probe_block = out ? block : -1;
    transformer->probe_out = out;
}

static bool reserve_work(struct wan_transformer *t, int64_t tokens, struct error *error)
{
    struct wan_work *work = &t->work;
    if (tokens <= work->tokens)
        return true;
    wan_transformer_forget(t);
    t->ops->free(t->device, work->x);
    memset(work, 0, sizeof *work);

    const enum element type = t->ops->activations(t->device);
    const int64_t stream = tokens * wan_width(&t->config);
    const size_t x = (size_t)stream * sizeof(float), y = (size_t)stream * element_size(type);
    const size_t wide = (size_t)wan_wide_bytes(&t->config, tokens, type);
    work->x = t->ops->alloc(t->device, x + y + wide);
    if (!work->x)
        return error_out_of_memory(error, "the transformer's work", x + y + wide);
    work->y = (char *)work->x + x;
    work->wide = (char *)work->y + y;
    work->wide_bytes = wide;
    work->tokens = tokens;
    return true;
}

/* ---- Parts of a block ---- */

/* A layer between activations. */
static bool linear(const struct pass *pass, const struct linear *layer, const void *x, void *y,
                   int64_t rows, enum activation activation, struct error *error)
{
    return pass->ops->linear(pass->device, layer, x, pass->type, y, pass->type, rows, activation,
                             error);
}

/* Modulations of a block: shift, scale, gate, twice. */
static const float *modulation(const struct pass *pass, int64_t layer, int which)
{
    return pass->t->modulation + (layer * 6 + which) * pass->width;
}

/* The stream, and what moves and reads it next; callers fill in the rest. */
static struct ops_residual residual(const struct pass *pass, const void *add, const float *gate)
{
    const struct wan_work *work = &pass->t->work;
    return (struct ops_residual){.x = work->x,
                                 .add = add,
                                 .gate = gate,
                                 .y = work->y,
                                 .add_type = pass->type,
                                 .type = pass->type,
                                 .rows = pass->tokens,
                                 .features = pass->width,
                                 .eps = (float)pass->t->config.eps};
}

/* The stream takes add, and y becomes what block layer, or the head after the last, reads first. */
static void enter_block(const struct pass *pass, int64_t layer, const void *add, const float *gate)
{
    const struct wan_transformer *t = pass->t;
    struct ops_residual r = residual(pass, add, gate);
    r.shift = modulation(pass, layer, 0);
    r.scale = modulation(pass, layer, 1);
    if (layer == t->config.layers) {
        r.y = t->work.wide;
        r.type = ELEMENT_F32;
    }
    pass->ops->residual(pass->device, &r);
}

/* rotate: by the token's place. */
static void norm_heads(const struct pass *pass, void *x, int64_t stride, const float *gain,
                       bool rotate)
{
    const struct wan_transformer *t = pass->t;
    const struct ops_norm_rope norm = {.x = x,
                                       .type = pass->type,
                                       .stride = stride,
                                       .rows = pass->tokens,
                                       .heads = (int32_t)t->config.heads,
                                       .head_dim = (int32_t)t->config.head_dim,
                                       .eps = (float)t->config.eps,
                                       .weight = gain,
                                       .cosine = rotate ? t->grid.cosine : NULL,
                                       .sine = rotate ? t->grid.sine : NULL};
    pass->ops->norm_rope(pass->device, &norm);
}

static bool attend_self(const struct pass *pass, const struct wan_block *block,
                        const draftattn_step *step, struct error *error)
{
    const struct wan_work *work = &pass->t->work;
    int64_t d = pass->width, stride = 3 * d;
    void *q = work->wide;
    void *k = wan_offset(q, d, pass->type), *v = wan_offset(q, 2 * d, pass->type);
    if (!linear(pass, block->qkv, work->y, q, pass->tokens, ACTIVATION_NONE, error))
        return false;
    norm_heads(pass, q, stride, block->norm_q, true);
    norm_heads(pass, k, stride, block->norm_k, true);
    if (!self_attention_run(pass->attention, step, q, k, v, stride, work->y, d, error) ||
        !linear(pass, block->out, work->y, work->wide, pass->tokens, ACTIVATION_NONE, error))
        return false;
    struct ops_residual r = residual(pass, work->wide, modulation(pass, step->layer, 2));
    r.weight = block->norm2_weight;
    r.bias = block->norm2_bias;
    pass->ops->residual(pass->device, &r);
    return true;
}

/* Queries in wide attend to the prompt, output in y. */
static bool attend_context(const struct pass *pass, int64_t layer, struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct wan_context *context = pass->context;
    const int64_t d = pass->width;
    struct ops_attention text = {
        .q = t->work.wide,
        .q_stride = d,
        .q_rows = pass->tokens,
        .k = wan_offset(context->text_kv, layer * context->text_rows * 2 * d, pass->type),
        .k_stride = 2 * d,
        .v_stride = 2 * d,
        .k_rows = context->text_rows,
        .o = t->work.y,
        .o_stride = d,
        .type = pass->type,
        .heads = (int32_t)t->config.heads,
        .head_dim = (int32_t)t->config.head_dim,
        .scale = 1.0f / sqrtf((float)t->config.head_dim),
        .key_bias = context->text_bias,
    };
    text.v = wan_offset(text.k, d, pass->type);
    if (!pass->ops->attention(pass->device, &text, error))
        return false;
    if (context->image_rows == 0)
        return true;
    struct ops_attention image = text; /* a softmax of its own, added */
    image.k = wan_offset(context->image_kv, layer * context->image_rows * 2 * d, pass->type);
    image.v = wan_offset(image.k, d, pass->type);
    image.k_rows = context->image_rows;
    image.key_bias = NULL;
    image.accumulate = true;
    return pass->ops->attention(pass->device, &image, error);
}

static bool attend_prompt(const struct pass *pass, const struct wan_block *block, int64_t layer,
                          struct error *error)
{
    const struct wan_work *work = &pass->t->work;
    if (!linear(pass, block->cross_q, work->y, work->wide, pass->tokens, ACTIVATION_NONE, error))
        return false;
    norm_heads(pass, work->wide, pass->width, block->cross_norm_q, false);
    if (!attend_context(pass, layer, error) ||
        !linear(pass, block->cross_out, work->y, work->wide, pass->tokens, ACTIVATION_NONE, error))
        return false;
    struct ops_residual r = residual(pass, work->wide, NULL);
    r.shift = modulation(pass, layer, 3);
    r.scale = modulation(pass, layer, 4);
    pass->ops->residual(pass->device, &r);
    return true;
}

/* y through the network, in place. */
static bool feed_forward(const struct pass *pass, const struct wan_block *block,
                         struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct wan_work *work = &t->work;
    const int64_t rows = (int64_t)(work->wide_bytes / element_size(pass->type)) / t->config.ffn;
    for (int64_t first = 0; first < pass->tokens; first += rows) {
        int64_t count = pass->tokens - first < rows ? pass->tokens - first : rows;
        void *y = wan_offset(work->y, first * pass->width, pass->type);
        if (!linear(pass, block->ffn_in, y, work->wide, count, ACTIVATION_GELU_TANH, error) ||
            !linear(pass, block->ffn_out, work->wide, y, count, ACTIVATION_NONE, error))
            return false;
    }
    return true;
}

static void copy_probe(const struct pass *pass)
{
    struct wan_transformer *t = pass->t;
    size_t bytes = (size_t)(pass->tokens * pass->width) * sizeof(float);
    pass->ops->scatter_rows(pass->device, t->work.x, t->grid.order, t->work.wide, pass->tokens,
                            pass->width);
    pass->ops->download(pass->device, t->probe_out, t->work.wide, bytes);
    t->probe_block = -1;
}

/* ---- The whole ---- */

/* y holds what the block reads first, and afterwards what the next one does. */
static bool run_block(const struct pass *pass, int64_t layer, struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct wan_block *block = &t->blocks[layer];
    draftattn_step step = pass->step;
    step.layer = (int32_t)layer;
    pass->ops->watch(pass->device, PLACE_BLOCKS + step.layer);
    if (!pass->ops->group_need(pass->device, layer, (layer + 1) % t->config.layers, error) ||
        !attend_self(pass, block, &step, error) || !attend_prompt(pass, block, layer, error) ||
        !feed_forward(pass, block, error))
        return error_prefix(error, "blocks.%lld: ", (long long)layer);
    enter_block(pass, layer + 1, t->work.y, modulation(pass, layer, 5));
    if (t->probe_block == layer) {
        copy_probe(pass); /* through wide, where the head's input may lie */
        enter_block(pass, layer + 1, NULL, NULL);
    }
    return true;
}

static struct ops_patches patches(const struct pass *pass, int64_t channels)
{
    struct ops_patches p = {.order = pass->t->grid.order,
                            .channels = channels,
                            .frames = pass->grid[0],
                            .height = pass->grid[1],
                            .width = pass->grid[2]};
    memcpy(p.patch, pass->t->config.patch, sizeof p.patch);
    return p;
}

static bool embed_patches(const struct pass *pass, struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct ops_patches cut = patches(pass, t->config.in_channels);
    pass->ops->watch(pass->device, PLACE_PATCHES);
    pass->ops->cut_patches(pass->device, &cut, pass->latents, t->work.wide, pass->type);
    if (!pass->ops->linear(pass->device, t->patch, t->work.wide, pass->type, t->work.x, ELEMENT_F32,
                           pass->tokens, ACTIVATION_NONE, error))
        return false;
    enter_block(pass, 0, NULL, NULL);
    return true;
}

/* wide holds the head's input, and behind it there is room for its output. */
static bool run_head(const struct pass *pass, struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const int64_t values = wan_patch_volume(&t->config) * t->config.out_channels;
    const struct ops_patches join = patches(pass, t->config.out_channels);
    float *out = (float *)t->work.wide + pass->tokens * pass->width;
    pass->ops->watch(pass->device, PLACE_BLOCKS + (int32_t)t->config.layers);
    if (!pass->ops->linear(pass->device, t->head, t->work.wide, ELEMENT_F32, out, ELEMENT_F32,
                           pass->tokens, ACTIVATION_NONE, error))
        return false;
    const struct ops_residual look = {.x = out, .rows = pass->tokens, .features = values};
    pass->ops->residual(pass->device, &look);
    pass->ops->join_patches(pass->device, &join, out, pass->velocity);
    return true;
}

/* Everything that can be recorded. */
static bool enqueue(const struct pass *pass, struct error *error)
{
    if (!embed_patches(pass, error))
        return false;
    for (int64_t layer = 0; layer < pass->t->config.layers; layer++)
        if (!run_block(pass, layer, error))
            return false;
    return run_head(pass, error);
}

/* Waits. Names the first layer whose output was not finite. */
static bool check_watched(const struct pass *pass, struct error *error)
{
    const struct wan_transformer *t = pass->t;
    int32_t place;
    int64_t row;
    if (!pass->ops->watched(pass->device, &place, &row))
        return pass->ops->synchronise(pass->device, error);
    if (place > t->config.layers)
        return error_set(error, "proj_out: NaN or infinity");
    error_set(error, "NaN or infinity at token %lld", (long long)t->grid.host_order[row]);
    if (place == PLACE_PATCHES)
        return error_prefix(error, "patch_embedding: ");
    return error_prefix(error, "blocks.%d: ", place - PLACE_BLOCKS);
}

/* ---- Recordings ---- */

void wan_transformer_forget(struct wan_transformer *t)
{
    for (int i = 0; i < t->recorded_count; i++)
        if (t->recorded[i].recording)
            t->ops->recording_destroy(t->device, t->recorded[i].recording);
    t->recorded_count = 0;
}

static struct wan_pass_key key_of(const struct pass *pass)
{
    int32_t dense = 0;
    draftattn_plan_is_dense(self_attention_plan(pass->attention), &pass->step, &dense);
    return (struct wan_pass_key){.latents = pass->latents,
                                 .velocity = pass->velocity,
                                 .context = pass->context,
                                 .attention = pass->attention,
                                 .dense = dense != 0};
}

static bool same_key(const struct wan_pass_key *a, const struct wan_pass_key *b)
{
    return a->latents == b->latents && a->velocity == b->velocity && a->context == b->context &&
           a->attention == b->attention && a->dense == b->dense;
}

/* NULL where this pass is a new one and becomes known, or where it will not be recorded. */
static struct wan_recorded *find_recorded(const struct pass *pass)
{
    struct wan_transformer *t = pass->t;
    const struct wan_pass_key key = key_of(pass);
    for (int i = 0; i < t->recorded_count; i++)
        if (same_key(&t->recorded[i].key, &key))
            return &t->recorded[i];
    if (t->recorded_count < WAN_RECORDINGS)
        t->recorded[t->recorded_count++] = (struct wan_recorded){.key = key};
    return NULL;
}

static bool record(const struct pass *pass, struct wan_recorded *recorded, struct error *error)
{
    if (!pass->ops->record_begin(pass->device, error))
        return false;
    bool ok = enqueue(pass, error);
    return pass->ops->record_end(pass->device, &recorded->recording, ok ? error : NULL) && ok;
}

/* The first time as it is, since layers choose how to work when they see a shape first; then
 * recorded; then replayed. What looks into a pass on its way cannot be recorded. */
static bool run_pass(const struct pass *pass, struct error *error)
{
    bool plain = pass->t->probe_block >= 0 || self_attention_watched(pass->attention);
    struct wan_recorded *recorded = plain ? NULL : find_recorded(pass);
    if (!recorded)
        return enqueue(pass, error);
    if (!recorded->recording && !record(pass, recorded, error))
        return false;
    return !recorded->recording || pass->ops->replay(pass->device, recorded->recording, error);
}

/* Fills grid and tokens; the latents must be a whole number of patches and the plan's grid. */
static bool check_grid(struct pass *pass, const int64_t latent[3], struct error *error)
{
    static const char *const names[3] = {"frames", "height", "width"};
    const struct wan_transformer_config *config = &pass->t->config;
    const draftattn_plan_desc *desc = self_attention_desc(pass->attention);
    for (int a = 0; a < 3; a++) {
        if (latent[a] < 1 || latent[a] % config->patch[a] != 0)
            return error_set(error, "latents: %s is %lld, expected a multiple of %lld", names[a],
                             (long long)latent[a], (long long)config->patch[a]);
        pass->grid[a] = latent[a] / config->patch[a];
        if (pass->grid[a] > config->rope_max)
            return error_set(error, "latents: %lld tokens in %s, the network knows at most %lld",
                             (long long)pass->grid[a], names[a], (long long)config->rope_max);
    }
    if (pass->grid[0] != desc->grid.frames || pass->grid[1] != desc->grid.height ||
        pass->grid[2] != desc->grid.width || desc->grid.text_tokens != 0)
        return error_set(error,
                         "latents: token grid %lldx%lldx%lld, but attention was planned for "
                         "%lldx%lldx%lld",
                         (long long)pass->grid[0], (long long)pass->grid[1],
                         (long long)pass->grid[2], (long long)desc->grid.frames,
                         (long long)desc->grid.height, (long long)desc->grid.width);
    if (desc->heads != config->heads || desc->head_dim != config->head_dim)
        return error_set(
            error, "attention was planned for %d heads of %d, the network has %lld of %lld",
            desc->heads, desc->head_dim, (long long)config->heads, (long long)config->head_dim);
    pass->tokens = self_attention_tokens(pass->attention);
    return true;
}

bool wan_transformer_forward(struct wan_transformer *transformer, const float *latents,
                             int64_t frames, int64_t height, int64_t width, double timestep,
                             const struct wan_context *context, struct self_attention *attention,
                             const draftattn_step *step, float *velocity, struct error *error)
{
    struct pass pass = {.t = transformer,
                        .ops = transformer->ops,
                        .device = transformer->device,
                        .context = context,
                        .attention = attention,
                        .latents = latents,
                        .velocity = velocity,
                        .step = step ? *step : (draftattn_step){.sigma = -1.0f},
                        .type = transformer->ops->activations(transformer->device),
                        .width = wan_width(&transformer->config)};
    const int64_t latent[3] = {frames, height, width};
    pass.step.layer = -1;
    return check_grid(&pass, latent, error) && reserve_work(transformer, pass.tokens, error) &&
           wan_grid_prepare(transformer, pass.grid, self_attention_order(attention), error) &&
           wan_time_prepare(transformer, timestep, error) && run_pass(&pass, error) &&
           check_watched(&pass, error) && self_attention_collect(attention, &pass.step, error);
}
