/*
 * A comparison as the report may meet it: a dense run, a variant with maps and errors, and one
 * whose video is identical. Every value is simple enough to say what the page must show. Texts may
 * be replaced before the report is written.
 */
#ifndef TESTS_COMPARISON_CASE_H
#define TESTS_COMPARISON_CASE_H

#include "comparison.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CASE_WIDTH = 96,
    CASE_HEIGHT = 64,
    CASE_FRAMES = 12,
    CASE_STEPS = 4,
    CASE_LAYERS = 3,
    CASE_HEADS = 2,
    CASE_VARIANTS = 3,
    CASE_MAPS = 2,
    CASE_WORST = 7, /* the worst frame of the first variant */
};

struct comparison_case {
    struct comparison comparison;
    struct generate_settings settings;
    struct comparison_variant variants[CASE_VARIANTS];
};

/* A smooth moving field; shift moves it in colour. */
static inline void case_frames(struct comparison_variant *variant, int shift)
{
    variant->frames = malloc((size_t)3 * CASE_WIDTH * CASE_HEIGHT * CASE_FRAMES);
    uint8_t *at = variant->frames;
    for (int t = 0; t < CASE_FRAMES; t++)
        for (int y = 0; y < CASE_HEIGHT; y++)
            for (int x = 0; x < CASE_WIDTH; x++) {
                *at++ = (uint8_t)(40 + x + t + shift);
                *at++ = (uint8_t)(60 + 2 * y);
                *at++ = (uint8_t)(90 + 4 * t);
            }
}

static inline void case_quality(struct comparison_quality *quality, bool identical)
{
    quality->psnr = malloc(CASE_FRAMES * sizeof *quality->psnr);
    quality->ssim = malloc(CASE_FRAMES * sizeof *quality->ssim);
    for (int t = 0; t < CASE_FRAMES; t++) {
        quality->psnr[t] = identical || t == 2 ? INFINITY : t == CASE_WORST ? 21.5 : 30 + t;
        quality->ssim[t] = identical || t == 2 ? 1 : t == CASE_WORST ? 0.8125 : 0.9 + 0.001 * t;
    }
    quality->psnr_all = quality->psnr_rgb = identical ? INFINITY : 28.25;
    quality->ssim_all = identical ? 1 : 0.9375;
    quality->worst_frame = identical ? 0 : CASE_WORST;
}

/* blocks x blocks, a band about the diagonal; one value is NaN. */
static inline void case_map(struct comparison_map *map, int32_t head, int64_t blocks)
{
    *map = (struct comparison_map){.step = 2,
                                   .layer = 1,
                                   .head = head,
                                   .query_blocks = blocks,
                                   .key_blocks = blocks,
                                   .density = 0.25,
                                   .error = head ? NAN : 0.125,
                                   .error_before = head ? NAN : 0.25};
    map->map = malloc((size_t)(blocks * blocks) * sizeof *map->map);
    map->mask = malloc((size_t)(blocks * blocks));
    for (int64_t i = 0; i < blocks; i++)
        for (int64_t j = 0; j < blocks; j++) {
            map->map[i * blocks + j] = (float)exp(-0.5 * fabs((double)(i - j))) / (float)blocks;
            map->mask[i * blocks + j] = i - j < 3 && j - i < 3;
        }
    map->map[1] = NAN;
}

static inline void case_variant(struct comparison_variant *v, int number)
{
    static const char *const labels[CASE_VARIANTS] = {"dense", "draft 75 %", "draft 0 %"};
    static const char *const files[CASE_VARIANTS] = {"out/dense.mp4", "out/a.mp4", "out/b.mp4"};
    strcpy(v->label, labels[number]);
    v->video = strdup(files[number]);
    v->attention = draftattn_plan_desc_default();
    v->attention.policy = number ? DRAFTATTN_POLICY_DRAFT : DRAFTATTN_POLICY_DENSE;
    v->report = (struct generate_report){.seconds = {0.5, 0.5, number == 1 ? 4 : 8, 2, 0.5},
                                         .total_seconds = number == 1 ? 8 : 12,
                                         .backend = "portable",
                                         .kernel = "attend_portable",
                                         .encoder = "libx264",
                                         .tokens = 2304,
                                         .memory_peak = 300 << 20};
    v->report.attention = (struct self_attention_report){
        .calls = 24,
        .dense_calls = number == 1 ? 6 : 24,
        .density = number == 1 ? 0.25 : 1,
        .density_all = number == 1 ? 0.4375 : 1,
        .error_median = number == 1 ? 0.0625 : NAN,
        .error_worst = number == 1 ? 0.375 : NAN,
        .seconds = {0.25, 0.25, 0.25, 0.25, number == 1 ? 0.75 : 5, 0.25}};
    v->attention_seconds = number == 1 ? 2 : 6;
    v->quality.psnr = v->quality.ssim = NULL;
    case_frames(v, number == 1 ? 5 : 0);
    case_quality(&v->quality, number != 1);
    v->error_median = malloc(CASE_STEPS * CASE_LAYERS * sizeof *v->error_median);
    v->error_worst = malloc(CASE_STEPS * CASE_LAYERS * sizeof *v->error_worst);
    for (int i = 0; i < CASE_STEPS * CASE_LAYERS; i++) {
        bool dense = number != 1 || i < CASE_LAYERS;
        v->error_median[i] = dense ? NAN : 0.03125F * (float)(i - CASE_LAYERS);
        v->error_worst[i] = dense ? NAN : 0.0625F * (float)(i - CASE_LAYERS);
    }
    if (number == 1) {
        v->maps = calloc(CASE_MAPS, sizeof *v->maps);
        v->map_count = CASE_MAPS;
        case_map(&v->maps[0], 0, 18);
        case_map(&v->maps[1], 1, 300);
    }
}

static inline void case_open(struct comparison_case *c)
{
    *c = (struct comparison_case){0};
    c->settings = generate_settings_default();
    c->settings.seed = 4242;
    c->settings.guidance = 4;
    c->settings.flow_shift = 3;
    c->settings.sampler = "unipc";
    for (int i = 0; i < CASE_VARIANTS; i++)
        case_variant(&c->variants[i], i);
    c->comparison = (struct comparison){.model = "models/tiny/checkpoint",
                                        .prompt = "a red ball",
                                        .settings = &c->settings,
                                        .command = "draftattn compare -p 'a red ball'",
                                        .machine = "a machine, 2 threads",
                                        .width = CASE_WIDTH,
                                        .height = CASE_HEIGHT,
                                        .frames = CASE_FRAMES,
                                        .steps = CASE_STEPS,
                                        .layers = CASE_LAYERS,
                                        .heads = CASE_HEADS,
                                        .fps = 8,
                                        .variants = c->variants,
                                        .variant_count = CASE_VARIANTS};
}

static inline void case_close(struct comparison_case *c)
{
    for (int i = 0; i < CASE_VARIANTS; i++) {
        struct comparison_variant *v = &c->variants[i];
        for (int64_t k = 0; k < v->map_count; k++) {
            free(v->maps[k].map);
            free(v->maps[k].mask);
        }
        free(v->maps);
        free(v->video);
        free(v->frames);
        free(v->quality.psnr);
        free(v->quality.ssim);
        free(v->error_median);
        free(v->error_worst);
    }
}

/* What a prompt may hold to break out of the markup it stands in. */
#define CASE_HOSTILE                                                                               \
    "</script><script>document.title='broken'</script><img src=x onerror=document.title='broken'>" \
    "\" onload=\"document.title='broken' ' & &amp; --> ]]> \x01\x7f \xc3\xa9 \xe7\x8c\xab "        \
    "\xf0\x9f\x8e\x88 \xff\xfe \xc0\xaf \xed\xa0\x80 \xe2\x80\xae rtl"

#endif
