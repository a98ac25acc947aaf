/*
 * Channel norm with SiLU, and nearest upsampling, on channels-last video on the GPU.
 *
 * Both are bound by memory, so each touches its data once. Channel norm: a position belongs to 4 to
 * 32 lanes of a warp, which hold all of its channels in registers, up to four float4 each; the
 * widths of the Wan VAE (96, 192, 384) leave no lane idle. Positions that are wider, or no multiple
 * of four, take a warp and are read twice. Upsampling: a CTA works on one line, so that only 32-bit
 * divisions are left.
 *
 * Ladder, H100, warm, medians
 *   v1  as above: norm with SiLU 115,200 x 384 0.150 ms (2.35 TB/s), 921,600 x 192 0.518 ms (2.74),
 *       3,686,400 x 96 1.05 ms (2.69); upsampling 180x320 x 384 0.196 ms (2.26), 360x640 x 192
 *       0.381 ms (2.32)
 */
#include "video_ops_cuda.h"

#include "elements_cuda.cuh"

enum {
    THREADS = 256,
    WARP = 32,
    QUAD = 4,             /* floats of 16 bytes */
    MOST_QUADS = 4,       /* of a lane */
    CTAS_AT_ONCE = 4,     /* 64 registers: left alone, the compiler takes fewer and spills */
    QUADS_PER_THREAD = 8, /* of an upsampled line, before it is shared by several CTAs */
    MOST_SHARES = 65535
};

/* ---- channel norm ---------------------------------------------------------------------------- */

template <int LANES> DEVICE float sum_of_lanes(float x)
{
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    return x;
}

/* A NaN stays one: it is not less than the least norm. */
DEVICE float norm_factor(float squares, float root)
{
    const float norm = sqrtf(squares);
    return root / (norm < 1e-12f ? 1e-12f : norm);
}

template <bool SILU> DEVICE float normed(float x, float factor, float gamma)
{
    const float t = x * factor * gamma;
    return SILU ? t / (1.0f + __expf(-t)) : t;
}

/* LANES lanes a position, QUADS float4 a lane; lane l has the float4s l, l + LANES, ... */
template <int LANES, int QUADS, bool SILU>
__global__ static void __launch_bounds__(THREADS, CTAS_AT_ONCE)
    norm_kernel(const float *x, float *y, int64_t positions, int32_t channels, const float *gamma,
                float root)
{
    const int64_t warp = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP;
    const int64_t warps = (int64_t)gridDim.x * (THREADS / WARP);
    const int32_t lane = (int32_t)threadIdx.x % LANES;
    const int32_t slot = (int32_t)threadIdx.x % WARP / LANES;
    const int32_t quads = channels / QUAD;

    /* All lanes of a warp go the same number of times round: they meet in the shuffles. */
    for (int64_t first = warp * (WARP / LANES); first < positions;
         first += warps * (WARP / LANES)) {
        const int64_t position = first + slot;
        const float4 *from = (const float4 *)(x + position * channels);
        float4 *to = (float4 *)(y + position * channels);
        float4 v[QUADS];
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int32_t at = lane + i * LANES;
            const bool inside = position < positions && at < quads;
            v[i] = inside ? __ldcs(from + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
        }
        const float factor = norm_factor(sum_of_lanes<LANES>(squares), root);
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int32_t at = lane + i * LANES;
            if (position < positions && at < quads) {
                const float4 g = __ldg((const float4 *)gamma + at);
                to[at] = make_float4(
                    normed<SILU>(v[i].x, factor, g.x), normed<SILU>(v[i].y, factor, g.y),
                    normed<SILU>(v[i].z, factor, g.z), normed<SILU>(v[i].w, factor, g.w));
            }
        }
    }
}

/* A warp a position, any number of channels. */
template <bool SILU>
__global__ static void __launch_bounds__(THREADS)
    norm_wide_kernel(const float *x, float *y, int64_t positions, int64_t channels,
                     const float *gamma, float root)
{
    const int64_t warp = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP;
    const int64_t warps = (int64_t)gridDim.x * (THREADS / WARP);
    const int32_t lane = (int32_t)threadIdx.x % WARP;

    for (int64_t position = warp; position < positions; position += warps) {
        const float *from = x + position * channels;
        float *to = y + position * channels, squares = 0.0f;
        for (int64_t c = lane; c < channels; c += WARP) {
            squares += from[c] * from[c];
        }
        const float factor = norm_factor(sum_of_lanes<WARP>(squares), root);
        for (int64_t c = lane; c < channels; c += WARP) {
            to[c] = normed<SILU>(from[c], factor, gamma[c]);
        }
    }
}

struct norm {
    const float *x, *gamma;
    float *y;
    int64_t positions, channels;
    float root;
};

template <int LANES, int QUADS, bool SILU>
static void launch_norm(struct device *device, const struct norm *n)
{
    norm_kernel<LANES, QUADS, SILU>
        <<<shared_grid(device, n->positions * LANES, THREADS), THREADS, 0, device->stream>>>(
            n->x, n->y, n->positions, (int32_t)n->channels, n->gamma, n->root);
}

template <int LANES, bool SILU>
static void launch_quads(struct device *device, const struct norm *n, int64_t quads)
{
    if (quads == 1)
        launch_norm<LANES, 1, SILU>(device, n);
    else if (quads == 2)
        launch_norm<LANES, 2, SILU>(device, n);
    else if (quads == 3)
        launch_norm<LANES, 3, SILU>(device, n);
    else
        launch_norm<LANES, MOST_QUADS, SILU>(device, n);
}

template <bool SILU> static void launch_lanes(struct device *device, const struct norm *n)
{
    const int64_t quads = n->channels / QUAD;
    const bool narrow = n->channels % QUAD == 0 && quads <= MOST_QUADS * WARP &&
                        aligned(n->x, 16) && aligned(n->y, 16) && aligned(n->gamma, 16);
    if (!narrow)
        norm_wide_kernel<SILU>
            <<<shared_grid(device, n->positions * WARP, THREADS), THREADS, 0, device->stream>>>(
                n->x, n->y, n->positions, n->channels, n->gamma, n->root);
    else if (quads <= 4 * MOST_QUADS)
        launch_quads<4, SILU>(device, n, (quads + 3) / 4);
    else if (quads <= 8 * MOST_QUADS)
        launch_quads<8, SILU>(device, n, (quads + 7) / 8);
    else if (quads <= 16 * MOST_QUADS)
        launch_quads<16, SILU>(device, n, (quads + 15) / 16);
    else
        launch_quads<32, SILU>(device, n, (quads + 31) / 32);
}

void video_cuda_channel_norm(struct device *device, const float *x, float *y, int64_t positions,
                             int64_t channels, const float *gamma, bool silu)
{
    const struct norm norm = {x, gamma, y, positions, channels, sqrtf((float)channels)};
    if (positions < 1)
        return;
    if (silu)
        launch_lanes<true>(device, &norm);
    else
        launch_lanes<false>(device, &norm);
    device_cuda_launched(device, "channel norm");
}

/* ---- upsampling ------------------------------------------------------------------------------ */

/* width and channels in elements of T; blockIdx.x is a line of x, blockIdx.y a share of it. */
template <typename T>
__global__ static void __launch_bounds__(THREADS)
    upsample_kernel(const T *x, T *y, uint32_t width, uint32_t channels)
{
    const int64_t line = blockIdx.x;
    const uint32_t count = width * channels, step = gridDim.y * THREADS;
    const T *from = x + line * count;
    T *to = y + 4 * line * count; /* two lines, each twice as long */

    for (uint32_t i = blockIdx.y * THREADS + threadIdx.x; i < count; i += step) {
        const uint32_t pixel = i / channels;
        const T value = __ldcs(from + i);
        T *corner = to + i + (int64_t)pixel * channels;
        corner[0] = value;
        corner[channels] = value;
        corner[2 * (int64_t)count] = value;
        corner[2 * (int64_t)count + channels] = value;
    }
}

void video_cuda_upsample2(struct device *device, const float *x, float *y, int64_t frames,
                          int64_t height, int64_t width, int64_t channels)
{
    const int64_t lines = frames * height;
    const bool wide = channels % QUAD == 0 && aligned(x, 16) && aligned(y, 16);
    const int64_t part = wide ? channels / QUAD : channels;
    if (lines < 1 || width * part < 1)
        return;
    /* Lines are counted in 31 bits, and so are the elements of one. */
    if (lines > INT32_MAX || width * part > INT32_MAX) {
        device_cuda_check(device, cudaErrorInvalidValue, "upsampling");
        return;
    }
    int64_t shares = width * part / (THREADS * QUADS_PER_THREAD);
    if (shares > MOST_SHARES)
        shares = MOST_SHARES;
    const dim3 grid((unsigned)lines, shares < 1 ? 1u : (unsigned)shares);
    if (wide)
        upsample_kernel<<<grid, THREADS, 0, device->stream>>>((const float4 *)x, (float4 *)y,
                                                              (uint32_t)width, (uint32_t)part);
    else
        upsample_kernel<<<grid, THREADS, 0, device->stream>>>(x, y, (uint32_t)width,
                                                              (uint32_t)part);
    device_cuda_launched(device, "upsampling");
}
