/*
 * The GPU's struct device, shared by the files that fill ops_cuda. One caller at a time. Every call
 * is enqueued on one stream; a second one brings the weights of groups. device_cuda_create() makes
 * the GPU the calling thread's current one; that it stays, for this thread, while the device lives.
 */
#ifndef PIPELINE_TENSOR_DEVICE_CUDA_H
#define PIPELINE_TENSOR_DEVICE_CUDA_H

#include "ops.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct device {
    int index;
    enum element activations;
    bool offload;
    int multiprocessors;
    cudaStream_t stream, copies;
    void *blas;    /* known to linear_cuda.c alone: handle, chosen algorithms */
    void *dnn;     /* known to conv_cuda.c alone */
    void *groups;  /* known to weight_groups_cuda.c alone */
    void *scratch; /* see device_cuda_scratch() */
    size_t scratch_bytes;
    uint64_t *watched; /* device memory: place << 40 | row of the first row that was not finite, all
                          ones = none */
    int32_t place;     /* of watch() */
    bool recording;
    int32_t recordings;      /* that live: they hold the addresses of scratch */
    struct retired *retired; /* scratch that was outgrown while they live */
    cudaError_t failed;      /* the first failure; see device_cuda_check() */
    const char *failed_in;
};

/* Keeps the first failure of a call into CUDA and takes it off the runtime's record; false where it
 * was one. what is static: "layer norm". */
bool device_cuda_check(struct device *device, cudaError_t status, const char *what);
/* cudaGetLastError() after a launch. */
void device_cuda_launched(struct device *device, const char *what);
/* false, with the first failure in words, where there is one; what bool operations end with. */
bool device_cuda_ok(const struct device *device, struct error *error);

/* Device memory for the operation under way, 256-byte aligned, contents undefined; the next call
 * may give the same. Grows on demand and is kept; NULL when memory is out, or would have to grow
 * while recording. */
void *device_cuda_scratch(struct device *device, size_t bytes);

/* The entries of ops_cuda of the same names; contracts in ops.h. */
bool device_cuda_create(struct device **out, const struct device_desc *desc, struct error *error);
void device_cuda_destroy(struct device *device);
enum element device_cuda_activations(const struct device *device);
void *device_cuda_stream(const struct device *device);
bool device_cuda_synchronise(struct device *device, struct error *error);
void *device_cuda_alloc(struct device *device, size_t bytes);
void device_cuda_free(struct device *device, void *memory);
void device_cuda_upload(struct device *device, void *to, const void *from, size_t bytes);
void device_cuda_download(struct device *device, void *to, const void *from, size_t bytes);
void device_cuda_copy(struct device *device, void *to, const void *from, size_t bytes);
void device_cuda_watch(struct device *device, int32_t place);
bool device_cuda_watched(struct device *device, int32_t *place, int64_t *row);
bool device_cuda_record_begin(struct device *device, struct error *error);
bool device_cuda_record_end(struct device *device, struct recording **out, struct error *error);
bool device_cuda_replay(struct device *device, const struct recording *recording,
                        struct error *error);
void device_cuda_recording_destroy(struct device *device, struct recording *recording);

#ifdef __cplusplus
}
#endif

#endif
