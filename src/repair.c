/*
 * Owns what a run says about its error: the median and the worst of the heads' estimates. The probe
 * rows, the fit and the correction themselves are the backend's (kernels/cpu/repair_cpu.c).
 */
#include "repair.h"

#include <math.h>
#include <stdbool.h>

/* The rank-th smallest error (from 0) by counting: no scratch, and heads are few. */
static float error_of_rank(const draftattn_head_stats *heads, int64_t count, int64_t rank)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t below = 0, equal = 0;
        for (int64_t j = 0; j < count; j++) {
            below += heads[j].error < heads[i].error;
            equal += heads[j].error == heads[i].error;
        }
        if (below <= rank && rank < below + equal)
            return heads[i].error;
    }
    return NAN;
}

void repair_summarise(const draftattn_head_stats *heads, int64_t count, draftattn_stats *stats)
{
    double density = 0;
    bool unknown = false;
    for (int64_t i = 0; i < count; i++) {
        density += (double)heads[i].density;
        unknown = unknown || isnan(heads[i].error);
    }
    stats->density = density / (double)count;
    stats->error_median = stats->error_worst = NAN;
    if (unknown)
        return;
    stats->error_worst = (double)error_of_rank(heads, count, count - 1);
    stats->error_median = ((double)error_of_rank(heads, count, (count - 1) / 2) +
                           (double)error_of_rank(heads, count, count / 2)) /
                          2;
}
