/*
 * Which instruction sets work here. The compiler's own run-time check asks the CPU (CPUID) and the
 * operating system (XGETBV: are the wide registers saved on a task switch?), so a set that it
 * reports can be used.
 */
#include "cpu_features.h"

#include <stddef.h>

#if defined(__x86_64__)

static const char *x86_why_not(draftattn_backend backend)
{
    __builtin_cpu_init();
    if (backend == DRAFTATTN_BACKEND_AVX2) {
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
            return NULL;
        }
        return "this CPU (or its operating system) lacks AVX2 or FMA";
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma")) {
        return NULL;
    }
    return "this CPU (or its operating system) lacks one of AVX-512 F, BW, DQ and VL";
}

#else

static const char *x86_why_not(draftattn_backend backend)
{
    (void)backend;
    return "this build is not for x86-64";
}

#endif

const char *cpu_features_why_not(draftattn_backend backend)
{
    switch (backend) {
    case DRAFTATTN_BACKEND_AUTO:
    case DRAFTATTN_BACKEND_REFERENCE:
    case DRAFTATTN_BACKEND_PORTABLE:
        return NULL;
    case DRAFTATTN_BACKEND_AVX2:
    case DRAFTATTN_BACKEND_AVX512:
        return x86_why_not(backend);
    case DRAFTATTN_BACKEND_CUDA:
        break;
    }
    return "not a CPU backend";
}
