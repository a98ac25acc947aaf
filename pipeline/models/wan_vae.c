/*
 * The Wan VAE from outside: loading, and decoding and encoding whole clips.
 *
 * A clip goes through tile by tile (one tile where no tiling is asked for), a tile chunk by chunk.
 * What comes out of a chunk is tested for NaN and infinity, which costs next to nothing; only when
 * that fails is the tile run again with a test behind every layer, to name the one that is at
 * fault.
 */
#include "wan_vae.h"

#include "../tensor/checked.h"
#include "wan_vae_layers.h"
#include "wan_vae_tiling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCALE = 8, CHUNK = 4 }; /* pixels per latent along a side, frames per latent */

struct wan_vae {
    struct wan_vae_config config;
    const struct ops *ops;
    struct device *device;
    struct vae_net decoder, encoder; /* count 0 where it was not loaded */
};

bool wan_vae_check(const struct wan_vae_config *config, int parts,
                   const struct checkpoint *checkpoint, struct error *error)
{
    struct vae_net net;
    for (int decoder = 0; decoder < 2; decoder++) {
        if (!(parts & (decoder ? WAN_VAE_DECODER : WAN_VAE_ENCODER)))
            continue;
        vae_net_describe(&net, config, decoder);
        if (!vae_net_check(&net, checkpoint, error))
            return error_prefix(error, "VAE: ");
    }
    return true;
}

bool wan_vae_load(struct wan_vae **out, const struct wan_vae_config *config, int parts,
                  const struct checkpoint *checkpoint, const struct ops *ops, struct device *device,
                  const struct progress *progress, struct error *error)
{
    struct wan_vae *vae = calloc(1, sizeof(*vae));
    *out = NULL;
    if (!vae)
        return error_out_of_memory(error, "the VAE", sizeof(*vae));
    vae->config = *config;
    vae->ops = ops;
    vae->device = device;
    bool ok = true;
    if (parts & WAN_VAE_DECODER) {
        vae_net_describe(&vae->decoder, config, true);
        ok = vae_net_load(&vae->decoder, checkpoint, ops, device, progress, error);
    }
    if (ok && (parts & WAN_VAE_ENCODER)) {
        vae_net_describe(&vae->encoder, config, false);
        ok = vae_net_load(&vae->encoder, checkpoint, ops, device, progress, error);
    }
    if (!ok) {
        wan_vae_free(vae);
        return error_prefix(error, "VAE: ");
    }
    *out = vae;
    return true;
}

void wan_vae_free(struct wan_vae *vae)
{
    if (!vae)
        return;
    vae_net_free(&vae->decoder);
    vae_net_free(&vae->encoder);
    free(vae);
}

int64_t wan_vae_weight_bytes(const struct wan_vae_config *config, int parts)
{
    struct vae_net net;
    int64_t parameters = 0;
    for (int decoder = 0; decoder < 2; decoder++)
        if (parts & (decoder ? WAN_VAE_DECODER : WAN_VAE_ENCODER)) {
            vae_net_describe(&net, config, decoder);
            parameters += vae_net_parameters(&net);
        }
    return parameters * (int64_t)sizeof(float);
}

int64_t wan_vae_decode_bytes(const struct wan_vae_config *config, int64_t height, int64_t width,
                             bool gpu)
{
    struct vae_net net;
    struct vae_sizes sizes;
    int64_t frames, floats;
    vae_net_describe(&net, config, true);
    if (!vae_net_sizes(&net, 1, height, width, false, &sizes) ||
        !checked_mul(height, width, &frames) ||
        !checked_mul(frames, CHUNK * SCALE * SCALE * 3, &frames) ||
        !checked_mul(sizes.values, 2, &floats) || !checked_add(floats, sizes.staging, &floats) ||
        !checked_add(floats, sizes.history_total, &floats) ||
        !checked_add(floats, gpu ? sizes.values : frames, &floats) ||
        !checked_mul(floats, sizeof(float), &floats))
        return INT64_MAX / 4; /* callers add to it */
    return floats;
}

int64_t wan_vae_canvas_bytes(const struct wan_vae_tiling *tiling, int64_t frames, int64_t height,
                             int64_t width)
{
    if (!tiling->tile)
        return 0;
    return vae_canvas_bytes(CHUNK * (frames - 1) + 1, height * SCALE, width * SCALE, 3,
                            tiling->tile * SCALE, tiling->stride * SCALE);
}

/* ---- clips and tiles ------------------------------------------------------------------------- */

/* A clip on its way through one of the nets. */
struct job {
    struct wan_vae *vae;
    const struct vae_net *net;
    const float *input;
    int64_t latent_frames;
    int64_t height, width; /* of the input, in its units */
    bool normalised;
    struct vae_canvas canvas; /* of the output */
    bool tiled;               /* the canvas collects; else frames go to the sink as they come */
    wan_vae_sink_fn sink;
    void *user;
    const struct progress *progress;
    int64_t done, total; /* latent frames over all tiles */
    bool not_finite;     /* why the last chunk failed */
    float *host;         /* a chunk on its way in or out */
    struct vae_pass pass;
};

static bool job_tiling(const struct wan_vae_tiling *tiling, int64_t height, int64_t width,
                       int64_t *tile, int64_t *stride, struct error *error)
{
    const int64_t longest = height > width ? height : width;
    *tile = *stride = longest;
    if (!tiling || tiling->tile == 0)
        return true;
    if (tiling->tile < 0 || tiling->stride < 1 || tiling->stride > tiling->tile)
        return error_set(error,
                         "VAE tiles of %lld at a stride of %lld: the tile must be positive and the "
                         "stride between 1 and the tile",
                         (long long)tiling->tile, (long long)tiling->stride);
    if (tiling->tile < longest) {
        *tile = tiling->tile;
        *stride = tiling->stride;
    }
    return true;
}

/* Runs the chunk that is in job->host, channels last; its result goes to job->host as well. */
static bool job_chunk(struct job *job, int64_t frames, struct error *error)
{
    const struct ops *ops = job->vae->ops;
    struct device *device = job->vae->device;
    struct vae_pass *pass = &job->pass;
    const int64_t in = frames * pass->tile_height * pass->tile_width * job->net->steps[0].in;
    ops->upload(device, pass->values[0], job->host, (size_t)in * sizeof(float));
    if (!vae_pass_chunk(pass, frames, error))
        return false;
    const int64_t out = pass->frames * pass->height * pass->width * pass->channels;
    if (ops->first_not_finite(device, pass->values[0], out) >= 0) {
        job->not_finite = true;
        return error_set(error, "the result holds a NaN or an infinity");
    }
    ops->download(device, job->host, pass->values[0], (size_t)out * sizeof(float));
    return ops->synchronise(device, error); /* no frames that a failure has left behind */
}

typedef bool (*tile_fn)(struct job *job, const struct vae_tile *tile, struct error *error);

static bool job_run(struct job *job, tile_fn run, struct error *error)
{
    for (int64_t row = 0; row < job->canvas.rows; row++)
        for (int64_t column = 0; column < job->canvas.columns; column++) {
            struct vae_tile tile = vae_canvas_tile(&job->canvas, row, column);
            if (run(job, &tile, error))
                continue;
            if (job->not_finite) {
                job->pass.check = true;
                run(job, &tile, error);
            }
            return false;
        }
    return true;
}

/* The host buffer holds the larger of a chunk that goes in and one that comes out. */
static bool job_host(struct job *job, int64_t pixels, int64_t latents, struct error *error)
{
    const int64_t video[] = {CHUNK, 3, pixels, sizeof(float)};
    const int64_t latent[] = {2 * job->vae->config.z_dim, latents, sizeof(float)};
    size_t a, b;
    if (!checked_bytes(video, 4, 1, &a) || !checked_bytes(latent, 3, 1, &b))
        return error_set(error, "the frames are too large");
    job->host = malloc(a > b ? a : b);
    return job->host ? true : error_out_of_memory(error, "frames of the VAE", a > b ? a : b);
}

/* ---- decoding -------------------------------------------------------------------------------- */

/* Latents [z][frames][height][width], one frame of a tile: to [height][width][z], denormalised. */
static void gather_latents(const struct job *job, const struct vae_tile *tile, int64_t frame)
{
    const struct wan_vae_config *config = &job->vae->config;
    const int64_t z_dim = config->z_dim, height = tile->height / SCALE, width = tile->width / SCALE;
    const int64_t plane = job->height * job->width;
    for (int64_t z = 0; z < z_dim; z++) {
        const float std = job->normalised ? (float)config->std[z] : 1.0f;
        const float mean = job->normalised ? (float)config->mean[z] : 0.0f;
        const float *from = job->input + (z * job->latent_frames + frame) * plane;
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++)
                job->host[(y * width + x) * z_dim + z] =
                    from[(y + tile->y / SCALE) * job->width + x + tile->x / SCALE] * std + mean;
    }
}

static bool deliver(struct job *job, float *frames, int64_t count, int64_t floats,
                    struct error *error)
{
    for (int64_t i = 0; i < floats; i++)
        frames[i] = frames[i] < -1.0f ? -1.0f : frames[i] > 1.0f ? 1.0f : frames[i];
    return job->sink(job->user, frames, count, error);
}

static bool decode_tile(struct job *job, const struct vae_tile *tile, struct error *error)
{
    struct vae_pass *pass = &job->pass;
    int64_t first = 0;
    vae_pass_start(pass, tile->height / SCALE, tile->width / SCALE);
    bool ok = true;
    for (int64_t i = 0; ok && i < job->latent_frames; i++) {
        gather_latents(job, tile, i);
        ok = job_chunk(job, 1, error);
        if (!ok) {
            error_prefix(error, "VAE, latent frame %lld: ", (long long)i);
            break;
        }
        if (pass->check)
            continue;
        if (job->tiled)
            vae_canvas_place(&job->canvas, tile, first, pass->frames, job->host);
        else
            ok = deliver(job, job->host, pass->frames,
                         pass->frames * tile->height * tile->width * 3, error);
        first += pass->frames;
        ok = ok && progress_step(job->progress, ++job->done, job->total, error);
    }
    return ok;
}

/* Finds the first number in [channels][frames][height][width] that is none. */
static bool check_latents(const float *latents, const int64_t dims[4], struct error *error)
{
    const int64_t total = dims[0] * dims[1] * dims[2] * dims[3];
    for (int64_t i = 0; i < total; i++)
        if (!isfinite(latents[i]))
            return error_set(error,
                             "the latents hold a NaN or an infinity: channel %lld, frame %lld, row "
                             "%lld, column %lld",
                             (long long)(i / (dims[1] * dims[2] * dims[3])),
                             (long long)(i / (dims[2] * dims[3]) % dims[1]),
                             (long long)(i / dims[3] % dims[2]), (long long)(i % dims[3]));
    return true;
}

bool wan_vae_decode(struct wan_vae *vae, const float *latents, int64_t frames, int64_t height,
                    int64_t width, bool normalised, const struct wan_vae_tiling *tiling,
                    wan_vae_sink_fn sink, void *user, const struct progress *progress,
                    struct error *error)
{
    const int64_t dims[] = {vae->config.z_dim, frames, height, width};
    int64_t tile, stride;
    size_t bytes;
    if (!vae->decoder.count)
        return error_set(error, "the VAE was loaded without its decoder");
    if (frames < 1 || height < 1 || width < 1 || height > INT32_MAX / SCALE ||
        width > INT32_MAX / SCALE || !checked_bytes(dims, 4, CHUNK * SCALE * SCALE * 3, &bytes))
        return error_set(error, "latents of %lld frames of %lldx%lld cannot be decoded",
                         (long long)frames, (long long)width, (long long)height);
    if (!job_tiling(tiling, height, width, &tile, &stride, error) ||
        !check_latents(latents, dims, error))
        return false;

    struct job job = {.vae = vae,
                      .net = &vae->decoder,
                      .input = latents,
                      .latent_frames = frames,
                      .height = height,
                      .width = width,
                      .normalised = normalised,
                      .tiled = tile < height || tile < width,
                      .sink = sink,
                      .user = user,
                      .progress = progress};
    const int64_t video_frames = CHUNK * (frames - 1) + 1;
    /* Without tiles nothing is collected: the canvas only says where the one tile lies. */
    bool ok = vae_canvas_create(&job.canvas, job.tiled ? video_frames : 0, height * SCALE,
                                width * SCALE, 3, tile * SCALE, stride * SCALE, error);
    if (ok) {
        struct vae_tile largest = vae_canvas_tile(&job.canvas, 0, 0);
        job.total = frames * job.canvas.rows * job.canvas.columns;
        ok = job_host(&job, largest.height * largest.width,
                      largest.height * largest.width / (SCALE * SCALE), error) &&
             vae_pass_begin(&job.pass, job.net, 1, largest.height / SCALE, largest.width / SCALE,
                            frames == 1, error) &&
             job_run(&job, decode_tile, error);
    }
    const int64_t frame = height * width * SCALE * SCALE * 3;
    for (int64_t i = 0; ok && job.tiled && i < video_frames; i++)
        ok = deliver(&job, job.canvas.values + i * frame, 1, frame, error);
    vae_pass_end(&job.pass);
    free(job.host);
    vae_canvas_destroy(&job.canvas);
    return ok;
}

/* ---- encoding -------------------------------------------------------------------------------- */

/* Frames [first, first + count) of a tile in latent units: its part of every line. */
static void gather_video(const struct job *job, const struct vae_tile *tile, int64_t first,
                         int64_t count)
{
    const int64_t height = tile->height * SCALE, width = tile->width * SCALE;
    for (int64_t i = 0; i < count; i++)
        for (int64_t y = 0; y < height; y++) {
            const int64_t line = (first + i) * job->height + tile->y * SCALE + y;
            memcpy(job->host + (i * height + y) * width * 3,
                   job->input + (line * job->width + tile->x * SCALE) * 3,
                   (size_t)(width * 3) * sizeof(float));
        }
}

static bool encode_tile(struct job *job, const struct vae_tile *tile, struct error *error)
{
    struct vae_pass *pass = &job->pass;
    vae_pass_start(pass, tile->height * SCALE, tile->width * SCALE);
    bool ok = true;
    for (int64_t i = 0; ok && i < job->latent_frames; i++) {
        const int64_t count = i ? CHUNK : 1;
        gather_video(job, tile, i ? CHUNK * (i - 1) + 1 : 0, count);
        ok = job_chunk(job, count, error);
        if (!ok) {
            error_prefix(error, "VAE encoder, latent frame %lld: ", (long long)i);
            break;
        }
        if (pass->check)
            continue;
        vae_canvas_place(&job->canvas, tile, i, 1, job->host);
        ok = progress_step(job->progress, ++job->done, job->total, error);
    }
    return ok;
}

/* [frames][height][width][2 z] to mean and logvar [z][frames][height][width]. */
static void split_latents(const struct job *job, float *mean, float *logvar)
{
    const struct wan_vae_config *config = &job->vae->config;
    const int64_t z_dim = config->z_dim;
    const int64_t count = job->canvas.frames * job->canvas.height * job->canvas.width;
    for (int64_t z = 0; z < z_dim; z++)
        for (int64_t i = 0; i < count; i++) {
            const float *from = job->canvas.values + i * 2 * z_dim + z;
            mean[z * count + i] = job->normalised
                                      ? (from[0] - (float)config->mean[z]) / (float)config->std[z]
                                      : from[0];
            if (logvar)
                logvar[z * count + i] = from[z_dim];
        }
}

static bool check_video(const float *video, int64_t frames, int64_t height, int64_t width,
                        struct error *error)
{
    const int64_t total = frames * height * width * 3;
    for (int64_t i = 0; i < total; i++)
        if (!isfinite(video[i]))
            return error_set(
                error, "the video holds a NaN or an infinity: frame %lld, row %lld, column %lld",
                (long long)(i / (height * width * 3)), (long long)(i / (width * 3) % height),
                (long long)(i / 3 % width));
    return true;
}

static bool check_clip(int64_t frames, int64_t height, int64_t width, struct error *error)
{
    const int64_t dims[] = {frames, height, width, 3};
    size_t bytes;
    if (frames < 1 || frames % CHUNK != 1) {
        const int64_t below = frames < 1 ? 1 : (frames - 1) / CHUNK * CHUNK + 1;
        return error_set(error,
                         "%lld frames cannot be encoded: the Wan VAE takes 4n + 1 frames, such as "
                         "%lld or %lld",
                         (long long)frames, (long long)below, (long long)below + CHUNK);
    }
    if (height < SCALE || width < SCALE || height % SCALE || width % SCALE)
        return error_set(error,
                         "frames of %lldx%lld cannot be encoded: both sides must be multiples of 8",
                         (long long)width, (long long)height);
    if (height > INT32_MAX || width > INT32_MAX || !checked_bytes(dims, 4, sizeof(float), &bytes))
        return error_set(error, "%lld frames of %lldx%lld are too large", (long long)frames,
                         (long long)width, (long long)height);
    return true;
}

bool wan_vae_encode(struct wan_vae *vae, const float *video, int64_t frames, int64_t height,
                    int64_t width, bool normalise, const struct wan_vae_tiling *tiling, float *mean,
                    float *logvar, const struct progress *progress, struct error *error)
{
    int64_t tile, stride;
    if (!vae->encoder.count)
        return error_set(error, "the VAE was loaded without its encoder");
    if (!check_clip(frames, height, width, error) ||
        !job_tiling(tiling, height / SCALE, width / SCALE, &tile, &stride, error) ||
        !check_video(video, frames, height, width, error))
        return false;

    struct job job = {.vae = vae,
                      .net = &vae->encoder,
                      .input = video,
                      .latent_frames = (frames - 1) / CHUNK + 1,
                      .height = height,
                      .width = width,
                      .normalised = normalise,
                      .progress = progress};
    bool ok = vae_canvas_create(&job.canvas, job.latent_frames, height / SCALE, width / SCALE,
                                2 * vae->config.z_dim, tile, stride, error);
    if (ok) {
        struct vae_tile largest = vae_canvas_tile(&job.canvas, 0, 0);
        const int64_t latents = largest.height * largest.width;
        job.total = job.latent_frames * job.canvas.rows * job.canvas.columns;
        ok = job_host(&job, latents * SCALE * SCALE, latents, error) &&
             vae_pass_begin(&job.pass, job.net, frames == 1 ? 1 : CHUNK, largest.height * SCALE,
                            largest.width * SCALE, frames == 1, error) &&
             job_run(&job, encode_tile, error);
    }
    if (ok)
        split_latents(&job, mean, logvar);
    vae_pass_end(&job.pass);
    free(job.host);
    vae_canvas_destroy(&job.canvas);
    return ok;
}
