/*
 * Numbers as colours.
 *
 * The colour map runs through OKLCH from a dark violet over red to a pale yellow with lightness
 * rising evenly, so that equal steps of a value look like equal steps and the order survives a
 * grey print. Pictures are PNG files of one pixel per cell: the browser does the enlarging.
 */
#include "heatmap.h"

#include "../io/image.h"
#include "../tensor/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static const uint8_t stops[][3] = {
    {20, 13, 54},   {40, 17, 75},    {63, 20, 91},    {88, 23, 102},
    {114, 28, 107}, {141, 34, 108},  {166, 43, 104},  {190, 57, 97},
    {209, 76, 88},  {225, 97, 80},   {236, 121, 75},  {243, 147, 80},
    {245, 172, 97}, {245, 197, 124}, {245, 220, 159}, {247, 240, 197},
};
static const uint8_t mask_stops[][3] = {{228, 230, 238}, {36, 66, 150}};
static const uint8_t no_value[3] = {136, 136, 136};

static void interpolate(const uint8_t (*table)[3], int count, double t, uint8_t rgb[3])
{
    if (isnan(t)) {
        memcpy(rgb, no_value, 3);
        return;
    }
    double at = fmin(fmax(t, 0), 1) * (count - 1);
    int below = (int)fmin(floor(at), count - 2);
    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)lround(table[below][c] +
                                 (at - below) * (table[below + 1][c] - table[below][c]));
}

void heatmap_colour(double t, uint8_t rgb[3])
{
    interpolate(stops, COUNT(stops), t, rgb);
}

void heatmap_mask_colour(double t, uint8_t rgb[3])
{
    interpolate(mask_stops, COUNT(mask_stops), t, rgb);
}

/* The numbers of the first and the last cell, or of the one there is. */
static void write_ticks(struct html *html, const char *name, int64_t first, int64_t last)
{
    html_print(html, "<span class=\"%s\"><i>%lld</i>", name, (long long)first);
    if (last > first)
        html_print(html, "<i>%lld</i>", (long long)last);
    html_print(html, "</span>");
}

void heatmap_axes_begin(struct html *html, const struct heatmap_axes *axes)
{
    html_print(html, "<div class=\"axes\"><span class=\"row-name\">%s</span>", axes->row_name);
    write_ticks(html, "row-ticks", axes->first_row, axes->last_row);
    html_print(html, "<div class=\"cells\">");
}

void heatmap_axes_end(struct html *html, const struct heatmap_axes *axes)
{
    html_print(html, "</div>");
    write_ticks(html, "column-ticks", axes->first_column, axes->last_column);
    html_print(html, "<span class=\"column-name\">%s</span></div>", axes->column_name);
}

bool heatmap_image(struct html *html, const float *values, int64_t rows, int64_t columns,
                   void (*colour)(double t, uint8_t rgb[3]), const char *alt, struct error *error)
{
    size_t bytes = 0, size = 0;
    uint8_t *png = NULL;
    if (!checked_bytes((int64_t[]){rows, columns}, 2, 3, &bytes))
        return error_set(error, "report: a heat map of %lld x %lld cells", (long long)rows,
                         (long long)columns);
    struct image image = {(int32_t)columns, (int32_t)rows, malloc(bytes ? bytes : 1)};
    if (!image.rgb)
        return error_out_of_memory(error, "a heat map of the report", bytes);
    for (int64_t i = 0; i < rows * columns; i++)
        colour(values[i], image.rgb + 3 * i);
    bool ok = image_encode(&png, &size, IMAGE_PNG, &image, error);
    image_free(&image);
    if (!ok)
        return error_prefix(error, "report: ");
    html_print(html, "<img class=\"pixels\" width=\"%lld\" height=\"%lld\" alt=\"%s\" src=\"",
               (long long)columns, (long long)rows, alt);
    html_data(html, "image/png", png, size);
    html_print(html, "\">");
    free(png);
    return true;
}

void heatmap_scale(struct html *html, void (*colour)(double t, uint8_t rgb[3]), const char *name,
                   const char *const *labels, int count)
{
    enum { STEPS = 16 };
    html_print(html,
               "<div class=\"scale\"><span>%s</span><div><b style=\"background:"
               "linear-gradient(90deg",
               name);
    for (int i = 0; i <= STEPS; i++) {
        uint8_t rgb[3];
        colour((double)i / STEPS, rgb);
        html_print(html, ",#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
    }
    html_print(html, ")\"></b><span class=\"column-ticks\">");
    for (int i = 0; i < count; i++)
        html_print(html, "<i>%s</i>", labels[i]);
    html_print(html, "</span></div></div>\n");
}
