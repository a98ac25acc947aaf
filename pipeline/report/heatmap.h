/* Numbers as colours: a perceptual colour map, pictures of one pixel per cell, grids of cells with
 * titles, the scale beside them and the axes around them. */
#ifndef PIPELINE_REPORT_HEATMAP_H
#define PIPELINE_REPORT_HEATMAP_H

#include "../error.h"
#include "html.h"

#include <stdint.h>

/* The colour of t in [0, 1], clipped; grey where t is NaN. */
void heatmap_colour(double t, uint8_t rgb[3]);
/* The colours of a mask: the share of a cell that was computed. */
void heatmap_mask_colour(double t, uint8_t rgb[3]);

/* Axes with a name and the numbers of the first and the last cell; rows run down, columns right.
 * What is written between begin and end is what they stand around. */
struct heatmap_axes {
    const char *row_name, *column_name;
    int64_t first_row, last_row, first_column, last_column;
};
void heatmap_axes_begin(struct html *html, const struct heatmap_axes *axes);
void heatmap_axes_end(struct html *html, const struct heatmap_axes *axes);

/* An <img> of values [rows][columns] in [0, 1], one pixel per cell, that a browser enlarges without
 * smoothing. alt: our own words. */
bool heatmap_image(struct html *html, const float *values, int64_t rows, int64_t columns,
                   void (*colour)(double t, uint8_t rgb[3]), const char *alt, struct error *error);

/* A horizontal bar of colours with labels at equal distances below it. */
void heatmap_scale(struct html *html, void (*colour)(double t, uint8_t rgb[3]), const char *name,
                   const char *const *labels, int count);

#endif
