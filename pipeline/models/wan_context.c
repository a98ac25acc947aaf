/*
 * A prompt ready for cross-attention. Text and image rows go through their embedders and through
 * the key and value layers of every block once; the denoising loop only reads them.
 *
 * The network attends to the zero rows that pad a prompt to text_len, and they are all equal: after
 * the embedder each is MLP(0), so keys and values are equal too. n equal keys weigh as much as one
 * key whose logit is log(n) higher. A prompt of 13 tokens thus costs 14 keys instead of 512, with
 * the same result.
 */
#include "wan_transformer_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_EPS 1e-5f /* of the image embedder's norms, in both reference codes */

/* Rows before the zeros that a caller may have padded with. */
static int64_t rows_before_padding(const float *text, int64_t rows, int64_t features)
{
    while (rows > 0) {
        const float *row = text + (rows - 1) * features;
        for (int64_t i = 0; i < features; i++)
            if (row[i] != 0.0f)
                return rows;
        rows--;
    }
    return rows;
}

/* Device copies of host rows, with room for extra zero rows. NULL when memory is out. */
static float *to_device(struct wan_transformer *t, const float *rows, int64_t count, int64_t zeros,
                        int64_t features)
{
    size_t bytes = (size_t)(count * features) * sizeof(float);
    size_t padding = (size_t)(zeros * features) * sizeof(float);
    float *memory = t->ops->alloc(t->device, bytes + padding);
    if (!memory)
        return NULL;
    t->ops->upload(t->device, memory, rows, bytes);
    float *blank = zeros > 0 ? calloc(1, padding) : NULL;
    if (zeros > 0 && blank)
        t->ops->upload(t->device, memory + count * features, blank, padding);
    if (zeros > 0 && !blank) {
        t->ops->free(t->device, memory);
        return NULL;
    }
    free(blank);
    return memory;
}

/* A layer that reads float32. */
static bool linear(struct wan_transformer *t, const struct linear *layer, const float *x, void *y,
                   enum element type, int64_t rows, enum activation activation, struct error *error)
{
    return t->ops->linear(t->device, layer, x, ELEMENT_F32, y, type, rows, activation, error);
}

/* out [rows + zeros][d] */
static bool embed_text(struct wan_transformer *t, const float *text, int64_t rows, int64_t zeros,
                       float *out, struct error *error)
{
    int64_t total = rows + zeros;
    size_t bytes = (size_t)(total * wan_width(&t->config)) * sizeof(float);
    float *in = to_device(t, text, rows, zeros, t->config.text_dim);
    float *hidden = t->ops->alloc(t->device, bytes);
    bool ok = in && hidden;
    if (!ok)
        error_out_of_memory(error, "the text embedding", bytes);
    ok = ok && linear(t, t->text_1, in, hidden, ELEMENT_F32, total, ACTIVATION_GELU_TANH, error) &&
         linear(t, t->text_2, hidden, out, ELEMENT_F32, total, ACTIVATION_NONE, error);
    t->ops->free(t->device, in);
    t->ops->free(t->device, hidden);
    return ok;
}

/* out [rows][d] */
static bool embed_image(struct wan_transformer *t, const float *image, int64_t rows, float *out,
                        struct error *error)
{
    int64_t features = t->config.image_dim, d = wan_width(&t->config);
    size_t bytes = (size_t)(rows * features) * sizeof(float);
    float *in = to_device(t, image, rows, 0, features);
    float *hidden = t->ops->alloc(t->device, bytes);
    bool ok = in && hidden;
    if (!ok)
        error_out_of_memory(error, "the image embedding", bytes);
    if (ok && t->image_position)
        t->ops->add(t->device, in, t->image_position, rows * features);
    if (ok)
        t->ops->layer_norm(t->device, in, in, rows, features, IMAGE_EPS, t->image_norm1_weight,
                           t->image_norm1_bias);
    ok = ok && linear(t, t->image_1, in, hidden, ELEMENT_F32, rows, ACTIVATION_GELU_ERF, error) &&
         linear(t, t->image_2, hidden, out, ELEMENT_F32, rows, ACTIVATION_NONE, error);
    if (ok)
        t->ops->layer_norm(t->device, out, out, rows, d, IMAGE_EPS, t->image_norm2_weight,
                           t->image_norm2_bias);
    t->ops->free(t->device, in);
    t->ops->free(t->device, hidden);
    return ok;
}

/* kv [rows][2d] of embedded rows, keys normalised */
static bool project(struct wan_transformer *t, const struct linear *layer, const float *gain,
                    const float *rows, int64_t count, void *kv, struct error *error)
{
    const enum element type = t->ops->activations(t->device);
    if (!linear(t, layer, rows, kv, type, count, ACTIVATION_NONE, error))
        return false;
    const struct ops_norm_rope norm = {.x = kv,
                                       .type = type,
                                       .stride = 2 * wan_width(&t->config),
                                       .rows = count,
                                       .heads = (int32_t)t->config.heads,
                                       .head_dim = (int32_t)t->config.head_dim,
                                       .eps = (float)t->config.eps,
                                       .weight = gain};
    t->ops->norm_rope(t->device, &norm);
    return true;
}

static bool project_all(struct wan_context *context, struct wan_transformer *t,
                        const float *embedded, struct error *error)
{
    const enum element type = t->ops->activations(t->device);
    int64_t row = 2 * context->width;
    const float *text = embedded + context->image_rows * context->width;
    for (int64_t i = 0; i < context->layers; i++) {
        const struct wan_block *block = &t->blocks[i];
        t->ops->watch(t->device, (int32_t)i);
        if (!t->ops->group_need(t->device, i, (i + 1) % context->layers, error) ||
            !project(t, block->cross_kv, block->cross_norm_k, text, context->text_rows,
                     wan_offset(context->text_kv, i * context->text_rows * row, type), error))
            return false;
        if (context->image_rows > 0 &&
            !project(t, block->image_kv, block->image_norm_k, embedded, context->image_rows,
                     wan_offset(context->image_kv, i * context->image_rows * row, type), error))
            return false;
    }
    return true;
}

/* Keys, values and the bias that makes the last row stand for repeats equal ones. */
static bool allocate(struct wan_context *context, struct wan_transformer *t, int64_t repeats,
                     struct error *error)
{
    size_t row = (size_t)(context->layers * 2 * context->width) *
                 element_size(t->ops->activations(t->device));
    size_t text = (size_t)context->text_rows * row, image = (size_t)context->image_rows * row;
    context->text_kv = t->ops->alloc(t->device, text);
    context->image_kv = context->image_rows > 0 ? t->ops->alloc(t->device, image) : NULL;
    if (!context->text_kv || (context->image_rows > 0 && !context->image_kv))
        return error_out_of_memory(error, "the keys and values of a prompt", text + image);
    if (repeats <= 1)
        return true;
    size_t bytes = (size_t)context->text_rows * sizeof(float);
    float *bias = calloc((size_t)context->text_rows, sizeof *bias);
    context->text_bias = t->ops->alloc(t->device, bytes);
    if (bias && context->text_bias) {
        bias[context->text_rows - 1] = logf((float)repeats);
        t->ops->upload(t->device, context->text_bias, bias, bytes);
    }
    bool ok = bias && context->text_bias;
    free(bias);
    return ok || error_out_of_memory(error, "the bias of a prompt", bytes);
}

static bool check_rows(const struct wan_transformer *t, int64_t rows, int64_t pad_to,
                       const float *image, int64_t image_rows, struct error *error)
{
    const struct wan_transformer_config *config = &t->config;
    if (rows < 0 || rows > pad_to || pad_to < 1 || pad_to > 1 << 16)
        return error_set(error, "prompt: %lld rows of text, expected 0 to %lld", (long long)rows,
                         (long long)pad_to);
    if (!image)
        return true;
    if (config->image_dim == 0)
        return error_set(error, "prompt: this transformer has no image branch ('image_dim')");
    if (image_rows < 1 || image_rows > 1 << 16 ||
        (config->pos_embed_seq_len > 0 && image_rows != config->pos_embed_seq_len))
        return error_set(error, "prompt: %lld rows of image features, expected %lld",
                         (long long)image_rows,
                         (long long)(config->pos_embed_seq_len ? config->pos_embed_seq_len : 257));
    if (pad_to > config->text_len)
        return error_set(error, "prompt: %lld rows of text beside an image, expected at most %lld",
                         (long long)pad_to, (long long)config->text_len);
    return true;
}

/*
 * How many of the first rows of [image, text] the image branch attends to. The reference codes
 * count the text_len last rows as text; with a shorter text that index is negative and wraps around
 * once.
 */
static int64_t image_share(const struct wan_transformer_config *config, int64_t image_rows,
                           int64_t pad_to)
{
    int64_t total = image_rows + pad_to, split = total - config->text_len;
    if (split < 0)
        split += total;
    return split > 0 ? split : 0;
}

/* What a caller gave, and how its padding is kept. */
struct prompt {
    const float *text, *image;
    int64_t rows, image_rows;
    int64_t zeros;   /* zero rows that follow the text */
    int64_t repeats; /* padding rows that the last of them stands for */
};

static bool check_finite(struct wan_transformer *t, const float *embedded, int64_t count,
                         struct error *error)
{
    int32_t block;
    int64_t row;
    bool broken_keys = t->ops->watched(t->device, &block, &row);
    if (t->ops->first_not_finite(t->device, embedded, count) >= 0)
        return error_set(error, "prompt: NaN or infinity after the text or image embedder; the "
                                "checkpoint or the text encoder's output is broken");
    if (broken_keys)
        return error_set(error,
                         "prompt: blocks.%d: NaN or infinity in the keys; the checkpoint is broken",
                         block);
    return t->ops->synchronise(t->device, error);
}

static bool fill(struct wan_context *context, struct wan_transformer *t,
                 const struct prompt *prompt, struct error *error)
{
    int64_t total = context->image_rows + context->text_rows;
    size_t bytes = (size_t)(total * context->width) * sizeof(float);
    float *embedded = t->ops->alloc(t->device, bytes);
    if (!embedded)
        return error_out_of_memory(error, "the embedding of a prompt", bytes);
    float *text = embedded + prompt->image_rows * context->width;
    bool ok = allocate(context, t, prompt->repeats, error) &&
              (prompt->image_rows == 0 ||
               embed_image(t, prompt->image, prompt->image_rows, embedded, error)) &&
              embed_text(t, prompt->text, prompt->rows, prompt->zeros, text, error) &&
              project_all(context, t, embedded, error);
    ok = ok && check_finite(t, embedded, total * context->width, error);
    t->ops->free(t->device, embedded);
    return ok;
}

bool wan_context_create(struct wan_context **out, struct wan_transformer *t, const float *text,
                        int64_t rows, int64_t pad_to, const float *image, int64_t image_rows,
                        struct error *error)
{
    *out = NULL;
    if (!check_rows(t, rows, pad_to, image, image_rows, error))
        return false;
    struct wan_context *context = calloc(1, sizeof *context);
    if (!context)
        return error_out_of_memory(error, "a prompt", sizeof *context);
    struct prompt prompt = {.text = text, .image = image, .image_rows = image ? image_rows : 0};
    prompt.rows = rows_before_padding(text, rows, t->config.text_dim);
    prompt.repeats = pad_to - prompt.rows;
    prompt.zeros = prompt.repeats > 0;
    context->ops = t->ops;
    context->device = t->device;
    context->layers = t->config.layers;
    context->width = wan_width(&t->config);
    if (image)
        context->image_rows = image_share(&t->config, image_rows, pad_to);
    if (context->image_rows != prompt.image_rows) { /* the split may fall inside the padding */
        prompt.zeros = prompt.repeats;
        prompt.repeats = 1;
    }
    context->text_rows = prompt.image_rows + prompt.rows + prompt.zeros - context->image_rows;
    if (!fill(context, t, &prompt, error)) {
        wan_context_free(context);
        return false;
    }
    *out = context;
    return true;
}

void wan_context_free(struct wan_context *context)
{
    if (!context)
        return;
    context->ops->free(context->device, context->text_kv);
    context->ops->free(context->device, context->image_kv);
    context->ops->free(context->device, context->text_bias);
    free(context);
}
