/*
 * Frames where it matters: the first, the middle and the worst of every variant, beside the
 * baseline's and the difference. One amplification for all, so that pictures can be compared.
 */
#include "report_parts.h"

#include "pictures.h"

#include "../io/image.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_WIDTH = 640, SHOWN = 3 };

/* The frames to show of a variant, ascending and each once. Returns how many. */
static int choose_frames(int64_t out[SHOWN], const struct comparison *c,
                         const struct comparison_variant *variant)
{
    const int64_t wanted[SHOWN] = {0, c->frames / 2, variant->quality.worst_frame};
    int count = 0;
    for (int i = 0; i < SHOWN; i++) {
        int at = 0;
        while (at < count && out[at] < wanted[i])
            at++;
        if (wanted[i] < 0 || wanted[i] >= c->frames || (at < count && out[at] == wanted[i]))
            continue;
        for (int j = count++; j > at; j--)
            out[j] = out[j - 1];
        out[at] = wanted[i];
    }
    return count;
}

static const uint8_t *frame_of(const struct comparison *c, int64_t variant, int64_t frame)
{
    return c->variants[variant].frames + 3 * c->width * c->height * frame;
}

static int32_t choose_amplification(const struct comparison *c)
{
    int64_t histogram[256] = {0}, frames[SHOWN];
    for (int64_t v = 1; v < c->variant_count; v++) {
        int count = choose_frames(frames, c, &c->variants[v]);
        for (int i = 0; i < count; i++)
            picture_difference_count(histogram, frame_of(c, 0, frames[i]),
                                     frame_of(c, v, frames[i]), 3 * c->width * c->height);
    }
    return picture_difference_factor(histogram);
}

/* So far the pictures shrink that all of them fit, at about half a byte a pixel as JPEG. */
static int64_t choose_shrink(const struct report *report)
{
    const struct comparison *c = report->comparison;
    double pictures = 3.0 * SHOWN * (double)(c->variant_count - 1);
    double room = 0.7 * (double)(REPORT_FRAMES_END - report->html.bytes);
    double pixels = pictures * (double)c->width * (double)c->height;
    double shrink = fmax((double)c->width / MAX_WIDTH, sqrt(0.5 * pixels / room));
    double least = (double)(c->width < c->height ? c->width : c->height); /* a row has to stay */
    return (int64_t)fmin(fmax(1, ceil(shrink - 1e-9)), least);
}

/* A picture of the whole frame's size, made small and written with its caption. */
static bool write_picture(struct report *report, const uint8_t *rgb, int64_t shrink,
                          const char *what, const char *label, int64_t frame, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    struct image image = {(int32_t)(c->width / shrink), (int32_t)(c->height / shrink), NULL};
    uint8_t *jpeg = NULL;
    size_t pixels = (size_t)image.width * (size_t)image.height, size = 0;
    image.rgb = malloc(3 * pixels + 1);
    if (!image.rgb)
        return error_out_of_memory(error, "a picture of the report", 3 * pixels);
    picture_shrink(image.rgb, rgb, c->width, c->height, shrink);
    bool ok = image_encode(&jpeg, &size, IMAGE_JPEG, &image, error);
    image_free(&image);
    if (!ok)
        return error_prefix(error, "report: ");
    html_print(html, "<figure>");
    if (report_room(report, html_data_size((int64_t)size) + 1024, REPORT_FRAMES_END)) {
        html_print(html, "<img width=\"%d\" height=\"%d\" alt=\"Frame %lld: ", image.width,
                   image.height, (long long)frame + 1);
        html_text(html, label, 0);
        html_print(html, "%s\" src=\"", what);
        html_data(html, "image/jpeg", jpeg, size);
        html_print(html, "\">");
    } else {
        html_print(html, "<p class=\"note\">left out, the page would grow too large</p>");
    }
    html_print(html, "<figcaption>");
    html_text(html, label, 0);
    html_print(html, "%s</figcaption></figure>\n", what);
    free(jpeg);
    return true;
}

/* Of identical frames none is worst. */
static bool is_worst(const struct comparison_quality *quality, int64_t frame)
{
    return frame == quality->worst_frame && quality->psnr && isfinite(quality->psnr[frame]);
}

static void write_frame_head(struct html *html, const struct comparison *c,
                             const struct comparison_quality *quality, int64_t frame)
{
    html_print(html, "<h4><a href=\"#videos\" data-frame=\"%lld\">Frame %lld</a>%s",
               (long long)frame, (long long)frame + 1,
               is_worst(quality, frame) ? ", the worst"
               : frame == 0             ? ", the first"
               : frame == c->frames / 2 ? ", the middle"
                                        : "");
    if (quality->psnr) {
        html_print(html, ": PSNR ");
        html_number(html, "%.1f dB", quality->psnr[frame], "identical");
    }
    if (quality->ssim) {
        html_print(html, ", SSIM ");
        html_number(html, "%.4f", quality->ssim[frame], "–");
    }
    html_print(html, "</h4>\n");
}

static bool write_frame(struct report *report, int64_t variant, int64_t frame, int64_t shrink,
                        int32_t amplification, struct error *error)
{
    const struct comparison *c = report->comparison;
    const char *label = c->variants[variant].label;
    const uint8_t *dense = frame_of(c, 0, frame), *other = frame_of(c, variant, frame);
    int64_t size = 3 * c->width * c->height;
    char what[64];
    uint8_t *difference = malloc((size_t)size + 1);
    if (!difference)
        return error_out_of_memory(error, "a difference frame", (unsigned long long)size);
    snprintf(what, sizeof what, ", difference × %d", amplification);
    picture_difference(difference, dense, other, size, amplification);
    write_frame_head(&report->html, c, &c->variants[variant].quality, frame);
    html_print(&report->html, "<div class=\"triple\">\n");
    bool ok = write_picture(report, dense, shrink, "", c->variants[0].label, frame, error) &&
              write_picture(report, other, shrink, "", label, frame, error) &&
              write_picture(report, difference, shrink, what, label, frame, error);
    html_print(&report->html, "</div>\n");
    free(difference);
    return ok;
}

bool report_frames(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    bool kept = c->variant_count > 1, ok = true;
    for (int64_t v = 0; v < c->variant_count; v++)
        kept = kept && c->variants[v].frames;
    if (!kept) {
        html_print(html, "<p class=\"note\">There are no frames to compare.</p>\n");
        return true;
    }
    int32_t amplification = choose_amplification(c);
    int64_t shrink = choose_shrink(report);
    if (amplification > 1)
        html_print(html, "<p>Differences are multiplied by %d.</p>\n", amplification);
    else
        html_print(html, "<p>Differences are large and not amplified.</p>\n");
    for (int64_t v = 1; v < c->variant_count && ok; v++) {
        int64_t frames[SHOWN];
        int count = choose_frames(frames, c, &c->variants[v]);
        html_print(html, "<h3>");
        html_text(html, c->variants[v].label, 0);
        html_print(html, "</h3>\n<div class=\"frames\">\n");
        for (int i = 0; i < count && ok; i++) {
            html_print(html, "<div>\n");
            ok = write_frame(report, v, frames[i], shrink, amplification, error);
            html_print(html, "</div>\n");
        }
        html_print(html, "</div>\n");
    }
    return ok;
}
