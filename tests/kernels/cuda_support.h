/*
 * What the tests of the CUDA launches share: a device to run on, device buffers with guard bands,
 * random data of the three types, the tally, event timing. For .cu files (nvcc, C++17).
 *
 * A call of the CUDA runtime that fails ends the test program: CUDA_OK names file, line and error.
 * main() of a test:
 *
 *     cuda_device_or_skip(80, 999);
 *     ... for each case: buffers, launch, compare; tally_case(&tally, ok, "tokens %d: ...", ...)
 *     return tally_end(&tally);
 */
#ifndef DRAFTATTN_TESTS_CUDA_SUPPORT_H
#define DRAFTATTN_TESTS_CUDA_SUPPORT_H

#include "dtype.h"

#include <cuda_runtime.h>
#include <draftattn.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

/* --- errors, the device ------------------------------------------------------------------- */

static inline void cuda_ok(cudaError_t error, const char *what, const char *file, int line)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, cudaGetErrorString(error));
        exit(1);
    }
}

#define CUDA_OK(call) cuda_ok((call), #call, __FILE__, __LINE__)

/* Waits for the device, so that the launch before it is the one that is blamed. */
#define CUDA_FINISH() CUDA_OK(cudaDeviceSynchronize())

/* Compute capability * 10 of the device; ends the program with 77 where there is none, or where its
 * capability is outside [least, most]. */
static inline int32_t cuda_device_or_skip(int32_t least, int32_t most)
{
    int count = 0, device = 0, major = 0, minor = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device answers\n");
        exit(77);
    }
    CUDA_OK(cudaGetDevice(&device));
    CUDA_OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    CUDA_OK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    const int32_t capability = major * 10 + minor;
    if (capability < least || capability > most) {
        printf("skipped: a device of capability %d, not of %d to %d\n", capability, least, most);
        exit(77);
    }
    return capability;
}

/* --- the tally ---------------------------------------------------------------------------- */

struct tally {
    int64_t passed, failed;
};

/* Counts a case; one that failed is named on a line of its own. */
__attribute__((format(printf, 3, 4))) static inline void tally_case(struct tally *tally, bool ok,
                                                                    const char *format, ...)
{
    tally->passed += ok;
    tally->failed += !ok;
    if (!ok) {
        va_list list;
        va_start(list, format);
        printf("FAILED ");
        vprintf(format, list);
        printf("\n");
        va_end(list);
        fflush(stdout);
    }
}

/* Prints the last line; what main() returns. No case at all is a failure. */
static inline int tally_end(const struct tally *tally)
{
    if (tally->failed > 0)
        printf("%lld failed, ", (long long)tally->failed);
    printf("%lld passed\n", (long long)tally->passed);
    return tally->failed > 0 || tally->passed == 0;
}

/* --- device memory with guard bands ------------------------------------------------------- */

enum { CUDA_GUARD_BYTES = 4096, CUDA_GUARD_BYTE = 0xb7 };

/* data is aligned to 256 bytes (plus offset); guards lie directly before and behind it. */
struct device_buffer {
    char *base, *data;
    size_t bytes, offset;
};

/* bytes of device memory, each of them fill. With an offset, data is that much less aligned. */
static inline struct device_buffer device_make(size_t bytes, int fill, size_t offset = 0)
{
    struct device_buffer buffer = {};
    const size_t all = bytes + offset + 2 * CUDA_GUARD_BYTES;

    CUDA_OK(cudaMalloc((void **)&buffer.base, all));
    CUDA_OK(cudaMemset(buffer.base, CUDA_GUARD_BYTE, all));
    buffer.data = buffer.base + CUDA_GUARD_BYTES + offset;
    buffer.bytes = bytes;
    buffer.offset = offset;
    if (bytes > 0)
        CUDA_OK(cudaMemset(buffer.data, fill, bytes));
    return buffer;
}

static inline void device_free(struct device_buffer *buffer)
{
    CUDA_OK(cudaFree(buffer->base));
    *buffer = {};
}

/* Every byte of it, e.g. 0xff: NaN in each of the three types, -1 as an integer. */
static inline void device_fill(const struct device_buffer *buffer, int fill)
{
    CUDA_OK(cudaMemset(buffer->data, fill, buffer->bytes));
}

static inline void device_upload(const struct device_buffer *buffer, const void *from)
{
    CUDA_OK(cudaMemcpy(buffer->data, from, buffer->bytes, cudaMemcpyHostToDevice));
}

/* Waits for what is under way. */
static inline void device_download(const struct device_buffer *buffer, void *to)
{
    CUDA_OK(cudaMemcpy(to, buffer->data, buffer->bytes, cudaMemcpyDeviceToHost));
}

/* A buffer with the contents of a vector, and the way back. */
template <typename T> struct device_buffer device_from(const std::vector<T> &values)
{
    struct device_buffer buffer = device_make(values.size() * sizeof(T), 0);
    if (!values.empty())
        device_upload(&buffer, values.data());
    return buffer;
}

template <typename T> std::vector<T> device_vector(const struct device_buffer *buffer)
{
    std::vector<T> values(buffer->bytes / sizeof(T));
    if (!values.empty())
        device_download(buffer, values.data());
    return values;
}

/* Nothing was written outside of data. */
static inline bool device_guards_hold(const struct device_buffer *buffer)
{
    const size_t before = CUDA_GUARD_BYTES + buffer->offset, all = before + CUDA_GUARD_BYTES;
    std::vector<unsigned char> bytes(all);

    CUDA_OK(cudaMemcpy(bytes.data(), buffer->base, before, cudaMemcpyDeviceToHost));
    CUDA_OK(cudaMemcpy(bytes.data() + before, buffer->data + buffer->bytes, CUDA_GUARD_BYTES,
                       cudaMemcpyDeviceToHost));
    return std::all_of(bytes.begin(), bytes.end(), [](int c) { return c == CUDA_GUARD_BYTE; });
}

/* --- random data -------------------------------------------------------------------------- */

/* splitmix64 of a state and a place in it: no sequence, so that the device can make it too. */
__host__ __device__ static inline uint64_t random_bits(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [0, 1). */
__host__ __device__ static inline float random_uniform(uint64_t seed, uint64_t index)
{
    return (float)(random_bits(seed, index) >> 40) * 0x1p-24f;
}

/* About normal, mean 0 and deviation 1, within 5.2: eight 16-bit uniforms of two draws. */
__host__ __device__ static inline float random_normal(uint64_t seed, uint64_t index)
{
    const uint64_t a = random_bits(seed, index), b = random_bits(seed + 1, index);
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (float)(a >> (16 * i) & 0xffff) + (float)(b >> (16 * i) & 0xffff);
    }
    return (sum * 0x1p-16f - 4) * 1.2247449f; /* a uniform has a variance of 1/12 */
}

/* An integer in [0, below). */
static inline int64_t random_below(uint64_t seed, uint64_t index, int64_t below)
{
    return (int64_t)(random_bits(seed, index) % (uint64_t)below);
}

__host__ __device__ static inline void store_as(void *data, draftattn_dtype dtype, int64_t index,
                                                uint16_t bits, float value)
{
    if (dtype == DRAFTATTN_F32)
        ((float *)data)[index] = value;
    else
        ((uint16_t *)data)[index] = bits;
}

static inline uint16_t half_bits(draftattn_dtype dtype, float value)
{
    return dtype == DRAFTATTN_F16 ? f16_from_float(value) : bf16_from_float(value);
}

/* The stored value of an element of host memory, and the way back. */
static inline float load_from(const void *data, draftattn_dtype dtype, int64_t index)
{
    if (dtype == DRAFTATTN_F32)
        return ((const float *)data)[index];
    const uint16_t bits = ((const uint16_t *)data)[index];
    return dtype == DRAFTATTN_F16 ? float_from_f16(bits) : float_from_bf16(bits);
}

static inline void store_to(void *data, draftattn_dtype dtype, int64_t index, float value)
{
    store_as(data, dtype, index, half_bits(dtype, value), value);
}

/* What becomes of a value that is stored. */
static inline float round_to(draftattn_dtype dtype, float value)
{
    float stored = 0;
    store_to(&stored, dtype, 0, value);
    return load_from(&stored, dtype, 0);
}

/* count elements of deviation * random_normal() in host memory. */
static inline std::vector<char> random_elements(draftattn_dtype dtype, int64_t count, uint64_t seed,
                                                float deviation)
{
    std::vector<char> elements((size_t)count * dtype_size(dtype));
    for (int64_t i = 0; i < count; i++) {
        store_to(elements.data(), dtype, i, deviation * random_normal(seed, (uint64_t)i));
    }
    return elements;
}

/* The same on the device, for sizes that the host would take long over. F16 and BF16 are rounded by
 * truncation of the bits, which is good enough to time things with. */
__global__ static void random_kernel(void *data, draftattn_dtype dtype, int64_t count,
                                     uint64_t seed, float deviation)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        const float value = deviation * random_normal(seed, (uint64_t)i);
        const uint32_t bits = __float_as_uint(value), exponent = bits >> 23 & 0xff;
        uint16_t half = (uint16_t)(bits >> 16);
        if (dtype == DRAFTATTN_F16)
            half = exponent < 113    ? 0
                   : exponent >= 142 ? (uint16_t)(bits >> 16 & 0x8000) | 0x7bff
                                     : (uint16_t)((bits >> 16 & 0x8000) | (exponent - 112) << 10 |
                                                  (bits >> 13 & 0x3ff));
        store_as(data, dtype, i, half, value);
    }
}

static inline void device_random(const struct device_buffer *buffer, draftattn_dtype dtype,
                                 uint64_t seed, float deviation)
{
    void *data = buffer->data;
    int64_t count = (int64_t)(buffer->bytes / dtype_size(dtype));
    void *arguments[] = {&data, &dtype, &count, &seed, &deviation};
    CUDA_OK(cudaLaunchKernel((const void *)random_kernel, dim3(2048), dim3(256), arguments, 0, 0));
}

/* --- timing ------------------------------------------------------------------------------- */

/* Median milliseconds of 21 launches after three warm ones, each between two events of a stream of
 * its own. launch(stream) returns a cudaError_t. */
template <typename Launch> float cuda_median_ms(Launch launch, int warm = 3, int timed = 21)
{
    cudaStream_t stream;
    cudaEvent_t begin, end;
    std::vector<float> times((size_t)timed);

    CUDA_FINISH();
    CUDA_OK(cudaStreamCreate(&stream));
    CUDA_OK(cudaEventCreate(&begin));
    CUDA_OK(cudaEventCreate(&end));
    for (int i = -warm; i < timed; i++) {
        CUDA_OK(cudaEventRecord(begin, stream));
        CUDA_OK(launch(stream));
        CUDA_OK(cudaEventRecord(end, stream));
        CUDA_OK(cudaEventSynchronize(end));
        if (i >= 0)
            CUDA_OK(cudaEventElapsedTime(&times[(size_t)i], begin, end));
    }
    CUDA_OK(cudaEventDestroy(end));
    CUDA_OK(cudaEventDestroy(begin));
    CUDA_OK(cudaStreamDestroy(stream));
    std::sort(times.begin(), times.end());
    return times[(size_t)timed / 2];
}

static inline bool asked_to_time(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "--time") == 0;
}

#endif
