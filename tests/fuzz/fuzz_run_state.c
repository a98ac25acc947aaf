/* A state file from anywhere: settings that are accepted are in their bounds, and latents and
 * history of the size that they say. */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "run_state.h"

#include <math.h>

#define DATA_BYTES 512

static void check(const struct run_state *state)
{
    const struct generate_settings *s = &state->settings;
    if (state->step < 1 || state->step > s->steps || s->steps > 1000 || s->frames < 1 ||
        s->width < 1 || s->height < 1 || !s->prompt || !s->negative_prompt || !s->sampler ||
        !state->model || !(s->fps >= 1) || !(s->flow_shift > 0) || !(s->guidance >= 0) ||
        !(s->attention.sparsity < 1) || s->output || s->save_latents)
        abort();
    for (int32_t i = 0; i < s->attention.dense_layer_count; i++)
        if (s->attention.dense_layers[i] < 0 || s->attention.dense_layers[i] >= 1000)
            abort();
}

static void read_state(const char *path)
{
    const struct model model = {.folder = {.root = "m"}, .transformer = {.in_channels = 1}};
    struct error error = {.usage = false};
    struct run_state state;
    if (!run_state_read(&state, path, &error)) {
        if (state.metadata || !error.text[0])
            abort();
        return;
    }
    check(&state);
    if (run_state_load(&state, &model, &error)) {
        int64_t count = state.shape[0] * state.shape[1] * state.shape[2] * state.shape[3];
        for (int64_t i = 0; i < count; i++)
            if (!isfinite(state.latents[i]))
                abort();
    }
    run_state_free(&state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_file file;
    if (!file.path[0])
        fuzz_file_open(&file);
    fuzz_file_write(&file, data, size, 0);
    read_state(file.path);
    fuzz_file_write_header(&file, data, size, DATA_BYTES);
    read_state(file.path);
    return 0;
}
