/* The memory plan: it grows with what it is asked, tiles when memory is short, and what it proposes
 * fits. */
#include "memory_plan.h"
#include "system_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GIB ((int64_t)1 << 30)

/* Wan2.1 1.3B as published. */
static const struct model wan = {
    .transformer = {.heads = 12,
                    .head_dim = 128,
                    .layers = 30,
                    .ffn = 8960,
                    .in_channels = 16,
                    .out_channels = 16,
                    .text_dim = 4096,
                    .freq_dim = 256,
                    .text_len = 512,
                    .patch = {1, 2, 2},
                    .rope_max = 1024},
    .vae = {.base_dim = 96,
            .z_dim = 16,
            .res_blocks = 2,
            .dim_mult = {1, 2, 4, 4},
            .temporal_down = {false, true, true}},
    .text = {.vocab = 256384,
             .width = 4096,
             .heads = 64,
             .head_dim = 64,
             .ffn = 10240,
             .layers = 24,
             .buckets = 32,
             .max_distance = 128},
};

static struct memory_query query_of(int64_t width, int64_t height, int64_t frames)
{
    return (struct memory_query){
        .model = &wan,
        .width = width,
        .height = height,
        .frames = frames,
        .guided = true,
        .tile = VAE_TILE_AUTO,
        .attention = draftattn_plan_desc_default(),
        .available = 1000 * GIB,
    };
}

static int make_context(void **state)
{
    return draftattn_context_create((draftattn_context **)state, NULL) != DRAFTATTN_SUCCESS;
}

static int free_context(void **state)
{
    draftattn_context_destroy(*state);
    return 0;
}

static void test_grid(void **state)
{
    struct memory_query q = query_of(832, 480, 81);
    q.context = *state;
    draftattn_plan_desc desc = memory_plan_attention(&q);
    assert_int_equal(desc.grid.frames, 21);
    assert_int_equal(desc.grid.height, 30);
    assert_int_equal(desc.grid.width, 52);
    assert_int_equal(desc.heads, 12);
    assert_int_equal(desc.head_dim, 128);
    assert_int_equal(desc.order, DRAFTATTN_ORDER_BLOCK);
}

static void test_parts(void **state)
{
    struct memory_query q = query_of(832, 480, 81);
    struct memory_plan plan, larger;
    q.context = *state;
    assert_true(memory_plan_make(&plan, &q, NULL));
    /* 1.42e9 parameters in float32, packed */
    assert_true(plan.transformer_weights > 5 * GIB && plan.transformer_weights < 7 * GIB);
    assert_int_equal(plan.tiling.tile, 0);
    assert_true(plan.peak >= plan.encode && plan.peak >= plan.denoise && plan.peak >= plan.decode);
    assert_true(plan.peak == plan.encode || plan.peak == plan.denoise || plan.peak == plan.decode);
    q.frames = 161;
    assert_true(memory_plan_make(&larger, &q, NULL));
    assert_true(larger.denoise > plan.denoise && larger.latents > plan.latents);
    assert_int_equal(larger.transformer_weights, plan.transformer_weights);
    q.guided = false;
    assert_true(memory_plan_make(&plan, &q, NULL));
    assert_int_equal(larger.prompts, 2 * plan.prompts);
    char text[1024];
    int length = memory_plan_describe(&plan, &q, text, sizeof text);
    assert_true(length > 0 && (size_t)length < sizeof text);
    assert_non_null(strstr(text, "of 1024000 available"));
}

static void test_tiles(void **state)
{
    (void)state;
    struct memory_query q = query_of(1280, 720, 81);
    struct memory_plan whole, tiled;
    memory_plan_make_decode(&whole, &q);
    assert_int_equal(whole.tiling.tile, 0);
    q.available = whole.peak - 1;
    memory_plan_make_decode(&tiled, &q);
    assert_true(tiled.tiling.tile > 0 && tiled.tiling.stride > 0);
    assert_true(tiled.tiling.stride <= tiled.tiling.tile);
    assert_true(tiled.peak <= q.available);
    q.tile = VAE_TILE_OFF;
    memory_plan_make_decode(&tiled, &q);
    assert_int_equal(tiled.tiling.tile, 0);
    q.tile = 256;
    memory_plan_make_decode(&tiled, &q);
    assert_int_equal(tiled.tiling.tile, 32);
}

/* The clip, and the edges that tiles are mixed along: on a GPU they are the host's to hold. */
static void test_canvas(void **state)
{
    const int64_t clip = 81 * 1280 * 720 * 12, below = 3 * 81 * 192 * 768 * 12;
    const int64_t beside = 81 * 768 * 192 * 12;
    struct memory_query q = query_of(1280, 720, 81);
    struct memory_plan whole, tiled;
    struct error error = {.usage = false};
    char text[1024];
    memory_plan_make_decode(&whole, &q);
    assert_int_equal(whole.canvas, 0);
    q.tile = 768;
    memory_plan_make_decode(&tiled, &q);
    assert_int_equal(tiled.canvas, clip + below + beside);
    assert_true(tiled.vae_work > tiled.canvas);
    q.gpu = true;
    q.activations = ELEMENT_BF16;
    q.host_available = tiled.canvas;
    q.context = *state;
    assert_true(memory_plan_make(&tiled, &q, NULL));
    assert_int_equal(tiled.host, 0);
    assert_true(memory_plan_fits(&tiled, &q));
    memory_plan_describe(&tiled, &q, text, sizeof text);
    assert_non_null(strstr(text, "tiles meet in the host's memory 1401 of 1401"));
    q.host_available--;
    assert_false(memory_plan_fits(&tiled, &q));
    assert_false(memory_plan_refuse(&tiled, &q, &error));
    assert_non_null(strstr(error.text, "the VAE's tiles meet in the host's memory"));
}

static void test_fit(void **state)
{
    struct memory_query q = query_of(1664, 960, 81);
    struct memory_plan plan;
    struct model small_text = wan;
    q.context = *state;
    q.model = &small_text;
    small_text.text.layers = 1;
    small_text.text.vocab = 1000;
    q.available = 8 * GIB;
    assert_true(memory_plan_make(&plan, &q, NULL));
    assert_true(plan.peak > q.available && plan.transformer_weights < q.available);
    int64_t width = 0, height = 0;
    assert_true(memory_plan_fit(&q, &width, &height));
    assert_true(width > 0 && width < 1664 && width % 16 == 0 && height % 16 == 0);
    q.width = width;
    q.height = height;
    assert_true(memory_plan_make(&plan, &q, NULL));
    assert_true(plan.peak <= q.available);
    q.available = GIB; /* not even the weights */
    assert_false(memory_plan_fit(&q, &width, &height));
}

/* Sizes that no plan can be made for are still summed, quickly and without overflow. */
static void test_absurd(void **state)
{
    struct memory_query q = query_of(16384, 16384, 4093);
    struct memory_plan plan;
    q.context = *state;
    q.available = 16 * GIB;
    assert_true(memory_plan_make(&plan, &q, NULL));
    assert_true(plan.peak > 1000 * GIB);
    int64_t width = 0, height = 0;
    assert_false(memory_plan_fit(&q, &width, &height)); /* the text encoder needs more */
}

static void test_refused(void **state)
{
    struct memory_query q = query_of(832, 480, 81);
    struct memory_plan plan;
    struct error error = {0};
    q.context = *state;
    q.attention.policy = DRAFTATTN_POLICY_DRAFT_PAPER; /* 30 x 52 does not divide by 8 x 16 */
    q.attention.compensation = 0;
    assert_false(memory_plan_make(&plan, &q, &error));
    assert_true(error.usage);
    assert_non_null(strstr(error.text, "832x480"));
}

static struct memory_query gpu_query(const struct model *model, int64_t width, int64_t height)
{
    struct memory_query q = query_of(width, height, 81);
    q.model = model;
    q.gpu = true;
    q.activations = ELEMENT_BF16;
    q.available = 79 * GIB;
    q.host_available = 100 * GIB;
    return q;
}

/* What the published models need on a card; attention as a CPU would lay it out. */
static void test_gpu(void **state)
{
    struct model large;
    struct error error = {.usage = false};
    struct memory_plan plan, offloaded;
    assert_true(model_open_synthetic(&large, "wan2.1-t2v-14b", &error));
    struct memory_query q = gpu_query(&large, 1280, 720);
    q.context = *state;
    assert_true(memory_plan_make(&plan, &q, NULL));
    /* 14.29e9 parameters, few of them float32 */
    assert_true(plan.transformer_weights > 28550000000 && plan.transformer_weights < 29400000000);
    assert_true(plan.text_encoder > 9200000000 && plan.text_encoder < 10500000000);
    assert_true(plan.peak < 45000000000);
    assert_int_equal(plan.host, 0);
    assert_int_equal(plan.video, 0);
    assert_true(memory_plan_fits(&plan, &q));
    q.offload = true;
    assert_true(memory_plan_make(&offloaded, &q, NULL));
    assert_true(offloaded.peak < 22000000000);
    assert_true(offloaded.host > 26000000000 && offloaded.host < 29400000000);
    assert_int_equal(offloaded.transformer_work, plan.transformer_work);
    char text[1024];
    memory_plan_describe(&offloaded, &q, text, sizeof text);
    assert_non_null(strstr(text, "of the GPU"));
    assert_non_null(strstr(text, "offloaded"));
    q.host_available = 16 * GIB;
    assert_false(memory_plan_fits(&offloaded, &q));
    assert_false(memory_plan_refuse(&offloaded, &q, &error));
    assert_non_null(strstr(error.text, "--offload keeps"));
    model_close(&large);
}

/* What does not fit is refused with what would. */
static void test_gpu_refused(void **state)
{
    struct model large;
    struct error error = {.usage = false};
    struct memory_plan plan;
    int width = 0, height = 0;
    assert_true(model_open_synthetic(&large, "wan2.1-t2v-14b", &error));
    struct memory_query q = gpu_query(&large, 1280, 720);
    q.context = *state;
    q.available = 23 * GIB;
    assert_true(memory_plan_make(&plan, &q, NULL));
    assert_false(memory_plan_fits(&plan, &q));
    memory_plan_refuse(&plan, &q, &error);
    assert_non_null(strstr(error.text, "on the GPU"));
    assert_non_null(strstr(error.text, "--offload would fit"));
    assert_null(strstr(error.text, "--size")); /* the weights alone are more */
    q.available = 32 * GIB;
    assert_true(memory_plan_make(&plan, &q, NULL));
    memory_plan_refuse(&plan, &q, &error);
    const char *size = strstr(error.text, "--offload would fit, or --size ");
    assert_non_null(size);
    assert_int_equal(sscanf(strstr(size, "--size "), "--size %dx%d", &width, &height), 2);
    assert_true(width < 1280 && width % 16 == 0 && height < 720 && height % 16 == 0);
    q.available = 8 * GIB;
    assert_true(memory_plan_make(&plan, &q, NULL));
    memory_plan_refuse(&plan, &q, &error);
    assert_null(strstr(error.text, "would fit"));
    model_close(&large);
}

static void test_system(void **state)
{
    (void)state;
    int64_t before = system_memory_peak();
    assert_true(before > 1 << 20);
    size_t bytes = (size_t)64 << 20;
    volatile char *block = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 512)
        block[i] = 1;
    assert_true(system_memory_peak() >= before + ((int64_t)60 << 20));
    free((void *)block);
    int64_t available = system_memory_available();
    int64_t all = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    assert_true(available > 0 && available <= all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_system), cmocka_unit_test(test_grid),
        cmocka_unit_test(test_parts),  cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_canvas), cmocka_unit_test(test_fit),
        cmocka_unit_test(test_absurd), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_gpu),    cmocka_unit_test(test_gpu_refused),
    };
    return cmocka_run_group_tests(tests, make_context, free_context);
}
