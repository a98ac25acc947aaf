#ifndef DRAFTATTN_CONTEXT_H
#define DRAFTATTN_CONTEXT_H

#include "backend.h"

struct draftattn_context {
    const struct backend *backend;
    const struct kernel_row *kernel; /* the row asked for; NULL = the fastest that fits */
    int32_t threads;                 /* >= 1 */
    int32_t device;
    draftattn_log_fn log; /* may be NULL */
    void *log_user;
};

void context_log(const struct draftattn_context *context, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
