/* A file of latents or noise from anywhere; latents are four-dimensional, finite and of a model's
 * channels where they are accepted. */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "latents_file.h"

#include <math.h>

#define CHANNELS   2
#define DATA_BYTES 256

static void read_latents(const char *path)
{
    struct error error = {0};
    float *latents = NULL;
    int64_t shape[4];
    if (!latents_read(path, CHANNELS, &latents, shape, &error)) {
        if (latents || !error.text[0])
            abort();
        return;
    }
    if (shape[0] != CHANNELS)
        abort();
    for (int64_t i = 0; i < shape[0] * shape[1] * shape[2] * shape[3]; i++)
        if (!isfinite(latents[i]))
            abort();
    free(latents);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_file file;
    if (!file.path[0])
        fuzz_file_open(&file);
    fuzz_file_write(&file, data, size, 0);
    read_latents(file.path);
    fuzz_file_write_header(&file, data, size, DATA_BYTES);
    read_latents(file.path);
    return 0;
}
