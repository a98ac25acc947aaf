/*
 * Standard normal float32 numbers as torch.randn on a CPU generator gives them (MT19937, Box-Muller
 * in blocks of 16), so that a seed names the same noise here and there.
 */
#ifndef PIPELINE_IO_RNG_H
#define PIPELINE_IO_RNG_H

#include <stdint.h>

void rng_normal(uint64_t seed, float *out, int64_t count);

/* A seed from the system, below 2^32. */
uint32_t rng_random_seed(void);

#endif
