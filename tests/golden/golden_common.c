/*
 * What the golden tests share: opening a case, reading its tensors as float, comparing, and the
 * rule that makes weights and inputs out of nothing but their names.
 *
 * The rule: element j of tensor s is a function of the 64-bit number FNV-1a(s) * 2^32 + j, mixed by
 * splitmix64 to u in [-1, 1). Two programs in any language agree on it, so that whole random
 * networks need no file. Refuses nothing but what checkpoint.h refuses: the cases may come from
 * elsewhere.
 */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool golden_open(const struct golden *golden, const char *file, struct checkpoint **out,
                 struct error *error)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", golden->dir, file ? file : "io.safetensors");
    if (length < 0 || (size_t)length >= sizeof path)
        return error_set(error, "%s: the path is too long", golden->dir);
    return checkpoint_open(out, path, error);
}

/* Ids and masks; stored data are unaligned. */
static bool integers_to_float(const struct stored_tensor *tensor, int64_t count, float *out)
{
    const char *data = tensor->data;
    for (int64_t i = 0; i < count; i++) {
        int64_t wide;
        int32_t narrow;
        switch (tensor->dtype) {
        case STORED_I64:
            memcpy(&wide, data + (size_t)i * sizeof wide, sizeof wide);
            out[i] = (float)wide;
            break;
        case STORED_I32:
            memcpy(&narrow, data + (size_t)i * sizeof narrow, sizeof narrow);
            out[i] = (float)narrow;
            break;
        case STORED_U8:
        case STORED_BOOL:
            out[i] = (float)((const uint8_t *)data)[i];
            break;
        default:
            return false;
        }
    }
    return true;
}

bool golden_floats(const struct checkpoint *io, const char *name, float **out,
                   const struct stored_tensor **info, struct error *error)
{
    const struct stored_tensor *tensor = checkpoint_find(io, name);
    if (!tensor)
        return error_set(error, "%s: has no tensor '%s'", checkpoint_path(io), name);
    int64_t count = 1;
    for (int i = 0; i < tensor->rank; i++)
        count *= tensor->shape[i];
    *out = malloc((size_t)(count ? count : 1) * sizeof **out);
    if (!*out)
        return error_out_of_memory(error, name, (unsigned long long)count * sizeof **out);
    if (!stored_to_float(tensor->dtype, tensor->data, count, *out) &&
        !integers_to_float(tensor, count, *out)) {
        free(*out);
        *out = NULL;
        return error_set(error, "%s: tensor '%s' is %s, which no test reads", checkpoint_path(io),
                         name, stored_dtype_name(tensor->dtype));
    }
    if (info)
        *info = tensor;
    return true;
}

bool golden_near(const char *what, const float *got, const float *want, int64_t count,
                 double tolerance, struct error *error)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += pow((double)got[i] - (double)want[i], 2);
        norm += pow((double)want[i], 2);
    }
    double relative = difference > 0 ? sqrt(difference / norm) : difference;
    printf(" %s %.1e/%.0e L2", what, relative, tolerance);
    fflush(stdout);
    if (relative <= tolerance)
        return true;
    return error_set(error, "%s: relative L2 difference %.3g, allowed %.3g", what, relative,
                     tolerance);
}

bool golden_close(const struct golden *golden, const char *what, const float *got,
                  const float *want, int64_t count, double tolerance, struct error *error)
{
    double worst = 0;
    int64_t at = 0;
    if (golden->activations == ELEMENT_BF16)
        return golden_near(what, got, want, count, GOLDEN_BF16_TOLERANCE, error);
    if (golden->gpu && tolerance < 1e-3)
        tolerance = 1e-3;
    for (int64_t i = 0; i < count; i++) {
        double difference = fabs((double)got[i] - (double)want[i]);
        if (got[i] == want[i]) /* equal infinities */
            continue;
        if (!(difference <= worst)) {
            worst = difference;
            at = i;
            if (isnan(difference))
                break;
        }
    }
    printf(" %s %.1e/%.0e", what, worst, tolerance);
    fflush(stdout);
    if (worst <= tolerance)
        return true;
    return error_set(error, "%s: element %lld is %.9g, expected %.9g: off by %.3g, allowed %.3g",
                     what, (long long)at, (double)got[at], (double)want[at], worst, tolerance);
}

static uint32_t fnv1a(const char *text)
{
    uint32_t hash = 2166136261u;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 16777619u;
    return hash;
}

double golden_rule(const char *name, int64_t index)
{
    uint64_t z = ((uint64_t)fnv1a(name) << 32) + (uint64_t)index + 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z = z ^ z >> 31;
    return ldexp((double)(z >> 11), -53) * 2 - 1;
}

static bool begins(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool ends(const char *text, const char *tail)
{
    size_t length = strlen(text);
    size_t tail_length = strlen(tail);
    return length >= tail_length && strcmp(text + length - tail_length, tail) == 0;
}

/* The value of an element is offset + scale * u. */
static void rule_for(const char *name, const int64_t *shape, int rank, double *offset,
                     double *scale)
{
    *offset = 0;
    *scale = 1;
    if (begins(name, "input.") || ends(name, "token_embedding.weight") ||
        ends(name, "pos_embedding.embedding.weight"))
        return;
    if (ends(name, ".gamma") || (rank == 1 && ends(name, ".weight"))) {
        *offset = 1;
        *scale = 0.1;
    } else if (ends(name, ".bias") || ends(name, "modulation") || ends(name, "emb_pos")) {
        *scale = 0.1;
    } else {
        double inputs = 1;
        for (int i = 1; i < rank; i++)
            inputs *= (double)shape[i];
        *scale = sqrt(3 / inputs);
    }
}

void golden_rule_tensor(const char *name, const int64_t *shape, int rank, float *out)
{
    double offset, scale;
    rule_for(name, shape, rank, &offset, &scale);
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= shape[i];
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)(offset + scale * golden_rule(name, i));
}
