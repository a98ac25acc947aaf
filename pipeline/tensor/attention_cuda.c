/*
 * Dense attention on a GPU: which way a call goes, and the way for all that the fused kernel of
 * attention_cuda.cu does not take, which is float32 and sizes that no network of ours has.
 *
 * That way stores logits: q k^T through cuBLASLt, their softmax in place, times v. Passes of some
 * heads and queries keep what is stored within ATTENTION_CUDA_SCRATCH. Queries, keys and values are
 * read where they lie, strides and all; bfloat16 is converted to float32 in scratch, and back.
 *
 * cuBLASLt's matrices have columns apart and rows side by side; ours are the transposed of that, so
 * it is asked for c^T = b^T a^T.
 *
 * Ladder, this way, float32, H100, warm, medians
 *   v1  as above: 14,400 x 1 x 384 with as many keys 7.44 ms (43 TFLOP/s), 6,240 of them 1.49 ms,
 *       512 x 64 x 64 with a Toeplitz bias 0.202 ms
 */
#include "attention_cuda.h"

#include "checked.h"
#include "device_cuda.h"
#include "linear_cuda.h"

enum { TILE = 128 /* queries: passes are multiples where there are many */ };

/* c = alpha a b + beta c, of each of `heads`; rows of the three are a_stride.. floats apart, heads
 * a_head... */
struct product {
    const float *a, *b; /* a [m][k]; b [k][n], or [n][k] where it is turned */
    float *c;           /* [m][n] */
    int64_t a_stride, b_stride, c_stride;
    int64_t a_head, b_head, c_head;
    int64_t m, n, k, heads;
    bool turned;
    float alpha, beta;
};

/* One call of cuBLASLt. */
struct call {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c;
};

/* What is stored during a pass, and how many passes there are. */
struct passes {
    int64_t heads, rows;   /* of a pass */
    int64_t stride;        /* of the logits of a query */
    int64_t logits;        /* floats */
    int64_t keys, queries; /* floats of a pass's k or v, q or o, as float32; 0: read in place */
    int64_t bytes;
};

/* ---- products -------------------------------------------------------------------------------- */

static cublasStatus_t layout(cublasLtMatrixLayout_t layout, int64_t rows, int64_t columns,
                             int64_t stride, int64_t heads, int64_t head)
{
    const int32_t count = (int32_t)heads;
    cublasStatus_t status =
        cublasLtMatrixLayoutInit(layout, CUDA_R_32F, (uint64_t)rows, (uint64_t)columns, stride);
    if (!status)
        status = cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                  &count, sizeof count);
    if (!status)
        status = cublasLtMatrixLayoutSetAttribute(
            layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &head, sizeof head);
    return status;
}

static cublasStatus_t describe(struct call *call, const struct product *p)
{
    const int32_t operation = p->turned ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasStatus_t status = cublasLtMatmulDescInit(&call->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!status)
        status = cublasLtMatmulDescSetAttribute(&call->desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &operation, sizeof operation);
    if (!status)
        status = layout(&call->a, p->turned ? p->k : p->n, p->turned ? p->n : p->k, p->b_stride,
                        p->heads, p->b_head);
    if (!status)
        status = layout(&call->b, p->k, p->m, p->a_stride, p->heads, p->a_head);
    return status ? status : layout(&call->c, p->n, p->m, p->c_stride, p->heads, p->c_head);
}

/* All bits that the address of any head's matrix has. */
static uintptr_t places(const float *data, int64_t head)
{
    return (uintptr_t)data | (uintptr_t)head * sizeof *data;
}

static bool multiply(struct device *device, const struct product *p, struct error *error)
{
    const struct blas_places at = {places(p->b, p->b_head), places(p->a, p->a_head),
                                   places(p->c, p->c_head)};
    struct call call;
    cublasLtMatmulHeuristicResult_t best;
    size_t bytes;
    void *workspace = device_blas_workspace(device, &bytes);
    cublasStatus_t status = describe(&call, p);
    if (!status && device_blas_algorithms(device, &call.desc, &call.a, &call.b, &call.c, &at,
                                          CUBLASLT_REDUCTION_SCHEME_MASK, &best, 1) == 0)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (!status)
        status = cublasLtMatmul(device_blas(device), &call.desc, &p->alpha, p->b, &call.a, p->a,
                                &call.b, &p->beta, p->c, &call.c, p->c, &call.c, &best.algo,
                                workspace, bytes, device->stream);
    return !status || error_set(error, "attention: cuBLASLt: %s: a product of %lld x %lld x %lld",
                                cublasLtGetStatusString(status), (long long)p->m, (long long)p->n,
                                (long long)p->k);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* At least 1, at most all: what fits of parts of so many bytes. */
static int64_t fitting(int64_t bytes, int64_t all)
{
    const int64_t fit = ATTENTION_CUDA_SCRATCH / bytes;
    return fit < 1 ? 1 : least(fit, all);
}

static bool passes_make(struct passes *passes, const struct ops_attention *a)
{
    const bool converted = a->type != ELEMENT_F32;
    int64_t row_bytes, tile_bytes, width;
    *passes = (struct passes){0};
    if (!checked_add(a->k_rows, 3, &passes->stride))
        return false;
    passes->stride -= passes->stride % 4;
    if (!checked_mul(passes->stride, sizeof(float), &row_bytes) ||
        !checked_mul(row_bytes, least(a->q_rows, TILE), &tile_bytes))
        return false;
    passes->heads = fitting(tile_bytes, a->heads);
    if (!checked_mul(row_bytes, passes->heads, &row_bytes))
        return false;
    passes->rows = fitting(row_bytes, a->q_rows);
    if (passes->rows < a->q_rows) { /* all about the same */
        const int64_t count = (a->q_rows - 1) / passes->rows + 1;
        const int64_t even = ((a->q_rows - 1) / count / TILE + 1) * TILE;
        passes->rows = least(passes->rows, even);
    }
    width = converted ? passes->heads * a->head_dim : 0;
    return checked_mul(passes->heads * passes->rows, passes->stride, &passes->logits) &&
           checked_mul(a->k_rows, width, &passes->keys) &&
           checked_mul(passes->rows, width, &passes->queries) &&
           checked_add(passes->keys, passes->queries, &passes->bytes) &&
           checked_mul(passes->bytes, 2, &passes->bytes) &&
           checked_add(passes->bytes, passes->logits, &passes->bytes) &&
           checked_mul(passes->bytes, sizeof(float), &passes->bytes);
}

/* ---- a pass ---------------------------------------------------------------------------------- */

/* The same attention for some heads and queries; bias and the rest stay those of all. */
static struct ops_attention part_of(const struct ops_attention *a, int64_t head, int64_t row)
{
    const size_t size = element_size(a->type);
    const int64_t feature = head * a->head_dim;
    struct ops_attention part = *a;
    part.q = (const char *)a->q + (row * a->q_stride + feature) * (int64_t)size;
    part.k = (const char *)a->k + feature * (int64_t)size;
    part.v = (const char *)a->v + feature * (int64_t)size;
    part.o = (char *)a->o + (row * a->o_stride + feature) * (int64_t)size;
    return part;
}

/* Float32 rows of all four; logits are scratch. */
static bool attend(struct device *device, const struct ops_attention *part,
                   const struct attention_scores *scores, struct error *error)
{
    const struct product logits = {.a = part->q,
                                   .b = part->k,
                                   .c = scores->scores,
                                   .a_stride = part->q_stride,
                                   .b_stride = part->k_stride,
                                   .c_stride = scores->stride,
                                   .a_head = part->head_dim,
                                   .b_head = part->head_dim,
                                   .c_head = scores->rows * scores->stride,
                                   .m = scores->rows,
                                   .n = scores->columns,
                                   .k = part->head_dim,
                                   .heads = scores->heads,
                                   .turned = true,
                                   .alpha = part->scale};
    const struct product values = {.a = scores->scores,
                                   .b = part->v,
                                   .c = part->o,
                                   .a_stride = scores->stride,
                                   .b_stride = part->v_stride,
                                   .c_stride = part->o_stride,
                                   .a_head = scores->rows * scores->stride,
                                   .b_head = part->head_dim,
                                   .c_head = part->head_dim,
                                   .m = scores->rows,
                                   .n = part->head_dim,
                                   .k = scores->columns,
                                   .heads = scores->heads,
                                   .alpha = 1,
                                   .beta = part->accumulate ? 1 : 0};
    if (!multiply(device, &logits, error))
        return false;
    attention_scores_softmax(device, scores);
    return multiply(device, &values, error);
}

/* q, k and v widened to scratch behind the logits, o narrowed from there. */
static bool attend_converted(struct device *device, const struct ops_attention *part,
                             const struct passes *passes, const struct attention_scores *scores,
                             struct error *error)
{
    const int64_t width = scores->heads * part->head_dim;
    const struct attention_rows q = {(void *)part->q, part->q_stride, scores->rows, width};
    const struct attention_rows k = {(void *)part->k, part->k_stride, scores->columns, width};
    const struct attention_rows v = {(void *)part->v, part->v_stride, scores->columns, width};
    const struct attention_rows o = {part->o, part->o_stride, scores->rows, width};
    float *wide_k = scores->scores + passes->logits, *wide_v = wide_k + passes->keys;
    float *wide_q = wide_v + passes->keys, *wide_o = wide_q + passes->queries;
    struct ops_attention wide = *part;
    wide.q = wide_q, wide.k = wide_k, wide.v = wide_v, wide.o = wide_o;
    wide.q_stride = wide.k_stride = wide.v_stride = wide.o_stride = width;
    wide.accumulate = false;
    attention_rows_widen(device, &q, wide_q);
    attention_rows_widen(device, &k, wide_k);
    attention_rows_widen(device, &v, wide_v);
    if (!attend(device, &wide, scores, error))
        return false;
    attention_rows_narrow(device, &o, wide_o, part->accumulate);
    return true;
}

static bool attend_stored(struct device *device, const struct ops_attention *a, struct error *error)
{
    const int64_t band = a->q_rows + a->k_rows - 1;
    struct passes passes;
    if (!passes_make(&passes, a))
        return error_set(error, "attention: %d heads of %d with %lld keys exceed 64-bit sizes",
                         a->heads, a->head_dim, (long long)a->k_rows);
    float *scratch = device_cuda_scratch(device, (size_t)passes.bytes);
    if (!scratch && device->recording)
        return error_set(error,
                         "attention: %.1f MiB of scratch memory cannot be had while "
                         "operations are recorded: do them once before",
                         (double)passes.bytes / 1048576.0);
    if (!scratch)
        return error_out_of_memory(error, "attention on the GPU", (unsigned long long)passes.bytes);
    for (int64_t head = 0; head < a->heads; head += passes.heads)
        for (int64_t row = 0; row < a->q_rows; row += passes.rows) {
            const struct ops_attention part = part_of(a, head, row);
            const struct attention_scores scores = {
                .scores = scratch,
                .heads = least(passes.heads, a->heads - head),
                .rows = least(passes.rows, a->q_rows - row),
                .stride = passes.stride,
                .columns = a->k_rows,
                .bias = a->bias ? a->bias + head * band + a->q_rows - 1 - row : NULL,
                .bias_stride = band,
                .key_bias = a->key_bias,
            };
            if (a->type == ELEMENT_F32 ? !attend(device, &part, &scores, error)
                                       : !attend_converted(device, &part, &passes, &scores, error))
                return false;
        }
    return true;
}

bool attention_cuda(struct device *device, const struct ops_attention *a, struct error *error)
{
    if (a->heads < 1 || a->head_dim < 1 || a->q_rows < 1 || a->k_rows < 1)
        return error_set(error,
                         "attention: %d heads of %d, %lld queries, %lld keys: each must be >= 1",
                         a->heads, a->head_dim, (long long)a->q_rows, (long long)a->k_rows);
    if (attention_cuda_fused_takes(a))
        device_cuda_check(device, attention_cuda_fused(a, device->stream), "attention");
    else if (!attend_stored(device, a, error))
        return false;
    return device_cuda_ok(device, error);
}
