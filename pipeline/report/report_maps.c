/*
 * Draft maps and block masks of the heads that were captured. Large maps are averaged down to at
 * most CELLS cells a side. All maps share one logarithmic scale, in units of the uniform share
 * 1 / key blocks, so that a cell's colour means the same everywhere.
 */
#include "report_parts.h"

#include "charts.h"
#include "heatmap.h"

#include <math.h>
#include <stdlib.h>

enum { CELLS = 256, DECADES = 3 };

struct reduced {
    int64_t factor, rows, columns;
    float *map, *mask; /* [rows][columns]; the map in units of the uniform share */
};

static bool reduce(struct reduced *out, const struct comparison_map *m, struct error *error)
{
    int64_t longer = m->query_blocks > m->key_blocks ? m->query_blocks : m->key_blocks;
    int64_t factor = (longer + CELLS - 1) / CELLS;
    *out = (struct reduced){.factor = factor,
                            .rows = (m->query_blocks + factor - 1) / factor,
                            .columns = (m->key_blocks + factor - 1) / factor};
    size_t cells = (size_t)(out->rows * out->columns);
    out->map = calloc(2 * cells + 1, sizeof *out->map);
    if (!out->map)
        return error_out_of_memory(error, "a draft map of the report", 8ULL * cells);
    out->mask = out->map + cells;
    for (int64_t i = 0; i < m->query_blocks; i++)
        for (int64_t j = 0; j < m->key_blocks; j++) {
            int64_t cell = i / factor * out->columns + j / factor;
            int64_t rows = m->query_blocks - i / factor * factor;
            int64_t columns = m->key_blocks - j / factor * factor;
            float share = 1.0F / (float)((rows < factor ? rows : factor) *
                                         (columns < factor ? columns : factor));
            out->map[cell] += share * m->map[i * m->key_blocks + j] * (float)m->key_blocks;
            out->mask[cell] += share * (float)(m->mask[i * m->key_blocks + j] != 0);
        }
    return true;
}

/* The upper end of the scale: 1, 2 or 5 times a power of ten, not below any value of any map. */
static double find_top(const struct comparison *c)
{
    double high = 1;
    for (int64_t v = 1; v < c->variant_count; v++)
        for (int64_t k = 0; k < c->variants[v].map_count; k++) {
            const struct comparison_map *m = &c->variants[v].maps[k];
            for (int64_t i = 0; i < m->query_blocks * m->key_blocks; i++)
                if (isfinite(m->map[i]))
                    high = fmax(high, (double)m->map[i] * (double)m->key_blocks);
        }
    return chart_round_up(high);
}

static void to_log_scale(struct reduced *r, double top)
{
    for (int64_t i = 0; i < r->rows * r->columns; i++) {
        double value = r->map[i];
        r->map[i] = isnan(value) ? NAN : (float)(1 + log10(fmax(value, 1e-30) / top) / DECADES);
    }
}

static void write_caption(struct html *html, const struct comparison_variant *v,
                          const struct comparison_map *m, int64_t factor)
{
    const struct self_attention_report *a = &v->report.attention;
    bool worst = m->step == a->worst_step && m->layer == a->worst_layer &&
                 m->head == a->worst_head && fabs(m->error - a->error_worst) < 1e-6;
    html_print(html, "<figcaption><b>step %d, layer %d, head %d%s</b>%s: density ", m->step + 1,
               m->layer, m->head, m->negative ? ", negative prompt" : "",
               worst ? ", the worst of the run" : "");
    html_number(html, "%.1f %%", 100 * m->density, "–");
    if (isnan(m->error)) {
        html_print(html, ", error not measured");
    } else {
        html_print(html, ", estimated error ");
        html_number(html, "%.3f", m->error, "infinite");
    }
    if (isfinite(m->error_before) && m->error_before != m->error) {
        html_print(html, " (before repair ");
        html_number(html, "%.3f", m->error_before, "infinite");
        html_print(html, ")");
    }
    if (factor > 1)
        html_print(html, "; %lld × %lld blocks a cell", (long long)factor, (long long)factor);
    html_print(html, "</figcaption>");
}

static bool write_map(struct report *report, const struct comparison_variant *v,
                      const struct comparison_map *m, double top, struct error *error)
{
    struct html *html = &report->html;
    const struct heatmap_axes axes = {.row_name = "query blocks",
                                      .column_name = "key blocks",
                                      .last_row = m->query_blocks - 1,
                                      .last_column = m->key_blocks - 1};
    struct reduced r;
    if (!reduce(&r, m, error))
        return false;
    to_log_scale(&r, top);
    bool ok = true;
    html_print(html, "<figure>");
    write_caption(html, v, m, r.factor);
    if (report_room(report, html_data_size(4 * r.rows * r.columns + 4096), REPORT_MAPS_END)) {
        html_print(html, "<div class=\"two\">");
        heatmap_axes_begin(html, &axes);
        ok = heatmap_image(html, r.map, r.rows, r.columns, heatmap_colour,
                           "Draft map: query blocks down, key blocks right", error);
        heatmap_axes_end(html, &axes);
        heatmap_axes_begin(html, &axes);
        ok = ok && heatmap_image(html, r.mask, r.rows, r.columns, heatmap_mask_colour,
                                 "Block mask: query blocks down, key blocks right", error);
        heatmap_axes_end(html, &axes);
        html_print(html, "</div>");
    } else {
        html_print(html, "<p class=\"note\">left out, the page would grow too large</p>");
    }
    html_print(html, "</figure>\n");
    free(r.map);
    return ok;
}

static void write_scales(struct html *html, double top)
{
    char text[DECADES + 1][32];
    const char *labels[DECADES + 1];
    for (int i = 0; i <= DECADES; i++) {
        snprintf(text[i], sizeof text[i], "%s%g", i ? "" : "≤ ", top * pow(10, i - DECADES));
        labels[i] = text[i];
    }
    html_print(html, "<div class=\"pair\">");
    heatmap_scale(html, heatmap_colour, "draft map: times the uniform share", labels, DECADES + 1);
    heatmap_scale(html, heatmap_mask_colour, "block mask: share of a cell computed exactly",
                  (const char *const[]){"skipped", "computed"}, 2);
    html_print(html,
               "</div>\n<p>Of every head, the draft map on the left and the block mask on the "
               "right.</p>\n");
}

bool report_maps(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    int64_t maps = 0;
    for (int64_t v = 1; v < c->variant_count; v++)
        maps += c->variants[v].map_count;
    if (!maps) {
        html_print(html, "<p class=\"note\">No maps were captured: no call was sparse.</p>\n");
        return true;
    }
    double top = find_top(c);
    write_scales(html, top);
    for (int64_t v = 1; v < c->variant_count; v++) {
        if (!c->variants[v].map_count)
            continue;
        html_print(html, "<h3>");
        html_text(html, c->variants[v].label, 0);
        html_print(html, "</h3>\n<div class=\"maps\">\n");
        for (int64_t k = 0; k < c->variants[v].map_count; k++)
            if (!write_map(report, &c->variants[v], &c->variants[v].maps[k], top, error))
                return false;
        html_print(html, "</div>\n");
    }
    return true;
}
