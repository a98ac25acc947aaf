/* What was run, on what, and the command that runs it again. */
#include "report_parts.h"

#include <inttypes.h>
#include <string.h>

enum { TEXT_LIMIT = 16384 };

static void row_begin(struct html *html, const char *name)
{
    html_print(html, "<tr><th scope=\"row\">%s</th><td>", name);
}

static void row_end(struct html *html)
{
    html_print(html, "</td></tr>\n");
}

static void row_text(struct html *html, const char *name, const char *text)
{
    if (!text || !text[0])
        return;
    row_begin(html, name);
    html_print(html, "<bdi>");
    html_text(html, text, TEXT_LIMIT);
    html_print(html, "</bdi>");
    row_end(html);
}

/* The most of all variants: of the process, and of the GPU where one was used. */
static void row_memory(struct html *html, const struct comparison *c)
{
    int64_t host = 0, device = 0;
    for (int64_t v = 0; v < c->variant_count; v++) {
        const struct generate_report *report = &c->variants[v].report;
        host = report->memory_peak > host ? report->memory_peak : host;
        device = report->device_peak > device ? report->device_peak : device;
    }
    row_begin(html, "memory at most, MiB");
    if (device > 0)
        html_number(html, "%.0f of the GPU, ", (double)device / 1048576.0, "–");
    html_number(html, device > 0 ? "%.0f of the host" : "%.0f", (double)host / 1048576.0, "–");
    row_end(html);
}

static void write_common(struct html *html, const struct comparison *c)
{
    const struct generate_settings *s = c->settings;
    const struct generate_report *baseline = &c->variants[0].report;
    html_print(html, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of "
                     "settings\"><table class=\"facts pairs\"><tbody>\n");
    row_text(html, "model", c->model);
    row_text(html, "negative prompt", c->negative_prompt);
    row_begin(html, "video");
    html_print(html, "%" PRId64 " × %" PRId64 ", %" PRId64 " frames", c->width, c->height,
               c->frames);
    html_number(html, " at %g a second", c->fps, "–");
    row_end(html);
    row_begin(html, "network");
    html_print(html, "%" PRId64 " layers, %" PRId64 " heads, %" PRId64 " tokens", c->layers,
               c->heads, baseline->tokens);
    row_end(html);
    row_begin(html, "sampling");
    html_print(html, "%" PRId64 " steps, ", c->steps);
    html_text(html, s->sampler ? s->sampler : "unipc", 0);
    html_number(html, ", guidance %g", s->guidance, "–");
    html_number(html, ", flow shift %g", s->flow_shift, "–");
    row_end(html);
    row_begin(html, "seed");
    html_print(html, "%" PRIu64, s->seed);
    row_end(html);
    row_text(html, "noise file", s->noise_file);
    row_text(html, "machine", c->machine);
    row_memory(html, c);
    row_text(html, "version", "draftattn " DRAFTATTN_VERSION_STRING);
    row_text(html, "side by side", c->side_by_side);
    html_print(html, "</tbody></table></div>\n");
}

static const char *on_off(bool on)
{
    return on ? "on" : "off";
}

static void write_other(struct html *html, bool *first, const char *format, double value)
{
    html_print(html, "%s", *first ? "" : ", ");
    html_number(html, format, value, "–");
    *first = false;
}

/* What stands at another value than the library's default and has no column. */
static void write_others(struct html *html, const draftattn_plan_desc *a)
{
    const draftattn_plan_desc usual = draftattn_plan_desc_default();
    bool first = true;
    if (a->key_block != usual.key_block)
        write_other(html, &first, "key block %g", a->key_block);
    if (a->score == DRAFTATTN_SCORE_SPREAD)
        write_other(html, &first, "score spread", 0);
    if (a->row_floor != usual.row_floor)
        write_other(html, &first, "row floor %g", a->row_floor);
    if (a->head_spread != usual.head_spread)
        write_other(html, &first, "head spread %g", a->head_spread);
    if (a->min_tokens != usual.min_tokens)
        write_other(html, &first, "min tokens %g", (double)a->min_tokens);
    if (a->dense_layer_count > 0)
        write_other(html, &first, "%g dense layers", a->dense_layer_count);
    if (first)
        html_print(html, "–");
}

static void write_variant(struct html *html, const struct comparison_variant *v)
{
    const draftattn_plan_desc *a = &v->attention;
    const struct generate_report *r = &v->report;
    bool dense = a->policy == DRAFTATTN_POLICY_DENSE, draft = a->policy == DRAFTATTN_POLICY_DRAFT;
    html_print(html, "<tr><th scope=\"row\">");
    html_text(html, v->label, 0);
    html_print(html, "</th><td>%s</td><td>", draftattn_policy_name(a->policy));
    html_number(html, "%g", dense ? 0 : a->sparsity, "–");
    html_print(html, "</td><td>");
    html_number(html, "%g", dense ? 1 : a->dense_steps, "–");
    html_print(html, "</td><td>%d</td><td>%s</td><td>%s</td><td>%lld of %lld</td><td>",
               dense ? 0 : a->probes, on_off(draft && a->compensation), on_off(draft && a->repair),
               (long long)r->attention.dense_calls, (long long)r->attention.calls);
    write_others(html, a);
    html_print(html, "</td><td>");
    html_text(html, r->backend ? r->backend : "–", 0);
    html_print(html, ", ");
    html_text(html, r->kernel ? r->kernel : "–", 0);
    html_print(html, "</td><td><bdi>");
    html_text(html, v->video ? v->video : "–", TEXT_LIMIT);
    html_print(html, "</bdi>");
    if (r->encoder) {
        html_print(html, " (");
        html_text(html, r->encoder, 0);
        html_print(html, ")");
    }
    html_print(html, "</td></tr>\n");
}

static void write_variants(struct html *html, const struct comparison *c)
{
    html_print(html, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of "
                     "variants\"><table class=\"facts\"><thead><tr>");
    static const char *const names[] = {"variant",        "policy",       "sparsity", "dense steps",
                                        "probes",         "compensation", "repair",   "dense calls",
                                        "other settings", "kernel",       "file"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        html_print(html, "<th scope=\"col\">%s</th>", names[i]);
    html_print(html, "</tr></thead><tbody>\n");
    for (int64_t v = 0; v < c->variant_count; v++)
        write_variant(html, &c->variants[v]);
    html_print(html, "</tbody></table></div>\n");
}

/* What ran and why, in the words of the plan. */
static void write_words(struct html *html, const struct comparison *c)
{
    html_print(html, "<details><summary>What attention did in the last step, and why</summary>"
                     "<dl>\n");
    for (int64_t v = 0; v < c->variant_count; v++) {
        html_print(html, "<dt>");
        html_text(html, c->variants[v].label, 0);
        html_print(html, "</dt><dd>");
        html_text(html, c->variants[v].words[0] ? c->variants[v].words : "–", 0);
        html_print(html, "</dd>\n");
    }
    html_print(html, "</dl></details>\n");
}

bool report_settings(struct report *report, struct error *error)
{
    const struct comparison *c = report->comparison;
    struct html *html = &report->html;
    (void)error;
    html_print(html, "<div class=\"command\"><pre id=\"command\" tabindex=\"0\"><bdi>");
    html_text(html, c->command ? c->command : "", TEXT_LIMIT);
    html_print(html, "</bdi></pre><button type=\"button\" id=\"copy\">Copy</button></div>\n");
    write_common(html, c);
    write_variants(html, c);
    write_words(html, c);
    return true;
}
