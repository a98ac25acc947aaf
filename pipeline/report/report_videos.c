/*
 * The videos side by side. The page has copies of its own, encoded from the frames: what the
 * written files hold need not be what browsers play, nor small enough. All copies share one quality
 * and size, so that the eye compares variants and not encodings.
 */
#include "report_parts.h"

#include "pictures.h"

#include "../interrupt.h"
#include "../io/output_file.h"
#include "../io/video_encoder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Tried in order until the copies fit. */
static const struct level {
    int32_t crf_offset;
    int64_t shrink;
} levels[] = {{0, 1}, {6, 1}, {12, 1}, {12, 2}, {18, 4}, {24, 8}};

struct copies {
    enum video_container container;
    struct output_file *files; /* [count], temporaries that are never committed */
    int64_t count;
    int64_t bytes; /* of all of them */
    struct video_desc desc;
    struct level level;
};

static void copies_clear(struct copies *copies)
{
    for (int64_t i = 0; i < copies->count; i++)
        output_file_discard(&copies->files[i]);
    copies->bytes = 0;
}

static bool make_temporary(struct output_file *file, const char *report, int64_t number,
                           struct error *error)
{
    size_t size = strlen(report) + 32;
    char *name = malloc(size);
    if (!name)
        return error_out_of_memory(error, "the name of a video copy", size);
    snprintf(name, size, "%s.video-%lld", report, (long long)number);
    bool ok = output_file_create(file, name, error);
    free(name);
    return ok;
}

static bool encode_frames(struct video_encoder *encoder, const struct comparison *c,
                          const uint8_t *frames, const struct copies *copies, struct error *error)
{
    const struct video_desc *desc = &copies->desc;
    int64_t columns = c->width / copies->level.shrink, rows = c->height / copies->level.shrink;
    size_t bytes = 3 * (size_t)columns * (size_t)rows;
    uint8_t *small = malloc(bytes);
    if (!small)
        return error_out_of_memory(error, "a frame of a video copy", bytes);
    bool ok = true;
    for (int64_t t = 0; t < c->frames && ok; t++) {
        picture_shrink(small, frames + 3 * t * c->width * c->height, c->width, c->height,
                       copies->level.shrink);
        for (int64_t y = 0; desc->width < columns && y < desc->height; y++) /* an odd side */
            memmove(small + 3 * y * desc->width, small + 3 * y * columns, 3 * (size_t)desc->width);
        if (interrupt_requested()) {
            ok = error_set(error, "interrupted");
            error->interrupted = true;
        } else {
            ok = video_encoder_frame(encoder, small, error);
        }
    }
    free(small);
    return ok;
}

static bool encode_copy(struct copies *copies, const struct report *report, int64_t number,
                        struct error *error)
{
    const struct comparison *c = report->comparison;
    struct output_file *file = &copies->files[number];
    struct video_encoder *encoder = NULL;
    struct stat info = {0};
    bool ok = make_temporary(file, report->path, number, error) &&
              video_encoder_open(&encoder, copies->container, file->target, file->temporary,
                                 &copies->desc, error) &&
              encode_frames(encoder, c, c->variants[number].frames, copies, error) &&
              video_encoder_finish(encoder, error);
    video_encoder_free(encoder);
    if (ok && stat(file->temporary, &info) != 0)
        ok = error_set(error, "video '%s': %s", file->target, strerror(errno));
    copies->bytes += info.st_size;
    return ok;
}

/* H.264 where this system writes it, else what webm takes; false where there is neither. */
static bool choose_container(struct copies *copies)
{
    const char *name = video_encoder_probe(VIDEO_MP4, &copies->desc, NULL);
    copies->container = VIDEO_MP4;
    if (name && strstr(name, "264"))
        return true;
    copies->container = VIDEO_WEBM;
    return video_encoder_probe(VIDEO_WEBM, &copies->desc, NULL) != NULL;
}

/* *fit is false where no level does, or this system has no encoder for it. */
static bool make_copies(struct copies *copies, struct report *report, bool *fit,
                        struct error *error)
{
    const struct comparison *c = report->comparison;
    *fit = false;
    for (size_t i = 0; i < sizeof levels / sizeof *levels && !*fit; i++) {
        copies->level = levels[i];
        copies->desc = (struct video_desc){
            .width = (int32_t)(c->width / levels[i].shrink & ~1),
            .height = (int32_t)(c->height / levels[i].shrink & ~1),
            .frames = c->frames,
            .fps = c->fps,
            .crf_offset = levels[i].crf_offset,
        };
        if (copies->desc.width < 16 || copies->desc.height < 16 || !choose_container(copies))
            break;
        copies_clear(copies);
        *fit = true;
        for (int64_t v = 0; v < copies->count && *fit; v++) {
            if (!encode_copy(copies, report, v, error))
                return false;
            *fit = report_room(report, html_data_size(copies->bytes) + 1024 * copies->count,
                               REPORT_VIDEOS_END);
        }
    }
    return true;
}

static bool write_video(struct report *report, const struct copies *copies, int64_t number,
                        struct error *error)
{
    struct html *html = &report->html;
    const struct comparison_variant *variant = &report->comparison->variants[number];
    double base = report->comparison->variants[0].report.total_seconds;
    FILE *file = fopen(copies->files[number].temporary, "rb");
    if (!file)
        return error_set(error, "video '%s': %s", copies->files[number].target, strerror(errno));
    html_print(html,
               "<figure><video muted playsinline controls preload=\"auto\" width=\"%d\" "
               "height=\"%d\" aria-label=\"Video of ",
               copies->desc.width, copies->desc.height);
    html_text(html, variant->label, 0);
    html_print(html, "\" src=\"");
    html_data_file(html, copies->container == VIDEO_MP4 ? "video/mp4" : "video/webm", file);
    fclose(file);
    html_print(html, "\"></video><figcaption><b>");
    html_text(html, variant->label, 0);
    html_print(html, "</b> <span>");
    html_number(html, "%.1f s", variant->report.total_seconds, "–");
    if (number > 0 && variant->report.total_seconds > 0) {
        html_print(html, " · %.2f× · ", base / variant->report.total_seconds);
        html_number(html, "PSNR %.1f dB", variant->quality.psnr_all, "identical");
    }
    html_print(html, "</span></figcaption></figure>\n");
    return true;
}

static void write_controls(struct html *html, int64_t frames)
{
    html_print(html,
               "<div class=\"controls\"><button type=\"button\" id=\"play\">Play</button>"
               "<input type=\"range\" id=\"frame\" min=\"0\" max=\"%lld\" value=\"0\" step=\"1\" "
               "aria-label=\"Frame\"><output id=\"frame-label\" for=\"frame\">frame 1 of %lld"
               "</output><label>speed <select id=\"speed\"><option value=\"0.25\">¼×</option>"
               "<option value=\"0.5\">½×</option><option value=\"1\" selected>1×</option>"
               "</select></label><label><input type=\"checkbox\" id=\"loop\" checked> loop</label>"
               "</div>\n",
               (long long)frames - 1, (long long)frames);
}

static bool write_player(struct report *report, const struct copies *copies, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    html_print(html, "<div id=\"player\" data-fps=\"%.6f\" data-frames=\"%lld\">\n", c->fps,
               (long long)c->frames);
    write_controls(html, c->frames);
    html_print(html, "<div class=\"videos\">\n");
    for (int64_t i = 0; i < copies->count; i++)
        if (!write_video(report, copies, i, error))
            return false;
    html_print(html, "</div></div>\n<p class=\"note\">Copies for this page, %d × %d, %s",
               copies->desc.width, copies->desc.height,
               copies->container == VIDEO_MP4 ? "H.264" : "WebM");
    if (copies->level.shrink > 1 || copies->level.crf_offset > 0)
        html_print(html, ", encoded smaller than the files so that the page stays below %d MB",
                   REPORT_MAX_BYTES / 1000000);
    html_print(html, ". The figures are those of the written files.</p>\n");
    return true;
}

static bool frames_kept(const struct comparison *c)
{
    for (int64_t i = 0; i < c->variant_count; i++)
        if (!c->variants[i].frames)
            return false;
    return true;
}

bool report_videos(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    bool fit = false, ok = true, kept = frames_kept(c);
    struct copies copies = {0};
    if (kept && c->variant_count > 0) {
        copies.files = calloc((size_t)c->variant_count, sizeof *copies.files);
        copies.count = copies.files ? c->variant_count : 0;
        ok = copies.files ? make_copies(&copies, report, &fit, error)
                          : error_out_of_memory(error, "the video copies", sizeof *copies.files);
    }
    if (ok && fit)
        ok = write_player(report, &copies, error);
    else if (ok)
        html_print(&report->html,
                   "<p class=\"note\">Not embedded: %s. The written files are listed under "
                   "Settings.</p>\n",
                   !kept          ? "the frames were not kept"
                   : copies.bytes ? "even small copies would make this page too large"
                                  : "this system's FFmpeg has no encoder for browsers (H.264, "
                                    "VP9, AV1 or VP8)");
    copies_clear(&copies);
    free(copies.files);
    return ok;
}
