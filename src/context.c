/*
 * Owns the choice of a backend and, if one is asked for by name, of a kernel. What is asked for in
 * the description beats the environment, which beats our own choice; a name that does not exist is
 * refused with the names that do, and a backend that does not work here with its reason. Nothing
 * falls back silently.
 */
#include "context.h"
#include "error.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 1024

static const char backend_variable[] = "DRAFTATTN_BACKEND";
static const char kernel_variable[] = "DRAFTATTN_KERNEL";

void context_log(const struct draftattn_context *context, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    if (!context->log)
        return;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof(text), format, arguments) > 0)
        context->log(text, context->log_user);
    va_end(arguments);
}

draftattn_context_desc draftattn_context_desc_default(void)
{
    return (draftattn_context_desc){.size = sizeof(draftattn_context_desc)};
}

const char *draftattn_context_last_error(const draftattn_context *context)
{
    (void)context; /* failures are kept per thread, also those that leave no context */
    return error_last();
}

/* The row called name. */
static draftattn_status find_kernel(const char *name, const struct kernel_row **row)
{
    int32_t count;
    const struct kernel_row *rows = kernels_all(&count);
    char list[768] = "";
    size_t used = 0;
    for (int32_t i = 0; i < count; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            *row = &rows[i];
            return DRAFTATTN_SUCCESS;
        }
        if (used < sizeof(list))
            used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
                                     rows[i].name);
    }
    error_report(DRAFTATTN_INVALID_ARGUMENT, "there is no kernel '%s'; there are: %s", name, list);
    return DRAFTATTN_INVALID_ARGUMENT;
}

static draftattn_status wanted_backend(const draftattn_context_desc *desc,
                                       draftattn_backend *wanted)
{
    const char *name = getenv(backend_variable);
    *wanted = desc->backend;
    RETURN_IF((int)*wanted < 0 || *wanted > DRAFTATTN_BACKEND_CUDA, DRAFTATTN_INVALID_ARGUMENT,
              "backend is %d; it is one of draftattn_backend", (int)*wanted);
    if (*wanted != DRAFTATTN_BACKEND_AUTO || !name || !*name)
        return DRAFTATTN_SUCCESS;
    if (draftattn_backend_from_name(name, wanted) == DRAFTATTN_SUCCESS)
        return DRAFTATTN_SUCCESS;
    return error_report(DRAFTATTN_INVALID_ARGUMENT, "environment variable %s: %s", backend_variable,
                        error_last());
}

/* Settles the kernel, if one is asked for, and the backend that it implies. */
static draftattn_status wanted_kernel(const draftattn_context_desc *desc, draftattn_backend *wanted,
                                      const struct kernel_row **row)
{
    const char *name = desc->kernel;
    draftattn_backend asked = name ? desc->backend : *wanted; /* the environment counts for less */
    *row = NULL;
    if (!name) {
        name = getenv(kernel_variable);
        if (!name || !*name)
            return DRAFTATTN_SUCCESS;
        if (find_kernel(name, row) != DRAFTATTN_SUCCESS)
            return error_report(DRAFTATTN_INVALID_ARGUMENT, "environment variable %s: %s",
                                kernel_variable, error_last());
        if (desc->backend != DRAFTATTN_BACKEND_AUTO && desc->backend != (*row)->backend) {
            *row = NULL; /* the program's own word on the backend counts for more */
            return DRAFTATTN_SUCCESS;
        }
    } else {
        TRY(find_kernel(name, row));
    }
    RETURN_IF(asked != DRAFTATTN_BACKEND_AUTO && asked != (*row)->backend,
              DRAFTATTN_INVALID_ARGUMENT,
              "kernel '%s' belongs to backend %s, but backend %s is asked for", name,
              draftattn_backend_name((*row)->backend), draftattn_backend_name(asked));
    *wanted = (*row)->backend;
    return DRAFTATTN_SUCCESS;
}

static draftattn_status settle_backend(struct draftattn_context *context, draftattn_backend wanted,
                                       int32_t device)
{
    const char *why;
    if (wanted != DRAFTATTN_BACKEND_AUTO) {
        const struct backend *backend = backends_find(wanted);
        RETURN_IF(!backend, DRAFTATTN_UNSUPPORTED,
                  "backend %s is not part of this build; backend auto takes the best there is",
                  draftattn_backend_name(wanted));
        why = backend->why_not(device);
        RETURN_IF(why, DRAFTATTN_UNSUPPORTED, "backend %s cannot be used: %s",
                  draftattn_backend_name(wanted), why);
        context->backend = backend;
        return DRAFTATTN_SUCCESS;
    }
    for (const struct backend *const *all = backends_all(); *all; all++) {
        if (!(*all)->automatic)
            continue;
        why = (*all)->why_not(device);
        if (!why) {
            context->backend = *all;
            return DRAFTATTN_SUCCESS;
        }
        context_log(context, "backend %s passed over: %s", draftattn_backend_name((*all)->id), why);
    }
    error_report(DRAFTATTN_UNSUPPORTED, "no backend of this build works on this machine");
    return DRAFTATTN_UNSUPPORTED;
}

static draftattn_status create(struct draftattn_context *context,
                               const draftattn_context_desc *desc)
{
    draftattn_backend wanted;
    RETURN_IF(desc->size != sizeof(*desc), DRAFTATTN_INVALID_ARGUMENT,
              "draftattn_context_desc.size is %zu, this library's is %zu; start from "
              "draftattn_context_desc_default() and use the header that belongs to the library",
              desc->size, sizeof(*desc));
    RETURN_IF(desc->threads < 0 || desc->threads > MAX_THREADS, DRAFTATTN_INVALID_ARGUMENT,
              "threads is %d; it is 0 (as many as OpenMP gives) to %d", desc->threads, MAX_THREADS);
    context->threads = desc->threads ? desc->threads : omp_get_max_threads();
    if (context->threads > MAX_THREADS)
        context->threads = MAX_THREADS;
    context->device = desc->device;
    TRY(wanted_backend(desc, &wanted));
    TRY(wanted_kernel(desc, &wanted, &context->kernel));
    TRY(settle_backend(context, wanted, desc->device));
    context_log(context, "backend %s, %d threads", draftattn_backend_name(context->backend->id),
                context->threads);
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_context_create(draftattn_context **out,
                                          const draftattn_context_desc *desc)
{
    draftattn_context_desc defaults = draftattn_context_desc_default();
    RETURN_IF(!out, DRAFTATTN_INVALID_ARGUMENT, "out is NULL");
    *out = NULL;
    if (!desc)
        desc = &defaults;
    struct draftattn_context *context = calloc(1, sizeof(*context));
    RETURN_IF(!context, DRAFTATTN_OUT_OF_MEMORY, "no memory for a context");
    if (desc->size == sizeof(*desc)) {
        context->log = desc->log;
        context->log_user = desc->log_user;
    }
    draftattn_status status = create(context, desc);
    if (status == DRAFTATTN_SUCCESS) {
        *out = context;
        return status;
    }
    context_log(context, "%s", error_last());
    free(context);
    return status;
}

void draftattn_context_destroy(draftattn_context *context)
{
    free(context);
}

draftattn_backend draftattn_context_backend(const draftattn_context *context)
{
    return context ? context->backend->id : DRAFTATTN_BACKEND_AUTO;
}
