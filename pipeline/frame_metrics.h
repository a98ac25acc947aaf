/*
 * PSNR and SSIM by FFmpeg's definitions (its filters psnr and ssim), on 8 bit 4:2:0 planes.
 *
 * PSNR: 10 log10(255^2 / mse), the mean square error taken over all samples of the planes (so that
 * luma has 4 of 6 parts); of a video from the mean over its frames. SSIM: windows of 8x8 at a
 * stride of 4, means per plane weighted by its samples; of a video the mean over its frames.
 *
 * The reference is the filters' code in C (ffmpeg -cpuflags 0). Their x86 code of FFmpeg 5.1 says
 * another SSIM where a plane is 8 to 11 samples wider than a multiple of 16, as the chroma of 144 x
 * 112 is: by 0.005 there, between videos that differ much.
 */
#ifndef PIPELINE_FRAME_METRICS_H
#define PIPELINE_FRAME_METRICS_H

#include "error.h"
#include "io/video_reader.h"
#include "progress.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* dB; infinity for identical samples. */
double frame_metrics_psnr(double mse);

/* Mean square error of two runs of bytes, 0 of none. */
double frame_metrics_mse(const uint8_t *a, const uint8_t *b, size_t count);

/* Two frames of one size, sides of 16 and more. */
void frame_metrics_planes(const struct video_planes *a, const struct video_planes *b, double *mse,
                          double *ssim);

/* Two written videos of so many frames each and one size. psnr and ssim [frames]; *psnr_all and
 * *ssim_all as FFmpeg's filters sum up. Refuses a file with fewer or more. */
bool frame_metrics_files(const char *a, const char *b, int64_t frames, double *psnr, double *ssim,
                         double *psnr_all, double *ssim_all, const struct progress *progress,
                         struct error *error);

#endif
