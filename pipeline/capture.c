/*
 * Attention calls on the way, and what is kept of them.
 *
 * Owns the books of errors and the copies of maps. Which head is worst is known at the end only, so
 * the worst so far is kept and replaced; that happens a few times a run, as records do. Maps are of
 * the prompt's pass, which comes first, but for the worst head's.
 */
#include "capture.h"

#include "clock.h"
#include "median.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SPREAD 5

struct capture {
    struct capture_desc desc;
    struct capture_place places[CAPTURE_PLACES_MAX];
    int32_t place_count;
    bool placed;                                        /* places are given or chosen */
    struct comparison_map maps[CAPTURE_PLACES_MAX + 1]; /* the last is the worst head's */
    double worst;                                       /* its error */
    float *errors;   /* [steps][layers][passes * heads], those of sparse calls that are known */
    int32_t *counts; /* [steps][layers]: how many of them there are */
    bool *seen;      /* [steps][layers]: a pass was here */
    float *map;      /* [heads][query blocks][key blocks]; allocated when first needed */
    draftattn_block_list list;
    char words[sizeof((struct comparison_variant *)0)->words];
    bool words_dense; /* words are of a dense call */
    double seconds;
    struct error trouble; /* why maps are no longer taken */
};

bool capture_create(struct capture **out, const struct capture_desc *desc, struct error *error)
{
    struct capture *capture = calloc(1, sizeof *capture);
    size_t calls = (size_t)desc->steps * (size_t)desc->layers;
    size_t heads = (size_t)desc->passes * (size_t)desc->heads;
    *out = NULL;
    if (!capture)
        return error_out_of_memory(error, "the capture of attention", sizeof *capture);
    capture->desc = *desc;
    capture->worst = -1;
    capture->placed = desc->place_count > 0;
    capture->place_count = desc->place_count;
    for (int32_t i = 0; i < desc->place_count; i++)
        capture->places[i] = desc->places[i];
    capture->errors = calloc(calls * heads + 1, sizeof *capture->errors);
    capture->counts = calloc(calls + 1, sizeof *capture->counts);
    capture->seen = calloc(calls + 1, sizeof *capture->seen);
    if (!capture->errors || !capture->counts || !capture->seen) {
        capture_destroy(capture);
        return error_out_of_memory(error, "the capture of attention", calls * heads * 4);
    }
    *out = capture;
    return true;
}

static void free_map(struct comparison_map *map)
{
    free(map->map);
    free(map->mask);
    *map = (struct comparison_map){0};
}

void capture_destroy(struct capture *capture)
{
    if (!capture)
        return;
    for (int32_t i = 0; i <= CAPTURE_PLACES_MAX; i++)
        free_map(&capture->maps[i]);
    free(capture->errors);
    free(capture->counts);
    free(capture->seen);
    free(capture->map);
    free(capture->list.row_ptr);
    free(capture->list.block_idx);
    free(capture);
}

const char *capture_trouble(const struct capture *capture)
{
    return capture->trouble.text[0] ? capture->trouble.text : NULL;
}

double capture_seconds(const struct capture *capture)
{
    return capture->seconds;
}

/* ---- places ---------------------------------------------------------------------------------- */

static bool is_dense(const draftattn_plan *plan, const draftattn_step *step)
{
    int32_t dense = 1;
    return draftattn_plan_is_dense(plan, step, &dense) != DRAFTATTN_SUCCESS || dense;
}

/* Among the layers of the last step, or the steps of a layer where one is given: the first (part
 * 0), middle (1) or last (2) of those that are sparse; -1 for none. sigma of later steps is unknown
 * here, so that a guard by sigma may leave fewer. */
static int32_t sparse_one(const struct capture *capture, const draftattn_plan *plan, int32_t layer,
                          int32_t part)
{
    const struct capture_desc *d = &capture->desc;
    int32_t limit = layer < 0 ? d->layers : d->steps, count = 0, found = -1;
    for (int32_t i = 0; i < limit + limit; i++) { /* counts them, then stops at the one */
        draftattn_step at = {.step = d->steps - 1, .steps = d->steps, .layer = layer, .sigma = -1};
        *(layer < 0 ? &at.layer : &at.step) = i % limit;
        if (is_dense(plan, &at))
            continue;
        if (i < limit)
            count++;
        else if (++found == part * (count - 1) / 2)
            return i % limit;
    }
    return -1;
}

static void choose_spread(struct capture *capture, const draftattn_plan *plan)
{
    static const int8_t parts[SPREAD][2] = {{1, 1}, {0, 1}, {2, 1}, {1, 0}, {1, 2}};
    capture->placed = true;
    for (int32_t i = 0; i < SPREAD; i++) {
        int32_t layer = sparse_one(capture, plan, -1, parts[i][0]);
        int32_t step = layer < 0 ? -1 : sparse_one(capture, plan, layer, parts[i][1]);
        bool known = false;
        for (int32_t j = 0; j < capture->place_count; j++)
            known |= capture->places[j].layer == layer && capture->places[j].step == step;
        if (step >= 0 && !known)
            capture->places[capture->place_count++] =
                (struct capture_place){layer, i % capture->desc.heads, step};
    }
}

/* ---- one call -------------------------------------------------------------------------------- */

static bool make_room(struct capture *capture, const draftattn_plan_info *info, struct error *error)
{
    size_t rows = (size_t)capture->desc.heads * (size_t)info->query_blocks + 1;
    size_t cells = (size_t)capture->desc.heads * (size_t)info->video_query_blocks *
                   (size_t)info->video_key_blocks;
    if (capture->map)
        return true;
    capture->list.capacity = info->max_list_entries;
    capture->list.row_ptr = malloc(rows * sizeof *capture->list.row_ptr);
    capture->list.block_idx =
        malloc((size_t)info->max_list_entries * sizeof *capture->list.block_idx);
    capture->map = malloc(cells * sizeof *capture->map);
    if (capture->list.row_ptr && capture->list.block_idx && capture->map)
        return true;
    return error_out_of_memory(error, "a draft map", cells * sizeof *capture->map);
}

/* Draft map and block list of all heads into the capture's own room. */
static bool look(struct capture *capture, struct self_attention *attention,
                 draftattn_plan_info *info)
{
    struct error *error = &capture->trouble;
    if (draftattn_plan_info_get(self_attention_plan(attention), info) != DRAFTATTN_SUCCESS)
        return error_set(error, "the capture of attention: no plan");
    return make_room(capture, info, error) &&
           self_attention_block_list(attention, &capture->list, error) &&
           self_attention_draft_map(attention, capture->map, error);
}

/* One head of what look() saw. */
static bool keep_map(struct capture *capture, const draftattn_plan_info *info,
                     const draftattn_head_stats *heads, const draftattn_step *step, int32_t head,
                     struct comparison_map *out)
{
    int64_t rows = info->video_query_blocks, columns = info->video_key_blocks;
    size_t cells = (size_t)(rows * columns);
    free_map(out);
    *out = (struct comparison_map){
        .step = step->step,
        .layer = step->layer,
        .head = head,
        .query_blocks = rows,
        .key_blocks = columns,
        .map = malloc(cells * sizeof *out->map),
        .mask = calloc(cells, 1),
        .density = heads[head].density,
        .error = heads[head].error,
        .error_before = heads[head].error_before,
    };
    if (!out->map || !out->mask) {
        free_map(out);
        return error_out_of_memory(&capture->trouble, "a draft map", cells * 5);
    }
    memcpy(out->map, capture->map + (size_t)head * cells, cells * sizeof *out->map);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t *range = capture->list.row_ptr + head * info->query_blocks + row;
        for (int64_t i = range[0]; i < range[1]; i++)
            if (capture->list.block_idx[i] < columns) /* text blocks follow the video's */
                out->mask[row * columns + capture->list.block_idx[i]] = 1;
    }
    return true;
}

/* Books the errors of a sparse call; the head that is worse than all before, or -1. */
static int32_t count_errors(struct capture *capture, const draftattn_head_stats *heads, size_t call)
{
    const struct capture_desc *d = &capture->desc;
    int32_t limit = d->passes * d->heads, worst = -1;
    float *errors = capture->errors + call * (size_t)limit;
    for (int32_t head = 0; head < d->heads; head++) {
        float error = heads[head].error;
        if (isnan(error) || capture->counts[call] == limit)
            continue;
        errors[capture->counts[call]++] = error;
        if (error > capture->worst) {
            capture->worst = error;
            worst = head;
        }
    }
    return worst;
}

/* Of the last step, the first call that is sparse; the first of all where none is. */
static void describe(struct capture *capture, const struct self_attention *attention,
                     const draftattn_step *step, bool dense)
{
    bool better = !capture->words[0] || (capture->words_dense && !dense);
    if (step->step != capture->desc.steps - 1 || !better)
        return;
    self_attention_describe(attention, step, capture->words, sizeof capture->words);
    capture->words_dense = dense;
}

static void take_call(struct capture *capture, struct self_attention *attention,
                      const draftattn_step *step)
{
    const draftattn_plan *plan = self_attention_plan(attention);
    const draftattn_head_stats *heads = self_attention_heads(attention);
    bool dense = is_dense(plan, step);
    describe(capture, attention, step, dense);
    if (dense)
        return;
    if (!capture->placed)
        choose_spread(capture, plan);
    size_t call = (size_t)step->step * (size_t)capture->desc.layers + (size_t)step->layer;
    int32_t worst = count_errors(capture, heads, call);
    bool first = !capture->seen[call], looked = false;
    capture->seen[call] = true;
    draftattn_plan_info info;
    for (int32_t i = 0; i <= capture->place_count && !capture->trouble.text[0]; i++) {
        bool record = i == capture->place_count;
        const struct capture_place *at = &capture->places[i];
        bool wanted = record ? worst >= 0 && capture->desc.place_count == 0
                             : first && at->layer == step->layer && at->step == step->step;
        if (!wanted)
            continue;
        if (!looked && !look(capture, attention, &info))
            return;
        looked = true;
        struct comparison_map *map = &capture->maps[record ? CAPTURE_PLACES_MAX : i];
        if (!keep_map(capture, &info, heads, step, record ? worst : at->head, map))
            return;
        map->negative = !first;
    }
}

void capture_attention(struct capture *capture, struct self_attention *attention,
                       const draftattn_step *step)
{
    double start = clock_seconds();
    const struct capture_desc *d = &capture->desc;
    bool known =
        step->step >= 0 && step->step < d->steps && step->layer >= 0 && step->layer < d->layers;
    if (known)
        take_call(capture, attention, step);
    capture->seconds += clock_seconds() - start;
}

/* ---- the end --------------------------------------------------------------------------------- */

static bool hand_over_errors(struct capture *capture, struct comparison_variant *variant,
                             struct error *error)
{
    size_t calls = (size_t)capture->desc.steps * (size_t)capture->desc.layers;
    size_t limit = (size_t)capture->desc.passes * (size_t)capture->desc.heads;
    variant->error_median = malloc(calls * sizeof(float));
    variant->error_worst = malloc(calls * sizeof(float));
    if (!variant->error_median || !variant->error_worst)
        return error_out_of_memory(error, "the errors of attention", 2 * calls * sizeof(float));
    for (size_t i = 0; i < calls; i++) {
        float *errors = capture->errors + i * limit;
        size_t count = (size_t)capture->counts[i];
        variant->error_median[i] = count ? (float)median_sort(errors, count) : (float)NAN;
        variant->error_worst[i] = count ? errors[count - 1] : (float)NAN;
    }
    return true;
}

static bool same_head(const struct comparison_map *a, const struct comparison_map *b)
{
    return a->step == b->step && a->layer == b->layer && a->head == b->head &&
           a->negative == b->negative;
}

bool capture_finish(struct capture *capture, struct comparison_variant *variant,
                    struct error *error)
{
    if (!hand_over_errors(capture, variant, error))
        return false;
    variant->maps = calloc(CAPTURE_PLACES_MAX + 1, sizeof *variant->maps);
    if (!variant->maps)
        return error_out_of_memory(error, "draft maps", sizeof *variant->maps);
    for (int32_t i = 0; i <= CAPTURE_PLACES_MAX; i++) {
        struct comparison_map *map = &capture->maps[i];
        bool again = false;
        for (int64_t j = 0; j < variant->map_count; j++)
            again |= same_head(map, &variant->maps[j]);
        if (!map->map || again)
            continue;
        variant->maps[variant->map_count++] = *map;
        *map = (struct comparison_map){0};
    }
    memcpy(variant->words, capture->words, sizeof variant->words);
    return true;
}
