/* Frames back from a movie file, as the planes that are in it: what figures about written videos
 * are taken from. */
#ifndef PIPELINE_IO_VIDEO_READER_H
#define PIPELINE_IO_VIDEO_READER_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct video_reader;

/* One frame of 8 bit 4:2:0: luma, then the two colour differences of half the sides (rounded up).
 */
struct video_planes {
    const uint8_t *data[3];
    ptrdiff_t stride[3];
    int32_t width[3], height[3];
};

/* Refuses files without a video stream, without a decoder here, and other kinds of pixels. */
bool video_reader_open(struct video_reader **out, const char *path, struct error *error);
/* *more is false after the last frame; else planes holds until the next call. Refuses frames that
 * change size on the way. */
bool video_reader_next(struct video_reader *reader, struct video_planes *planes, bool *more,
                       struct error *error);
void video_reader_close(struct video_reader *reader); /* accepts NULL */

#endif
