/*
 * The memory spaces of the backends (check_kernels.h). Here alone the tests in C know whether this
 * build can reach a device.
 */
#include "check_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void copy_on_host(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static const struct test_space host_space = {check_alloc, free, copy_on_host};

#ifdef DRAFTATTN_HAVE_CUDA
#include <cuda_runtime_api.h>

static void must(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
        exit(1);
    }
}

static void *alloc_on_device(size_t bytes)
{
    void *memory;
    must(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
}

static void free_on_device(void *memory)
{
    must(cudaFree(memory), "cudaFree");
}

static void copy_and_wait(void *to, const void *from, size_t bytes)
{
    must(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
    must(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

static const struct test_space device_space = {alloc_on_device, free_on_device, copy_and_wait};
#else
static const struct test_space device_space = {0}; /* no context of the backend comes this far */
#endif

const struct test_space *test_space_of(draftattn_backend backend)
{
    return backend == DRAFTATTN_BACKEND_CUDA ? &device_space : &host_space;
}
