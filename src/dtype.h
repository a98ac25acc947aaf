/*
 * The three storage types and float: exact upwards, to nearest, ties to even, downwards.
 * Branch-free integer arithmetic, so that loops over rows vectorise on any machine.
 */
#ifndef DRAFTATTN_DTYPE_H
#define DRAFTATTN_DTYPE_H

#include <draftattn.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline size_t dtype_size(draftattn_dtype dtype)
{
    return dtype == DRAFTATTN_F32 ? 4 : 2;
}

static inline float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t bits_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float float_from_bf16(uint16_t stored)
{
    return float_from_bits((uint32_t)stored << 16);
}

/* The exponent is rebased by a multiplication, which also normalises subnormals. */
static inline float float_from_f16(uint16_t stored)
{
    uint32_t sign = (uint32_t)(stored & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(stored & 0x7fffu) << 13;
    uint32_t special = rest >= 0x0f800000u ? 0x7f800000u : 0; /* infinity and NaN */
    float value = float_from_bits(rest) * 0x1p112f;
    return float_from_bits(bits_from_float(value) | special | sign);
}

static inline uint16_t bf16_from_float(float value)
{
    uint32_t bits = bits_from_float(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40u; /* rounding could carry a NaN into infinity */
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

static inline uint16_t f16_from_float(float value)
{
    uint32_t bits = bits_from_float(value), sign = (bits >> 16) & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu, half;
    if (rest > 0x7f800000u)
        half = 0x7e00u;
    else if (rest >= 0x477ff000u) /* rounds to 65536 or more */
        half = 0x7c00u;
    else if (rest < 0x38800000u) /* subnormal: the addition rounds at the right place */
        half = bits_from_float(float_from_bits(rest) + 0.5f) - 0x3f000000u;
    else
        half = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    return (uint16_t)(half | sign);
}

#endif
