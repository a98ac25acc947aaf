/*
 * The launches of repair.cu against the CPU's arithmetic (repair_portable) and rules, on small and
 * odd shapes: heads that gain, that do not, that are full or exact or not numbers; blocks that are
 * full; short last blocks; every type and layout. What is not corrected must keep its bits, gaps
 * between rows included; probe rows of a corrected head are the exact ones; a correction is right
 * to 1e-4 of itself and the rounding of its type.
 *
 * --time: the two shapes that matter, all stages of repair and the correction's share.
 */
#include "cuda_support.h"
#include "stages_cuda.h"

extern "C" {
#include "backend.h"
#include "cpu/repair_simd.h"
}

#include "repair_rules.h"

enum kind {
    LATENT, /* residuals follow from o and q: heads gain */
    NOISE,  /* they do not */
    EXACT,  /* there are none */
    NOT_NUMBERS,
    ZERO_Q,
    ZERO_O,
    KINDS
};

enum layout { HEADS_FIRST, TOKENS_FIRST, TURNED, PADDED };

struct test_case {
    const char *name;
    int32_t entries, entry_heads, head_dim, video, text, key_block, probes;
    draftattn_dtype dtype, o_dtype;
    enum layout o_layout;
    bool order, apply;
    int32_t kind; /* KINDS: one after the other, head by head */
    int32_t full; /* every so many-th video block is full; 0 = none, 1 = all */
    double ridge;
    float q_scale;
};

/* Everything of a case in host memory. */
struct host_case {
    struct shape_cuda shape;
    std::vector<int32_t> order;
    std::vector<int64_t> row_ptr;
    std::vector<char> q, o;
    std::vector<float> exact;
    std::vector<draftattn_head_stats> stats;
    draftattn_tensor o_tensor;
    struct rows_cuda q_rows;
    std::vector<int64_t> probes; /* positions */
    double ridge;
};

static const draftattn_head_stats untouched = {.25f, 7, 7, 0};

static int64_t o_place(const struct host_case &host, int64_t head, int64_t position, int64_t column)
{
    const int64_t *stride = host.o_tensor.stride;
    const int64_t token = host.order.empty() ? position : host.order[(size_t)position];
    return head / host.shape.entry_heads * stride[0] + head % host.shape.entry_heads * stride[1] +
           token * stride[2] + column * stride[3];
}

static int64_t q_place(const struct host_case &host, int64_t head, int64_t position, int64_t column)
{
    return head / host.shape.entry_heads * host.q_rows.stride_entry +
           head % host.shape.entry_heads * host.q_rows.stride_head +
           position * host.q_rows.stride_token + column;
}

static bool is_full(const struct host_case &host, int64_t head, int64_t position)
{
    const int64_t row = head * host.shape.query_blocks + position / CUDA_QUERY_BLOCK;
    return host.row_ptr[(size_t)row + 1] - host.row_ptr[(size_t)row] == host.shape.key_blocks;
}

static bool is_full_head(const struct host_case &host, int64_t head)
{
    const int64_t blocks = host.shape.query_blocks;
    return host.row_ptr[(size_t)((head + 1) * blocks)] - host.row_ptr[(size_t)(head * blocks)] ==
           blocks * host.shape.key_blocks;
}

static void set_strides(struct host_case *host, enum layout layout)
{
    draftattn_tensor *o = &host->o_tensor;
    const int64_t heads = host->shape.entry_heads, tokens = host->shape.tokens;
    const int64_t d = host->shape.head_dim;
    const int64_t strides[][4] = {{heads * tokens * d, tokens * d, d, 1},
                                  {tokens * heads * d, d, heads * d, 1},
                                  {heads * d * tokens, d * tokens, 1, tokens},
                                  {heads * tokens * (d + 3), tokens * (d + 3), d + 3, 1}};
    memcpy(o->stride, strides[layout], sizeof(o->stride));
    o->shape[0] = host->shape.heads / heads;
    o->shape[1] = heads;
    o->shape[2] = tokens;
    o->shape[3] = d;
}

static int64_t o_elements(const struct host_case &host)
{
    const draftattn_tensor &o = host.o_tensor;
    int64_t last = 0;
    for (int i = 0; i < 4; i++) {
        last += (o.shape[i] - 1) * o.stride[i];
    }
    return last + 1;
}

static void set_shape(struct host_case *host, const struct test_case &test)
{
    struct shape_cuda *shape = &host->shape;
    shape->heads = test.entries * test.entry_heads;
    shape->entry_heads = test.entry_heads;
    shape->head_dim = test.head_dim;
    shape->key_block = test.key_block;
    shape->tokens = test.video + test.text;
    shape->video_tokens = test.video;
    shape->video_query_blocks = cuda_round_up(test.video, 128) / 128;
    shape->query_blocks = shape->video_query_blocks + cuda_round_up(test.text, 128) / 128;
    shape->video_key_blocks = cuda_round_up(test.video, test.key_block) / test.key_block;
    shape->key_blocks =
        shape->video_key_blocks + cuda_round_up(test.text, test.key_block) / test.key_block;
    shape->probes = test.probes;
    shape->scale = .125f;
    host->ridge = test.ridge;
}

/* A list in which blocks are full or lack one entry; head 3 is full as a whole. */
static void set_list(struct host_case *host, int32_t full)
{
    const struct shape_cuda &shape = host->shape;
    host->row_ptr.assign(1, 0);
    for (int64_t head = 0; head < shape.heads; head++) {
        for (int64_t block = 0; block < shape.query_blocks; block++) {
            const bool all =
                block >= shape.video_query_blocks || head == 3 || (full > 0 && block % full == 0);
            host->row_ptr.push_back(host->row_ptr.back() + shape.key_blocks - !all);
        }
    }
}

static float latent(uint64_t seed, int64_t head, int64_t position, int64_t column, uint64_t salt)
{
    enum { LATENTS = 6 };
    float sum = 0;
    for (int64_t i = 0; i < LATENTS; i++) {
        sum += random_normal(seed, (uint64_t)((head << 40) + position * LATENTS + i)) *
               random_normal(seed + salt, (uint64_t)(column * LATENTS + i));
    }
    return .4f * sum;
}

static void fill(struct host_case *host, const struct test_case &test, uint64_t seed)
{
    const struct shape_cuda &shape = host->shape;
    const int64_t d = shape.head_dim;
    for (int64_t head = 0; head < shape.heads; head++) {
        const int64_t kind = test.kind == KINDS ? head % KINDS : test.kind;
        for (int64_t i = 0; i < shape.video_tokens * d; i++) {
            const int64_t position = i / d, column = i % d;
            const uint64_t place = (uint64_t)(head * shape.video_tokens * d + i);
            const float o = .3f + latent(seed, head, position, column, 11) +
                            .1f * random_normal(seed + 21, place);
            const float q = latent(seed, head, position, column, 12) - .2f +
                            .1f * random_normal(seed + 22, place);
            store_to(host->o.data(), test.o_dtype, o_place(*host, head, position, column),
                     kind == ZERO_O ? 0 : o);
            store_to(host->q.data(), test.dtype, q_place(*host, head, position, column),
                     kind == ZERO_Q ? 0 : q * test.q_scale);
        }
        for (int64_t i = 0; i < shape.probes * d; i++) {
            const int64_t position = host->probes[(size_t)(i / d)], column = i % d;
            const uint64_t place = (uint64_t)(head * shape.probes * d + i);
            float rest = kind == NOISE ? .2f * random_normal(seed + 23, place)
                                       : .05f + .3f * latent(seed, head, position, column, 13) +
                                             .02f * random_normal(seed + 23, place);
            if (kind == NOT_NUMBERS && i == shape.probes * d / 2)
                rest = NAN;
            if (kind == EXACT)
                rest = 0;
            host->exact[(size_t)(head * shape.probes * d + i)] =
                rest +
                load_from(host->o.data(), test.o_dtype, o_place(*host, head, position, column));
        }
    }
}

static struct host_case make_case(const struct test_case &test, uint64_t seed)
{
    struct host_case host = {};
    struct problem problem = {};
    set_shape(&host, test);
    const struct shape_cuda &shape = host.shape;
    const int64_t d = shape.head_dim;
    problem.video_tokens = shape.video_tokens;
    problem.probes = shape.probes;
    for (int64_t i = 0; i < shape.probes; i++) {
        host.probes.push_back(probe_position(&problem, i));
    }
    for (int64_t i = 0; test.order && i < shape.tokens; i++) {
        host.order.push_back((int32_t)i);
    }
    for (int64_t i = shape.video_tokens - 1; test.order && i > 0; i--) {
        std::swap(host.order[(size_t)i],
                  host.order[(size_t)random_below(seed + 3, (uint64_t)i, i + 1)]);
    }
    set_list(&host, test.full);
    set_strides(&host, test.o_layout);
    host.o_tensor.dtype = test.o_dtype;
    host.q_rows.stride_token = d;
    host.q_rows.stride_head = shape.tokens * d;
    host.q_rows.stride_entry = shape.entry_heads * shape.tokens * d;
    host.q = random_elements(test.dtype, shape.heads * shape.tokens * d, seed + 1, 1);
    host.o = random_elements(test.o_dtype, o_elements(host), seed + 2, 1);
    host.exact.resize((size_t)(shape.heads * shape.probes * d));
    host.stats.assign((size_t)shape.heads, untouched);
    fill(&host, test, seed);
    return host;
}

/* ---- what the CPU makes of it --------------------------------------------------------------- */

struct fitted {
    std::vector<float> o, q, exact, weight, shift;
    struct repair_fit fit;
    double error, norm;
    bool close; /* to the edge between corrected and not */
};

static float relative(double error, double norm)
{
    if (error > 0 && norm == 0)
        return INFINITY;
    return error == 0 ? 0 : (float)sqrt(error / norm);
}

static void collect(const struct host_case &host, draftattn_dtype dtype, int64_t head,
                    struct fitted *out)
{
    const struct shape_cuda &shape = host.shape;
    const int64_t d = shape.head_dim;
    for (int64_t i = 0; i < shape.probes; i++) {
        const int64_t position = host.probes[(size_t)i];
        for (int64_t c = 0; c < d; c++) {
            const float exact = host.exact[(size_t)((head * shape.probes + i) * d + c)];
            out->norm += (double)exact * exact;
            if (is_full(host, head, position))
                continue;
            const float o =
                load_from(host.o.data(), host.o_tensor.dtype, o_place(host, head, position, c));
            out->o.push_back(o);
            out->q.push_back(load_from(host.q.data(), dtype, q_place(host, head, position, c)));
            out->exact.push_back(exact);
            out->error += ((double)exact - o) * ((double)exact - o);
        }
    }
}

static struct fitted fit_head(const struct host_case &host, draftattn_dtype dtype, int64_t head,
                              bool apply, draftattn_head_stats *stats)
{
    const struct shape_cuda &shape = host.shape;
    const int64_t d = shape.head_dim;
    struct fitted fitted = {};
    collect(host, dtype, head, &fitted);
    stats->error = stats->error_before = relative(fitted.error, fitted.norm);
    stats->repaired = 0;
    const int64_t rows = (int64_t)fitted.o.size() / d;
    if (!apply || rows < MIN_FIT_ROWS || fitted.error == 0)
        return fitted;
    fitted.weight.resize((size_t)(2 * d * d));
    fitted.shift.resize((size_t)d);
    std::vector<char> scratch((size_t)repair_fit_bytes(rows, d) + 256);
    fitted.fit.rows = rows;
    fitted.fit.head_dim = (int32_t)d;
    fitted.fit.ridge = host.ridge;
    fitted.fit.o = fitted.o.data();
    fitted.fit.q = fitted.q.data();
    fitted.fit.exact = fitted.exact.data();
    fitted.fit.error = fitted.error;
    fitted.fit.weight = fitted.weight.data();
    fitted.fit.shift = fitted.shift.data();
    fitted.fit.scratch = (void *)(((uintptr_t)scratch.data() + 255) / 256 * 256);
    if (!repair_portable.fit(&fitted.fit))
        return fitted;
    const double gain = fitted.error - fitted.fit.error_unseen;
    const double edge = std::max(MIN_GAIN * fitted.error, MIN_SPREADS * fitted.fit.gain_spread);
    fitted.close = fabs(gain - edge) < 1e-2 * fitted.error;
    if (!(gain > edge))
        return fitted;
    const double unseen = 1 - (double)shape.probes / (double)shape.video_tokens;
    stats->error = relative(fitted.fit.error_unseen * unseen, fitted.norm);
    stats->repaired = 1;
    return fitted;
}

static bool near(float a, float b, double tolerance)
{
    return std::isnan(b) ? std::isnan(a) : a == b || fabs((double)a - b) <= tolerance * fabs(b);
}

static bool stats_agree(const draftattn_head_stats &is, const draftattn_head_stats &wanted)
{
    return is.density == wanted.density && is.repaired == wanted.repaired &&
           near(is.error_before, wanted.error_before, 1e-4) && near(is.error, wanted.error, 1e-2);
}

/* Rows of a corrected head: how far they are from the CPU's, in the units of what is allowed. */
static double correction_error(const struct host_case &host, draftattn_dtype dtype, int64_t head,
                               const struct fitted &fitted, const std::vector<char> &result)
{
    const draftattn_dtype o_dtype = host.o_tensor.dtype;
    const int64_t d = host.shape.head_dim;
    const double step = o_dtype == DRAFTATTN_F32    ? 0x1p-22
                        : o_dtype == DRAFTATTN_BF16 ? 0x1p-8 /* half a unit in the last place */
                                                    : 0x1p-11;
    /* Tensor cores have weights of the type; that is why. */
    const double share = o_dtype == DRAFTATTN_F32 || o_dtype != dtype ? 1e-4 : step;
    double worst = 0;
    std::vector<float> o((size_t)d), q((size_t)d), was((size_t)d), scratch((size_t)d);
    for (int64_t position = 0; position < host.shape.video_tokens; position++) {
        if (is_full(host, head, position) ||
            std::count(host.probes.begin(), host.probes.end(), position))
            continue;
        double change = 0, size = 0, error = 0;
        for (int64_t c = 0; c < d; c++) {
            was[(size_t)c] = o[(size_t)c] =
                load_from(host.o.data(), o_dtype, o_place(host, head, position, c));
            q[(size_t)c] = load_from(host.q.data(), dtype, q_place(host, head, position, c));
        }
        repair_portable.apply(1, (int32_t)d, fitted.weight.data(), fitted.shift.data(), q.data(),
                              o.data(), scratch.data());
        for (int64_t c = 0; c < d; c++) {
            const double is = load_from(result.data(), o_dtype, o_place(host, head, position, c));
            error += (is - o[(size_t)c]) * (is - o[(size_t)c]);
            change += ((double)o[(size_t)c] - was[(size_t)c]) * (o[(size_t)c] - was[(size_t)c]);
            size += (double)o[(size_t)c] * o[(size_t)c];
        }
        const double ratio = sqrt(error) / (share * sqrt(change) + step * sqrt(size) + 1e-30);
        worst = std::isfinite(ratio) ? std::max(worst, ratio) : INFINITY;
    }
    return worst;
}

/* Puts into wanted what must be there to the bit; rows that need not are taken from result. */
static void expect_head(const struct host_case &host, int64_t head, const std::vector<char> &result,
                        std::vector<char> *wanted)
{
    const draftattn_dtype dtype = host.o_tensor.dtype;
    const int64_t d = host.shape.head_dim;
    for (int64_t position = 0; position < host.shape.video_tokens; position++) {
        for (int64_t c = 0; c < d && !is_full(host, head, position); c++) {
            const int64_t place = o_place(host, head, position, c);
            memcpy(wanted->data() + place * (int64_t)dtype_size(dtype),
                   result.data() + place * (int64_t)dtype_size(dtype), dtype_size(dtype));
        }
    }
    for (int64_t i = 0; i < host.shape.probes; i++) {
        const int64_t position = host.probes[(size_t)i];
        for (int64_t c = 0; c < d && !is_full(host, head, position); c++) {
            store_to(wanted->data(), dtype, o_place(host, head, position, c),
                     host.exact[(size_t)((head * host.shape.probes + i) * d + c)]);
        }
    }
}

/* ---- running it ----------------------------------------------------------------------------- */

struct device_case {
    struct device_buffer order, row_ptr, q, o, exact, stats, scratch;
    struct repair_cuda repair;
};

static struct device_case upload(const struct host_case &host, const struct test_case &test)
{
    struct device_case device = {};
    device.order = device_from(host.order);
    device.row_ptr = device_from(host.row_ptr);
    device.q = device_from(host.q);
    device.o = device_from(host.o);
    device.exact = device_from(host.exact);
    device.stats = device_from(host.stats);
    device.scratch = device_make(cuda_repair_scratch(&host.shape), 0xff);
    struct repair_cuda *repair = &device.repair;
    repair->shape = host.shape;
    repair->shape.order = host.order.empty() ? NULL : (const int32_t *)device.order.data;
    repair->dtype = test.dtype;
    repair->q = host.q_rows;
    repair->q.data = device.q.data;
    repair->o = host.o_tensor;
    repair->o.data = device.o.data;
    repair->exact = (const float *)device.exact.data;
    repair->row_ptr = (const int64_t *)device.row_ptr.data;
    repair->ridge = test.ridge;
    repair->apply = test.apply;
    repair->heads = (draftattn_head_stats *)device.stats.data;
    repair->scratch = device.scratch.data;
    return device;
}

static bool guards_hold(const struct device_case &device)
{
    return device_guards_hold(&device.order) && device_guards_hold(&device.row_ptr) &&
           device_guards_hold(&device.q) && device_guards_hold(&device.o) &&
           device_guards_hold(&device.exact) && device_guards_hold(&device.stats) &&
           device_guards_hold(&device.scratch);
}

static void free_all(struct device_case *device)
{
    struct device_buffer *all[] = {&device->order, &device->row_ptr, &device->q,      &device->o,
                                   &device->exact, &device->stats,   &device->scratch};
    for (struct device_buffer *buffer : all) {
        device_free(buffer);
    }
}

static void check_probe_queries(struct tally *tally, const struct host_case &host,
                                const struct test_case &test, const struct device_case &device)
{
    const int64_t d = host.shape.head_dim, size = (int64_t)dtype_size(test.dtype);
    const int64_t rows = cuda_probe_tiles(&host.shape) * CUDA_QUERY_BLOCK;
    struct device_buffer buffer = device_make((size_t)(host.shape.heads * rows * d * size), 0xff);
    bool same = true;
    CUDA_OK(cuda_probe_queries(&host.shape, test.dtype, &device.repair.q, buffer.data, 0));
    CUDA_FINISH();
    const std::vector<char> got = device_vector<char>(&buffer);
    for (int64_t head = 0; head < host.shape.heads; head++) {
        for (int64_t i = 0; i < host.shape.probes; i++) {
            same = same &&
                   memcmp(got.data() + (head * rows + i) * d * size,
                          host.q.data() + q_place(host, head, host.probes[(size_t)i], 0) * size,
                          (size_t)(d * size)) == 0;
        }
    }
    tally_case(tally, same && device_guards_hold(&buffer), "%s: probe queries", test.name);
    device_free(&buffer);
}

static void check_case(struct tally *tally, const struct test_case &test, uint64_t seed)
{
    const struct host_case host = make_case(test, seed);
    struct device_case device = upload(host, test);
    check_probe_queries(tally, host, test, device);
    CUDA_OK(cuda_repair(&device.repair, 0));
    CUDA_FINISH();
    const std::vector<char> result = device_vector<char>(&device.o);
    const std::vector<draftattn_head_stats> stats =
        device_vector<draftattn_head_stats>(&device.stats);
    std::vector<char> wanted = host.o;
    for (int64_t head = 0; head < host.shape.heads; head++) {
        const draftattn_head_stats is = stats[(size_t)head];
        draftattn_head_stats should = untouched;
        if (is_full_head(host, head)) {
            tally_case(tally, memcmp(&is, &should, sizeof(is)) == 0, "%s: full head %lld",
                       test.name, (long long)head);
            continue;
        }
        const struct fitted fitted = fit_head(host, test.dtype, head, test.apply, &should);
        tally_case(tally, fitted.close || stats_agree(is, should),
                   "%s: head %lld: error %g before %g repaired %d, not %g %g %d", test.name,
                   (long long)head, is.error, is.error_before, is.repaired, should.error,
                   should.error_before, should.repaired);
        if (!is.repaired)
            continue;
        expect_head(host, head, result, &wanted);
        const double error = fitted.weight.empty()
                                 ? INFINITY
                                 : correction_error(host, test.dtype, head, fitted, result);
        tally_case(tally, error <= 1, "%s: head %lld: correction is off by %g of what is allowed",
                   test.name, (long long)head, error);
    }
    tally_case(tally, result == wanted, "%s: what is not corrected", test.name);
    device_upload(&device.o, host.o.data());
    device_upload(&device.stats, host.stats.data());
    device_fill(&device.scratch, 0);
    CUDA_OK(cuda_repair(&device.repair, 0));
    CUDA_FINISH();
    tally_case(tally, device_vector<char>(&device.o) == result, "%s: another scratch", test.name);
    tally_case(tally, guards_hold(device), "%s: guards", test.name);
    free_all(&device);
}

/* ---- times ---------------------------------------------------------------------------------- */

static void print_time(const struct device_case &device, float ms)
{
    const std::vector<draftattn_head_stats> stats =
        device_vector<draftattn_head_stats>(&device.stats);
    int32_t repaired = 0;
    for (const draftattn_head_stats &head : stats) {
        repaired += head.repaired;
    }
    printf("%d x %d, %d heads corrected: %.3f ms, %.0f GB/s\n", device.repair.shape.heads,
           device.repair.shape.tokens, repaired, ms,
           3e-6 * (double)device.o.bytes / ms * repaired / device.repair.shape.heads);
}

/* Minus what o is at its probe rows: a residual that o predicts. */
static std::vector<float> opposite(const struct device_case &device)
{
    const struct shape_cuda &shape = device.repair.shape;
    const size_t count = (size_t)shape.heads * (size_t)shape.probes * (size_t)shape.head_dim;
    struct device_buffer rows = device_make(count * 2, 0); /* probes fill their tiles */
    struct rows_cuda from = device.repair.q;
    std::vector<float> out;
    from.data = device.o.data;
    CUDA_OK(cuda_probe_queries(&shape, DRAFTATTN_BF16, &from, rows.data, 0));
    for (const uint16_t stored : device_vector<uint16_t>(&rows)) {
        out.push_back(-float_from_bf16(stored));
    }
    device_free(&rows);
    return out;
}

static void time_shape(int32_t heads, int32_t tokens)
{
    const struct test_case test = {
        "time",         1,           heads, 128,  tokens, 0, 128, 256, DRAFTATTN_BF16,
        DRAFTATTN_BF16, HEADS_FIRST, false, true, LATENT, 0, .1,  1};
    const int64_t elements = (int64_t)heads * tokens * 128;
    struct host_case host = {};
    set_shape(&host, test);
    host.row_ptr.resize((size_t)heads * (size_t)host.shape.query_blocks + 1);
    for (size_t i = 0; i < host.row_ptr.size(); i++) {
        host.row_ptr[i] = (int64_t)i;
    }
    set_strides(&host, HEADS_FIRST);
    host.o_tensor.dtype = DRAFTATTN_BF16;
    host.q_rows.stride_token = 128;
    host.q_rows.stride_head = (int64_t)tokens * 128;
    host.q_rows.stride_entry = host.q_rows.stride_head * heads;
    host.stats.assign((size_t)heads, untouched);
    host.q.resize((size_t)elements * 2);
    host.o.resize((size_t)elements * 2);
    host.exact.resize((size_t)heads * 256 * 128);
    struct device_case device = upload(host, test);
    device_random(&device.q, DRAFTATTN_BF16, 1, 1);
    device_random(&device.o, DRAFTATTN_BF16, 2, 1);
    device_random(&device.exact, DRAFTATTN_F32, 3, 1); /* nothing follows from o or q */
    print_time(device, cuda_median_ms([&](cudaStream_t stream) {
                   return cuda_repair(&device.repair, stream);
               }));
    /* A corrected head's probe rows are exact, so that each launch needs another residual. */
    std::vector<float> exact = opposite(device);
    struct device_buffer other = device_from(exact), *turns[] = {&other, &device.exact};
    for (float &value : exact) {
        value = -value;
    }
    device_upload(&device.exact, exact.data());
    int turn = 0;
    print_time(device, cuda_median_ms([&](cudaStream_t stream) {
                   device.repair.exact = (const float *)turns[turn++ % 2]->data;
                   return cuda_repair(&device.repair, stream);
               }));
    device_free(&other);
    free_all(&device);
}

/* ---- main ----------------------------------------------------------------------------------- */

#define F32  DRAFTATTN_F32
#define F16  DRAFTATTN_F16
#define BF16 DRAFTATTN_BF16

static const struct test_case cases[] = {
    {"plain f32", 1, 6, 128, 1000, 0, 128, 256, F32, F32, HEADS_FIRST, true, true, KINDS, 0, .1, 1},
    {"plain f32 64", 1, 6, 64, 1000, 7, 64, 100, F32, F32, HEADS_FIRST, true, true, KINDS, 0, .1,
     1},
    {"bf16", 1, 6, 128, 1000, 0, 128, 256, BF16, BF16, HEADS_FIRST, true, true, KINDS, 0, .1, 1},
    {"bf16 64", 1, 6, 64, 999, 130, 128, 256, BF16, BF16, HEADS_FIRST, true, true, KINDS, 3, .1, 1},
    {"f16", 1, 6, 128, 1025, 0, 64, 256, F16, F16, HEADS_FIRST, false, true, KINDS, 4, .1, 1},
    {"f16 64", 1, 6, 64, 1151, 0, 64, 64, F16, F16, TOKENS_FIRST, true, true, KINDS, 0, .1, 1},
    {"tokens first", 2, 3, 128, 640, 77, 64, 200, BF16, BF16, TOKENS_FIRST, true, true, LATENT, 2,
     .1, 1},
    {"turned", 2, 2, 128, 300, 0, 128, 200, BF16, BF16, TURNED, true, true, LATENT, 0, .1, 1},
    {"turned 64", 2, 2, 64, 300, 0, 128, 200, F32, F32, TURNED, true, true, LATENT, 2, .1, 1},
    {"padded", 2, 2, 128, 300, 5, 128, 200, F16, F16, PADDED, true, true, LATENT, 0, .1, 1},
    {"f32 out", 1, 3, 128, 500, 0, 128, 256, BF16, F32, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"bf16 out", 1, 3, 64, 500, 0, 128, 256, F32, BF16, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"mixed halves", 1, 3, 64, 500, 0, 128, 256, F16, BF16, HEADS_FIRST, true, true, LATENT, 0, .1,
     1},
    {"large q", 1, 3, 128, 700, 0, 128, 256, F16, F16, HEADS_FIRST, true, true, LATENT, 0, .1,
     1e3f},
    {"small q", 1, 3, 128, 700, 0, 128, 256, BF16, BF16, HEADS_FIRST, true, true, LATENT, 0, .1,
     1e-4f},
    {"large ridge", 1, 3, 128, 700, 0, 128, 256, F32, F32, HEADS_FIRST, true, true, LATENT, 0, 3,
     1},
    {"small ridge", 1, 3, 128, 1500, 0, 128, 600, F32, F32, HEADS_FIRST, true, true, LATENT, 0, .01,
     1},
    {"estimate alone", 1, 6, 128, 1000, 0, 128, 256, BF16, BF16, HEADS_FIRST, true, false, KINDS, 3,
     .1, 1},
    {"full blocks", 1, 6, 128, 1000, 0, 128, 256, F32, F32, HEADS_FIRST, true, true, KINDS, 2, .1,
     1},
    {"all full", 1, 6, 128, 1000, 9, 128, 256, F32, F32, HEADS_FIRST, true, true, KINDS, 1, .1, 1},
    {"one token", 1, 2, 128, 1, 0, 128, 1, BF16, BF16, HEADS_FIRST, false, true, LATENT, 0, .1, 1},
    {"few rows", 1, 2, 64, 15, 3, 64, 15, F32, F32, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"just enough", 1, 2, 64, 16, 0, 64, 16, F32, F32, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"17 of 129", 1, 2, 128, 129, 0, 64, 17, BF16, BF16, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"63 of 127", 1, 2, 128, 127, 1, 64, 63, BF16, BF16, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"65 of 128", 1, 2, 128, 128, 0, 64, 65, F32, F32, HEADS_FIRST, true, true, LATENT, 0, .1, 1},
    {"every row", 1, 2, 128, 255, 0, 64, 255, BF16, BF16, HEADS_FIRST, true, true, LATENT, 0, .1,
     1},
    {"513 of 3000", 1, 1, 64, 3000, 0, 64, 513, BF16, BF16, HEADS_FIRST, true, true, LATENT, 5, .1,
     1},
    {"1024 of 2048", 1, 1, 128, 2048, 0, 128, 1024, F32, F32, HEADS_FIRST, true, true, LATENT, 0,
     .1, 1},
    {"1000 of 5000", 1, 1, 128, 5000, 300, 64, 1000, BF16, BF16, HEADS_FIRST, true, true, LATENT, 0,
     .1, 1},
    {"40 heads", 2, 20, 128, 400, 0, 128, 100, BF16, BF16, TOKENS_FIRST, true, true, KINDS, 3, .1,
     1},
    {"one row of 16", 1, 3, 128, 1009, 40, 128, 300, BF16, BF16, HEADS_FIRST, true, true, LATENT, 3,
     .1, 1},
    {"1024 of 1033", 1, 2, 64, 1033, 0, 64, 1024, F16, F16, TOKENS_FIRST, false, true, LATENT, 4,
     .1, 1},
    {"every row f32", 1, 2, 64, 301, 0, 64, 301, F32, F32, TURNED, true, true, LATENT, 0, .1, 1},
    /* Heads enough for a warp of the correction to have several turns, and full blocks between. */
    {"long shares", 2, 66, 128, 420, 9, 128, 200, BF16, BF16, TOKENS_FIRST, true, true, KINDS, 2,
     .1, 1},
    {"long shares 64", 2, 132, 64, 420, 0, 64, 150, F16, F16, HEADS_FIRST, false, true, LATENT, 3,
     .1, 1},
};

int main(int argc, char **argv)
{
    struct tally tally = {};
    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        time_shape(24, 118784);
        time_shape(12, 32760);
        return 0;
    }
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_case(&tally, cases[i], 100 * i + 7);
    }
    return tally_end(&tally);
}
