/*
 * The arithmetic of repair: ridge regression of the probe rows' residual on what a row knows about
 * itself, and its application. Compiled once per instruction set; which one is the backend's
 * choice.
 */
#ifndef DRAFTATTN_KERNELS_CPU_REPAIR_SIMD_H
#define DRAFTATTN_KERNELS_CPU_REPAIR_SIMD_H

#include "carve.h"

#include <stdbool.h>
#include <stdint.h>

struct repair_fit {
    int64_t rows; /* probe rows, >= 1 */
    int32_t head_dim;
    double ridge;       /* share of the mean diagonal of the Gram matrix */
    const float *o;     /* [rows][head_dim] sparse outputs */
    const float *q;     /* [rows][head_dim] at any scale */
    const float *exact; /* [rows][head_dim] */
    double error;       /* sum of squares of exact - o */
    float *weight;      /* out: [2 * head_dim][head_dim]; the lower half applies to q as it is */
    float *shift;       /* out: [head_dim] */
    double
        error_unseen; /* out: sum of squares after correction, each row predicted from the others */
    double gain_spread; /* out: standard error of the gain over exact - o, from row to row */
    void *scratch;      /* repair_fit_bytes() */
};

/* False where the features do not vary, rounding has eaten the solution or unseen rows gain
 * nothing; the outputs are then undefined. */
typedef bool (*repair_fit_fn)(struct repair_fit *fit);

/* o[row] += shift + [o[row], q[row]] weight, in place; fixed is scratch [rows][head_dim]. */
typedef void (*repair_apply_fn)(int64_t rows, int32_t head_dim, const float *weight,
                                const float *shift, const float *q, float *o, float *fixed);

/* Sum of (a - b)^2; b NULL stands for zeros. */
typedef double (*repair_squares_fn)(const float *a, const float *b, int64_t count);

struct repair_kernels {
    repair_squares_fn squares;
    repair_fit_fn fit;
    repair_apply_fn apply;
};

extern const struct repair_kernels repair_portable, repair_avx2, repair_avx512;

/* Offsets into a fit's scratch. */
struct repair_layout {
    size_t x, xt;                 /* float [rows][features], [features][rows] */
    size_t gram, transposed;      /* float [rows][rows] */
    size_t upper;                 /* double [rows][rows]: Cholesky factor */
    size_t inverse;               /* double [rows][rows]: of the factor */
    size_t residual, half, alpha; /* float [rows][head_dim] */
    size_t mean;                  /* float [3 * head_dim]: of the features, of the residual */
    size_t size;
};

static inline struct repair_layout repair_lay_out(int64_t rows, int64_t head_dim)
{
    struct carve carve = {0, false};
    struct repair_layout layout;
    layout.x = carve_array(&carve, rows * 2 * head_dim, sizeof(float));
    layout.xt = carve_array(&carve, rows * 2 * head_dim, sizeof(float));
    layout.gram = carve_array(&carve, rows * rows, sizeof(float));
    layout.transposed = carve_array(&carve, rows * rows, sizeof(float));
    layout.upper = carve_array(&carve, rows * rows, sizeof(double));
    layout.inverse = carve_array(&carve, rows * rows, sizeof(double));
    layout.residual = carve_array(&carve, rows * head_dim, sizeof(float));
    layout.half = carve_array(&carve, rows * head_dim, sizeof(float));
    layout.alpha = carve_array(&carve, rows * head_dim, sizeof(float));
    layout.mean = carve_array(&carve, 3 * head_dim, sizeof(float));
    layout.size = carve.size;
    return layout;
}

/* rows is bounded by the plan, so this cannot overflow. */
static inline int64_t repair_fit_bytes(int64_t rows, int64_t head_dim)
{
    return rows ? (int64_t)repair_lay_out(rows, head_dim).size : 0;
}

#endif
