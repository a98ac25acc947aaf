/*
 * Channel norm with SiLU, and nearest upsampling, on channels-last video.
 *
 * Both are bound by memory, so each touches its data once. Rows are short (16 to 384 channels): the
 * widths of small models are compiled as constants, which unrolls a row into one or a few vectors.
 */
#include "video_ops_cpu.h"

#include "device_cpu.h"
#include "exp_fast.h"
#include "simd_clones.h"

#include <math.h>
#include <string.h>

/* A chunk is at most this many positions, and about this many elements: 16 KiB, so that the
 * second pass over it reads from the first-level cache. */
enum { CHUNK_POSITIONS = 256, CHUNK_ELEMENTS = 4096 };

static inline __attribute__((always_inline)) void norm_rows(const float *x, float *y,
                                                            int64_t positions, int64_t channels,
                                                            const float *gamma, bool silu)
{
    float factor[CHUNK_POSITIONS];
    const float root = sqrtf((float)channels);
    for (int64_t p = 0; p < positions; p++) {
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < channels; c++)
            squares += x[p * channels + c] * x[p * channels + c];
        factor[p] = squares;
    }
#pragma omp simd
    for (int64_t p = 0; p < positions; p++) {
        float norm = sqrtf(factor[p]);
        factor[p] = root / (norm < 1e-12f ? 1e-12f : norm); /* NaN stays NaN */
    }
    for (int64_t p = 0; p < positions; p++) {
        const float f = factor[p];
        if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float t = x[p * channels + c] * f * gamma[c];
                y[p * channels + c] = t / (1.0f + exp_fast(-t));
            }
        } else {
#pragma omp simd
            for (int64_t c = 0; c < channels; c++)
                y[p * channels + c] = x[p * channels + c] * f * gamma[c];
        }
    }
}

SIMD_CLONES static void norm_chunk(const float *x, float *y, int64_t positions, int64_t channels,
                                   const float *gamma, bool silu)
{
    if (silu && channels == 8)
        norm_rows(x, y, positions, 8, gamma, true);
    else if (silu && channels == 16)
        norm_rows(x, y, positions, 16, gamma, true);
    else if (silu && channels == 32)
        norm_rows(x, y, positions, 32, gamma, true);
    else if (silu && channels == 64)
        norm_rows(x, y, positions, 64, gamma, true);
    else if (silu && channels == 96)
        norm_rows(x, y, positions, 96, gamma, true);
    else
        norm_rows(x, y, positions, channels, gamma, silu);
}

void video_channel_norm(struct device *device, const float *x, float *y, int64_t positions,
                        int64_t channels, const float *gamma, bool silu)
{
    int64_t chunk = channels < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / channels : 1;
    if (chunk > CHUNK_POSITIONS)
        chunk = CHUNK_POSITIONS;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t begin = 0; begin < positions; begin += chunk)
        norm_chunk(x + begin * channels, y + begin * channels,
                   positions - begin < chunk ? positions - begin : chunk, channels, gamma, silu);
}

void video_upsample2(struct device *device, const float *x, float *y, int64_t frames,
                     int64_t height, int64_t width, int64_t channels)
{
    const size_t pixel = (size_t)channels * sizeof(*x);
    const int64_t row = 2 * width * channels;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t line = 0; line < frames * height; line++) {
        const float *from = x + line * width * channels;
        float *to = y + 2 * line * row;
        for (int64_t i = 0; i < width; i++, from += channels) {
            memcpy(to + 2 * i * channels, from, pixel);
            memcpy(to + (2 * i + 1) * channels, from, pixel);
        }
        memcpy(to + row, to, (size_t)row * sizeof(*to));
    }
}
