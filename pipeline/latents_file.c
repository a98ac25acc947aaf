/* Latents to and from safetensors; refuses shapes that a model of so many channels cannot have
 * made. */
#include "latents_file.h"

#include "io/checkpoint.h"
#include "tensor/checked.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

bool latents_write(const char *path, const float *latents, const int64_t shape[4],
                   const char *const *metadata, struct error *error)
{
    const struct tensor_to_write tensor = {
        .name = "latents",
        .dtype = STORED_F32,
        .rank = 4,
        .shape = {shape[0], shape[1], shape[2], shape[3]},
        .data = latents,
    };
    return safetensors_write(path, &tensor, 1, metadata, error);
}

/* Sides of latents of the largest video there is. */
#define MAX_SIDE 2048

static bool latents_shape(const char *path, const struct stored_tensor *tensor, int64_t channels,
                          int64_t shape[4], struct error *error)
{
    const int64_t *stored = tensor->shape;
    int rank = tensor->rank;
    for (; rank > 4 && stored[0] == 1; rank--)
        stored++;
    if (rank != 4 || stored[0] != channels)
        return error_set(error,
                         "%s: tensor '%s' has rank %d and begins with %" PRId64
                         ", expected [%" PRId64 ", frames, height, width]",
                         path, tensor->name, tensor->rank, rank > 0 ? stored[0] : 0, channels);
    for (int i = 0; i < 4; i++) {
        shape[i] = stored[i];
        if (stored[i] < 1 || stored[i] > MAX_SIDE)
            return error_set(error,
                             "%s: tensor '%s' has a side of %" PRId64 "; 1 to %d are possible",
                             path, tensor->name, stored[i], MAX_SIDE);
    }
    return true;
}

static bool check_finite(const char *path, const char *name, const float *values, size_t bytes,
                         struct error *error)
{
    for (size_t i = 0; i < bytes / sizeof *values; i++)
        if (!isfinite(values[i]))
            return error_set(error, "%s: tensor '%s' holds a NaN or an infinity at element %zu",
                             path, name, i);
    return true;
}

bool latents_read(const char *path, int64_t channels, float **out, int64_t shape[4],
                  struct error *error)
{
    struct checkpoint *file = NULL;
    *out = NULL;
    if (!checkpoint_open(&file, path, error))
        return false;
    const struct stored_tensor *tensor = checkpoint_find(file, "latents");
    if (!tensor)
        tensor = checkpoint_find(file, "noise");
    size_t bytes = 0;
    bool ok = false;
    if (!tensor)
        error_set(error, "%s: holds no tensor named 'latents' or 'noise'", path);
    else
        ok = latents_shape(path, tensor, channels, shape, error);
    if (ok && (!checked_bytes(shape, 4, sizeof(float), &bytes) || !(*out = malloc(bytes))))
        ok = error_out_of_memory(error, "latents", bytes);
    ok = ok && checkpoint_read(file, tensor->name, shape, 4, *out, error) &&
         check_finite(path, tensor->name, *out, bytes, error);
    checkpoint_close(file);
    if (!ok) {
        free(*out);
        *out = NULL;
    }
    return ok;
}
