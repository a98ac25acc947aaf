/*
 * Owns the yardstick: what the processor multiplies and adds when nothing else is asked of it.
 * Twelve chains of dependent multiply-adds hide the latency of every x86-64 so far and fit its 16
 * registers; values go to 1, far from denormals. The vectors are those that a backend's kernels are
 * compiled with: without FMA a multiplication and an addition.
 */
#include "bench.h"

#include "clock.h"

#include <math.h>
#include <omp.h>

#define CHAINS  12
#define ROUNDS  200000 /* well under a time slice, so that some trials have the cores alone */
#define SECONDS 0.25
#define EDGE    0.02

/* Sums in the end, lest the work be left out. */
#define PEAK_LOOP(name, bytes)                                                                     \
    static float name(int64_t rounds)                                                              \
    {                                                                                              \
        typedef float vector __attribute__((vector_size(bytes)));                                  \
        const vector factor = (vector){0} + 0.5f, term = (vector){0} + 0.5f;                       \
        vector a = term, b = a + a, c = a + b, d = a + c, e = a + d, f = a + e;                    \
        vector g = a + f, h = a + g, i = a + h, j = a + i, k = a + j, l = a + k;                   \
        for (int64_t round = 0; round < rounds; round++) {                                         \
            a = a * factor + term, b = b * factor + term, c = c * factor + term;                   \
            d = d * factor + term, e = e * factor + term, f = f * factor + term;                   \
            g = g * factor + term, h = h * factor + term, i = i * factor + term;                   \
            j = j * factor + term, k = k * factor + term, l = l * factor + term;                   \
        }                                                                                          \
        a += b + c + d + e + f + g + h + i + j + k + l;                                            \
        return a[0];                                                                               \
    }

struct yardstick {
    float (*loop)(int64_t rounds);
    int lanes;
};

/* clang-format off: it takes macros that make functions for declarations */
PEAK_LOOP(loop_128, 16)
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) PEAK_LOOP(loop_256, 32) __attribute__((target("avx512f")))
PEAK_LOOP(loop_512, 64)
#endif
    /* clang-format on */

    static struct yardstick yardstick_of(draftattn_backend backend)
{
#if defined(__x86_64__)
    if (backend == DRAFTATTN_BACKEND_AVX512)
        return (struct yardstick){loop_512, 16};
    if (backend == DRAFTATTN_BACKEND_AVX2)
        return (struct yardstick){loop_256, 8};
#endif
    (void)backend;
    return (struct yardstick){loop_128, 4};
}

/* The best of one thread's trials. Those at the edges, when others may not be at work yet or any
 * more, do not count; nor does, thanks to the best, what other programs take. */
static double fastest_trial(const struct yardstick *yardstick, double begin)
{
    const double operations = 2.0 * CHAINS * yardstick->lanes * ROUNDS;
    const double end = begin + SECONDS;
    double best = 0, edge = 0;
    for (double start = clock_seconds(), stop; start < end; start = stop) {
        float sum = yardstick->loop(ROUNDS);
        stop = clock_seconds();
        double rate = isnan(sum) ? 0 : operations / (stop - start); /* so that sum is needed */
        double *to = start > begin + EDGE && stop < end ? &best : &edge;
        *to = fmax(*to, rate);
    }
    return best > 0 ? best : edge; /* on a very busy machine all trials may be at the edges */
}

double bench_peak(draftattn_backend backend, int32_t threads)
{
    const struct yardstick yardstick = yardstick_of(backend);
    const double begin = clock_seconds();
    const int processors = omp_get_num_procs(); /* threads beyond them take turns */
    double total = 0;
#pragma omp parallel num_threads(threads < processors ? threads : processors) reduction(+ : total)
    total += fastest_trial(&yardstick, begin);
    return total * 1e-9;
}
