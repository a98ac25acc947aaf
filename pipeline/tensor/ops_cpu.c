/*
 * The CPU's row of the table of operations: makes the device, owns its scratch memory, and says
 * which file does what. Matrices and convolutions are oneDNN's (onednn_cpu.c); the rest is ours.
 */
#include "attention_cpu.h"
#include "device_cpu.h"
#include "elementwise_cpu.h"
#include "onednn_cpu.h"
#include "ops.h"
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

static bool cpu_create(struct device **out, int32_t threads, struct error *error)
{
    *out = NULL;
    if (threads < 0)
        return error_set(error, "threads: %d is negative; 0 means all", threads);
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return error_out_of_memory(error, "the CPU device", sizeof *device);
    /* oneDNN asks OpenMP how many threads it may use and takes no number of its own. */
    if (threads > 0)
        omp_set_num_threads(threads);
    device->threads = threads > 0 ? threads : omp_get_max_threads();
    if (!onednn_open(device, error)) {
        cpu_destroy(device);
        return false;
    }
    *out = device;
    return true;
}

const struct ops ops_cpu = {
    .name = "cpu",
    .create = cpu_create,
    .destroy = cpu_destroy,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .linear_create = onednn_linear_create,
    .linear_destroy = onednn_linear_destroy,
    .linear = onednn_linear,
    .conv_create = onednn_conv_create,
    .conv_destroy = onednn_conv_destroy,
    .conv = onednn_conv,
    .layer_norm = elementwise_layer_norm,
    .rms_norm = elementwise_rms_norm,
    .rope = elementwise_rope,
    .channel_norm = video_channel_norm,
    .attention = attention_cpu,
    .activate = elementwise_activate,
    .multiply = elementwise_multiply,
    .add = elementwise_add,
    .add_gated = elementwise_add_gated,
    .combine = elementwise_combine,
    .gather_rows = elementwise_gather_rows,
    .scatter_rows = elementwise_scatter_rows,
    .upsample2 = video_upsample2,
    .first_not_finite = elementwise_first_not_finite,
};
