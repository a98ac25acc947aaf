/*
 * Options that generate and compare share, and the names of policies and backends. Owns how words
 * become settings; what the model makes of them is checked in generate_settings.c.
 */
#include "generation_options.h"

#include "suggest.h"

#include "../io/rng.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PROMPT (1 << 20)

static const char *policy_at(const void *user, size_t index)
{
    (void)user;
    return index <= DRAFTATTN_POLICY_DRAFT_PAPER ? draftattn_policy_name((draftattn_policy)index)
                                                 : NULL;
}

static const char *backend_at(const void *user, size_t index)
{
    (void)user;
    return index <= DRAFTATTN_BACKEND_CUDA ? draftattn_backend_name((draftattn_backend)index)
                                           : NULL;
}

/* Text as given, or the contents of @FILE in *buffer. */
static bool read_prompt(const char *flag, const char *given, const char **text, char **buffer,
                        struct error *error)
{
    *text = given;
    if (!given || given[0] != '@')
        return true;
    FILE *file = fopen(given + 1, "rb");
    if (!file)
        return error_set_usage(error, "%s %s: cannot read the file: %s", flag, given,
                               strerror(errno));
    *buffer = malloc(MAX_PROMPT + 1);
    size_t length = *buffer ? fread(*buffer, 1, MAX_PROMPT + 1, file) : 0;
    int reason = ferror(file) ? errno : 0;
    fclose(file);
    if (!*buffer)
        return error_out_of_memory(error, "the prompt", MAX_PROMPT);
    if (reason)
        return error_set_usage(error, "%s %s: cannot read the file: %s", flag, given,
                               strerror(reason));
    if (length > MAX_PROMPT)
        return error_set_usage(error, "%s %s: longer than 1 MiB", flag, given);
    if (memchr(*buffer, '\0', length))
        return error_set_usage(error, "%s %s: not a text file (it holds a zero byte)", flag, given);
    while (length && ((*buffer)[length - 1] == '\n' || (*buffer)[length - 1] == '\r'))
        length--;
    (*buffer)[length] = '\0';
    *text = *buffer;
    return true;
}

static bool take_size(const struct generation_arguments *a, struct generate_settings *s,
                      struct error *error)
{
    if (a->size && (a->width.given || a->height.given))
        return error_set_usage(error, "give --size, or --width and --height, not both");
    s->width = a->width.value;
    s->height = a->height.value;
    s->frames = a->frames.value;
    return !a->size ||
           parse_size("--size", a->size, 1, GENERATION_MAX_SIDE, &s->width, &s->height, error);
}

static bool take_attention(const struct generation_arguments *a, draftattn_plan_desc *desc,
                           int32_t **layers, struct error *error)
{
    if (a->dense_steps.given)
        desc->dense_steps = a->dense_steps.value;
    if (a->compensation.given)
        desc->compensation = (int32_t)a->compensation.value;
    if (a->probes.given)
        desc->probes = (int32_t)a->probes.value;
    desc->min_tokens = a->min_tokens.value;
    if (a->dense_layers && !parse_list("--dense-layers", a->dense_layers, 1000, layers,
                                       &desc->dense_layer_count, error))
        return false;
    desc->dense_layers = *layers;
    return true;
}

bool generation_policy(const char *flag, const char *name, draftattn_policy *policy,
                       struct error *error)
{
    return draftattn_policy_from_name(name, policy) == DRAFTATTN_SUCCESS ||
           suggest_refuse(flag, name, policy_at, NULL, error);
}

bool generation_backend(const char *flag, const char *name, draftattn_backend *backend,
                        struct error *error)
{
    return draftattn_backend_from_name(name, backend) == DRAFTATTN_SUCCESS ||
           suggest_refuse(flag, name, backend_at, NULL, error);
}

bool generation_runtime(const char *device, const char *precision, const char *backend,
                        struct runtime_desc *runtime, struct error *error)
{
    if (device && !runtime_kind_from_name(device, &runtime->kind, &runtime->index))
        return error_set_usage(error, "--device '%s': takes auto, cpu, cuda or cuda:N", device);
    if (precision && !runtime_precision_from_name(precision, &runtime->precision))
        return error_set_usage(error, "--precision '%s': takes bf16, float32 or auto", precision);
    return !backend || generation_backend("--backend", backend, &runtime->backend, error);
}

static const char *synthetic_at(const void *user, size_t index)
{
    (void)user;
    return model_synthetic_name(index);
}

bool generation_synthetic(const char *name, struct model *model, struct error *error)
{
    for (size_t i = 0; model_synthetic_name(i); i++)
        if (strcmp(name, model_synthetic_name(i)) == 0)
            return model_open_synthetic(model, name, error);
    return suggest_refuse("--synthetic", name, synthetic_at, NULL, error);
}

void generation_set_policy(draftattn_plan_desc *desc, draftattn_policy policy)
{
    desc->policy = policy;
    if (policy == DRAFTATTN_POLICY_DRAFT_PAPER)
        desc->compensation = 0;
    if (policy != DRAFTATTN_POLICY_DRAFT)
        desc->repair = 0;
}

bool generation_options_take(const struct generation_arguments *a, struct generate_settings *s,
                             struct generation_texts *texts, struct error *error)
{
    s->noise_file = a->noise;
    s->steps = a->steps.value;
    s->fps = a->fps.value;
    s->flow_shift = a->flow_shift.value;
    s->seed = a->seed.given ? (uint64_t)a->seed.value : rng_random_seed();
    s->runtime.threads = (int32_t)a->threads.value;
    s->runtime.offload = a->offload;
    if (a->cfg.given)
        s->guidance = a->cfg.value;
    if (a->sampler)
        s->sampler = a->sampler;
    return generation_runtime(a->device, a->precision, a->backend, &s->runtime, error) &&
           take_size(a, s, error) && parse_tile("--tile", a->tile, &s->tile, error) &&
           take_attention(a, &s->attention, &texts->dense_layers, error) &&
           read_prompt("--prompt", a->prompt, &s->prompt, &texts->prompt, error) &&
           read_prompt("--negative-prompt", a->negative, &s->negative_prompt, &texts->negative,
                       error);
}

void generation_texts_free(struct generation_texts *texts)
{
    free(texts->prompt);
    free(texts->negative);
    free(texts->dense_layers);
}
