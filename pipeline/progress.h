/* Long work tells the caller how far it is and asks whether to go on. */
#ifndef PIPELINE_PROGRESS_H
#define PIPELINE_PROGRESS_H

#include "error.h"

#include <stdbool.h>
#include <stdint.h>

struct progress {
    /* done of total steps of the phase that the caller knows it is in. Returns false to stop the
     * work (Ctrl-C); the callee then cleans up and fails with error->interrupted. */
    bool (*step)(void *user, int64_t done, int64_t total);
    void *user;
};

/* progress may be NULL. Sets error->interrupted and its text when the caller wants to stop. */
bool progress_step(const struct progress *progress, int64_t done, int64_t total,
                   struct error *error);

#endif
