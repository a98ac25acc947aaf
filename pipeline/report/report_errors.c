/*
 * The estimated error over steps and layers, median and worst head, of every variant on one scale.
 * Long runs share columns and deep networks rows, so that a map has at most CELLS x CELLS cells.
 */
#include "report_parts.h"

#include "heatmap.h"

#include <math.h>

enum { CELLS = 48, CELL_BYTES = 110 };

/* Over all variants; negative where nothing was estimated. */
static double largest(const struct comparison *c)
{
    double high = -1;
    for (int64_t v = 1; v < c->variant_count; v++)
        for (int64_t i = 0; c->variants[v].error_worst && i < c->steps * c->layers; i++)
            if (isfinite(c->variants[v].error_worst[i]))
                high = fmax(high, c->variants[v].error_worst[i]);
    return high;
}

/* The cell's largest value; NaN where there is none. values [steps][layers] */
static double cell_value(const struct comparison *c, const float *values, int64_t step,
                         int64_t layer, int64_t steps, int64_t layers)
{
    double value = NAN;
    for (int64_t s = step; s < step + steps && s < c->steps; s++)
        for (int64_t l = layer; l < layer + layers && l < c->layers; l++)
            value = fmax(value, values[s * c->layers + l]); /* fmax passes a NaN over */
    return value;
}

/* How many steps share a column, and layers a row. */
static int64_t shared(int64_t count)
{
    return (count + CELLS - 1) / CELLS;
}

/* At most, of the two maps of a variant. */
static int64_t maps_bytes(const struct comparison *c)
{
    int64_t columns = c->steps / shared(c->steps) + 1, rows = c->layers / shared(c->layers) + 1;
    return 2 * (columns * rows * CELL_BYTES + 1024);
}

static void write_cells(struct html *html, const struct comparison *c, const float *values,
                        double high)
{
    int64_t steps = shared(c->steps), layers = shared(c->layers);
    int64_t columns = (c->steps + steps - 1) / steps, rows = (c->layers + layers - 1) / layers;
    html_print(html,
               "<svg class=\"grid-map\" viewBox=\"0 0 %lld %lld\" preserveAspectRatio=\"none\" "
               "style=\"height:%lldpx\" role=\"img\" aria-label=\"Heat map of the estimated error "
               "over %lld steps and %lld layers\">",
               (long long)columns, (long long)rows, (long long)(rows * 20 < 240 ? rows * 20 : 240),
               (long long)c->steps, (long long)c->layers);
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x++) {
            uint8_t rgb[3];
            double value = cell_value(c, values, x * steps, y * layers, steps, layers);
            heatmap_colour(value / high, rgb);
            html_print(html,
                       "<rect x=\"%lld\" y=\"%lld\" width=\"1\" height=\"1\" "
                       "fill=\"#%02x%02x%02x\"><title>step %lld, layer %lld: ",
                       (long long)x, (long long)y, rgb[0], rgb[1], rgb[2],
                       (long long)(x * steps) + 1, (long long)(y * layers));
            html_number(html, "%.3f", isnan(value) ? NAN : value, "infinite");
            html_print(html, "</title></rect>");
        }
    html_print(html, "</svg>");
}

static void write_map(struct html *html, const struct comparison *c, const float *values,
                      double high, const char *name)
{
    const struct heatmap_axes axes = {.row_name = "layer",
                                      .column_name = "step",
                                      .last_row = c->layers - 1,
                                      .first_column = 1,
                                      .last_column = c->steps};
    html_print(html, "<figure>");
    heatmap_axes_begin(html, &axes);
    write_cells(html, c, values, high);
    heatmap_axes_end(html, &axes);
    html_print(html, "<figcaption>%s</figcaption></figure>\n", name);
}

static void write_variant(struct report *report, const struct comparison_variant *v, double high)
{
    struct html *html = &report->html;
    const struct self_attention_report *a = &v->report.attention;
    html_print(html, "<h3>");
    html_text(html, v->label, 0);
    html_print(html, "</h3>\n<p>Median ");
    html_number(html, "%.3f", a->error_median, "infinite");
    html_print(html, ", worst ");
    html_number(html, "%.3f", a->error_worst, "infinite");
    html_print(html, " at step %d, layer %d, head %d; %.0f %% of heads repaired.</p>\n",
               a->worst_step + 1, a->worst_layer, a->worst_head, 100 * a->repaired_share);
    if (!report_room(report, maps_bytes(report->comparison), REPORT_ERRORS_END)) {
        html_print(html, "<p class=\"note\">The maps are left out, the page would grow too "
                         "large.</p>\n");
        return;
    }
    html_print(html, "<div class=\"pair\">\n");
    if (v->error_median)
        write_map(html, report->comparison, v->error_median, high, "median over heads");
    write_map(html, report->comparison, v->error_worst, high, "worst head");
    html_print(html, "</div>\n");
}

bool report_errors(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    double high = largest(c);
    char labels[3][16];
    (void)error;
    if (!(high > 0)) {
        html_print(html, "<p class=\"note\">%s.</p>\n",
                   high < 0 ? "No error was estimated: it takes sparse steps and probe rows "
                              "(--probes 256)"
                            : "Every estimated error is 0: no block was skipped");
        return true;
    }
    for (int i = 0; i < 3; i++)
        snprintf(labels[i], sizeof labels[i], "%.3g", high * i / 2);
    heatmap_scale(html, heatmap_colour, "estimated relative L2 error; grey: dense or not measured",
                  (const char *const[]){labels[0], labels[1], labels[2]}, 3);
    for (int64_t v = 1; v < c->variant_count; v++)
        if (c->variants[v].error_worst && isfinite(c->variants[v].report.attention.error_median))
            write_variant(report, &c->variants[v], high);
    return true;
}
