/*
 * Opens the device that was asked for, or the best there is. Owns the rules of what goes with what:
 * attention of a GPU needs the networks there, bfloat16 and offload need a GPU, and a wish for any
 * of these is a wish for its device.
 *
 * The choice without a wish is silent where the machine has no GPU, and says why where it has one.
 */
#include "runtime.h"

#include "device_memory.h"
#include "system_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const precision_names[] = {"auto", "bf16", "float32"};

const char *runtime_precision_name(enum runtime_precision precision)
{
    return precision_names[precision];
}

bool runtime_precision_from_name(const char *name, enum runtime_precision *out)
{
    for (size_t i = 0; i < sizeof precision_names / sizeof *precision_names; i++)
        if (strcmp(name, precision_names[i]) == 0) {
            *out = (enum runtime_precision)i;
            return true;
        }
    return false;
}

void runtime_kind_describe(const struct runtime_desc *desc, char *buffer, size_t size)
{
    static const char *const names[] = {"auto", "cpu", "cuda"};
    if (desc->kind == RUNTIME_CUDA && desc->index > 0)
        snprintf(buffer, size, "cuda:%d", desc->index);
    else
        snprintf(buffer, size, "%s", names[desc->kind]);
}

bool runtime_kind_from_name(const char *name, enum runtime_kind *kind, int32_t *index)
{
    *index = 0;
    *kind = strcmp(name, "cpu") == 0 ? RUNTIME_CPU : RUNTIME_AUTO;
    if (strncmp(name, "cuda", 4) != 0)
        return *kind == RUNTIME_CPU || strcmp(name, "auto") == 0;
    *kind = RUNTIME_CUDA;
    const char *digits = name + 5;
    size_t length = name[4] == ':' ? strlen(digits) : 0;
    if (length < 1 || length > 3 || strspn(digits, "0123456789") != length)
        return name[4] == '\0';
    *index = (int32_t)strtol(digits, NULL, 10);
    return true;
}

/* The flag that cannot be without a GPU, NULL for none. */
static const char *wish_of(const struct runtime_desc *desc)
{
    return desc->offload                             ? "--offload"
           : desc->precision == RUNTIME_BF16         ? "--precision bf16"
           : desc->backend == DRAFTATTN_BACKEND_CUDA ? "--backend cuda"
                                                     : NULL;
}

/* The library's variables hold here too: what names a backend or a kernel of the CPU, or nothing
 * that there is, which is the library's to refuse, is not for a GPU. */
static bool environment_wants_cpu(void)
{
    const char *backend = getenv("DRAFTATTN_BACKEND"), *kernel = getenv("DRAFTATTN_KERNEL");
    draftattn_kernel_info info;
    for (int32_t i = 0; kernel && draftattn_kernel_get(i, &info) == DRAFTATTN_SUCCESS; i++)
        if (strcmp(info.name, kernel) == 0)
            return info.backend != DRAFTATTN_BACKEND_CUDA;
    return backend && backend[0] && strcmp(backend, "auto") != 0 && strcmp(backend, "cuda") != 0;
}

/* What the flags together ask for. */
static bool decide_kind(struct runtime_desc *desc, struct error *error)
{
    const draftattn_backend backend = desc->backend;
    const bool cpu_backend = backend != DRAFTATTN_BACKEND_AUTO && backend != DRAFTATTN_BACKEND_CUDA;
    const char *wish = wish_of(desc);
    if (desc->kind == RUNTIME_AUTO && wish)
        desc->kind = RUNTIME_CUDA;
    else if (desc->kind == RUNTIME_AUTO && (cpu_backend || environment_wants_cpu()))
        desc->kind = RUNTIME_CPU;
    if (wish && desc->kind == RUNTIME_CPU)
        return error_set_usage(error, "%s needs the networks on a GPU: leave out --device cpu",
                               wish);
    if (cpu_backend && desc->kind == RUNTIME_CUDA)
        return error_set_usage(error,
                               "--backend %s works on the CPU, and the networks on the GPU%s%s%s: "
                               "leave out one of the two",
                               draftattn_backend_name(backend), wish ? " (" : "", wish ? wish : "",
                               wish ? ")" : "");
    return true;
}

static bool open_context(struct runtime *r, struct error *error)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    desc.backend = r->gpu ? DRAFTATTN_BACKEND_CUDA : r->desc.backend;
    desc.threads = r->desc.threads;
    desc.device = r->gpu ? r->desc.index : -1;
    if (draftattn_context_create(&r->context, &desc) == DRAFTATTN_SUCCESS)
        return true;
    error_set_usage(error, "%s", draftattn_context_last_error(NULL));
    if (r->desc.backend != DRAFTATTN_BACKEND_AUTO)
        error_prefix(error, "--backend %s: ", draftattn_backend_name(desc.backend));
    return false;
}

static bool open_on(struct runtime *r, const struct ops *ops, struct error *error)
{
    r->ops = ops;
    r->gpu = r->desc.kind == RUNTIME_CUDA;
    if (r->desc.precision == RUNTIME_PRECISION_AUTO)
        r->desc.precision = r->gpu ? RUNTIME_BF16 : RUNTIME_F32;
    const struct device_desc desc = {
        .threads = r->desc.threads,
        .index = r->desc.index,
        .activations = r->desc.precision == RUNTIME_BF16 ? ELEMENT_BF16 : ELEMENT_F32,
        .offload = r->desc.offload,
    };
    bool ok = ops->create(&r->device, &desc, error) && open_context(r, error);
    if (!ok) {
        runtime_close(r);
        return false;
    }
    r->activations = desc.activations;
    runtime_kind_describe(&r->desc, r->name, sizeof r->name);
    if (r->gpu) {
        size_t length = strlen(r->name);
        char card[96];
        device_memory_device(card, sizeof card);
        snprintf(r->name + length, sizeof r->name - length, " (%s)", card);
    }
    return true;
}

static bool open_cuda(struct runtime *r, struct error *error)
{
    r->desc.kind = RUNTIME_CUDA;
    if (!ops_cuda())
        return error_set(error, "this program was built without CUDA or cuDNN; build it where both "
                                "are found, or take --device cpu");
    return open_on(r, ops_cuda(), error);
}

/* It was asked for: by its name, or by a flag that needs one. */
static bool open_wanted(struct runtime *r, bool named, struct error *error)
{
    char name[16];
    const char *wish = wish_of(&r->desc);
    runtime_kind_describe(&r->desc, name, sizeof name);
    if (open_cuda(r, error))
        return true;
    if (error)
        error->usage = true;
    return named || !wish ? error_prefix(error, "--device %s: ", name)
                          : error_prefix(error, "%s: ", wish);
}

bool runtime_open(struct runtime *out, const struct runtime_desc *desc, struct error *error)
{
    struct runtime_desc asked = *desc;
    *out = (struct runtime){.gpu = false};
    if (!decide_kind(&asked, error))
        return false;
    out->desc = asked;
    out->chosen = asked.kind == RUNTIME_AUTO;
    if (asked.kind == RUNTIME_CUDA)
        return open_wanted(out, desc->kind == RUNTIME_CUDA, error);
    char why[sizeof out->why_cpu] = "", card[96] = "";
    if (asked.kind == RUNTIME_AUTO) {
        struct error reason = {.usage = false};
        if (open_cuda(out, &reason))
            return true;
        device_memory_device(card, sizeof card);
        if (card[0])
            snprintf(why, sizeof why, "%.100s is not used: %.260s", card, reason.text);
        *out = (struct runtime){.desc = asked, .chosen = true};
    }
    out->desc.kind = RUNTIME_CPU;
    memcpy(out->why_cpu, why, sizeof why);
    return open_on(out, &ops_cpu, error);
}

void runtime_close(struct runtime *runtime)
{
    if (runtime->device)
        runtime->ops->destroy(runtime->device);
    draftattn_context_destroy(runtime->context);
    *runtime = (struct runtime){.gpu = false};
}

int64_t runtime_available(const struct runtime *runtime)
{
    return runtime->gpu ? device_memory_available() : system_memory_available();
}

int64_t runtime_taken(const struct runtime *runtime)
{
    return runtime->gpu ? device_memory_total() - device_memory_available() : 0;
}
