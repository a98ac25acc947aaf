/*
 * Latents to a video file. Frames go from the decoder to the encoder as they come; nothing but the
 * frame under way is held here. The output is checked before the weights are read.
 */
#include "decode_video.h"

#include "clock.h"
#include "io/video_writer.h"

#include <stdlib.h>

void decode_video_to_bytes(const float *values, uint8_t *bytes, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        float x = values[i] > -1.0f ? values[i] : -1.0f; /* NaN too */
        x = x < 1.0f ? x : 1.0f;
        bytes[i] = (uint8_t)((x + 1.0f) * 127.5f + 0.5f);
    }
}

struct sink {
    const struct decode_video *job;
    struct video_writer *writer;
    uint8_t *bytes; /* one frame */
    int64_t frame_values;
    double seconds;
};

static bool take_frames(void *user, const float *frames, int64_t count, struct error *error)
{
    struct sink *sink = user;
    double start = clock_seconds();
    bool ok = true;
    for (int64_t i = 0; ok && i < count; i++) {
        decode_video_to_bytes(frames + i * sink->frame_values, sink->bytes, sink->frame_values);
        if (sink->job->frame)
            sink->job->frame(sink->job->frame_user, sink->bytes);
        ok = video_writer_frame(sink->writer, sink->bytes, error);
    }
    sink->seconds += clock_seconds() - start;
    return ok;
}

static bool load(const struct decode_video *job, struct wan_vae **vae, struct error *error)
{
    const struct model *model = job->model;
    struct checkpoint *weights = NULL;
    bool ok = model_open_weights(&weights, model->folder.vae, model->folder.rename_vae, error) &&
              wan_vae_load(vae, &model->vae, WAN_VAE_DECODER, weights, job->ops, job->device,
                           &job->progress, error) &&
              job->ops->synchronise(job->device, error);
    checkpoint_close(weights);
    return ok;
}

bool decode_video_check(const struct model *model, struct error *error)
{
    struct checkpoint *weights = NULL;
    bool ok = model_open_weights(&weights, model->folder.vae, model->folder.rename_vae, error) &&
              wan_vae_check(&model->vae, WAN_VAE_DECODER, weights, error);
    checkpoint_close(weights);
    return ok;
}

static bool decode(const struct decode_video *job, struct wan_vae *vae, struct sink *sink,
                   struct decode_video_times *times, struct error *error)
{
    double start = clock_seconds();
    bool ok = wan_vae_decode(vae, job->latents, job->frames, job->height, job->width, true,
                             &job->tiling, take_frames, sink, &job->progress, error);
    double end = clock_seconds();
    times->decode = end - start - sink->seconds;
    if (ok) {
        ok = video_writer_finish(sink->writer, error);
        sink->writer = NULL; /* finish frees */
    }
    times->write = sink->seconds + clock_seconds() - end;
    return ok;
}

bool decode_video(const struct decode_video *job, struct decode_video_times *times,
                  struct error *error)
{
    const struct video_desc desc = {
        .width = (int32_t)(job->width * MODEL_VAE_STRIDE),
        .height = (int32_t)(job->height * MODEL_VAE_STRIDE),
        .frames = (job->frames - 1) * MODEL_VAE_STRIDE_TIME + 1,
        .fps = job->fps,
        .metadata = job->metadata,
        .crf_offset = job->crf_offset,
    };
    struct wan_vae *vae = NULL;
    struct sink sink = {.job = job, .frame_values = (int64_t)desc.width * desc.height * 3};
    *times = (struct decode_video_times){0};
    double start = clock_seconds();
    bool ok = video_writer_check(job->output, &desc, error) && load(job, &vae, error);
    times->load = clock_seconds() - start;
    if (ok && !(sink.bytes = malloc((size_t)sink.frame_values)))
        ok = error_out_of_memory(error, "a video frame", (unsigned long long)sink.frame_values);
    ok = ok && video_writer_open(&sink.writer, job->output, &desc, error) &&
         decode(job, vae, &sink, times, error);
    video_writer_abort(sink.writer);
    free(sink.bytes);
    wan_vae_free(vae);
    return ok;
}
