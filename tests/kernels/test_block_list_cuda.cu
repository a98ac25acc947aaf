/*
 * cuda_list() against block_list_fill() of the library and what the queue promises; and
 * cuda_kept_from_list() on right lists, which must come back, and on hostile ones. Whatever outputs
 * and scratch held before must not matter.
 *
 *     test_block_list_cuda [--time]
 */
#include "cuda_support.h"

#include "stages_cuda.h"

extern "C" {
#include "block_list.h"
}

struct options {
    int32_t heads, rows, columns, text_rows, text_columns; /* in blocks */
    int32_t probes;
    double density; /* of video pairs; a row in eight has none, another all */
    bool queued_probes;
    uint64_t seed;
};

/* A list of the library and the same as bits. */
struct host_list {
    struct problem problem;
    struct shape_cuda shape;
    std::vector<int64_t> row_ptr;
    std::vector<int32_t> block_idx;
    std::vector<uint32_t> bits;
};

static int64_t word_count(const struct shape_cuda *shape)
{
    return cuda_mean_rows(shape) / 32;
}

static int64_t row_count(const struct shape_cuda *shape)
{
    return (int64_t)shape->heads * shape->query_blocks;
}

static struct shape_cuda make_shape(const struct options *options)
{
    struct shape_cuda shape = {};
    shape.heads = options->heads;
    shape.entry_heads = options->heads;
    shape.head_dim = 128;
    shape.key_block = 128;
    shape.video_query_blocks = options->rows;
    shape.query_blocks = options->rows + options->text_rows;
    shape.video_key_blocks = options->columns;
    shape.key_blocks = options->columns + options->text_columns;
    shape.probes = options->probes;
    return shape;
}

static void set_bits(struct host_list *host)
{
    const int64_t words = word_count(&host->shape), rows = row_count(&host->shape);
    host->bits.assign((size_t)(rows * words), 0);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = host->row_ptr[(size_t)row]; i < host->row_ptr[(size_t)row + 1]; i++) {
            const int32_t block = host->block_idx[(size_t)i];
            host->bits[(size_t)(row * words + block / 32)] |= 1u << block % 32;
        }
    }
}

static struct host_list make_list(const struct options *options)
{
    struct host_list host = {};
    struct problem &problem = host.problem;
    host.shape = make_shape(options);
    problem.threads = 1;
    problem.heads = options->heads;
    problem.video_query_blocks = options->rows;
    problem.query_blocks = options->rows + options->text_rows;
    problem.video_key_blocks = options->columns;
    problem.key_blocks = options->columns + options->text_columns;
    std::vector<uint8_t> keep((size_t)options->heads * (size_t)options->rows *
                              (size_t)options->columns);
    for (size_t i = 0; i < keep.size(); i++) {
        const uint64_t kind = random_bits(options->seed, i / (size_t)options->columns) % 8;
        const float place = random_uniform(options->seed + 1, i);
        keep[i] = kind == 0 ? 0 : kind == 1 ? 1 : place < (float)options->density;
    }
    const size_t rows = (size_t)row_count(&host.shape);
    host.row_ptr.resize(rows + 1);
    host.block_idx.resize(rows * (size_t)problem.key_blocks);
    draftattn_block_list list = {host.row_ptr.data(), host.block_idx.data(),
                                 (int64_t)host.block_idx.size()};
    block_list_fill(&problem, keep.data(), &list);
    host.block_idx.resize((size_t)host.row_ptr[rows]);
    set_bits(&host);
    return host;
}

/* --- the queue ---------------------------------------------------------------------------- */

static int64_t cost_of(const struct host_list *host, int64_t item)
{
    if (item >= row_count(&host->shape))
        return host->shape.key_blocks;
    return host->row_ptr[(size_t)item + 1] - host->row_ptr[(size_t)item];
}

/* Each item once; longest first within 1/32, except that whatever is less than 1/240 of all key
 * blocks is short; equals in order. */
static bool queue_holds(const struct host_list *host, const std::vector<int32_t> &queue,
                        int64_t items)
{
    const int64_t blocks = host->shape.key_blocks;
    std::vector<int32_t> last((size_t)blocks + 1, -1);
    std::vector<bool> seen((size_t)items);
    double least = (double)blocks;
    if ((int64_t)queue.size() != items)
        return false;
    for (const int32_t item : queue) {
        if (item < 0 || item >= items || seen[(size_t)item])
            return false;
        seen[(size_t)item] = true;
        const int64_t cost = cost_of(host, item);
        if ((double)cost > least * (1 + 1.0 / 32) && (double)cost * 240 > (double)blocks)
            return false;
        least = std::min(least, (double)cost);
        if (item < last[(size_t)cost])
            return false;
        last[(size_t)cost] = item;
    }
    return true;
}

static bool stats_hold(const struct host_list *host, const std::vector<draftattn_head_stats> &heads,
                       bool dense)
{
    const int64_t query_blocks = host->shape.query_blocks;
    const int64_t pairs = query_blocks * host->shape.key_blocks;
    for (int64_t head = 0; head < host->shape.heads; head++) {
        const draftattn_head_stats &stats = heads[(size_t)head];
        const int64_t kept = dense ? pairs
                                   : host->row_ptr[(size_t)((head + 1) * query_blocks)] -
                                         host->row_ptr[(size_t)(head * query_blocks)];
        if (stats.density != (float)((double)kept / (double)pairs) || stats.repaired != 0)
            return false;
        if (kept == pairs ? stats.error != 0 || stats.error_before != 0
                          : !std::isnan(stats.error) || !std::isnan(stats.error_before))
            return false;
    }
    return true;
}

/* --- cases -------------------------------------------------------------------------------- */

/* What a launch made, from buffers full of a byte. */
struct made {
    std::vector<int64_t> row_ptr;
    std::vector<int32_t> block_idx, queue, counter;
    std::vector<draftattn_head_stats> heads;
    bool intact;
};

static struct made run(const struct host_list *host, const uint32_t *kept, bool probes, int fill)
{
    const struct shape_cuda &shape = host->shape;
    const size_t rows = (size_t)row_count(&shape);
    const size_t tiles = (size_t)shape.heads * (size_t)cuda_probe_tiles(&shape);
    struct device_buffer buffers[] = {
        device_make((rows + 1) * sizeof(int64_t), fill),
        device_make(host->block_idx.size() * sizeof(int32_t), fill),
        device_make((rows + (kept && probes ? tiles : 0)) * sizeof(int32_t), fill),
        device_make(sizeof(int32_t), fill),
        device_make((size_t)shape.heads * sizeof(draftattn_head_stats), fill),
        device_make(cuda_list_scratch(&shape), fill)};
    struct list_cuda list = {};
    list.shape = shape;
    list.kept = kept;
    list.row_ptr = (int64_t *)buffers[0].data;
    list.block_idx = (int32_t *)buffers[1].data;
    list.queue = (int32_t *)buffers[2].data;
    list.counter = (int32_t *)buffers[3].data;
    list.heads = (draftattn_head_stats *)buffers[4].data;
    list.probes = probes;
    list.scratch = buffers[5].data;
    CUDA_OK(cuda_list(&list, 0));
    CUDA_FINISH();
    struct made made = {device_vector<int64_t>(&buffers[0]),
                        device_vector<int32_t>(&buffers[1]),
                        device_vector<int32_t>(&buffers[2]),
                        device_vector<int32_t>(&buffers[3]),
                        device_vector<draftattn_head_stats>(&buffers[4]),
                        true};
    for (struct device_buffer &buffer : buffers) {
        made.intact &= device_guards_hold(&buffer);
        device_free(&buffer);
    }
    return made;
}

static void check_list(struct tally *tally, const struct options *options)
{
    const struct host_list host = make_list(options);
    struct device_buffer kept = device_from(host.bits);
    const int64_t tiles = (int64_t)options->heads * cuda_probe_tiles(&host.shape);
    const int64_t rows = row_count(&host.shape);
    for (int fill = 0; fill < 256; fill += 255) {
        const struct made made =
            run(&host, (const uint32_t *)kept.data, options->queued_probes, fill);
        const char *wrong =
            !made.intact                            ? "guards"
            : made.row_ptr != host.row_ptr          ? "row_ptr"
            : made.block_idx != host.block_idx      ? "block_idx"
            : made.counter[0] != 0                  ? "counter"
            : !stats_hold(&host, made.heads, false) ? "heads"
            : !queue_holds(&host, made.queue, rows + (options->queued_probes ? tiles : 0)) ? "queue"
                                                                                           : NULL;
        tally_case(tally, !wrong,
                   "list: heads %d, %d x %d, text %d x %d, probes %d%s, density %g, fill %d: %s",
                   options->heads, options->rows, options->columns, options->text_rows,
                   options->text_columns, options->probes,
                   options->queued_probes ? "" : " (not queued)", options->density, fill, wrong);
    }
    device_free(&kept);
}

static void check_dense(struct tally *tally, const struct options *options)
{
    const struct host_list host = make_list(options);
    const struct made made = run(&host, NULL, options->queued_probes, 0xff);
    bool ok = made.intact && made.counter[0] == 0 && stats_hold(&host, made.heads, true);
    for (size_t i = 0; i < made.queue.size(); i++) {
        ok &= made.queue[i] == (int32_t)i;
    }
    tally_case(tally, ok, "dense: heads %d, %d x %d", options->heads, options->rows,
               options->columns);
}

/* The bits of a list by plain loops: offsets clamped to the capacity, no more than key_blocks
 * entries a row. */
static void check_bits(struct tally *tally, const struct host_list *host, int64_t capacity,
                       const char *what)
{
    const int64_t rows = row_count(&host->shape), words = word_count(&host->shape);
    const int32_t blocks = host->shape.key_blocks;
    std::vector<uint32_t> want((size_t)(rows * words));
    for (int64_t row = 0; row < rows; row++) {
        const int64_t begin =
            std::clamp(host->row_ptr[(size_t)row], (int64_t)0, std::max(capacity, (int64_t)0));
        const int64_t end = std::min(host->row_ptr[(size_t)row + 1], capacity);
        for (int64_t i = begin; i < std::min(end, begin + blocks); i++) {
            const int32_t block = host->block_idx[(size_t)i];
            if (block >= 0 && block < blocks)
                want[(size_t)(row * words + block / 32)] |= 1u << block % 32;
        }
    }
    struct device_buffer row_ptr = device_from(host->row_ptr);
    struct device_buffer block_idx = device_from(host->block_idx);
    struct device_buffer kept = device_make(want.size() * sizeof(uint32_t), 0xff);
    CUDA_OK(cuda_kept_from_list(&host->shape, (const int64_t *)row_ptr.data,
                                (const int32_t *)block_idx.data, capacity, (uint32_t *)kept.data,
                                0));
    CUDA_FINISH();
    tally_case(tally, device_vector<uint32_t>(&kept) == want && device_guards_hold(&kept),
               "bits of a %s list: heads %d, %d x %d", what, host->shape.heads,
               host->shape.query_blocks, blocks);
    device_free(&kept);
    device_free(&block_idx);
    device_free(&row_ptr);
}

static void check_given(struct tally *tally, const struct options *options)
{
    struct host_list host = make_list(options);
    const int64_t entries = (int64_t)host.block_idx.size();
    check_bits(tally, &host, entries, "right");
    check_bits(tally, &host, entries / 2, "cut");
    check_bits(tally, &host, 0, "empty");
    for (size_t i = 0; i < host.block_idx.size(); i++) {
        if (random_below(options->seed + 2, i, 3) == 0)
            host.block_idx[i] = (int32_t)random_bits(options->seed + 3, i);
    }
    check_bits(tally, &host, entries, "wrong");
    for (size_t i = 0; i < host.row_ptr.size(); i++) {
        const int64_t kind = random_below(options->seed + 4, i, 4);
        const int64_t any = (int64_t)random_bits(options->seed + 5, i);
        host.row_ptr[i] = kind == 0 ? any : kind == 1 ? any % (entries + 1) : host.row_ptr[i];
    }
    check_bits(tally, &host, entries, "hostile");
}

static void check_all(struct tally *tally)
{
    static const int32_t sizes[][2] = {
        {1, 1},    {1, 31},  {2, 32},  {3, 33},   {5, 127},   {9, 128},  {64, 129}, {255, 40},
        {256, 64}, {257, 3}, {3, 929}, {2, 1025}, {100, 300}, {1, 9000}, {1500, 7}, {30000, 3}};
    static const double densities[] = {0.1, 0.5, 0.02, 1, 0};
    static const int32_t probes[] = {0, 1, 128, 129, 300};
    uint64_t seed = 0;
    for (const auto &size : sizes) {
        for (int trial = 0; trial < 5; trial++) {
            struct options options = {};
            seed += 10;
            options.seed = seed;
            options.heads = 1 + (int32_t)random_below(seed, 0, 5);
            options.rows = size[0];
            options.columns = size[1];
            options.text_rows = (int32_t)random_below(seed, 1, 3);
            options.text_columns = (int32_t)random_below(seed, 2, 4);
            options.probes = probes[random_below(seed, 3, 5)];
            options.queued_probes = random_below(seed, 4, 3) > 0;
            options.density = densities[trial];
            check_list(tally, &options);
            check_dense(tally, &options);
            check_given(tally, &options);
        }
    }
}

/* --- timing ------------------------------------------------------------------------------- */

static void time_one(int32_t heads, int32_t rows, int32_t columns, double density)
{
    const struct options options = {heads, rows, columns, 2, 2, 256, density, true, 1};
    const struct host_list host = make_list(&options);
    const size_t tiles = (size_t)heads * (size_t)cuda_probe_tiles(&host.shape);
    struct device_buffer kept = device_from(host.bits), row_ptr = device_from(host.row_ptr);
    struct device_buffer block_idx = device_from(host.block_idx);
    struct device_buffer queue =
        device_make(((size_t)row_count(&host.shape) + tiles) * sizeof(int32_t), 0);
    struct device_buffer counter = device_make(sizeof(int32_t), 0);
    struct device_buffer stats = device_make((size_t)heads * sizeof(draftattn_head_stats), 0);
    struct device_buffer scratch = device_make(cuda_list_scratch(&host.shape), 0);
    struct list_cuda list = {};
    list.shape = host.shape;
    list.kept = (const uint32_t *)kept.data;
    list.row_ptr = (int64_t *)row_ptr.data;
    list.block_idx = (int32_t *)block_idx.data;
    list.queue = (int32_t *)queue.data;
    list.counter = (int32_t *)counter.data;
    list.heads = (draftattn_head_stats *)stats.data;
    list.probes = true;
    list.scratch = scratch.data;
    const float made =
        cuda_median_ms([&](cudaStream_t stream) { return cuda_list(&list, stream); });
    const float given = cuda_median_ms([&](cudaStream_t stream) {
        return cuda_kept_from_list(&host.shape, list.row_ptr, list.block_idx,
                                   (int64_t)host.block_idx.size(), (uint32_t *)kept.data, stream);
    });
    const double bytes = 4.0 * (double)(host.bits.size() + host.block_idx.size());
    printf("list %d x %d x %d, %zu pairs: made in %.4f ms (%.0f GB/s), bits of it in %.4f ms\n",
           heads, rows, columns, host.block_idx.size(), (double)made, bytes / ((double)made * 1e6),
           (double)given);
    for (struct device_buffer *buffer :
         {&kept, &row_ptr, &block_idx, &queue, &counter, &stats, &scratch}) {
        device_free(buffer);
    }
}

int main(int argc, char **argv)
{
    struct tally tally = {};
    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        time_one(24, 928, 928, 0.1);
        time_one(24, 928, 928, 0.5);
        time_one(12, 256, 256, 0.1);
        return 0;
    }
    check_all(&tally);
    return tally_end(&tally);
}
