/* Denoising and decoding as the program does them, nothing between the case and the networks. */
#include "golden_generation.h"

#include "denoise.h"

static bool open_weights(const struct golden_network *network, struct checkpoint **out,
                         struct error *error)
{
    if (!checkpoint_open(out, network->weights, error))
        return false;
    checkpoint_set_rename(*out, network->rename);
    return true;
}

static bool create_attention(const struct golden *golden, const struct golden_denoise *desc,
                             const struct wan_transformer_config *config,
                             struct self_attention **out, struct error *error)
{
    draftattn_plan_desc plan = draftattn_plan_desc_default();
    plan.grid = (draftattn_grid){.frames = desc->shape[1] / config->patch[0],
                                 .height = desc->shape[2] / config->patch[1],
                                 .width = desc->shape[3] / config->patch[2]};
    plan.heads = (int32_t)config->heads;
    plan.head_dim = (int32_t)config->head_dim;
    plan.policy = DRAFTATTN_POLICY_DENSE;
    plan.order = DRAFTATTN_ORDER_BLOCK;
    return self_attention_create(out, golden->context, &plan, (int32_t)config->layers, golden->ops,
                                 golden->device, error);
}

bool golden_denoise(const struct golden *golden, const struct golden_denoise *desc, float *latents,
                    struct error *error)
{
    struct wan_transformer_config config;
    struct checkpoint *weights = NULL;
    struct wan_transformer *transformer = NULL;
    struct wan_context *contexts[2] = {NULL, NULL};
    struct self_attention *attention = NULL;
    struct scheduler *scheduler = NULL;
    const int64_t *shape = desc->shape;
    struct scheduler_desc unipc = {.sampler = "unipc",
                                   .steps = (int32_t)desc->steps,
                                   .flow_shift = desc->flow_shift,
                                   .table = SCHEDULER_TABLE_DIFFUSERS};
    bool ok = wan_transformer_config_read(&config, desc->transformer.config, error) &&
              open_weights(&desc->transformer, &weights, error) &&
              wan_transformer_load(&transformer, &config, weights, golden->ops, golden->device,
                                   NULL, error) &&
              create_attention(golden, desc, &config, &attention, error) &&
              scheduler_create(&scheduler, &unipc, shape[0] * shape[1] * shape[2] * shape[3],
                               golden->ops, golden->device, error);
    for (int i = 0; ok && i < 2; i++)
        ok = wan_context_create(&contexts[i], transformer, desc->texts[i], desc->rows[i],
                                desc->pad_to, NULL, 0, error);
    if (ok) {
        struct denoise run = {.transformer = transformer,
                              .prompt = contexts[0],
                              .negative = contexts[1],
                              .guidance = desc->guidance,
                              .scheduler = scheduler,
                              .attention = attention,
                              .frames = shape[1],
                              .height = shape[2],
                              .width = shape[3],
                              .ops = golden->ops,
                              .device = golden->device};
        ok = denoise_run(&run, latents, NULL, error);
    }
    scheduler_destroy(scheduler);
    self_attention_destroy(attention);
    wan_context_free(contexts[1]);
    wan_context_free(contexts[0]);
    wan_transformer_free(transformer);
    checkpoint_close(weights);
    return ok;
}

bool golden_decode(const struct golden *golden, const struct golden_network *network,
                   const float *latents, const int64_t *shape, wan_vae_sink_fn sink, void *user,
                   struct error *error)
{
    struct wan_vae_config config;
    struct checkpoint *weights = NULL;
    struct wan_vae *vae = NULL;
    bool ok = wan_vae_config_read(&config, network->config, error) &&
              open_weights(network, &weights, error) &&
              wan_vae_load(&vae, &config, WAN_VAE_DECODER, weights, golden->ops, golden->device,
                           NULL, error) &&
              wan_vae_decode(vae, latents, shape[1], shape[2], shape[3], true, NULL, sink, user,
                             NULL, error);
    wan_vae_free(vae);
    checkpoint_close(weights);
    return ok;
}
