/*
 * The time path: a timestep's embedding and the modulations of all blocks that follow from it, in
 * float32 as in the original code. They are made once a timestep; the passes of a step share them.
 */
#include "wan_transformer_parts.h"

#include <math.h>
#include <stdlib.h>

/* Cosines first; float64, rounded once, as in the original code. */
static void fill_sinusoid(float *out, int64_t freq_dim, double timestep)
{
    int64_t half = freq_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double angle = timestep * pow(10000.0, -(double)i / (double)half);
        out[i] = (float)cos(angle);
        out[half + i] = (float)sin(angle);
    }
}

/* Fills time and time6 from the sinusoid. */
static bool embed(struct wan_transformer *t, struct error *error)
{
    const struct ops *ops = t->ops;
    const enum element f32 = ELEMENT_F32;
    int64_t d = wan_width(&t->config);
    if (!ops->linear(t->device, t->time_1, t->sinusoid, f32, t->silu, f32, 1, ACTIVATION_SILU,
                     error) ||
        !ops->linear(t->device, t->time_2, t->silu, f32, t->time, f32, 1, ACTIVATION_NONE, error))
        return false;
    ops->copy(t->device, t->silu, t->time, (size_t)d * sizeof(float));
    ops->activate(t->device, t->silu, d, ACTIVATION_SILU);
    return ops->linear(t->device, t->time_projection, t->silu, f32, t->time6, f32, 1,
                       ACTIVATION_NONE, error);
}

static void modulate(struct wan_transformer *t)
{
    const int64_t d = wan_width(&t->config), layers = t->config.layers;
    float *head = t->modulation + layers * 6 * d;
    for (int64_t i = 0; i < layers; i++)
        t->ops->combine(t->device, t->modulation + i * 6 * d, 1.0f, t->blocks[i].table, 1.0f,
                        t->time6, 6 * d);
    for (int64_t i = 0; i < 2; i++)
        t->ops->combine(t->device, head + i * d, 1.0f, t->head_table + i * d, 1.0f, t->time, d);
}

bool wan_time_prepare(struct wan_transformer *t, double timestep, struct error *error)
{
    if (t->timestep == timestep)
        return true;
    int64_t freq_dim = t->config.freq_dim, d = wan_width(&t->config);
    float *host = malloc((size_t)freq_dim * sizeof *host);
    if (!host)
        return error_out_of_memory(error, "the time embedding", (size_t)freq_dim * sizeof *host);
    t->timestep = NAN;
    fill_sinusoid(host, freq_dim, timestep);
    t->ops->upload(t->device, t->sinusoid, host, (size_t)freq_dim * sizeof *host);
    free(host);
    if (!embed(t, error))
        return false;
    if (t->ops->first_not_finite(t->device, t->time6, 6 * d) >= 0)
        return error_set(error, "condition_embedder.time_proj: NaN or infinity; the checkpoint is "
                                "broken");
    modulate(t);
    t->timestep = timestep;
    return true;
}
