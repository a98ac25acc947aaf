/*
 * What ops_cuda computes element by element or row by row, against ops_cpu on the same inputs:
 * sizes around every edge, strides, aliases, options left out, both element types, memory that is
 * aligned as vectors want it and memory that is not, values that are not finite.
 *
 * A float32 result may be off by a few roundings of its terms, a bfloat16 one by one spacing more.
 *
 *     test_ops_runtime [--time]
 */
extern "C" {
#include "tensor/ops.h"
}

#include "cuda_support.h"

#include <functional>
#include <numeric>

struct machine {
    const struct ops *ops;
    struct device *device;
};

struct pair {
    struct machine cpu, gpu;
    struct tally tally;
};

static void fail(const char *text)
{
    fprintf(stderr, "%s\n", text);
    exit(1);
}

static struct machine machine_open(const struct ops *ops, enum element activations)
{
    struct machine machine = {ops, NULL};
    struct device_desc desc = {};
    struct error error = {};

    desc.threads = 1;
    desc.activations = activations;
    if (!ops->create(&machine.device, &desc, &error))
        fail(error.text);
    return machine;
}

static void finish(struct pair *pair)
{
    struct error error = {};

    if (!pair->gpu.ops->synchronise(pair->gpu.device, &error))
        fail(error.text);
}

/* --- tensors on both sides ---------------------------------------------------------------- */

static draftattn_dtype dtype_of(enum element type)
{
    return type == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
}

/* The same values as floats on the host and as elements on the GPU; empty = NULL on both. late: the
 * GPU's lie one element behind where vectors would want them. */
struct twin {
    enum element type;
    std::vector<float> host;
    struct device_buffer gpu;
};

static struct twin twin_of(enum element type, std::vector<float> values, bool late)
{
    const size_t size = element_size(type);
    struct twin twin = {type, std::move(values), {}};
    std::vector<char> stored(twin.host.size() * size);

    for (size_t i = 0; i < twin.host.size(); i++) {
        twin.host[i] = round_to(dtype_of(type), twin.host[i]);
        store_to(stored.data(), dtype_of(type), (int64_t)i, twin.host[i]);
    }
    if (stored.empty())
        return twin;
    twin.gpu = device_make(stored.size(), 0, late ? size : 0);
    device_upload(&twin.gpu, stored.data());
    CUDA_FINISH(); /* the stream that operations are enqueued on does not wait for this one */
    return twin;
}

static std::vector<float> normal(int64_t count, uint64_t seed, float deviation = 1, float mean = 0)
{
    std::vector<float> values((size_t)count);
    for (int64_t i = 0; i < count; i++) {
        values[(size_t)i] = mean + deviation * random_normal(seed, (uint64_t)i);
    }
    return values;
}

static float *host(struct twin &twin)
{
    return twin.host.empty() ? NULL : twin.host.data();
}

static float *gpu(struct twin &twin)
{
    return (float *)twin.gpu.data;
}

static std::vector<float> read_back(const struct twin &twin)
{
    const std::vector<char> stored = device_vector<char>(&twin.gpu);
    std::vector<float> values(twin.host.size());

    for (size_t i = 0; i < values.size(); i++) {
        values[i] = load_from(stored.data(), dtype_of(twin.type), (int64_t)i);
    }
    return values;
}

/* Whether the GPU's values are the host's: each within slack * (size + |value|), and a spacing of
 * the type where that is bfloat16; and whether nothing was written outside. */
static bool same(struct twin &twin, float slack, float size)
{
    const std::vector<float> got = read_back(twin);
    const float relative = slack + (twin.type == ELEMENT_BF16 ? 0x1p-8f : 0);
    bool ok = twin.gpu.data == NULL || device_guards_hold(&twin.gpu);

    for (size_t i = 0; ok && i < got.size(); i++) {
        const float want = twin.host[i];
        ok = fabsf(got[i] - want) <= slack * size + relative * fabsf(want);
    }
    return ok;
}

static void drop(std::initializer_list<struct twin *> twins)
{
    for (struct twin *twin : twins) {
        if (twin->gpu.base)
            device_free(&twin->gpu);
    }
}

/* --- residual, norms ---------------------------------------------------------------------- */

static const int64_t features_of_rows[] = {1,    3,    7,    32,   100,  128,  256,  1000,
                                           1536, 4092, 4096, 4100, 5120, 8192, 8196, 9001};
static const int64_t rows_of_cases[] = {1, 3, 19};

enum { ADD = 1, GATE = 2, NORM = 4, WEIGHT = 8, BIAS = 16, SCALE = 32, SHIFT = 64, ALL = 127 };

struct residual_case {
    int64_t rows, features;
    unsigned parts;
    enum element add_type, type;
    bool late;
    float mean;
};

static void check_residual(struct pair *pair, const struct residual_case &c, uint64_t seed)
{
    const int64_t count = c.rows * c.features;
    const auto values = [&](unsigned part, int64_t size, float deviation) {
        return normal(c.parts & part ? size : 0, seed + part, deviation);
    };
    const std::vector<float> nothing((size_t)(c.parts & NORM ? count : 0), NAN);
    struct twin x = twin_of(ELEMENT_F32, normal(count, seed, 1, c.mean), c.late);
    struct twin add = twin_of(c.add_type, values(ADD, count, 1), c.late);
    struct twin gate = twin_of(ELEMENT_F32, values(GATE, c.features, 1), c.late);
    struct twin y = twin_of(c.type, nothing, c.late);
    struct twin weight = twin_of(ELEMENT_F32, values(WEIGHT, c.features, 1), c.late);
    struct twin bias = twin_of(ELEMENT_F32, values(BIAS, c.features, 1), c.late);
    struct twin scale = twin_of(ELEMENT_F32, values(SCALE, c.features, 1), c.late);
    struct twin shift = twin_of(ELEMENT_F32, values(SHIFT, c.features, 1), c.late);
    const struct ops_residual on_cpu = {
        host(x),    host(add),   host(gate),  host(y), ELEMENT_F32, ELEMENT_F32, host(weight),
        host(bias), host(scale), host(shift), c.rows,  c.features,  1e-6f};
    const struct ops_residual on_gpu = {gpu(x), gpu(add),    gpu(gate), gpu(y),     c.add_type,
                                        c.type, gpu(weight), gpu(bias), gpu(scale), gpu(shift),
                                        c.rows, c.features,  1e-6f};
    int32_t place;
    int64_t row;

    pair->cpu.ops->residual(pair->cpu.device, &on_cpu);
    pair->gpu.ops->residual(pair->gpu.device, &on_gpu);
    const bool finite = !pair->gpu.ops->watched(pair->gpu.device, &place, &row);
    /* A norm divides by the deviation: what rounding the mean costs counts by itself. */
    const bool ok = same(x, 1e-6f, 8) && same(y, 1e-5f, 8 + fabsf(c.mean)) && finite;
    tally_case(&pair->tally, ok,
               "residual: %lld x %lld, parts %u, add %d, y %d, late %d, mean %g, seed %llu",
               (long long)c.rows, (long long)c.features, c.parts, (int)c.add_type, (int)c.type,
               (int)c.late, (double)c.mean, (unsigned long long)seed);
    drop({&x, &add, &gate, &y, &weight, &bias, &scale, &shift});
}

static void check_residuals(struct pair *pair)
{
    static const unsigned parts[] = {ALL,
                                     NORM,
                                     ADD,
                                     ADD | GATE,
                                     ADD | GATE | NORM | WEIGHT | BIAS,
                                     ADD | NORM | SCALE | SHIFT,
                                     NORM | WEIGHT,
                                     NORM | SHIFT};
    uint64_t seed = 1024;

    for (int64_t features : features_of_rows) {
        for (unsigned part : parts) {
            const int64_t kinds = random_below(seed, 1, 8), far = random_below(seed, 2, 4);
            check_residual(pair,
                           {rows_of_cases[random_below(seed, 3, 3)], features, part,
                            kinds & 1 ? ELEMENT_F32 : ELEMENT_BF16,
                            kinds & 2 ? ELEMENT_F32 : ELEMENT_BF16, (kinds & 4) != 0,
                            far == 0 && features >= 32 ? 50.0f : 0.0f},
                           seed);
            seed += 1024;
        }
    }
    for (int kinds = 0; kinds < 8; kinds++) { /* every kind in both kernels of rows */
        for (int64_t features : {1536, 5120}) {
            check_residual(pair,
                           {3, features, ALL, kinds & 1 ? ELEMENT_F32 : ELEMENT_BF16,
                            kinds & 2 ? ELEMENT_F32 : ELEMENT_BF16, (kinds & 4) != 0, 0},
                           seed += 1024);
        }
    }
}

static void check_norms(struct pair *pair)
{
    uint64_t seed = 1 << 20;

    for (int64_t features : features_of_rows) {
        for (int kind = 0; kind < 16; kind++, seed += 16) {
            const bool late = kind & 1, in_place = kind & 2, rms = kind & 4, plain = kind & 8;
            const int64_t rows = rows_of_cases[kind % 3], count = rows * features;
            struct twin x = twin_of(ELEMENT_F32, normal(count, seed, 2), late);
            struct twin y = twin_of(ELEMENT_F32, std::vector<float>((size_t)count, NAN), late);
            struct twin weight = twin_of(ELEMENT_F32, normal(features, seed + 1), late);
            struct twin bias = twin_of(ELEMENT_F32, normal(plain ? 0 : features, seed + 2), late);
            struct twin &to = in_place ? x : y;
            const struct machine &cpu = pair->cpu, &on = pair->gpu;
            if (rms) {
                cpu.ops->rms_norm(cpu.device, host(x), host(to), rows, features, 1e-6f,
                                  host(weight));
                on.ops->rms_norm(on.device, gpu(x), gpu(to), rows, features, 1e-6f, gpu(weight));
            } else {
                cpu.ops->layer_norm(cpu.device, host(x), host(to), rows, features, 1e-6f,
                                    plain ? NULL : host(weight), host(bias));
                on.ops->layer_norm(on.device, gpu(x), gpu(to), rows, features, 1e-6f,
                                   plain ? NULL : gpu(weight), gpu(bias));
            }
            finish(pair);
            tally_case(&pair->tally, same(to, 1e-5f, 4) && (in_place || same(x, 0, 0)),
                       "%s norm: %lld x %lld, late %d, in place %d, plain %d",
                       rms ? "RMS" : "layer", (long long)rows, (long long)features, (int)late,
                       (int)in_place, (int)plain);
            drop({&x, &y, &weight, &bias});
        }
    }
}

/* --- norm and RoPE ------------------------------------------------------------------------ */

struct rope_case {
    int64_t rows, stride; /* stride: past the features */
    int32_t heads, head_dim;
    enum element type;
    bool turned, late;
};

/* In doubles, with the roundings of the type: after the norm, and in the end. */
static std::vector<float> rope_answer(const struct rope_case &c, const std::vector<float> &x,
                                      const std::vector<float> &weight,
                                      const std::vector<float> &cosine,
                                      const std::vector<float> &sine)
{
    const int64_t features = (int64_t)c.heads * c.head_dim, half = c.head_dim / 2;
    const draftattn_dtype dtype = dtype_of(c.type);
    std::vector<float> want = x;

    for (int64_t row = 0; row < c.rows; row++) {
        const float *from = x.data() + row * (features + c.stride);
        float *to = want.data() + row * (features + c.stride);
        std::vector<double> normed((size_t)features);
        double squares = 0;
        for (int64_t i = 0; i < features; i++) {
            squares += (double)from[i] * from[i];
        }
        const double factor = 1 / sqrt(squares / (double)features + 1e-6);
        for (int64_t i = 0; i < features; i++) {
            normed[(size_t)i] =
                (double)round_to(dtype, (float)(from[i] * factor)) * (double)weight[(size_t)i];
        }
        for (int64_t i = 0; i < features; i++) {
            const int64_t d = i % c.head_dim, angle = row * half + d / 2;
            const double a = normed[(size_t)(d % 2 ? i - 1 : i)];
            const double b = normed[(size_t)(d % 2 || d + 1 == c.head_dim ? i : i + 1)];
            double value = normed[(size_t)i];
            if (c.turned && d / 2 < half)
                value = d % 2 ? a * sine[(size_t)angle] + b * cosine[(size_t)angle]
                              : a * cosine[(size_t)angle] - b * sine[(size_t)angle];
            to[i] = round_to(dtype, (float)value);
        }
    }
    return want;
}

/* A result at the edge between two bfloat16 may fall to either side, before the weight and in the
 * end: a few do, by a spacing each, and the others are equal. What lies between rows stays. */
static bool roped(const struct rope_case &c, const std::vector<float> &got,
                  const std::vector<float> &want)
{
    const int64_t features = (int64_t)c.heads * c.head_dim, row = features + c.stride;
    const bool rounds = c.type == ELEMENT_BF16;
    int64_t differ = 0, count = 0;

    for (size_t i = 0; i < got.size(); i++) {
        const bool inside = (int64_t)i % row < features;
        const float slack = rounds ? 0.5f : 2e-5f * (8 + fabsf(want[i]));
        if (inside ? !(fabsf(got[i] - want[i]) <= slack)
                   : memcmp(&got[i], &want[i], sizeof got[i]) != 0)
            return false;
        differ += inside && got[i] != want[i];
        count += inside;
    }
    return !rounds || differ <= 2 + count / 1000;
}

static void check_rope(struct pair *pair, const struct rope_case &c, uint64_t seed)
{
    const int64_t features = (int64_t)c.heads * c.head_dim, half = c.head_dim / 2;
    struct twin x = twin_of(c.type, normal(c.rows * (features + c.stride), seed, 3), c.late);
    struct twin weight = twin_of(ELEMENT_F32, normal(features, seed + 2), c.late);
    std::vector<float> angles = normal(c.turned ? c.rows * half : 0, seed + 3, 2), sines = angles;

    for (size_t i = 0; i < angles.size(); i++) {
        sines[i] = sinf(angles[i]);
        angles[i] = cosf(angles[i]);
    }
    struct twin cosine = twin_of(ELEMENT_F32, angles, c.late);
    struct twin sine = twin_of(ELEMENT_F32, sines, c.late);
    const struct ops_norm_rope norm = {
        gpu(x),     c.type, features + c.stride, c.rows,      c.heads,
        c.head_dim, 1e-6f,  gpu(weight),         gpu(cosine), gpu(sine)};
    const std::vector<float> want = rope_answer(c, x.host, weight.host, cosine.host, sine.host);
    int32_t place;
    int64_t row;

    pair->gpu.ops->norm_rope(pair->gpu.device, &norm);
    const bool finite = !pair->gpu.ops->watched(pair->gpu.device, &place, &row);
    const bool ok = roped(c, read_back(x), want) && device_guards_hold(&x.gpu) && finite;
    tally_case(&pair->tally, ok,
               "norm and RoPE: %lld rows, %d x %d, stride + %lld, type %d, turned %d, late %d",
               (long long)c.rows, c.heads, c.head_dim, (long long)c.stride, (int)c.type,
               (int)c.turned, (int)c.late);
    drop({&x, &weight, &cosine, &sine});
}

static void check_ropes(struct pair *pair)
{
    static const int32_t heads[][2] = {{1, 2},    {3, 5},    {2, 6},    {5, 12},
                                       {1, 8},    {4, 32},   {12, 64},  {12, 128},
                                       {33, 128}, {40, 128}, {64, 128}, {65, 128}};
    uint64_t seed = 1 << 24;

    for (const int32_t(&head)[2] : heads) {
        for (int kind = 0; kind < 8; kind++) {
            const enum element type = kind & 1 ? ELEMENT_F32 : ELEMENT_BF16;
            const int64_t features = (int64_t)head[0] * head[1];
            for (int64_t stride : {(int64_t)0, (int64_t)8, 2 * features, (int64_t)1}) {
                check_rope(pair,
                           {rows_of_cases[seed / 8 % 3], stride, head[0], head[1], type,
                            (kind & 2) != 0, (kind & 4) != 0},
                           seed);
                seed += 8;
            }
        }
    }
}

/* --- patches, rows ------------------------------------------------------------------------ */

static void check_patches(struct pair *pair)
{
    static const int64_t grids[][7] = {{1, 1, 1, 1, 1, 1, 1},   {16, 2, 3, 5, 1, 2, 2},
                                       {3, 2, 4, 3, 2, 1, 3},   {16, 3, 9, 7, 1, 2, 2},
                                       {36, 1, 2, 11, 1, 2, 2}, {5, 4, 1, 1, 3, 2, 1}};
    const struct machine &cpu = pair->cpu, &on = pair->gpu;
    uint64_t seed = 1 << 26;

    for (const int64_t(&g)[7] : grids) {
        const int64_t tokens = g[1] * g[2] * g[3], count = g[0] * tokens * g[4] * g[5] * g[6];
        std::vector<int64_t> order((size_t)tokens);
        std::iota(order.begin(), order.end(), 0);
        for (size_t i = order.size(); i > 1; i--) {
            std::swap(order[i - 1], order[(size_t)random_below(seed, i, (int64_t)i)]);
        }
        struct device_buffer on_gpu = device_from(order);
        const struct ops_patches here = {order.data(), g[0], g[1], g[2], g[3], {g[4], g[5], g[6]}};
        struct ops_patches there = here;
        there.order = (const int64_t *)on_gpu.data;
        for (enum element type : {ELEMENT_F32, ELEMENT_BF16}) {
            struct twin latents = twin_of(ELEMENT_F32, normal(count, seed), false);
            struct twin rows = twin_of(type, std::vector<float>((size_t)count, NAN), false);
            cpu.ops->cut_patches(cpu.device, &here, host(latents), host(rows), ELEMENT_F32);
            on.ops->cut_patches(on.device, &there, gpu(latents), gpu(rows), type);
            finish(pair);
            for (float &value : rows.host) {
                value = round_to(dtype_of(type), value);
            }
            tally_case(&pair->tally, same(rows, 0, 0) && rows.host == read_back(rows),
                       "cut patches: %lld channels, %lld tokens, type %d", (long long)g[0],
                       (long long)tokens, (int)type);
            drop({&latents, &rows});
        }
        struct twin rows = twin_of(ELEMENT_F32, normal(count, seed + 1), false);
        struct twin latents = twin_of(ELEMENT_F32, std::vector<float>((size_t)count, NAN), false);
        cpu.ops->join_patches(cpu.device, &here, host(rows), host(latents));
        on.ops->join_patches(on.device, &there, gpu(rows), gpu(latents));
        finish(pair);
        tally_case(&pair->tally, same(latents, 0, 0), "join patches: %lld channels, %lld tokens",
                   (long long)g[0], (long long)tokens);
        drop({&rows, &latents});
        device_free(&on_gpu);
        seed += 16;
    }
}

static void check_scatter(struct pair *pair)
{
    for (int64_t features : {1, 4, 6, 64, 5120}) {
        for (bool late : {false, true}) {
            const int64_t rows = 37;
            std::vector<int64_t> index((size_t)rows);
            for (int64_t i = 0; i < rows; i++) {
                index[(size_t)i] = i * 14 % 41; /* a permutation with gaps */
            }
            struct device_buffer on_gpu = device_from(index);
            struct twin x = twin_of(ELEMENT_F32, normal(rows * features, 7), late);
            struct twin y = twin_of(ELEMENT_F32, normal(41 * features, 8), late);
            pair->cpu.ops->scatter_rows(pair->cpu.device, host(x), index.data(), host(y), rows,
                                        features);
            pair->gpu.ops->scatter_rows(pair->gpu.device, gpu(x), (const int64_t *)on_gpu.data,
                                        gpu(y), rows, features);
            finish(pair);
            tally_case(&pair->tally, same(y, 0, 0), "scatter: %lld features, late %d",
                       (long long)features, (int)late);
            drop({&x, &y});
            device_free(&on_gpu);
        }
    }
}

/* --- element by element ------------------------------------------------------------------- */

enum map { MULTIPLY, PLUS, COMBINE, COMBINE_X, COMBINE_Y, SCALE_X, TANH, ERF, SILU, MAPS };

static const char *const map_names[] = {"multiply",     "add",          "combine",
                                        "combine to x", "combine to y", "scale, y NaN",
                                        "GELU tanh",    "GELU erf",     "SiLU"};

static void apply(const struct machine &machine, enum map map, float *x, float *y, float *out,
                  int64_t count)
{
    const struct ops *ops = machine.ops;

    switch (map) {
    case MULTIPLY:
        ops->multiply(machine.device, x, y, count);
        break;
    case PLUS:
        ops->add(machine.device, x, y, count);
        break;
    case COMBINE:
        ops->combine(machine.device, out, 1.5f, x, -0.75f, y, count);
        break;
    case COMBINE_X:
        ops->combine(machine.device, x, 1.5f, x, -0.75f, y, count);
        break;
    case COMBINE_Y:
        ops->combine(machine.device, y, 1.5f, x, -0.75f, y, count);
        break;
    case SCALE_X:
        ops->combine(machine.device, out, -3, x, 0, y, count);
        break;
    case TANH:
        ops->activate(machine.device, x, count, ACTIVATION_GELU_TANH);
        break;
    case ERF:
        ops->activate(machine.device, x, count, ACTIVATION_GELU_ERF);
        break;
    default:
        ops->activate(machine.device, x, count, ACTIVATION_SILU);
    }
}

static void check_maps(struct pair *pair)
{
    for (int64_t count : {1, 3, 4, 1000, 4099, 3000000}) {
        for (int kind = 0; kind < 2 * MAPS; kind++) {
            const enum map map = (enum map)(kind / 2);
            const bool late = kind % 2;
            const std::vector<float> nan((size_t)count, NAN);
            if (count > 5000 && map != COMBINE)
                continue;
            struct twin x = twin_of(ELEMENT_F32, normal(count, 11, 3), late);
            struct twin y = twin_of(ELEMENT_F32, map == SCALE_X ? nan : normal(count, 12, 3), late);
            struct twin out = twin_of(ELEMENT_F32, nan, late);
            struct twin &to = map == COMBINE_Y ? y : map == COMBINE || map == SCALE_X ? out : x;
            apply(pair->cpu, map, host(x), host(y), host(out), count);
            apply(pair->gpu, map, gpu(x), gpu(y), gpu(out), count);
            finish(pair);
            const bool kept = &to == &x || same(x, 0, 0);
            tally_case(&pair->tally, same(to, 1e-5f, 1) && kept, "%s: %lld elements, late %d",
                       map_names[map], (long long)count, (int)late);
            drop({&x, &y, &out});
        }
    }
}

/* --- what is not finite ------------------------------------------------------------------- */

static void check_search(struct pair *pair)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const struct machine &on = pair->gpu;

    for (int64_t count : {1, 5, 1000, 1000003}) {
        for (int kind = 0; kind < 4; kind++) {
            std::vector<float> values = normal(count, 21, 1e37f);
            const int64_t first = random_below(22, (uint64_t)kind, count);
            const float value = kind < 3 ? bad[kind] : 3e38f; /* which is a number */
            values[(size_t)first] = value;
            values[(size_t)(first + (count - first) / 2)] = value;
            int64_t want = 0;
            while (want < count && isfinite(values[(size_t)want])) {
                want++;
            }
            struct twin x = twin_of(ELEMENT_F32, values, false);
            const int64_t found = on.ops->first_not_finite(on.device, gpu(x), count);
            tally_case(&pair->tally, found == (want == count ? -1 : want),
                       "first not finite: %lld of %lld, found %lld", (long long)want,
                       (long long)count, (long long)found);
            drop({&x});
        }
    }
}

/* Runs residual (with a norm where y is asked for) or norm_rope over 50 rows, of which bad_row, of
 * add or x, holds value in its last element. */
static void run_watched(struct pair *pair, bool rope, bool in_add, int64_t features, float value,
                        int64_t bad_row, bool with_y)
{
    const int64_t rows = 50, count = rows * features, at = (bad_row + 1) * features - 1;
    const enum element type = rope || in_add ? ELEMENT_BF16 : ELEMENT_F32;
    std::vector<float> values = normal(count, 31), x_values = values;
    if (bad_row >= 0)
        (in_add ? values : x_values)[(size_t)at] = value;
    struct twin x = twin_of(rope ? type : ELEMENT_F32, x_values, false);
    struct twin add = twin_of(type, values, false);
    struct twin y = twin_of(ELEMENT_F32, std::vector<float>((size_t)count, 0), false);
    struct twin weight = twin_of(ELEMENT_F32, normal(features, 32), false);

    if (rope) {
        const struct ops_norm_rope norm = {
            gpu(x), type, features, rows, 1, (int32_t)features, 1e-6f, gpu(weight), NULL, NULL};
        pair->gpu.ops->norm_rope(pair->gpu.device, &norm);
    } else {
        struct ops_residual r = {};
        r.x = gpu(x);
        r.add = in_add ? gpu(add) : NULL;
        r.add_type = type;
        r.y = with_y ? gpu(y) : NULL;
        r.type = ELEMENT_F32;
        r.rows = rows;
        r.features = features;
        r.eps = 1e-6f;
        pair->gpu.ops->residual(pair->gpu.device, &r);
    }
    finish(pair);
    drop({&x, &add, &y, &weight});
}

static void check_watch(struct pair *pair)
{
    const struct machine &on = pair->gpu;
    int32_t place = -1;
    int64_t row = -1;

    for (int64_t features : {128, 5120, 101}) {
        for (int kind = 0; kind < 8; kind++) {
            const float value = kind & 1 ? NAN : -INFINITY;
            const bool rope = kind >= 6, in_add = !rope && (kind & 2), with_y = !(kind & 4);
            on.ops->watch(on.device, 9);
            run_watched(pair, rope, in_add, features, value, 7, with_y);
            on.ops->watch(on.device, 4);
            run_watched(pair, rope, in_add, features, value, 33, with_y);
            run_watched(pair, rope, in_add, features, value, 12, with_y);
            on.ops->watch(on.device, 5);
            run_watched(pair, rope, in_add, features, value, 0, with_y);
            const bool seen = on.ops->watched(on.device, &place, &row);
            tally_case(&pair->tally, seen && place == 4 && row == 12,
                       "watched: %lld features, kind %d: %d, place %d, row %lld",
                       (long long)features, kind, (int)seen, place, (long long)row);
            /* Taken once; and the largest numbers are numbers. */
            on.ops->watch(on.device, 0);
            run_watched(pair, rope, false, features, 3e38f, 5, with_y);
            tally_case(&pair->tally, !on.ops->watched(on.device, &place, &row),
                       "watched: %lld features, kind %d: a finite row, place %d, row %lld",
                       (long long)features, kind, place, (long long)row);
        }
    }
}

/* What is recorded is done when it is replayed, and not before. */
static void check_recording(struct pair *pair)
{
    const struct machine &on = pair->gpu;
    struct recording *recording = NULL;
    struct error error = {};
    struct twin x = twin_of(ELEMENT_F32, normal(4096, 41), false);
    struct twin y = twin_of(ELEMENT_F32, normal(4096, 42), false);
    struct ops_residual r = {};

    r.x = gpu(x);
    r.add = gpu(y);
    r.rows = 4;
    r.features = 1024;
    bool ok = on.ops->record_begin(on.device, &error);
    if (ok) {
        on.ops->residual(on.device, &r);
        on.ops->multiply(on.device, gpu(x), gpu(y), 4096);
        ok = on.ops->record_end(on.device, &recording, &error) && recording;
    }
    finish(pair);
    ok = ok && same(x, 0, 0) && on.ops->replay(on.device, recording, &error) &&
         on.ops->replay(on.device, recording, &error);
    finish(pair);
    for (size_t i = 0; i < x.host.size(); i++) {
        const float once = (x.host[i] + y.host[i]) * y.host[i];
        x.host[i] = (once + y.host[i]) * y.host[i];
    }
    tally_case(&pair->tally, ok && same(x, 1e-5f, 8), "a recording: %s", error.text);
    if (recording)
        on.ops->recording_destroy(on.device, recording);
    drop({&x, &y});
}

/* --- timing ------------------------------------------------------------------------------- */

static void time_one(struct pair *pair, const char *name, int64_t rows, int64_t features,
                     double bytes, const std::function<void(void)> &launch)
{
    cudaStream_t stream = (cudaStream_t)pair->gpu.ops->stream(pair->gpu.device);
    cudaEvent_t begin, end;
    std::vector<float> times(21);

    CUDA_OK(cudaEventCreate(&begin));
    CUDA_OK(cudaEventCreate(&end));
    for (int i = -3; i < (int)times.size(); i++) {
        CUDA_OK(cudaEventRecord(begin, stream));
        launch();
        CUDA_OK(cudaEventRecord(end, stream));
        CUDA_OK(cudaEventSynchronize(end));
        if (i >= 0)
            CUDA_OK(cudaEventElapsedTime(&times[(size_t)i], begin, end));
    }
    finish(pair);
    CUDA_OK(cudaEventDestroy(end));
    CUDA_OK(cudaEventDestroy(begin));
    std::sort(times.begin(), times.end());
    const double ms = times[times.size() / 2];
    printf("%-34s %6lld x %-5lld %8.3f ms %8.0f GB/s\n", name, (long long)rows, (long long)features,
           ms, bytes / ms * 1e-6);
}

static void time_shape(struct pair *pair, int64_t rows, int32_t heads)
{
    const int64_t features = (int64_t)heads * 128, count = rows * features;
    const double all = (double)count;
    const struct ops *ops = pair->gpu.ops;
    struct device *device = pair->gpu.device;
    struct device_buffer x = device_make((size_t)count * 4, 0),
                         y = device_make((size_t)count * 4, 0);
    struct device_buffer qkv = device_make((size_t)count * 3 * 2, 0);
    struct device_buffer shared = device_make((size_t)features * 4, 0);
    struct device_buffer turn = device_make((size_t)rows * 64 * 4, 0);
    const float *vector = (const float *)shared.data;
    struct ops_residual r = {
        (float *)x.data, qkv.data, vector, y.data,   ELEMENT_BF16, ELEMENT_BF16, NULL, NULL,
        vector,          vector,   rows,   features, 1e-6f};
    const struct ops_norm_rope norm = {qkv.data,
                                       ELEMENT_BF16,
                                       3 * features,
                                       rows,
                                       heads,
                                       128,
                                       1e-6f,
                                       vector,
                                       (const float *)turn.data,
                                       (const float *)turn.data};

    device_random(&x, DRAFTATTN_F32, 1, 1);
    device_random(&qkv, DRAFTATTN_BF16, 2, 1);
    device_random(&shared, DRAFTATTN_F32, 3, 0.1f);
    device_random(&turn, DRAFTATTN_F32, 4, 0.5f);
    CUDA_FINISH();
    time_one(pair, "residual: add, gate, modulation", rows, features, all * 12,
             [&] { ops->residual(device, &r); });
    r.scale = r.shift = NULL;
    r.weight = r.bias = vector;
    time_one(pair, "residual: add, gate, affine", rows, features, all * 12,
             [&] { ops->residual(device, &r); });
    r.y = NULL;
    time_one(pair, "residual: add, gate, no norm", rows, features, all * 10,
             [&] { ops->residual(device, &r); });
    time_one(pair, "norm and RoPE, of q, k, v rows", rows, features, all * 4,
             [&] { ops->norm_rope(device, &norm); });
    time_one(pair, "layer norm, float32", rows, features, all * 8, [&] {
        ops->layer_norm(device, (const float *)x.data, (float *)y.data, rows, features, 1e-6f,
                        vector, vector);
    });
    for (struct device_buffer *buffer : {&x, &y, &qkv, &shared, &turn}) {
        device_free(buffer);
    }
}

int main(int argc, char **argv)
{
    struct pair pair = {};

    cuda_device_or_skip(80, 999);
    pair.gpu = machine_open(ops_cuda(), ELEMENT_BF16);
    if (asked_to_time(argc, argv)) {
        time_shape(&pair, 75600, 40);
        time_shape(&pair, 32760, 12);
        ops_cuda()->destroy(pair.gpu.device);
        return 0;
    }
    pair.cpu = machine_open(&ops_cpu, ELEMENT_F32);
    check_residuals(&pair);
    check_norms(&pair);
    check_ropes(&pair);
    check_patches(&pair);
    check_scatter(&pair);
    check_maps(&pair);
    check_search(&pair);
    check_watch(&pair);
    check_recording(&pair);
    ops_cpu.destroy(pair.cpu.device);
    ops_cuda()->destroy(pair.gpu.device);
    return tally_end(&pair.tally);
}
