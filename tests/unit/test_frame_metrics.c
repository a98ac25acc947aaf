/*
 * PSNR and SSIM: against their definitions on frames made for it, and against FFmpeg's own filters
 * on files that FFmpeg wrote, lossless and not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "frame_metrics.h"
#include "unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = 7, WIDTH = 98, HEIGHT = 66 }; /* chroma of 49 x 33: edges that no window covers */

struct frame {
    uint8_t samples[16 * 16 + 2 * 8 * 8];
    struct video_planes planes;
};

static void make_frame(struct frame *frame, int seed, int offset)
{
    uint8_t *at = frame->samples;
    for (size_t i = 0; i < sizeof frame->samples; i++)
        frame->samples[i] = (uint8_t)(60 + i * (size_t)seed % 101 + (size_t)offset);
    for (int i = 0; i < 3; i++) {
        int side = i ? 8 : 16;
        frame->planes.data[i] = at;
        frame->planes.stride[i] = frame->planes.width[i] = frame->planes.height[i] = side;
        at += side * side;
    }
}

static void definitions(void **state)
{
    (void)state;
    struct frame a, b;
    double mse, ssim;
    make_frame(&a, 7, 0);
    frame_metrics_planes(&a.planes, &a.planes, &mse, &ssim);
    assert_true(mse == 0 && isinf(frame_metrics_psnr(mse)));
    assert_true(fabs(ssim - 1) < 1e-12);

    make_frame(&b, 7, 10); /* 10 log10(255^2 / 10^2) = 28.131 dB; the structure is the same */
    frame_metrics_planes(&a.planes, &b.planes, &mse, &ssim);
    assert_true(mse == 100);
    assert_true(fabs(frame_metrics_psnr(mse) - 28.1308) < 1e-4);
    assert_true(ssim > 0.97 && ssim < 1);

    memcpy(b.samples, a.samples, sizeof a.samples); /* luma is 256 of 384 samples */
    for (int i = 0; i < 256; i++)
        b.samples[i] = (uint8_t)(b.samples[i] + 3);
    frame_metrics_planes(&a.planes, &b.planes, &mse, &ssim);
    assert_true(fabs(mse - 9.0 * 256 / 384) < 1e-12);

    make_frame(&b, 53, 0); /* another texture */
    frame_metrics_planes(&a.planes, &b.planes, &mse, &ssim);
    assert_true(ssim < 0.5);
}

/* Without structure Wang's formula is that of the means. FFmpeg's first constant is 1/64 of his. */
static void flat_windows(void **state)
{
    (void)state;
    struct frame a, b;
    double mse, ssim;
    make_frame(&a, 0, 40);  /* all 100 */
    make_frame(&b, 0, 140); /* all 200 */
    frame_metrics_planes(&a.planes, &b.planes, &mse, &ssim);
    double c1 = 0.01 * 255 * 0.01 * 255 / 64,
           wanted = (2 * 100 * 200 + c1) / (100 * 100 + 200 * 200 + c1);
    assert_true(fabs(ssim - wanted) < 1e-6);
    assert_true(mse == 10000);
}

static void bytes(void **state)
{
    (void)state;
    const uint8_t a[3] = {0, 255, 10}, b[3] = {255, 0, 13};
    assert_true(frame_metrics_mse(a, a, 3) == 0);
    assert_true(fabs(frame_metrics_mse(a, b, 3) - (2 * 255.0 * 255.0 + 9) / 3) < 1e-9);
    assert_true(frame_metrics_mse(a, b, 0) == 0);
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static bool shell(const char *format, ...)
{
    char command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command) == 0;
}

static void need_ffmpeg(void)
{
    if (!shell("ffmpeg -version >/dev/null 2>&1")) {
        print_message("no ffmpeg program here\n");
        skip();
    }
}

/* A moving picture, and the same with noise; codec is what follows -c:v. */
static void make_videos(const char *a, const char *b, int frames, const char *codec)
{
    const char *source = "-f lavfi -i testsrc2=size=98x66:rate=8 -pix_fmt yuv420p";
    assert_true(shell("ffmpeg -v error -y %s -frames:v %d -c:v %s '%s'", source, frames, codec, a));
    assert_true(shell("ffmpeg -v error -y %s -frames:v %d -vf noise=alls=12:all_seed=1 -c:v %s "
                      "'%s'",
                      source, frames, codec, b));
}

/* The number behind key in every line of a filter's file. */
static int read_stats(const char *path, const char *key, double *values)
{
    char line[1024];
    int count = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        const char *at = strstr(line, key);
        assert_non_null(at);
        assert_true(count < FRAMES);
        values[count++] = strtod(at + strlen(key), NULL);
    }
    fclose(file);
    return count;
}

static void agree(struct scratch *scratch, const char *codec, const char *extension)
{
    char name[2][32];
    snprintf(name[0], sizeof name[0], "a.%s", extension);
    snprintf(name[1], sizeof name[1], "b.%s", extension);
    const char *a = scratch_path(scratch, name[0]), *b = scratch_path(scratch, name[1]);
    const char *stats[2] = {scratch_path(scratch, "psnr"), scratch_path(scratch, "ssim")};
    double psnr[FRAMES], ssim[FRAMES], psnr_all, ssim_all;
    double psnr_wanted[FRAMES], ssim_wanted[FRAMES], mse = 0, mean = 0;
    struct error error = {0};
    make_videos(a, b, FRAMES, codec);
    assert_true(shell("ffmpeg -v error -i '%s' -i '%s' -lavfi '[0][1]psnr=f=%s' -f null -", a, b,
                      stats[0]));
    assert_true(shell("ffmpeg -v error -i '%s' -i '%s' -lavfi '[0][1]ssim=f=%s' -f null -", a, b,
                      stats[1]));
    assert_int_equal(read_stats(stats[0], "psnr_avg:", psnr_wanted), FRAMES);
    assert_int_equal(read_stats(stats[1], "All:", ssim_wanted), FRAMES);
    if (!frame_metrics_files(a, b, FRAMES, psnr, ssim, &psnr_all, &ssim_all, NULL, &error))
        fail_msg("%s", error.text);
    for (int i = 0; i < FRAMES; i++) {
        assert_true(fabs(psnr[i] - psnr_wanted[i]) < 0.01); /* two decimals are printed */
        assert_true(fabs(ssim[i] - ssim_wanted[i]) < 1e-5);
        mse += pow(10, -psnr_wanted[i] / 10) / FRAMES;
        mean += ssim_wanted[i] / FRAMES;
    }
    assert_true(fabs(psnr_all + 10 * log10(mse)) < 0.01);
    assert_true(fabs(ssim_all - mean) < 1e-5);
    assert_true(psnr_all > 20 && psnr_all < 45); /* the noise is there */
}

static void agrees_with_ffmpeg(void **state)
{
    need_ffmpeg();
    agree(*state, "ffv1", "mkv");
    agree(*state, "mpeg4 -q:v 2", "mp4");
    if (shell("ffmpeg -v quiet -h encoder=libx264 | grep -q '^Encoder libx264'"))
        agree(*state, "libx264 -crf 6", "mp4");
}

static void identical_files(void **state)
{
    struct error error = {0};
    double psnr[FRAMES], ssim[FRAMES], psnr_all, ssim_all;
    need_ffmpeg();
    const char *a = scratch_path(*state, "a.mkv"), *b = scratch_path(*state, "b.mkv");
    make_videos(a, b, FRAMES, "ffv1");
    assert_true(frame_metrics_files(a, a, FRAMES, psnr, ssim, &psnr_all, &ssim_all, NULL, &error));
    assert_true(isinf(psnr_all) && isinf(psnr[3]) && fabs(ssim_all - 1) < 1e-9);
}

static void refused(const char *a, const char *b, int64_t frames, const char *words)
{
    struct error error = {0};
    double psnr[2 * FRAMES], ssim[2 * FRAMES], psnr_all, ssim_all;
    assert_false(frame_metrics_files(a, b, frames, psnr, ssim, &psnr_all, &ssim_all, NULL, &error));
    if (!strstr(error.text, words))
        fail_msg("'%s' has no '%s'", error.text, words);
}

static void refusals(void **state)
{
    need_ffmpeg();
    const char *a = scratch_path(*state, "a.mkv"), *b = scratch_path(*state, "b.mkv");
    const char *small = scratch_path(*state, "small.mkv"), *rgb = scratch_path(*state, "rgb.mkv");
    make_videos(a, b, FRAMES, "ffv1");
    refused(a, b, FRAMES + 1, "not the 8 frames");
    refused(a, b, FRAMES - 1, "not the 6 frames");
    assert_true(shell("ffmpeg -v error -y -f lavfi -i testsrc2=size=64x66:rate=8 -frames:v %d "
                      "-pix_fmt yuv420p -c:v ffv1 '%s'",
                      FRAMES, small));
    refused(a, small, FRAMES, "98 x 66 and 64 x 66");
    assert_true(shell("ffmpeg -v error -y -i '%s' -pix_fmt yuv444p -c:v ffv1 '%s'", a, rgb));
    refused(rgb, a, FRAMES, "4:2:0");
    refused(a, scratch_path(*state, "missing.mp4"), FRAMES, "missing.mp4");
    refused(scratch_text(*state, "text.mp4", "no video at all"), a, FRAMES, "text.mp4");
    refused(scratch_text(*state, "empty.mp4", ""), a, FRAMES, "empty.mp4");
}

static bool stop(void *user, int64_t done, int64_t total)
{
    (void)user;
    assert_in_range(done, 1, total);
    return done < 3;
}

static void interruption(void **state)
{
    struct error error = {0};
    double psnr[FRAMES], ssim[FRAMES], psnr_all, ssim_all;
    const struct progress progress = {stop, NULL};
    need_ffmpeg();
    const char *a = scratch_path(*state, "a.mkv"), *b = scratch_path(*state, "b.mkv");
    make_videos(a, b, FRAMES, "ffv1");
    assert_false(
        frame_metrics_files(a, b, FRAMES, psnr, ssim, &psnr_all, &ssim_all, &progress, &error));
    assert_true(error.interrupted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(definitions),
        cmocka_unit_test(flat_windows),
        cmocka_unit_test(bytes),
        cmocka_unit_test_setup_teardown(agrees_with_ffmpeg, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(identical_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(refusals, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(interruption, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
