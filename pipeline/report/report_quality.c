/* PSNR and SSIM over frames, all variants in one chart each. */
#include "report_parts.h"

#include "charts.h"

#include <math.h>
#include <stdlib.h>

/* The variants that have these values; malloc'd. */
static int64_t collect(struct chart_series *series, const struct comparison *c, bool ssim)
{
    int64_t count = 0;
    for (int64_t i = 1; i < c->variant_count; i++) {
        const struct comparison_variant *v = &c->variants[i];
        const double *values = ssim ? v->quality.ssim : v->quality.psnr;
        if (values)
            series[count++] = (struct chart_series){.label = v->label, .values = values};
    }
    return count;
}

bool report_quality(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    struct chart_series *series = calloc((size_t)c->variant_count, sizeof *series);
    if (!series)
        return error_out_of_memory(error, "the charts", sizeof *series);
    struct chart psnr = {.name = "PSNR",
                         .unit = "dB",
                         .format = "%.2f dB",
                         .infinite = "identical",
                         .top = INFINITY,
                         .count = c->frames,
                         .series = series};
    struct chart ssim = {.name = "SSIM",
                         .unit = "",
                         .format = "%.4f",
                         .infinite = "–",
                         .top = 1,
                         .count = c->frames,
                         .series = series};
    psnr.series_count = collect(series, c, false);
    html_print(html, "<div class=\"pair\">\n");
    if (psnr.series_count)
        chart_write(html, &psnr);
    ssim.series_count = collect(series, c, true);
    if (ssim.series_count)
        chart_write(html, &ssim);
    html_print(html, "</div>\n");
    if (!psnr.series_count && !ssim.series_count)
        html_print(html, "<p class=\"note\">There is no variant to measure.</p>\n");
    free(series);
    return true;
}
