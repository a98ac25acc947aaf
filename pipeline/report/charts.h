/* Line charts as inline SVG: axes with round ticks, a legend, titles on hovering. */
#ifndef PIPELINE_REPORT_CHARTS_H
#define PIPELINE_REPORT_CHARTS_H

#include "html.h"

#include <stdint.h>

struct chart_series {
    const char *label;    /* of any origin */
    const double *values; /* [count]; NaN = a gap; infinity = a mark at the upper edge */
};

struct chart {
    const char *name;     /* "PSNR", our own words, as are the next three */
    const char *unit;     /* "dB"; "" = none */
    const char *format;   /* of one value in a title, such as "%.2f dB" */
    const char *infinite; /* the word for infinity */
    double top;           /* values end here, such as 1 for SSIM; infinity = nowhere */
    int64_t count;        /* of frames */
    const struct chart_series *series;
    int64_t series_count;
};

/* The colours of a series by its number: CSS classes "series-0" to "series-7". */
#define CHART_COLOURS 8

/* 1, 2 or 5 times a power of ten, not below value (> 0). */
double chart_round_up(double value);

/* Says in words where there is no finite value to draw. */
void chart_write(struct html *html, const struct chart *chart);

#endif
