/* The headline table: one row a variant, the baseline first. */
#include "report_parts.h"

#include <math.h>

static void seconds_cells(struct html *html, double seconds, double baseline)
{
    html_print(html, "<td>");
    html_number(html, seconds < 10 ? "%.2f" : "%.1f", seconds, "–");
    html_print(html, "</td><td class=\"gain\">");
    html_number(html, "%.2f×", seconds > 0 ? baseline / seconds : NAN, "–");
    html_print(html, "</td>");
}

static void quality_cells(struct html *html, const struct comparison_quality *quality)
{
    html_print(html, "<td>");
    html_number(html, "%.1f", quality->psnr_all, "identical");
    html_print(html, "</td><td>");
    html_number(html, "%.1f", quality->psnr_rgb, "identical");
    html_print(html, "</td><td>");
    html_number(html, "%.4f", quality->ssim_all, "–");
    html_print(html, "</td><td>");
    if (quality->psnr && isfinite(quality->psnr[quality->worst_frame])) {
        html_number(html, "%.1f", quality->psnr[quality->worst_frame], "identical");
        html_print(html, " (<a href=\"#videos\" data-frame=\"%lld\">frame %lld</a>)",
                   (long long)quality->worst_frame, (long long)quality->worst_frame + 1);
    } else {
        html_print(html, "none");
    }
    html_print(html, "</td>");
}

static void error_cells(struct html *html, const struct self_attention_report *attention)
{
    html_print(html, "<td>");
    html_number(html, "%.3f", attention->error_median, "–");
    html_print(html, "</td><td>");
    if (isfinite(attention->error_median))
        html_number(html, "%.3f", attention->error_worst, "–");
    else
        html_print(html, "–");
    html_print(html, "</td>");
}

static void write_row(struct html *html, const struct comparison_variant *variant,
                      const struct comparison_variant *baseline)
{
    const struct generate_report *report = &variant->report, *base = &baseline->report;
    const struct self_attention_report *attention = &report->attention;
    html_print(html, "<tr><th scope=\"row\">");
    html_text(html, variant->label, 0);
    if (variant == baseline)
        html_print(html, " <small>baseline</small>");
    else if (attention->calls == attention->dense_calls &&
             variant->attention.policy != DRAFTATTN_POLICY_DENSE)
        html_print(html, " <small class=\"warn\">every call ran dense</small>");
    html_print(html, "</th>");
    seconds_cells(html, report->total_seconds, base->total_seconds);
    seconds_cells(html, report->seconds[PHASE_DENOISE], base->seconds[PHASE_DENOISE]);
    seconds_cells(html, variant->attention_seconds, baseline->attention_seconds);
    html_print(html, "<td>");
    html_number(html, "%.1f %%", 100 * attention->density_all, "–");
    html_print(html, "</td>");
    if (variant == baseline)
        html_print(html, "<td colspan=\"4\" class=\"note\">what the others are measured against"
                         "</td>");
    else
        quality_cells(html, &variant->quality);
    error_cells(html, attention);
    html_print(html, "</tr>\n");
}

bool report_results(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    (void)error;
    html_print(
        html,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of results\">"
        "<table class=\"numbers\"><thead>"
        "<tr><th rowspan=\"2\" scope=\"col\">variant</th>"
        "<th colspan=\"2\" scope=\"colgroup\">whole run</th>"
        "<th colspan=\"2\" scope=\"colgroup\">denoising</th>"
        "<th colspan=\"2\" scope=\"colgroup\">attention</th>"
        "<th rowspan=\"2\" scope=\"col\">density</th>"
        "<th colspan=\"2\" scope=\"colgroup\">PSNR, dB</th>"
        "<th rowspan=\"2\" scope=\"col\">SSIM</th>"
        "<th rowspan=\"2\" scope=\"col\">worst frame, dB</th>"
        "<th colspan=\"2\" scope=\"colgroup\">estimated error</th></tr>"
        "<tr><th scope=\"col\">s</th><th scope=\"col\">speed-up</th>"
        "<th scope=\"col\">s</th><th scope=\"col\">speed-up</th>"
        "<th scope=\"col\">s</th><th scope=\"col\">speed-up</th>"
        "<th scope=\"col\">files</th><th scope=\"col\">RGB</th>"
        "<th scope=\"col\">median</th><th scope=\"col\">worst</th></tr></thead><tbody>\n");
    for (int64_t i = 0; i < c->variant_count; i++)
        write_row(html, &c->variants[i], &c->variants[0]);
    html_print(html, "</tbody></table></div>\n");
    return true;
}
