/* Latents on disk: safetensors with one tensor "latents" [channels][frames][height][width], as the
 * transformer has them (normalised), and what they were made with as metadata. */
#ifndef PIPELINE_LATENTS_FILE_H
#define PIPELINE_LATENTS_FILE_H

#include "error.h"

#include <stdbool.h>
#include <stdint.h>

/* metadata: key, value, ..., NULL. */
bool latents_write(const char *path, const float *latents, const int64_t shape[4],
                   const char *const *metadata, struct error *error);

/* Reads "latents" or "noise" of any size, with a leading 1 allowed. channels is what the model has.
 * *out is malloc'd, shape filled in. */
bool latents_read(const char *path, int64_t channels, float **out, int64_t shape[4],
                  struct error *error);

#endif
