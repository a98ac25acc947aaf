/* Where the time goes: a stacked bar a variant, all on one scale, and the same as numbers. */
#include "report_parts.h"

#include <math.h>

enum { PARTS = 12 };

struct part {
    const char *name;
    double seconds;
};

/* Load, text, the stages of attention, what is left of denoising, decode, write, what is left.
 * Where stages are not measured denoising is one part. */
static int split(struct part parts[PARTS], const struct generate_report *report)
{
    double stages = 0, phases = 0, denoise = report->seconds[PHASE_DENOISE];
    int count = 0;
    for (int i = 0; i < PHASE_COUNT; i++)
        phases += report->seconds[i];
    for (int i = PHASE_LOAD; i <= PHASE_TEXT; i++)
        parts[count++] =
            (struct part){generate_phase_name((enum generate_phase)i), report->seconds[i]};
    for (int i = 0; i < DRAFTATTN_STAGE_COUNT; i++) {
        parts[count++] =
            (struct part){draftattn_stage_name((draftattn_stage)i), report->attention.seconds[i]};
        stages += report->attention.seconds[i];
    }
    if (isnan(stages))
        parts[count++] = (struct part){generate_phase_name(PHASE_DENOISE), denoise};
    else
        parts[count++] = (struct part){"rest of denoising", fmax(0, denoise - stages)};
    for (int i = PHASE_DECODE; i <= PHASE_WRITE; i++)
        parts[count++] =
            (struct part){generate_phase_name((enum generate_phase)i), report->seconds[i]};
    parts[count++] = (struct part){"other", fmax(0, report->total_seconds - phases)};
    return count;
}

static void write_legend(struct html *html, const struct part *parts, int count)
{
    html_print(html, "<ul class=\"legend\">");
    for (int i = 0; i < count; i++)
        html_print(html, "<li><b class=\"swatch part-%d\"></b>%s</li>", i, parts[i].name);
    html_print(html, "</ul>\n");
}

static void write_bar(struct html *html, const struct comparison_variant *v, double longest)
{
    struct part parts[PARTS];
    int count = split(parts, &v->report);
    html_print(html, "<div class=\"bar-label\"><b>");
    html_text(html, v->label, 0);
    html_print(html, "</b> ");
    html_number(html, "%.1f s", v->report.total_seconds, "–");
    html_print(html, "</div><div class=\"bar\" role=\"img\" aria-label=\"Time by part; the numbers "
                     "are in the table below\">");
    for (int i = 0; i < count; i++)
        if (isfinite(parts[i].seconds) && parts[i].seconds > 0)
            html_print(html,
                       "<span class=\"part-%d\" style=\"width:%.3f%%\" "
                       "title=\"%s: %.2f s\"></span>",
                       i, 100 * parts[i].seconds / longest, parts[i].name, parts[i].seconds);
    html_print(html, "</div>\n");
}

static void write_table(struct html *html, const struct comparison *c)
{
    struct part parts[PARTS];
    int count = split(parts, &c->variants[0].report);
    html_print(html, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of "
                     "times\"><table class=\"numbers\"><thead><tr><th scope=\"col\">seconds</th>");
    for (int i = 0; i < count; i++)
        html_print(html, "<th scope=\"col\">%s</th>", parts[i].name);
    html_print(html, "<th scope=\"col\">total</th></tr></thead><tbody>\n");
    for (int64_t v = 0; v < c->variant_count; v++) {
        split(parts, &c->variants[v].report);
        html_print(html, "<tr><th scope=\"row\">");
        html_text(html, c->variants[v].label, 0);
        html_print(html, "</th>");
        for (int i = 0; i < count; i++) {
            html_print(html, "<td>");
            html_number(html, "%.2f", parts[i].seconds, "–");
            html_print(html, "</td>");
        }
        html_print(html, "<td>");
        html_number(html, "%.2f", c->variants[v].report.total_seconds, "–");
        html_print(html, "</td></tr>\n");
    }
    html_print(html, "</tbody></table></div>\n");
}

bool report_times(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    struct part parts[PARTS];
    double longest = 1e-9;
    (void)error;
    for (int64_t v = 0; v < c->variant_count; v++) {
        int count = split(parts, &c->variants[v].report);
        double sum = 0;
        for (int i = 0; i < count; i++)
            sum += isfinite(parts[i].seconds) ? fmax(0, parts[i].seconds) : 0;
        longest = fmax(longest, sum);
    }
    write_legend(html, parts, split(parts, &c->variants[0].report));
    html_print(html, "<div class=\"bars\">\n");
    for (int64_t v = 0; v < c->variant_count; v++)
        write_bar(html, &c->variants[v], longest);
    html_print(html, "</div>\n");
    write_table(html, c);
    return true;
}
