/*
 * cuda_gather_pool() against plain loops: shapes around every edge of tiles and blocks, the three
 * types, orders, strides that allow vectors and strides that do not, every set of outputs. Copies
 * are compared bit by bit, sums with the bounds that float32 has; every launch runs twice over
 * outputs that held something else, and must give the same bits.
 *
 *     test_gather_pool_cuda [--time]
 */
#include "cuda_support.h"

#include "stages_cuda.h"

#include <numeric>

extern "C" {
#include "order.h"
}

enum {
    BLOCK = CUDA_QUERY_BLOCK,
    Q = 0, /* places in arrays of the three tensors */
    K = 1,
    V = 2
};

/* --- what is run -------------------------------------------------------------------------- */

enum layout {
    HEADS_FIRST,
    TOKENS_FIRST,
    PADDED_TOKENS, /* by 16 bytes */
    ODD_TOKENS,    /* by one element: no vectors */
    ODD_BASE,      /* one element behind alignment */
    EVERY_OTHER,   /* elements two apart */
    TRANSPOSED,    /* elements of a row a token's column apart */
    LAYOUTS
};

/* Bits of what is wanted. */
enum {
    COPY_Q = 1,
    COPY_K = 2,
    COPY_V = 4,
    MEAN_Q = 8,
    MEAN_K = 16,
    SPREAD_K = 32,
    LOW = 64, /* low_k, low_v, bias */
    NO_V = 128,
    COPIES = COPY_Q | COPY_K | COPY_V,
    MEANS = MEAN_Q | MEAN_K
};

struct options {
    int32_t batch, heads, head_dim, video, text, key_block;
    draftattn_dtype dtype;
    enum layout layout;
    bool ordered;
    int wanted;
    float offset, deviation; /* of the elements */
    uint64_t seed;
};

struct host_case {
    struct options options;
    struct shape_cuda shape;
    std::vector<int32_t> order;
    draftattn_tensor tensor[3]; /* data is a place in bytes, on the host and on the device */
    std::vector<char> data[3];
};

static struct shape_cuda shape_of(const struct options &o)
{
    const int32_t tokens = o.video + o.text, k = o.key_block;
    struct shape_cuda shape = {};

    shape.heads = o.batch * o.heads;
    shape.entry_heads = o.heads;
    shape.head_dim = o.head_dim;
    shape.key_block = k;
    shape.tokens = tokens;
    shape.video_tokens = o.video;
    shape.video_query_blocks = (o.video + BLOCK - 1) / BLOCK;
    shape.query_blocks = shape.video_query_blocks + (o.text + BLOCK - 1) / BLOCK;
    shape.video_key_blocks = (o.video + k - 1) / k;
    shape.key_blocks = shape.video_key_blocks + (o.text + k - 1) / k;
    shape.scale = 1;
    return shape;
}

/* Strides of a layout; the number of elements that they span. */
static int64_t lay_out(draftattn_tensor *tensor, enum layout layout)
{
    const int64_t *shape = tensor->shape;
    int64_t *stride = tensor->stride, row = shape[3];

    stride[3] = layout == EVERY_OTHER ? 2 : 1;
    if (layout == PADDED_TOKENS)
        row += 16 / (int64_t)dtype_size(tensor->dtype);
    else if (layout == ODD_TOKENS)
        row += 1;
    row *= stride[3];
    stride[2] = layout == TOKENS_FIRST ? shape[1] * row : row;
    stride[1] = layout == TOKENS_FIRST ? row : shape[2] * row;
    stride[0] = shape[1] * shape[2] * row;
    if (layout == TRANSPOSED) {
        stride[2] = 1;
        stride[3] = shape[2];
    }
    return shape[0] * stride[0];
}

static int64_t place_of(const draftattn_tensor &tensor, int64_t head, int64_t token, int64_t d)
{
    const int64_t entry = head / tensor.shape[1];
    return entry * tensor.stride[0] + head % tensor.shape[1] * tensor.stride[1] +
           token * tensor.stride[2] + d * tensor.stride[3];
}

static void make_case(struct host_case *c)
{
    const struct options &o = c->options;
    const size_t size = dtype_size(o.dtype);

    c->shape = shape_of(o);
    c->order.resize((size_t)c->shape.tokens);
    std::iota(c->order.begin(), c->order.end(), 0);
    for (int32_t i = o.ordered ? o.video : 0; i > 1; i--) {
        std::swap(c->order[(size_t)i - 1], c->order[(size_t)random_below(o.seed, (uint64_t)i, i)]);
    }
    for (int i = 0; i < 3; i++) {
        draftattn_tensor &tensor = c->tensor[i];
        tensor = {};
        tensor.dtype = o.dtype;
        tensor.shape[0] = o.batch;
        tensor.shape[1] = o.heads;
        tensor.shape[2] = c->shape.tokens;
        tensor.shape[3] = o.head_dim;
        const int64_t count = lay_out(&tensor, o.layout);
        c->data[i].assign((size_t)count * size, 0);
        for (int64_t at = 0; at < count; at++) {
            const float value =
                o.offset + o.deviation * random_normal(o.seed + 10 + (uint64_t)i, (uint64_t)at);
            store_to(c->data[i].data(), o.dtype, at, value);
        }
        if (o.batch == 1)
            tensor.stride[0] = 1; /* any will do: there is one entry */
    }
}

/* --- the launch --------------------------------------------------------------------------- */

enum output {
    OUT_Q,
    OUT_K,
    OUT_V,
    OUT_MEAN_Q,
    OUT_MEAN_K,
    OUT_SPREAD,
    OUT_LOW_K,
    OUT_LOW_V,
    OUT_BIAS,
    OUTPUTS
};

static const char *const output_names[OUTPUTS] = {"q",        "k",     "v",     "mean_q", "mean_k",
                                                  "spread_k", "low_k", "low_v", "bias"};

static const int output_bits[OUTPUTS] = {COPY_Q,   COPY_K, COPY_V, MEAN_Q, MEAN_K,
                                         SPREAD_K, LOW,    LOW,    LOW};

static bool wanted(const struct options &o, int output)
{
    const bool of_v = output == OUT_V || output == OUT_LOW_V;
    return (o.wanted & output_bits[output]) && !(of_v && (o.wanted & NO_V));
}

static size_t output_bytes(const struct host_case &c, int output)
{
    const struct shape_cuda &shape = c.shape;
    const size_t size = dtype_size(c.options.dtype);
    const size_t rows[OUTPUTS] = {(size_t)shape.tokens,           (size_t)shape.tokens,
                                  (size_t)shape.tokens,           (size_t)shape.video_query_blocks,
                                  (size_t)shape.video_key_blocks, (size_t)shape.video_key_blocks,
                                  (size_t)cuda_mean_rows(&shape), (size_t)cuda_mean_rows(&shape),
                                  (size_t)cuda_mean_rows(&shape)};
    if (output == OUT_BIAS)
        return rows[output] * sizeof(float);
    const bool typed = output <= OUT_V || output == OUT_LOW_K || output == OUT_LOW_V;
    return (size_t)shape.heads * rows[output] * (size_t)shape.head_dim *
           (typed ? size : sizeof(float));
}

struct device_case {
    struct device_buffer in[3], order, out[OUTPUTS];
    struct pool_cuda pool;
};

static void upload_case(struct host_case *c, struct device_case *d)
{
    const struct options &o = c->options;
    draftattn_tensor *tensor[3] = {&d->pool.q, &d->pool.k, &d->pool.v};
    void *data[OUTPUTS] = {};

    d->order = device_from(c->order);
    d->pool.shape = c->shape;
    d->pool.shape.order = o.ordered ? (const int32_t *)d->order.data : NULL;
    for (int i = 0; i < 3; i++) {
        const size_t offset = o.layout == ODD_BASE ? dtype_size(o.dtype) : 0;
        d->in[i] = device_make(c->data[i].size(), 0xff, offset);
        device_upload(&d->in[i], c->data[i].data());
        *tensor[i] = c->tensor[i];
        tensor[i]->data = i == V && (o.wanted & NO_V) ? NULL : d->in[i].data;
    }
    for (int i = 0; i < OUTPUTS; i++) {
        d->out[i] = device_make(output_bytes(*c, i), 0xff);
        data[i] = wanted(o, i) ? d->out[i].data : NULL;
    }
    d->pool.q_copy = data[OUT_Q];
    d->pool.k_copy = data[OUT_K];
    d->pool.v_copy = data[OUT_V];
    d->pool.mean_q = (float *)data[OUT_MEAN_Q];
    d->pool.mean_k = (float *)data[OUT_MEAN_K];
    d->pool.spread_k = (float *)data[OUT_SPREAD];
    d->pool.low_k = data[OUT_LOW_K];
    d->pool.low_v = data[OUT_LOW_V];
    d->pool.bias = (float *)data[OUT_BIAS];
}

static void free_case(struct device_case *d)
{
    for (int i = 0; i < 3; i++) {
        device_free(&d->in[i]);
    }
    for (int i = 0; i < OUTPUTS; i++) {
        device_free(&d->out[i]);
    }
    device_free(&d->order);
}

/* --- what is expected --------------------------------------------------------------------- */

struct expected {
    double value, bound;
};

struct block_range {
    int32_t first, end;
};

static struct block_range range_of(const struct shape_cuda &shape, int32_t block, int32_t size,
                                   int32_t video_blocks)
{
    if (block < video_blocks)
        return {block * size, std::min((block + 1) * size, shape.video_tokens)};
    const int32_t first = shape.video_tokens + (block - video_blocks) * size;
    return {first, std::min(first + size, shape.tokens)};
}

static double element_of(const struct host_case &c, int tensor, int64_t head, int32_t position,
                         int64_t d)
{
    const int64_t at = place_of(c.tensor[tensor], head, c.order[(size_t)position], d);
    return (double)load_from(c.data[tensor].data(), c.options.dtype, at);
}

/* Mean of a column of a block, and the most that float32 sums of it can be off. */
static struct expected mean_of(const struct host_case &c, int tensor, int64_t head,
                               struct block_range range, int64_t d)
{
    const int32_t count = range.end - range.first;
    double sum = 0, absolute = 0;

    for (int32_t position = range.first; position < range.end; position++) {
        const double value = element_of(c, tensor, head, position, d);
        sum += value;
        absolute += fabs(value);
    }
    return {sum / count, 16 * 0x1p-24 * absolute / count};
}

static struct expected variance_of(const struct host_case &c, int64_t head,
                                   struct block_range range, int64_t d)
{
    const struct expected mean = mean_of(c, K, head, range, d);
    const int32_t count = range.end - range.first;
    double sum = 0;

    for (int32_t position = range.first; position < range.end; position++) {
        const double distance = element_of(c, K, head, position, d) - mean.value;
        sum += distance * distance;
    }
    sum /= count;
    return {sum, 32 * 0x1p-24 * sum + mean.bound * mean.bound};
}

/* Half a spacing of the type at a value. */
static double rounding_of(draftattn_dtype dtype, double value)
{
    const double share[] = {0x1p-24, 0x1p-11, 0x1p-8};
    return fabs(value) * share[dtype] + (dtype == DRAFTATTN_F16 ? 0x1p-25 : 0);
}

/* --- comparisons: the first wrong element, or -1 -------------------------------------------- */

static int64_t compare_copy(const struct host_case &c, int tensor, const std::vector<char> &out)
{
    const struct shape_cuda &shape = c.shape;
    const size_t size = dtype_size(c.options.dtype);
    int64_t at = 0;

    for (int64_t head = 0; head < shape.heads; head++) {
        for (int32_t position = 0; position < shape.tokens; position++) {
            for (int64_t d = 0; d < shape.head_dim; d++, at++) {
                const int64_t from = place_of(c.tensor[tensor], head, c.order[(size_t)position], d);
                if (memcmp(out.data() + (size_t)at * size,
                           c.data[tensor].data() + (size_t)from * size, size) != 0)
                    return at;
            }
        }
    }
    return -1;
}

static bool near(struct expected expected, double value)
{
    return fabs(value - expected.value) <= expected.bound; /* false for NaN */
}

/* mean_q, mean_k and spread_k. */
static int64_t compare_means(const struct host_case &c, int output, const std::vector<char> &out)
{
    const struct shape_cuda &shape = c.shape;
    const bool query = output == OUT_MEAN_Q;
    const int32_t blocks = query ? shape.video_query_blocks : shape.video_key_blocks;
    int64_t at = 0;

    for (int64_t head = 0; head < shape.heads; head++) {
        for (int32_t block = 0; block < blocks; block++) {
            const struct block_range range =
                range_of(shape, block, query ? BLOCK : shape.key_block, blocks);
            for (int64_t d = 0; d < shape.head_dim; d++, at++) {
                const struct expected expected = output == OUT_SPREAD
                                                     ? variance_of(c, head, range, d)
                                                     : mean_of(c, query ? Q : K, head, range, d);
                if (!near(expected, (double)((const float *)out.data())[at]))
                    return at;
            }
        }
    }
    return -1;
}

static int64_t compare_low(const struct host_case &c, int tensor, const std::vector<char> &out)
{
    const struct shape_cuda &shape = c.shape;
    int64_t at = 0;

    for (int64_t head = 0; head < shape.heads; head++) {
        for (int32_t block = 0; block < cuda_mean_rows(&shape); block++) {
            for (int64_t d = 0; d < shape.head_dim; d++, at++) {
                struct expected expected = {0, 0};
                if (block < shape.key_blocks) {
                    expected =
                        mean_of(c, tensor, head,
                                range_of(shape, block, shape.key_block, shape.video_key_blocks), d);
                    expected.bound +=
                        rounding_of(c.options.dtype, fabs(expected.value) + expected.bound);
                }
                if (!near(expected, (double)load_from(out.data(), c.options.dtype, at)))
                    return at;
            }
        }
    }
    return -1;
}

static int64_t compare_bias(const struct host_case &c, const std::vector<char> &out)
{
    const struct shape_cuda &shape = c.shape;
    const float *bias = (const float *)out.data();

    for (int32_t block = 0; block < cuda_mean_rows(&shape); block++) {
        if (block >= shape.key_blocks) {
            if (bias[block] != -INFINITY)
                return block;
            continue;
        }
        const struct block_range range =
            range_of(shape, block, shape.key_block, shape.video_key_blocks);
        if (!near({log2(range.end - range.first), 2e-6}, (double)bias[block]))
            return block;
    }
    return -1;
}

static int64_t compare(const struct host_case &c, int output, const std::vector<char> &out)
{
    if (output <= OUT_V)
        return compare_copy(c, output, out);
    if (output <= OUT_SPREAD)
        return compare_means(c, output, out);
    if (output == OUT_BIAS)
        return compare_bias(c, out);
    return compare_low(c, output == OUT_LOW_K ? K : V, out);
}

/* --- cases -------------------------------------------------------------------------------- */

static void name_case(const struct options &o, char *name, size_t size)
{
    snprintf(name, size,
             "batch %d heads %d head_dim %d video %d text %d key_block %d dtype %d layout %d "
             "ordered %d wanted 0x%x offset %g",
             o.batch, o.heads, o.head_dim, o.video, o.text, o.key_block, (int)o.dtype,
             (int)o.layout, (int)o.ordered, (unsigned)o.wanted, (double)o.offset);
}

static bool untouched(const std::vector<char> &bytes, char fill)
{
    return std::all_of(bytes.begin(), bytes.end(), [fill](char c) { return c == fill; });
}

static void run_case(struct tally *tally, const struct options &options)
{
    struct host_case c = {};
    struct device_case d = {};
    std::vector<char> first[OUTPUTS];
    char name[256];

    c.options = options;
    make_case(&c);
    upload_case(&c, &d);
    name_case(options, name, sizeof(name));
    for (int run = 0; run < 2; run++) {
        for (int i = 0; i < OUTPUTS; i++) {
            device_fill(&d.out[i], run == 0 ? 0xff : 0);
        }
        CUDA_OK(cuda_gather_pool(&d.pool, 0));
        CUDA_FINISH();
        for (int i = 0; i < OUTPUTS; i++) {
            const std::vector<char> out = device_vector<char>(&d.out[i]);
            bool ok = device_guards_hold(&d.out[i]);
            int64_t wrong = -1;
            if (!wanted(options, i)) {
                ok = ok && untouched(out, run == 0 ? (char)0xff : 0);
            } else if (run == 0) {
                wrong = compare(c, i, out);
                first[i] = out;
            } else {
                ok = ok && out == first[i];
            }
            tally_case(tally, ok && wrong < 0, "%s: %s, run %d, element %lld", name,
                       output_names[i], run, (long long)wrong);
        }
    }
    free_case(&d);
}

static const struct {
    int32_t batch, heads, video, text;
} shapes[] = {
    {1, 1, 1, 0},     {1, 2, 5, 0},     {1, 2, 63, 1},    {1, 1, 64, 64},  {1, 2, 65, 77},
    {2, 2, 127, 0},   {1, 3, 128, 0},   {2, 1, 129, 128}, {1, 2, 191, 63}, {1, 2, 192, 65},
    {1, 2, 193, 5},   {2, 2, 255, 129}, {1, 1, 256, 130}, {1, 2, 257, 1},  {1, 2, 512, 200},
    {1, 1, 1000, 77}, {1, 1, 8192, 0},  {1, 1, 8200, 64},
};

static const int wants[] = {
    COPIES | MEANS | SPREAD_K | LOW,
    MEANS | SPREAD_K | LOW,
    MEANS | NO_V,
    COPIES,
    COPY_K | LOW | MEAN_K,
    MEANS | SPREAD_K | NO_V,
    LOW,
    COPY_V | MEAN_Q | SPREAD_K,
    COPIES | MEANS | LOW,
};

static void run_cases(struct tally *tally)
{
    uint64_t seed = 1;

    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
        for (int pick = 0; pick < 12; pick++, seed++) {
            struct options o = {};
            const int turn = (int)s + pick / 4; /* so that pairs of choices meet */
            o.batch = shapes[s].batch;
            o.heads = shapes[s].heads;
            o.video = shapes[s].video;
            o.text = shapes[s].text;
            o.head_dim = pick % 2 ? 64 : 128;
            o.key_block = pick / 2 % 2 ? 64 : 128;
            o.dtype = (draftattn_dtype)((turn + pick) % 3);
            o.layout = (enum layout)(seed * 5 % LAYOUTS);
            o.ordered = (pick + pick / 4) % 2 == 0;
            o.wanted = pick < 4 ? wants[0] : wants[seed % (sizeof(wants) / sizeof(*wants))];
            o.offset = pick % 5 == 4 ? 50 : 0;
            o.deviation = 1;
            o.seed = seed * 100;
            run_case(tally, o);
        }
    }
    /* Every type through every layout. */
    for (int i = 0; i < 3 * LAYOUTS; i++, seed++) {
        struct options o = {2,
                            2,
                            i % 2 ? 64 : 128,
                            300,
                            140,
                            i % 4 < 2 ? 128 : 64,
                            (draftattn_dtype)(i % 3),
                            (enum layout)(i / 3),
                            true,
                            wants[0],
                            0,
                            1,
                            seed * 100};
        run_case(tally, o);
    }
    /* A variance that a difference of squares would lose. */
    struct options far = {1,           2,    128,      300,  0,     128,       DRAFTATTN_F32,
                          HEADS_FIRST, true, wants[0], 1000, 0.01f, seed * 100};
    run_case(tally, far);
    far.key_block = 64;
    run_case(tally, far);
}

/* --- timing ------------------------------------------------------------------------------- */

static void time_shape(const char *what, const draftattn_grid *grid, int32_t heads,
                       enum layout layout, bool copies, bool spread)
{
    struct host_case c = {};
    struct device_case d = {};
    struct options &o = c.options;

    o.batch = 1;
    o.heads = heads;
    o.head_dim = 128;
    o.video = (int32_t)(grid->frames * grid->height * grid->width);
    o.text = (int32_t)grid->text_tokens;
    o.key_block = 128;
    o.dtype = DRAFTATTN_BF16;
    o.ordered = copies;
    o.layout = layout;
    o.wanted = MEANS | LOW | (copies ? COPIES : 0) | (spread ? SPREAD_K : 0);
    c.shape = shape_of(o);
    std::vector<int64_t> order((size_t)o.video);
    order_strips(grid, 8, order.data());
    c.order.assign(order.begin(), order.end());
    for (int32_t i = o.video; i < c.shape.tokens; i++) {
        c.order.push_back(i);
    }
    int64_t count = 0;
    for (int i = 0; i < 3; i++) {
        draftattn_tensor &tensor = c.tensor[i];
        tensor = {};
        tensor.dtype = o.dtype;
        tensor.shape[0] = 1;
        tensor.shape[1] = heads;
        tensor.shape[2] = c.shape.tokens;
        tensor.shape[3] = o.head_dim;
        count = lay_out(&tensor, layout);
    }
    /* Not upload_case(): the host would take long over data of this size. */
    draftattn_tensor *tensor[3] = {&d.pool.q, &d.pool.k, &d.pool.v};
    d.order = device_from(c.order);
    d.pool.shape = c.shape;
    d.pool.shape.order = copies ? (const int32_t *)d.order.data : NULL;
    for (int i = 0; i < 3; i++) {
        d.in[i] = device_make((size_t)count * 2, 0);
        device_random(&d.in[i], o.dtype, (uint64_t)i * 7 + 1, 1);
        *tensor[i] = c.tensor[i];
        tensor[i]->data = d.in[i].data;
    }
    for (int i = 0; i < OUTPUTS; i++) {
        d.out[i] = device_make(wanted(o, i) ? output_bytes(c, i) : 16, 0);
    }
    d.pool.q_copy = copies ? d.out[OUT_Q].data : NULL;
    d.pool.k_copy = copies ? d.out[OUT_K].data : NULL;
    d.pool.v_copy = copies ? d.out[OUT_V].data : NULL;
    d.pool.mean_q = (float *)d.out[OUT_MEAN_Q].data;
    d.pool.mean_k = (float *)d.out[OUT_MEAN_K].data;
    d.pool.spread_k = spread ? (float *)d.out[OUT_SPREAD].data : NULL;
    d.pool.low_k = d.out[OUT_LOW_K].data;
    d.pool.low_v = d.out[OUT_LOW_V].data;
    d.pool.bias = (float *)d.out[OUT_BIAS].data;
    const float ms =
        cuda_median_ms([&](cudaStream_t stream) { return cuda_gather_pool(&d.pool, stream); });
    const double bytes = 3 * 2.0 * (double)count * (copies ? 2 : 1);
    printf("%-40s %2d x %6d x 128 bf16: %7.3f ms, %6.0f GB/s\n", what, heads, c.shape.tokens,
           (double)ms, bytes / (double)ms * 1e-6);
    free_case(&d);
}

static void time_all(void)
{
    const draftattn_grid large = {29, 64, 64, 256}, small = {21, 30, 52, 0};
    const struct {
        const draftattn_grid *grid;
        int32_t heads;
    } rows[] = {{&large, 24}, {&small, 12}};

    for (const auto &row : rows) {
        time_shape("raster, heads first", row.grid, row.heads, HEADS_FIRST, true, false);
        time_shape("raster, heads first, spread", row.grid, row.heads, HEADS_FIRST, true, true);
        time_shape("raster, tokens first", row.grid, row.heads, TOKENS_FIRST, true, false);
        time_shape("raster, no vectors", row.grid, row.heads, ODD_TOKENS, true, false);
        time_shape("block order, heads first", row.grid, row.heads, HEADS_FIRST, false, false);
        time_shape("block order, heads first, spread", row.grid, row.heads, HEADS_FIRST, false,
                   true);
        time_shape("block order, tokens first", row.grid, row.heads, TOKENS_FIRST, false, false);
    }
}

int main(int argc, char **argv)
{
    struct tally tally = {};

    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        time_all();
        return 0;
    }
    run_cases(&tally);
    return tally_end(&tally);
}
