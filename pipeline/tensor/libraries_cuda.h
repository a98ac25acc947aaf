/*
 * cuBLASLt and cuDNN are not linked: they are hundreds of megabytes that a program on the CPU would
 * map at every start, and need not be there. Their functions are called as their headers have them.
 */
#ifndef PIPELINE_TENSOR_LIBRARIES_CUDA_H
#define PIPELINE_TENSOR_LIBRARIES_CUDA_H

#include "../error.h"

/* Brings both into the process, where they are not yet; says which is not found, and why. */
bool libraries_cuda_open(struct error *error);

#endif
