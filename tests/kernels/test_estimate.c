/*
 * The error that probe rows estimate, and what repair does to it, on queries, keys and values of
 * the bundled trained model: every layer and head at three noise levels of one clip. The dense run
 * that the network itself makes gives the truth. On random numbers both promises would be empty.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "check_kernels.h"

#include "io/checkpoint.h"
#include "io/model_folder.h"
#include "models/self_attention.h"
#include "models/wan_transformer.h"
#include "tensor/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, HEAD_DIM = 128, WIDTH = HEADS * HEAD_DIM, LEVELS = 3, LAYERS = 8 };
enum { CHANNELS = 16, FRAMES = 9, HEIGHT = 32, LATENTS = CHANNELS * FRAMES * HEIGHT * HEIGHT };
enum { TOKENS = FRAMES * HEIGHT / 2 * HEIGHT / 2, PAIRS = LEVELS * LAYERS * HEADS };

/* Judged at one density. */
struct trial {
    double density;
    int heads, repaired;
    int estimates, close;         /* two a head: before and after repair */
    double worst_harm;            /* largest true error after repair / before */
    double plain, repaired_error; /* sums of squares of true relative errors */
};

struct bench {
    draftattn_context *context;
    struct trial trials[2];
    float *plain, *repaired; /* outputs [TOKENS][WIDTH] */
};

static void must(bool ok, const struct error *error)
{
    if (!ok) {
        fail_msg("%s", error->text);
    }
}

static draftattn_tensor view(const float *data, int64_t stride)
{
    return (draftattn_tensor){
        .data = (void *)(uintptr_t)data, /* inputs are only read */
        .dtype = DRAFTATTN_F32,
        .shape = {1, HEADS, TOKENS, HEAD_DIM},
        .stride = {0, HEAD_DIM, stride, 1},
    };
}

static double relative_error(const float *got, const float *want, int64_t want_stride, int head)
{
    double error = 0, norm = 0;

    for (int64_t token = 0; token < TOKENS; token++) {
        for (int64_t d = head * HEAD_DIM; d < (head + 1) * HEAD_DIM; d++) {
            double w = want[token * want_stride + d], e = got[token * WIDTH + d] - w;
            error += e * e;
            norm += w * w;
        }
    }
    return sqrt(error / norm);
}

static void run_sparse(struct bench *bench, double density, int32_t repair,
                       const draftattn_tensor qkv[3], float *out, draftattn_head_stats *heads)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    draftattn_plan *plan;
    size_t size;

    desc.grid = (draftattn_grid){FRAMES, HEIGHT / 2, HEIGHT / 2, 0};
    desc.heads = HEADS;
    desc.head_dim = HEAD_DIM;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    desc.sparsity = 1 - density;
    desc.min_tokens = 1; /* sparse whatever it costs */
    desc.dense_steps = 0;
    desc.probes = 256;
    desc.repair = repair;
    assert_int_equal(draftattn_plan_create(&plan, bench->context, &desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_workspace_size(plan, &size), DRAFTATTN_SUCCESS);
    void *workspace = check_alloc(size);
    draftattn_tensor o = view(out, WIDTH);
    draftattn_stats stats;
    assert_int_equal(
        draftattn_run(plan, NULL, &qkv[0], &qkv[1], &qkv[2], &o, NULL, NULL, workspace, size, NULL),
        DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_read_stats(plan, workspace, &stats, heads), DRAFTATTN_SUCCESS);
    free(workspace);
    draftattn_plan_destroy(plan);
}

/* One layer of one forward pass: o is what dense attention gave. */
static void judge_layer(void *user, const draftattn_step *step, const float *q, const float *k,
                        const float *v, int64_t qkv_stride, const float *o, int64_t o_stride)
{
    struct bench *bench = user;
    const draftattn_tensor qkv[3] = {view(q, qkv_stride), view(k, qkv_stride), view(v, qkv_stride)};
    draftattn_head_stats before[HEADS], after[HEADS];

    (void)step;
    for (int i = 0; i < 2; i++) {
        struct trial *trial = &bench->trials[i];
        run_sparse(bench, trial->density, 0, qkv, bench->plain, before);
        run_sparse(bench, trial->density, 1, qkv, bench->repaired, after);
        for (int head = 0; head < HEADS; head++) {
            double plain = relative_error(bench->plain, o, o_stride, head);
            double repaired = relative_error(bench->repaired, o, o_stride, head);
            trial->heads++;
            trial->estimates += 2;
            trial->close += fabs(before[head].error / plain - 1) <= 0.25;
            trial->close += fabs(after[head].error / repaired - 1) <= 0.25;
            trial->repaired += after[head].repaired;
            trial->worst_harm = fmax(trial->worst_harm, repaired / plain);
            trial->plain += plain * plain;
            trial->repaired_error += repaired * repaired;
        }
    }
}

/* --- the network --------------------------------------------------------------------------- */

struct network {
    const struct ops *ops;
    struct device *device;
    struct wan_transformer *transformer;
    struct wan_context *text;
    struct self_attention *attention;
    float *clip, *noise;
};

static void read_floats(const struct checkpoint *file, const char *name, float *out, int64_t count)
{
    const struct stored_tensor *tensor = checkpoint_find(file, name);

    assert_non_null(tensor);
    assert_int_equal(tensor->bytes, (size_t)count * sizeof(float));
    memcpy(out, tensor->data, tensor->bytes);
}

static void load_network(struct network *network, draftattn_context *context)
{
    struct model_folder folder;
    struct wan_transformer_config config;
    struct checkpoint *weights, *sampling;
    struct error error = {0};
    draftattn_plan_desc desc = draftattn_plan_desc_default();

    network->ops = &ops_cpu;
    must(network->ops->create(&network->device, &(struct device_desc){0}, &error), &error);
    must(model_folder_open(&folder, TEST_SOURCE_DIR "/samples/tiny-world/checkpoint", &error),
         &error);
    must(wan_transformer_config_read(&config, folder.transformer_config, &error), &error);
    assert_int_equal(config.layers, LAYERS);
    must(checkpoint_open(&weights, folder.transformer, &error), &error);
    checkpoint_set_rename(weights, folder.rename_transformer);
    must(wan_transformer_load(&network->transformer, &config, weights, network->ops,
                              network->device, NULL, &error),
         &error);
    checkpoint_close(weights);

    must(checkpoint_open(&sampling,
                         TEST_SOURCE_DIR "/tests/golden/cases/tiny-world/sampling.safetensors",
                         &error),
         &error);
    network->clip = check_alloc(LATENTS * sizeof(float));
    network->noise = check_alloc(LATENTS * sizeof(float));
    read_floats(sampling, "latents", network->clip, LATENTS);
    read_floats(sampling, "noise", network->noise, LATENTS);
    const struct stored_tensor *embeds = checkpoint_find(sampling, "prompt_embeds");
    assert_non_null(embeds);
    float *text = check_alloc(embeds->bytes);
    memcpy(text, embeds->data, embeds->bytes);
    must(wan_context_create(&network->text, network->transformer, text, embeds->shape[0],
                            config.text_len, NULL, 0, &error),
         &error);
    free(text);
    checkpoint_close(sampling);

    desc.grid = (draftattn_grid){FRAMES, HEIGHT / 2, HEIGHT / 2, 0};
    desc.heads = HEADS;
    desc.head_dim = HEAD_DIM;
    desc.policy = DRAFTATTN_POLICY_DENSE;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    must(self_attention_create(&network->attention, context, &desc, LAYERS, network->ops,
                               network->device, &error),
         &error);
}

static void free_network(struct network *network)
{
    self_attention_destroy(network->attention);
    wan_context_free(network->text);
    wan_transformer_free(network->transformer);
    network->ops->destroy(network->device);
    free(network->clip);
    free(network->noise);
}

/* The clip at three noise levels, as the network sees it while it denoises. */
static void forward_all(struct network *network)
{
    static const double sigmas[LEVELS] = {0.8, 0.5, 0.25};
    float *noisy = check_alloc(LATENTS * sizeof(float));
    float *velocity = check_alloc(LATENTS * sizeof(float));

    for (int level = 0; level < LEVELS; level++) {
        struct error error = {0};
        draftattn_step step = {.step = level, .steps = LEVELS, .sigma = (float)sigmas[level]};
        for (int64_t i = 0; i < LATENTS; i++) {
            noisy[i] =
                (float)((1 - sigmas[level]) * network->clip[i] + sigmas[level] * network->noise[i]);
        }
        must(wan_transformer_forward(network->transformer, noisy, FRAMES, HEIGHT, HEIGHT,
                                     1000 * sigmas[level], network->text, network->attention, &step,
                                     velocity, &error),
             &error);
    }
    free(noisy);
    free(velocity);
}

static void test_estimate_and_repair_on_a_trained_model(void **state)
{
    struct bench bench = {.trials = {{.density = 0.1}, {.density = 0.3}}};
    struct network network = {0};

    (void)state;
    assert_int_equal(draftattn_context_create(&bench.context, NULL), DRAFTATTN_SUCCESS);
    bench.plain = check_alloc(TOKENS * WIDTH * sizeof(float));
    bench.repaired = check_alloc(TOKENS * WIDTH * sizeof(float));
    load_network(&network, bench.context);
    self_attention_set_tap(network.attention, judge_layer, &bench);
    forward_all(&network);
    for (int i = 0; i < 2; i++) {
        const struct trial *trial = &bench.trials[i];
        printf("density %.2f, %d heads: relative L2 %.4f, repaired %.4f (%d heads, worst factor "
               "%.3f); "
               "estimates within 25 %%: %d of %d\n",
               trial->density, trial->heads, sqrt(trial->plain / trial->heads),
               sqrt(trial->repaired_error / trial->heads), trial->repaired, trial->worst_harm,
               trial->close, trial->estimates);
        assert_int_equal(trial->heads, PAIRS);
        assert_true(trial->close >= 0.9 * trial->estimates);
        assert_true(trial->worst_harm <= 1.02);
        assert_true(trial->repaired_error < trial->plain);
    }
    free_network(&network);
    free(bench.plain);
    free(bench.repaired);
    draftattn_context_destroy(bench.context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_estimate_and_repair_on_a_trained_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
