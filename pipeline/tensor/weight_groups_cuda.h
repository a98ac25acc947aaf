/*
 * Offload: weights whose home is pinned host memory and that visit the device by groups. Two slots
 * of device memory, each as large as the largest group, take turns: while the stream works with the
 * group in one of them, the copies' stream brings the next into the other.
 */
#ifndef PIPELINE_TENSOR_WEIGHT_GROUPS_CUDA_H
#define PIPELINE_TENSOR_WEIGHT_GROUPS_CUDA_H

#include "device_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A weight of a group; lives in its layer. */
struct grouped_weight {
    void *home;           /* pinned host memory; NULL = of no group */
    size_t bytes, offset; /* in the slot */
    int64_t group;
    struct grouped_weight *next; /* of the same group */
};

/* Sets device->groups; weight_groups_cuda_close() frees it and accepts a device without. */
bool weight_groups_cuda_open(struct device *device, struct error *error);
void weight_groups_cuda_close(struct device *device);

/* A layer that is made now has its home on the host. */
bool weight_groups_cuda_wanted(const struct device *device);
/* Gives weight a home of that size, to be filled by the caller, and enters it into the open group;
 * it must stay where it is until weight_groups_cuda_remove(), which waits and accepts one without a
 * home. */
bool weight_groups_cuda_add(struct device *device, struct grouped_weight *weight, size_t bytes,
                            struct error *error);
void weight_groups_cuda_remove(struct device *device, struct grouped_weight *weight);
/* Where it is on the device; NULL where its group is not the one that was asked for last. */
const void *weight_groups_cuda_find(const struct device *device,
                                    const struct grouped_weight *weight);

void weight_groups_cuda_begin(struct device *device);
bool weight_groups_cuda_end(struct device *device, struct error *error);
bool weight_groups_cuda_need(struct device *device, int64_t group, int64_t next,
                             struct error *error);

#ifdef __cplusplus
}
#endif

#endif
