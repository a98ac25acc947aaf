/*
 * Line charts as inline SVG.
 *
 * A line takes at most 2 * BUCKETS points and the page at most HITS titles, however long the video:
 * of the values that share a bucket the smallest and the largest are drawn, so that no dip is lost.
 * Frames are numbered from 1 for people and from 0 in data attributes, which the script reads.
 */
#include "charts.h"

#include <math.h>

enum {
    WIDTH = 600,
    HEIGHT = 270,
    LEFT = 76,
    RIGHT = 12,
    TOP = 14,
    BOTTOM = 44,
    PLOT_WIDTH = WIDTH - LEFT - RIGHT,
    PLOT_HEIGHT = HEIGHT - TOP - BOTTOM,
    BUCKETS = 400,
    HITS = 200,
};

struct scale {
    double low, high, tick;
    int decimals;
};

double chart_round_up(double value)
{
    double power = pow(10, floor(log10(value)));
    double share = value / power;
    return power * (share <= 1.0001 ? 1 : share <= 2.0001 ? 2 : share <= 5.0001 ? 5 : 10);
}

/* False where no value is finite. */
static bool find_scale(const struct chart *chart, struct scale *scale)
{
    double low = INFINITY, high = -INFINITY;
    for (int64_t s = 0; s < chart->series_count; s++)
        for (int64_t i = 0; i < chart->count; i++) {
            double value = chart->series[s].values[i];
            if (isfinite(value)) {
                low = fmin(low, value);
                high = fmax(high, value);
            }
        }
    if (low > high)
        return false;
    double room = fmax(high - low, 1e-3 * fmax(fabs(high), 1e-3));
    scale->tick = chart_round_up(room / 5);
    scale->low = scale->tick * floor(low / scale->tick);
    scale->high = fmin(scale->tick * ceil((low + room) / scale->tick), chart->top);
    if (scale->high - scale->low < scale->tick / 2)
        scale->low -= scale->tick; /* all values at the top */
    scale->decimals = (int)fmax(0, -floor(log10(scale->tick) + 1e-9));
    return true;
}

static double x_of(const struct chart *chart, double frame)
{
    return LEFT + PLOT_WIDTH * (frame + 0.5) / (double)chart->count;
}

static double y_of(const struct scale *scale, double value)
{
    return TOP + PLOT_HEIGHT * (scale->high - value) / (scale->high - scale->low);
}

static void write_value_axis(struct html *html, const struct chart *chart,
                             const struct scale *scale)
{
    int ticks = (int)floor((scale->high - scale->low) / scale->tick + 1e-6);
    for (int i = 0; i <= ticks; i++) {
        double value = scale->low + i * scale->tick, y = y_of(scale, value);
        html_print(html,
                   "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                   "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>",
                   LEFT, LEFT + PLOT_WIDTH, y, y, LEFT - 8, y + 4, scale->decimals, value);
    }
    html_print(html,
               "<text transform=\"translate(15 %d) rotate(-90)\" text-anchor=\"middle\">%s%s%s"
               "</text>\n",
               TOP + PLOT_HEIGHT / 2, chart->name, chart->unit[0] ? ", " : "", chart->unit);
}

static void write_frame_axis(struct html *html, const struct chart *chart)
{
    int64_t tick = (int64_t)fmax(1, chart_round_up((double)chart->count / 8));
    for (int64_t frame = 0; frame < chart->count; frame = (frame + 1) / tick * tick + tick - 1)
        html_print(html,
                   "<line class=\"tick\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
                   "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%lld</text>",
                   x_of(chart, (double)frame), x_of(chart, (double)frame), TOP + PLOT_HEIGHT,
                   TOP + PLOT_HEIGHT + 5, x_of(chart, (double)frame), TOP + PLOT_HEIGHT + 19,
                   (long long)frame + 1);
    html_print(html,
               "<line class=\"tick\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>"
               "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">frame</text>\n",
               LEFT, LEFT + PLOT_WIDTH, TOP + PLOT_HEIGHT, TOP + PLOT_HEIGHT, LEFT + PLOT_WIDTH / 2,
               HEIGHT - 6);
}

/* What is drawn of a series, in order: every finite value, or the extremes of every bucket. */
static void write_line(struct html *html, const struct chart *chart, const struct scale *scale,
                       const struct chart_series *series, int64_t number)
{
    int64_t width = (chart->count + BUCKETS - 1) / BUCKETS;
    bool down = false;
    html_print(html, "<path class=\"line series-%lld\" d=\"", (long long)number % CHART_COLOURS);
    for (int64_t begin = 0; begin < chart->count; begin += width) {
        int64_t low = -1, high = -1;
        for (int64_t i = begin; i < begin + width && i < chart->count; i++) {
            if (!isfinite(series->values[i]))
                continue;
            low = low < 0 || series->values[i] < series->values[low] ? i : low;
            high = high < 0 || series->values[i] > series->values[high] ? i : high;
        }
        int64_t points[2] = {low < high ? low : high, low < high ? high : low};
        for (int k = low == high; low >= 0 && k < 2; k++) {
            html_print(html, "%c%.1f %.1f", down ? 'L' : 'M', x_of(chart, (double)points[k]),
                       y_of(scale, series->values[points[k]]));
            down = true;
        }
        /* a point between gaps is a line of no length, which round caps make a dot */
        if (low < 0)
            down = false;
        else if (low == high)
            html_print(html, "h0");
    }
    html_print(html, "\"/>");
    for (int64_t begin = 0; begin < chart->count; begin += width)
        if (isinf(series->values[begin]))
            html_print(html, "<circle class=\"dot series-%lld\" cx=\"%.1f\" cy=\"%d\" r=\"3\"/>",
                       (long long)number % CHART_COLOURS, x_of(chart, (double)begin), TOP);
    html_print(html, "\n");
}

/* Columns that nothing shows but a title, and that take the videos to their frame. */
static void write_hits(struct html *html, const struct chart *chart)
{
    int64_t width = (chart->count + HITS - 1) / HITS;
    for (int64_t frame = 0; frame < chart->count; frame += width) {
        double x = x_of(chart, (double)frame - 0.5);
        html_print(html,
                   "<rect class=\"hit\" data-frame=\"%lld\" x=\"%.1f\" y=\"%d\" width=\"%.2f\" "
                   "height=\"%d\"><title>frame %lld",
                   (long long)frame, x, TOP, PLOT_WIDTH * (double)width / (double)chart->count,
                   PLOT_HEIGHT, (long long)frame + 1);
        for (int64_t s = 0; s < chart->series_count; s++) {
            html_print(html, "\n");
            html_text(html, chart->series[s].label, 0);
            html_print(html, ": ");
            html_number(html, chart->format, chart->series[s].values[frame], chart->infinite);
        }
        html_print(html, "</title></rect>");
    }
    html_print(html, "\n");
}

static void write_legend(struct html *html, const struct chart *chart)
{
    html_print(html, "<figcaption><b>%s per frame</b><ul class=\"legend\">", chart->name);
    for (int64_t s = 0; s < chart->series_count; s++) {
        html_print(html,
                   "<li><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path class=\"line "
                   "series-%lld\" d=\"M2 5H24\"/></svg>",
                   (long long)s % CHART_COLOURS);
        html_text(html, chart->series[s].label, 0);
        html_print(html, "</li>");
    }
    html_print(html, "</ul></figcaption>\n");
}

void chart_write(struct html *html, const struct chart *chart)
{
    struct scale scale;
    html_print(html, "<figure class=\"chart\">");
    write_legend(html, chart);
    if (!find_scale(chart, &scale)) {
        html_print(html, "<p class=\"note\">Nothing to draw: every frame is %s.</p></figure>\n",
                   chart->infinite);
        return;
    }
    html_print(html,
               "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"%s chart\">"
               "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Line chart: %s per frame, "
               "%lld frames; axis from %.*f to %.*f %s\" data-left=\"%d\" data-width=\"%d\" "
               "data-count=\"%lld\">\n",
               chart->name, WIDTH, HEIGHT, chart->name, (long long)chart->count, scale.decimals,
               scale.low, scale.decimals, scale.high, chart->unit, LEFT, PLOT_WIDTH,
               (long long)chart->count);
    write_value_axis(html, chart, &scale);
    write_frame_axis(html, chart);
    for (int64_t s = 0; s < chart->series_count; s++)
        write_line(html, chart, &scale, &chart->series[s], s);
    html_print(html, "<line class=\"playhead\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n", LEFT,
               LEFT, TOP, TOP + PLOT_HEIGHT);
    write_hits(html, chart);
    html_print(html, "</svg></div></figure>\n");
}
