/*
 * Frames to a file: mp4 (h264, yuv420p, +faststart), webm, gif, a numbered PNG series
 * (out-%05d.png) or one PNG for one frame, by the extension. Written beside the target as a hidden
 * temporary and renamed at the end, so that an interrupted run leaves no broken file.
 */
#ifndef PIPELINE_IO_VIDEO_WRITER_H
#define PIPELINE_IO_VIDEO_WRITER_H

#include "../error.h"

#include <stdbool.h>
#include <stdint.h>

struct video_writer;

struct video_desc {
    int32_t width, height;
    int64_t frames;
    double fps;
    const char *const *metadata; /* key, value, ..., NULL; or NULL */
    int32_t crf_offset;          /* added to the constant rate factor of the encoder's default: 6
                                    halves the bits, about; negative = better than the default */
};

/* Everything that can be known before the work: the extension, the folder, that it can be written
 * there, that an encoder for it exists, odd sizes, that no frames of a longer series would follow.
 * Call it before denoising starts. */
bool video_writer_check(const char *path, const struct video_desc *desc, struct error *error);

bool video_writer_open(struct video_writer **out, const char *path, const struct video_desc *desc,
                       struct error *error);
/* rgb [height][width][3]. */
bool video_writer_frame(struct video_writer *writer, const uint8_t *rgb, struct error *error);
/* Flushes, closes, renames. Frees writer in every case. */
bool video_writer_finish(struct video_writer *writer, struct error *error);
/* Removes what was written. Accepts NULL. */
void video_writer_abort(struct video_writer *writer);

/* The encoder a path would use, such as "libx264"; "" if none. Static. */
const char *video_writer_encoder(const char *path);

#endif
