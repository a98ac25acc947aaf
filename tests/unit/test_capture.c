/*
 * What compare keeps of attention: errors per step and layer against the library's statistics of
 * every call, maps and masks against what they have to be, and which heads are chosen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "capture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, HEAD_DIM = 64, WIDTH = HEADS * HEAD_DIM, TOKENS = 4 * 16 * 16 };
enum { STRIDE = 3 * WIDTH, BLOCKS = TOKENS / 128, STEPS = 4, LAYERS = 3, PASSES = 2 };

struct fixture {
    struct device *device;
    draftattn_context *context;
    draftattn_plan_desc desc;
    struct self_attention *attention;
    struct capture *capture;
    struct comparison_variant variant;
    float *qkv, *o;
    float errors[STEPS][LAYERS][PASSES * HEADS];
    float densities[STEPS][LAYERS][HEADS]; /* of the first pass */
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->qkv = malloc((size_t)TOKENS * STRIDE * sizeof *f->qkv);
    f->o = malloc((size_t)TOKENS * WIDTH * sizeof *f->o);
    f->desc = draftattn_plan_desc_default();
    f->desc.grid = (draftattn_grid){.frames = 4, .height = 16, .width = 16};
    f->desc.heads = HEADS;
    f->desc.head_dim = HEAD_DIM;
    f->desc.order = DRAFTATTN_ORDER_BLOCK;
    f->desc.sparsity = 0.5;
    f->desc.probes = 64;
    f->desc.dense_steps = 0.25;
    f->desc.min_tokens = 1;
    struct error error = {0};
    return ops_cpu.create(&f->device, &(struct device_desc){0}, &error) &&
                   draftattn_context_create(&f->context, NULL) == DRAFTATTN_SUCCESS
               ? 0
               : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (int64_t i = 0; i < f->variant.map_count; i++) {
        free(f->variant.maps[i].map);
        free(f->variant.maps[i].mask);
    }
    free(f->variant.maps);
    free(f->variant.error_median);
    free(f->variant.error_worst);
    capture_destroy(f->capture);
    self_attention_destroy(f->attention);
    draftattn_context_destroy(f->context);
    ops_cpu.destroy(f->device);
    free(f->qkv);
    free(f->o);
    free(f);
    return 0;
}

/* Every call has numbers of its own, so that a map from the wrong call would show. */
static void fill_qkv(struct fixture *f, int number)
{
    for (int64_t i = 0; i < (int64_t)TOKENS * STRIDE; i++)
        f->qkv[i] = sinf((float)(i / STRIDE) * 0.02f * (float)(i % STRIDE % 31 + number)) +
                    0.3f * sinf((float)i * 1.7f);
}

static void listen(void *user, const draftattn_step *step)
{
    struct fixture *f = user;
    capture_attention(f->capture, f->attention, step);
}

/* All steps, passes and layers of a generation in their order. */
static void generate(struct fixture *f, const struct capture_place *places, int32_t count)
{
    struct error error = {0};
    const struct capture_desc desc = {STEPS, LAYERS, HEADS, PASSES, places, count};
    assert_true(capture_create(&f->capture, &desc, &error));
    if (!self_attention_create(&f->attention, f->context, &f->desc, LAYERS, &ops_cpu, f->device,
                               &error))
        fail_msg("%s", error.text);
    self_attention_set_listener(f->attention, listen, f);
    for (int32_t step = 0; step < STEPS; step++)
        for (int32_t pass = 0; pass < PASSES; pass++)
            for (int32_t layer = 0; layer < LAYERS; layer++) {
                const draftattn_step at = {
                    .step = step, .steps = STEPS, .layer = layer, .sigma = -1};
                fill_qkv(f, (step * PASSES + pass) * LAYERS + layer);
                assert_true(self_attention_run(f->attention, &at, f->qkv, f->qkv + WIDTH,
                                               f->qkv + 2 * WIDTH, STRIDE, f->o, WIDTH, &error));
                const draftattn_head_stats *heads = self_attention_heads(f->attention);
                for (int32_t head = 0; head < HEADS; head++) {
                    f->errors[step][layer][pass * HEADS + head] = heads[head].error;
                    if (pass == 0)
                        f->densities[step][layer][head] = heads[head].density;
                }
            }
    if (!capture_finish(f->capture, &f->variant, &error))
        fail_msg("%s", error.text);
    assert_true(capture_seconds(f->capture) > 0);
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void errors_of_steps_and_layers(void **state)
{
    struct fixture *f = *state;
    generate(f, NULL, 0);
    for (int step = 0; step < STEPS; step++)
        for (int layer = 0; layer < LAYERS; layer++) {
            float median = f->variant.error_median[step * LAYERS + layer];
            float worst = f->variant.error_worst[step * LAYERS + layer];
            float *errors = f->errors[step][layer];
            if (step == 0) { /* dense by the guard */
                assert_true(isnan(median) && isnan(worst));
                continue;
            }
            qsort(errors, PASSES * HEADS, sizeof *errors, compare_floats);
            assert_true(worst == errors[PASSES * HEADS - 1] && worst > 0);
            assert_true(fabsf(median - (errors[1] + errors[2]) / 2) < 1e-7f);
        }
    assert_non_null(strstr(f->variant.words, "step 4 of 4"));
}

static void check_map(const struct comparison_map *map)
{
    assert_int_equal(map->query_blocks, BLOCKS);
    assert_int_equal(map->key_blocks, BLOCKS);
    int64_t kept = 0;
    for (int row = 0; row < BLOCKS; row++) {
        double sum = 0;
        int in_row = 0;
        for (int column = 0; column < BLOCKS; column++) {
            float share = map->map[row * BLOCKS + column];
            assert_true(share >= 0 && share <= 1);
            assert_true(map->mask[row * BLOCKS + column] <= 1);
            sum += share;
            in_row += map->mask[row * BLOCKS + column];
        }
        assert_true(fabs(sum - 1) < 1e-5);
        assert_true(in_row > 0);
        kept += in_row;
    }
    assert_true(fabs((double)kept / (BLOCKS * BLOCKS) - map->density) < 1e-6);
    assert_true(map->density < 1 && map->error > 0);
}

/* With the draft policy and the floor of every row at its budget, the mask is the best of each row
 * of the map: this ties the two to one call and one head. */
static void check_selection(const struct comparison_map *map)
{
    for (int row = 0; row < BLOCKS; row++) {
        float least_kept = INFINITY, most_left = -INFINITY;
        for (int column = 0; column < BLOCKS; column++) {
            float share = map->map[row * BLOCKS + column];
            if (map->mask[row * BLOCKS + column])
                least_kept = fminf(least_kept, share);
            else
                most_left = fmaxf(most_left, share);
        }
        assert_true(least_kept >= most_left);
    }
}

static void chosen_maps(void **state)
{
    struct fixture *f = *state;
    float worst = 0;
    generate(f, NULL, 0);
    static const int32_t wanted[5][2] = {{1, 2}, {0, 2}, {2, 2}, {1, 1}, {1, 3}}; /* layer, step */
    assert_in_range(f->variant.map_count, 5, 6);
    for (int64_t i = 0; i < f->variant.map_count; i++) {
        const struct comparison_map *map = &f->variant.maps[i];
        check_map(map);
        check_selection(map);
        if (i < 5) {
            assert_int_equal(map->layer, wanted[i][0]);
            assert_int_equal(map->step, wanted[i][1]);
            assert_int_equal(map->head, i % HEADS);
            assert_true(map->density == f->densities[map->step][map->layer][map->head]);
        }
        worst = fmaxf(worst, (float)map->error);
    }
    for (int i = 1; i < STEPS; i++) /* the head with the worst error is among them */
        for (int j = 0; j < LAYERS; j++)
            for (int k = 0; k < PASSES * HEADS; k++)
                assert_true(f->errors[i][j][k] <= worst);
}

static void asked_maps(void **state)
{
    struct fixture *f = *state;
    const struct capture_place places[] = {{2, 1, 3}, {0, 0, 0}, {2, 0, 3}, {0, 1, 1}};
    generate(f, places, 4);
    assert_int_equal(f->variant.map_count, 3); /* step 0 is dense */
    const struct comparison_map *maps = f->variant.maps;
    assert_true(maps[0].layer == 2 && maps[0].head == 1 && maps[0].step == 3);
    assert_true(maps[1].layer == 2 && maps[1].head == 0 && maps[1].step == 3);
    assert_true(maps[2].layer == 0 && maps[2].head == 1 && maps[2].step == 1);
    for (int i = 0; i < 3; i++)
        check_selection(&maps[i]);
    assert_memory_not_equal(maps[0].map, maps[1].map, BLOCKS * BLOCKS * sizeof(float));
}

static void without_probes(void **state)
{
    struct fixture *f = *state;
    f->desc.probes = 0;
    f->desc.repair = 0;
    generate(f, NULL, 0);
    assert_int_equal(f->variant.map_count, 5);
    assert_true(isnan(f->variant.maps[0].error));
    for (int i = 0; i < STEPS * LAYERS; i++)
        assert_true(isnan(f->variant.error_median[i]));
}

static void dense_runs(void **state)
{
    struct fixture *f = *state;
    f->desc.policy = DRAFTATTN_POLICY_DENSE;
    generate(f, NULL, 0);
    assert_int_equal(f->variant.map_count, 0);
    for (int i = 0; i < STEPS * LAYERS; i++)
        assert_true(isnan(f->variant.error_worst[i]));
    assert_non_null(strstr(f->variant.words, "dense"));
}

static void dense_layers(void **state)
{
    struct fixture *f = *state;
    static const int32_t layers[] = {0, 2};
    f->desc.dense_layers = layers;
    f->desc.dense_layer_count = 2;
    generate(f, NULL, 0);
    for (int64_t i = 0; i < f->variant.map_count; i++)
        assert_int_equal(f->variant.maps[i].layer, 1);
    assert_in_range(f->variant.map_count, 3, 4);
    assert_non_null(strstr(f->variant.words, "Layer 1, step 4 of 4")); /* 0 says less of the run */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(errors_of_steps_and_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(chosen_maps, setup, teardown),
        cmocka_unit_test_setup_teardown(asked_maps, setup, teardown),
        cmocka_unit_test_setup_teardown(without_probes, setup, teardown),
        cmocka_unit_test_setup_teardown(dense_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(dense_layers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
