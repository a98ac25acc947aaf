/*
 * Every operation the networks are made of, as one table per device: ops_cpu.c fills it here, a
 * CUDA table takes the same place later. Networks know this table and nothing below it.
 *
 * Data are float32, contiguous, features (channels) last: tokens are [rows][features], video is
 * [frames][height][width][channels]. Pointers are in the device's memory, from ops->alloc().
 * Products of sizes are the caller's to check (checked.h). Calls are synchronous on the CPU.
 * Results do not depend on the number of threads.
 */
#ifndef PIPELINE_TENSOR_OPS_H
#define PIPELINE_TENSOR_OPS_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum activation { ACTIVATION_NONE, ACTIVATION_GELU_TANH, ACTIVATION_GELU_ERF, ACTIVATION_SILU };

struct device; /* threads, scratch, library handles */
struct linear; /* a packed weight and bias: y = x W^T + b */
struct conv;   /* a packed convolution */

/* weight [out][kt][kh][kw][in] once prepared; given as stored, [out][in][kt][kh][kw]. */
struct conv_desc {
    int32_t in, out;
    int32_t kt, kh, kw;
    int32_t stride_t, stride_h, stride_w;
    int32_t pad_top, pad_bottom, pad_left, pad_right; /* zeros; time is never padded here */
};

struct ops_attention {
    const float *q; /* row r of head h at q + r * q_stride + h * head_dim */
    const float *k;
    const float *v;
    float *o;
    int64_t q_stride, k_stride, v_stride, o_stride; /* floats from row to row */
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

    /* threads 0 = all. *out NULL on failure. */
    bool (*create)(struct device **out, int32_t threads, struct error *error);
    void (*destroy)(struct device *device);

    /* 64-byte aligned, not cleared. NULL on failure. free accepts NULL. */
    void *(*alloc)(struct device *device, size_t bytes);
    void (*free)(struct device *device, void *memory);
    void (*upload)(struct device *device, void *to, const void *from, size_t bytes);
    void (*download)(struct device *device, void *to, const void *from, size_t bytes);

    /* weight [out][in] and bias [out] or NULL, host float32, copied. */
    bool (*linear_create)(struct device *device, struct linear **out, const float *weight,
                          const float *bias, int64_t features_in, int64_t features_out,
                          struct error *error);
    void (*linear_destroy)(struct device *device, struct linear *linear);
    /* y [rows][out] = activation(x [rows][in] W^T + b) */
    bool (*linear)(struct device *device, const struct linear *linear, const float *x, float *y,
                   int64_t rows, enum activation activation, struct error *error);

    /* weight as stored, bias [out] or NULL, host float32, copied. */
    bool (*conv_create)(struct device *device, struct conv **out, const struct conv_desc *desc,
                        const float *weight, const float *bias, struct error *error);
    void (*conv_destroy)(struct device *device, struct conv *conv);
    /* x [frames][height][width][in] -> y [(frames - kt) / stride_t + 1][..][..][out]; where add is
     * not NULL (the shape of y), y = conv(x) + add; add may be y itself, which saves a copy. */
    bool (*conv)(struct device *device, const struct conv *conv, const float *x, int64_t frames,
                 int64_t height, int64_t width, const float *add, float *y, struct error *error);

    /* y = LN(x) * weight + bias, then * (1 + scale) + shift; each of the four [features] or NULL.
     * y may be x. */
    void (*layer_norm)(struct device *device, const float *x, float *y, int64_t rows,
                       int64_t features, float eps, const float *weight, const float *bias,
                       const float *scale, const float *shift);
    /* y = x / sqrt(mean(x^2) + eps) * weight; y may be x; x rows at x_stride, y rows at y_stride */
    void (*rms_norm)(struct device *device, const float *x, int64_t x_stride, float *y,
                     int64_t y_stride, int64_t rows, int64_t features, float eps,
                     const float *weight);
    /* In place on [rows][heads * head_dim]: pairs (2i, 2i + 1) of every head turn by the angle
     * whose cosine and sine are [rows][head_dim / 2]. */
    void (*rope)(struct device *device, float *x, int64_t x_stride, int64_t rows, int32_t heads,
                 int32_t head_dim, const float *cosine, const float *sine);
    /* Wan VAE norm: y = x / max(|x|, 1e-12) * sqrt(channels) * gamma per position, then SiLU if
     * asked. y may be x. */
    void (*channel_norm)(struct device *device, const float *x, float *y, int64_t positions,
                         int64_t channels, const float *gamma, bool silu);

    bool (*attention)(struct device *device, const struct ops_attention *attention,
                      struct error *error);

    void (*activate)(struct device *device, float *x, int64_t count, enum activation activation);
    void (*multiply)(struct device *device, float *x, const float *y, int64_t count); /* x *= y */
    void (*add)(struct device *device, float *x, const float *y, int64_t count);      /* x += y */
    /* x [rows][features] += y * gate [features] */
    void (*add_gated)(struct device *device, float *x, const float *y, const float *gate,
                      int64_t rows, int64_t features);
    /* out = a * x + b * y; out may be x or y; b = 0 leaves y unread */
    void (*combine)(struct device *device, float *out, float a, const float *x, float b,
                    const float *y, int64_t count);
    /* y[i] = x[index[i]] by rows of features floats */
    void (*gather_rows)(struct device *device, const float *x, const int64_t *index, float *y,
                        int64_t rows, int64_t features);
    /* y[index[i]] = x[i] */
    void (*scatter_rows)(struct device *device, const float *x, const int64_t *index, float *y,
                         int64_t rows, int64_t features);
    /* nearest: y [frames][2 height][2 width][channels] */
    void (*upsample2)(struct device *device, const float *x, float *y, int64_t frames,
                      int64_t height, int64_t width, int64_t channels);
    /* 0-based index of the first NaN or infinity, or -1 */
    int64_t (*first_not_finite)(struct device *device, const float *x, int64_t count);
};

extern const struct ops ops_cpu;

#endif
