/* The grid of videos: how it is laid out, that every picture is where it belongs, that text keeps
 * to its band and cell, and that the file can be read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/video_reader.h"
#include "side_by_side.h"
#include "unit/scratch.h"

#include <stdlib.h>
#include <string.h>

enum { FRAMES = 3 };

/* Videos of one colour each: 40, 60, ... in all channels; frame t adds t. */
static struct side_by_side make_job(struct side_by_side_cell *cells, int32_t count, int32_t width,
                                    int32_t height)
{
    size_t frame = (size_t)width * (size_t)height * 3;
    for (int32_t i = 0; i < count; i++) {
        uint8_t *frames = malloc(frame * FRAMES);
        assert_non_null(frames);
        for (int t = 0; t < FRAMES; t++)
            memset(frames + (size_t)t * frame, 40 + 20 * i + t, frame);
        cells[i] = (struct side_by_side_cell){"draft 90 %", "2.31x, 34.2 dB", frames};
    }
    return (struct side_by_side){.cells = cells,
                                 .count = count,
                                 .width = width,
                                 .height = height,
                                 .frames = FRAMES,
                                 .fps = 8};
}

static void free_job(struct side_by_side *job)
{
    for (int32_t i = 0; i < job->count; i++)
        free((void *)job->cells[i].frames);
}

static void layouts(void **state)
{
    (void)state;
    static const struct {
        int32_t count, width, height, columns, rows, zoom, shrink;
    } cases[] = {
        {1, 256, 256, 1, 1, 1, 1},   {2, 64, 64, 2, 1, 4, 1},   {3, 512, 512, 3, 1, 1, 1},
        {4, 832, 480, 2, 2, 1, 1},   {5, 256, 256, 3, 2, 1, 1}, {6, 1280, 720, 3, 2, 1, 1},
        {3, 1920, 1072, 3, 1, 1, 2}, {2, 16, 16, 2, 1, 16, 1},  {5, 720, 2048, 3, 2, 1, 2},
    };
    struct side_by_side_cell cells[SIDE_BY_SIDE_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct side_by_side_layout l;
        struct side_by_side job = {.cells = cells,
                                   .count = cases[i].count,
                                   .width = cases[i].width,
                                   .height = cases[i].height};
        side_by_side_plan(&job, &l);
        assert_int_equal(l.columns, cases[i].columns);
        assert_int_equal(l.rows, cases[i].rows);
        assert_int_equal(l.zoom, cases[i].zoom);
        assert_int_equal(l.shrink, cases[i].shrink);
        assert_true(l.video_width <= 3840 && l.video_width % 2 == 0 && l.video_height % 2 == 0);
        assert_true(l.cell_width >= 256 && 7 * l.text >= 14); /* letters of 14 pixels and more */
        assert_true(l.columns * l.cell_width <= l.video_width);
        assert_true(l.rows * l.cell_height <= l.video_height);
    }
}

/* Where there is no room for text the picture still is one that encoders take. */
static void tall_and_narrow(void **state)
{
    (void)state;
    struct side_by_side_cell cells[SIDE_BY_SIDE_MAX];
    struct side_by_side_layout l;
    static const int32_t heights[] = {512, 1024, 2048, 8192};
    for (size_t i = 0; i < sizeof heights / sizeof *heights; i++) {
        struct side_by_side job = make_job(cells, 3, 16, heights[i]);
        side_by_side_plan(&job, &l);
        assert_true(l.video_height < 4096 && l.text >= 1);
        uint8_t *rgb = malloc((size_t)l.video_width * (size_t)l.video_height * 3);
        assert_non_null(rgb);
        side_by_side_frame(&job, &l, 0, rgb);
        free(rgb);
        free_job(&job);
    }
}

static const uint8_t *pixel(const uint8_t *rgb, const struct side_by_side_layout *l, int32_t x,
                            int32_t y)
{
    return rgb + ((int64_t)y * l->video_width + x) * 3;
}

static void pictures_stand_in_their_cells(void **state)
{
    (void)state;
    struct side_by_side_cell cells[SIDE_BY_SIDE_MAX];
    struct side_by_side_layout l;
    static const int32_t sizes[][2] = {{64, 48}, {256, 128}, {1936, 32}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct side_by_side job = make_job(cells, 5, sizes[s][0], sizes[s][1]);
        side_by_side_plan(&job, &l);
        uint8_t *rgb = malloc((size_t)l.video_width * (size_t)l.video_height * 3);
        assert_non_null(rgb);
        side_by_side_frame(&job, &l, 2, rgb);
        for (int32_t cell = 0; cell < 5; cell++) {
            int32_t left = cell % l.columns * l.cell_width, top = cell / l.columns * l.cell_height;
            for (int32_t y = l.band; y < l.cell_height; y++)
                for (int32_t x = 0; x < l.cell_width; x++)
                    assert_int_equal(*pixel(rgb, &l, left + x, top + y), 42 + 20 * cell);
        }
        free(rgb);
        free_job(&job);
    }
}

static void zoom_repeats_pixels(void **state)
{
    (void)state;
    struct side_by_side_cell cell;
    struct side_by_side_layout l;
    struct side_by_side job = make_job(&cell, 1, 64, 64);
    uint8_t *frames = (uint8_t *)cell.frames;
    frames[(10 * 64 + 20) * 3 + 1] = 255; /* one green pixel of the first frame */
    side_by_side_plan(&job, &l);
    uint8_t *rgb = malloc((size_t)l.video_width * (size_t)l.video_height * 3);
    assert_non_null(rgb);
    side_by_side_frame(&job, &l, 0, rgb);
    int found = 0;
    for (int32_t y = l.band; y < l.cell_height; y++)
        for (int32_t x = 0; x < l.cell_width; x++) {
            bool inside = x / 4 == 20 && (y - l.band) / 4 == 10;
            assert_int_equal(pixel(rgb, &l, x, y)[1] == 255, inside);
            found += inside;
        }
    assert_int_equal(found, 16);
    free(rgb);
    free_job(&job);
}

/* Bright pixels in a band, of columns [from, to). */
static int bright(const uint8_t *rgb, const struct side_by_side_layout *l, int32_t from, int32_t to)
{
    int count = 0;
    for (int32_t y = 0; y < l->band; y++)
        for (int32_t x = from; x < to; x++)
            count += *pixel(rgb, l, x, y) > 150;
    return count;
}

static void text_keeps_to_its_cell(void **state)
{
    (void)state;
    struct side_by_side_cell cells[2];
    struct side_by_side_layout l;
    char endless[400];
    memset(endless, 'W', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    struct side_by_side job = make_job(cells, 2, 256, 32);
    cells[1].title = cells[1].detail = "";
    side_by_side_plan(&job, &l);
    uint8_t *rgb = malloc((size_t)l.video_width * (size_t)l.video_height * 3);
    assert_non_null(rgb);
    side_by_side_frame(&job, &l, 0, rgb);
    assert_true(bright(rgb, &l, 0, l.cell_width) > 300);
    assert_int_equal(bright(rgb, &l, l.cell_width, 2 * l.cell_width), 0);
    cells[0].title = endless;
    cells[0].detail = "\xc3\xa9\x01\n"; /* no letters of the font */
    side_by_side_frame(&job, &l, 0, rgb);
    assert_true(bright(rgb, &l, 0, l.cell_width) > 300);
    assert_int_equal(bright(rgb, &l, l.cell_width - 1, 2 * l.cell_width), 0);
    free(rgb);
    free_job(&job);
}

static void written_file(void **state)
{
    struct side_by_side_cell cells[3];
    struct side_by_side_layout l;
    struct side_by_side job = make_job(cells, 3, 256, 64);
    struct video_reader *reader;
    struct video_planes planes;
    struct error error = {0};
    bool more;
    const char *path = scratch_path(*state, "grid.mp4");
    side_by_side_plan(&job, &l);
    assert_true(side_by_side_check(path, &job, &error));
    assert_true(side_by_side_write(path, &job, &error));
    assert_true(video_reader_open(&reader, path, &error));
    for (int i = 0; i < FRAMES; i++) {
        assert_true(video_reader_next(reader, &planes, &more, &error) && more);
        assert_int_equal(planes.width[0], l.video_width);
        assert_int_equal(planes.height[0], l.video_height);
        int32_t y = l.band + 32; /* luma of grey v is 16 + 219 / 255 v */
        for (int32_t cell = 0; cell < 3; cell++) {
            int32_t x = cell * l.cell_width + 128, grey = 40 + 20 * cell + i;
            int32_t luma = planes.data[0][y * planes.stride[0] + x];
            assert_in_range(luma, 16 + 219 * grey / 255 - 3, 16 + 219 * grey / 255 + 3);
        }
    }
    assert_true(video_reader_next(reader, &planes, &more, &error) && !more);
    video_reader_close(reader);
    assert_false(side_by_side_write(scratch_path(*state, "no/grid.mp4"), &job, &error));
    assert_false(side_by_side_check(scratch_path(*state, "no/grid.mp4"), &job, &error));
    free_job(&job);
}

static bool stop(void *user, int64_t done, int64_t total)
{
    (void)user, (void)total;
    return done < 2;
}

static void interrupted_leaves_nothing(void **state)
{
    struct side_by_side_cell cells[2];
    struct side_by_side job = make_job(cells, 2, 64, 64);
    struct error error = {0};
    const char *path = scratch_path(*state, "grid.mp4");
    job.progress.step = stop;
    assert_false(side_by_side_write(path, &job, &error));
    assert_true(error.interrupted);
    assert_int_equal(rmdir(((struct scratch *)*state)->root), 0); /* it is empty */
    assert_int_equal(mkdir(((struct scratch *)*state)->root, 0700), 0);
    free_job(&job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts),
        cmocka_unit_test(tall_and_narrow),
        cmocka_unit_test(pictures_stand_in_their_cells),
        cmocka_unit_test(zoom_repeats_pixels),
        cmocka_unit_test(text_keeps_to_its_cell),
        cmocka_unit_test_setup_teardown(written_file, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(interrupted_leaves_nothing, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
