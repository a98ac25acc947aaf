/*
 * Owns the runtime's acquaintance with the CUDA runtime: no other file of it names one. Pointers
 * are of the unified address space, so that a copy finds its direction itself. Every failure is
 * taken off the runtime's own record, lest a later call report it as its own.
 */
#include "device_memory.h"

#ifdef DRAFTATTN_HAVE_CUDA

#include <cuda_runtime_api.h>
#include <stdio.h>

static bool check(cudaError_t status, const char *what, struct error *error)
{
    if (status == cudaSuccess)
        return true;
    cudaGetLastError();
    return error_set(error, "CUDA device: %s: %s", what, cudaGetErrorString(status));
}

void device_memory_device(char *text, size_t size)
{
    struct cudaDeviceProp properties;
    int device;
    text[0] = '\0';
    if (check(cudaGetDevice(&device), "", NULL) &&
        check(cudaGetDeviceProperties(&properties, device), "", NULL))
        snprintf(text, size, "%s, %d multiprocessors", properties.name,
                 properties.multiProcessorCount);
}

int64_t device_memory_available(void)
{
    size_t available, total;
    return check(cudaMemGetInfo(&available, &total), "", NULL) ? (int64_t)available : 0;
}

int64_t device_memory_total(void)
{
    size_t available, total;
    return check(cudaMemGetInfo(&available, &total), "", NULL) ? (int64_t)total : 0;
}

bool device_memory_alloc(void **memory, size_t bytes, const char *what, struct error *error)
{
    *memory = NULL;
    return check(cudaMalloc(memory, bytes), what, error) ||
           error_append(error, " (%zu bytes; %lld are free)", bytes,
                        (long long)device_memory_available());
}

void device_memory_free(void *memory)
{
    check(cudaFree(memory), "", NULL);
}

bool device_memory_copy(void *to, const void *from, size_t bytes, struct error *error)
{
    return check(cudaDeviceSynchronize(), "earlier work", error) &&
           check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "copy", error) &&
           check(cudaDeviceSynchronize(), "copy", error);
}

bool device_memory_synchronise(struct error *error)
{
    return check(cudaDeviceSynchronize(), "work", error);
}

#else

static bool refuse(struct error *error)
{
    return error_set(error, "this program was built without CUDA; configure it with "
                            "-DDRAFTATTN_CUDA=ON where the CUDA toolkit is installed");
}

void device_memory_device(char *text, size_t size)
{
    (void)size;
    text[0] = '\0';
}

int64_t device_memory_available(void)
{
    return 0;
}

int64_t device_memory_total(void)
{
    return 0;
}

bool device_memory_alloc(void **memory, size_t bytes, const char *what, struct error *error)
{
    (void)bytes, (void)what;
    *memory = NULL;
    return refuse(error);
}

void device_memory_free(void *memory)
{
    (void)memory;
}

bool device_memory_copy(void *to, const void *from, size_t bytes, struct error *error)
{
    (void)to, (void)from, (void)bytes;
    return refuse(error);
}

bool device_memory_synchronise(struct error *error)
{
    return refuse(error);
}

#endif
