/* What compare found, as a table for people: a row a variant, then what has to be known to read it.
 */
#include "compare_summary.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static void print_gain(FILE *out, double seconds, double baseline, bool first)
{
    if (isnan(seconds)) {
        fprintf(out, "  %16s", "not measured");
        return;
    }
    fprintf(out, "  %7.2f s", seconds);
    if (first || !(seconds > 0))
        fprintf(out, "       ");
    else
        fprintf(out, " %5.2fx", baseline / seconds);
}

static void print_decibels(FILE *out, double value)
{
    if (isfinite(value))
        fprintf(out, "  %6.2f", value);
    else
        fprintf(out, "  %6s", "same");
}

static void print_row(FILE *out, const struct comparison *c, int64_t index, int width)
{
    const struct comparison_variant *v = &c->variants[index], *base = &c->variants[0];
    const struct self_attention_report *a = &v->report.attention;
    const struct comparison_quality *q = &v->quality;
    fprintf(out, "%-*s", width, v->label);
    print_gain(out, v->report.total_seconds, base->report.total_seconds, index == 0);
    print_gain(out, v->report.seconds[PHASE_DENOISE], base->report.seconds[PHASE_DENOISE],
               index == 0);
    print_gain(out, v->attention_seconds, base->attention_seconds, index == 0);
    fprintf(out, "  %5.1f %%", 100 * a->density_all);
    if (index > 0) {
        print_decibels(out, q->psnr_all);
        print_decibels(out, q->psnr_rgb);
        fprintf(out, "  %.4f", q->ssim_all);
        print_decibels(out, q->psnr[q->worst_frame]);
        if (isfinite(q->psnr[q->worst_frame]))
            fprintf(out, " (%3" PRId64 ")", q->worst_frame + 1);
        else
            fprintf(out, "      ");
        if (isfinite(a->error_median))
            fprintf(out, "  %.3f, %.3f", a->error_median, a->error_worst);
        else
            fprintf(out, "  not measured");
    }
    fputc('\n', out);
}

void compare_summary_print(FILE *out, const struct comparison *c)
{
    int width = (int)strlen("variant");
    for (int64_t i = 0; i < c->variant_count; i++)
        if ((int)strlen(c->variants[i].label) > width)
            width = (int)strlen(c->variants[i].label);
    fprintf(out, "%-*s  %-16s  %-16s  %-16s  %-7s  %6s  %6s  %-6s  %-12s  %s\n", width, "variant",
            "whole run", "denoising", "attention", "density", "PSNR", "RGB", "SSIM", "worst frame",
            "est. error");
    for (int64_t i = 0; i < c->variant_count; i++)
        print_row(out, c, i, width);
    fprintf(out,
            "\nPSNR (dB) and SSIM to '%s': of the written files, by the definitions of FFmpeg's "
            "filters; RGB: PSNR of the\nframes before encoding. Estimated attention error: median "
            "and worst head. Times: %s.\n",
            c->variants[0].label, c->machine);
    for (int64_t i = 1; i < c->variant_count; i++) {
        const struct self_attention_report *a = &c->variants[i].report.attention;
        if (a->calls == a->dense_calls && c->variants[i].attention.policy != DRAFTATTN_POLICY_DENSE)
            fprintf(out, "%s ran dense throughout: %s\n", c->variants[i].label,
                    c->variants[i].words);
    }
}
