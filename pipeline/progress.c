#include "progress.h"

bool progress_step(const struct progress *progress, int64_t done, int64_t total,
                   struct error *error)
{
    if (!progress || !progress->step || progress->step(progress->user, done, total))
        return true;
    if (error)
        error->interrupted = true;
    return error_set(error, "interrupted");
}
