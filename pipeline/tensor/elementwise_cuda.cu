/*
 * Products, sums, patches and rows in another order on the GPU: a thread an element, or four where
 * 16-byte accesses can reach them. All are bound by memory, and small beside what a transformer
 * does between them.
 */
#include "elementwise_cuda.h"

#include "elements_cuda.cuh"
#include "linear_convert_cuda.h"

enum {
    THREADS = 256,
    QUAD = 4 /* floats of 16 bytes */
};

/* A grid of patches. */
struct patch_grid {
    const int64_t *order;
    int64_t channels, height, width, patch[3]; /* height and width in tokens */
    int64_t plane, count;                      /* floats of a channel; of all */
};

/* ---- on the device -------------------------------------------------------------------------- */

DEVICE int64_t thread_index(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

DEVICE int64_t thread_count(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

enum map { MAP_MULTIPLY, MAP_ADD, MAP_COMBINE, MAP_SCALE /* y is not read */ };

template <enum map MAP> DEVICE float mapped(float a, float x, float b, float y)
{
    if constexpr (MAP == MAP_MULTIPLY)
        return x * y;
    if constexpr (MAP == MAP_ADD)
        return x + y;
    if constexpr (MAP == MAP_COMBINE)
        return a * x + b * y;
    return a * x;
}

/* out = map(x, y), COUNT = 4 or 1 floats at a time; out may be x or y. */
template <enum map MAP, int COUNT>
__global__ static void __launch_bounds__(THREADS)
    map_kernel(float *out, float a, const float *x, float b, const float *y, int64_t count)
{
    for (int64_t at = thread_index() * COUNT; at < count; at += thread_count() * COUNT) {
        if constexpr (COUNT == 1) {
            out[at] = mapped<MAP>(a, x[at], b, MAP == MAP_SCALE ? 0.0f : y[at]);
        } else {
            float p[4], q[4] = {};
            open_word(*(const float4 *)(x + at), p);
            if constexpr (MAP != MAP_SCALE)
                open_word(*(const float4 *)(y + at), q);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                p[i] = mapped<MAP>(a, p[i], b, q[i]);
            }
            store(out + at, p);
        }
    }
}

/* Where the value of a token's feature lies among the latents. channel and the place inside the
 * patch are feature / inside, feature % inside. */
DEVICE int64_t latent_index(const struct patch_grid &g, int64_t token, int64_t channel,
                            int64_t inside)
{
    const int64_t ph = g.patch[1], pw = g.patch[2];
    const int64_t w = token % g.width * pw + inside % pw;
    const int64_t h = token / g.width % g.height * ph + inside / pw % ph;
    const int64_t t = token / g.width / g.height * g.patch[0] + inside / pw / ph;

    return channel * g.plane + (t * g.height * ph + h) * g.width * pw + w;
}

template <typename T>
__global__ static void __launch_bounds__(THREADS)
    cut_kernel(const struct patch_grid g, const float *latents, T *rows)
{
    const int64_t volume = g.patch[0] * g.patch[1] * g.patch[2], features = g.channels * volume;

    for (int64_t i = thread_index(); i < g.count; i += thread_count()) {
        const int64_t feature = i % features, token = g.order[i / features];
        store(rows + i, latents[latent_index(g, token, feature / volume, feature % volume)]);
    }
}

__global__ static void __launch_bounds__(THREADS)
    join_kernel(const struct patch_grid g, const float *rows, float *latents)
{
    const int64_t features = g.channels * g.patch[0] * g.patch[1] * g.patch[2];

    for (int64_t i = thread_index(); i < g.count; i += thread_count()) {
        const int64_t feature = i % features, token = g.order[i / features];
        latents[latent_index(g, token, feature % g.channels, feature / g.channels)] = rows[i];
    }
}

/* Elements E, features of them a row. */
template <typename E>
__global__ static void __launch_bounds__(THREADS)
    scatter_kernel(const E *x, const int64_t *index, E *y, int64_t count, int64_t features)
{
    for (int64_t i = thread_index(); i < count; i += thread_count()) {
        y[index[i / features] * features + i % features] = x[i];
    }
}

__global__ static void __launch_bounds__(THREADS)
    first_not_finite_kernel(const float *x, int64_t count, unsigned long long *first)
{
    for (int64_t i = thread_index(); i < count; i += thread_count()) {
        if (!isfinite(x[i])) {
            atomicMin(first, (unsigned long long)i); /* the thread's first: the others are later */
            return;
        }
    }
}

/* ---- on the host ---------------------------------------------------------------------------- */

template <enum map MAP>
static void launch_map(struct device *device, float *out, float a, const float *x, float b,
                       const float *y, int64_t count, const char *what)
{
    const bool quads = count % QUAD == 0 && aligned(out, 16) && aligned(x, 16) && aligned(y, 16);

    if (count == 0)
        return;
    if (quads)
        map_kernel<MAP, QUAD>
            <<<shared_grid(device, count / QUAD, THREADS), THREADS, 0, device->stream>>>(
                out, a, x, b, y, count);
    else
        map_kernel<MAP, 1><<<shared_grid(device, count, THREADS), THREADS, 0, device->stream>>>(
            out, a, x, b, y, count);
    device_cuda_launched(device, what);
}

extern "C" void elementwise_cuda_activate(struct device *device, float *x, int64_t count,
                                          enum activation activation)
{
    linear_convert_cuda(device, x, ELEMENT_F32, x, ELEMENT_F32, count, activation);
}

extern "C" void elementwise_cuda_multiply(struct device *device, float *x, const float *y,
                                          int64_t count)
{
    launch_map<MAP_MULTIPLY>(device, x, 1, x, 1, y, count, "multiply");
}

extern "C" void elementwise_cuda_add(struct device *device, float *x, const float *y, int64_t count)
{
    launch_map<MAP_ADD>(device, x, 1, x, 1, y, count, "add");
}

extern "C" void elementwise_cuda_combine(struct device *device, float *out, float a, const float *x,
                                         float b, const float *y, int64_t count)
{
    if (b == 0.0f)
        launch_map<MAP_SCALE>(device, out, a, x, 0, NULL, count, "combine");
    else
        launch_map<MAP_COMBINE>(device, out, a, x, b, y, count, "combine");
}

static struct patch_grid patch_grid_of(const struct ops_patches *p)
{
    const int64_t plane =
        p->frames * p->patch[0] * p->height * p->patch[1] * p->width * p->patch[2];

    return {
        p->order, p->channels,        p->height, p->width, {p->patch[0], p->patch[1], p->patch[2]},
        plane,    plane * p->channels};
}

extern "C" void elementwise_cuda_cut_patches(struct device *device,
                                             const struct ops_patches *patches,
                                             const float *latents, void *rows, enum element type)
{
    const struct patch_grid grid = patch_grid_of(patches);
    const unsigned ctas = shared_grid(device, grid.count, THREADS);

    if (grid.count == 0)
        return;
    if (type == ELEMENT_BF16)
        cut_kernel<<<ctas, THREADS, 0, device->stream>>>(grid, latents, (__nv_bfloat16 *)rows);
    else
        cut_kernel<<<ctas, THREADS, 0, device->stream>>>(grid, latents, (float *)rows);
    device_cuda_launched(device, "cut patches");
}

extern "C" void elementwise_cuda_join_patches(struct device *device,
                                              const struct ops_patches *patches, const float *rows,
                                              float *latents)
{
    const struct patch_grid grid = patch_grid_of(patches);

    if (grid.count == 0)
        return;
    join_kernel<<<shared_grid(device, grid.count, THREADS), THREADS, 0, device->stream>>>(
        grid, rows, latents);
    device_cuda_launched(device, "join patches");
}

extern "C" void elementwise_cuda_scatter_rows(struct device *device, const float *x,
                                              const int64_t *index, float *y, int64_t rows,
                                              int64_t features)
{
    const bool quads = features % QUAD == 0 && aligned(x, 16) && aligned(y, 16);
    const int64_t width = quads ? features / QUAD : features, count = rows * width;
    const unsigned ctas = shared_grid(device, count, THREADS);

    if (count == 0)
        return;
    if (quads)
        scatter_kernel<<<ctas, THREADS, 0, device->stream>>>((const float4 *)x, index, (float4 *)y,
                                                             count, width);
    else
        scatter_kernel<<<ctas, THREADS, 0, device->stream>>>(x, index, y, count, width);
    device_cuda_launched(device, "scatter rows");
}

extern "C" int64_t elementwise_cuda_first_not_finite(struct device *device, const float *x,
                                                     int64_t count)
{
    static const char what[] = "search for NaN";
    unsigned long long first = ~0ull, *word;

    if (count == 0)
        return -1;
    word = (unsigned long long *)device_cuda_scratch(device, sizeof *word);
    if (!word) {
        device_cuda_check(device, cudaErrorMemoryAllocation, what);
        return -1;
    }
    if (!device_cuda_check(device, cudaMemsetAsync(word, 0xff, sizeof *word, device->stream), what))
        return -1;
    first_not_finite_kernel<<<shared_grid(device, count, THREADS), THREADS, 0, device->stream>>>(
        x, count, word);
    device_cuda_launched(device, what);
    device_cuda_download(device, &first, word, sizeof first);
    return first == ~0ull ? -1 : (int64_t)first;
}
