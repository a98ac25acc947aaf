/*
 * Owns the GPU's struct device: which GPUs are taken, memory and copies, the first failure,
 * scratch, the word that says where a NaN was seen, and recordings, which are CUDA graphs captured
 * from the stream.
 *
 * Everything is enqueued on one stream that does not wait for the default one. A call into CUDA
 * that fails is kept with its name, since it may belong to work enqueued long before; whatever can
 * report says it from then on. Refused: GPUs before Ampere, and those that this program has no code
 * for.
 */
#include "device_cuda.h"

#include "libraries_cuda.h"
#include "linear_cuda.h"
#include "random_cuda.h"
#include "weight_groups_cuda.h"

#include <stdlib.h>

enum { LEAST_CAPABILITY = 80, ROW_BITS = 40 };

struct recording {
    cudaGraphExec_t graph;
};

struct retired {
    void *memory;
    struct retired *next;
};

/* ---- failures -------------------------------------------------------------------------------- */

bool device_cuda_check(struct device *device, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return true;
    cudaGetLastError();
    if (device->failed == cudaSuccess) {
        device->failed = status;
        device->failed_in = what;
    }
    return false;
}

void device_cuda_launched(struct device *device, const char *what)
{
    device_cuda_check(device, cudaGetLastError(), what);
}

bool device_cuda_ok(const struct device *device, struct error *error)
{
    if (device->failed == cudaSuccess)
        return true;
    return error_set(error, "CUDA device %d: %s: %s", device->index, device->failed_in,
                     cudaGetErrorString(device->failed));
}

/* A failure to make the device: taken off the runtime's record and told. */
static bool refuse(cudaError_t status, int32_t index, const char *what, struct error *error)
{
    cudaGetLastError();
    return error_set(error, "CUDA device %d: %s: %s", index, what, cudaGetErrorString(status));
}

/* ---- the device ------------------------------------------------------------------------------ */

static bool gpu_answers(int32_t index, struct error *error)
{
    int count = 0, major = 0, minor = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver)
        return refuse(status, index, "the NVIDIA driver is missing or too old; nvidia-smi tells",
                      error);
    if (status || count == 0) {
        cudaGetLastError();
        return error_set(error, "no CUDA device answers; nvidia-smi tells whether the NVIDIA "
                                "driver is installed");
    }
    if (index < 0 || index >= count)
        return error_set(error,
                         "there is no CUDA device %d, only 0 to %d; nvidia-smi -L lists them",
                         index, count - 1);
    status = cudaSetDevice(index);
    if (!status)
        status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    if (!status)
        status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
    if (status)
        return refuse(status, index, "it cannot be used", error);
    if (major * 10 + minor < LEAST_CAPABILITY)
        return error_set(error,
                         "CUDA device %d: its compute capability is %d.%d, and 8.0 (Ampere) "
                         "or later is needed",
                         index, major, minor);
    status = random_cuda_probe();
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return error_set(error,
                         "CUDA device %d: this program holds no code for compute capability "
                         "%d.%d; build on its machine, or set CMAKE_CUDA_ARCHITECTURES",
                         index, major, minor);
    }
    return !status || refuse(status, index, "its code does not load", error);
}

static bool open_parts(struct device *device, struct error *error)
{
    const size_t word = sizeof *device->watched;
    bool ok =
        device_cuda_check(device,
                          cudaDeviceGetAttribute(&device->multiprocessors,
                                                 cudaDevAttrMultiProcessorCount, device->index),
                          "multiprocessors") &&
        device_cuda_check(device, cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking),
                          "stream") &&
        device_cuda_check(device, cudaStreamCreateWithFlags(&device->copies, cudaStreamNonBlocking),
                          "stream") &&
        device_cuda_check(device, cudaMalloc((void **)&device->watched, word), "memory") &&
        device_cuda_check(device, cudaMemsetAsync(device->watched, 0xff, word, device->stream),
                          "memory");
    return device_cuda_ok(device, error) && ok && linear_cuda_open(device, error) &&
           weight_groups_cuda_open(device, error);
}

bool device_cuda_create(struct device **out, const struct device_desc *desc, struct error *error)
{
    *out = NULL;
    if (!gpu_answers(desc->index, error) || !libraries_cuda_open(error))
        return false;
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return error_out_of_memory(error, "the GPU's device", sizeof *device);
    device->index = desc->index;
    device->activations = desc->activations;
    device->offload = desc->offload;
    if (!open_parts(device, error)) {
        device_cuda_destroy(device);
        return false;
    }
    *out = device;
    return true;
}

static void free_retired(struct device *device)
{
    while (device->retired) {
        struct retired *first = device->retired;
        device->retired = first->next;
        device_cuda_check(device, cudaFree(first->memory), "scratch memory");
        free(first);
    }
}

void device_cuda_destroy(struct device *device)
{
    if (!device)
        return;
    cudaGraph_t graph = NULL;
    if (device->recording && cudaStreamEndCapture(device->stream, &graph) == cudaSuccess)
        cudaGraphDestroy(graph);
    if (device->stream)
        cudaStreamSynchronize(device->stream);
    if (device->copies)
        cudaStreamSynchronize(device->copies);
    weight_groups_cuda_close(device);
    linear_cuda_close(device);
    free_retired(device);
    cudaFree(device->scratch);
    cudaFree(device->watched);
    if (device->copies)
        cudaStreamDestroy(device->copies);
    if (device->stream)
        cudaStreamDestroy(device->stream);
    cudaGetLastError(); /* what failed was reported when it did */
    free(device);
}

enum element device_cuda_activations(const struct device *device)
{
    return device->activations;
}

void *device_cuda_stream(const struct device *device)
{
    return device->stream;
}

bool device_cuda_synchronise(struct device *device, struct error *error)
{
    device_cuda_check(device, cudaStreamSynchronize(device->copies), "weights from the host");
    device_cuda_check(device, cudaStreamSynchronize(device->stream), "work");
    return device_cuda_ok(device, error);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Memory that is out is the caller's to report, and no failure of the device. */
static void *take(struct device *device, size_t bytes)
{
    void *memory = NULL;
    cudaError_t status = cudaMalloc(&memory, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    return device_cuda_check(device, status, "memory") ? memory : NULL;
}

void *device_cuda_alloc(struct device *device, size_t bytes)
{
    return take(device, bytes);
}

void device_cuda_free(struct device *device, void *memory)
{
    if (!memory)
        return;
    device_cuda_check(device, cudaStreamSynchronize(device->stream), "work");
    device_cuda_check(device, cudaFree(memory), "memory");
}

/* Memory that is not pinned is staged before the call returns. */
void device_cuda_upload(struct device *device, void *to, const void *from, size_t bytes)
{
    device_cuda_check(
        device, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->stream), "upload");
}

void device_cuda_download(struct device *device, void *to, const void *from, size_t bytes)
{
    device_cuda_check(device,
                      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream),
                      "download");
    device_cuda_check(device, cudaStreamSynchronize(device->stream), "work");
}

void device_cuda_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    device_cuda_check(
        device, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device->stream), "copy");
}

/* Recordings hold the address of the scratch they were made with: it outlives them. */
static bool retire_scratch(struct device *device)
{
    struct retired *retired = NULL;
    if (device->recordings == 0) {
        device_cuda_free(device, device->scratch);
    } else if (device->scratch) {
        retired = malloc(sizeof *retired);
        if (!retired)
            return false;
        *retired = (struct retired){.memory = device->scratch, .next = device->retired};
        device->retired = retired;
    }
    device->scratch = NULL;
    device->scratch_bytes = 0;
    return true;
}

void *device_cuda_scratch(struct device *device, size_t bytes)
{
    if (bytes <= device->scratch_bytes)
        return device->scratch;
    if (device->recording || !retire_scratch(device))
        return NULL;
    device->scratch = take(device, bytes);
    device->scratch_bytes = device->scratch ? bytes : 0;
    return device->scratch;
}

/* ---- what is not finite ---------------------------------------------------------------------- */

void device_cuda_watch(struct device *device, int32_t place)
{
    device->place = place;
}

bool device_cuda_watched(struct device *device, int32_t *place, int64_t *row)
{
    uint64_t word = UINT64_MAX;
    device_cuda_download(device, &word, device->watched, sizeof word);
    if (word == UINT64_MAX)
        return false;
    device_cuda_check(device, cudaMemsetAsync(device->watched, 0xff, sizeof word, device->stream),
                      "memory");
    *place = (int32_t)(word >> ROW_BITS);
    *row = (int64_t)(word & (((uint64_t)1 << ROW_BITS) - 1));
    return true;
}

/* ---- recordings ------------------------------------------------------------------------------ */

/* With offload nothing is recorded: a graph could not wait for weights of groups as they come. */
bool device_cuda_record_begin(struct device *device, struct error *error)
{
    if (device->offload || !device_cuda_ok(device, error))
        return device_cuda_ok(device, error);
    device->recording = device_cuda_check(
        device, cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeRelaxed), "recording");
    return device_cuda_ok(device, error);
}

bool device_cuda_record_end(struct device *device, struct recording **out, struct error *error)
{
    cudaGraph_t graph = NULL;
    *out = NULL;
    if (!device->recording)
        return device_cuda_ok(device, error);
    struct recording *recording = calloc(1, sizeof *recording);
    bool ok = device_cuda_check(device, cudaStreamEndCapture(device->stream, &graph), "recording");
    device->recording = false;
    ok = ok && device_cuda_ok(device, NULL);
    if (ok && recording)
        ok = device_cuda_check(device, cudaGraphInstantiate(&recording->graph, graph, 0),
                               "recording");
    if (graph)
        cudaGraphDestroy(graph);
    if (!ok || !recording) {
        free(recording);
        return ok ? error_out_of_memory(error, "a recording", sizeof *recording)
                  : device_cuda_ok(device, error);
    }
    device->recordings++;
    *out = recording;
    return true;
}

bool device_cuda_replay(struct device *device, const struct recording *recording,
                        struct error *error)
{
    device_cuda_check(device, cudaGraphLaunch(recording->graph, device->stream), "replay");
    return device_cuda_ok(device, error);
}

void device_cuda_recording_destroy(struct device *device, struct recording *recording)
{
    if (!recording)
        return;
    device_cuda_check(device, cudaStreamSynchronize(device->stream), "work");
    device_cuda_check(device, cudaGraphExecDestroy(recording->graph), "recording");
    free(recording);
    if (--device->recordings == 0)
        free_retired(device);
}
