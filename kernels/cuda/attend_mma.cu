/*
 * Attention over block lists on any tensor core from sm_80 on, F16 and BF16: mma.sync m16n8k16 with
 * float32 sums. It refuses nothing: the launch is trusted.
 *
 * A CTA takes an item of the queue, 128 query rows, and walks its keys in steps of 64: halves of
 * listed blocks of 128, whole ones of 64, then the block means, whose logits carry a bias and the
 * kept bits. Keys and values are tiles of 64 rows in a ring of three: while one is multiplied the
 * next two are on their way (cp.async), so one barrier a tile both publishes and frees. Rows are
 * 16-byte chunks at chunk ^ row % 8, which keeps ldmatrix free of bank conflicts and turns its
 * addresses into one XOR. Weights stay in registers: accumulators of q k^T have the layout that
 * operands of w v need. Sums are rescaled only where the largest logit of a row grows, which after
 * some steps is rare.
 *
 * Bound by the tensor cores where 32 rows a warp share what it reads of k and v (4 warps, two or
 * three CTAs a multiprocessor: what one does not use while it takes exponentials others do). Where
 * shared memory holds one CTA alone, 8 warps of 16 rows: those tensor cores are slow enough for it.
 *
 * Ladder, 12 x 32,760 x 128 bfloat16 on an H100, random data, warm, median:
 *   1  as above: dense 17.5 ms, 378 TFLOP/s (PyTorch's FlashAttention-2 in another process
 *      21.1 ms, 313); 75 % sparsity 370, 90 % 354, there with means 325
 *   failed: moving a base only where a logit exceeds it by 8, for fewer rescalings: the weight of
 *   the largest key of a row is rounded then, and rows that see one key are off by 2^-9; dividing
 *   by the sum of rounded weights mends o, but not lse
 */
#include "attend_epilogue.cuh"
#include "mma.cuh"

#include <cfloat>

enum {
    ROWS = CUDA_QUERY_BLOCK,
    KEYS = 64,        /* of a step */
    MEANS = KEYS + 1, /* a count that says which keys */
    SLOTS = 3,        /* of the ring */
    FAR = 512,        /* a base beyond it, times 2^-24, would show in the weights */
    RESERVED = 1280   /* bytes of shared memory that a CTA takes beside its tiles */
};

template <int D> struct tile {
    static constexpr int row_bytes = D * 2;
    static constexpr int bytes = KEYS * row_bytes;
    static constexpr int q_bytes = ROWS * row_bytes;
    static constexpr int shared_bytes = q_bytes + SLOTS * bytes;
};

/* ---- instructions --------------------------------------------------------------------------- */

/* 16 bytes; zeros, and nothing is read, where there is no such row. */
DEVICE void copy_async(uint32_t to, const char *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

DEVICE void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most one committed group is under way. */
DEVICE void copy_wait_all_but_one(void)
{
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/* The same from memory of any alignment, and it is there when it returns. */
DEVICE void copy_elements(uint32_t to, const char *from, bool there)
{
    uint32_t word[4] = {};
    if (there) {
        const uint16_t *element = (const uint16_t *)from;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            word[i] = element[2 * i] | (uint32_t)element[2 * i + 1] << 16;
        }
    }
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(word[0]), "r"(word[1]),
                 "r"(word[2]), "r"(word[3])
                 : "memory");
}

DEVICE void load_matrices(uint32_t (&a)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(from)
                 : "memory");
}

DEVICE void load_matrices_turned(uint32_t (&a)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(from)
                 : "memory");
}

DEVICE float exp2_approximate(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- loads ---------------------------------------------------------------------------------- */

/* COUNT rows to a tile, of which `there` exist. */
template <int D, int THREADS, int COUNT>
DEVICE void load_rows(uint32_t to, const char *from, int64_t stride, int32_t there, bool vectors)
{
    constexpr int chunks = D / 8, together = THREADS / chunks; /* a multiple of 8: one swizzle */
    const int row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;

    to += row * tile<D>::row_bytes + ((chunk ^ (row & 7)) << 4);
    from += row * stride + chunk * 16;
    if (vectors) {
#pragma unroll
        for (int r = 0; r < COUNT; r += together) {
            copy_async(to + r * tile<D>::row_bytes, from + r * stride, r + row < there);
        }
    } else {
#pragma unroll 1
        for (int r = 0; r < COUNT; r += together) {
            copy_elements(to + r * tile<D>::row_bytes, from + r * stride, r + row < there);
        }
    }
}

/* ---- work ----------------------------------------------------------------------------------- */

/* k or v of a head. */
struct source {
    const char *rows, *low; /* position 0, mean 0 */
    int64_t stride;         /* of rows, in bytes */
};

/* An item and what its CTA shares about it, in shared memory: registers are short. */
struct work {
    struct attend_item item;
    struct source k, v;
    int32_t exact_steps, steps; /* of exact keys, and with those of means; -1: no item is left */
};

/* Keys of an item: `count` positions, or where count is MEANS, as many means as a step has keys. */
struct step {
    int32_t first, count;
};

template <int D>
DEVICE struct source source_of(const struct shape_cuda &shape, int32_t head,
                               const struct rows_cuda &rows, const void *low)
{
    return {row_at(shape, rows, 2, head, 0),
            (const char *)low + (int64_t)head * mean_rows(shape) * tile<D>::row_bytes,
            rows.stride_token * 2};
}

/* Takes the next item of the queue. One thread calls it. */
template <int D> DEVICE void take_work(struct work &work, const struct attend_cuda &attend)
{
    const struct shape_cuda &shape = attend.shape;
    const int32_t index = atomicAdd(attend.counter, 1);

    work.steps = -1;
    if (index >= attend.items)
        return;
    const struct attend_item item = item_at(attend, index);
    work.item = item;
    work.k = source_of<D>(shape, item.head, attend.k, attend.low_k);
    work.v = source_of<D>(shape, item.head, attend.v, attend.low_v);
    work.exact_steps = item.count * (shape.key_block / KEYS);
    work.steps = work.exact_steps + (item.kept ? (shape.key_blocks + KEYS - 1) / KEYS : 0);
}

DEVICE struct step step_at(const struct shape_cuda &shape, const struct work &work, int32_t index)
{
    const bool halves = shape.key_block == 2 * KEYS;
    const int32_t entry = halves ? index >> 1 : index, exact = work.exact_steps;

    if (index >= exact)
        return {(index - exact) * KEYS, MEANS}; /* there are rows up to the next 128 */
    const int32_t *blocks = work.item.blocks;
    const struct key_range block = key_block_range(shape, blocks ? blocks[entry] : entry);
    const int32_t skip = halves ? (index & 1) * KEYS : 0;
    return {block.first + skip, min(KEYS, block.count - skip)};
}

/* k or v of a step. */
template <int D, int THREADS>
DEVICE void load_step(const struct source &source, const struct step &step, bool vectors,
                      uint32_t to)
{
    const bool means = step.count == MEANS;
    const int64_t stride = means ? tile<D>::row_bytes : source.stride;
    const char *from = (means ? source.low : source.rows) + step.first * stride;

    load_rows<D, THREADS, KEYS>(to, from, stride, step.count, vectors);
}

/* ---- a step --------------------------------------------------------------------------------- */

/* Accumulators of a warp: MT tiles of 16 rows; e of [4 j + e] is column 8 j + 2 (lane % 4) + e % 2
 * of row lane / 4 + 8 (e / 2). */
template <int D, int MT> struct sums {
    float o[MT][D / 2];
    float base[MT][2], sum[MT][2]; /* weights are 2^(logit - base); sum is of this lane's columns */
};

/* s = q k^T. The addresses are those of this lane: of a row and a chunk of it. */
template <typename T, int D, int MT>
DEVICE void make_logits(float (&s)[MT][KEYS / 2], uint32_t q, uint32_t k)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            s[m][i] = 0;
        }
    }
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            load_matrices(a[m], (q ^ (d * 2)) + m * 16 * tile<D>::row_bytes);
        }
#pragma unroll
        for (int key = 0; key < KEYS; key += 16) {
            uint32_t b[4];
            load_matrices(b, (k ^ (d * 2)) + key * tile<D>::row_bytes);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply_half<T>(&s[m][key / 2], a[m], b[0], b[1]);
                multiply_half<T>(&s[m][key / 2 + 4], a[m], b[2], b[3]);
            }
        }
    }
}

/* Keys from count on are not there. */
template <int MT> DEVICE void close_keys(float (&s)[MT][KEYS / 2], int32_t count)
{
    const int32_t first = 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const bool closed = first + i / 4 * 8 + i % 2 >= count;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            s[m][i] = closed ? -INFINITY : s[m][i];
        }
    }
}

/* Products with means become base-2 logits: bias added, kept blocks and what is no block closed. */
template <int MT>
DEVICE void bias_means(float (&s)[MT][KEYS / 2], const float *bias, const uint32_t *kept,
                       float scale)
{
    const int32_t first = 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < KEYS / 2; i += i % 4 == 0 ? 1 : 3) {
        const int32_t key = first + i / 4 * 8 + i % 2;
        const bool closed = kept[key / 32] >> (key % 32) & 1;
        const float added = closed ? -INFINITY : bias[key];
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                /* No logit, however large, may meet the other infinity. */
                const float product = at_most_finite(s[m][i + half] * scale);
                s[m][i + half] = added == -INFINITY ? -INFINITY : product + added;
            }
        }
    }
}

/* Where a base is so large that its rounding would show, logits are scaled before it is subtracted:
 * their distance is exact then. Returns the scale that is left to do. */
template <int MT>
DEVICE float scale_far(float (&s)[MT][KEYS / 2], const float (&base)[MT][2], float scale)
{
    bool far = false;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        far |= fabsf(base[m][0]) > FAR || fabsf(base[m][1]) > FAR;
    }
    if (!far)
        return scale;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            s[m][i] = at_most_finite(s[m][i] * scale);
        }
    }
    return 1;
}

/* Moves the bases of rows that outgrew theirs, and what was summed with them. */
template <int D, int MT>
DEVICE void raise_bases(struct sums<D, MT> &sums, const float (&s)[MT][KEYS / 2], float scale)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float raised[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = fmaxf(s[m][2 * half], s[m][2 * half + 1]);
#pragma unroll
            for (int i = 4; i < KEYS / 2; i += 4) {
                top = fmaxf(top, fmaxf(s[m][i + 2 * half], s[m][i + 2 * half + 1]));
            }
            top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
            raised[half] = fmaxf(sums.base[m][half], at_most_finite(top * scale));
        }
        if (raised[0] == sums.base[m][0] && raised[1] == sums.base[m][1])
            continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float shrink = exp2_approximate(sums.base[m][half] - raised[half]);
            sums.base[m][half] = raised[half];
            sums.sum[m][half] *= shrink;
#pragma unroll
            for (int i = 2 * half; i < D / 2; i += i % 2 == 0 ? 1 : 3) {
                sums.o[m][i] *= shrink;
            }
        }
    }
}

/* Logits to weights, as operands of the product with v: four tiles of 16 keys. */
template <typename T, int D, int MT>
DEVICE void make_weights(uint32_t (&w)[MT][KEYS / 16][4], struct sums<D, MT> &sums,
                         float (&s)[MT][KEYS / 2], float scale)
{
    raise_bases(sums, s, scale);
    scale = scale_far(s, sums.base, scale);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float sum[2] = {};
#pragma unroll
        for (int i = 0; i < KEYS / 2; i += 2) {
            const int half = i / 2 % 2;
            const float low = exp2_approximate(fmaf(s[m][i], scale, -sums.base[m][half]));
            const float high = exp2_approximate(fmaf(s[m][i + 1], scale, -sums.base[m][half]));
            sum[half] += low + high;
            w[m][i / 8][i / 2 % 4] = pack_pair<T>(low, high);
        }
        sums.sum[m][0] += sum[0];
        sums.sum[m][1] += sum[1];
    }
}

/* o += w v. */
template <typename T, int D, int MT>
DEVICE void add_values(struct sums<D, MT> &sums, const uint32_t (&w)[MT][KEYS / 16][4], uint32_t v)
{
#pragma unroll
    for (int key = 0; key < KEYS; key += 16) {
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            uint32_t b[4];
            load_matrices_turned(b, (v ^ (d * 2)) + key * tile<D>::row_bytes);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply_half<T>(&sums.o[m][d / 2], w[m][key / 16], b[0], b[1]);
                multiply_half<T>(&sums.o[m][d / 2 + 4], w[m][key / 16], b[2], b[3]);
            }
        }
    }
}

/* ---- an item -------------------------------------------------------------------------------- */

/* Around the ring, in bytes. */
template <int D> DEVICE uint32_t slot_before(uint32_t slot)
{
    return slot == 0 ? (SLOTS - 1) * tile<D>::bytes : slot - tile<D>::bytes;
}

template <int D> DEVICE uint32_t slot_after(uint32_t slot)
{
    return slot == (SLOTS - 1) * tile<D>::bytes ? 0 : slot + tile<D>::bytes;
}

/* Queries and the first keys and values, under way. */
template <int D, int THREADS>
DEVICE void begin_walk(const struct attend_args &args, const struct work &work, uint32_t shared)
{
    const struct step first = step_at(args.attend.shape, work, 0);
    const uint32_t ring = shared + tile<D>::q_bytes;
    int64_t stride;
    const char *q = query_rows(args.attend, work.item, 2, &stride);

    load_rows<D, THREADS, ROWS>(shared, q, stride, work.item.rows, args.vectors_in);
    load_step<D, THREADS>(work.k, first, args.vectors_in, ring);
    copy_commit();
    load_step<D, THREADS>(work.v, first, args.vectors_in, ring + tile<D>::bytes);
    copy_commit();
}

/* All steps. Ends with every copy landed, but warps may still be reading. */
template <typename T, int D, int WARPS>
DEVICE void walk(struct sums<D, 8 / WARPS> &sums, const struct attend_args &args,
                 const struct work &work, uint32_t shared)
{
    constexpr int MT = 8 / WARPS, threads = 32 * WARPS, row_bytes = tile<D>::row_bytes;
    const struct attend_cuda &attend = args.attend;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, swizzle = lane & 7;
    /* Of the four 8 x 8 matrices that an ldmatrix takes, lanes 8 i and on name the rows of the
     * i-th: rows first for q and v, chunks first for k. */
    const uint32_t rows_first = (lane & 15) * row_bytes + (((lane >> 4) ^ swizzle) << 4);
    const uint32_t chunks_first =
        (swizzle + (lane >> 4) * 8) * row_bytes + (((lane >> 3 & 1) ^ swizzle) << 4);
    const uint32_t q = shared + warp * MT * 16 * row_bytes + rows_first;
    const uint32_t ring = shared + tile<D>::q_bytes;
    uint32_t slot = 0; /* of the tile at hand; the one before it is free */
    struct step step = step_at(attend.shape, work, 0), next = step;

#pragma unroll 1
    for (int32_t index = 0; index < work.steps; index++) {
        float s[MT][KEYS / 2];
        uint32_t w[MT][KEYS / 16][4];
        float scale = args.scale_log2;
        const bool more = index + 1 < work.steps;

        copy_wait_all_but_one();
        __syncthreads();
        if (more) {
            next = step_at(attend.shape, work, index + 1);
            load_step<D, threads>(work.k, next, args.vectors_in, ring + slot_before<D>(slot));
        }
        copy_commit();
        make_logits<T, D, MT>(s, q, ring + slot + chunks_first);
        slot = slot_after<D>(slot);
        if (step.count == MEANS) {
            bias_means<MT>(s, attend.bias + step.first, work.item.kept + step.first / 32, scale);
            scale = 1;
        } else if (step.count < KEYS) {
            close_keys<MT>(s, step.count);
        }
        make_weights<T, D, MT>(w, sums, s, scale);

        copy_wait_all_but_one();
        __syncthreads();
        if (more)
            load_step<D, threads>(work.v, next, args.vectors_in, ring + slot_before<D>(slot));
        copy_commit();
        add_values<T, D, MT>(sums, w, ring + slot + rows_first);
        slot = slot_after<D>(slot);
        step = next;
    }
}

template <int D, int WARPS>
DEVICE void deliver(struct sums<D, 8 / WARPS> &sums, const struct attend_args &args,
                    const struct attend_item &item)
{
    constexpr int MT = 8 / WARPS;
    const int32_t row = threadIdx.x / 32 * MT * 16 + (threadIdx.x & 31) / 4;

#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float &sum = sums.sum[m][half];
            sum += __shfl_xor_sync(0xffffffff, sum, 1);
            sum += __shfl_xor_sync(0xffffffff, sum, 2);
        }
        deliver_rows<D>(args, item, row + 16 * m, sums.o[m], sums.base[m], sums.sum[m]);
    }
}

/* Blocks of 4 warps that a multiprocessor takes where shared memory allows. */
template <int D> constexpr int resident = D == 64 ? 3 : 2;

template <typename T, int D, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, WARPS == 4 ? resident<D> : 1)
    attend_mma(const __grid_constant__ struct attend_args args)
{
    extern __shared__ __align__(256) char tiles[];
    __shared__ struct work works[2]; /* at hand, and the one after it */
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(tiles);
    int turn = 0;

    if (threadIdx.x == 0)
        take_work<D>(works[0], args.attend);
    __syncthreads();
    while (works[turn].steps >= 0) {
        const struct work &work = works[turn];
        struct sums<D, 8 / WARPS> sums = {
        };

#pragma unroll
        for (int m = 0; m < 8 / WARPS; m++) {
            sums.base[m][0] = sums.base[m][1] = -FLT_MAX; /* -infinity minus it is one still */
        }
        if (work.steps > 0)
            begin_walk<D, 32 * WARPS>(args, work, shared);
        turn ^= 1;
        if (threadIdx.x == 0)
            take_work<D>(works[turn], args.attend);
        walk<T, D, WARPS>(sums, args, work, shared);
        deliver<D, WARPS>(sums, args, work.item);
        __syncthreads();
    }
}

/* ---- launches ------------------------------------------------------------------------------- */

template <typename T, int D>
static cudaError_t launch(const struct attend_cuda *attend, cudaStream_t stream)
{
    const struct attend_args args = attend_args_of(attend);
    int device = 0, shared_bytes = 0;
    cudaError_t error;

    if ((error = cudaGetDevice(&device)) != cudaSuccess ||
        (error = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                                        device)) != cudaSuccess)
        return error;
    if (2 * (tile<D>::shared_bytes + RESERVED) <= shared_bytes)
        return attend_launch((const void *)attend_mma<T, D, 4>, &args, args.attend.items, 128,
                             tile<D>::shared_bytes, stream);
    return attend_launch((const void *)attend_mma<T, D, 8>, &args, args.attend.items, 256,
                         tile<D>::shared_bytes, stream);
}

template <int D> static cudaError_t attend(const struct attend_cuda *attend, cudaStream_t stream)
{
    if (attend->dtype == DRAFTATTN_F16)
        return launch<__half, D>(attend, stream);
    return launch<__nv_bfloat16, D>(attend, stream);
}

extern "C" const struct cuda_kernel attend_mma_d128_kernel = {80, 999, true, attend<128>, false};
extern "C" const struct cuda_kernel attend_mma_d64_kernel = {80, 999, true, attend<64>, false};
