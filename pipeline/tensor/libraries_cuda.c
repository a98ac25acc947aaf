/*
 * Owns the way to cuBLASLt and cuDNN: each function of theirs that the runtime calls is defined
 * here and forwards to the library, which is loaded when it is first needed. A function's address
 * is looked up once and kept; that it is found twice by two threads does no harm.
 *
 * A library is looked for as the system does, by the name of the version whose headers were
 * compiled, and then where the build found it. libcudnn.so is but a shim: its functions load
 * libcudnn_graph.so, and end the program where that is missing, so that it is asked for here.
 */
#define _GNU_SOURCE /* dlinfo() */
#include "libraries_cuda.h"

#include <cublasLt.h>
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define TEXT_OF(number)        #number
#define VERSIONED(name, major) name TEXT_OF(major)
#define BLAS                   VERSIONED("libcublasLt.so.", CUBLAS_VER_MAJOR)
#define DNN                    VERSIONED("libcudnn.so.", CUDNN_MAJOR)
#define DNN_GRAPH              VERSIONED("libcudnn_graph.so.", CUDNN_MAJOR)

/* Handles are counted and libraries stay. NULL: dlerror() says why the system's way failed. */
static void *library(const char *name, const char *where)
{
    void *handle = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (!handle)
        handle = dlopen(where, RTLD_LAZY | RTLD_LOCAL);
    return handle ? handle : dlopen(name, RTLD_LAZY | RTLD_LOCAL);
}

static void *blas(void)
{
    return library(BLAS, DRAFTATTN_CUBLASLT_FOLDER "/" BLAS);
}

static void *dnn(void)
{
    return library(DNN, DRAFTATTN_CUDNN_FOLDER "/" DNN);
}

/* From the shim's own folder, where the shim looks; what is loaded by then it takes as well. */
static void *dnn_graph(void)
{
    char folder[PATH_MAX], path[PATH_MAX + sizeof DNN_GRAPH];
    void *shim = dnn(), *handle = NULL;
    if (shim && dlinfo(shim, RTLD_DI_ORIGIN, folder) == 0) {
        snprintf(path, sizeof path, "%s/%s", folder, DNN_GRAPH);
        handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    }
    return handle ? handle : library(DNN_GRAPH, DRAFTATTN_CUDNN_FOLDER "/" DNN_GRAPH);
}

static bool open_one(void *handle, const char *name, struct error *error)
{
    return handle || error_set(error,
                               "%s cannot be used: %s; install it, or put its folder into "
                               "LD_LIBRARY_PATH",
                               name, dlerror());
}

bool libraries_cuda_open(struct error *error)
{
    return open_one(blas(), BLAS, error) && open_one(dnn(), DNN, error) &&
           open_one(dnn_graph(), DNN_GRAPH, error);
}

static void *find(void *handle, const char *name)
{
    return handle ? dlsym(handle, name) : NULL;
}

/* Defines a function of a library, of the type that its header gives it; missing is what it returns
 * where it is not found. */
#define FORWARD(result, handle, missing, name, parameters, arguments)                              \
    result name parameters                                                                         \
    {                                                                                              \
        static _Atomic(void *) kept;                                                               \
        void *address = atomic_load_explicit(&kept, memory_order_relaxed);                         \
        __typeof__(&name) function;                                                                \
        if (!address) {                                                                            \
            address = find(handle, #name);                                                         \
            atomic_store_explicit(&kept, address, memory_order_relaxed);                           \
        }                                                                                          \
        memcpy(&function, &address, sizeof function);                                              \
        return address ? function arguments : missing;                                             \
    }

#define BLAS_STATUS(name, parameters, arguments)                                                   \
    FORWARD(cublasStatus_t, blas(), CUBLAS_STATUS_NOT_INITIALIZED, name, parameters, arguments)
#define DNN_STATUS(name, parameters, arguments)                                                    \
    FORWARD(cudnnStatus_t, dnn(), CUDNN_STATUS_NOT_INITIALIZED, name, parameters, arguments)

/* ---- cuBLASLt -------------------------------------------------------------------------------- */

BLAS_STATUS(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
BLAS_STATUS(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
FORWARD(const char *, blas(), "the library lacks a function", cublasLtGetStatusString,
        (cublasStatus_t status), (status))
BLAS_STATUS(cublasLtMatmulDescInit_internal,
            (cublasLtMatmulDesc_t desc, size_t size, cublasComputeType_t compute,
             cudaDataType_t scale),
            (desc, size, compute, scale))
BLAS_STATUS(cublasLtMatmulDescSetAttribute,
            (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void *value,
             size_t size),
            (desc, attribute, value, size))
BLAS_STATUS(cublasLtMatrixLayoutInit_internal,
            (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows,
             uint64_t columns, int64_t leading),
            (layout, size, type, rows, columns, leading))
BLAS_STATUS(cublasLtMatrixLayoutSetAttribute,
            (cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
             const void *value, size_t size),
            (layout, attribute, value, size))
BLAS_STATUS(cublasLtMatmulPreferenceInit_internal,
            (cublasLtMatmulPreference_t preference, size_t size), (preference, size))
BLAS_STATUS(cublasLtMatmulPreferenceSetAttribute,
            (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
             const void *value, size_t size),
            (preference, attribute, value, size))
BLAS_STATUS(cublasLtMatmulAlgoGetHeuristic,
            (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
             cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
             cublasLtMatmulPreference_t preference, int wanted,
             cublasLtMatmulHeuristicResult_t *found, int *count),
            (handle, desc, a, b, c, d, preference, wanted, found, count))
BLAS_STATUS(cublasLtMatmul,
            (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
             cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
             const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
             cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm,
             void *workspace, size_t bytes, cudaStream_t stream),
            (handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
             algorithm, workspace, bytes, stream))

/* ---- cuDNN ----------------------------------------------------------------------------------- */

DNN_STATUS(cudnnCreate, (cudnnHandle_t * handle), (handle))
DNN_STATUS(cudnnDestroy, (cudnnHandle_t handle), (handle))
DNN_STATUS(cudnnSetStream, (cudnnHandle_t handle, cudaStream_t stream), (handle, stream))
FORWARD(size_t, dnn(), 0, cudnnGetVersion, (void), ())
FORWARD(const char *, dnn(), "the library lacks a function", cudnnGetErrorString,
        (cudnnStatus_t status), (status))
DNN_STATUS(cudnnBackendCreateDescriptor,
           (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *desc), (type, desc))
DNN_STATUS(cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t desc), (desc))
DNN_STATUS(cudnnBackendFinalize, (cudnnBackendDescriptor_t desc), (desc))
DNN_STATUS(cudnnBackendSetAttribute,
           (cudnnBackendDescriptor_t desc, cudnnBackendAttributeName_t name,
            cudnnBackendAttributeType_t type, int64_t count, const void *values),
           (desc, name, type, count, values))
DNN_STATUS(cudnnBackendGetAttribute,
           (cudnnBackendDescriptor_t const desc, cudnnBackendAttributeName_t name,
            cudnnBackendAttributeType_t type, int64_t wanted, int64_t *count, void *values),
           (desc, name, type, wanted, count, values))
DNN_STATUS(cudnnBackendExecute,
           (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack),
           (handle, plan, pack))
