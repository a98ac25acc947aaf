/*
 * Squares of VECTOR_FLOATS x VECTOR_FLOATS floats turned in registers. For files that are compiled
 * once per instruction set.
 */
#ifndef DRAFTATTN_KERNELS_CPU_TURN_SIMD_H
#define DRAFTATTN_KERNELS_CPU_TURN_SIMD_H

typedef float turn_vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

/* Lane l of the pair a, b after the squares of side step off their diagonal changed places. */
#define TURN_LOW(l, step)  ((l) & (step) ? VECTOR_FLOATS + (l) - (step) : (l))
#define TURN_HIGH(l, step) ((l) & (step) ? VECTOR_FLOATS + (l) : (l) + (step))
#define TURN_FOUR(half, l, step)                                                                   \
    half(l, step), half(l + 1, step), half(l + 2, step), half(l + 3, step)
#if VECTOR_FLOATS == 16
#define TURN_ALL(half, step)                                                                       \
    TURN_FOUR(half, 0, step), TURN_FOUR(half, 4, step), TURN_FOUR(half, 8, step),                  \
        TURN_FOUR(half, 12, step)
#elif VECTOR_FLOATS == 8
#define TURN_ALL(half, step) TURN_FOUR(half, 0, step), TURN_FOUR(half, 4, step)
#else
#define TURN_ALL(half, step) TURN_FOUR(half, 0, step)
#endif

#define TURN_EXCHANGE(rows, step)                                                                  \
    for (int i = 0; i < VECTOR_FLOATS; i++) {                                                      \
        if ((i & (step)) == 0) {                                                                   \
            turn_vector a = rows[i], b = rows[i + (step)];                                         \
            rows[i] = __builtin_shufflevector(a, b, TURN_ALL(TURN_LOW, step));                     \
            rows[i + (step)] = __builtin_shufflevector(a, b, TURN_ALL(TURN_HIGH, step));           \
        }                                                                                          \
    }

/* rows[i][j] and rows[j][i] change places. */
static inline __attribute__((always_inline)) void turn_square(turn_vector rows[VECTOR_FLOATS])
{
#if VECTOR_FLOATS >= 16
    TURN_EXCHANGE(rows, 8)
#endif
#if VECTOR_FLOATS >= 8
    TURN_EXCHANGE(rows, 4)
#endif
    TURN_EXCHANGE(rows, 2)
    TURN_EXCHANGE(rows, 1)
}

#endif
