/*
 * The element types of safetensors: their names, sizes, and the way to float32. The conversions run
 * at the speed of memory: they are plain loops that the compiler vectorises (an F16 is converted by
 * integer and float arithmetic, so that subnormals come out right whatever the state of the FPU),
 * and large tensors are shared among the threads.
 */
#include "checkpoint.h"

#include "safetensors.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [STORED_F64] = {"F64", 8},         [STORED_F32] = {"F32", 4},
    [STORED_F16] = {"F16", 2},         [STORED_BF16] = {"BF16", 2},
    [STORED_I64] = {"I64", 8},         [STORED_I32] = {"I32", 4},
    [STORED_U8] = {"U8", 1},           [STORED_U64] = {"U64", 8},
    [STORED_U32] = {"U32", 4},         [STORED_I16] = {"I16", 2},
    [STORED_U16] = {"U16", 2},         [STORED_I8] = {"I8", 1},
    [STORED_BOOL] = {"BOOL", 1},       [STORED_F8_E4M3] = {"F8_E4M3", 1},
    [STORED_F8_E5M2] = {"F8_E5M2", 1}, [STORED_OTHER] = {"?", 0},
};

const char *stored_dtype_name(enum stored_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t stored_dtype_size(enum stored_dtype dtype)
{
    return dtypes[dtype].size;
}

enum stored_dtype stored_dtype_from_name(const char *name)
{
    for (int i = 0; i < STORED_OTHER; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return (enum stored_dtype)i;
    return STORED_OTHER;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Masks instead of branches, or the loop would not be vectorised. */
static float half_to_float(uint16_t half)
{
    int32_t magnitude = half & 0x7fff;
    int32_t is_subnormal = -(magnitude < 0x0400), is_special = -(magnitude >= 0x7c00);
    /* The exponent's bias grows by 112; infinity and NaN get it twice. */
    int32_t normal = (magnitude << 13) + (112 << 23) + (is_special & (112 << 23));
    float scaled = (float)magnitude * 0x1p-24f;
    int32_t subnormal;
    memcpy(&subnormal, &scaled, sizeof subnormal);
    int32_t bits = (subnormal & is_subnormal) | (normal & ~is_subnormal);
    return from_bits((uint32_t)bits | (uint32_t)(half & 0x8000) << 16);
}

/* Elements that one task converts: large enough to hide the cost of sharing. */
#define SHARE 65536

static void convert_range(enum stored_dtype dtype, const unsigned char *data, int64_t begin,
                          int64_t end, float *restrict out)
{
    if (dtype == STORED_F32) {
        memcpy(out + begin, data + begin * 4, (size_t)(end - begin) * 4);
    } else if (dtype == STORED_BF16) {
        for (int64_t i = begin; i < end; i++) {
            uint16_t bits;
            memcpy(&bits, data + i * 2, sizeof bits);
            out[i] = from_bits((uint32_t)bits << 16);
        }
    } else if (dtype == STORED_F16) {
        for (int64_t i = begin; i < end; i++) {
            uint16_t bits;
            memcpy(&bits, data + i * 2, sizeof bits);
            out[i] = half_to_float(bits);
        }
    } else {
        for (int64_t i = begin; i < end; i++) {
            double value;
            memcpy(&value, data + i * 8, sizeof value);
            out[i] = (float)value;
        }
    }
}

bool stored_to_float(enum stored_dtype dtype, const void *data, int64_t count, float *out)
{
    if (dtype > STORED_BF16)
        return false;
    if (count == 0)
        return true; /* out may be NULL */
    int64_t shares = count / SHARE + 1;
#pragma omp parallel for schedule(static) if (shares > 4)
    for (int64_t share = 0; share < shares; share++) {
        int64_t begin = share * SHARE;
        int64_t end = share + 1 < shares ? begin + SHARE : count;
        convert_range(dtype, data, begin, end, out);
    }
    return true;
}
