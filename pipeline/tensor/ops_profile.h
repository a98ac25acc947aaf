/*
 * Where the time of a forward goes: a table of operations that hands every call on to another
 * device's table and, while it is asked to, measures it. Measuring waits before and after every
 * call, so that what is measured is not what runs at full speed: the shares are of use, the sum is
 * not.
 *
 *     ops_profile_wrap(&device, ops, inner, error)
 *     ... networks made with &ops_profile and device ...
 *     ops_profile_begin(device);
 *     wan_transformer_forward(...)
 *     ops_profile_end(device, &times);
 */
#ifndef PIPELINE_TENSOR_OPS_PROFILE_H
#define PIPELINE_TENSOR_OPS_PROFILE_H

#include "ops.h"

enum profile_kind {
    PROFILE_ATTENTION, /* between two operations: there libdraftattn attends */
    PROFILE_CROSS_ATTENTION,
    PROFILE_MATMUL,
    PROFILE_CONVOLUTION,
    PROFILE_ELEMENTWISE,
    PROFILE_TRANSFER, /* copies, and waiting for the weights of a group */
    PROFILE_KIND_COUNT
};

struct profile_times {
    double seconds[PROFILE_KIND_COUNT];
    double total; /* their sum: nothing is left out */
};

const char *profile_kind_name(enum profile_kind kind); /* "matmul" */

/* It has no create(): the device is made here, destroy() leaves the inner one alone. It records
 * nothing while it measures. */
extern const struct ops ops_profile;

/* inner must outlive *out, which is NULL on failure. */
bool ops_profile_wrap(struct device **out, const struct ops *ops, struct device *inner,
                      struct error *error);

/* Sums from zero on. */
void ops_profile_begin(struct device *device);
void ops_profile_end(struct device *device, struct profile_times *times);

#endif
