/*
 * A forward pass of the Wan transformer.
 *
 * Everything but self-attention treats tokens one by one, so the tokens take the plan's block order
 * when the latents are cut into patches and leave it when the output is put together;
 * self-attention sees whole blocks and copies nothing. The residual stream, modulation, time path
 * and head are float32, as in the original code. Rows of the feed-forward network go through in
 * chunks that fit the buffer of q, k, v.
 *
 * Refuses grids that are not the plan's, and NaN: the first layer that shows one is named.
 */
#include "wan_transformer_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One forward pass. */
struct pass {
    struct wan_transformer *t;
    const struct ops *ops;
    struct device *device;
    const struct wan_context *context;
    struct self_attention *attention;
    const int64_t *order;
    int64_t tokens, width;
    int64_t grid[3]; /* tokens: frames, height, width */
};

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

/* ---- Work memory ---- */

static bool reserve_work(struct wan_transformer *t, int64_t tokens, struct error *error)
{
    struct wan_work *work = &t->work;
    if (tokens <= work->tokens)
        return true;
    t->ops->free(t->device, work->x);
    free(work->staging);
    memset(work, 0, sizeof *work);

    int64_t stream = tokens * wan_width(&t->config);
    int64_t angles = tokens * (t->config.head_dim / 2);
    int64_t wide = wan_wide_floats(&t->config, tokens);
    size_t bytes = (size_t)(2 * stream + wide + 2 * angles) * sizeof(float);
    work->staging_row = wan_staging_row(&t->config);
    work->x = t->ops->alloc(t->device, bytes);
    work->staging = malloc((size_t)(tokens * work->staging_row) * sizeof(float));
    if (!work->x || !work->staging)
        return error_out_of_memory(error, "the transformer's work", bytes);
    work->y = work->x + stream;
    work->wide = work->y + stream;
    work->wide_floats = wide;
    work->cosine = work->wide + wide;
    work->sine = work->cosine + angles;
    work->tokens = tokens;
    return true;
}

/* ---- Latents to tokens and back ---- */

struct position {
    int64_t frame, row, column;
};

static struct position position_of(const struct pass *pass, int64_t token)
{
    int64_t raster = pass->order[token];
    return (struct position){.frame = raster / (pass->grid[1] * pass->grid[2]),
                             .row = raster / pass->grid[2] % pass->grid[1],
                             .column = raster % pass->grid[2]};
}

/* Index of the first latent value of row (dt, dy) of a token's patch, channel c. */
static int64_t latent_index(const struct pass *pass, struct position p, int64_t c, int64_t dt,
                            int64_t dy)
{
    const int64_t *patch = pass->t->config.patch;
    int64_t frames = pass->grid[0] * patch[0], height = pass->grid[1] * patch[1];
    int64_t frame = p.frame * patch[0] + dt, row = p.row * patch[1] + dy;
    return ((c * frames + frame) * height + row) * (pass->grid[2] * patch[2]) + p.column * patch[2];
}

/* Channel slowest inside a patch, as the patch embedding's weight has it. */
static void cut_patches(const struct pass *pass, const float *latents)
{
    const struct wan_transformer_config *config = &pass->t->config;
    const int64_t *patch = config->patch;
    float *to = pass->t->work.staging;
    for (int64_t token = 0; token < pass->tokens; token++) {
        struct position p = position_of(pass, token);
        for (int64_t c = 0; c < config->in_channels; c++)
            for (int64_t dt = 0; dt < patch[0]; dt++)
                for (int64_t dy = 0; dy < patch[1]; dy++, to += patch[2])
                    memcpy(to, latents + latent_index(pass, p, c, dt, dy),
                           (size_t)patch[2] * sizeof *to);
    }
}

/* Channel fastest inside a patch, as the head's output has it. */
static void join_patches(const struct pass *pass, float *velocity)
{
    const struct wan_transformer_config *config = &pass->t->config;
    const int64_t *patch = config->patch;
    const float *from = pass->t->work.staging;
    for (int64_t token = 0; token < pass->tokens; token++) {
        struct position p = position_of(pass, token);
        for (int64_t dt = 0; dt < patch[0]; dt++)
            for (int64_t dy = 0; dy < patch[1]; dy++)
                for (int64_t dx = 0; dx < patch[2]; dx++)
                    for (int64_t c = 0; c < config->out_channels; c++)
                        velocity[latent_index(pass, p, c, dt, dy) + dx] = *from++;
    }
}

static bool embed_patches(const struct pass *pass, const float *latents, struct error *error)
{
    const struct wan_work *work = &pass->t->work;
    int64_t row = pass->t->config.in_channels * wan_patch_volume(&pass->t->config);
    cut_patches(pass, latents);
    pass->ops->upload(pass->device, work->wide, work->staging,
                      (size_t)(pass->tokens * row) * sizeof(float));
    return pass->ops->linear(pass->device, pass->t->patch, work->wide, work->x, pass->tokens,
                             ACTIVATION_NONE, error);
}

/* ---- Rotary embedding ---- */

/* A head's pairs are split between time, height and width; each axis has its own frequencies. */
static void axis_pairs(int64_t head_dim, int64_t pairs[3])
{
    pairs[1] = pairs[2] = head_dim / 6;
    pairs[0] = head_dim / 2 - 2 * pairs[1];
}

/* table [positions][pairs] = turn(position * 10000^(-k / pairs)) */
static void fill_axis(float *table, int64_t positions, int64_t pairs, double (*turn)(double))
{
    for (int64_t i = 0; i < positions; i++)
        for (int64_t k = 0; k < pairs; k++)
            table[i * pairs + k] =
                (float)turn((double)i * pow(10000.0, -(double)k / (double)pairs));
}

/* to [tokens][head_dim / 2], in the order of the tokens */
static void fill_angles(const struct pass *pass, float *const axis[3], const int64_t pairs[3],
                        float *to)
{
    for (int64_t token = 0; token < pass->tokens; token++) {
        struct position p = position_of(pass, token);
        int64_t index[3] = {p.frame, p.row, p.column};
        for (int a = 0; a < 3; to += pairs[a], a++)
            memcpy(to, axis[a] + index[a] * pairs[a], (size_t)pairs[a] * sizeof *to);
    }
}

static bool prepare_angles(const struct pass *pass, struct error *error)
{
    struct wan_work *work = &pass->t->work;
    double (*const turns[2])(double) = {cos, sin};
    float *const tables[2] = {work->cosine, work->sine};
    int64_t pairs[3], half = pass->t->config.head_dim / 2;
    axis_pairs(pass->t->config.head_dim, pairs);
    size_t bytes = (size_t)((pass->grid[0] + pass->grid[1] + pass->grid[2]) * half) * sizeof(float);
    float *memory = malloc(bytes);
    if (!memory)
        return error_out_of_memory(error, "the rotary embedding", bytes);
    float *axis[3] = {memory, memory + pass->grid[0] * pairs[0],
                      memory + pass->grid[0] * pairs[0] + pass->grid[1] * pairs[1]};
    for (int i = 0; i < 2; i++) {
        for (int a = 0; a < 3; a++)
            fill_axis(axis[a], pass->grid[a], pairs[a], turns[i]);
        fill_angles(pass, axis, pairs, work->staging);
        pass->ops->upload(pass->device, tables[i], work->staging,
                          (size_t)(pass->tokens * half) * sizeof(float));
    }
    free(memory);
    return true;
}

/* ---- Time ---- */

/* Cosines first; float64, rounded once, as in the original code. */
static void fill_sinusoid(float *out, int64_t freq_dim, double timestep)
{
    int64_t half = freq_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double angle = timestep * pow(10000.0, -(double)i / (double)half);
        out[i] = (float)cos(angle);
        out[half + i] = (float)sin(angle);
    }
}

/* Fills time and time6, once a timestep: the passes of a step share it. */
static bool embed_time(struct wan_transformer *t, double timestep, struct error *error)
{
    if (t->timestep == timestep)
        return true;
    const struct ops *ops = t->ops;
    int64_t d = wan_width(&t->config), freq_dim = t->config.freq_dim;
    float *host = malloc((size_t)freq_dim * sizeof *host);
    if (!host)
        return error_out_of_memory(error, "the time embedding", (size_t)freq_dim * sizeof *host);
    t->timestep = NAN;
    fill_sinusoid(host, freq_dim, timestep);
    ops->upload(t->device, t->sinusoid, host, (size_t)freq_dim * sizeof *host);
    free(host);
    float *silu = t->modulation;
    if (!ops->linear(t->device, t->time_1, t->sinusoid, silu, 1, ACTIVATION_SILU, error) ||
        !ops->linear(t->device, t->time_2, silu, t->time, 1, ACTIVATION_NONE, error))
        return false;
    ops->combine(t->device, silu, 1.0f, t->time, 0.0f, NULL, d);
    ops->activate(t->device, silu, d, ACTIVATION_SILU);
    if (!ops->linear(t->device, t->time_projection, silu, t->time6, 1, ACTIVATION_NONE, error))
        return false;
    if (ops->first_not_finite(t->device, t->time6, 6 * d) >= 0)
        return error_set(error, "condition_embedder.time_proj: NaN or infinity; the checkpoint is "
                                "broken");
    t->timestep = timestep;
    return true;
}

/* ---- One block ---- */

/* y = LN(x) * (1 + modulation[scale]) + modulation[shift] */
static void norm_modulated(const struct pass *pass, int shift, int scale)
{
    const struct wan_transformer *t = pass->t;
    pass->ops->layer_norm(pass->device, t->work.x, t->work.y, pass->tokens, pass->width,
                          (float)t->config.eps, NULL, NULL, t->modulation + scale * pass->width,
                          t->modulation + shift * pass->width);
}

static bool attend_self(const struct pass *pass, const struct wan_block *block,
                        const draftattn_step *step, struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct ops *ops = pass->ops;
    const struct wan_work *work = &t->work;
    int64_t d = pass->width, stride = 3 * d;
    float *q = work->wide, *k = q + d, *v = k + d;
    float eps = (float)t->config.eps;
    int32_t heads = (int32_t)t->config.heads, head_dim = (int32_t)t->config.head_dim;

    norm_modulated(pass, 0, 1);
    if (!ops->linear(pass->device, block->qkv, work->y, q, pass->tokens, ACTIVATION_NONE, error))
        return false;
    ops->rms_norm(pass->device, q, stride, q, stride, pass->tokens, d, eps, block->norm_q);
    ops->rms_norm(pass->device, k, stride, k, stride, pass->tokens, d, eps, block->norm_k);
    ops->rope(pass->device, q, stride, pass->tokens, heads, head_dim, work->cosine, work->sine);
    ops->rope(pass->device, k, stride, pass->tokens, heads, head_dim, work->cosine, work->sine);
    /* A softmax may turn a NaN in q or k into a finite output: wrong in silence. */
    if (ops->first_not_finite(pass->device, q, pass->tokens * stride) >= 0)
        return error_set(error, "NaN or infinity in query, key or value of self-attention");
    if (!self_attention_run(pass->attention, step, q, k, v, stride, work->y, d, error) ||
        !ops->linear(pass->device, block->out, work->y, work->wide, pass->tokens, ACTIVATION_NONE,
                     error))
        return false;
    ops->add_gated(pass->device, work->x, work->wide, t->modulation + 2 * d, pass->tokens, d);
    return true;
}

static bool attend_prompt(const struct pass *pass, const struct wan_block *block, int64_t layer,
                          struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct wan_context *context = pass->context;
    const struct wan_work *work = &t->work;
    int64_t d = pass->width;
    float eps = (float)t->config.eps;

    pass->ops->layer_norm(pass->device, work->x, work->y, pass->tokens, d, eps, block->norm2_weight,
                          block->norm2_bias, NULL, NULL);
    if (!pass->ops->linear(pass->device, block->cross_q, work->y, work->wide, pass->tokens,
                           ACTIVATION_NONE, error))
        return false;
    pass->ops->rms_norm(pass->device, work->wide, d, work->wide, d, pass->tokens, d, eps,
                        block->cross_norm_q);
    struct ops_attention text = {
        .q = work->wide,
        .q_stride = d,
        .q_rows = pass->tokens,
        .k = context->text_kv + layer * context->text_rows * 2 * d,
        .k_stride = 2 * d,
        .v_stride = 2 * d,
        .k_rows = context->text_rows,
        .o = work->y,
        .o_stride = d,
        .heads = (int32_t)t->config.heads,
        .head_dim = (int32_t)t->config.head_dim,
        .scale = 1.0f / sqrtf((float)t->config.head_dim),
        .key_bias = context->text_bias,
    };
    text.v = text.k + d;
    if (!pass->ops->attention(pass->device, &text, error))
        return false;
    if (context->image_rows > 0) { /* a softmax of its own, added */
        struct ops_attention image = text;
        image.k = context->image_kv + layer * context->image_rows * 2 * d;
        image.v = image.k + d;
        image.k_rows = context->image_rows;
        image.key_bias = NULL;
        image.accumulate = true;
        if (!pass->ops->attention(pass->device, &image, error))
            return false;
    }
    if (!pass->ops->linear(pass->device, block->cross_out, work->y, work->wide, pass->tokens,
                           ACTIVATION_NONE, error))
        return false;
    pass->ops->add(pass->device, work->x, work->wide, pass->tokens * d);
    return true;
}

static bool feed_forward(const struct pass *pass, const struct wan_block *block,
                         struct error *error)
{
    const struct wan_transformer *t = pass->t;
    const struct wan_work *work = &t->work;
    int64_t d = pass->width, rows = work->wide_floats / t->config.ffn;
    norm_modulated(pass, 3, 4);
    for (int64_t first = 0; first < pass->tokens; first += rows) {
        int64_t count = pass->tokens - first < rows ? pass->tokens - first : rows;
        float *y = work->y + first * d;
        if (!pass->ops->linear(pass->device, block->ffn_in, y, work->wide, count,
                               ACTIVATION_GELU_TANH, error) ||
            !pass->ops->linear(pass->device, block->ffn_out, work->wide, y, count, ACTIVATION_NONE,
                               error))
            return false;
    }
    pass->ops->add_gated(pass->device, work->x, work->y, t->modulation + 5 * d, pass->tokens, d);
    return true;
}

/* False when the residual stream after what name says is not finite. */
static bool check_stream(const struct pass *pass, struct error *error)
{
    int64_t at =
        pass->ops->first_not_finite(pass->device, pass->t->work.x, pass->tokens * pass->width);
    if (at < 0)
        return true;
    return error_set(error, "NaN or infinity at token %lld, channel %lld",
                     (long long)pass->order[at / pass->width], (long long)(at % pass->width));
}

static void copy_probe(const struct pass *pass)
{
    struct wan_work *work = &pass->t->work;
    size_t bytes = (size_t)(pass->tokens * pass->width) * sizeof(float);
    pass->ops->scatter_rows(pass->device, work->x, pass->order, work->y, pass->tokens, pass->width);
    pass->ops->download(pass->device, pass->t->probe_out, work->y, bytes);
    pass->t->probe_block = -1;
}

static bool run_block(const struct pass *pass, int64_t layer, draftattn_step *step,
                      struct error *error)
{
    struct wan_transformer *t = pass->t;
    const struct wan_block *block = &t->blocks[layer];
    step->layer = (int32_t)layer;
    pass->ops->combine(pass->device, t->modulation, 1.0f, block->table, 1.0f, t->time6,
                       6 * pass->width);
    if (!attend_self(pass, block, step, error) || !attend_prompt(pass, block, layer, error) ||
        !feed_forward(pass, block, error) || !check_stream(pass, error))
        return error_prefix(error, "blocks.%lld: ", (long long)layer);
    if (t->probe_block == layer)
        copy_probe(pass);
    return true;
}

/* ---- The whole ---- */

static bool run_head(const struct pass *pass, float *velocity, struct error *error)
{
    struct wan_transformer *t = pass->t;
    const struct wan_work *work = &t->work;
    int64_t d = pass->width;
    int64_t values = pass->tokens * wan_patch_volume(&t->config) * t->config.out_channels;
    pass->ops->combine(pass->device, t->modulation, 1.0f, t->head_table, 1.0f, t->time, d);
    pass->ops->combine(pass->device, t->modulation + d, 1.0f, t->head_table + d, 1.0f, t->time, d);
    norm_modulated(pass, 0, 1);
    if (!pass->ops->linear(pass->device, t->head, work->y, work->wide, pass->tokens,
                           ACTIVATION_NONE, error))
        return false;
    if (pass->ops->first_not_finite(pass->device, work->wide, values) >= 0)
        return error_set(error, "proj_out: NaN or infinity");
    pass->ops->download(pass->device, work->staging, work->wide, (size_t)values * sizeof(float));
    join_patches(pass, velocity);
    return true;
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

static bool run_pass(const struct pass *pass, const float *latents, double timestep,
                     const draftattn_step *step, float *velocity, struct error *error)
{
    draftattn_step place = step ? *step : (draftattn_step){.layer = -1, .sigma = -1.0f};
    if (!embed_time(pass->t, timestep, error) || !prepare_angles(pass, error) ||
        !embed_patches(pass, latents, error))
        return false;
    if (!check_stream(pass, error))
        return error_prefix(error, "patch_embedding: ");
    for (int64_t layer = 0; layer < pass->t->config.layers; layer++)
        if (!run_block(pass, layer, &place, error))
            return false;
    return run_head(pass, velocity, error);
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
                        .order = self_attention_order(attention),
                        .width = wan_width(&transformer->config)};
    const int64_t latent[3] = {frames, height, width};
    return check_grid(&pass, latent, error) && reserve_work(transformer, pass.tokens, error) &&
           run_pass(&pass, latents, timestep, step, velocity, error);
}
