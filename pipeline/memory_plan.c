/*
 * The memory plan: sums of what the networks say they need. Mapped weight files are not counted,
 * because the system can drop their pages. Where the VAE does not fit at once the plan takes the
 * largest tiles that do; attention workspaces are asked from the library itself.
 */
#include "memory_plan.h"

#include <inttypes.h>
#include <stdio.h>

#define FLOAT ((int64_t)sizeof(float))

/* Latents in flight: the sample on the host and on the device, three of the sampler, two
 * velocities, and of the first and the sampler's a copy to be saved. */
#define LATENT_COPIES 11

/* What is there beside the networks: the code of FFmpeg and oneDNN (35 MiB), generated kernels,
 * heap that a freed network leaves in pieces. Measured with the bundled model at 384x384x49: the
 * plan lies 10 % above the peak, with tiles of 256 pixels 9 %, of 128 18 %. */
#define PROGRAM_BYTES ((int64_t)76 << 20)

/* The same on a GPU: the driver's context and the kernels' code (0.53 GiB), what cuBLASLt and cuDNN
 * load and keep, and their workspaces. Measured on an H100, Wan2.1 with 81 frames: the plan of a
 * phase lies 0.07 GiB (1.3B at 832x480, denoising) to 0.58 GiB (14B at 1280x720, decoding) above
 * what was taken. */
#define GPU_PROGRAM_BYTES ((int64_t)1 << 30)

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
    desc.in_dtype = query->activations == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
    desc.out_dtype = desc.in_dtype;
    return desc;
}

static bool attention_bytes(const struct memory_query *query, int64_t tokens, int64_t *bytes,
                            struct error *error)
{
    draftattn_plan_desc desc = memory_plan_attention(query);
    draftattn_plan *plan = NULL;
    size_t workspace = 0;
    *bytes = 4 * tokens * desc.heads * desc.head_dim * (int64_t)element_size(query->activations);
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

/* Tiles decode one by one for the whole time; their frames are kept in the host's memory until they
 * are blended. */
static void take_tiles(struct memory_plan *plan, const struct memory_query *query,
                       struct wan_vae_tiling tiling)
{
    int64_t height = query->height / MODEL_VAE_STRIDE, width = query->width / MODEL_VAE_STRIDE;
    int64_t frames = (query->frames - 1) / MODEL_VAE_STRIDE_TIME + 1, side = tiling.tile;
    plan->tiling = tiling;
    plan->canvas = wan_vae_canvas_bytes(&tiling, frames, height, width);
    plan->vae_work = wan_vae_decode_bytes(&query->model->vae, side && side < height ? side : height,
                                          side && side < width ? side : width, query->gpu);
    if (!query->gpu)
        plan->vae_work += plan->canvas;
}

static void plan_decode(struct memory_plan *plan, const struct memory_query *query)
{
    static const int64_t sides[] = {96, 64, 48, 32, 24, 16};
    int64_t height = query->height / MODEL_VAE_STRIDE, width = query->width / MODEL_VAE_STRIDE;
    int64_t fixed = plan->program + plan->latents + plan->vae_weights + plan->video;
    int64_t asked = query->tile > 0 ? query->tile / MODEL_VAE_STRIDE : 0;
    take_tiles(plan, query, tiling_of(asked, height, width));
    if (query->tile != VAE_TILE_AUTO)
        return;
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        if (plan->vae_work <= query->available - fixed)
            return;
        struct memory_plan smaller = *plan;
        take_tiles(&smaller, query, tiling_of(sides[i], height, width));
        if (smaller.tiling.tile && smaller.vae_work < plan->vae_work)
            *plan = smaller;
    }
}

/* What the whole way shares, and the last part of it. */
void memory_plan_make_decode(struct memory_plan *out, const struct memory_query *query)
{
    int64_t frames = (query->frames - 1) / MODEL_VAE_STRIDE_TIME + 1;
    int64_t height = query->height / MODEL_VAE_STRIDE, width = query->width / MODEL_VAE_STRIDE;
    *out = (struct memory_plan){
        .program = query->gpu ? GPU_PROGRAM_BYTES : PROGRAM_BYTES,
        .latents = LATENT_COPIES * query->model->vae.z_dim * frames * height * width * FLOAT,
        .vae_weights = wan_vae_weight_bytes(&query->model->vae, WAN_VAE_DECODER),
    };
    if (!query->gpu)
        out->video = (query->frames < ENCODER_FRAMES ? query->frames : ENCODER_FRAMES) *
                     ENCODER_BYTES * query->width * query->height;
    plan_decode(out, query);
    out->decode = out->program + out->latents + out->vae_weights + out->vae_work + out->video;
    out->peak = out->decode;
}

/* All weights of the transformer, or with offload those outside of its blocks and two blocks: the
 * one at work and the next. */
static void plan_transformer(struct memory_plan *out, const struct memory_query *query)
{
    const struct wan_transformer_config *t = &query->model->transformer;
    const int64_t resident = 2;
    out->transformer_weights = wan_transformer_weight_bytes(t, query->activations);
    if (query->offload && t->layers > resident) {
        int64_t block = wan_transformer_block_bytes(t, query->activations);
        out->host = t->layers * block;
        out->transformer_weights -= (t->layers - resident) * block;
    }
}

bool memory_plan_make(struct memory_plan *out, const struct memory_query *query,
                      struct error *error)
{
    const struct wan_transformer_config *t = &query->model->transformer;
    const draftattn_grid grid = memory_plan_attention(query).grid;
    int64_t tokens = grid.frames * grid.height * grid.width;
    int64_t prompts = query->guided ? 2 : 1;
    memory_plan_make_decode(out, query);
    out->text_encoder = umt5_bytes(&query->model->text, query->activations);
    plan_transformer(out, query);
    out->weights = larger(out->text_encoder, out->transformer_weights);
    out->transformer_work = wan_transformer_work_bytes(t, tokens, query->activations);
    out->prompts = prompts * (wan_context_bytes(t, t->text_len, 0, query->activations) +
                              t->text_len * t->heads * t->head_dim * FLOAT);
    if (!attention_bytes(query, tokens, &out->attention, error))
        return false;
    out->encode = out->program + out->latents + out->text_encoder;
    out->denoise = out->program + out->latents + out->transformer_weights + out->transformer_work +
                   out->prompts + out->attention;
    out->peak = larger(out->encode, larger(out->denoise, out->decode));
    return true;
}

/* In the host's memory beside a GPU. */
static int64_t host_peak(const struct memory_plan *plan, const struct memory_query *query)
{
    return query->gpu ? larger(plan->host, plan->canvas) : 0;
}

bool memory_plan_fits(const struct memory_plan *plan, const struct memory_query *query)
{
    return plan->peak <= query->available && host_peak(plan, query) <= query->host_available;
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
        bool fits = memory_plan_make(&plan, &smaller, NULL) && memory_plan_fits(&plan, query);
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

static bool offload_fits(const struct memory_query *query)
{
    struct memory_query other = *query;
    struct memory_plan plan;
    other.offload = true;
    return query->gpu && !query->offload && memory_plan_make(&plan, &other, NULL) &&
           memory_plan_fits(&plan, &other);
}

bool memory_plan_refuse(const struct memory_plan *plan, const struct memory_query *query,
                        struct error *error)
{
    const double gib = 1073741824.0;
    int64_t width = 0, height = 0;
    error_set(error,
              "not enough memory%s for %" PRId64 "x%" PRId64 ", %" PRId64
              " frames: about %.2f GiB are needed, %.2f GiB are available; ",
              query->gpu ? " on the GPU" : "", query->width, query->height, query->frames,
              plan->peak / gib, query->available / gib);
    if (query->gpu && plan->canvas > query->host_available)
        return error_set(error,
                         "not enough memory: the VAE's tiles meet in the host's memory, in %.2f "
                         "GiB, of which %.2f are available; ask for fewer --frames or a smaller "
                         "--size",
                         plan->canvas / gib, query->host_available / gib);
    if (plan->host > query->host_available)
        return error_set(error,
                         "not enough memory: --offload keeps %.2f GiB of weights in the host's "
                         "memory, %.2f GiB are available there; leave it out, or take a smaller "
                         "model",
                         plan->host / gib, query->host_available / gib);
    bool offload = offload_fits(query), fits = memory_plan_fit(query, &width, &height);
    if (offload)
        error_append(error, "--offload would fit%s", fits ? ", or " : "");
    if (fits)
        return error_append(error, "--size %" PRId64 "x%" PRId64 " would fit, or fewer --frames",
                            width, height);
    if (offload)
        return false;
    if (plan->weights > query->available)
        return error_append(error, "the weights of this model alone take %.1f GiB: no size fits",
                            plan->weights / gib);
    return error_append(error, "no size fits with so many frames; ask for fewer --frames");
}

int memory_plan_describe(const struct memory_plan *plan, const struct memory_query *query,
                         char *buffer, size_t size)
{
    const double mib = 1048576.0;
    char tiles[64] = "", video[32] = "", host[96] = "";
    if (plan->tiling.tile)
        snprintf(tiles, sizeof tiles, ", in tiles of %" PRId64 " pixels",
                 plan->tiling.tile * MODEL_VAE_STRIDE);
    if (plan->video)
        snprintf(video, sizeof video, " + video %.0f", plan->video / mib);
    if (host_peak(plan, query))
        snprintf(host, sizeof host, "; %s the host's memory %.0f of %.0f",
                 plan->host > plan->canvas ? "offloaded to" : "tiles meet in",
                 host_peak(plan, query) / mib, query->host_available / mib);
    int64_t always = plan->program + plan->latents;
    return snprintf(
        buffer, size,
        "memory plan%s (MiB): program and latents %.0f, text encoder %.0f\n"
        "  transformer %.0f = weights %.0f + work %.0f + prompts %.0f + attention %.0f\n"
        "  decoding %.0f = weights %.0f + work %.0f%s%s\n"
        "  peak %.0f of %.0f available%s",
        query->gpu ? " of the GPU" : "", always / mib, plan->text_encoder / mib,
        (plan->denoise - always) / mib, plan->transformer_weights / mib,
        plan->transformer_work / mib, plan->prompts / mib, plan->attention / mib,
        (plan->decode - always) / mib, plan->vae_weights / mib, plan->vae_work / mib, video, tiles,
        plan->peak / mib, query->available / mib, host);
}
