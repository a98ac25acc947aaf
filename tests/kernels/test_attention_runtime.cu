/*
 * ops_cuda's attention against its definition in double precision: both ways it goes, sizes around
 * every edge of a tile and of a pass, strides, alignments, all options, memory of NaN around what
 * may be read and untouched bytes around what may be written.
 *
 * A result may be off by first-order float errors of its logits and sums, and where elements are
 * bfloat16 by the rounding of its weights, of itself and of what it is added to; all of a case
 * together by a third of that. Rows are sampled where there are many, but every one must be
 * written.
 *
 *     test_attention_runtime [--time]
 */
extern "C" {
#include "tensor/ops.h"
}

#include "cuda_support.h"

static const double LOGIT_ULPS = 0x1p-19; /* of the sum of a logit's absolute products */
static const double SUM_ULPS = 0x1p-18;
static const double BF16_ULP = 0x1p-8; /* half a spacing */
static const double TOGETHER = 0.35;   /* of TOGETHER_LEAST elements or more */
static const int64_t WORK = 1000000;   /* products that the definition may take for a case */

enum { GAP_BYTE = 0x5c, TOGETHER_LEAST = 64 };

struct options {
    enum element type;
    int32_t heads, head_dim;
    int64_t q_rows, k_rows;
    bool band, keys, accumulate; /* biases; o += */
    bool packed;                 /* k and v of a key are neighbours */
    bool late;                   /* one element behind where vectors would want it */
    int32_t gap;                 /* elements between rows */
    float scale, deviation;      /* scale 0: 1 / sqrt(head_dim) */
};

/* Rows of [heads * head_dim] with gaps between them, on both sides. */
struct rows {
    int64_t count, stride;
    std::vector<char> host;
    struct device_buffer gpu;
};

struct host_case {
    struct options options;
    draftattn_dtype dtype;
    struct rows q, k, v, o; /* o.host: before */
    std::vector<float> band, keys;
    struct device_buffer band_gpu, keys_gpu;
    struct ops_attention attention;
};

struct machine {
    const struct ops *ops;
    struct device *device[2]; /* by enum element */
    struct tally tally;
};

static void fail(const char *text)
{
    fprintf(stderr, "%s\n", text);
    exit(1);
}

static const char *name_of(enum element type)
{
    return type == ELEMENT_BF16 ? "bf16" : "f32";
}

static int64_t features_of(const struct options &options)
{
    return (int64_t)options.heads * options.head_dim;
}

/* --- what is run -------------------------------------------------------------------------- */

/* gaps hold gap_byte. */
static struct rows make_rows(const struct options &options, draftattn_dtype dtype, int64_t count,
                             uint64_t seed, float deviation, int gap_byte)
{
    const int64_t features = features_of(options);
    const size_t size = dtype_size(dtype);
    struct rows rows = {};

    rows.count = count;
    rows.stride = features + options.gap;
    rows.host.assign((size_t)(count * rows.stride) * size, (char)gap_byte);
    for (int64_t i = 0; i < count * features; i++) {
        store_to(rows.host.data(), dtype, i / features * rows.stride + i % features,
                 deviation * random_normal(seed, (uint64_t)i));
    }
    return rows;
}

static void to_gpu(const struct options &options, draftattn_dtype dtype, struct rows *rows)
{
    rows->gpu = device_make(rows->host.size(), 0, options.late ? dtype_size(dtype) : 0);
    device_upload(&rows->gpu, rows->host.data());
}

static struct device_buffer floats_to_gpu(std::vector<float> &values, int64_t count, uint64_t seed,
                                          float deviation)
{
    for (int64_t i = 0; i < count; i++) {
        values.push_back(deviation * random_normal(seed, (uint64_t)i));
    }
    struct device_buffer gpu = device_make(values.size() * sizeof(float), 0, sizeof(float));
    device_upload(&gpu, values.data());
    return gpu;
}

/* k and v as one array of rows, k first: then the buffer of k holds both. */
static void pack(struct host_case *c)
{
    const size_t row = c->k.host.size() / (size_t)c->k.count;
    std::vector<char> both;

    for (size_t i = 0; i < (size_t)c->k.count; i++) {
        both.insert(both.end(), &c->k.host[i * row], &c->k.host[i * row] + row);
        both.insert(both.end(), &c->v.host[i * row], &c->v.host[i * row] + row);
    }
    c->k.gpu = device_make(both.size(), 0, c->options.late ? dtype_size(c->dtype) : 0);
    device_upload(&c->k.gpu, both.data());
}

static struct host_case make_case(const struct options &options)
{
    struct host_case c = {};
    struct ops_attention &a = c.attention;
    const int64_t bands = options.heads * (options.q_rows + options.k_rows - 1);
    const uint64_t seed = (uint64_t)(options.q_rows * 1000 + options.k_rows * 7 + options.heads);

    c.options = options;
    c.dtype = options.type == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
    c.q = make_rows(options, c.dtype, options.q_rows, seed, options.deviation, 0xff);
    c.k = make_rows(options, c.dtype, options.k_rows, seed + 2, options.deviation, 0xff);
    c.v = make_rows(options, c.dtype, options.k_rows, seed + 4, 1, 0xff);
    c.o = make_rows(options, c.dtype, options.q_rows, seed + 6, options.accumulate ? 1 : NAN,
                    GAP_BYTE);
    to_gpu(options, c.dtype, &c.q);
    to_gpu(options, c.dtype, &c.o);
    if (options.packed) {
        pack(&c);
    } else {
        to_gpu(options, c.dtype, &c.k);
        to_gpu(options, c.dtype, &c.v);
    }
    a.q = c.q.gpu.data;
    a.k = c.k.gpu.data;
    a.v = options.packed ? c.k.gpu.data + c.k.stride * (int64_t)dtype_size(c.dtype) : c.v.gpu.data;
    a.o = c.o.gpu.data;
    a.type = options.type;
    a.q_stride = c.q.stride;
    a.k_stride = a.v_stride = c.k.stride * (options.packed ? 2 : 1);
    a.o_stride = c.o.stride;
    a.q_rows = options.q_rows;
    a.k_rows = options.k_rows;
    a.heads = options.heads;
    a.head_dim = options.head_dim;
    a.scale = options.scale != 0 ? options.scale : 1 / sqrtf((float)options.head_dim);
    a.accumulate = options.accumulate;
    if (options.band) {
        c.band_gpu = floats_to_gpu(c.band, bands, seed + 8, 1);
        a.bias = (const float *)c.band_gpu.data;
    }
    if (options.keys) {
        c.keys_gpu = floats_to_gpu(c.keys, options.k_rows, seed + 10, 2);
        a.key_bias = (const float *)c.keys_gpu.data;
    }
    return c;
}

static void free_case(struct host_case *c)
{
    struct device_buffer *buffers[] = {&c->q.gpu, &c->k.gpu,    &c->v.gpu,
                                       &c->o.gpu, &c->band_gpu, &c->keys_gpu};
    for (struct device_buffer *buffer : buffers) {
        if (buffer->base)
            device_free(buffer);
    }
}

static void attend(const struct machine *machine, const struct ops_attention *attention)
{
    struct device *device = machine->device[attention->type];
    struct error error = {};

    CUDA_FINISH(); /* what was uploaded: the device's stream does not wait for it */
    if (!machine->ops->attention(device, attention, &error) ||
        !machine->ops->synchronise(device, &error))
        fail(error.text);
}

/* From the same o as before; what it is then. */
static std::vector<char> run_case(const struct machine *machine, const struct host_case *c)
{
    device_upload(&c->o.gpu, c->o.host.data());
    attend(machine, &c->attention);
    return device_vector<char>(&c->o.gpu);
}

/* --- the oracle --------------------------------------------------------------------------- */

static double element_of(const struct host_case *c, const struct rows &rows, int64_t row,
                         int64_t feature)
{
    return load_from(rows.host.data(), c->dtype, row * rows.stride + feature);
}

/* Logits of a query of a head, and the largest sum of what one was added up from. */
static std::vector<double> logits_of(const struct host_case *c, int64_t head, int64_t query,
                                     double *largest)
{
    const struct ops_attention &a = c->attention;
    std::vector<double> logits((size_t)a.k_rows);

    *largest = 0;
    for (int64_t j = 0; j < a.k_rows; j++) {
        double logit = 0, absolute = 0;
        for (int64_t d = head * a.head_dim; d < (head + 1) * a.head_dim; d++) {
            const double product =
                a.scale * element_of(c, c->q, query, d) * element_of(c, c->k, j, d);
            logit += product;
            absolute += fabs(product);
        }
        if (a.bias)
            logit += c->band[(size_t)(head * (a.q_rows + a.k_rows - 1) + j - query + a.q_rows - 1)];
        if (a.key_bias)
            logit += c->keys[(size_t)j];
        logits[(size_t)j] = logit;
        *largest = std::max(*largest, absolute + fabs(logit));
    }
    return logits;
}

/* Squares of what is off and of what may be, of all elements that were looked at. */
struct sums {
    double off, may;
    int64_t count;
};

static bool row_is_right(const struct host_case *c, const std::vector<char> &o, int64_t head,
                         int64_t query, struct sums *sums)
{
    const struct ops_attention &a = c->attention;
    double largest = 0, total = 0;
    std::vector<double> weights = logits_of(c, head, query, &largest);
    const double top = *std::max_element(weights.begin(), weights.end());
    bool ok = true;

    for (double &weight : weights) {
        weight = exp(weight - top);
        total += weight;
    }
    for (int64_t d = head * a.head_dim; d < (head + 1) * a.head_dim; d++) {
        double sum = 0, absolute = 0;
        for (int64_t j = 0; j < a.k_rows; j++) {
            const double part = weights[(size_t)j] / total * element_of(c, c->v, j, d);
            sum += part;
            absolute += fabs(part);
        }
        const double before = a.accumulate ? element_of(c, c->o, query, d) : 0;
        double may = absolute * (2 * LOGIT_ULPS * largest + SUM_ULPS) + 0x1p-23 * fabs(before);
        if (a.type == ELEMENT_BF16)
            may += BF16_ULP * 1.02 * (absolute + fabs(sum) + fabs(sum + before));
        const double off =
            fabs(load_from(o.data(), c->dtype, query * c->o.stride + d) - (sum + before));
        ok = ok && off <= may; /* false where it is NaN */
        sums->off += off * off;
        sums->may += may * may;
        sums->count++;
    }
    return ok;
}

/* --- cases -------------------------------------------------------------------------------- */

static bool rows_are_right(const struct host_case *c, const std::vector<char> &o)
{
    const struct options &options = c->options;
    const int64_t all = options.q_rows * options.heads;
    const int64_t most = std::max<int64_t>(4, WORK / (options.k_rows * options.head_dim));
    const int64_t looked_at = std::min(all, most);
    struct sums sums = {};
    bool ok = true;

    for (int64_t i = 0; i < looked_at; i++) { /* the first and the last are among them */
        const int64_t at = looked_at == 1 ? 0 : i * (all - 1) / (looked_at - 1);
        ok = row_is_right(c, o, at / options.q_rows, at % options.q_rows, &sums) && ok;
    }
    return ok && (sums.count < TOGETHER_LEAST || sqrt(sums.off) <= TOGETHER * sqrt(sums.may));
}

/* Every row was written, and nothing between rows or beside them. */
static bool bounds_hold(const struct host_case *c, const std::vector<char> &o)
{
    const int64_t features = features_of(c->options);
    const size_t size = dtype_size(c->dtype);
    bool ok = device_guards_hold(&c->o.gpu);

    for (int64_t i = 0; i < c->o.count * c->o.stride; i++) {
        if (i % c->o.stride < features)
            ok = ok && std::isfinite(load_from(o.data(), c->dtype, i));
        else
            ok = ok && memcmp(&o[(size_t)i * size], &c->o.host[(size_t)i * size], size) == 0;
    }
    return ok;
}

static void check(struct machine *machine, const struct options &options)
{
    struct host_case c = make_case(options);
    const std::vector<char> o = run_case(machine, &c), again = run_case(machine, &c);
    const bool right = rows_are_right(&c, o), bounds = bounds_hold(&c, o), same = o == again;

    tally_case(&machine->tally, right && bounds && same,
               "%s, %d heads of %d, %lld queries, %lld keys%s%s%s%s%s, gap %d, scale %g: %s%s%s",
               name_of(options.type), options.heads, options.head_dim, (long long)options.q_rows,
               (long long)options.k_rows, options.band ? ", band" : "",
               options.keys ? ", key bias" : "", options.accumulate ? ", accumulate" : "",
               options.packed ? ", packed" : "", options.late ? ", late" : "", options.gap,
               c.attention.scale, right ? "" : "wrong ", bounds ? "" : "out of bounds ",
               same ? "" : "not the same again");
    free_case(&c);
}

/* Every combination that matters of a size: options follow from a running number. */
static struct options turn_options(enum element type, int32_t heads, int32_t head_dim,
                                   int64_t q_rows, int64_t k_rows, int turn)
{
    static const int32_t gaps[] = {0, 8, 5, 16, 3};
    struct options options = {};

    options.type = type;
    options.heads = heads;
    options.head_dim = head_dim;
    options.q_rows = q_rows;
    options.k_rows = k_rows;
    options.keys = turn % 2;
    options.accumulate = turn / 2 % 2;
    options.packed = turn % 3 == 1;
    options.late = turn % 7 == 3;
    options.gap = gaps[turn % 5];
    options.deviation = 1;
    return options;
}

static void check_fused(struct machine *machine)
{
    static const int64_t keys[] = {1,  2,  8,  14, 15,  16,  17,  31,  33,  63,
                                   64, 65, 77, 96, 127, 128, 129, 192, 257, 512};
    static const int64_t queries[] = {1, 127, 128, 129, 300, 17, 64, 513, 16};
    static const int32_t heads[] = {1, 2, 5, 12};
    int turn = 0;

    for (int64_t k_rows : keys) {
        for (int32_t head_dim : {64, 128}) {
            for (int i = 0; i < 4; i++, turn++) {
                check(machine, turn_options(ELEMENT_BF16, heads[turn % 4], head_dim,
                                            queries[turn % 9], k_rows, turn));
            }
        }
    }
    struct options options = turn_options(ELEMENT_BF16, 3, 128, 200, 200, 0);
    options.deviation = 12; /* weights of one key, or of few */
    check(machine, options);
    options.k_rows = 40;
    check(machine, options);
    options.scale = 1e-6f; /* of all alike */
    check(machine, options);
    options.k_rows = 3000; /* bases that rise on the way */
    options.scale = 0;
    options.deviation = 3;
    options.keys = true;
    check(machine, options);
}

static void check_stored(struct machine *machine)
{
    static const int32_t dims[] = {1, 3, 16, 40, 64, 128, 384};
    static const int64_t keys[] = {1, 2, 3, 5, 14, 77, 226, 512, 1024, 1025, 1500};
    static const int64_t queries[] = {1, 2, 30, 127, 129, 260};
    int turn = 0;

    for (int64_t k_rows : keys) {
        for (int32_t head_dim : dims) {
            struct options options =
                turn_options(ELEMENT_F32, 1 + turn % 3, head_dim, queries[turn % 6], k_rows, turn);
            options.band = turn / 4 % 2;
            check(machine, options);
            turn++;
            if (turn % 3 == 0) { /* with a band, or where no tile fits, bfloat16 goes here too */
                options.type = ELEMENT_BF16;
                options.band = options.band || head_dim == 64 || head_dim == 128;
                check(machine, options);
            }
        }
    }
    struct options options = turn_options(ELEMENT_F32, 64, 64, 100, 100, 0); /* T5's */
    options.band = true;
    options.scale = 1;
    options.deviation = 0.5f;
    check(machine, options);
    options.scale = -0.3f;
    check(machine, options);
    options.type = ELEMENT_BF16;
    options.band = false;
    check(machine, options);
}

/* Logits beyond what is stored at once: passes of queries, of heads. */
static void check_passes(struct machine *machine)
{
    for (int type = ELEMENT_F32; type <= ELEMENT_BF16; type++) {
        struct options options = turn_options((enum element)type, 2, 16, 4500, 9001, 3);
        options.band = true;
        check(machine, options);
        options = turn_options((enum element)type, 20, 2, 130, 40000, 2);
        check(machine, options);
    }
}

/* --- what is not finite ------------------------------------------------------------------- */

static void store_gpu(const struct host_case *c, const struct rows &rows, int64_t row,
                      int64_t feature, float value)
{
    const size_t size = dtype_size(c->dtype);
    char stored[4];

    store_to(stored, c->dtype, 0, value);
    CUDA_OK(cudaMemcpy(rows.gpu.data + (size_t)(row * rows.stride + feature) * size, stored, size,
                       cudaMemcpyHostToDevice));
}

/* query < 0: all of the head are NaN; everything else is what it was. */
static bool spread_is_right(const struct host_case *c, const std::vector<char> &before,
                            const std::vector<char> &after, int64_t head, int64_t query)
{
    const int64_t dim = c->options.head_dim;
    bool ok = true;

    for (int64_t i = 0; i < c->o.count * features_of(c->options); i++) {
        const int64_t row = i / features_of(c->options), feature = i % features_of(c->options);
        const int64_t at = row * c->o.stride + feature;
        const float value = load_from(after.data(), c->dtype, at);
        if (feature / dim == head && (query < 0 || row == query))
            ok = ok && std::isnan(value);
        else
            ok = ok && value == load_from(before.data(), c->dtype, at);
    }
    return ok;
}

static void check_spread(struct machine *machine, enum element type, int64_t k_rows)
{
    static const float broken[] = {NAN, INFINITY, -INFINITY};
    const int64_t head = 1, query = 130, key = k_rows - 1, dim = 64;
    struct host_case c = make_case(turn_options(type, 3, (int32_t)dim, 140, k_rows, 0));
    const std::vector<char> before = run_case(machine, &c);

    for (float value : broken) {
        store_gpu(&c, c.q, query, head * dim + 7, value);
        const bool ok = spread_is_right(&c, before, run_case(machine, &c), head, query);
        tally_case(&machine->tally, ok, "%s, %lld keys: %g in a query", name_of(type),
                   (long long)k_rows, value);
        store_gpu(&c, c.q, query, head * dim + 7, 0);
    }
    store_gpu(&c, c.q, query, head * dim + 7,
              load_from(c.q.host.data(), c.dtype, query * c.q.stride + head * dim + 7));
    store_gpu(&c, c.k, key, head * dim + 9, NAN);
    tally_case(&machine->tally, spread_is_right(&c, before, run_case(machine, &c), head, -1),
               "%s, %lld keys: NaN in a key", name_of(type), (long long)k_rows);
    free_case(&c);
}

/* --- recordings --------------------------------------------------------------------------- */

static void check_recording(struct machine *machine, enum element type, int64_t k_rows)
{
    const struct ops *ops = machine->ops;
    struct device *device = machine->device[type];
    struct host_case c = make_case(turn_options(type, 3, 128, 200, k_rows, 1));
    const std::vector<char> want = run_case(machine, &c);
    struct recording *recording = NULL;
    struct error error = {};

    device_upload(&c.o.gpu, c.o.host.data());
    CUDA_FINISH();
    if (!ops->record_begin(device, &error) || !ops->attention(device, &c.attention, &error) ||
        !ops->record_end(device, &recording, &error) || !recording)
        fail(error.text);
    const bool untouched = device_vector<char>(&c.o.gpu) == c.o.host;
    if (!ops->replay(device, recording, &error) || !ops->synchronise(device, &error))
        fail(error.text);
    tally_case(&machine->tally, untouched && device_vector<char>(&c.o.gpu) == want,
               "%s, %lld keys: recorded and replayed", name_of(type), (long long)k_rows);
    ops->recording_destroy(device, recording);
    free_case(&c);
}

/* A device that has no scratch memory yet must not take some while it records. */
static void check_refusals(struct machine *machine)
{
    const struct ops *ops = machine->ops;
    struct host_case c = make_case(turn_options(ELEMENT_F32, 3, 32, 200, 100, 0));
    struct ops_attention none = c.attention;
    struct device_desc desc = {};
    struct device *device = NULL;
    struct recording *recording = NULL;
    struct error error = {};

    none.k_rows = 0;
    bool ok = !ops->attention(machine->device[ELEMENT_F32], &none, &error);
    tally_case(&machine->tally, ok && strstr(error.text, "0 keys"), "no keys: '%s'", error.text);
    error = {};
    if (!ops->create(&device, &desc, &error) || !ops->record_begin(device, &error))
        fail(error.text);
    ok = !ops->attention(device, &c.attention, &error);
    tally_case(&machine->tally, ok && strstr(error.text, "recorded"), "scratch while recording: %s",
               error.text);
    ops->record_end(device, &recording, &error);
    ops->recording_destroy(device, recording);
    ops->destroy(device);
    free_case(&c);
}

/* --- time --------------------------------------------------------------------------------- */

static float median_ms(const struct machine *machine, const struct ops_attention *attention)
{
    struct device *device = machine->device[attention->type];
    const cudaStream_t stream = (cudaStream_t)machine->ops->stream(device);
    cudaEvent_t begin, end;
    std::vector<float> times(21);

    CUDA_OK(cudaEventCreate(&begin));
    CUDA_OK(cudaEventCreate(&end));
    for (int i = 0; i < 3; i++) {
        attend(machine, attention);
    }
    for (float &time : times) {
        struct error error = {};
        CUDA_OK(cudaEventRecord(begin, stream));
        if (!machine->ops->attention(device, attention, &error))
            fail(error.text);
        CUDA_OK(cudaEventRecord(end, stream));
        CUDA_OK(cudaEventSynchronize(end));
        CUDA_OK(cudaEventElapsedTime(&time, begin, end));
    }
    CUDA_OK(cudaEventDestroy(end));
    CUDA_OK(cudaEventDestroy(begin));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

static void time_one(const struct machine *machine, enum element type, int32_t heads,
                     int32_t head_dim, int64_t q_rows, int64_t k_rows, bool accumulate)
{
    const draftattn_dtype dtype = type == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
    const int64_t features = (int64_t)heads * head_dim, size = (int64_t)dtype_size(dtype);
    struct device_buffer q = device_make((size_t)(q_rows * features * size), 0);
    struct device_buffer kv = device_make((size_t)(2 * k_rows * features * size), 0);
    struct device_buffer o = device_make((size_t)(q_rows * features * size), 0);
    struct ops_attention a = {};

    device_random(&q, dtype, 1, 1);
    device_random(&kv, dtype, 3, 1);
    a.q = q.data;
    a.k = kv.data;
    a.v = kv.data + features * size;
    a.o = o.data;
    a.type = type;
    a.q_stride = a.o_stride = features;
    a.k_stride = a.v_stride = 2 * features;
    a.q_rows = q_rows;
    a.k_rows = k_rows;
    a.heads = heads;
    a.head_dim = head_dim;
    a.scale = 1 / sqrtf((float)head_dim);
    a.accumulate = accumulate;
    const double ms = median_ms(machine, &a);
    const double bytes = (double)size * (double)features *
                         ((double)q_rows * (accumulate ? 3 : 2) + 2.0 * (double)k_rows);
    const double work = 4.0 * (double)q_rows * (double)k_rows * (double)features;
    printf("%-4s %6lld x %2d x %3d, %5lld keys%s: %8.3f ms, %7.1f TFLOP/s, %6.0f GB/s\n",
           name_of(type), (long long)q_rows, heads, head_dim, (long long)k_rows,
           accumulate ? ", +=" : "", ms, work / ms * 1e-9, bytes / ms * 1e-6);
    fflush(stdout);
    device_free(&q);
    device_free(&kv);
    device_free(&o);
}

static void time_all(const struct machine *machine)
{
    for (int64_t k_rows : {14, 64, 77, 226, 512}) {
        time_one(machine, ELEMENT_BF16, 40, 128, 75600, k_rows, false);
    }
    time_one(machine, ELEMENT_BF16, 40, 128, 75600, 257, true);
    for (int64_t k_rows : {14, 512}) {
        time_one(machine, ELEMENT_BF16, 12, 128, 32760, k_rows, false);
    }
    time_one(machine, ELEMENT_F32, 1, 384, 14400, 14400, false);
    time_one(machine, ELEMENT_F32, 1, 384, 6240, 6240, false);
    time_one(machine, ELEMENT_F32, 64, 64, 512, 512, false);
}

int main(int argc, char **argv)
{
    struct machine machine = {};

    cuda_device_or_skip(80, 999);
    machine.ops = ops_cuda();
    if (!machine.ops)
        fail("this build has no networks on the GPU");
    for (int type = ELEMENT_F32; type <= ELEMENT_BF16; type++) {
        struct device_desc desc = {};
        struct error error = {};
        desc.activations = (enum element)type;
        if (!machine.ops->create(&machine.device[type], &desc, &error))
            fail(error.text);
    }
    if (asked_to_time(argc, argv)) {
        time_all(&machine);
        return 0;
    }
    check_fused(&machine);
    check_stored(&machine);
    check_passes(&machine);
    for (int64_t k_rows : {40, 200}) {
        check_spread(&machine, ELEMENT_F32, k_rows);
        check_spread(&machine, ELEMENT_BF16, k_rows);
    }
    for (int64_t k_rows : {14, 100}) {
        check_recording(&machine, ELEMENT_F32, k_rows);
        check_recording(&machine, ELEMENT_BF16, k_rows);
    }
    check_refusals(&machine);
    for (struct device *device : machine.device) {
        machine.ops->destroy(device);
    }
    return tally_end(&machine.tally);
}
