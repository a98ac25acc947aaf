/*
 * Attention in one kernel: bfloat16 on any tensor core from sm_80 on, mma.sync m16n8k16 with
 * float32 sums. It refuses nothing that attention_cuda_fused_takes() lets through: the call is
 * trusted.
 *
 * A CTA takes 128 queries of a head, 32 a warp, and all keys. Heads are neighbours in the grid, so
 * that what runs together reads and writes whole rows of q and o, and keys come from L2. Rows in
 * shared memory are 16-byte chunks at chunk ^ row % 8, which keeps ldmatrix free of bank conflicts
 * and turns its addresses into one XOR. Weights stay in registers: accumulators of q k^T have the
 * layout that operands of w v need.
 *
 * One tile of keys is what a prompt mostly has: then reading q and writing o bound it. No sums are
 * carried, o is made 32 columns at a time and leaves at once, and the few registers that takes let
 * three to five CTAs share a multiprocessor, so that some load while others store. More keys are
 * walked 64 at a time with an online softmax (arXiv 2205.14135); keys and values go through a ring
 * of three tiles, one multiplied while two are on their way, and the tensor cores bound it.
 *
 * NaN in q or k, and infinite logits, come out as NaN.
 *
 * Ladder, H100, warm, medians
 *   v1  as above: 75,600 x 40 x 128 with 14 keys 0.530 ms (2.92 TB/s), 64 keys 0.527 ms (2.94
 *       TB/s), 77 keys 0.862 ms, 226 keys 1.355 ms, 512 keys 2.356 ms (337 TFLOP/s), 257 keys
 *       added to o 2.207 ms; 32,760 x 12 x 128 with 512 keys 0.326 ms (317 TFLOP/s)
 */
#include "attention_cuda.h"

#include "elements_cuda.cuh"

enum {
    ROWS = 128, /* queries of a CTA */
    WARPS = 4,
    THREADS = 32 * WARPS,
    TILES = ROWS / WARPS / 16, /* of 16 queries, of a warp */
    KEYS = 64,                 /* of a step */
    FEW = 16,                  /* as many keys are a smaller tile */
    SLOTS = 3                  /* of the ring */
};

#define LOG2_E 1.44269504089f

struct fused {
    const char *q, *k, *v; /* of head 0; strides in bytes */
    char *o;
    int64_t q_stride, k_stride, v_stride, o_stride;
    int64_t q_rows;
    int32_t k_rows, heads;
    const float *key_bias;
    float scale; /* of base-2 logits */
    bool accumulate, vectors_in, vectors_out;
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

/* Until at most LEFT committed groups are under way. */
template <int LEFT> DEVICE void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* The same from memory of any alignment, and it is there when it returns. */
DEVICE void copy_elements(uint32_t to, const char *from, bool there)
{
    uint32_t word[4] = {};
    if (there) {
        const uint16_t *element = (const uint16_t *)from;
#pragma unroll
        for (int i = 0; i < 4; i++)
            word[i] = element[2 * i] | (uint32_t)element[2 * i + 1] << 16;
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

/* d[16][8] += a[16][16] b[16][8]. */
DEVICE void multiply(float *d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE float exp2_approximate(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- loads ---------------------------------------------------------------------------------- */

template <int D> constexpr int row_bytes = D * 2;

/* COUNT rows to a tile, of which `there` exist. */
template <int D, int COUNT>
DEVICE void load_rows(uint32_t to, const char *from, int64_t stride, int32_t there, bool vectors)
{
    constexpr int chunks = D / 8, together = THREADS / chunks; /* a multiple of 8: one swizzle */
    const int row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;

    to += row * row_bytes<D> + ((chunk ^ (row & 7)) << 4);
    from += row * stride + chunk * 16;
    there -= row;
    stride *= together;
    if (vectors) {
#pragma unroll
        for (int r = 0; r < COUNT; r += together, from += stride)
            copy_async(to + r * row_bytes<D>, from, r < there);
    } else {
#pragma unroll 1
        for (int r = 0; r < COUNT; r += together, from += stride)
            copy_elements(to + r * row_bytes<D>, from, r < there);
    }
}

/* What a CTA works on, and where this thread's ldmatrix reads a tile. Of the four 8 x 8 matrices
 * that an ldmatrix takes, lanes 8 i and on name the rows of the i-th: rows first for q and v,
 * chunks first for k. */
struct work {
    int32_t rows; /* queries, at most ROWS */
    const char *q, *k, *v;
    char *o;
    uint32_t rows_first, chunks_first;
};

template <int D> DEVICE struct work work_of(const struct fused &fused)
{
    const int lane = threadIdx.x & 31, swizzle = lane & 7;
    const int64_t head = (int64_t)(blockIdx.x % fused.heads) * row_bytes<D>;
    const int64_t first = (int64_t)(blockIdx.x / fused.heads) * ROWS;
    struct work work;

    work.rows = (int32_t)min(fused.q_rows - first, (int64_t)ROWS);
    work.q = fused.q + head + first * fused.q_stride;
    work.k = fused.k + head;
    work.v = fused.v + head;
    work.o = fused.o + head + first * fused.o_stride;
    work.rows_first = (lane & 15) * row_bytes<D> + (((lane >> 4) ^ swizzle) << 4);
    work.chunks_first =
        (swizzle + (lane >> 4) * 8) * row_bytes<D> + (((lane >> 3 & 1) ^ swizzle) << 4);
    return work;
}

/* ---- a step --------------------------------------------------------------------------------- */

/* In accumulators s, o of a warp's tiles of 16 queries, element [4 j + e] is column
 * 8 j + 2 (lane % 4) + e % 2 of row lane / 4 + 8 (e / 2). */

/* s = q k^T. The addresses are those of this lane: of a row and a chunk of it. */
template <int D, int N> DEVICE void make_logits(float (&s)[TILES][N / 2], uint32_t q, uint32_t k)
{
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            s[m][i] = 0;
    }
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        uint32_t a[TILES][4];
#pragma unroll
        for (int m = 0; m < TILES; m++)
            load_matrices(a[m], (q ^ (d * 2)) + m * 16 * row_bytes<D>);
#pragma unroll
        for (int key = 0; key < N; key += 16) {
            uint32_t b[4];
            load_matrices(b, (k ^ (d * 2)) + key * row_bytes<D>);
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                multiply(&s[m][key / 2], a[m], b[0], b[1]);
                multiply(&s[m][key / 2 + 4], a[m], b[2], b[3]);
            }
        }
    }
}

/* Keys from count on are not there. */
template <int N> DEVICE void close_keys(float (&s)[TILES][N / 2], int32_t count)
{
    const int32_t first = 2 * (threadIdx.x & 3);

#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const bool closed = first + i / 4 * 8 + i % 2 >= count;
#pragma unroll
        for (int m = 0; m < TILES; m++)
            s[m][i] = closed ? -INFINITY : s[m][i];
    }
}

/* s becomes logits in base 2: scaled, with the bias of count keys added. */
template <int N>
DEVICE void add_bias(float (&s)[TILES][N / 2], const float *bias, int32_t count, float scale)
{
    const int32_t first = 2 * (threadIdx.x & 3);

#pragma unroll
    for (int i = 0; i < N / 2; i += i % 4 == 0 ? 1 : 3) {
        const float added = bias[min(first + i / 4 * 8 + i % 4, count - 1)] * LOG2_E;
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            s[m][i] = fmaf(s[m][i], scale, added);
            s[m][i + 2] = fmaf(s[m][i + 2], scale, added);
        }
    }
}

/* Products of count keys, the bias of the first or NULL: the scale that is left to do. */
template <int N>
DEVICE float finish_logits(float (&s)[TILES][N / 2], const float *bias, int32_t count, float scale)
{
    if (bias)
        add_bias<N>(s, bias, count, scale);
    if (count < N)
        close_keys<N>(s, count);
    return bias ? 1 : scale;
}

/* The largest logit of this lane's rows, in base 2: of each tile its row and the one 8 below. */
template <int N>
DEVICE void find_tops(float (&top)[TILES][2], const float (&s)[TILES][N / 2], float scale)
{
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float t = fmaxf(s[m][2 * half], s[m][2 * half + 1]);
#pragma unroll
            for (int i = 4; i < N / 2; i += 4)
                t = fmaxf(t, fmaxf(s[m][i + 2 * half], s[m][i + 2 * half + 1]));
            t = fmaxf(t, __shfl_xor_sync(0xffffffff, t, 1));
            t = fmaxf(t, __shfl_xor_sync(0xffffffff, t, 2));
            top[m][half] = t * scale;
        }
    }
}

/* Logits to weights 2^(logit - base), as operands of the product with v; sum += this lane's. */
template <int N>
DEVICE void make_weights(uint32_t (&w)[TILES][N / 16][4], float (&sum)[TILES][2],
                         const float (&s)[TILES][N / 2], const float (&base)[TILES][2], float scale)
{
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int i = 0; i < N / 2; i += 2) {
            const int half = i / 2 % 2;
            const float low = exp2_approximate(fmaf(s[m][i], scale, -base[m][half]));
            const float high = exp2_approximate(fmaf(s[m][i + 1], scale, -base[m][half]));
            sum[m][half] += low + high;
            w[m][i / 8][i / 2 % 4] = pack_pair(low, high);
        }
    }
}

/* o += w v, W columns from `first` on. */
template <int D, int N, int W>
DEVICE void add_values(float (&o)[TILES][W / 2], const uint32_t (&w)[TILES][N / 16][4], uint32_t v,
                       int first)
{
#pragma unroll
    for (int key = 0; key < N; key += 16) {
#pragma unroll
        for (int d = 0; d < W; d += 16) {
            uint32_t b[4];
            load_matrices_turned(b, (v ^ ((first + d) * 2)) + key * row_bytes<D>);
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                multiply(&o[m][d / 2], w[m][key / 16], b[0], b[1]);
                multiply(&o[m][d / 2 + 4], w[m][key / 16], b[2], b[3]);
            }
        }
    }
}

/* ---- the way out ---------------------------------------------------------------------------- */

/* Lanes' parts of the sums to 1 / sum of the row. */
DEVICE void invert_sums(float (&sum)[TILES][2])
{
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = sum[m][half] + __shfl_xor_sync(0xffffffff, sum[m][half], 1);
            total += __shfl_xor_sync(0xffffffff, total, 2);
            sum[m][half] = 1 / total;
        }
    }
}

/* words[u] of lane t of four becomes words[t] of lane u. */
DEVICE void transpose_quad(uint32_t (&words)[4])
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    uint32_t a = __shfl_xor_sync(0xffffffff, odd ? words[0] : words[1], 1);
    uint32_t b = __shfl_xor_sync(0xffffffff, odd ? words[2] : words[3], 1);
    words[0] = odd ? a : words[0];
    words[1] = odd ? words[1] : a;
    words[2] = odd ? b : words[2];
    words[3] = odd ? words[3] : b;
    a = __shfl_xor_sync(0xffffffff, high ? words[0] : words[2], 2);
    b = __shfl_xor_sync(0xffffffff, high ? words[1] : words[3], 2);
    words[0] = high ? a : words[0];
    words[2] = high ? words[2] : a;
    words[1] = high ? b : words[1];
    words[3] = high ? words[3] : b;
}

DEVICE uint32_t add_pairs(uint32_t a, uint32_t b)
{
    return pack_pair(__uint_as_float(a << 16) + __uint_as_float(b << 16),
                     __uint_as_float(a & 0xffff0000) + __uint_as_float(b & 0xffff0000));
}

/* Eight elements. */
DEVICE void store_chunk(char *to, uint32_t (&words)[4], bool vectors, bool accumulate)
{
    uint16_t *element = (uint16_t *)to;

    if (accumulate) {
        uint32_t old[4];
        if (vectors) {
            const uint4 chunk = *(const uint4 *)to;
            old[0] = chunk.x, old[1] = chunk.y, old[2] = chunk.z, old[3] = chunk.w;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                old[i] = element[2 * i] | (uint32_t)element[2 * i + 1] << 16;
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = add_pairs(old[i], words[i]);
    }
    if (vectors) {
        *(uint4 *)to = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            element[2 * i] = (uint16_t)words[i];
            element[2 * i + 1] = (uint16_t)(words[i] >> 16);
        }
    }
}

/* W columns of o, from `first` on. Four lanes hold a row, two columns of every eight each; after a
 * transpose of 4 x 4 words among them a lane has 16 bytes. All lanes of a warp call it. */
template <int W>
DEVICE void store_columns(const struct fused &fused, const struct work &work,
                          const float (&o)[TILES][W / 2], const float (&inverse)[TILES][2],
                          int first)
{
    const int quarter = threadIdx.x & 3;
    const int top = threadIdx.x / 32 * TILES * 16 + (threadIdx.x & 31) / 4;

#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = top + 16 * m + 8 * half;
            char *to = work.o + row * fused.o_stride + first * 2 + quarter * 16;
#pragma unroll
            for (int j = 0; j < W / 8; j += 4) {
                uint32_t words[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float *pair = &o[m][4 * (j + i) + 2 * half];
                    words[i] = pack_pair(pair[0] * inverse[m][half], pair[1] * inverse[m][half]);
                }
                transpose_quad(words);
                if (row < work.rows)
                    store_chunk(to + j * 16, words, fused.vectors_out, fused.accumulate);
            }
        }
    }
}

/* ---- kernels -------------------------------------------------------------------------------- */

template <int D, int N> constexpr int few_bytes = (ROWS + 2 * N) * row_bytes<D>;

/* All keys are one tile of N. */
template <int D, int N>
__global__ void __launch_bounds__(THREADS, N == FEW ? 5 : 3)
    attend_few(const __grid_constant__ struct fused fused)
{
    extern __shared__ __align__(256) char tiles[];
    const uint32_t q = (uint32_t)__cvta_generic_to_shared(tiles);
    const uint32_t k = q + ROWS * row_bytes<D>, v = k + N * row_bytes<D>;
    const uint32_t warp = threadIdx.x / 32 * TILES * 16 * row_bytes<D>;
    const struct work work = work_of<D>(fused);
    float s[TILES][N / 2], base[TILES][2], sum[TILES][2] = {};
    uint32_t w[TILES][N / 16][4];

    load_rows<D, ROWS>(q, work.q, fused.q_stride, work.rows, fused.vectors_in);
    load_rows<D, N>(k, work.k, fused.k_stride, fused.k_rows, fused.vectors_in);
    copy_commit();
    load_rows<D, N>(v, work.v, fused.v_stride, fused.k_rows, fused.vectors_in);
    copy_commit();

    copy_wait<1>();
    __syncthreads();
    make_logits<D, N>(s, q + warp + work.rows_first, k + work.chunks_first);
    const float scale = finish_logits<N>(s, fused.key_bias, fused.k_rows, fused.scale);
    find_tops<N>(base, s, scale);
    make_weights<N>(w, sum, s, base, scale);
    invert_sums(sum);

    copy_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int first = 0; first < D; first += 32) {
        float o[TILES][16] = {};
        add_values<D, N, 32>(o, w, v + work.rows_first, first);
        store_columns<32>(fused, work, o, sum, first);
    }
}

/* Around the ring, in bytes. */
template <int D> constexpr int slot_bytes = KEYS *row_bytes<D>;

template <int D> DEVICE uint32_t slot_before(uint32_t slot)
{
    return slot == 0 ? (SLOTS - 1) * slot_bytes<D> : slot - slot_bytes<D>;
}

template <int D> DEVICE uint32_t slot_after(uint32_t slot)
{
    return slot == (SLOTS - 1) * slot_bytes<D> ? 0 : slot + slot_bytes<D>;
}

/* Moves the bases of rows that outgrew theirs, and what was summed with them. */
template <int D>
DEVICE void raise_bases(float (&o)[TILES][D / 2], float (&sum)[TILES][2], float (&base)[TILES][2],
                        const float (&top)[TILES][2])
{
#pragma unroll
    for (int m = 0; m < TILES; m++) {
        if (top[m][0] <= base[m][0] && top[m][1] <= base[m][1])
            continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float raised = fmaxf(base[m][half], top[m][half]);
            const float shrink = exp2_approximate(base[m][half] - raised);
            base[m][half] = raised;
            sum[m][half] *= shrink;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                o[m][4 * j + 2 * half] *= shrink;
                o[m][4 * j + 2 * half + 1] *= shrink;
            }
        }
    }
}

template <int D> constexpr int many_bytes = ROWS *row_bytes<D> + SLOTS *slot_bytes<D>;

/* Any number of keys. */
template <int D>
__global__ void __launch_bounds__(THREADS, D == 64 ? 3 : 2)
    attend_many(const __grid_constant__ struct fused fused)
{
    extern __shared__ __align__(256) char tiles[];
    const uint32_t shared = (uint32_t)__cvta_generic_to_shared(tiles);
    const uint32_t ring = shared + ROWS * row_bytes<D>;
    struct work work = work_of<D>(fused);
    const uint32_t q = shared + threadIdx.x / 32 * TILES * 16 * row_bytes<D> + work.rows_first;
    float o[TILES][D / 2] = {}, base[TILES][2], sum[TILES][2] = {};
    uint32_t slot = 0; /* of the tile at hand; the one before it is free */

#pragma unroll
    for (int m = 0; m < TILES; m++)
        base[m][0] = base[m][1] = -INFINITY;
    load_rows<D, ROWS>(shared, work.q, fused.q_stride, work.rows, fused.vectors_in);
    load_rows<D, KEYS>(ring, work.k, fused.k_stride, fused.k_rows, fused.vectors_in);
    copy_commit();
    load_rows<D, KEYS>(ring + slot_bytes<D>, work.v, fused.v_stride, fused.k_rows,
                       fused.vectors_in);
    copy_commit();

#pragma unroll 1
    for (int32_t left = fused.k_rows; left > 0; left -= KEYS) {
        float s[TILES][KEYS / 2], top[TILES][2];
        uint32_t w[TILES][KEYS / 16][4];

        copy_wait<1>();
        __syncthreads();
        work.k += KEYS * fused.k_stride;
        if (left > KEYS)
            load_rows<D, KEYS>(ring + slot_before<D>(slot), work.k, fused.k_stride, left - KEYS,
                               fused.vectors_in);
        copy_commit();
        make_logits<D, KEYS>(s, q, ring + slot + work.chunks_first);
        slot = slot_after<D>(slot);
        const float *bias = fused.key_bias ? fused.key_bias + (fused.k_rows - left) : NULL;
        const float scale = finish_logits<KEYS>(s, bias, left, fused.scale);
        find_tops<KEYS>(top, s, scale);
        raise_bases<D>(o, sum, base, top);
        make_weights<KEYS>(w, sum, s, base, scale);

        copy_wait<1>();
        __syncthreads();
        work.v += KEYS * fused.v_stride;
        if (left > KEYS)
            load_rows<D, KEYS>(ring + slot_before<D>(slot), work.v, fused.v_stride, left - KEYS,
                               fused.vectors_in);
        copy_commit();
        add_values<D, KEYS, D>(o, w, ring + slot + work.rows_first, 0);
        slot = slot_after<D>(slot);
    }
    invert_sums(sum);
    store_columns<D>(fused, work, o, sum, 0);
}

/* ---- launches ------------------------------------------------------------------------------- */

bool attention_cuda_fused_takes(const struct ops_attention *a)
{
    return a->type == ELEMENT_BF16 && (a->head_dim == 64 || a->head_dim == 128) && !a->bias &&
           a->scale > 0 && a->k_rows <= INT32_MAX &&
           (a->q_rows - 1) / ROWS < INT32_MAX / a->heads; /* CTAs of a grid */
}

/* Rows of 16-byte chunks; those of heads follow, a row of a head is whole chunks. */
static bool vectors(const void *rows, int64_t stride)
{
    return ((uintptr_t)rows | (uintptr_t)stride * 2) % 16 == 0;
}

static cudaError_t launch(void (*kernel)(struct fused), int shared_bytes, struct fused fused,
                          cudaStream_t stream)
{
    const int64_t tiles = (fused.q_rows + ROWS - 1) / ROWS;
    void *arguments[] = {&fused};
    const cudaError_t error = cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess)
        return error;
    return cudaLaunchKernel((const void *)kernel, dim3((unsigned)(tiles * fused.heads)),
                            dim3(THREADS), arguments, (size_t)shared_bytes, stream);
}

template <int D> static cudaError_t attend(struct fused fused, cudaStream_t stream)
{
    if (fused.k_rows <= FEW)
        return launch(attend_few<D, FEW>, few_bytes<D, FEW>, fused, stream);
    if (fused.k_rows <= KEYS)
        return launch(attend_few<D, KEYS>, few_bytes<D, KEYS>, fused, stream);
    return launch(attend_many<D>, many_bytes<D>, fused, stream);
}

cudaError_t attention_cuda_fused(const struct ops_attention *a, cudaStream_t stream)
{
    struct fused fused = {};

    fused.q = (const char *)a->q;
    fused.k = (const char *)a->k;
    fused.v = (const char *)a->v;
    fused.o = (char *)a->o;
    fused.q_stride = a->q_stride * 2;
    fused.k_stride = a->k_stride * 2;
    fused.v_stride = a->v_stride * 2;
    fused.o_stride = a->o_stride * 2;
    fused.q_rows = a->q_rows;
    fused.k_rows = (int32_t)a->k_rows;
    fused.heads = a->heads;
    fused.key_bias = a->key_bias;
    fused.scale = a->scale * LOG2_E;
    fused.accumulate = a->accumulate;
    fused.vectors_in =
        vectors(a->q, a->q_stride) && vectors(a->k, a->k_stride) && vectors(a->v, a->v_stride);
    fused.vectors_out = vectors(a->o, a->o_stride);
    return a->head_dim == 64 ? attend<64>(fused, stream) : attend<128>(fused, stream);
}
