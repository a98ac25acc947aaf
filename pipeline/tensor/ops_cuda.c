/*
 * The GPU's row of the table of operations: which file does what. A program that was built without
 * CUDA or without cuDNN has none.
 */
#include "ops.h"

#ifdef DRAFTATTN_GPU_RUNTIME

#include "attention_cuda.h"
#include "conv_cuda.h"
#include "device_cuda.h"
#include "elementwise_cuda.h"
#include "linear_cuda.h"
#include "video_ops_cuda.h"
#include "weight_groups_cuda.h"

static const struct ops table = {
    .name = "cuda",
    .create = device_cuda_create,
    .destroy = device_cuda_destroy,
    .activations = device_cuda_activations,
    .stream = device_cuda_stream,
    .synchronise = device_cuda_synchronise,
    .alloc = device_cuda_alloc,
    .free = device_cuda_free,
    .upload = device_cuda_upload,
    .download = device_cuda_download,
    .copy = device_cuda_copy,
    .linear_create = linear_cuda_create,
    .linear_destroy = linear_cuda_destroy,
    .linear = linear_cuda,
    .group_begin = weight_groups_cuda_begin,
    .group_end = weight_groups_cuda_end,
    .group_need = weight_groups_cuda_need,
    .conv_create = conv_cuda_create,
    .conv_destroy = conv_cuda_destroy,
    .conv = conv_cuda,
    .residual = elementwise_cuda_residual,
    .norm_rope = elementwise_cuda_norm_rope,
    .watch = device_cuda_watch,
    .watched = device_cuda_watched,
    .layer_norm = elementwise_cuda_layer_norm,
    .rms_norm = elementwise_cuda_rms_norm,
    .channel_norm = video_cuda_channel_norm,
    .attention = attention_cuda,
    .cut_patches = elementwise_cuda_cut_patches,
    .join_patches = elementwise_cuda_join_patches,
    .activate = elementwise_cuda_activate,
    .multiply = elementwise_cuda_multiply,
    .add = elementwise_cuda_add,
    .combine = elementwise_cuda_combine,
    .scatter_rows = elementwise_cuda_scatter_rows,
    .upsample2 = video_cuda_upsample2,
    .first_not_finite = elementwise_cuda_first_not_finite,
    .record_begin = device_cuda_record_begin,
    .record_end = device_cuda_record_end,
    .replay = device_cuda_replay,
    .recording_destroy = device_cuda_recording_destroy,
};

const struct ops *ops_cuda(void)
{
    return &table;
}

#else

const struct ops *ops_cuda(void)
{
    return NULL;
}

#endif
