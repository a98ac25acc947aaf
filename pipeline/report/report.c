/*
 * The report as a whole: head, contents, the sections in their order, and how to read each.
 *
 * The page carries everything it shows, and its content security policy forbids the rest: nothing
 * is loaded from anywhere, and no script runs but the one whose hash is in the head, whatever the
 * prompt may hold. Size is bounded by what each part may fill (report_parts.h).
 */
#include "report.h"

#include "report_parts.h"

#include "../io/output_file.h"

#include <libavutil/base64.h>
#include <libavutil/mem.h>
#include <libavutil/sha.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { TITLE_LIMIT = 200, PROMPT_SHOWN = 600, PROMPT_LIMIT = 65536 };

struct section {
    const char *id, *title;
    bool (*write)(struct report *report, struct error *error);
    const char *how; /* to read it */
};

static const struct section sections[] = {
    {"results", "Results", report_results,
     "Every variant starts from the same noise as the baseline. <b>Speed-up</b> is the baseline's "
     "time over the variant's: of the whole run, of denoising, and of attention alone. "
     "<b>Density</b> is the share of block pairs that was computed exactly, dense steps included. "
     "<b>PSNR</b> and <b>SSIM</b> say how close the video is to the baseline's, not how good it "
     "is: a different but equally good video scores low. They are measured on the written files "
     "(the codec included) by FFmpeg's definitions; PSNR RGB on the frames before encoding. The "
     "<b>estimated error</b> is the relative L2 error of attention outputs, from probe rows, with "
     "no dense run needed."},
    {"videos", "Videos", report_videos,
     "All videos move together. Drag the slider or use the arrow keys to step through frames; a "
     "click on a chart below goes to its frame. Small objects and fine texture change first, "
     "layout last."},
    {"quality", "PSNR and SSIM per frame", report_quality,
     "Higher is closer to the baseline. As a rule of thumb, above 35 dB differences are hard to "
     "see, below 25 dB contents differ. Dips are frames worth looking at. A gap with a dot at the "
     "upper edge is a frame identical to the baseline's."},
    {"frames", "Difference frames", report_frames,
     "The baseline, the variant, and the absolute difference of the two per colour channel, before "
     "encoding, amplified by the same factor everywhere. Edges that light up have moved; faces and "
     "objects that light up whole have changed."},
    {"errors", "Estimated error over steps and layers", report_errors,
     "Relative L2 error of the attention output, estimated from exact probe rows, over heads and "
     "guidance passes: the median on the left, the worst head on the right. Bright rows are layers "
     "that need more density (or --dense-layers), bright columns are steps that do (or "
     "--dense-steps)."},
    {"maps", "Draft maps and block masks", report_maps,
     "The draft map is the low-resolution attention of one head: a row is a block of 128 query "
     "tokens, its colours say where it looks, on a logarithmic scale where 1 is what uniform "
     "attention would give. The mask says which block pairs were then computed exactly; the rest "
     "enters through block means (with compensation) or is dropped. Blocks follow each other in "
     "space, then in time: stripes beside "
     "the diagonal are neighbouring frames."},
    {"time", "Where the time goes", report_times,
     "Wall time of each run on one scale. Order to repair, in reds, are the stages of attention; "
     "the rest of denoising is what sparsity cannot make faster; on a GPU stages are not timed, "
     "and denoising is one part. The prompt is encoded once and counted in every run; loading "
     "counts as in the fastest run, since the first reads from the disk what the others find in "
     "memory. Collecting the maps and frames of this page is not in "
     "the times. A run of <code>--variant dense</code> beside the baseline shows how much they "
     "vary on "
     "this machine."},
    {"settings", "Settings, and how to repeat this", report_settings,
     "The command makes this comparison again on this machine; the same seed gives the same noise "
     "everywhere. Dense calls are those that a guard (first steps, layers, small grids) or the "
     "policy kept dense."},
};

/* "sha256-..." of the script, for the policy; false without memory. */
static bool hash_script(char text[AV_BASE64_SIZE(32)])
{
    uint8_t digest[32];
    struct AVSHA *sha = av_sha_alloc();
    if (!sha || av_sha_init(sha, 256) < 0) {
        av_free(sha);
        return false;
    }
    av_sha_update(sha, (const uint8_t *)report_script, strlen(report_script));
    av_sha_final(sha, digest);
    av_free(sha);
    return av_base64_encode(text, AV_BASE64_SIZE(32), digest, sizeof digest) != NULL;
}

/* The last two parts of a path: "tiny-world/checkpoint". */
static const char *short_name(const char *path)
{
    const char *at = path + strlen(path);
    for (int slashes = 0; at > path; at--)
        if (at[-1] == '/' && at[0] && ++slashes == 2)
            break;
    return at;
}

static bool write_head(struct report *report, struct error *error)
{
    struct html *html = &report->html;
    char hash[AV_BASE64_SIZE(32)];
    if (!hash_script(hash))
        return error_out_of_memory(error, "the report's script", 4096);
    html_print(html,
               "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
               "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
               "img-src data:; media-src data: blob:; style-src 'unsafe-inline'; "
               "script-src 'sha256-%s'; base-uri 'none'; form-action 'none'\">\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
               "<meta name=\"color-scheme\" content=\"light dark\">\n"
               "<meta name=\"generator\" content=\"draftattn " DRAFTATTN_VERSION_STRING
               "\">\n<title>",
               hash);
    html_text(html, short_name(report->comparison->model), TITLE_LIMIT);
    html_print(html, ", seed %" PRIu64 " · draftattn</title>\n<style>\n%s</style>\n</head>\n",
               report->comparison->settings->seed, report_style);
    return true;
}

/* A long prompt is folded to its beginning. */
static void write_prompt(struct html *html, const char *prompt)
{
    if (strlen(prompt) > PROMPT_SHOWN) {
        html_print(html, "<details class=\"prompt\"><summary><bdi>");
        html_text(html, prompt, PROMPT_SHOWN);
        html_print(html, "</bdi></summary><blockquote dir=\"auto\">");
        html_text(html, prompt, PROMPT_LIMIT);
        html_print(html, "</blockquote></details>\n");
        return;
    }
    html_print(html, "<blockquote class=\"prompt\" dir=\"auto\">");
    html_text(html, prompt, 0);
    html_print(html, "</blockquote>\n");
}

static void write_header(struct report *report)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    html_print(html, "<body>\n<header>\n<h1>Attention compared: <bdi>");
    html_text(html, short_name(c->model), TITLE_LIMIT);
    html_print(html, "</bdi></h1>\n");
    write_prompt(html, c->prompt);
    html_print(html,
               "<p class=\"note\">%" PRId64 " × %" PRId64 ", %" PRId64 " frames, %" PRId64
               " steps, seed %" PRIu64,
               c->width, c->height, c->frames, c->steps, c->settings->seed);
    if (c->machine) {
        html_print(html, "; ");
        html_text(html, c->machine, TITLE_LIMIT);
    }
    html_print(html, "</p>\n<nav aria-label=\"Contents\"><ul>");
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        html_print(html, "<li><a href=\"#%s\">%s</a></li>", sections[i].id, sections[i].title);
    html_print(html, "</ul></nav>\n</header>\n<main>\n");
}

static bool write_sections(struct report *report, struct error *error)
{
    struct html *html = &report->html;
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        const struct section *s = &sections[i];
        html_print(html,
                   "<section id=\"%s\" aria-labelledby=\"%s-title\">\n<h2 id=\"%s-title\">%s"
                   "</h2>\n",
                   s->id, s->id, s->id, s->title);
        if (!s->write(report, error))
            return false;
        html_print(html,
                   "<details class=\"how\"><summary>How to read this</summary><p>%s</p></details>\n"
                   "</section>\n",
                   s->how);
    }
    return true;
}

static bool write_page(struct report *report, struct error *error)
{
    struct html *html = &report->html;
    if (!write_head(report, error))
        return false;
    write_header(report);
    if (!write_sections(report, error))
        return false;
    html_print(html,
               "</main>\n<footer><p>draftattn " DRAFTATTN_VERSION_STRING
               ". This file is complete in itself; the same figures are in the JSON file beside "
               "it.</p></footer>\n<script>%s</script>\n</body>\n</html>\n",
               report_script);
    return true;
}

bool report_write(const char *path, const struct comparison *comparison, struct error *error)
{
    struct output_file file;
    struct report report = {.path = path, .comparison = comparison};
    if (comparison->variant_count < 1 || comparison->frames < 1)
        return error_set(error, "report '%s': there is nothing to report", path);
    if (!output_file_create(&file, path, error))
        return false;
    report.html.file = fopen(file.temporary, "wb");
    bool ok =
        report.html.file || error_set(error, "report '%s': %s", path, output_file_reason(errno));
    ok = ok && write_page(&report, error);
    if (report.html.file && fclose(report.html.file) != 0 && !report.html.reason)
        report.html.reason = errno;
    if (ok && report.html.reason)
        ok = error_set(error, "report '%s': %s", path, output_file_reason(report.html.reason));
    if (ok)
        return output_file_commit(&file, error);
    output_file_discard(&file);
    return false;
}
