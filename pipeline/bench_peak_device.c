/*
 * Owns a device's yardstick: what its matrix units do in the vendor's own product of two large
 * bfloat16 matrices of random numbers (zeros would draw less power and run faster). cuBLAS is
 * looked for when it is asked for, so that the program neither needs nor links it; its few types
 * that are used here are plain numbers, and have been since version 11.
 */
#include "bench.h"

#include "clock.h"
#include "device_memory.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows and columns of the matrices, and values of the random part that is laid out again and again
 * in them. */
#define SIDE   8192
#define RANDOM (1 << 22)

#define SECONDS  1.0
#define PRODUCTS 8 /* of a trial */

enum { TRANSPOSED = 1, NOT_TRANSPOSED = 0, BF16 = 14, FLOAT_SUMS = 68, ANY_ALGORITHM = -1 };

struct cublas {
    void *library, *handle;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*product)(void *handle, int transpose_a, int transpose_b, int m, int n, int k,
                   const void *alpha, const void *a, int a_type, int a_stride, const void *b,
                   int b_type, int b_stride, const void *beta, void *c, int c_type, int c_stride,
                   int sums, int algorithm);
};

/* ISO C has no conversion from dlsym's pointer to a function's. */
static bool symbol(const struct cublas *cublas, const char *name, void *function)
{
    void *found = dlsym(cublas->library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

static bool open_cublas(struct cublas *cublas)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11"};
    for (size_t i = 0; !cublas->library && i < sizeof names / sizeof *names; i++)
        cublas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return cublas->library && symbol(cublas, "cublasCreate_v2", &cublas->create) &&
           symbol(cublas, "cublasDestroy_v2", &cublas->destroy) &&
           symbol(cublas, "cublasGemmEx", &cublas->product) && cublas->create(&cublas->handle) == 0;
}

static void close_cublas(struct cublas *cublas)
{
    if (cublas->handle)
        cublas->destroy(cublas->handle);
    if (cublas->library)
        dlclose(cublas->library);
}

/* Two matrices, one after the other. */
static bool fill(char *matrices)
{
    const draftattn_grid grid = {8, 64, 64, 0};
    float *values = malloc(3 * (size_t)RANDOM * sizeof *values);
    uint16_t *rounded = malloc(RANDOM * sizeof *rounded);
    bool ok = values && rounded;
    _Static_assert(8 * 64 * 64 * 128 == RANDOM, "tokens of the grid, of 128 values");
    if (ok) {
        bench_fill(&grid, 0, 1, 128, BENCH_SEED, values, values + RANDOM, values + 2 * RANDOM);
        bench_round(values, RANDOM, DRAFTATTN_BF16, rounded);
    }
    const size_t part = RANDOM * sizeof *rounded, whole = (size_t)2 * SIDE * SIDE * sizeof *rounded;
    for (size_t at = 0; ok && at < whole; at += part)
        ok = device_memory_copy(matrices + at, rounded, part, NULL);
    free(rounded);
    free(values);
    return ok;
}

/* Seconds of the fastest product; infinite where one fails. */
static double fastest_product(const struct cublas *cublas, char *matrices)
{
    const size_t matrix = (size_t)SIDE * SIDE * sizeof(uint16_t);
    const float one = 1, zero = 0;
    double best = INFINITY;
    for (double begin = clock_seconds(); clock_seconds() < begin + SECONDS;) {
        double start = clock_seconds();
        for (int i = 0; i < PRODUCTS; i++)
            if (cublas->product(cublas->handle, TRANSPOSED, NOT_TRANSPOSED, SIDE, SIDE, SIDE, &one,
                                matrices, BF16, SIDE, matrices + matrix, BF16, SIDE, &zero,
                                matrices + 2 * matrix, BF16, SIDE, FLOAT_SUMS, ANY_ALGORITHM) != 0)
                return INFINITY;
        if (!device_memory_synchronise(NULL))
            return INFINITY;
        best = fmin(best, (clock_seconds() - start) / PRODUCTS);
    }
    return best;
}

double bench_peak_device(void)
{
    struct cublas cublas = {0};
    void *matrices = NULL;
    double seconds = INFINITY;
    if (device_memory_available() > 0 && open_cublas(&cublas) &&
        device_memory_alloc(&matrices, (size_t)3 * SIDE * SIDE * sizeof(uint16_t), "", NULL) &&
        fill(matrices))
        seconds = fastest_product(&cublas, matrices);
    device_memory_free(matrices);
    close_cublas(&cublas);
    return 2.0 * SIDE * SIDE * SIDE / seconds * 1e-9;
}
