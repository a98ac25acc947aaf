/*
 * SIMD_CLONES compiles a function once per x86-64 level and picks one when the program starts. It
 * goes on functions that work on one row or chunk; the OpenMP loop around them stays outside, since
 * outlined parallel bodies do not inherit it.
 *
 * Elsewhere (other processors, other compilers, sanitizers, whose runtimes are not up when the
 * choice is made) it is nothing and the code is the same.
 */
#ifndef PIPELINE_TENSOR_SIMD_CLONES_H
#define PIPELINE_TENSOR_SIMD_CLONES_H

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12 &&      \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SIMD_CLONES
#endif

#endif
