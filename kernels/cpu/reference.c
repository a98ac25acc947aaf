/*
 * Attention, pooling and the draft map as they are defined (reference.h), in the order of the
 * formulas.
 *
 * One head's keys and values are gathered into block order first; they are kept as float, which
 * every storage type converts to without loss. All arithmetic is double. A row takes two passes
 * over what it sees: the largest logit, then the weighted sums; nothing is online, tiled or
 * approximated.
 */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double half_to_double(uint16_t bits)
{
    int exponent = bits >> 10 & 0x1f;
    double fraction = bits & 0x3ff;
    double value = ldexp(fraction, -24);

    if (exponent == 31) {
        value = fraction > 0 ? NAN : INFINITY;
    } else if (exponent > 0) {
        value = ldexp(1024 + fraction, exponent - 25);
    }
    return bits >> 15 ? -value : value;
}

/* nearbyint() rounds ties to even, so that scaling by the spacing of the half floats around the
 * value is all there is to it. */
static uint16_t double_to_half(double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double magnitude = fabs(value);
    int exponent;

    if (isnan(value)) {
        return sign | 0x7e00;
    }
    if (magnitude >= 65520) { /* half way from the largest, 65504, to what would come next */
        return sign | 0x7c00;
    }
    frexp(magnitude, &exponent); /* magnitude = m * 2^exponent, m in [0.5, 1) */
    if (exponent < -13 || magnitude == 0) {
        exponent = -13; /* below 2^-14 the spacing stays 2^-24 */
    }
    double steps = nearbyint(ldexp(magnitude, 11 - exponent));
    /* 1024 steps reach the next exponent: the carry lands in the exponent field by itself. */
    return sign | (uint16_t)((exponent + 13) * 1024 + (int)steps);
}

static double bfloat_to_double(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &wide, sizeof(value));
    return value;
}

static uint16_t double_to_bfloat(double value)
{
    float single = (float)value;
    uint32_t wide;

    memcpy(&wide, &single, sizeof(wide));
    if (isnan(value)) {
        return (uint16_t)(wide >> 16 | 0x40);
    }
    wide += 0x7fff + (wide >> 16 & 1);
    return (uint16_t)(wide >> 16);
}

static int64_t element(const draftattn_tensor *x, int64_t batch, int64_t head, int64_t token,
                       int64_t d)
{
    return batch * x->stride[0] + head * x->stride[1] + token * x->stride[2] + d * x->stride[3];
}

double reference_load(const draftattn_tensor *x, int64_t batch, int64_t head, int64_t token,
                      int64_t d)
{
    int64_t at = element(x, batch, head, token, d);

    switch (x->dtype) {
    case DRAFTATTN_F16:
        return half_to_double(((const uint16_t *)x->data)[at]);
    case DRAFTATTN_BF16:
        return bfloat_to_double(((const uint16_t *)x->data)[at]);
    case DRAFTATTN_F32:
        break;
    }
    return ((const float *)x->data)[at];
}

void reference_store(const draftattn_tensor *x, int64_t batch, int64_t head, int64_t token,
                     int64_t d, double value)
{
    int64_t at = element(x, batch, head, token, d);

    switch (x->dtype) {
    case DRAFTATTN_F16:
        ((uint16_t *)x->data)[at] = double_to_half(value);
        return;
    case DRAFTATTN_BF16:
        ((uint16_t *)x->data)[at] = double_to_bfloat(value);
        return;
    case DRAFTATTN_F32:
        break;
    }
    ((float *)x->data)[at] = (float)value;
}

void reference_pool(const draftattn_tensor *x, int64_t batch, int64_t head, const int64_t *order,
                    const int64_t *begin, int64_t blocks, double *means)
{
    int64_t head_dim = x->shape[3];

    for (int64_t block = 0; block < blocks; block++) {
        int64_t count = begin[block + 1] - begin[block];
        for (int64_t d = 0; d < head_dim; d++) {
            double sum = 0;
            for (int64_t position = begin[block]; position < begin[block + 1]; position++) {
                sum += reference_load(x, batch, head, order ? order[position] : position, d);
            }
            means[block * head_dim + d] = sum / (double)count;
        }
    }
}

/* --- attention ---------------------------------------------------------------------------- */

/* What the rows of one head see. */
struct head {
    int64_t batch, head, head_dim;
    float *k, *v;            /* [tokens][head_dim] in block order */
    double *mean_k, *mean_v; /* [key_blocks][head_dim] */
};

static void gather(const struct reference_problem *problem, const draftattn_tensor *x,
                   const struct head *head, float *out)
{
    for (int64_t position = 0; position < x->shape[2]; position++) {
        int64_t token = problem->order ? problem->order[position] : position;
        for (int64_t d = 0; d < head->head_dim; d++) {
            out[position * head->head_dim + d] =
                (float)reference_load(x, head->batch, head->head, token, d);
        }
    }
}

static double dot_float(const double *q, const float *k, int64_t n)
{
    double sum = 0;
    for (int64_t d = 0; d < n; d++) {
        sum += q[d] * k[d];
    }
    return sum;
}

static double dot_double(const double *q, const double *k, int64_t n)
{
    double sum = 0;
    for (int64_t d = 0; d < n; d++) {
        sum += q[d] * k[d];
    }
    return sum;
}

static bool listed(const struct reference_problem *problem, int64_t row, int64_t key_block)
{
    const draftattn_block_list *list = problem->list;

    if (!list) {
        return true;
    }
    for (int64_t i = list->row_ptr[row]; i < list->row_ptr[row + 1]; i++) {
        if (list->block_idx[i] == key_block) {
            return true;
        }
    }
    return false;
}

static int64_t block_of(const int64_t *begin, int64_t blocks, int64_t position)
{
    int64_t block = 0;
    while (block + 1 < blocks && begin[block + 1] <= position) {
        block++;
    }
    return block;
}

static void attend_row(const struct reference_problem *problem, const struct head *head,
                       int64_t position)
{
    const int64_t head_dim = head->head_dim;
    const int64_t token = problem->order ? problem->order[position] : position;
    const int64_t row = (head->batch * problem->q->shape[1] + head->head) * problem->query_blocks +
                        block_of(problem->query_begin, problem->query_blocks, position);
    const int64_t *begin = problem->key_begin;
    double q[REFERENCE_MAX_HEAD_DIM], sum_v[REFERENCE_MAX_HEAD_DIM] = {0};
    double largest = -INFINITY, sum = 0;

    for (int64_t d = 0; d < head_dim; d++) {
        q[d] = problem->scale * reference_load(problem->q, head->batch, head->head, token, d);
    }
    for (int64_t block = 0; block < problem->key_blocks; block++) {
        if (listed(problem, row, block)) {
            for (int64_t t = begin[block]; t < begin[block + 1]; t++) {
                largest = fmax(largest, dot_float(q, head->k + t * head_dim, head_dim));
            }
        } else if (problem->compensation) {
            largest = fmax(largest, dot_double(q, head->mean_k + block * head_dim, head_dim));
        }
    }
    for (int64_t block = 0; block < problem->key_blocks; block++) {
        if (listed(problem, row, block)) {
            for (int64_t t = begin[block]; t < begin[block + 1]; t++) {
                double weight = exp(dot_float(q, head->k + t * head_dim, head_dim) - largest);
                sum += weight;
                for (int64_t d = 0; d < head_dim; d++) {
                    sum_v[d] += weight * head->v[t * head_dim + d];
                }
            }
        } else if (problem->compensation) {
            double count = (double)(begin[block + 1] - begin[block]);
            const double *mean_k = head->mean_k + block * head_dim;
            double weight = count * exp(dot_double(q, mean_k, head_dim) - largest);
            sum += weight;
            for (int64_t d = 0; d < head_dim; d++) {
                sum_v[d] += weight * head->mean_v[block * head_dim + d];
            }
        }
    }
    for (int64_t d = 0; d < head_dim; d++) {
        reference_store(problem->o, head->batch, head->head, token, d,
                        sum == 0 ? 0 : sum_v[d] / sum);
    }
    if (problem->lse) {
        double lse = sum == 0 ? -INFINITY : largest + log(sum);
        reference_store(problem->lse, head->batch, head->head, token, 0, lse);
    }
}

static void attend_head(const struct reference_problem *problem, struct head *head)
{
    const int64_t rows = problem->rows ? problem->row_count : problem->q->shape[2];

    gather(problem, problem->k, head, head->k);
    gather(problem, problem->v, head, head->v);
    if (problem->compensation) {
        reference_pool(problem->k, head->batch, head->head, problem->order, problem->key_begin,
                       problem->key_blocks, head->mean_k);
        reference_pool(problem->v, head->batch, head->head, problem->order, problem->key_begin,
                       problem->key_blocks, head->mean_v);
    }
    if (problem->threads > 0) {
#pragma omp parallel for schedule(dynamic) num_threads(problem->threads)
        for (int64_t i = 0; i < rows; i++) {
            attend_row(problem, head, problem->rows ? problem->rows[i] : i);
        }
    } else {
#pragma omp parallel for schedule(dynamic)
        for (int64_t i = 0; i < rows; i++) {
            attend_row(problem, head, problem->rows ? problem->rows[i] : i);
        }
    }
}

bool reference_attend(const struct reference_problem *problem)
{
    const int64_t *shape = problem->q->shape;
    const size_t row_count = (size_t)(problem->k->shape[2] * shape[3]);
    const size_t mean_count = (size_t)(problem->key_blocks * shape[3]);
    struct head head = {.head_dim = shape[3]};

    head.k = malloc(row_count * sizeof(float));
    head.v = malloc(row_count * sizeof(float));
    head.mean_k = malloc(mean_count * sizeof(double));
    head.mean_v = malloc(mean_count * sizeof(double));
    bool ok = head.k && head.v && head.mean_k && head.mean_v && shape[3] <= REFERENCE_MAX_HEAD_DIM;
    for (head.batch = 0; ok && head.batch < shape[0]; head.batch++) {
        for (head.head = 0; head.head < shape[1]; head.head++) {
            attend_head(problem, &head);
        }
    }
    free(head.k);
    free(head.v);
    free(head.mean_k);
    free(head.mean_v);
    return ok;
}

/* --- the draft map ------------------------------------------------------------------------ */

static double block_variance(const struct reference_problem *problem, int64_t batch, int64_t head,
                             int64_t block, int64_t d, double mean)
{
    double sum = 0;
    for (int64_t position = problem->key_begin[block]; position < problem->key_begin[block + 1];
         position++) {
        int64_t token = problem->order ? problem->order[position] : position;
        double distance = reference_load(problem->k, batch, head, token, d) - mean;
        sum += distance * distance;
    }
    return sum / (double)(problem->key_begin[block + 1] - problem->key_begin[block]);
}

/* One row of the map from the mean query: softmax, then the spread factor where it is asked for. */
static void score_row(const struct reference_problem *problem, const double *mean_q,
                      const double *mean_k, const double *variance, int64_t blocks, float *out)
{
    const int64_t head_dim = problem->q->shape[3];
    double largest = -INFINITY, sum = 0;

    for (int pass = 0; pass < 3; pass++) {
        for (int64_t block = 0; block < blocks; block++) {
            double count = (double)(problem->key_begin[block + 1] - problem->key_begin[block]);
            double logit =
                problem->scale * dot_double(mean_q, mean_k + block * head_dim, head_dim) +
                log(count);
            if (pass == 0) {
                largest = fmax(largest, logit);
            } else if (pass == 1) {
                sum += exp(logit - largest);
            } else {
                double spread = 0;
                for (int64_t d = 0; variance && d < head_dim; d++) {
                    spread += mean_q[d] * mean_q[d] * variance[block * head_dim + d];
                }
                double factor = variance ? problem->scale * sqrt(spread) : 1;
                out[block] = (float)(exp(logit - largest) / sum * factor);
            }
        }
    }
}

bool reference_score_map(const struct reference_problem *problem, int64_t video_query_blocks,
                         int64_t video_key_blocks, draftattn_score score, float *map)
{
    const int64_t *shape = problem->q->shape;
    const int64_t head_dim = shape[3];
    double *mean_q = calloc((size_t)(video_query_blocks * head_dim), sizeof(double));
    double *mean_k = calloc((size_t)(video_key_blocks * head_dim), sizeof(double));
    double *variance = calloc((size_t)(video_key_blocks * head_dim), sizeof(double));
    const bool ok = mean_q && mean_k && variance;

    for (int64_t i = 0; ok && i < shape[0] * shape[1]; i++) {
        int64_t batch = i / shape[1], head = i % shape[1];
        reference_pool(problem->q, batch, head, problem->order, problem->query_begin,
                       video_query_blocks, mean_q);
        reference_pool(problem->k, batch, head, problem->order, problem->key_begin,
                       video_key_blocks, mean_k);
        for (int64_t j = 0; score == DRAFTATTN_SCORE_SPREAD && j < video_key_blocks * head_dim;
             j++) {
            variance[j] =
                block_variance(problem, batch, head, j / head_dim, j % head_dim, mean_k[j]);
        }
        for (int64_t row = 0; row < video_query_blocks; row++) {
            score_row(problem, mean_q + row * head_dim, mean_k,
                      score == DRAFTATTN_SCORE_SPREAD ? variance : NULL, video_key_blocks,
                      map + (i * video_query_blocks + row) * video_key_blocks);
        }
    }
    free(mean_q);
    free(mean_k);
    free(variance);
    return ok;
}
