/*
 * The CPU's row of the table of operations: makes the device, owns its scratch memory, and says
 * which file does what. Matrices and convolutions are oneDNN's (onednn_cpu.c); the rest is ours.
 */
#include "attention_cpu.h"
#include "device_cpu.h"
#include "elementwise_cpu.h"
#include "onednn_cpu.h"
#include "ops.h"
#include "patches_cpu.h"
#include "video_ops_cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static void *cpu_alloc(struct device *device, size_t bytes)
{
    (void)device;
    if (bytes > SIZE_MAX - 64)
        return NULL;
    return aligned_alloc(64, (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0));
}

static void cpu_free(struct device *device, void *memory)
{
    (void)device;
    free(memory);
}

static void cpu_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memcpy(to, from, bytes);
}

void *device_scratch(struct device *device, size_t bytes)
{
    if (bytes > device->scratch_bytes) {
        cpu_free(device, device->scratch);
        device->scratch = cpu_alloc(device, bytes);
        device->scratch_bytes = device->scratch ? bytes : 0;
    }
    return device->scratch;
}

static void cpu_destroy(struct device *device)
{
    if (!device)
        return;
    onednn_close(device);
    cpu_free(device, device->scratch);
    free(device);
}

static bool cpu_create(struct device **out, const struct device_desc *desc, struct error *error)
{
    *out = NULL;
    if (desc->threads < 0)
        return error_set(error, "threads: %d is negative; 0 means all", desc->threads);
    if (desc->activations != ELEMENT_F32)
        return error_set(error, "the CPU computes in float32 alone; use --precision float32");
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return error_out_of_memory(error, "the CPU device", sizeof *device);
    /* oneDNN asks OpenMP how many threads it may use and takes no number of its own. */
    if (desc->threads > 0)
        omp_set_num_threads(desc->threads);
    device->threads = desc->threads > 0 ? desc->threads : omp_get_max_threads();
    device->watched.row = -1;
    if (!onednn_open(device, error)) {
        cpu_destroy(device);
        return false;
    }
    *out = device;
    return true;
}

static enum element cpu_activations(const struct device *device)
{
    (void)device;
    return ELEMENT_F32;
}

static void *cpu_stream(const struct device *device)
{
    (void)device;
    return NULL;
}

/* ---- nothing to do: all is done when a call returns, and all weights are there --------------- */

static bool cpu_synchronise(struct device *device, struct error *error)
{
    (void)device, (void)error;
    return true;
}

static void cpu_group_begin(struct device *device)
{
    (void)device;
}

static bool cpu_group_end(struct device *device, struct error *error)
{
    (void)device, (void)error;
    return true;
}

static bool cpu_group_need(struct device *device, int64_t group, int64_t next, struct error *error)
{
    (void)device, (void)group, (void)next, (void)error;
    return true;
}

static bool cpu_record_begin(struct device *device, struct error *error)
{
    (void)device, (void)error;
    return true;
}

static bool cpu_record_end(struct device *device, struct recording **out, struct error *error)
{
    (void)device, (void)error;
    *out = NULL;
    return true;
}

static bool cpu_replay(struct device *device, const struct recording *recording,
                       struct error *error)
{
    (void)device, (void)recording;
    return error_set(error, "the CPU has no recordings");
}

static void cpu_recording_destroy(struct device *device, struct recording *recording)
{
    (void)device, (void)recording;
}

/* ---- watching -------------------------------------------------------------------------------- */

static void cpu_watch(struct device *device, int32_t place)
{
    device->place = place;
}

static bool cpu_watched(struct device *device, int32_t *place, int64_t *row)
{
    const struct watched_row found = device->watched;
    device->watched.row = -1;
    if (found.row < 0)
        return false;
    *place = found.place;
    *row = found.row;
    return true;
}

const struct ops ops_cpu = {
    .name = "cpu",
    .create = cpu_create,
    .destroy = cpu_destroy,
    .activations = cpu_activations,
    .stream = cpu_stream,
    .synchronise = cpu_synchronise,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .linear_create = onednn_linear_create,
    .linear_destroy = onednn_linear_destroy,
    .linear = onednn_linear,
    .group_begin = cpu_group_begin,
    .group_end = cpu_group_end,
    .group_need = cpu_group_need,
    .conv_create = onednn_conv_create,
    .conv_destroy = onednn_conv_destroy,
    .conv = onednn_conv,
    .residual = elementwise_residual,
    .norm_rope = elementwise_norm_rope,
    .watch = cpu_watch,
    .watched = cpu_watched,
    .layer_norm = elementwise_layer_norm,
    .rms_norm = elementwise_rms_norm,
    .channel_norm = video_channel_norm,
    .attention = attention_cpu,
    .cut_patches = patches_cut_cpu,
    .join_patches = patches_join_cpu,
    .activate = elementwise_activate,
    .multiply = elementwise_multiply,
    .add = elementwise_add,
    .combine = elementwise_combine,
    .scatter_rows = elementwise_scatter_rows,
    .upsample2 = video_upsample2,
    .first_not_finite = elementwise_first_not_finite,
    .record_begin = cpu_record_begin,
    .record_end = cpu_record_end,
    .replay = cpu_replay,
    .recording_destroy = cpu_recording_destroy,
};
