/*
 * What test_attend_cuda.cu runs, on the host, and what has to come of it: a case of random tensors
 * and lists from its options, and the oracle, plain loops in double precision, which also say what
 * rounding may cost.
 */
#ifndef DRAFTATTN_TESTS_ATTEND_CASE_H
#define DRAFTATTN_TESTS_ATTEND_CASE_H

#include "cuda_support.h"

#include "stages_cuda.h"
extern "C" {
#include "backend.h"
}

#include <cfloat>
#include <numeric>

enum { BLOCK = CUDA_QUERY_BLOCK };

static const double ulp = 0x1p-24; /* half a spacing of floats at 1 */
static const double ln_2 = 0.693147180559945309;
static const double LOGIT_ULPS = 32; /* of the sum of a logit's absolute products */
static const double BASE = 4e-5;     /* of o: a weight that is 1 but for the rounding of its base */

/* --- what is run -------------------------------------------------------------------------- */

enum layout { HEADS_FIRST, TOKENS_FIRST, ODD, LAYOUTS }; /* ODD: rows of head_dim + 1 */

/* Whose logits are far from 0, where deviation leaves them near. BELOW: all keys but those of the
 * first block, so far below 0 that their products are no floats; not for float16. */
enum far { NOWHERE, SOME_ROWS, FIRST_KEYS, LAST_KEYS, BELOW };

struct options {
    int32_t head_dim, batch, heads, video, text, key_block, probes;
    draftattn_dtype dtype, out_dtype;
    float deviation;                                      /* of q and k */
    bool listed, means, lse, ordered, queued, transposed; /* transposed: o in columns */
    bool no_text;            /* lists have none, and its keys and values are NaN */
    bool nan_query, nan_key; /* one row of the video in head 0 */
    enum far far;
    enum layout in, out;
    uint64_t seed;
};

struct host_case {
    struct options options;
    struct shape_cuda shape;
    std::vector<int32_t> query_begin, key_begin, order, queue, block_idx;
    std::vector<int64_t> row_ptr;
    std::vector<uint32_t> kept;
    std::vector<char> q, k, v, probe_q, low_k, low_v; /* [heads][rows][head_dim], as stored */
    std::vector<float> bias;
};

static std::vector<int32_t> block_begins(int32_t video, int32_t tokens, int32_t size)
{
    std::vector<int32_t> begin;
    for (int32_t at = 0; at < video; at += size) {
        begin.push_back(at);
    }
    for (int32_t at = video; at < tokens; at += size) {
        begin.push_back(at);
    }
    begin.push_back(tokens);
    return begin;
}

template <typename T> void shuffle(std::vector<T> &values, uint64_t seed)
{
    for (size_t i = values.size(); i > 1; i--) {
        std::swap(values[i - 1], values[(size_t)random_below(seed, i, (int64_t)i)]);
    }
}

static void make_shape(struct host_case *c)
{
    const struct options &o = c->options;
    struct shape_cuda &shape = c->shape;
    const int32_t tokens = o.video + o.text;

    c->query_begin = block_begins(o.video, tokens, BLOCK);
    c->key_begin = block_begins(o.video, tokens, o.key_block);
    c->order.resize((size_t)tokens);
    std::iota(c->order.begin(), c->order.end(), 0);
    shuffle(c->order, o.seed + 1);
    shape = {};
    shape.heads = o.batch * o.heads;
    shape.entry_heads = o.heads;
    shape.head_dim = o.head_dim;
    shape.key_block = o.key_block;
    shape.tokens = tokens;
    shape.video_tokens = o.video;
    shape.query_blocks = (int32_t)c->query_begin.size() - 1;
    shape.video_query_blocks = (o.video + BLOCK - 1) / BLOCK;
    shape.key_blocks = (int32_t)c->key_begin.size() - 1;
    shape.video_key_blocks = (o.video + o.key_block - 1) / o.key_block;
    shape.probes = o.probes;
    shape.scale = (float)(1 / sqrt(o.head_dim));
}

/* Every row of its own density, some empty, some full; without a list all are full. */
static void make_list(struct host_case *c)
{
    const struct shape_cuda &shape = c->shape;
    const int32_t words = cuda_mean_rows(&shape) / 32;
    const int32_t rows = shape.heads * shape.query_blocks;

    c->row_ptr.assign(1, 0);
    c->block_idx.clear();
    c->kept.assign((size_t)rows * (size_t)words, 0);
    for (int32_t row = 0; row < rows; row++) {
        const uint64_t seed = c->options.seed + 2;
        const float draw = random_uniform(seed, (uint64_t)row);
        const float density = !c->options.listed || draw < 0.15f ? 1 : draw < 0.3f ? 0 : draw;
        for (int32_t j = 0; j < shape.key_blocks; j++) {
            const uint64_t place = (uint64_t)(rows + row * shape.key_blocks + j);
            if (random_uniform(seed, place) < density &&
                !(c->options.no_text && j >= shape.video_key_blocks)) {
                c->block_idx.push_back(j);
                c->kept[(size_t)(row * words + j / 32)] |= 1u << j % 32;
            }
        }
        c->row_ptr.push_back((int64_t)c->block_idx.size());
    }
    c->queue.resize((size_t)(rows + shape.heads * cuda_probe_tiles(&shape)));
    std::iota(c->queue.begin(), c->queue.end(), 0);
    if (c->options.queued)
        shuffle(c->queue, c->options.seed + 3);
}

/* Block means of x as they are stored; rows from key_blocks on are zeros. */
static std::vector<char> means_of(const struct host_case *c, const std::vector<char> &x)
{
    const struct shape_cuda &shape = c->shape;
    const int64_t rows = cuda_mean_rows(&shape), dim = shape.head_dim;
    const draftattn_dtype dtype = c->options.dtype;
    std::vector<char> means((size_t)(shape.heads * rows * dim) * dtype_size(dtype), 0);

    for (int64_t i = 0; i < (int64_t)shape.heads * shape.key_blocks * dim; i++) {
        const int64_t head = i / dim / shape.key_blocks, j = i / dim % shape.key_blocks;
        const int32_t begin = c->key_begin[(size_t)j], end = c->key_begin[(size_t)j + 1];
        double sum = 0;
        for (int64_t t = begin; t < end; t++) {
            sum += load_from(x.data(), dtype, (head * shape.tokens + t) * dim + i % dim);
        }
        store_to(means.data(), dtype, (head * rows + j) * dim + i % dim,
                 (float)(sum / (end - begin)));
    }
    return means;
}

/* Rows of q or k times what takes them there. */
static void take_far(struct host_case *c)
{
    const struct options &o = c->options;
    const int64_t dim = o.head_dim, tokens = c->shape.tokens, rows = c->shape.heads * tokens;
    const float factor = o.dtype == DRAFTATTN_F16 ? 1e4f : 1e12f;

    for (int64_t i = 0; i < rows * dim; i++) {
        const int64_t row = i / dim % tokens;
        const float q = load_from(c->q.data(), o.dtype, i), k = load_from(c->k.data(), o.dtype, i);
        const bool first = row < o.key_block, last = row >= o.video - o.key_block && row < o.video;
        if (o.far == SOME_ROWS && row % 3 == 0)
            store_to(c->q.data(), o.dtype, i, q * factor);
        if ((o.far == FIRST_KEYS && first) || (o.far == LAST_KEYS && last))
            store_to(c->k.data(), o.dtype, i, k * factor);
        if (o.far == BELOW)
            store_to(c->q.data(), o.dtype, i, fabsf(q) * 0x1p62f);
        if (o.far == BELOW && !first)
            store_to(c->k.data(), o.dtype, i, -fabsf(k) * 0x1p62f);
    }
}

static struct host_case make_case(const struct options &options)
{
    struct host_case c = {};
    c.options = options;
    make_shape(&c);
    make_list(&c);
    const int64_t dim = options.head_dim, count = (int64_t)c.shape.heads * c.shape.tokens * dim;
    const int64_t probe_rows = (int64_t)c.shape.heads * cuda_probe_tiles(&c.shape) * BLOCK;
    c.q = random_elements(options.dtype, count, options.seed + 11, options.deviation);
    c.k = random_elements(options.dtype, count, options.seed + 12, options.deviation);
    c.v = random_elements(options.dtype, count, options.seed + 13, 1);
    c.probe_q =
        random_elements(options.dtype, probe_rows * dim, options.seed + 14, options.deviation);
    const int64_t bytes = dim * (int64_t)dtype_size(options.dtype), middle = options.video / 2;
    for (int64_t row = 0; row < probe_rows; row++) { /* the rest must not matter: NaN */
        if (row % (cuda_probe_tiles(&c.shape) * BLOCK) >= options.probes)
            memset(c.probe_q.data() + row * bytes, 0xff, (size_t)bytes);
    }
    for (int64_t row = 0; options.no_text && row < (int64_t)c.shape.heads * c.shape.tokens; row++) {
        if (row % c.shape.tokens >= options.video) {
            memset(c.k.data() + row * bytes, 0xff, (size_t)bytes);
            memset(c.v.data() + row * bytes, 0xff, (size_t)bytes);
        }
    }
    if (options.far != NOWHERE)
        take_far(&c);
    if (options.nan_query)
        memset(c.q.data() + middle * bytes, 0xff, (size_t)bytes);
    if (options.nan_key)
        memset(c.k.data() + middle * bytes, 0xff, (size_t)bytes);
    c.low_k = means_of(&c, c.k);
    c.low_v = means_of(&c, c.v);
    c.bias.assign((size_t)cuda_mean_rows(&c.shape), -INFINITY);
    for (int32_t j = 0; j < c.shape.key_blocks; j++) {
        c.bias[(size_t)j] = log2f((float)(c.key_begin[(size_t)j + 1] - c.key_begin[(size_t)j]));
    }
    return c;
}

/* --- the oracle --------------------------------------------------------------------------- */

struct answer {
    std::vector<double> o;
    double lse;
    double rounded;            /* distance of o with weights and output rounded */
    double loosely_rounded;    /* the largest, where the largest weight is not 1 but up to 2 */
    double o_slack, lse_slack; /* what errors of the logits may come to */
};

/* A key of a row: products[0] is the sum of its products with q, products[1] of their sizes. */
struct key {
    const char *v;
    int64_t place;
    double logit, size;
};

static void add_key(std::vector<struct key> &keys, const std::vector<double> &q,
                    const struct host_case *c, const std::vector<char> &k,
                    const std::vector<char> &v, int64_t row, double bias)
{
    struct key key = {v.data(), row, 0, 0};
    for (size_t d = 0; d < q.size(); d++) {
        const double product =
            q[d] * load_from(k.data(), c->options.dtype, row * (int64_t)q.size() + (int64_t)d);
        key.logit += product;
        key.size += fabs(product);
    }
    key.logit += bias;
    key.size += fabs(bias);
    keys.push_back(key);
}

/* Of query row `row` of a head: all of its keys by list row `list`, or every key where list < 0. */
static std::vector<struct key> keys_of(const struct host_case *c, const std::vector<double> &q,
                                       int32_t head, int64_t list)
{
    const struct shape_cuda &shape = c->shape;
    const int64_t words = cuda_mean_rows(&shape) / 32;
    std::vector<struct key> keys;

    for (int32_t j = 0; j < shape.key_blocks; j++) {
        const bool kept = list < 0 || c->kept[(size_t)(list * words + j / 32)] >> (j % 32) & 1;
        if (kept) {
            for (int64_t t = c->key_begin[(size_t)j]; t < c->key_begin[(size_t)j + 1]; t++) {
                add_key(keys, q, c, c->k, c->v, (int64_t)head * shape.tokens + t, 0);
            }
        } else if (c->options.means) {
            add_key(keys, q, c, c->low_k, c->low_v, (int64_t)head * words * 32 + j,
                    ln_2 * c->bias[(size_t)j]);
        }
    }
    return keys;
}

static double distance(const std::vector<double> &a, const std::vector<double> &b)
{
    double sum = 0;
    for (size_t d = 0; d < a.size(); d++) {
        sum += (a[d] - b[d]) * (a[d] - b[d]);
    }
    return sqrt(sum);
}

/* Of o and what comes of weights and output that are rounded, the largest weight being 2^above. */
static double rounded_distance(const struct host_case *c, const std::vector<struct key> &keys,
                               const std::vector<double> &o, double top, double sum, double above,
                               draftattn_dtype out)
{
    const draftattn_dtype dtype = c->options.dtype;
    const double largest = exp2(above);
    std::vector<double> rounded(o.size());

    for (const struct key &key : keys) {
        const double stored = round_to(dtype, (float)(exp(key.logit - top) * largest));
        for (size_t d = 0; d < o.size(); d++) {
            rounded[d] +=
                stored * load_from(key.v, dtype, key.place * (int64_t)o.size() + (int64_t)d);
        }
    }
    for (double &x : rounded) {
        x = round_to(out, (float)(x / (sum * largest)));
    }
    return distance(o, rounded);
}

/* out: the type that o is rounded to. */
static struct answer answer_of(const struct host_case *c, const std::vector<struct key> &keys,
                               draftattn_dtype out)
{
    const draftattn_dtype dtype = c->options.dtype;
    const size_t dim = (size_t)c->options.head_dim;
    struct answer a = {std::vector<double>(dim), -INFINITY, 0, 0, 0, 0};
    std::vector<double> value(dim);
    double top = -INFINITY, sum = 0, size = 0;

    for (const struct key &key : keys) {
        top = std::max(top, key.logit);
    }
    for (const struct key &key : keys) {
        const double weight = exp(key.logit - top);
        sum += weight;
        a.lse_slack += weight * (key.size + fabs(key.logit)) * LOGIT_ULPS * ulp;
        for (size_t d = 0; d < dim; d++) {
            const double v = load_from(key.v, dtype, key.place * (int64_t)dim + (int64_t)d);
            a.o[d] += weight * v;
        }
    }
    if (keys.empty())
        return a;
    for (size_t d = 0; d < dim; d++) {
        a.o[d] /= sum;
        size += a.o[d] * a.o[d];
    }
    a.lse = top + log(sum);
    a.lse_slack = a.lse_slack / sum + 1e-5 + 4 * ulp * fabs(a.lse);
    a.rounded = a.loosely_rounded = rounded_distance(c, keys, a.o, top, sum, 0, out);
    if (dtype != DRAFTATTN_F32) { /* whose kernel has the maximum for its base */
        /* A weight a little below the middle of the first gap above 1 is off by most. */
        const double half_gap = dtype == DRAFTATTN_F16 ? 0x1p-11 : 0x1p-8;
        for (double above : {log2(1 + 0.99 * half_gap), 0.25, 0.5, 0.75}) {
            a.loosely_rounded =
                std::max(a.loosely_rounded, rounded_distance(c, keys, a.o, top, sum, above, out));
        }
    }
    for (const struct key &key : keys) {
        for (size_t d = 0; d < dim; d++) {
            value[d] = load_from(key.v, dtype, key.place * (int64_t)dim + (int64_t)d);
        }
        /* A weight is off by no more than itself or 1, however far its logit may be. */
        const double off = std::min(1.0, (key.size + fabs(key.logit)) * LOGIT_ULPS * ulp);
        a.o_slack += exp(key.logit - top) / sum * off * distance(value, a.o);
    }
    a.o_slack += 1e-5 + (dtype == DRAFTATTN_F32 ? 0 : BASE * sqrt(size));
    return a;
}

/* The answer to row `row` of a head; probe: to that probe. */
static struct answer ask(const struct host_case *c, int32_t head, int64_t row, bool probe)
{
    const struct shape_cuda &shape = c->shape;
    const int64_t dim = shape.head_dim;
    const int64_t rows = probe ? cuda_probe_tiles(&shape) * BLOCK : shape.tokens;
    const std::vector<char> &from = probe ? c->probe_q : c->q;
    std::vector<double> q((size_t)dim);
    int64_t list = -1;

    for (int64_t d = 0; d < dim; d++) {
        q[(size_t)d] = (double)shape.scale *
                       load_from(from.data(), c->options.dtype, (head * rows + row) * dim + d);
    }
    if (!probe) {
        const auto behind = std::upper_bound(c->query_begin.begin(), c->query_begin.end(), row);
        list = head * shape.query_blocks + (behind - c->query_begin.begin()) - 1;
    }
    return answer_of(c, keys_of(c, q, head, list), probe ? DRAFTATTN_F32 : c->options.out_dtype);
}

#endif
