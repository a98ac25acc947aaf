/* exp() in float that a compiler can vectorise: no branch, no call, relative error below 1.2e-7. */
#ifndef PIPELINE_TENSOR_EXP_FAST_H
#define PIPELINE_TENSOR_EXP_FAST_H

#include <stdint.h>

/* e^x for x in [-87, 88]; x outside counts as the nearest end, so that infinities never arise here.
 * NaN gives an arbitrary finite number: callers whose NaN must survive multiply by x or test
 * before. */
static inline __attribute__((always_inline)) float exp_fast(float x)
{
    x = x > -87.0f ? x : -87.0f;
    x = x < 88.0f ? x : 88.0f;
    /* n = round(x / ln 2) appears in the low bits of shifted: 12582912 is 1.5 * 2^23. */
    float shifted = x * 1.44269504f + 12582912.0f;
    float n = shifted - 12582912.0f;
    /* ln 2 in two parts, the first short enough that n times it is exact. */
    float r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        float f;
        uint32_t u;
    } bits = {.f = shifted}, power;
    power.u = (bits.u + 127u) << 23;
    return p * power.f;
}

#endif
