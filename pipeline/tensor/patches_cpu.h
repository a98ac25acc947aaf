/* The entries of ops_cpu between latents and tokens; contracts in ops.h. */
#ifndef PIPELINE_TENSOR_PATCHES_CPU_H
#define PIPELINE_TENSOR_PATCHES_CPU_H

#include "ops.h"

void patches_cut_cpu(struct device *device, const struct ops_patches *patches, const float *latents,
                     void *rows, enum element type);
void patches_join_cpu(struct device *device, const struct ops_patches *patches, const float *rows,
                      float *latents);

#endif
