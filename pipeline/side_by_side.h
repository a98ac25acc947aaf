/* Several videos of one size as one: a grid of labelled cells. */
#ifndef PIPELINE_SIDE_BY_SIDE_H
#define PIPELINE_SIDE_BY_SIDE_H

#include "error.h"
#include "progress.h"

#include <stdbool.h>
#include <stdint.h>

#define SIDE_BY_SIDE_MAX 6

struct side_by_side_cell {
    const char *title,
        *detail;           /* two lines above the picture; ASCII, smaller where they are long */
    const uint8_t *frames; /* [frames][height][width][3] */
};

struct side_by_side {
    const struct side_by_side_cell *cells;
    int32_t count;         /* 1 to SIDE_BY_SIDE_MAX */
    int32_t width, height; /* of one video */
    int64_t frames;
    double fps;
    const char *const *metadata; /* as in struct video_desc */
    struct progress progress;    /* counts frames */
};

/* How the picture is laid out, in pixels. */
struct side_by_side_layout {
    int32_t columns, rows;
    int32_t zoom, shrink;              /* of a video: pixels are repeated, or averaged */
    int32_t cell_width, band;          /* band: above the picture, with the text */
    int32_t cell_height;               /* band and picture */
    int32_t text;                      /* scale of the letters, 7 pixels high at 1 */
    int32_t video_width, video_height; /* of the whole */
};

void side_by_side_plan(const struct side_by_side *job, struct side_by_side_layout *layout);

/* rgb [video_height][video_width][3]: frame number index of the whole. */
void side_by_side_frame(const struct side_by_side *job, const struct side_by_side_layout *layout,
                        int64_t index, uint8_t *rgb);

/* As video_writer_check(): what can be known before there are frames. */
bool side_by_side_check(const char *path, const struct side_by_side *job, struct error *error);

/* On failure there is no output file. */
bool side_by_side_write(const char *path, const struct side_by_side *job, struct error *error);

#endif
