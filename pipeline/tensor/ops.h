/*
 * Every operation the networks are made of, as one table per device: ops_cpu.c and ops_cuda.c fill
 * it. Networks know this table and nothing below it.
 *
 * Data are contiguous, features (channels) last: tokens are [rows][features], video is
 * [frames][height][width][channels]. Most are float32. What lies between the layers of a
 * transformer has the element type that the device was made with, its activations; an operation
 * that takes such data is told their type. The CPU computes in float32 alone.
 *
 * Pointers are in the device's memory, from ops->alloc(), unless they are said to be in host
 * memory. Products of sizes are the caller's to check (checked.h). Calls are enqueued in order and
 * may return before they are done; download(), first_not_finite(), watched() and synchronise()
 * wait. A failure that shows late is kept: synchronise() and every later call that returns bool
 * report it. Results do not depend on the number of threads.
 */
#ifndef PIPELINE_TENSOR_OPS_H
#define PIPELINE_TENSOR_OPS_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum activation { ACTIVATION_NONE, ACTIVATION_GELU_TANH, ACTIVATION_GELU_ERF, ACTIVATION_SILU };

enum element { ELEMENT_F32, ELEMENT_BF16 };

static inline size_t element_size(enum element type)
{
    return type == ELEMENT_BF16 ? 2 : 4;
}

struct device;    /* threads or streams, scratch, library handles */
struct linear;    /* a packed weight and bias: y = x W^T + b */
struct conv;      /* a packed convolution */
struct recording; /* enqueued operations, to be enqueued again as a whole */

struct device_desc {
    int32_t threads;          /* of the CPU; 0 = all */
    int32_t index;            /* of the GPU */
    enum element activations; /* CPU: F32. With BF16 linear layers multiply bfloat16 and sum in
                                 float32, and the VAE's convolutions multiply TF32 */
    bool offload;             /* weights of groups stay in pinned host memory; see group_begin() */
};

/* weight [out][kt][kh][kw][in] once prepared; given as stored, [out][in][kt][kh][kw]. */
struct conv_desc {
    int32_t in, out;
    int32_t kt, kh, kw;
    int32_t stride_t, stride_h, stride_w;
    int32_t pad_top, pad_bottom, pad_left, pad_right; /* zeros; time is never padded here */
};

struct linear_desc {
    int64_t in, out;
    bool bias;
    bool exact; /* stays float32 where activations are not: the time path, the head, embedders */
    /* Host float32, copied: weight [out][in], bias [out]. weight NULL: random, uniform with
     * variance 1 / in, made on the device from seed, and a bias of zeros. */
    const float *weight, *bias_values;
    uint64_t seed;
};

/* The residual stream x moves on, and is normalised for what reads it next:
 *     x += add * gate;  y = LN(x) * weight + bias, then * (1 + scale) + shift
 * y may be add, where both are of one type. Without add and y the rows are only looked at. */
struct ops_residual {
    float *x;                    /* [rows][features] */
    const void *add;             /* [rows][features], NULL = nothing is added */
    const float *gate;           /* [features], NULL = 1 */
    void *y;                     /* [rows][features], NULL = no norm */
    enum element add_type, type; /* of add, of y */
    const float *weight, *bias;  /* [features] or NULL */
    const float *scale, *shift;  /* [features] or NULL */
    int64_t rows, features;
    float eps;
};

/* Queries or keys, in place: RMS norm over all heads, then rotary embedding. */
struct ops_norm_rope {
    void *x; /* row r at x + r * stride elements: [heads][head_dim] */
    enum element type;
    int64_t stride, rows;
    int32_t heads, head_dim;
    float eps;
    const float *weight;        /* [heads * head_dim] */
    const float *cosine, *sine; /* [rows][head_dim / 2]: pairs (2i, 2i + 1) of every head turn by
                                   that angle; both NULL = no rotation */
};

/* Cuts latents into patches and joins them again. Latents are [channels][frames * pt][height *
 * ph][width * pw], patches [frames * height * width][channels * pt * ph * pw] in the order of
 * order: row i is the token with raster index order[i]. */
struct ops_patches {
    const int64_t *order;
    int64_t channels, frames, height, width; /* the last three of the token grid */
    int64_t patch[3];                        /* pt, ph, pw */
};

struct ops_attention {
    const void *q; /* row r of head h at q + r * q_stride + h * head_dim */
    const void *k;
    const void *v;
    void *o;
    enum element type;                              /* of all four */
    int64_t q_stride, k_stride, v_stride, o_stride; /* elements from row to row */
    int64_t q_rows, k_rows;
    int32_t heads, head_dim;
    float scale;
    const float *bias; /* NULL, or [heads][q_rows + k_rows - 1]: bias of key j for query i at index
                          j - i + q_rows - 1 (a Toeplitz band: T5's relative positions) */
    bool accumulate;   /* o += instead of o = */
    /* NULL, or [k_rows], finite: added to the logits of every query. log(n) makes one key stand for
     * n equal ones. */
    const float *key_bias;
};

struct ops {
    const char *name;

    /* *out NULL on failure. */
    bool (*create)(struct device **out, const struct device_desc *desc, struct error *error);
    void (*destroy)(struct device *device); /* after all that it made; accepts NULL */

    /* What this device stores between layers. */
    enum element (*activations)(const struct device *device);
    /* A cudaStream_t on which operations are enqueued; NULL on the CPU. */
    void *(*stream)(const struct device *device);
    bool (*synchronise)(struct device *device, struct error *error);

    /* Aligned to 64 bytes (256 on a GPU), not cleared. NULL on failure. free accepts NULL, and
     * waits for what is enqueued. */
    void *(*alloc)(struct device *device, size_t bytes);
    void (*free)(struct device *device, void *memory);
    /* Host memory on one side; from may be reused when upload returns. */
    void (*upload)(struct device *device, void *to, const void *from, size_t bytes);
    void (*download)(struct device *device, void *to, const void *from, size_t bytes);
    void (*copy)(struct device *device, void *to, const void *from, size_t bytes);

    bool (*linear_create)(struct device *device, struct linear **out,
                          const struct linear_desc *desc, struct error *error);
    void (*linear_destroy)(struct device *device, struct linear *linear); /* accepts NULL */
    /* y [rows][out] = activation(x [rows][in] W^T + b) */
    bool (*linear)(struct device *device, const struct linear *linear, const void *x,
                   enum element x_type, void *y, enum element y_type, int64_t rows,
                   enum activation activation, struct error *error);

    /* Linear layers made between group_begin() and group_end() belong to one group, from 0 on, in
     * order; the others always stay on the device. A group's layers may be used after
     * group_need(group), until the next group_need(); it also fetches next (-1 = none) while the
     * work on group goes on. Groups without offload, and all on the CPU, are always there. They are
     * of one network at a time: numbers start anew when all layers of groups are gone. */
    void (*group_begin)(struct device *device);
    bool (*group_end)(struct device *device, struct error *error);
    bool (*group_need)(struct device *device, int64_t group, int64_t next, struct error *error);

    /* weight as stored, bias [out] or NULL, host float32, copied. weight NULL: random, like a
     * linear layer's, with in * kt * kh * kw for in. */
    bool (*conv_create)(struct device *device, struct conv **out, const struct conv_desc *desc,
                        const float *weight, const float *bias, struct error *error);
    void (*conv_destroy)(struct device *device, struct conv *conv);
    /* x [frames][height][width][in] -> y [(frames - kt) / stride_t + 1][..][..][out]; where add is
     * not NULL (the shape of y), y = conv(x) + add; add may be y itself, which saves a copy. */
    bool (*conv)(struct device *device, const struct conv *conv, const float *x, int64_t frames,
                 int64_t height, int64_t width, const float *add, float *y, struct error *error);

    void (*residual)(struct device *device, const struct ops_residual *residual);
    void (*norm_rope)(struct device *device, const struct ops_norm_rope *norm);
    /* residual() and norm_rope() look at every row they read. watch() says under which place, from
     * 0 on, those that hold a NaN or an infinity are kept from here on. watched() waits: the lowest
     * place since the last call and its lowest row; false = all were finite. */
    void (*watch)(struct device *device, int32_t place);
    bool (*watched)(struct device *device, int32_t *place, int64_t *row);

    /* y = LN(x) * weight + bias, each of the two [features] or NULL. y may be x. */
    void (*layer_norm)(struct device *device, const float *x, float *y, int64_t rows,
                       int64_t features, float eps, const float *weight, const float *bias);
    /* y = x / sqrt(mean(x^2) + eps) * weight; y may be x. */
    void (*rms_norm)(struct device *device, const float *x, float *y, int64_t rows,
                     int64_t features, float eps, const float *weight);
    /* Wan VAE norm: y = x / max(|x|, 1e-12) * sqrt(channels) * gamma per position, then SiLU if
     * asked. y may be x. */
    void (*channel_norm)(struct device *device, const float *x, float *y, int64_t positions,
                         int64_t channels, const float *gamma, bool silu);

    bool (*attention)(struct device *device, const struct ops_attention *attention,
                      struct error *error);

    /* Channel slowest inside a patch, as the patch embedding's weight has it. */
    void (*cut_patches)(struct device *device, const struct ops_patches *patches,
                        const float *latents, void *rows, enum element type);
    /* Channel fastest inside a patch, as the head's output has it. */
    void (*join_patches)(struct device *device, const struct ops_patches *patches,
                         const float *rows, float *latents);

    void (*activate)(struct device *device, float *x, int64_t count, enum activation activation);
    void (*multiply)(struct device *device, float *x, const float *y, int64_t count); /* x *= y */
    void (*add)(struct device *device, float *x, const float *y, int64_t count);      /* x += y */
    /* out = a * x + b * y; out may be x or y; b = 0 leaves y unread */
    void (*combine)(struct device *device, float *out, float a, const float *x, float b,
                    const float *y, int64_t count);
    /* y[index[i]] = x[i] by rows of features floats */
    void (*scatter_rows)(struct device *device, const float *x, const int64_t *index, float *y,
                         int64_t rows, int64_t features);
    /* nearest: y [frames][2 height][2 width][channels] */
    void (*upsample2)(struct device *device, const float *x, float *y, int64_t frames,
                      int64_t height, int64_t width, int64_t channels);
    /* 0-based index of the first NaN or infinity, or -1 */
    int64_t (*first_not_finite)(struct device *device, const float *x, int64_t count);

    /* What is enqueued between the two calls is recorded instead of done; *out NULL where the
     * device does not record: then it has been done. In between nothing may wait, allocate, upload
     * or download. replay() enqueues it, with the pointers and values it was recorded with. */
    bool (*record_begin)(struct device *device, struct error *error);
    bool (*record_end)(struct device *device, struct recording **out, struct error *error);
    bool (*replay)(struct device *device, const struct recording *recording, struct error *error);
    void (*recording_destroy)(struct device *device, struct recording *recording);
};

extern const struct ops ops_cpu;

/* The table of the GPU; NULL in a program that was built without CUDA. */
const struct ops *ops_cuda(void);

#endif
