/*
 * The instructions of sm_90a that CUDA C++ has no name for: mbarriers, clusters, bulk tensor
 * copies, named barriers, warpgroup matrix products. One function each; PTX ISA 8.x, chapter 9.7.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_HOPPER_CUH
#define DRAFTATTN_KERNELS_CUDA_HOPPER_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <type_traits>

#define DEVICE static __device__ __forceinline__

DEVICE uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* ---- mbarriers ---- */

DEVICE void mbarrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals));
}

/* Behind mbarrier_init(), so that tensor copies and the cluster see it. */
DEVICE void mbarrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEVICE void mbarrier_expect(uint64_t *barrier, int bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}

DEVICE void mbarrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}

/* Until the phase of this parity has ended. */
DEVICE void mbarrier_wait(uint64_t *barrier, int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* What the CTA has written to shared memory is there for products and tensor copies. */
DEVICE void proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- clusters ---- */

/* All CTAs of the cluster have begun, and set up their mbarriers, once all have waited. */
DEVICE void cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

DEVICE void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Stores to where the CTA of that rank has `to`, and counts the bytes in at its barrier. */
DEVICE void cluster_send(float2 pair, void *to, uint64_t *barrier, int rank)
{
    asm volatile("{\n.reg .b32 at, counts;\n"
                 "mapa.shared::cluster.u32 at, %0, %2;\n"
                 "mapa.shared::cluster.u32 counts, %1, %2;\n"
                 "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 "
                 "[at], {%3, %4}, [counts];\n}\n" ::"r"(shared_address(to)),
                 "r"(shared_address(barrier)), "r"(rank), "f"(pair.x), "f"(pair.y)
                 : "memory");
}

/* mbarrier_wait() for what CTAs of the cluster send. */
DEVICE void cluster_mbarrier_wait(uint64_t *barrier, int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* ---- bulk tensor copies ---- */

/* A box of the map at {x, row, head, entry}. */
DEVICE void tensor_load(void *to, const CUtensorMap *map, uint64_t *barrier, int x, int row,
                        int head, int entry)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(row), "r"(head), "r"(entry)
                 : "memory");
}

/* ---- named barriers: 0 is __syncthreads() ---- */

DEVICE void barrier_sync(int barrier, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

DEVICE void barrier_arrive(int barrier, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* ---- lanes, numbers ---- */

/* True in one lane of the warp. */
DEVICE bool elected(void)
{
    uint32_t yes;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(yes));
    return yes != 0;
}

/* A value that is the same in all lanes, told to the compiler: what is made from it stays out of
 * the vector registers. */
DEVICE int uniform(int x)
{
    return __reduce_max_sync(~0u, x);
}

DEVICE float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- warpgroup matrix products, m64 nN k16 of halves or k8 of TF32, float32 sums ---- */

/* Registers of a product are settled here: the compiler moves no arithmetic on them across, where
 * wgmma_fence() would not see it. */
template <int N> DEVICE void settle(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

template <int N> DEVICE void settle(uint32_t (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(x[i])::"memory");
}

DEVICE void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DEVICE void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING committed groups are under way. */
template <int PENDING> DEVICE void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/*
 * A matrix in shared memory in panels of 64 elements a row, 128-byte swizzle: 8 rows are 1024
 * bytes. This is the low word of its descriptor; the high word is the same for all. lead: bytes
 * from one panel to the next where a product walks over panels (columns of V), else 0. Moving on by
 * bytes adds bytes / 16.
 */
DEVICE uint32_t matrix_word(uint32_t address, uint32_t lead)
{
    return (address & 0x3ffff) >> 4 | lead >> 4 << 16;
}

/* 1024 bytes from 8 rows to the next 8; 128-byte swizzle. */
#define MATRIX_HIGH_WORD "0x40000040"

#define SUMS_32                                                                                    \
    "%0, %1, %2, %3, %4, %5, %6, %7, "                                                             \
    "%8, %9, %10, %11, %12, %13, %14, %15, "                                                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, "                                                     \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS_32_OUT(d)                                                                             \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),            \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])

#define SUMS_64                                                                                    \
    "%0, %1, %2, %3, %4, %5, %6, %7, "                                                             \
    "%8, %9, %10, %11, %12, %13, %14, %15, "                                                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, "                                                     \
    "%24, %25, %26, %27, %28, %29, %30, %31, "                                                     \
    "%32, %33, %34, %35, %36, %37, %38, %39, "                                                     \
    "%40, %41, %42, %43, %44, %45, %46, %47, "                                                     \
    "%48, %49, %50, %51, %52, %53, %54, %55, "                                                     \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define SUMS_64_OUT(d)                                                                             \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),            \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), \
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), \
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
        "+f"(d[63])

/* d[64][N] = a b, or d += it where accumulate: a [64][16] in registers, b [16][N] by
 * matrix_word(), read along K where it is not TRANSPOSED, along N where it is. */
#define WGMMA_RS(n, type, sums, outs, a0, a1, a2, a3, b, accumulates, transposed)                  \
    asm volatile("{\n.reg .pred p;\n.reg .b64 db;\nsetp.ne.b32 p, " accumulates ", 0;\n"           \
                 "mov.b64 db, {" b ", " MATRIX_HIGH_WORD "};\n"                                    \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" sums "}, "    \
                 "{" a0 ", " a1 ", " a2 ", " a3 "}, db, p, 1, 1, " transposed ";\n}\n"             \
                 : outs(d)                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_word), "r"(accumulate),       \
                   "n"(TRANSPOSED))

template <typename T, bool TRANSPOSED>
DEVICE void wgmma(float (&d)[64], const uint32_t *a, uint32_t b_word, int accumulate)
{
    if constexpr (std::is_same_v<T, __half>)
        WGMMA_RS("128", "f16", SUMS_64, SUMS_64_OUT, "%64", "%65", "%66", "%67", "%68", "%69",
                 "%70");
    else
        WGMMA_RS("128", "bf16", SUMS_64, SUMS_64_OUT, "%64", "%65", "%66", "%67", "%68", "%69",
                 "%70");
}

template <typename T, bool TRANSPOSED>
DEVICE void wgmma(float (&d)[32], const uint32_t *a, uint32_t b_word, int accumulate)
{
    if constexpr (std::is_same_v<T, __half>)
        WGMMA_RS("64", "f16", SUMS_32, SUMS_32_OUT, "%32", "%33", "%34", "%35", "%36", "%37",
                 "%38");
    else
        WGMMA_RS("64", "bf16", SUMS_32, SUMS_32_OUT, "%32", "%33", "%34", "%35", "%36", "%37",
                 "%38");
}

/* d[64][64] = a b, or d += it: a [64][8] in registers, b [8][64] by matrix_word(). */
template <bool ACCUMULATE> DEVICE void wgmma_tf32(float (&d)[32], const uint32_t *a, uint32_t b)
{
    asm volatile("{\n.reg .b64 db;\nmov.b64 db, {%36, " MATRIX_HIGH_WORD "};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {" SUMS_32 "}, "
                 "{%32, %33, %34, %35}, db, %37, 1, 1;\n}\n"
                 : SUMS_32_OUT(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(ACCUMULATE));
}

#endif
