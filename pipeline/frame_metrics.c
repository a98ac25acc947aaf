/*
 * How alike two videos are, by FFmpeg's definitions.
 *
 * Owns the sums; what is compared comes from video_reader.c as it stands in the files. Integer sums
 * are exact: a window has 64 samples, a plane fewer than 2^31.
 */
#include "frame_metrics.h"

#include <math.h>

double frame_metrics_psnr(double mse)
{
    return mse > 0 ? 10.0 * log10(255.0 * 255.0 / mse) : INFINITY;
}

static uint64_t squared_error(const uint8_t *a, const uint8_t *b, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t difference = (int32_t)a[i] - (int32_t)b[i];
        sum += (uint32_t)(difference * difference);
    }
    return sum;
}

double frame_metrics_mse(const uint8_t *a, const uint8_t *b, size_t count)
{
    return count ? (double)squared_error(a, b, count) / (double)count : 0.0;
}

/* Of one window: Wang's formula on sums of 64 samples, with FFmpeg's constants, whose first is 1/64
 * of what the published one would be on that scale. */
static double window_ssim(const uint8_t *a, ptrdiff_t stride_a, const uint8_t *b,
                          ptrdiff_t stride_b)
{
    const double c1 = floor(0.01 * 0.01 * 255 * 255 * 64 + 0.5);
    const double c2 = floor(0.03 * 0.03 * 255 * 255 * 64 * 63 + 0.5);
    int32_t sum_a = 0, sum_b = 0, squares = 0, products = 0;
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) {
            int32_t p = a[y * stride_a + x], q = b[y * stride_b + x];
            sum_a += p;
            sum_b += q;
            squares += p * p + q * q;
            products += p * q;
        }
    double means = (double)sum_a * sum_b;
    double mean_squares = (double)sum_a * sum_a + (double)sum_b * sum_b;
    double variances = 64.0 * squares - mean_squares, covariance = 64.0 * products - means;
    return (2 * means + c1) * (2 * covariance + c2) / ((mean_squares + c1) * (variances + c2));
}

static double plane_ssim(const struct video_planes *a, const struct video_planes *b, int plane)
{
    double sum = 0;
    int64_t windows = 0;
    for (int32_t y = 0; y + 8 <= a->height[plane]; y += 4)
        for (int32_t x = 0; x + 8 <= a->width[plane]; x += 4) {
            sum += window_ssim(a->data[plane] + y * a->stride[plane] + x, a->stride[plane],
                               b->data[plane] + y * b->stride[plane] + x, b->stride[plane]);
            windows++;
        }
    return windows ? sum / (double)windows : 1.0;
}

void frame_metrics_planes(const struct video_planes *a, const struct video_planes *b, double *mse,
                          double *ssim)
{
    uint64_t error = 0;
    int64_t samples = 0;
    double weighted = 0;
    for (int plane = 0; plane < 3; plane++) {
        int64_t size = (int64_t)a->width[plane] * a->height[plane];
        for (int32_t y = 0; y < a->height[plane]; y++)
            error += squared_error(a->data[plane] + y * a->stride[plane],
                                   b->data[plane] + y * b->stride[plane], (size_t)a->width[plane]);
        weighted += plane_ssim(a, b, plane) * (double)size;
        samples += size;
    }
    *mse = (double)error / (double)samples;
    *ssim = weighted / (double)samples;
}

static bool check_pair(const char *path_a, const char *path_b, const struct video_planes *a,
                       const struct video_planes *b, struct error *error)
{
    if (a->width[0] != b->width[0] || a->height[0] != b->height[0])
        return error_set(error, "videos '%s' and '%s' differ in size: %d x %d and %d x %d", path_a,
                         path_b, a->width[0], a->height[0], b->width[0], b->height[0]);
    return true;
}

static bool compare(struct video_reader *a, struct video_reader *b, const char *path_a,
                    const char *path_b, int64_t frames, double *psnr, double *ssim,
                    double *psnr_all, double *ssim_all, const struct progress *progress,
                    struct error *error)
{
    struct video_planes x, y;
    bool more_a = true, more_b = true;
    double mse_sum = 0, ssim_sum = 0;
    for (int64_t i = 0; more_a || more_b; i++) {
        if (!video_reader_next(a, &x, &more_a, error) || !video_reader_next(b, &y, &more_b, error))
            return false;
        bool inside = i < frames;
        if (more_a != inside || more_b != inside)
            return error_set(error, "video '%s': not the %lld frames that were written",
                             more_a != inside ? path_a : path_b, (long long)frames);
        if (!inside)
            break;
        double mse;
        if (!check_pair(path_a, path_b, &x, &y, error))
            return false;
        frame_metrics_planes(&x, &y, &mse, &ssim[i]);
        psnr[i] = frame_metrics_psnr(mse);
        mse_sum += mse;
        ssim_sum += ssim[i];
        if (!progress_step(progress, i + 1, frames, error))
            return false;
    }
    *psnr_all = frame_metrics_psnr(mse_sum / (double)frames);
    *ssim_all = ssim_sum / (double)frames;
    return true;
}

bool frame_metrics_files(const char *a, const char *b, int64_t frames, double *psnr, double *ssim,
                         double *psnr_all, double *ssim_all, const struct progress *progress,
                         struct error *error)
{
    struct video_reader *x = NULL, *y = NULL;
    bool ok = video_reader_open(&x, a, error) && video_reader_open(&y, b, error) &&
              compare(x, y, a, b, frames, psnr, ssim, psnr_all, ssim_all, progress, error);
    video_reader_close(x);
    video_reader_close(y);
    return ok;
}
