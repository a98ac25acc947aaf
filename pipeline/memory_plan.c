/*
 * The memory plan: sums of what the networks say they need. Mapped weight files are not counted,
 * because the system can drop their pages. Where the VAE does not fit at once the plan takes the
 * largest tiles that do; attention workspaces are asked from the library itself.
 */
#include "memory_plan.h"

#include <inttypes.h>
#include <stdio.h>

#define FLOAT ((int64_t)sizeof(float))

/* Latents in flight: the sample, three of the sampler, two velocities, noise. */
#define LATENT_COPIES 7

/* What is there beside the networks: the code of FFmpeg and oneDNN (35 MiB), generated kernels,
 * heap that a freed network leaves in pieces. Measured with the bundled model from 272x144x5 to
 * 384x384x49, whole and in tiles: the plan lies 1 to 6 % above the peak. */
#define PROGRAM_BYTES ((int64_t)76 << 20)

/* A video encoder looks ahead over so many frames, and with what it derives from them holds so many
 * bytes of each pixel. */
#define ENCODER_FRAMES 60
#define ENCODER_BYTES  4

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

draftattn_plan_desc memory_plan_attention(const struct memory_query *query)
{
    const struct wan_transformer_config *t = &query->model->transformer;
    draftattn_plan_desc desc = query->attention;
    desc.grid = (draftattn_grid){
        .frames = ((query->frames - 1) / MODEL_VAE_STRIDE_TIME + 1) / t->patch[0],
        .height = query->height / MODEL_VAE_STRIDE / t->patch[1],
        .width = query->width / MODEL_VAE_STRIDE / t->patch[2],
    };
    desc.heads = (int32_t)t->heads;
    desc.head_dim = (int32_t)t->head_dim;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    return desc;
}

static bool attention_bytes(const struct memory_query *query, int64_t tokens, int64_t *bytes,
                            struct error *error)
{
    draftattn_plan_desc desc = memory_plan_attention(query);
    draftattn_plan *plan = NULL;
    size_t workspace = 0;
    *bytes = 4 * tokens * desc.heads * desc.head_dim * FLOAT;
    if (*bytes > query->available)
        return true; /* hopeless: do not make a plan that may not fit itself */
    draftattn_status status = draftattn_plan_create(&plan, query->context, &desc);
    if (status == DRAFTATTN_SUCCESS)
        status = draftattn_plan_workspace_size(plan, &workspace);
    draftattn_plan_destroy(plan);
    *bytes = (int64_t)workspace + 12 * tokens;
    return status == DRAFTATTN_SUCCESS ||
           error_set_usage(error,
                           "attention for %" PRId64 "x%" PRId64 ", %" PRId64
                           " frames (a token is %" PRId64 "x%" PRId64 " pixels): %s",
                           query->width, query->height, query->frames,
                           MODEL_VAE_STRIDE * query->model->transformer.patch[2],
                           MODEL_VAE_STRIDE * query->model->transformer.patch[1],
                           draftattn_context_last_error(query->context));
}

/* Sides of the VAE's tile in latents; the overlap is a quarter. */
static struct wan_vae_tiling tiling_of(int64_t tile, int64_t height, int64_t width)
{
    if (tile <= 0 || (tile >= height && tile >= width))
        return (struct wan_vae_tiling){0};
    return (struct wan_vae_tiling){.tile = tile, .stride = tile - tile / 4};
}

static int64_t tile_work(const struct memory_query *query, const struct wan_vae_tiling *tiling,
                         int64_t height, int64_t width)
{
    int64_t side = tiling->tile;
    if (!side)
        return wan_vae_decode_bytes(&query->model->vae, height, width);
    /* tiles decode one by one for the whole time; their frames are kept until they are blended */
    return wan_vae_decode_bytes(&query->model->vae, side < height ? side : height,
                                side < width ? side : width) +
           query->width * query->height * query->frames * 3 * FLOAT;
}

static void plan_decode(struct memory_plan *plan, const struct memory_query *query)
{
    static const int64_t sides[] = {96, 64, 48, 32, 24, 16};
    int64_t height = query->height / MODEL_VAE_STRIDE, width = query->width / MODEL_VAE_STRIDE;
    int64_t fixed = plan->program + plan->latents + plan->vae_weights + plan->video;
    int64_t asked = query->tile > 0 ? query->tile / MODEL_VAE_STRIDE : 0;
    plan->tiling = tiling_of(asked, height, width);
    plan->vae_work = tile_work(query, &plan->tiling, height, width);
    if (query->tile != VAE_TILE_AUTO)
        return;
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        if (plan->vae_work <= query->available - fixed)
            return;
        struct wan_vae_tiling smaller = tiling_of(sides[i], height, width);
        int64_t work = tile_work(query, &smaller, height, width);
        if (smaller.tile && work < plan->vae_work) {
            plan->tiling = smaller;
            plan->vae_work = work;
        }
    }
}

/* What the whole way shares, and the last part of it. */
void memory_plan_make_decode(struct memory_plan *out, const struct memory_query *query)
{
    int64_t frames = (query->frames - 1) / MODEL_VAE_STRIDE_TIME + 1;
    int64_t height = query->height / MODEL_VAE_STRIDE, width = query->width / MODEL_VAE_STRIDE;
    *out = (struct memory_plan){
        .program = PROGRAM_BYTES,
        .latents = LATENT_COPIES * query->model->vae.z_dim * frames * height * width * FLOAT,
        .vae_weights = wan_vae_weight_bytes(&query->model->vae, WAN_VAE_DECODER),
        .video = (query->frames < ENCODER_FRAMES ? query->frames : ENCODER_FRAMES) * ENCODER_BYTES *
                 query->width * query->height,
    };
    plan_decode(out, query);
    out->decode = out->program + out->latents + out->vae_weights + out->vae_work + out->video;
    out->peak = out->decode;
}

bool memory_plan_make(struct memory_plan *out, const struct memory_query *query,
                      struct error *error)
{
    const struct wan_transformer_config *t = &query->model->transformer;
    const draftattn_grid grid = memory_plan_attention(query).grid;
    int64_t tokens = grid.frames * grid.height * grid.width;
    int64_t prompts = query->guided ? 2 : 1, model_width = t->heads * t->head_dim;
    memory_plan_make_decode(out, query);
    out->text_encoder = umt5_bytes(&query->model->text);
    out->transformer_weights = wan_transformer_weight_bytes(t);
    out->weights = larger(out->text_encoder, out->transformer_weights);
    out->transformer_work = wan_transformer_work_bytes(t, tokens);
    out->prompts = prompts * (2 * t->layers + 1) * t->text_len * model_width * FLOAT;
    if (!attention_bytes(query, tokens, &out->attention, error))
        return false;
    out->encode = out->program + out->latents + out->text_encoder;
    out->denoise = out->program + out->latents + out->transformer_weights + out->transformer_work +
                   out->prompts + out->attention;
    out->peak = larger(out->encode, larger(out->denoise, out->decode));
    return true;
}

bool memory_plan_fit(const struct memory_query *query, int64_t *width, int64_t *height)
{
    const struct wan_transformer_config *t = &query->model->transformer;
    int64_t step_w = MODEL_VAE_STRIDE * t->patch[2], step_h = MODEL_VAE_STRIDE * t->patch[1];
    int64_t low = 0, high = query->width / step_w; /* in steps of the width */
    while (low < high) {
        struct memory_query smaller = *query;
        struct memory_plan plan;
        int64_t middle = (low + high + 1) / 2;
        smaller.width = middle * step_w;
        smaller.height = larger(smaller.width * query->height / query->width / step_h, 1) * step_h;
        bool fits = memory_plan_make(&plan, &smaller, NULL) && plan.peak <= query->available;
        if (fits) {
            low = middle;
            *width = smaller.width;
            *height = smaller.height;
        } else {
            high = middle - 1;
        }
    }
    return low > 0;
}

int memory_plan_describe(const struct memory_plan *plan, int64_t available, char *buffer,
                         size_t size)
{
    const double mib = 1048576.0;
    char tiles[64] = "";
    if (plan->tiling.tile)
        snprintf(tiles, sizeof tiles, ", in tiles of %" PRId64 " pixels",
                 plan->tiling.tile * MODEL_VAE_STRIDE);
    int64_t always = plan->program + plan->latents;
    return snprintf(
        buffer, size,
        "memory plan (MiB): program and latents %.0f, text encoder %.0f\n"
        "  transformer %.0f = weights %.0f + work %.0f + prompts %.0f + attention %.0f\n"
        "  decoding %.0f = weights %.0f + work %.0f + video %.0f%s\n"
        "  peak %.0f of %.0f available",
        always / mib, plan->text_encoder / mib, (plan->denoise - always) / mib,
        plan->transformer_weights / mib, plan->transformer_work / mib, plan->prompts / mib,
        plan->attention / mib, (plan->decode - always) / mib, plan->vae_weights / mib,
        plan->vae_work / mib, plan->video / mib, tiles, plan->peak / mib, available / mib);
}
