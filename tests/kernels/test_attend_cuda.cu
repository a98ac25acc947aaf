/*
 * The attention kernels of kernels/cuda against plain loops in double precision: shapes around
 * every edge, lists with empty and full rows, means, probe tiles, any strides, logits of any size.
 *
 * A row may be off by first-order float errors of its logits, and by ROUNDING times what rounding
 * weights and output to their types costs a double computation; all rows of a case together by 1.5
 * times that. In it the largest weight is 1, or, for kernels whose base is some other logit of the
 * row, what costs most. Rows are sampled where there are many, but every one must be written.
 *
 *     test_attend_cuda [--time [NAME]]
 */
#include "attend_case.h"

struct row {
    const char *name;
    int32_t head_dim;
    const struct cuda_kernel *kernel;
};

/* The rows of variants.def that are the device's. */
static std::vector<struct row> cuda_rows(void)
{
    int32_t count;
    const struct kernel_row *all = kernels_all(&count);
    std::vector<struct row> rows;

    for (int32_t i = 0; i < count; i++) {
        if (all[i].backend == DRAFTATTN_BACKEND_CUDA)
            rows.push_back(
                {all[i].name, all[i].head_dim, (const struct cuda_kernel *)all[i].implementation});
    }
    return rows;
}

static const std::vector<struct row> kernels = cuda_rows();

static const double ROUNDING = 4;

/* --- tensors in device memory ------------------------------------------------------------- */

/* Strides of [entry][head][row][element] in a layout, and how many elements that takes. */
struct places {
    int64_t stride[4], count;
};

static struct places places_of(const struct host_case *c, enum layout layout, int64_t dim)
{
    const struct shape_cuda &shape = c->shape;
    const int64_t heads = shape.entry_heads, rows = shape.tokens;
    const int64_t entries = shape.heads / heads, row = layout == ODD ? dim + 1 : dim;

    if (layout == TOKENS_FIRST) {
        const int64_t token = heads * dim + 16; /* as in a wider tensor */
        return {{rows * token, dim, token, 1}, entries * rows * token};
    }
    return {{heads * rows * row, rows * row, row, 1}, entries * heads * rows * row};
}

/* Elements are taken as they lie: [heads][rows][head_dim]; the gaps hold NaN. */
static struct device_buffer upload_rows(const struct host_case *c, const std::vector<char> &x,
                                        struct rows_cuda *rows)
{
    const struct shape_cuda &shape = c->shape;
    const size_t size = dtype_size(c->options.dtype);
    const struct places places = places_of(c, c->options.in, shape.head_dim);
    std::vector<char> laid((size_t)places.count * size, (char)0xff);
    /* Rows of ODD begin one element late as well. */
    struct device_buffer buffer = device_make(laid.size(), 0, c->options.in == ODD ? size : 0);

    for (int64_t i = 0; i < (int64_t)shape.heads * shape.tokens; i++) {
        const int64_t head = i / shape.tokens, row = i % shape.tokens;
        const int64_t to = head / shape.entry_heads * places.stride[0] +
                           head % shape.entry_heads * places.stride[1] + row * places.stride[2];
        memcpy(laid.data() + to * (int64_t)size, x.data() + i * shape.head_dim * (int64_t)size,
               (size_t)shape.head_dim * size);
    }
    device_upload(&buffer, laid.data());
    *rows = {buffer.data, places.stride[0], places.stride[1], places.stride[2]};
    return buffer;
}

struct device_case {
    struct attend_cuda attend;
    std::vector<struct device_buffer> inputs;
    struct device_buffer counter, scratch, o, lse, exact;
};

template <typename T> const T *keep(struct device_case *d, const std::vector<T> &values)
{
    d->inputs.push_back(device_from(values));
    return (const T *)d->inputs.back().data;
}

static void make_outputs(struct device_case *d, const struct host_case *c)
{
    const struct options &options = c->options;
    const struct shape_cuda &shape = c->shape;
    const int64_t dim = shape.head_dim, entries = options.batch, heads = options.heads;
    const size_t size = dtype_size(options.out_dtype);
    struct places places = places_of(c, options.out, dim);
    const struct places row = places_of(c, options.out, 1);

    if (options.transposed)
        places = {{heads * dim * shape.tokens, dim * shape.tokens, 1, shape.tokens},
                  entries * heads * dim * shape.tokens};
    d->o = device_make((size_t)places.count * size, 0, options.out == ODD ? size : 0);
    d->attend.o = {d->o.data,
                   options.out_dtype,
                   {entries, heads, shape.tokens, dim},
                   {places.stride[0], places.stride[1], places.stride[2], places.stride[3]}};
    d->lse = device_make(options.lse ? (size_t)row.count * 4 : 0, 0);
    if (options.lse)
        d->attend.lse = {d->lse.data,
                         DRAFTATTN_F32,
                         {entries, heads, shape.tokens, 1},
                         {row.stride[0], row.stride[1], row.stride[2], 1}};
    d->exact = device_make((size_t)(shape.heads * shape.probes * dim) * 4, 0);
    d->attend.exact = options.probes ? (float *)d->exact.data : NULL;
    d->counter = device_make(4, 0);
    d->attend.counter = (int32_t *)d->counter.data;
    d->scratch = device_make((size_t)cuda_attend_scratch(d->attend.items) * 4, 0xff);
    d->attend.scratch = (int32_t *)d->scratch.data;
}

static struct device_case upload_case(const struct host_case *c)
{
    struct device_case d = {};
    struct attend_cuda &attend = d.attend;
    const bool listed = c->options.listed, means = listed && c->options.means;

    attend.shape = c->shape;
    attend.shape.order = c->options.ordered ? keep(&d, c->order) : NULL;
    attend.shape.query_begin = keep(&d, c->query_begin);
    attend.shape.key_begin = keep(&d, c->key_begin);
    attend.dtype = c->options.dtype;
    d.inputs.push_back(upload_rows(c, c->q, &attend.q));
    d.inputs.push_back(upload_rows(c, c->k, &attend.k));
    d.inputs.push_back(upload_rows(c, c->v, &attend.v));
    attend.row_ptr = listed ? keep(&d, c->row_ptr) : NULL;
    attend.block_idx = listed ? keep(&d, c->block_idx) : NULL;
    attend.kept = means ? keep(&d, c->kept) : NULL;
    attend.low_k = means ? keep(&d, c->low_k) : NULL;
    attend.low_v = means ? keep(&d, c->low_v) : NULL;
    attend.bias = means ? keep(&d, c->bias) : NULL;
    attend.queue = c->options.queued ? keep(&d, c->queue) : NULL;
    attend.items = (int32_t)c->queue.size();
    attend.probe_q = c->options.probes ? keep(&d, c->probe_q) : NULL;
    make_outputs(&d, c);
    return d;
}

static void free_case(struct device_case *d)
{
    for (struct device_buffer &buffer : d->inputs) {
        device_free(&buffer);
    }
    device_free(&d->counter);
    device_free(&d->scratch);
    device_free(&d->o);
    device_free(&d->lse);
    device_free(&d->exact);
}

/* --- a kernel on a case ------------------------------------------------------------------- */

struct outputs {
    std::vector<char> o, lse;
    std::vector<float> exact;
    bool guarded;
};

static struct outputs run_case(struct device_case *d, const struct cuda_kernel *kernel, int fill)
{
    struct outputs out;

    device_fill(&d->o, fill);
    device_fill(&d->lse, fill);
    device_fill(&d->exact, fill);
    device_fill(&d->counter, 0);
    CUDA_OK(kernel->attend(&d->attend, 0));
    CUDA_FINISH();
    out.o = device_vector<char>(&d->o);
    out.lse = device_vector<char>(&d->lse);
    out.exact = device_vector<float>(&d->exact);
    out.guarded = device_guards_hold(&d->o) && device_guards_hold(&d->lse) &&
                  device_guards_hold(&d->exact) && device_guards_hold(&d->counter) &&
                  device_guards_hold(&d->scratch);
    return out;
}

/* Where two runs over different memory differ, nothing was written: that must be the gaps. */
static bool same_where_written(const struct host_case *c, const struct device_case *d,
                               const struct outputs &a, const struct outputs &b)
{
    const draftattn_tensor &o = d->attend.o, &lse = d->attend.lse;
    const size_t size = dtype_size(o.dtype);
    const struct shape_cuda &shape = c->shape;
    size_t differ = 0;
    bool same = a.exact.empty() ||
                memcmp(a.exact.data(), b.exact.data(), a.exact.size() * sizeof(float)) == 0;

    for (int64_t i = 0; same && i < (int64_t)shape.heads * shape.tokens; i++) {
        const int64_t entry = i / shape.tokens / shape.entry_heads, row = i % shape.tokens;
        const int64_t head = i / shape.tokens % shape.entry_heads;
        const int64_t at = entry * o.stride[0] + head * o.stride[1] + row * o.stride[2];
        for (int64_t e = 0; e < shape.head_dim; e++) {
            const size_t byte = (size_t)(at + e * o.stride[3]) * size;
            same = same && memcmp(&a.o[byte], &b.o[byte], size) == 0;
        }
        const int64_t place = entry * lse.stride[0] + head * lse.stride[1] + row * lse.stride[2];
        same = same &&
               (!lse.data || memcmp(&a.lse[(size_t)place * 4], &b.lse[(size_t)place * 4], 4) == 0);
    }
    for (size_t i = 0; i < a.o.size(); i++) {
        differ += a.o[i] != b.o[i];
    }
    const size_t written = (size_t)(shape.heads * shape.tokens * shape.head_dim) * size;
    return same && differ == a.o.size() - written;
}

static bool sampled(const struct host_case *c, int64_t row)
{
    return c->shape.tokens < 300 || row % 128 < 2 || row % 128 == 127 ||
           row >= c->shape.video_tokens - 1 ||
           random_below(c->options.seed + 20, (uint64_t)row, 12) == 0;
}

struct question {
    int32_t head;
    int64_t row;
    bool probe;
    struct answer answer;
};

static std::vector<struct question> ask_all(const struct host_case *c)
{
    std::vector<struct question> all;

    for (int32_t head = 0; head < c->shape.heads; head++) {
        for (int64_t row = 0; row < c->shape.tokens; row++) {
            if (sampled(c, row))
                all.push_back({head, row, false, {}});
        }
        for (int64_t row = 0; row < c->shape.probes; row++) {
            if (row % 128 < 2 || row % 37 == 0 || row == c->shape.probes - 1)
                all.push_back({head, row, true, {}});
        }
    }
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < all.size(); i++)
        all[i].answer = ask(c, all[i].head, all[i].row, all[i].probe);
    return all;
}

/* Row of the answer as a kernel gave it, and its lse where it gave one. */
static std::vector<double> read_row(const struct host_case *c, const struct device_case *d,
                                    const struct outputs &out, const struct question &question,
                                    double *lse)
{
    const struct shape_cuda &shape = c->shape;
    const draftattn_tensor &o = d->attend.o, &l = d->attend.lse;
    const int64_t entry = question.head / shape.entry_heads, row = question.row;
    const int64_t head = question.head % shape.entry_heads;
    const int64_t token = c->options.ordered ? c->order[(size_t)row] : row;
    const int64_t at = entry * o.stride[0] + head * o.stride[1] + token * o.stride[2];
    const int64_t probe = (int64_t)question.head * shape.probes + row;
    std::vector<double> values((size_t)shape.head_dim);

    *lse = question.answer.lse;
    for (int64_t e = 0; e < shape.head_dim; e++) {
        values[(size_t)e] = question.probe ? out.exact[(size_t)(probe * shape.head_dim + e)]
                                           : load_from(out.o.data(), o.dtype, at + e * o.stride[3]);
    }
    if (l.data && !question.probe)
        *lse = load_from(out.lse.data(), DRAFTATTN_F32,
                         entry * l.stride[0] + head * l.stride[1] + token * l.stride[2]);
    return values;
}

/* false, with a line of words, where an answer is wrong. loose: of a kernel whose largest weight
 * need not be 1. */
static bool right(const struct host_case *c, const struct device_case *d, const struct outputs &out,
                  const std::vector<struct question> &questions, bool loose, char *why,
                  size_t why_size)
{
    double errors = 0, rounded = 0, slack = 0, worst = 0;
    auto rounding = [loose](const struct answer &answer) {
        return loose ? answer.loosely_rounded : answer.rounded;
    };

    for (const struct question &question : questions) {
        worst = std::max(worst, rounding(question.answer));
    }
    for (const struct question &question : questions) {
        const struct answer &answer = question.answer;
        double lse;
        const std::vector<double> o = read_row(c, d, out, question, &lse);
        const double error = distance(o, answer.o), lse_error = fabs(lse - answer.lse);
        const bool empty = answer.lse == -INFINITY;
        if (isnan(answer.lse)) {
            snprintf(why, why_size, "head %d row %lld: numbers where NaN came in", question.head,
                     (long long)question.row);
            if (!std::all_of(o.begin(), o.end(), [](double x) { return isnan(x); }) || !isnan(lse))
                return false;
            continue;
        }
        errors += error * error;
        rounded += rounding(answer) * rounding(answer);
        slack += answer.o_slack * answer.o_slack;
        snprintf(why, why_size, "head %d %s %lld: error %g, rounding %g, slack %g; lse %g, not %g",
                 question.head, question.probe ? "probe" : "row", (long long)question.row, error,
                 rounding(answer), answer.o_slack, lse, answer.lse);
        if (empty && !(error == 0 && lse == -INFINITY))
            return false;
        if (!empty &&
            !(error <= ROUNDING * worst + answer.o_slack && lse_error <= answer.lse_slack))
            return false;
    }
    snprintf(why, why_size, "all rows: error %g, rounding %g", sqrt(errors), sqrt(rounded));
    return sqrt(errors) <= 1.5 * sqrt(rounded) + sqrt(slack);
}

static bool takes(const struct row &row, const struct options &options, int32_t capability)
{
    return row.head_dim == options.head_dim && capability >= row.kernel->least &&
           capability <= row.kernel->most && row.kernel->half == (options.dtype != DRAFTATTN_F32) &&
           !(row.kernel->aligned && options.in == ODD);
}

static void check_case(struct tally *tally, const struct options &options, int32_t capability)
{
    const struct host_case c = make_case(options);
    const std::vector<struct question> questions = ask_all(&c);
    struct device_case d = upload_case(&c);

    for (const auto &row : kernels) {
        if (!takes(row, options, capability))
            continue;
        const struct outputs a = run_case(&d, row.kernel, 0xff), b = run_case(&d, row.kernel, 0);
        char why[256] = "";
        /* The Hopper kernels' base is the largest logit of a row's first step. */
        const bool loose = strncmp(row.name, "attend_sm90", strlen("attend_sm90")) == 0;
        bool ok = right(&c, &d, a, questions, loose, why, sizeof(why));
        if (!a.guarded || !b.guarded) {
            ok = false;
            snprintf(why, sizeof(why), "wrote outside of its outputs");
        } else if (ok && !same_where_written(&c, &d, a, b)) {
            ok = false;
            snprintf(why, sizeof(why), "depends on old memory, leaves rows out or fills gaps");
        }
        tally_case(tally, ok,
                   "%s: video %d text %d key_block %d batch %d heads %d probes %d type %d out %d "
                   "deviation %g far %d%s%s%s%s%s%s layouts %d %d: %s",
                   row.name, options.video, options.text, options.key_block, options.batch,
                   options.heads, options.probes, options.dtype, options.out_dtype,
                   (double)options.deviation, options.far, options.listed ? " listed" : "",
                   options.means ? " means" : "", options.lse ? " lse" : "",
                   options.ordered ? " ordered" : "", options.queued ? " queued" : "",
                   options.transposed ? " transposed" : "", options.in, options.out, why);
    }
    free_case(&d);
}

/* The rest of a case, drawn from its number. */
static struct options draw(uint64_t number, struct options options)
{
    static const float deviations[] = {1, 1, 1, 0.01f, 4, 30, 1000, 1e12f};
    static const int32_t probes[] = {0, 0, 1, 100, 256};
    auto below = [&](uint64_t what, int64_t limit) { return random_below(what, number, limit); };

    options.seed = number * 100;
    options.batch = 1 + (int32_t)below(1, 2);
    options.heads = 1 + (int32_t)below(2, 3);
    options.probes = std::min(options.video, probes[below(3, 5)]);
    options.out_dtype = (draftattn_dtype)below(4, 3);
    options.deviation = deviations[below(5, 8)];
    if (options.dtype == DRAFTATTN_F16) /* which ends at 65504 */
        options.deviation = std::min(options.deviation, 1e4f);
    options.listed = below(6, 4) > 0;
    options.means = options.listed && below(7, 2);
    options.lse = below(8, 2);
    options.ordered = below(9, 2);
    options.queued = below(10, 2);
    options.transposed = below(11, 5) == 0;
    options.in = (enum layout)below(12, LAYOUTS);
    options.out = (enum layout)below(13, LAYOUTS);
    return options;
}

static void check_all(struct tally *tally, int32_t capability)
{
    static const int32_t videos[] = {1, 5, 127, 128, 129, 255, 256, 257, 1000};
    static const int32_t texts[] = {0, 1, 77, 130};
    uint64_t number = 0;

    for (int32_t video : videos) {
        for (int32_t text : texts) {
            for (int round = 0; round < 12; round++) {
                struct options options = {};
                options.video = video;
                options.text = text;
                options.dtype = (draftattn_dtype)(round % 3);
                options.head_dim = round / 3 % 2 ? 64 : 128;
                options.key_block = round / 6 ? 64 : 128;
                check_case(tally, draw(++number, options), capability);
            }
        }
    }
}

/* Means of more than one step, the last of them short or not, with short key blocks in it. */
static void check_long(struct tally *tally, int32_t capability)
{
    static const int32_t shapes[][3] = {/* video, text, key_block */
                                        {8200, 0, 64},
                                        {8190, 77, 64},
                                        {12288, 0, 64},
                                        {12300, 1, 64},
                                        {16400, 130, 128}};
    uint64_t number = 1000;

    for (const auto &shape : shapes) {
        for (int round = 0; round < 2; round++) {
            struct options options = {};
            options.video = shape[0];
            options.text = shape[1];
            options.key_block = shape[2];
            options.dtype = ++number % 3 ? DRAFTATTN_BF16 : DRAFTATTN_F16;
            options.head_dim = round ? 64 : 128;
            options = draw(number, options);
            options.batch = options.heads = 1;
            options.probes = std::min(options.probes, 1);
            options.deviation = 1;
            options.listed = options.means = true;
            check_case(tally, options, capability);
        }
    }
}

/* Text that is padding: its values are nobody's, though the video's last block ends within what is
 * copied together. */
static void check_unlisted_text(struct tally *tally, int32_t capability)
{
    static const int32_t videos[] = {1, 5, 63, 65, 129, 200, 257};
    uint64_t number = 2000;

    for (int32_t video : videos) {
        for (int round = 0; round < 8; round++) {
            struct options options = {};
            options.video = video;
            options.text = round % 2 ? 130 : 20;
            options.key_block = round / 2 % 2 ? 64 : 128;
            options.dtype = round / 4 ? DRAFTATTN_F16 : DRAFTATTN_BF16;
            options.head_dim = round % 3 ? 128 : 64;
            options = draw(++number, options);
            options.probes = 0;
            options.deviation = 1;
            options.listed = options.no_text = true;
            options.means = false;
            check_case(tally, options, capability);
        }
    }
}

/* NaN stays NaN, in the rows that meet it and in no other. */
static void check_not_numbers(struct tally *tally, int32_t capability)
{
    uint64_t number = 3000;

    for (int round = 0; round < 24; round++) {
        struct options options = {};
        options.video = round % 4 < 2 ? 200 : 290;
        options.text = round % 4 ? 0 : 77;
        options.dtype = (draftattn_dtype)(round % 3);
        options.head_dim = round % 2 ? 64 : 128;
        options.key_block = round / 12 ? 64 : 128;
        options = draw(++number, options);
        options.nan_query = round / 3 % 3 != 1;
        options.nan_key = round / 3 % 3 != 0;
        check_case(tally, options, capability);
    }
}

/* Far from 0 in a part of a case: among rows that are near, before and behind keys that are. */
static void check_far(struct tally *tally, int32_t capability)
{
    uint64_t number = 4000;

    for (int round = 0; round < 48; round++) {
        struct options options = {};
        options.video = round % 5 ? 400 : 1000;
        options.text = round % 3 ? 0 : 77;
        options.dtype = (draftattn_dtype)(round / 4 % 3);
        options.head_dim = round / 24 ? 64 : 128;
        options.key_block = round / 12 % 2 ? 64 : 128;
        options.far = (enum far)(SOME_ROWS + round % 4);
        options = draw(++number, options);
        options.deviation = 1;
        if (options.far == BELOW) {
            options.dtype = options.dtype == DRAFTATTN_F16 ? DRAFTATTN_BF16 : options.dtype;
            options.means = options.listed; /* each row sees the first block */
        }
        check_case(tally, options, capability);
    }
}

/* Items that end after one step or two, many for each multiprocessor, so that what is copied for
 * the next follows hard on what is read: the same to the bit each time. */
static void check_repeats(struct tally *tally, int32_t capability)
{
    enum { RUNS = 20 };

    for (int round = 0; round < 8; round++) {
        struct options options = {};
        options.batch = 1;
        options.heads = 264;
        options.video = round / 4 ? 128 : 250;
        options.key_block = 128;
        options.dtype = round / 2 % 2 ? DRAFTATTN_F16 : DRAFTATTN_BF16;
        options.out_dtype = options.dtype;
        options.head_dim = round % 2 ? 64 : 128;
        options.deviation = 1;
        const struct host_case c = make_case(options);
        struct device_case d = upload_case(&c);
        for (const auto &row : kernels) {
            if (!takes(row, options, capability))
                continue;
            const struct outputs first = run_case(&d, row.kernel, 0xff);
            int differ = 0;
            for (int run = 1; run < RUNS; run++) {
                differ += run_case(&d, row.kernel, 0).o != first.o;
            }
            tally_case(tally, differ == 0,
                       "%s: %d heads x %d tokens, type %d: %d of %d runs differ", row.name,
                       options.heads, options.video, options.dtype, differ, RUNS);
        }
        free_case(&d);
    }
}

/* --- time --------------------------------------------------------------------------------- */

/* Of `total` key blocks each row lists as many as the density says, drawn at random. */
static int64_t random_list(struct host_case *c, double density)
{
    const struct shape_cuda &shape = c->shape;
    const int64_t words = cuda_mean_rows(&shape) / 32;
    int64_t pairs = 0;

    c->row_ptr.assign(1, 0);
    c->kept.assign((size_t)(shape.heads * shape.query_blocks * words), 0);
    for (int64_t row = 0; row < (int64_t)shape.heads * shape.query_blocks; row++) {
        const int64_t begin = row % shape.query_blocks * BLOCK;
        const int64_t rows = std::min((int64_t)BLOCK, shape.tokens - begin);
        int64_t wanted = std::max((int64_t)1, (int64_t)(density * shape.key_blocks + 0.5));
        for (int32_t j = 0; j < shape.key_blocks; j++) {
            const uint64_t place = (uint64_t)(row * shape.key_blocks + j);
            if (random_below(7, place, shape.key_blocks - j) < wanted) {
                wanted--;
                c->block_idx.push_back(j);
                c->kept[(size_t)(row * words + j / 32)] |= 1u << j % 32;
                pairs += rows * (c->key_begin[(size_t)j + 1] - c->key_begin[(size_t)j]);
            }
        }
        c->row_ptr.push_back((int64_t)c->block_idx.size());
    }
    return pairs;
}

static void time_kernel(const char *name, const struct cuda_kernel *kernel, int32_t head_dim,
                        int32_t heads, int32_t tokens)
{
    static const double densities[] = {1, 0.5, 0.25, 0.1};
    struct host_case c = {};
    struct options &options = c.options;

    options.head_dim = head_dim;
    options.batch = 1;
    options.heads = heads;
    options.video = tokens;
    options.key_block = 128;
    options.dtype = options.out_dtype = kernel->half ? DRAFTATTN_BF16 : DRAFTATTN_F32;
    make_shape(&c);
    const size_t size = dtype_size(options.dtype);
    const size_t bytes = (size_t)heads * (size_t)tokens * (size_t)head_dim * size;
    const size_t low = (size_t)heads * (size_t)cuda_mean_rows(&c.shape) * (size_t)head_dim * size;
    struct device_buffer data[6] = {device_make(bytes, 0), device_make(bytes, 0),
                                    device_make(bytes, 0), device_make(bytes, 0),
                                    device_make(low, 0),   device_make(low, 0)};
    for (int i = 0; i < 6; i++) {
        device_random(&data[i], options.dtype, (uint64_t)i, i < 4 ? 1 : 0.1f);
    }
    for (double density : densities) {
        c.block_idx.clear();
        const int64_t pairs = random_list(&c, density);
        for (int means = 0; means <= (density < 1); means++) {
            struct device_case d = {};
            const int64_t head = (int64_t)tokens * head_dim;
            c.bias.assign((size_t)cuda_mean_rows(&c.shape), 7);
            d.attend.shape = c.shape;
            d.attend.shape.query_begin = keep(&d, c.query_begin);
            d.attend.shape.key_begin = keep(&d, c.key_begin);
            d.attend.dtype = options.dtype;
            d.attend.q = {data[0].data, head * heads, head, head_dim};
            d.attend.k = {data[1].data, head * heads, head, head_dim};
            d.attend.v = {data[2].data, head * heads, head, head_dim};
            d.attend.row_ptr = density < 1 ? keep(&d, c.row_ptr) : NULL;
            d.attend.block_idx = density < 1 ? keep(&d, c.block_idx) : NULL;
            d.attend.kept = means ? keep(&d, c.kept) : NULL;
            d.attend.bias = keep(&d, c.bias);
            d.attend.low_k = data[4].data;
            d.attend.low_v = data[5].data;
            d.attend.items = heads * c.shape.query_blocks;
            d.counter = device_make(4, 0);
            d.attend.counter = (int32_t *)d.counter.data;
            d.scratch = device_make((size_t)cuda_attend_scratch(d.attend.items) * 4, 0xff);
            d.attend.scratch = (int32_t *)d.scratch.data;
            d.attend.o = {data[3].data,
                          options.out_dtype,
                          {1, heads, tokens, head_dim},
                          {head * heads, head, head_dim, 1}};
            const float ms = cuda_median_ms(
                [&](cudaStream_t stream) {
                    CUDA_OK(cudaMemsetAsync(d.counter.data, 0, 4, stream));
                    return kernel->attend(&d.attend, stream);
                },
                3, 7);
            printf("%s %d x %d density %.2f%s: %.3f ms, %.1f TFLOP/s\n", name, heads, tokens,
                   density, means ? " means" : "", ms, 4e-9 * head_dim * (double)pairs / ms);
            fflush(stdout);
            d.o = d.lse = d.exact = device_make(0, 0);
            for (struct device_buffer &buffer : d.inputs) {
                device_free(&buffer);
            }
            device_free(&d.counter);
            device_free(&d.scratch);
            device_free(&d.o);
        }
    }
    for (struct device_buffer &buffer : data) {
        device_free(&buffer);
    }
}

static int time_all(const char *wanted, int32_t capability)
{
    static const int32_t shapes[][2] = {{12, 32760}, {12, 32768}, {24, 118784}};

    for (const auto &row : kernels) {
        if (capability < row.kernel->least || capability > row.kernel->most ||
            (wanted && strcmp(wanted, row.name) != 0))
            continue;
        for (int i = 0; i < (row.kernel->half ? 3 : 1); i++) {
            time_kernel(row.name, row.kernel, row.head_dim, shapes[i][0], shapes[i][1]);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct tally tally = {};
    const int32_t capability = cuda_device_or_skip(80, 999);

    if (asked_to_time(argc, argv))
        return time_all(argc > 2 ? argv[2] : NULL, capability);
    check_all(&tally, capability);
    check_long(&tally, capability);
    check_unlisted_text(&tally, capability);
    check_not_numbers(&tally, capability);
    check_far(&tally, capability);
    check_repeats(&tally, capability);
    return tally_end(&tally);
}
