/*
 * A grid of videos with two lines of text above each.
 *
 * Small videos are enlarged by repeating pixels, so that the text has room and pixels stay what
 * they are; grids wider or higher than a 4K screen is wide are shrunk by averaging. The text stands
 * above the picture and not in it, so that it hides nothing. Letters are stb's, drawn as
 * rectangles.
 */
#include "side_by_side.h"

#include "io/video_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* gcc judges unused functions at the end of the file, so that there is no going back. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_easy_font.h>

#define CELL_MIN   256
#define SIDE_MAX   3840
#define LINE       11 /* rows of a line of text at scale 1 */
#define PADDING    4  /* around the text, likewise */
#define TEXT_BYTES 128

static const uint8_t ground[3] = {24, 24, 28}, bright[3] = {255, 255, 255},
                     soft[3] = {190, 200, 210};

/* What the font has letters for. */
static void make_drawable(char copy[TEXT_BYTES], const char *text)
{
    snprintf(copy, TEXT_BYTES, "%s", text);
    for (char *c = copy; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

static int32_t text_width(const char *text)
{
    char copy[TEXT_BYTES];
    make_drawable(copy, text);
    return stb_easy_font_width(copy);
}

/* The largest scale, up to that of the layout, at which a line fits; 1 where none does. */
static int32_t text_scale(const struct side_by_side_layout *l, const char *text)
{
    int32_t scale = l->text, width = text_width(text) + 2 * PADDING;
    while (scale > 1 && width * scale > l->cell_width)
        scale--;
    return scale;
}

void side_by_side_plan(const struct side_by_side *job, struct side_by_side_layout *layout)
{
    *layout = (struct side_by_side_layout){.zoom = 1, .shrink = 1};
    layout->columns = job->count <= 3 ? job->count : job->count == 4 ? 2 : 3;
    layout->rows = (job->count + layout->columns - 1) / layout->columns;
    int64_t width = (int64_t)layout->columns * job->width;
    int64_t height = (int64_t)layout->rows * job->height;
    while (job->width * layout->zoom < CELL_MIN && height * (layout->zoom + 1) <= SIDE_MAX)
        layout->zoom++;
    while (width / layout->shrink > SIDE_MAX || height / layout->shrink > SIDE_MAX)
        layout->shrink++;
    layout->cell_width = job->width * layout->zoom / layout->shrink;
    layout->text = layout->cell_width < 80 ? 1 : (layout->cell_width + 80) / 160; /* 20 letters */
    layout->band = (2 * LINE + PADDING) * layout->text;
    layout->cell_height = layout->band + job->height * layout->zoom / layout->shrink;
    /* encoders take even sides */
    layout->video_width = (layout->columns * layout->cell_width + 1) / 2 * 2;
    layout->video_height = (layout->rows * layout->cell_height + 1) / 2 * 2;
}

static void fill(uint8_t *rgb, const struct side_by_side_layout *l, int32_t left, int32_t top,
                 int32_t right, int32_t bottom, const uint8_t colour[3])
{
    right = right < l->video_width ? right : l->video_width;
    bottom = bottom < l->video_height ? bottom : l->video_height;
    for (int32_t y = top; y < bottom; y++)
        for (int32_t x = left; x < right; x++)
            memcpy(rgb + ((int64_t)y * l->video_width + x) * 3, colour, 3);
}

/* One line; letters that do not fit into the cell are left out. */
static void draw_text(uint8_t *rgb, const struct side_by_side_layout *l, int32_t left, int32_t top,
                      const char *text, const uint8_t colour[3])
{
    struct vertex {
        float x, y, z;
        uint8_t colour[4];
    } vertices[TEXT_BYTES * 4 * 8];
    char copy[TEXT_BYTES];
    int32_t scale = text_scale(l, text), room = l->cell_width / scale - 2 * PADDING;
    make_drawable(copy, text);
    for (size_t length = strlen(copy); length > 0 && stb_easy_font_width(copy) > room;)
        copy[--length] = '\0';
    int quads = stb_easy_font_print(0, 0, copy, NULL, vertices, sizeof vertices);
    for (int i = 0; i < quads; i++) {
        const struct vertex *a = &vertices[4 * i], *c = a + 2; /* opposite corners */
        fill(rgb, l, left + (int32_t)a->x * scale, top + (int32_t)a->y * scale,
             left + (int32_t)c->x * scale, top + (int32_t)c->y * scale, colour);
    }
}

/* One pixel of the enlarged or shrunk video. */
static void sample(const struct side_by_side *job, const struct side_by_side_layout *l,
                   const uint8_t *frame, int32_t x, int32_t y, uint8_t out[3])
{
    int32_t n = l->shrink, samples = n * n, sum[3] = {samples / 2, samples / 2, samples / 2};
    int32_t left = x / l->zoom * n, top = y / l->zoom * n;
    for (int32_t dy = 0; dy < n; dy++)
        for (int32_t dx = 0; dx < n; dx++) {
            const uint8_t *pixel = frame + ((int64_t)(top + dy) * job->width + left + dx) * 3;
            for (int i = 0; i < 3; i++)
                sum[i] += pixel[i];
        }
    for (int i = 0; i < 3; i++)
        out[i] = (uint8_t)(sum[i] / samples);
}

static void draw_cell(const struct side_by_side *job, const struct side_by_side_layout *l,
                      int32_t cell, int64_t index, uint8_t *rgb)
{
    const struct side_by_side_cell *content = &job->cells[cell];
    int32_t left = cell % l->columns * l->cell_width, top = cell / l->columns * l->cell_height;
    int32_t pad = PADDING * l->text;
    const uint8_t *frame = content->frames + index * job->height * job->width * 3;
    draw_text(rgb, l, left + pad, top + pad, content->title, bright);
    draw_text(rgb, l, left + pad, top + pad + LINE * l->text, content->detail, soft);
    for (int32_t y = l->band; y < l->cell_height; y++)
        for (int32_t x = 0; x < l->cell_width; x++)
            sample(job, l, frame, x, y - l->band,
                   rgb + ((int64_t)(top + y) * l->video_width + left + x) * 3);
}

void side_by_side_frame(const struct side_by_side *job, const struct side_by_side_layout *layout,
                        int64_t index, uint8_t *rgb)
{
    fill(rgb, layout, 0, 0, layout->video_width, layout->video_height, ground);
    for (int32_t cell = 0; cell < job->count; cell++)
        draw_cell(job, layout, cell, index, rgb);
}

static bool write_frames(const struct side_by_side *job, const struct side_by_side_layout *layout,
                         struct video_writer *writer, uint8_t *rgb, struct error *error)
{
    for (int64_t i = 0; i < job->frames; i++) {
        side_by_side_frame(job, layout, i, rgb);
        if (!video_writer_frame(writer, rgb, error) ||
            !progress_step(&job->progress, i + 1, job->frames, error))
            return false;
    }
    return true;
}

static struct video_desc describe(const struct side_by_side *job,
                                  const struct side_by_side_layout *layout)
{
    return (struct video_desc){
        .width = layout->video_width,
        .height = layout->video_height,
        .frames = job->frames,
        .fps = job->fps,
        .metadata = job->metadata,
    };
}

bool side_by_side_check(const char *path, const struct side_by_side *job, struct error *error)
{
    struct side_by_side_layout layout;
    side_by_side_plan(job, &layout);
    const struct video_desc desc = describe(job, &layout);
    return video_writer_check(path, &desc, error);
}

bool side_by_side_write(const char *path, const struct side_by_side *job, struct error *error)
{
    struct side_by_side_layout layout;
    struct video_writer *writer = NULL;
    side_by_side_plan(job, &layout);
    const struct video_desc desc = describe(job, &layout);
    size_t bytes = (size_t)layout.video_width * (size_t)layout.video_height * 3;
    uint8_t *rgb = malloc(bytes);
    bool ok = rgb != NULL || error_out_of_memory(error, "a frame of the comparison", bytes);
    ok = ok && video_writer_open(&writer, path, &desc, error);
    if (ok && !(ok = write_frames(job, &layout, writer, rgb, error)))
        video_writer_abort(writer);
    ok = ok && video_writer_finish(writer, error);
    free(rgb);
    return ok;
}
