/*
 * What surrounds cuDNN's convolutions, and the one that stands in for them.
 *
 * Padding a copy of the input makes any channel count and any padding one that cuDNN has fast
 * kernels for. Finishing adds bias and residual, and drops padded channels: a pass of its own, as
 * it is bound by memory and costs a tenth of the largest convolution, while cuDNN would have to
 * compile each fused kernel at run time. The plain convolution is an implicit matrix product in
 * float32, tiles of 64 positions by 64 channels, a tap and 16 input channels at a time; every sum
 * has the same order whatever the size.
 */
#include "conv_parts_cuda.h"

#include "elements_cuda.cuh"

enum {
    THREADS = 256,
    QUAD = 4,         /* floats of 16 bytes */
    TILE = 64,        /* positions and output channels of a CTA */
    DEPTH = 16,       /* input channels of a step */
    SIDE = 4,         /* positions and output channels of a thread */
    ROW = TILE + SIDE /* of shared memory: other banks for each of the four channels written */
};

static int64_t positions(struct conv_size size)
{
    return size.frames * size.height * size.width;
}

/* ---- padding --------------------------------------------------------------------------------- */

struct padded_video {
    int64_t height, width; /* with padding */
    int64_t count;         /* elements in all */
    int32_t channels;      /* with padding */
};

__global__ static void __launch_bounds__(THREADS)
    pad_kernel(struct conv_work work, struct padded_video padded, float *to)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < padded.count; i += step) {
        const int64_t position = i / padded.channels, line = position / padded.width;
        const int32_t c = (int32_t)(i - position * padded.channels);
        const int64_t x = position - line * padded.width - work.desc.pad_left;
        const int64_t frame = line / padded.height;
        const int64_t y = line - frame * padded.height - work.desc.pad_top;
        const bool inside =
            c < work.desc.in && x >= 0 && x < work.in.width && y >= 0 && y < work.in.height;
        to[i] = inside
                    ? work.x[((frame * work.in.height + y) * work.in.width + x) * work.desc.in + c]
                    : 0.0f;
    }
}

void conv_cuda_pad(struct device *device, const struct conv_work *work, float *to)
{
    struct padded_video padded = {};
    padded.height = work->desc.pad_top + work->in.height + work->desc.pad_bottom;
    padded.width = work->desc.pad_left + work->in.width + work->desc.pad_right;
    padded.channels = work->in_padded;
    padded.count = work->in.frames * padded.height * padded.width * padded.channels;
    pad_kernel<<<shared_grid(device, padded.count, THREADS), THREADS, 0, device->stream>>>(
        *work, padded, to);
    device_cuda_launched(device, "convolution");
}

/* ---- bias and residual ----------------------------------------------------------------------- */

/* Rows of float4: channels is in fours. A thread keeps its channel, as the step is a multiple of
 * them. */
__global__ static void __launch_bounds__(THREADS)
    finish_quads_kernel(const float4 *sums, const float4 *bias, const float4 *add, float4 *y,
                        int64_t count, int32_t channels, int64_t step)
{
    const int64_t first = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (first >= step)
        return;
    const float4 b = bias[first % channels];
    for (int64_t i = first; i < count; i += step) {
        float4 sum = sums[i];
        if (add) {
            const float4 a = add[i];
            sum.x += a.x, sum.y += a.y, sum.z += a.z, sum.w += a.w;
        }
        y[i] = make_float4(sum.x + b.x, sum.y + b.y, sum.z + b.z, sum.w + b.w);
    }
}

__global__ static void __launch_bounds__(THREADS)
    finish_kernel(const float *sums, int32_t padded, const float *bias, const float *add, float *y,
                  int64_t count, int32_t channels)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step) {
        const int64_t position = i / channels;
        const int32_t c = (int32_t)(i - position * channels);
        const float sum = sums[position * padded + c] + (add ? add[i] : 0.0f);
        y[i] = sum + bias[c];
    }
}

void conv_cuda_finish(struct device *device, const struct conv_work *work, const float *sums,
                      int32_t padded)
{
    const int32_t channels = work->desc.out;
    const int64_t count = positions(work->out) * channels;
    const bool quads = channels % QUAD == 0 && channels <= QUAD * THREADS && padded == channels &&
                       aligned(sums, 16) && aligned(work->y, 16) && aligned(work->add, 16);
    if (quads) {
        const int64_t row = channels / QUAD;
        const unsigned grid = shared_grid(device, count / QUAD, THREADS);
        finish_quads_kernel<<<grid, THREADS, 0, device->stream>>>(
            (const float4 *)sums, (const float4 *)work->bias, (const float4 *)work->add,
            (float4 *)work->y, count / QUAD, (int32_t)row, (int64_t)THREADS * grid / row * row);
    } else {
        finish_kernel<<<shared_grid(device, count, THREADS), THREADS, 0, device->stream>>>(
            sums, padded, work->bias, work->add, work->y, count, channels);
    }
    device_cuda_launched(device, "convolution");
}

/* ---- the plain convolution ------------------------------------------------------------------- */

/* Where the window of an output position begins in the input. */
struct window {
    int64_t frame, y, x;
    bool inside;
};

DEVICE struct window window_at(const struct conv_work &work, int64_t position, int64_t count)
{
    const int64_t line = position / work.out.width, frame = line / work.out.height;
    struct window at;
    at.inside = position < count;
    at.frame = frame * work.desc.stride_t;
    at.y = (line - frame * work.out.height) * work.desc.stride_h - work.desc.pad_top;
    at.x = (position - line * work.out.width) * work.desc.stride_w - work.desc.pad_left;
    return at;
}

/* Four channels of the input under a tap; zeros outside of it. */
DEVICE void load_input(const struct conv_work &work, const struct window &at, int32_t kt,
                       int32_t kh, int32_t kw, int32_t channel, float (&to)[SIDE])
{
    const int64_t y = at.y + kh, x = at.x + kw;
    const bool inside = at.inside && y >= 0 && y < work.in.height && x >= 0 && x < work.in.width;
    const float *from =
        work.x + (((at.frame + kt) * work.in.height + y) * work.in.width + x) * work.desc.in;
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        to[i] = inside && channel + i < work.desc.in ? from[channel + i] : 0.0f;
    }
}

__global__ static void __launch_bounds__(THREADS) plain_kernel(struct conv_work work)
{
    __shared__ __align__(16) float inputs[DEPTH][ROW];
    __shared__ __align__(16) float weights[DEPTH][ROW];
    const struct conv_desc &desc = work.desc;
    const int64_t count = work.out.frames * work.out.height * work.out.width;
    const int64_t first = (int64_t)blockIdx.x * TILE;
    const int32_t first_out = (int32_t)blockIdx.y * TILE, taps = desc.kt * desc.kh * desc.kw;
    const int32_t thread = (int32_t)threadIdx.x;
    /* Loading: a position (or output channel) and four input channels; summing: a square. */
    const int32_t row = thread / (DEPTH / SIDE), part = thread % (DEPTH / SIDE) * SIDE;
    const int32_t down = thread / (TILE / SIDE) * SIDE, across = thread % (TILE / SIDE) * SIDE;
    const struct window at = window_at(work, first + row, count);
    const bool has_out = first_out + row < desc.out;
    const float *weight = work.weight + (int64_t)(first_out + row) * taps * work.in_padded;
    float sums[SIDE][SIDE] = {};

    for (int32_t tap = 0; tap < taps; tap++) {
        const int32_t kt = tap / (desc.kh * desc.kw), kh = tap / desc.kw % desc.kh;
        for (int32_t channel = 0; channel < desc.in; channel += DEPTH) {
            float values[SIDE];
            load_input(work, at, kt, kh, tap % desc.kw, channel + part, values);
#pragma unroll
            for (int i = 0; i < SIDE; i++) {
                const int32_t c = channel + part + i;
                inputs[part + i][row] = values[i];
                weights[part + i][row] =
                    has_out && c < desc.in ? weight[(int64_t)tap * work.in_padded + c] : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (int k = 0; k < DEPTH; k++) {
                const float4 a = *(const float4 *)&inputs[k][down];
                const float4 b = *(const float4 *)&weights[k][across];
                const float as[SIDE] = {a.x, a.y, a.z, a.w}, bs[SIDE] = {b.x, b.y, b.z, b.w};
#pragma unroll
                for (int i = 0; i < SIDE; i++) {
#pragma unroll
                    for (int j = 0; j < SIDE; j++) {
                        sums[i][j] += as[i] * bs[j];
                    }
                }
            }
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            const int64_t position = first + down + i;
            const int32_t c = first_out + across + j;
            if (position < count && c < desc.out) {
                const int64_t to = position * desc.out + c;
                const float sum = sums[i][j] + (work.add ? work.add[to] : 0.0f);
                work.y[to] = sum + work.bias[c];
            }
        }
    }
}

void conv_cuda_plain(struct device *device, const struct conv_work *work)
{
    const int64_t tiles = (positions(work->out) + TILE - 1) / TILE;
    if (tiles > INT32_MAX) {
        device_cuda_check(device, cudaErrorInvalidValue, "convolution");
        return;
    }
    const dim3 grid((unsigned)tiles, (unsigned)((work->desc.out + TILE - 1) / TILE));
    plain_kernel<<<grid, THREADS, 0, device->stream>>>(*work);
    device_cuda_launched(device, "convolution");
}
