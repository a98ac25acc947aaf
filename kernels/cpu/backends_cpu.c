/* Owns the tables of the CPU backends: the same stages, each with the micro-kernels of its
 * instruction set. The reference backend is in backend_reference.c. */
#include "cpu_features.h"
#include "host.h"
#include "stages_cpu.h"

static const char *avx512_why_not(int32_t device)
{
    (void)device;
    return cpu_features_why_not(DRAFTATTN_BACKEND_AVX512);
}

static const char *avx2_why_not(int32_t device)
{
    (void)device;
    return cpu_features_why_not(DRAFTATTN_BACKEND_AVX2);
}

static const char *portable_why_not(int32_t device)
{
    (void)device;
    return cpu_features_why_not(DRAFTATTN_BACKEND_PORTABLE);
}

#define CPU_BACKEND(identity, probe, costs)                                                        \
    {                                                                                              \
        .version = BACKEND_VERSION, .id = (identity), .automatic = true, .why_not = (probe),       \
        .scratch_size = cpu_scratch_size, .group_heads = cpu_group_heads, .pool = cpu_pool,        \
        .draft_map = cpu_draft_map, .gather = cpu_gather, .attend = cpu_attend,                    \
        .repair = cpu_repair, .cost = (costs), .select_size = host_select_size,                    \
        .select = host_select, .store = host_store, .read = host_read, .copy = host_copy           \
    }

/* From CPU times of one thread of an AMD EPYC (Zen 5): 4 heads of 128, 512 to 2048 tokens, 75 %, 0
 * to 256 probe rows. 'draftattn bench' sets what comes of them beside what it finds. */
static const struct backend_cost avx512_cost = {.row = 65, .apply = 1.5, .fit = 2.8};
static const struct backend_cost avx2_cost = {.row = 50, .apply = 1.1, .fit = 2.4};
static const struct backend_cost portable_cost = {.row = 20, .apply = 0.8, .fit = 1.4};

const struct backend backend_avx512 =
    CPU_BACKEND(DRAFTATTN_BACKEND_AVX512, avx512_why_not, &avx512_cost);
const struct backend backend_avx2 = CPU_BACKEND(DRAFTATTN_BACKEND_AVX2, avx2_why_not, &avx2_cost);
const struct backend backend_portable =
    CPU_BACKEND(DRAFTATTN_BACKEND_PORTABLE, portable_why_not, &portable_cost);
