/*
 * Owns the CUDA backend's entry in the list of backends: it finds the device, and as this version
 * has no CUDA kernels it says so. It is never chosen automatically, and no stage can be reached.
 */
#include "backend.h"

#include <cuda_runtime_api.h>

static const char *cuda_why_not(int32_t device)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError(); /* else the caller's own next call would meet it */
        return "no CUDA device answers; nvidia-smi tells whether the NVIDIA driver is installed";
    }
    if (device < 0 || device >= count)
        return "there is no CUDA device with this number; nvidia-smi -L lists them";
    return "the device is there, but this version has no CUDA kernels yet; backend auto takes the "
           "fastest CPU kernels";
}

const struct backend backend_cuda = {.version = BACKEND_VERSION,
                                     .id = DRAFTATTN_BACKEND_CUDA,
                                     .automatic = false,
                                     .why_not = cuda_why_not};
