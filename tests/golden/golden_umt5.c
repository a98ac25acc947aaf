/*
 * UMT5 against the reference encoder: ids of several padded prompts, rows of real tokens compared.
 */
#include "golden.h"

#include "models/umt5.h"

#include <stdio.h>
#include <stdlib.h>

#define TOLERANCE 1e-4

struct umt5_case {
    float *ids, *mask, *want; /* [batch][rows], [batch][rows], [batch][rows][width] */
    int64_t batch, rows, width;
};

static bool read_case(struct umt5_case *data, const struct golden *golden, struct error *error)
{
    struct checkpoint *io = NULL;
    const struct stored_tensor *ids, *mask, *want;
    bool ok = golden_open(golden, NULL, &io, error) &&
              golden_floats(io, "input_ids", &data->ids, &ids, error) &&
              golden_floats(io, "attention_mask", &data->mask, &mask, error) &&
              golden_floats(io, "out", &data->want, &want, error);
    if (ok && (ids->rank != 2 || mask->rank != 2 || want->rank != 3 ||
               mask->shape[0] != ids->shape[0] || mask->shape[1] != ids->shape[1] ||
               want->shape[0] != ids->shape[0] || want->shape[1] != ids->shape[1]))
        ok = error_set(error, "%s: input_ids, attention_mask and out do not fit each other",
                       golden->dir);
    if (ok) {
        data->batch = want->shape[0];
        data->rows = want->shape[1];
        data->width = want->shape[2];
    }
    checkpoint_close(io);
    return ok;
}

static bool compare_prompt(const struct golden *golden, struct umt5 *umt5,
                           const struct umt5_case *data, int64_t prompt, struct error *error)
{
    int64_t count = 0;
    while (count < data->rows && data->mask[prompt * data->rows + count] != 0.0f)
        count++;
    int32_t *ids = calloc((size_t)data->rows, sizeof *ids);
    float *got = calloc((size_t)(data->rows * data->width), sizeof *got);
    bool ok = ids && got;
    for (int64_t i = 0; ok && i < count; i++)
        ids[i] = (int32_t)data->ids[prompt * data->rows + i];
    ok = ok && umt5_encode(umt5, ids, count, got, error) &&
         golden_close(golden, "hidden state", got, data->want + prompt * data->rows * data->width,
                      count * data->width, TOLERANCE, error);
    free(ids);
    free(got);
    return ok;
}

bool golden_umt5(const struct golden *golden, struct error *error)
{
    char path[4096];
    struct umt5_case data = {0};
    struct umt5_config config;
    struct checkpoint *weights = NULL;
    struct umt5 *umt5 = NULL;
    snprintf(path, sizeof path, "%s/config.json", golden->dir);
    bool ok = read_case(&data, golden, error) && umt5_config_read(&config, path, error) &&
              checkpoint_open(&weights, golden->dir, error);
    if (ok && config.width != data.width)
        ok = error_set(error, "%s: the configuration's width is not that of out", golden->dir);
    ok = ok && umt5_load(&umt5, &config, weights, golden->ops, golden->device, NULL, error);
    for (int64_t i = 0; ok && i < data.batch; i++)
        ok = compare_prompt(golden, umt5, &data, i, error);
    umt5_free(umt5);
    checkpoint_close(weights);
    free(data.ids);
    free(data.mask);
    free(data.want);
    return ok;
}
