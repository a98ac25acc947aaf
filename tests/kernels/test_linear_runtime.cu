/*
 * The GPU's device and its linear layers: products against sums in double on odd shapes, types and
 * activations; the statistics of random weights; offload against the same layers on the device;
 * recordings; memory that comes back. --time prints TFLOP/s of Wan2.1's shapes.
 */
#include "cuda_support.h"

#include "tensor/device_cuda.h"
#include "tensor/linear_cuda.h"
#include "tensor/weight_groups_cuda.h"

static struct device *open_device(enum element activations, bool offload)
{
    struct device_desc desc = {};
    struct device *device = NULL;
    struct error error = {};
    desc.activations = activations;
    desc.offload = offload;
    if (!device_cuda_create(&device, &desc, &error)) {
        fprintf(stderr, "no device: %s\n", error.text);
        exit(1);
    }
    return device;
}

static draftattn_dtype dtype_of(enum element type)
{
    return type == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
}

static std::vector<float> normals(int64_t count, uint64_t seed, float deviation)
{
    std::vector<float> values((size_t)count);
    for (int64_t i = 0; i < count; i++)
        values[(size_t)i] = deviation * random_normal(seed, (uint64_t)i);
    return values;
}

static struct linear *make_linear(struct device *device, int64_t in, int64_t out, bool exact,
                                  const float *weight, const float *bias, uint64_t seed)
{
    struct linear_desc desc = {};
    struct linear *linear = NULL;
    struct error error = {};
    desc.in = in;
    desc.out = out;
    desc.exact = exact;
    desc.weight = weight;
    desc.bias = bias != NULL;
    desc.bias_values = bias;
    desc.seed = seed;
    if (!linear_cuda_create(device, &linear, &desc, &error)) {
        fprintf(stderr, "no layer: %s\n", error.text);
        exit(1);
    }
    return linear;
}

/* --- products ------------------------------------------------------------------------------- */

struct layer_case {
    int64_t in, out, rows;
    enum element activations, x_type, y_type;
    bool exact, bias;
    enum activation activation;
    size_t offset; /* bytes that x and y are less aligned */
};

static double activated(double x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case ACTIVATION_GELU_ERF:
        return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    case ACTIVATION_SILU:
        return x / (1 + exp(-x));
    default:
        return x;
    }
}

/* Rows of x or y that 16-byte accesses do not reach: there cuBLASLt's kernels add the bias to what
 * they have rounded to bfloat16. */
static bool rounds_before_bias(const struct layer_case *c)
{
    return c->bias && (c->in % 8 != 0 || c->out % 8 != 0 || c->offset % 16 != 0);
}

/* What rounding may do to activation(sum), whose terms have this sum of absolute values. cuBLASLt's
 * GELU approximates its tanh; another activation of bfloat16 results reads what was rounded, and no
 * activation is steeper than 0x1.3p0. */
static double allowed(const struct layer_case *c, double sum, double bias, double value,
                      double terms)
{
    const bool half = c->activations == ELEMENT_BF16 && !c->exact, stored = c->y_type;
    const double rounding = c->activation == ACTIVATION_NONE ? 0x1p-8 : 0x1.3p-8;
    double most = 4e-6 * terms + 1e-6;
    if (half && c->activation == ACTIVATION_GELU_TANH)
        most += 1e-3 * (1 + fabs(value));
    if (half && stored && c->activation != ACTIVATION_NONE)
        most += rounding * fabs(sum);
    if (half && stored && rounds_before_bias(c))
        most += rounding * fabs(sum - bias);
    return stored ? most + 0x1p-8 * fabs(value) : most;
}

static bool linear_matches(struct device *device, const struct layer_case *c, uint64_t seed)
{
    const enum element type = c->exact ? ELEMENT_F32 : c->activations;
    const std::vector<float> weight = normals(c->out * c->in, seed, 1 / sqrtf((float)c->in));
    const std::vector<float> bias = normals(c->out, seed + 10, 1);
    const std::vector<char> x = random_elements(dtype_of(c->x_type), c->rows * c->in, seed + 20, 1);
    struct device_buffer dx = device_make(x.size(), 0, c->offset);
    struct device_buffer dy =
        device_make((size_t)(c->rows * c->out) * element_size(c->y_type), 0xff, c->offset);
    device_upload(&dx, x.data());
    CUDA_FINISH();
    struct linear *linear = make_linear(device, c->in, c->out, c->exact, weight.data(),
                                        c->bias ? bias.data() : NULL, 0);
    struct error error = {};
    bool ok = linear_cuda(device, linear, dx.data, c->x_type, dy.data, c->y_type, c->rows,
                          c->activation, &error) &&
              device_cuda_synchronise(device, &error);
    if (!ok)
        printf("%s\n", error.text);
    const std::vector<char> y = device_vector<char>(&dy);
    for (int64_t r = 0; r < c->rows && ok; r++)
        for (int64_t o = 0; o < c->out && ok; o++) {
            const double added = c->bias ? bias[(size_t)o] : 0;
            double sum = added, terms = fabs(sum);
            for (int64_t i = 0; i < c->in; i++) {
                const float a = load_from(x.data(), dtype_of(c->x_type), r * c->in + i);
                const double term = (double)round_to(dtype_of(type), a) *
                                    round_to(dtype_of(type), weight[(size_t)(o * c->in + i)]);
                sum += term;
                terms += fabs(term);
            }
            const double expected = activated(sum, c->activation);
            const double got = load_from(y.data(), dtype_of(c->y_type), r * c->out + o);
            /* A bfloat16 result takes its bias in bfloat16. */
            const double rounded =
                c->y_type == ELEMENT_BF16 && type == ELEMENT_BF16 ? 0x1p-8 * fabs(added) : 0;
            ok = fabs(got - expected) <= allowed(c, sum, added, expected, terms) + rounded;
            if (!ok)
                printf("row %lld, feature %lld: %.9g, expected %.9g\n", (long long)r, (long long)o,
                       got, expected);
        }
    ok = ok && device_guards_hold(&dx) && device_guards_hold(&dy);
    linear_cuda_destroy(device, linear);
    device_free(&dx);
    device_free(&dy);
    return ok;
}

static void check_products(struct tally *tally, struct device *device, enum element activations)
{
    static const int64_t shapes[][3] = {{1, 1, 1},     {3, 5, 7},     {8, 8, 1},
                                        {64, 96, 33},  {7, 64, 19},   {100, 36, 130},
                                        {256, 384, 1}, {1536, 8, 65}, {48, 1536, 3}};
    uint64_t seed = activations == ELEMENT_BF16 ? 1000 : 2000;
    for (const auto &shape : shapes)
        for (int bits = 0; bits < 128; bits++) {
            struct layer_case c = {};
            c.in = shape[0], c.out = shape[1], c.rows = shape[2];
            c.activations = activations;
            c.exact = bits & 1;
            c.bias = bits & 2;
            c.x_type = bits & 4 ? ELEMENT_BF16 : ELEMENT_F32;
            c.y_type = bits & 8 ? ELEMENT_BF16 : ELEMENT_F32;
            c.activation = (enum activation)(bits >> 4 & 3);
            c.offset = bits & 64 ? 4 : 0;
            tally_case(tally, linear_matches(device, &c, seed++),
                       "%lld to %lld, %lld rows, device %s, x %s, y %s, exact %d, bias %d, "
                       "activation %d, offset %zu",
                       (long long)c.in, (long long)c.out, (long long)c.rows,
                       activations ? "BF16" : "F32", c.x_type ? "BF16" : "F32",
                       c.y_type ? "BF16" : "F32", c.exact, c.bias, c.activation, c.offset);
        }
}

/* Large enough to be timed: bits are the same on a fresh device, and samples are right. */
static void check_large(struct tally *tally)
{
    const int64_t in = 512, out = 1536, rows = 8192 + 40;
    const std::vector<float> weight = normals(out * in, 5, 1 / sqrtf((float)in));
    const std::vector<float> bias = normals(out, 6, 1);
    std::vector<uint16_t> results[2];
    const std::vector<char> x = random_elements(DRAFTATTN_BF16, rows * in, 7, 1);
    for (auto &result : results) {
        struct device *device = open_device(ELEMENT_BF16, false);
        struct linear *linear = make_linear(device, in, out, false, weight.data(), bias.data(), 0);
        struct device_buffer dx = device_make(x.size(), 0);
        struct device_buffer dy = device_make((size_t)(rows * out) * 2, 0xff);
        struct error error = {};
        device_upload(&dx, x.data());
        CUDA_FINISH();
        bool same = true;
        for (int i = 0; i < 2; i++) { /* chooses, then has chosen */
            bool ok = linear_cuda(device, linear, dx.data, ELEMENT_BF16, dy.data, ELEMENT_BF16,
                                  rows, ACTIVATION_NONE, &error) &&
                      device_cuda_synchronise(device, &error);
            const std::vector<uint16_t> now = device_vector<uint16_t>(&dy);
            same = same && ok && (i == 0 || now == result) && device_guards_hold(&dy);
            result = now;
        }
        tally_case(tally, same, "a large product twice: %s", error.text);
        linear_cuda_destroy(device, linear);
        device_cuda_destroy(device);
        device_free(&dx);
        device_free(&dy);
    }
    tally_case(tally, results[0] == results[1], "a large product on two devices");
    bool right = true;
    for (uint64_t sample = 0; sample < 4000 && right; sample++) {
        const int64_t r = random_below(8, sample, rows), o = random_below(9, sample, out);
        double sum = bias[(size_t)o];
        for (int64_t i = 0; i < in; i++)
            sum += (double)load_from(x.data(), DRAFTATTN_BF16, r * in + i) *
                   round_to(DRAFTATTN_BF16, weight[(size_t)(o * in + i)]);
        const double got = float_from_bf16(results[0][(size_t)(r * out + o)]);
        right = fabs(got - sum) <= 0x1p-7 * (1 + fabs(sum));
    }
    tally_case(tally, right, "samples of a large product");
}

/* Which GELU cuBLASLt has. */
static void check_gelu_form(struct tally *tally)
{
    enum { ROWS = 8, FEATURES = 512 };
    struct device *device = open_device(ELEMENT_BF16, false);
    std::vector<float> weight(FEATURES * 8), bias(FEATURES), x(ROWS * 8, 0.0f), y(ROWS * FEATURES);
    for (int i = 0; i < FEATURES; i++)
        bias[(size_t)i] = -5 + 10.0f * (float)i / FEATURES;
    struct linear *linear = make_linear(device, 8, FEATURES, false, weight.data(), bias.data(), 0);
    struct device_buffer dx = device_from(x), dy = device_from(y);
    struct error error = {};
    bool ok = linear_cuda(device, linear, dx.data, ELEMENT_F32, dy.data, ELEMENT_F32, ROWS,
                          ACTIVATION_GELU_TANH, &error) &&
              device_cuda_synchronise(device, &error);
    y = device_vector<float>(&dy);
    double from_tanh = 0, from_erf = 0;
    for (int i = 0; i < FEATURES; i++) {
        const double b = bias[(size_t)i], got = y[(size_t)i];
        from_tanh = fmax(from_tanh, fabs(got - activated(b, ACTIVATION_GELU_TANH)));
        from_erf = fmax(from_erf, fabs(got - activated(b, ACTIVATION_GELU_ERF)));
    }
    printf("GELU as an epilogue: %.2e from the tanh form, %.2e from the erf form\n", from_tanh,
           from_erf);
    tally_case(tally, ok && from_tanh < from_erf && from_tanh < 1e-3, "GELU's form: %s",
               error.text);
    linear_cuda_destroy(device, linear);
    device_cuda_destroy(device);
    device_free(&dx);
    device_free(&dy);
}

/* --- random weights ------------------------------------------------------------------------- */

/* The weights of a layer that is random, read by its product with the unit matrix: [in][out]. */
static std::vector<float> random_weights(struct device *device, int64_t in, int64_t out,
                                         uint64_t seed)
{
    std::vector<float> unit((size_t)(in * in));
    for (int64_t i = 0; i < in; i++)
        unit[(size_t)(i * in + i)] = 1;
    struct linear *linear = make_linear(device, in, out, false, NULL, NULL, seed);
    struct device_buffer dx = device_from(unit), dy = device_make((size_t)(in * out) * 4, 0xff);
    struct error error = {};
    if (!linear_cuda(device, linear, dx.data, ELEMENT_F32, dy.data, ELEMENT_F32, in,
                     ACTIVATION_NONE, &error) ||
        !device_cuda_synchronise(device, &error))
        printf("%s\n", error.text);
    const std::vector<float> weights = device_vector<float>(&dy);
    linear_cuda_destroy(device, linear);
    device_free(&dx);
    device_free(&dy);
    return weights;
}

static void check_random(struct tally *tally, enum element activations)
{
    const int64_t in = 16, out = 1100001; /* more than one piece, and no multiple of 4 */
    const char *name = activations ? "BF16" : "F32";
    struct device *device = open_device(activations, false);
    const std::vector<float> w = random_weights(device, in, out, 42);
    const double count = (double)w.size(), bound = sqrt(3.0 / (double)in);
    double sum = 0, squares = 0, most = 0, tenths[10] = {};
    for (float value : w) {
        sum += value;
        squares += (double)value * value;
        most = fmax(most, fabs(value));
        tenths[(int)fmin(9, fmax(0, (value / bound + 1) * 5))]++;
    }
    tally_case(tally, fabs(sum / count) < 5 * bound / sqrt(3 * count), "%s random: mean", name);
    tally_case(tally, fabs(squares / count * (double)in - 1) < 2e-3, "%s random: variance", name);
    tally_case(tally, most <= bound * (1 + 0x1p-8) && most > 0.999 * bound, "%s random: bound",
               name);
    for (int i = 0; i < 10; i++)
        tally_case(tally, fabs(tenths[i] / count - 0.1) < 3e-3, "%s random: tenth %d", name, i);
    tally_case(tally, random_weights(device, in, out, 42) == w, "%s random: the same again", name);
    const std::vector<float> other = random_weights(device, in, out, 43);
    double product = 0;
    int64_t equal = 0;
    for (size_t i = 0; i < w.size(); i++) {
        product += (double)w[i] * other[i];
        equal += w[i] == other[i];
    }
    tally_case(tally, fabs(product / squares) < 5 / sqrt(count) && (double)equal < 0.01 * count,
               "%s random: another seed", name);
    device_cuda_destroy(device);
}

/* Random weights whose number is odd, made on their way to the host. */
static void check_random_group(struct tally *tally)
{
    std::vector<float> got[2];
    for (int offload = 0; offload < 2; offload++) {
        struct device *device = open_device(ELEMENT_BF16, offload);
        struct device_buffer dx = device_from(normals(7 * 9, 1, 1)), dy = device_make(7 * 5 * 4, 0);
        struct error error = {};
        CUDA_FINISH();
        weight_groups_cuda_begin(device);
        struct linear *linear = make_linear(device, 9, 5, false, NULL, NULL, 3);
        const bool ok = weight_groups_cuda_end(device, &error) &&
                        weight_groups_cuda_need(device, 0, -1, &error) &&
                        linear_cuda(device, linear, dx.data, ELEMENT_F32, dy.data, ELEMENT_F32, 7,
                                    ACTIVATION_NONE, &error) &&
                        device_cuda_synchronise(device, &error);
        tally_case(tally, ok, "45 random weights, offload %d: %s", offload, error.text);
        got[offload] = device_vector<float>(&dy);
        linear_cuda_destroy(device, linear);
        device_cuda_destroy(device);
        device_free(&dx);
        device_free(&dy);
    }
    tally_case(tally, got[0] == got[1], "45 random weights: the same with offload");
}

/* --- groups --------------------------------------------------------------------------------- */

enum { GROUPS = 3, LAYERS = 2 };

static const int64_t group_shapes[GROUPS][LAYERS][2] = {
    {{64, 128}, {128, 64}}, {{64, 40}, {40, 64}}, {{64, 2048}, {2048, 64}}};

static void make_groups(struct device *device, struct linear *layers[GROUPS][LAYERS])
{
    struct error error = {};
    for (int g = 0; g < GROUPS; g++) {
        weight_groups_cuda_begin(device);
        for (int i = 0; i < LAYERS; i++) {
            const int64_t in = group_shapes[g][i][0], out = group_shapes[g][i][1];
            const std::vector<float> weight =
                normals(in * out, (uint64_t)(100 + g * LAYERS + i), 1 / sqrtf((float)in));
            const std::vector<float> bias = normals(out, (uint64_t)(200 + g * LAYERS + i), 1);
            layers[g][i] = make_linear(device, in, out, false, weight.data(), bias.data(), 0);
        }
        if (!weight_groups_cuda_end(device, &error)) {
            fprintf(stderr, "no group: %s\n", error.text);
            exit(1);
        }
    }
}

/* Both layers of a group, on x [32][64]. */
static bool run_group(struct device *device, struct linear *const layers[LAYERS], const void *x,
                      void *between, void *y, struct error *error)
{
    return linear_cuda(device, layers[0], x, ELEMENT_BF16, between, ELEMENT_BF16, 32,
                       ACTIVATION_SILU, error) &&
           linear_cuda(device, layers[1], between, ELEMENT_BF16, y, ELEMENT_BF16, 32,
                       ACTIVATION_NONE, error);
}

static void check_groups(struct tally *tally)
{
    const size_t bytes = 32 * 64 * 2;
    struct linear *plain[GROUPS][LAYERS], *layers[GROUPS][LAYERS];
    struct device *reference = open_device(ELEMENT_BF16, false);
    struct device *device = open_device(ELEMENT_BF16, true);
    make_groups(reference, plain);
    make_groups(device, layers);
    const std::vector<char> x = random_elements(DRAFTATTN_BF16, 32 * 64, 3, 1);
    struct device_buffer dx = device_from(x), between = device_make(32 * 2048 * 2, 0);
    struct device_buffer dy = device_make(bytes, 0xff);
    struct error error = {};
    std::vector<char> expected[GROUPS];
    for (int g = 0; g < GROUPS; g++) {
        bool ok = weight_groups_cuda_need(reference, g, -1, &error) &&
                  run_group(reference, plain[g], dx.data, between.data, dy.data, &error) &&
                  device_cuda_synchronise(reference, &error);
        tally_case(tally, ok, "group %d on the device: %s", g, error.text);
        expected[g] = device_vector<char>(&dy);
    }
    tally_case(tally, !run_group(device, layers[0], dx.data, between.data, dy.data, &error),
               "a group that was not asked for");
    tally_case(tally, !weight_groups_cuda_need(device, GROUPS, -1, &error), "no such group");

    /* Results of a whole walk are kept apart, so that nothing waits on the way. */
    enum { STEPS = 60 };
    struct device_buffer all = device_make(STEPS * bytes, 0xff);
    int64_t order[STEPS + 1];
    for (uint64_t i = 0; i <= STEPS; i++)
        order[i] = i < 2 * GROUPS ? (int64_t)(i % GROUPS) : random_below(11, i, GROUPS);
    bool ok = true;
    for (int i = 0; i < STEPS; i++) {
        const int64_t guess = i % 7 == 3   ? -1
                              : i % 7 == 5 ? random_below(12, (uint64_t)i, GROUPS)
                                           : order[i + 1];
        ok = ok && weight_groups_cuda_need(device, order[i], guess, &error) &&
             run_group(device, layers[order[i]], dx.data, between.data,
                       all.data + (size_t)i * bytes, &error);
    }
    struct recording *recording = NULL;
    ok = ok && device_cuda_record_begin(device, &error) &&
         weight_groups_cuda_need(device, order[0], -1, &error) &&
         device_cuda_record_end(device, &recording, &error) &&
         device_cuda_synchronise(device, &error);
    tally_case(tally, ok && !recording, "a walk through groups: %s", error.text);
    const std::vector<char> got = device_vector<char>(&all);
    for (int i = 0; i < STEPS; i++)
        tally_case(tally, !memcmp(got.data() + (size_t)i * bytes, expected[order[i]].data(), bytes),
                   "step %d of the walk, group %d", i, (int)order[i]);
    tally_case(tally,
               weight_groups_cuda_need(device, 0, 1, &error) &&
                   !run_group(device, layers[1], dx.data, between.data, dy.data, &error),
               "a group that is on its way, and was not asked for");
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < LAYERS; i++) {
            linear_cuda_destroy(reference, plain[g][i]);
            linear_cuda_destroy(device, layers[g][i]);
        }

    make_groups(device, layers); /* the next network's start at 0 again */
    for (int g = 0; g < GROUPS; g++) {
        ok = weight_groups_cuda_need(device, g, -1, &error) &&
             run_group(device, layers[g], dx.data, between.data, dy.data, &error) &&
             device_cuda_synchronise(device, &error);
        tally_case(tally, ok && device_vector<char>(&dy) == expected[g],
                   "group %d of the next network: %s", g, error.text);
    }
    tally_case(tally, !weight_groups_cuda_need(device, GROUPS, -1, &error),
               "no group of the last network");
    for (auto &group : layers)
        for (struct linear *linear : group)
            linear_cuda_destroy(device, linear);
    device_cuda_destroy(reference);
    device_cuda_destroy(device);
    device_free(&dx);
    device_free(&dy);
    device_free(&between);
    device_free(&all);
}

/* --- the device ------------------------------------------------------------------------------ */

static void check_recording(struct tally *tally)
{
    const int64_t in = 96, out = 64, rows = 50;
    struct device *device = open_device(ELEMENT_BF16, false);
    const std::vector<float> weight = normals(in * out, 1, 0.1f), bias = normals(out, 2, 1);
    const std::vector<float> x[2] = {normals(rows * in, 3, 1), normals(rows * in, 4, 1)};
    struct linear *linear = make_linear(device, in, out, false, weight.data(), bias.data(), 0);
    float *dx = (float *)device_cuda_alloc(device, (size_t)(rows * in) * 4);
    float *dy = (float *)device_cuda_alloc(device, (size_t)(rows * out) * 4);
    std::vector<float> expected((size_t)(rows * out)), got(expected.size());
    struct recording *recording = NULL;
    struct error error = {};
    auto run = [&] { /* x is converted in scratch */
                     return linear_cuda(device, linear, dx, ELEMENT_F32, dy, ELEMENT_F32, rows,
                                        ACTIVATION_GELU_TANH, &error);
    };
    device_cuda_upload(device, dx, x[1].data(), x[1].size() * 4);
    bool ok = run();
    device_cuda_download(device, expected.data(), dy, expected.size() * 4);

    device_cuda_upload(device, dx, x[0].data(), x[0].size() * 4);
    ok = ok && device_cuda_record_begin(device, &error) && run();
    tally_case(tally, device_cuda_scratch(device, (size_t)1 << 30) == NULL,
               "scratch grows while recording");
    ok = ok && device_cuda_record_end(device, &recording, &error) && recording;
    tally_case(tally, ok, "recording: %s", error.text);
    /* Outgrows the scratch that the recording holds, and dirties what is free. */
    void *large = device_cuda_scratch(device, (size_t)64 << 20);
    tally_case(tally, large != NULL, "scratch grows after recording");
    CUDA_OK(cudaMemsetAsync(large, 0xff, (size_t)64 << 20, device->stream));
    device_cuda_upload(device, dx, x[1].data(), x[1].size() * 4);
    CUDA_OK(cudaMemsetAsync(dy, 0xff, got.size() * 4, device->stream));
    for (int i = 0; i < 3 && ok; i++)
        ok = device_cuda_replay(device, recording, &error);
    device_cuda_download(device, got.data(), dy, got.size() * 4);
    tally_case(tally, ok && got == expected, "replay: %s", error.text);
    device_cuda_recording_destroy(device, recording);
    linear_cuda_destroy(device, linear);
    device_cuda_free(device, dx);
    device_cuda_free(device, dy);
    device_cuda_destroy(device);
}

static void check_device(struct tally *tally)
{
    struct device_desc desc = {};
    struct device *device = NULL;
    struct error error = {};
    desc.index = 1000;
    tally_case(tally,
               !device_cuda_create(&device, &desc, &error) && !device && strstr(error.text, "1000"),
               "device 1000: %s", error.text);
    device = open_device(ELEMENT_F32, false);
    struct linear_desc layer = {};
    struct linear *linear = NULL;
    layer.in = INT64_MAX / 2;
    layer.out = 3;
    tally_case(tally, !linear_cuda_create(device, &linear, &layer, &error) && !linear,
               "a layer that cannot be");
    layer.in = (int64_t)1 << 40;
    layer.out = 2;
    tally_case(tally, !linear_cuda_create(device, &linear, &layer, &error) && !linear,
               "a layer that no memory holds");
    tally_case(tally, device_cuda_synchronise(device, &error), "and the device goes on: %s",
               error.text);

    int32_t place = -1;
    int64_t row = -1;
    tally_case(tally, !device_cuda_watched(device, &place, &row), "nothing to watch");
    const uint64_t word = (uint64_t)7 << 40 | 123456;
    device_cuda_upload(device, device->watched, &word, sizeof word);
    tally_case(tally, device_cuda_watched(device, &place, &row) && place == 7 && row == 123456,
               "watched: place %d, row %lld", place, (long long)row);
    tally_case(tally, !device_cuda_watched(device, &place, &row), "watched once");
    device_cuda_destroy(device);
    device_cuda_destroy(NULL);
}

static size_t free_memory(void)
{
    size_t available = 0, total;
    CUDA_FINISH();
    CUDA_OK(cudaMemGetInfo(&available, &total));
    return available;
}

/* A life of a device with all that it can hold. */
static void live(bool offload)
{
    struct linear *layers[GROUPS][LAYERS];
    struct device *device = open_device(ELEMENT_BF16, offload);
    struct error error = {};
    make_groups(device, layers);
    void *memory = device_cuda_alloc(device, (size_t)300 << 20);
    if (!weight_groups_cuda_need(device, 0, 1, &error) ||
        !device_cuda_scratch(device, (size_t)200 << 20) ||
        !run_group(device, layers[0], memory, (char *)memory + (1 << 20),
                   (char *)memory + (2 << 20), &error))
        printf("%s\n", error.text);
    device_cuda_free(device, memory);
    for (auto &group : layers)
        for (struct linear *linear : group)
            linear_cuda_destroy(device, linear);
    device_cuda_destroy(device);
}

static void check_memory(struct tally *tally)
{
    live(false); /* brings code to the device, which stays */
    live(true);
    const size_t before = free_memory();
    for (int i = 0; i < 6; i++)
        live(i % 2);
    const size_t after = free_memory();
    tally_case(tally, after >= before, "%zu bytes of memory do not come back", before - after);
}

/* --- timing ---------------------------------------------------------------------------------- */

static void time_one(struct device *device, int64_t in, int64_t out, int64_t rows,
                     enum activation activation)
{
    enum { RUNS = 10 };
    struct linear *linear = make_linear(device, in, out, false, NULL, NULL, 1);
    struct device_buffer x = device_make((size_t)(rows * in) * 2, 0);
    struct device_buffer y = device_make((size_t)(rows * out) * 2, 0);
    struct error error = {};
    cudaEvent_t begin, end;
    std::vector<float> times(RUNS);
    device_random(&x, DRAFTATTN_BF16, 3, 1);
    CUDA_FINISH();
    CUDA_OK(cudaEventCreate(&begin));
    CUDA_OK(cudaEventCreate(&end));
    float first = 0;
    for (int i = -1; i < RUNS; i++) {
        CUDA_OK(cudaEventRecord(begin, device->stream));
        if (!linear_cuda(device, linear, x.data, ELEMENT_BF16, y.data, ELEMENT_BF16, rows,
                         activation, &error))
            printf("%s\n", error.text);
        CUDA_OK(cudaEventRecord(end, device->stream));
        CUDA_OK(cudaEventSynchronize(end));
        CUDA_OK(cudaEventElapsedTime(i < 0 ? &first : &times[(size_t)i], begin, end));
    }
    std::sort(times.begin(), times.end());
    const double ms = times[RUNS / 2];
    printf("%6lld rows, %5lld to %5lld%s: %.3f ms, %.0f TFLOP/s, the first %.0f ms\n",
           (long long)rows, (long long)in, (long long)out,
           activation == ACTIVATION_GELU_TANH ? ", GELU" : "", ms,
           2e-9 * (double)rows * (double)in * (double)out / ms, (double)first);
    linear_cuda_destroy(device, linear);
    CUDA_OK(cudaEventDestroy(begin));
    CUDA_OK(cudaEventDestroy(end));
    device_free(&x);
    device_free(&y);
}

/* Bytes a second of groups on their way in, while nothing else runs. */
static void time_offload(void)
{
    enum { RUNS = 12 };
    struct device *device = open_device(ELEMENT_BF16, true);
    struct linear *layers[3];
    struct error error = {};
    cudaEvent_t begin, end;
    for (auto &layer : layers) {
        weight_groups_cuda_begin(device);
        layer = make_linear(device, 5120, 65536, false, NULL, NULL, 1);
        if (!weight_groups_cuda_end(device, &error))
            printf("%s\n", error.text);
    }
    CUDA_OK(cudaEventCreate(&begin));
    CUDA_OK(cudaEventCreate(&end));
    CUDA_OK(cudaEventRecord(begin, device->stream));
    for (int i = 0; i < RUNS; i++)
        if (!weight_groups_cuda_need(device, i % 3, -1, &error))
            printf("%s\n", error.text);
    CUDA_OK(cudaEventRecord(end, device->stream));
    CUDA_OK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    printf("groups of %.0f MB from the host: %.1f GB/s\n", 5120 * 65536 * 2 / 1e6,
           RUNS * 5120.0 * 65536 * 2 / 1e6 / (double)ms);
    for (struct linear *layer : layers)
        linear_cuda_destroy(device, layer);
    CUDA_OK(cudaEventDestroy(begin));
    CUDA_OK(cudaEventDestroy(end));
    device_cuda_destroy(device);
}

static void time_all(void)
{
    struct device *device = open_device(ELEMENT_BF16, false);
    for (int64_t rows : {75600, 32760}) {
        time_one(device, 5120, 15360, rows, ACTIVATION_NONE);
        time_one(device, 5120, 5120, rows, ACTIVATION_NONE);
        time_one(device, 5120, 13824, rows, ACTIVATION_GELU_TANH);
        time_one(device, 13824, 5120, rows, ACTIVATION_NONE);
    }
    time_one(device, 1536, 4608, 32760, ACTIVATION_NONE);
    time_one(device, 1536, 1536, 32760, ACTIVATION_NONE);
    time_one(device, 1536, 8960, 32760, ACTIVATION_GELU_TANH);
    time_one(device, 8960, 1536, 32760, ACTIVATION_NONE);
    time_one(device, 5120, 10240, 512, ACTIVATION_NONE);
    time_one(device, 4096, 10240, 512, ACTIVATION_GELU_TANH);
    time_one(device, 5120, 30720, 1, ACTIVATION_NONE);
    device_cuda_destroy(device);
    time_offload();
}

int main(int argc, char **argv)
{
    struct tally tally = {};
    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        time_all();
        return 0;
    }
    for (enum element activations : {ELEMENT_F32, ELEMENT_BF16}) {
        struct device *device = open_device(activations, false);
        check_products(&tally, device, activations);
        device_cuda_destroy(device);
        check_random(&tally, activations);
    }
    check_large(&tally);
    check_gelu_form(&tally);
    check_random_group(&tally);
    check_groups(&tally);
    check_recording(&tally);
    check_device(&tally);
    check_memory(&tally);
    return tally_end(&tally);
}
