/*
 * cuda_draft_map() against plain loops in double precision, from the same float means: maps around
 * every edge of its tiles, one row, one column, rows that do not fit the registers, a short last
 * block, logits near and far, products of both signs and of one, with and without the spread
 * factor. Every launch runs twice over memory that held something else, and must give the same
 * bits.
 *
 *     test_draft_map_cuda [--time]
 */
#include "cuda_support.h"

#include "stages_cuda.h"

struct options {
    int32_t heads, head_dim, rows, columns, key_block, last; /* last: tokens of the last block */
    bool spread;
    float deviation; /* of the means */
    uint64_t seed;
    float shift; /* of all means, in deviations: products of one sign */
};

struct host_case {
    struct options options;
    struct shape_cuda shape;
    std::vector<float> mean_q, mean_k, spread_k;
};

static std::vector<float> floats(int64_t count, uint64_t seed, float deviation)
{
    std::vector<float> values((size_t)count);
    for (int64_t i = 0; i < count; i++) {
        values[(size_t)i] = deviation * random_normal(seed, (uint64_t)i);
    }
    return values;
}

/* Rows need not fit the tokens: the stage takes both counts as they are. */
static struct shape_cuda shape_of(const struct options &o)
{
    struct shape_cuda shape = {};

    shape.heads = shape.entry_heads = o.heads;
    shape.head_dim = o.head_dim;
    shape.key_block = o.key_block;
    shape.video_tokens = shape.tokens = (o.columns - 1) * o.key_block + o.last;
    shape.query_blocks = shape.video_query_blocks = o.rows;
    shape.key_blocks = shape.video_key_blocks = o.columns;
    shape.scale = (float)(1 / sqrt(o.head_dim));
    return shape;
}

static void make_case(struct host_case *c)
{
    const struct options &o = c->options;
    const int64_t keys = (int64_t)o.heads * o.columns * o.head_dim;

    c->shape = shape_of(o);
    c->mean_q = floats((int64_t)o.heads * o.rows * o.head_dim, o.seed, o.deviation);
    c->mean_k = floats(keys, o.seed + 2, o.deviation);
    c->spread_k = floats(keys, o.seed + 4, 1);
    for (float &value : c->spread_k) {
        value *= value;
    }
    for (std::vector<float> *means : {&c->mean_q, &c->mean_k}) {
        for (float &value : *means) {
            value += o.shift * o.deviation;
        }
    }
}

/* A row of the map, and the most that float32 may be off: as share of a value, errors of the logits
 * there and at the largest add up to it. */
static void expect_row(const struct host_case &c, int32_t head, int32_t row,
                       std::vector<double> &value, std::vector<double> &bound)
{
    const struct options &o = c.options;
    const double scale = (double)c.shape.scale;
    const float *q = &c.mean_q[(size_t)((int64_t)head * o.rows + row) * (size_t)o.head_dim];
    double largest = -INFINITY, sum = 0, most = 0;

    for (int32_t j = 0; j < o.columns; j++) {
        const size_t at = (size_t)((int64_t)head * o.columns + j) * (size_t)o.head_dim;
        double dot = 0, squares = 0, absolute = 0;
        for (int32_t d = 0; d < o.head_dim; d++) {
            const double product = (double)q[d] * (double)c.mean_k[at + (size_t)d];
            dot += product;
            squares += product * product;
            absolute += fabs(product);
        }
        value[(size_t)j] = scale * dot + log(j + 1 < o.columns ? o.key_block : o.last);
        /* A chain of float additions is off by about the root of its length, not by its length. */
        bound[(size_t)j] = 0x1p-24 * (scale * (absolute + 8 * sqrt(squares * o.head_dim)) +
                                      2 * fabs(value[(size_t)j]));
        largest = std::max(largest, value[(size_t)j]);
        most = std::max(most, bound[(size_t)j]);
    }
    for (int32_t j = 0; j < o.columns; j++) {
        sum += exp(value[(size_t)j] - largest);
    }
    for (int32_t j = 0; j < o.columns; j++) {
        const double distance = largest - value[(size_t)j];
        double factor = 1;
        if (o.spread) {
            const size_t at = (size_t)((int64_t)head * o.columns + j) * (size_t)o.head_dim;
            factor = 0;
            for (int32_t d = 0; d < o.head_dim; d++) {
                factor += (double)q[d] * (double)q[d] * (double)c.spread_k[at + (size_t)d];
            }
            factor = scale * sqrt(factor);
        }
        value[(size_t)j] = exp(-distance) / sum * factor;
        bound[(size_t)j] =
            value[(size_t)j] * (bound[(size_t)j] + most + 0x1p-24 * (32 + distance)) +
            1e-36 * (1 + factor); /* denormals */
    }
}

/* The first wrong element, or -1. */
static int64_t compare(const struct host_case &c, const std::vector<float> &map)
{
    const struct options &o = c.options;
    std::vector<double> value((size_t)o.columns), bound((size_t)o.columns);
    int64_t at = 0;

    for (int32_t head = 0; head < o.heads; head++) {
        for (int32_t row = 0; row < o.rows; row++) {
            expect_row(c, head, row, value, bound);
            for (int32_t j = 0; j < o.columns; j++, at++) {
                if (!(fabs((double)map[(size_t)at] - value[(size_t)j]) <= bound[(size_t)j])) {
                    printf("row %d, column %d: %.9g, not %.9g +- %.3g\n", row, j,
                           (double)map[(size_t)at], value[(size_t)j], bound[(size_t)j]);
                    return at;
                }
            }
        }
    }
    return -1;
}

/* A case in device memory. */
struct device_case {
    struct host_case host;
    struct device_buffer q, k, spread, map;
};

static struct device_case make_device_case(const struct options &o)
{
    struct device_case d = {};

    d.host.options = o;
    make_case(&d.host);
    d.q = device_from(d.host.mean_q);
    d.k = device_from(d.host.mean_k);
    d.spread = device_from(d.host.spread_k);
    d.map = device_make((size_t)o.heads * (size_t)o.rows * (size_t)o.columns * sizeof(float), 0);
    return d;
}

static void free_device_case(struct device_case *d)
{
    device_free(&d->q);
    device_free(&d->k);
    device_free(&d->spread);
    device_free(&d->map);
}

static cudaError_t launch(const struct device_case &d, cudaStream_t stream)
{
    return cuda_draft_map(&d.host.shape, (const float *)d.q.data, (const float *)d.k.data,
                          d.host.options.spread ? (const float *)d.spread.data : NULL,
                          (float *)d.map.data, stream);
}

static void run_case(struct tally *tally, const struct options &o)
{
    struct device_case d = make_device_case(o);
    std::vector<float> first;

    for (int run = 0; run < 2; run++) {
        device_fill(&d.map, run == 0 ? 0xff : 0x7f);
        CUDA_OK(launch(d, 0));
        CUDA_FINISH();
        const std::vector<float> out = device_vector<float>(&d.map);
        const bool guards = device_guards_hold(&d.map);
        const int64_t wrong = run == 0 ? compare(d.host, out) : -1;
        const bool same =
            run == 0 || memcmp(out.data(), first.data(), out.size() * sizeof(float)) == 0;
        tally_case(tally, guards && same && wrong < 0,
                   "heads %d head_dim %d map %d x %d key_block %d last %d spread %d deviation %g "
                   "shift %g, run %d, element %lld%s",
                   o.heads, o.head_dim, o.rows, o.columns, o.key_block, o.last, (int)o.spread,
                   (double)o.deviation, (double)o.shift, run, (long long)wrong,
                   guards ? "" : ", guard bands");
        if (run == 0)
            first = out;
    }
    free_device_case(&d);
}

static const struct {
    int32_t rows, columns;
} maps[] = {
    {1, 1},     {1, 2},    {2, 1},    {3, 7},     {31, 8},    {32, 9},   {33, 31},  {5, 32},
    {7, 33},    {64, 63},  {65, 64},  {8, 65},    {40, 100},  {3, 127},  {4, 128},  {5, 129},
    {33, 192},  {33, 193}, {6, 255},  {6, 256},   {35, 257},  {97, 300}, {5, 511},  {5, 513},
    {5, 447},   {65, 449}, {5, 575},  {5, 577},   {64, 959},  {33, 961}, {3, 991},  {3, 992},
    {3, 993},   {3, 1023}, {3, 1024}, {3, 1025},  {34, 1100}, {2, 2047}, {2, 2048}, {2, 2049},
    {33, 1856}, {1, 5000}, {928, 33}, {2, 20000},
};

static void run_cases(struct tally *tally)
{
    const float deviations[] = {0.1f, 1, 0.02f, 3, 8};
    uint64_t seed = 1;

    for (const auto &map : maps) {
        for (int pick = 0; pick < 4; pick++, seed += 10) {
            struct options o = {};
            o.heads = map.columns > 3000 ? 1 : 1 + pick;
            o.head_dim = pick % 2 ? 64 : 128;
            o.rows = map.rows;
            o.columns = map.columns;
            o.key_block = pick / 2 ? 64 : 128;
            o.last = pick == 0 ? o.key_block : 1 + (int32_t)random_below(seed, 0, o.key_block);
            o.spread = (seed / 10 + (uint64_t)pick / 2) % 2 == 0;
            o.deviation = deviations[seed / 10 % 5];
            o.seed = seed;
            o.shift = pick >= 2 ? 2.0f : 0;
            run_case(tally, o);
        }
    }
}

/* As many blocks as real videos have: all of a device at work, which small maps never are. That the
 * numbers are right the small ones show. */
static void check_repeats(struct tally *tally, int32_t head_dim, int32_t columns, bool spread)
{
    enum { RUNS = 20 };
    struct device_case d =
        make_device_case({24, head_dim, 928, columns, 128, 128, spread, 0.1f, 1, 0});
    std::vector<char> first;
    int differ = 0;

    for (int run = 0; run < RUNS; run++) {
        device_fill(&d.map, run % 2 ? 0xff : 0x7f);
        CUDA_OK(launch(d, 0));
        CUDA_FINISH();
        std::vector<char> out = device_vector<char>(&d.map);
        if (run == 0)
            first.swap(out);
        else
            differ += out != first;
    }
    tally_case(tally, differ == 0, "24 x 928 x %d x %d%s: %d of %d runs differ", columns, head_dim,
               spread ? ", spread" : "", differ, RUNS);
    free_device_case(&d);
}

/* --- timing ------------------------------------------------------------------------------- */

static void time_map(int32_t heads, int32_t head_dim, int32_t rows, int32_t columns,
                     int32_t key_block, bool spread)
{
    struct device_case d = make_device_case(
        {heads, head_dim, rows, columns, key_block, key_block, spread, 0.1f, 1, 0});
    const float ms = cuda_median_ms([&](cudaStream_t stream) { return launch(d, stream); });
    const double flop = 2.0 * heads * rows * columns * head_dim * (spread ? 2 : 1);
    printf("%2d x %4d x %4d x %3d%s: %7.4f ms, %5.1f TFLOP/s\n", heads, rows, columns, head_dim,
           spread ? ", spread" : "        ", (double)ms, flop / (double)ms * 1e-9);
    free_device_case(&d);
}

int main(int argc, char **argv)
{
    struct tally tally = {};

    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        time_map(24, 128, 928, 928, 128, false);
        time_map(24, 128, 928, 928, 128, true);
        time_map(24, 128, 928, 1856, 64, false);
        time_map(24, 64, 928, 928, 128, false);
        time_map(12, 128, 256, 256, 128, false);
        time_map(12, 128, 256, 512, 64, false);
        return 0;
    }
    run_cases(&tally);
    check_repeats(&tally, 128, 928, false);
    check_repeats(&tally, 128, 929, false);
    check_repeats(&tally, 64, 928, true);
    return tally_end(&tally);
}
