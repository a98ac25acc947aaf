/*
 * Lays arrays out in one piece of memory. The same function that carves offsets also tells the
 * size, so the two cannot disagree; an overflow sticks until it is asked for.
 */
#ifndef DRAFTATTN_CARVE_H
#define DRAFTATTN_CARVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CARVE_ALIGNMENT 256

struct carve {
    size_t size; /* so far, a multiple of CARVE_ALIGNMENT */
    bool overflow;
};

/* Offset of an array of count elements. */
static inline size_t carve_array(struct carve *carve, int64_t count, size_t element)
{
    size_t offset = carve->size, bytes = 0;
    bool bad = count < 0 || __builtin_mul_overflow((size_t)count, element, &bytes) ||
               __builtin_add_overflow(bytes, (size_t)CARVE_ALIGNMENT - 1, &bytes);
    bytes -= bytes % CARVE_ALIGNMENT;
    bad = bad || __builtin_add_overflow(carve->size, bytes, &carve->size);
    carve->overflow = carve->overflow || bad || carve->size > PTRDIFF_MAX;
    return offset;
}

/* a * b for counts that are carved next: -1, which carve_array() refuses, where it overflows. */
static inline int64_t carve_product(int64_t a, int64_t b)
{
    int64_t product;
    return a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product) ? -1 : product;
}

/* Carving over memory; base NULL = only the size is wanted. */
struct placer {
    struct carve carve;
    char *base;
};

/* Where an array of count elements lies; NULL without a base, and where sizes have overflowed. */
static inline void *carve_place(struct placer *placer, int64_t count, size_t element)
{
    size_t offset = carve_array(&placer->carve, count, element);
    return placer->base && !placer->carve.overflow ? placer->base + offset : NULL;
}

#endif
