/*
 * cuda_select() against select_fill() of the library, to the last tie: rows around every number of
 * columns where the kernel changes, scores of every kind, both policies, floors, spreads, budgets
 * at both ends, text. Whatever kept bits and scratch held before must not matter.
 *
 *     test_select_cuda [--time]
 */
#include "cuda_support.h"

#include "stages_cuda.h"

extern "C" {
#include "select.h"
}

enum values { FINE, COARSE, CONSTANT, SIGNED, DENORMAL, ANY_BITS, ROWS_ALIKE, VALUES };

struct options {
    int32_t batch, heads, rows, columns, text_rows, text_columns; /* in blocks */
    bool paper;
    double sparsity, row_floor, spread;
    enum values values;
    uint64_t seed;
};

static float score_at(const struct options *options, int64_t index)
{
    const uint64_t bits = random_bits(options->seed, (uint64_t)index);
    const float normal = random_normal(options->seed, (uint64_t)index);
    uint32_t any = (uint32_t)bits;
    switch (options->values) {
    case COARSE:
        return (float)(bits % 7) / 8 - 0.25f;
    case CONSTANT:
        return 0.125f;
    case SIGNED: /* both zeros among them */
        return bits % 5 == 0 ? (bits & 64 ? 0.0f : -0.0f) : normal;
    case DENORMAL:
        return float_from_bits((any & 0x80000003u) | (any & 16 ? 0x00800000u : 0));
    case ANY_BITS: /* infinities too, but no NaN */
        return (any & 0x7fffffffu) > 0x7f800000u ? float_from_bits(any & 0xff800000u)
                                                 : float_from_bits(any);
    case ROWS_ALIKE: /* ties across rows */
        return (float)(index % options->columns) / 1024;
    default:
        return expf(3 * normal) / (float)options->columns;
    }
}

static struct problem make_problem(const struct options *options)
{
    struct problem problem = {};
    problem.desc = draftattn_plan_desc_default();
    problem.desc.policy = options->paper ? DRAFTATTN_POLICY_DRAFT_PAPER : DRAFTATTN_POLICY_DRAFT;
    problem.desc.batch = options->batch;
    problem.desc.heads = options->heads;
    problem.desc.sparsity = options->sparsity;
    problem.desc.row_floor = options->row_floor;
    problem.desc.head_spread = options->spread;
    problem.threads = 1;
    problem.heads = (int64_t)options->batch * options->heads;
    problem.video_query_blocks = options->rows;
    problem.query_blocks = options->rows + options->text_rows;
    problem.video_key_blocks = options->columns;
    problem.key_blocks = options->columns + options->text_columns;
    return problem;
}

static struct shape_cuda make_shape(const struct problem *problem)
{
    struct shape_cuda shape = {};
    shape.heads = (int32_t)problem->heads;
    shape.entry_heads = problem->desc.heads;
    shape.head_dim = 128;
    shape.key_block = 128;
    shape.query_blocks = (int32_t)problem->query_blocks;
    shape.video_query_blocks = (int32_t)problem->video_query_blocks;
    shape.key_blocks = (int32_t)problem->key_blocks;
    shape.video_key_blocks = (int32_t)problem->video_key_blocks;
    return shape;
}

static struct select_cuda make_select(const struct problem *problem)
{
    struct select_cuda select = {};
    const struct policy_draft_range range = policy_draft_range(problem);
    select.shape = make_shape(problem);
    select.paper = problem->desc.policy == DRAFTATTN_POLICY_DRAFT_PAPER;
    select.dropped = select.paper ? policy_draft_paper_dropped(problem) : 0;
    select.mean = range.mean;
    select.low = range.low;
    select.high = range.high;
    select.row_floor = problem->desc.row_floor;
    select.spread = problem->desc.head_spread > 1;
    return select;
}

/* What the library keeps, as bits. */
static std::vector<uint32_t> expected_bits(const struct problem *problem,
                                           const std::vector<float> &map)
{
    const struct shape_cuda shape = make_shape(problem);
    const size_t words = (size_t)cuda_mean_rows(&shape) / 32;
    const size_t rows = (size_t)(problem->heads * problem->query_blocks);
    std::vector<uint8_t> keep(map.size());
    std::vector<int64_t> scratch((size_t)select_scratch(problem)), row_ptr(rows + 1);
    std::vector<int32_t> block_idx(rows * (size_t)problem->key_blocks);
    std::vector<uint32_t> bits(rows * words);
    draftattn_block_list list = {row_ptr.data(), block_idx.data(), (int64_t)block_idx.size()};

    select_fill(problem, map.data(), keep.data(), scratch.data(), &list);
    for (size_t row = 0; row < rows; row++) {
        for (int64_t i = row_ptr[row]; i < row_ptr[row + 1]; i++) {
            const int32_t block = block_idx[(size_t)i];
            bits[row * words + (size_t)block / 32] |= 1u << block % 32;
        }
    }
    return bits;
}

/* Launches with kept bits and scratch full of a byte; false where a guard was written over. */
static bool run(struct select_cuda select, const struct device_buffer *map, int fill,
                std::vector<uint32_t> *bits)
{
    const size_t rows = (size_t)select.shape.heads * (size_t)select.shape.query_blocks;
    const size_t words = (size_t)cuda_mean_rows(&select.shape) / 32;
    struct device_buffer kept = device_make(rows * words * sizeof(uint32_t), fill);
    struct device_buffer scratch = device_make(cuda_select_scratch(&select.shape), fill);

    select.map = (const float *)map->data;
    select.kept = (uint32_t *)kept.data;
    select.scratch = scratch.data;
    CUDA_OK(cuda_select(&select, 0));
    CUDA_FINISH();
    *bits = device_vector<uint32_t>(&kept);
    const bool intact = device_guards_hold(&kept) && device_guards_hold(&scratch);
    device_free(&scratch);
    device_free(&kept);
    return intact;
}

static void check(struct tally *tally, const struct options *options)
{
    const struct problem problem = make_problem(options);
    const struct select_cuda select = make_select(&problem);
    std::vector<float> map((size_t)problem.heads * (size_t)options->rows *
                           (size_t)options->columns);
    for (size_t i = 0; i < map.size(); i++) {
        map[i] = score_at(options, (int64_t)i);
    }
    const std::vector<uint32_t> want = expected_bits(&problem, map);
    struct device_buffer scores = device_from(map);
    std::vector<uint32_t> got[2];
    bool intact = run(select, &scores, 0xff, &got[0]);
    intact &= run(select, &scores, 0x00, &got[1]);
    intact &= device_guards_hold(&scores);
    device_free(&scores);
    size_t word = 0;
    while (word < want.size() && got[0][word] == want[word] && got[1][word] == want[word])
        word++;
    tally_case(tally, intact && word == want.size(),
               "%s: batch %d, heads %d, %d x %d, text %d x %d, values %d, sparsity %g, floor %g, "
               "spread %g, seed %llu: %s at word %zu of %zu",
               options->paper ? "paper" : "draft", options->batch, options->heads, options->rows,
               options->columns, options->text_rows, options->text_columns, (int)options->values,
               options->sparsity, options->row_floor, options->spread,
               (unsigned long long)options->seed, intact ? "bits differ" : "guards", word,
               want.size());
}

static void check_all(struct tally *tally)
{
    static const int32_t sizes[][2] = {
        {1, 1},    {1, 5},    {2, 3},     {7, 31},     {3, 32},    {5, 33},    {33, 9},
        {9, 64},   {8, 255},  {16, 256},  {17, 257},   {4, 511},   {3, 512},   {9, 513},
        {3, 929},  {2, 1023}, {3, 1024},  {9, 1025},   {2, 1857},  {4, 2048},  {5, 2049},
        {3, 4096}, {2, 4097}, {1, 8191},  {2, 8192},   {2, 8193},  {1, 20011}, {70, 70},
        {129, 40}, {300, 20}, {2000, 30}, {1300, 256}, {700, 928}, {300, 1100}};
    static const double sparsities[] = {0, 0.3, 0.5, 0.75, 0.9, 0.97, 0.999};
    static const double floors[] = {1, 0, 0.5, 0.9};
    static const double spreads[] = {1, 1.3, 4};
    enum { TRIALS = 14 };
    uint64_t seed = 0;
    for (const auto &size : sizes) {
        for (int trial = 0; trial < TRIALS; trial++) {
            struct options options = {};
            seed += 3;
            options.seed = seed;
            options.rows = size[0];
            options.columns = size[1];
            options.batch = 1 + (int32_t)random_below(seed, 0, 2);
            options.heads = 1 + (int32_t)random_below(seed, 1, 4);
            options.text_rows = (int32_t)random_below(seed, 2, 3);
            options.text_columns = (int32_t)random_below(seed, 3, 2) * (1 + trial * 5);
            options.paper = random_below(seed, 4, 4) == 0;
            options.sparsity = sparsities[random_below(seed, 5, 7)];
            options.row_floor = floors[random_below(seed, 6, 4)];
            options.spread = spreads[random_below(seed, 7, 3)];
            options.values = (enum values)(trial % VALUES);
            check(tally, &options);
        }
    }
}

/* Scores like those of a draft map, made by the device. A small deviation of their logarithm puts
 * more of them near the cut than the kernel lists. */
static __global__ void fill_map(float *map, int64_t count, float columns, float deviation)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        map[i] = expf(deviation * random_normal(1, (uint64_t)i)) / columns;
}

static void time_one(int32_t heads, int32_t rows, int32_t columns, double row_floor, double spread,
                     double deviation = 2)
{
    const struct options options = {1,     heads, rows,      columns, 2,    2,
                                    false, 0.9,   row_floor, spread,  FINE, 1};
    const struct problem problem = make_problem(&options);
    struct select_cuda select = make_select(&problem);
    const int64_t entries = (int64_t)heads * rows * columns;
    struct device_buffer map = device_make((size_t)entries * sizeof(float), 0);
    struct device_buffer scratch = device_make(cuda_select_scratch(&select.shape), 0);
    const size_t words = (size_t)cuda_mean_rows(&select.shape) / 32;
    struct device_buffer kept = device_make(
        (size_t)heads * (size_t)select.shape.query_blocks * words * sizeof(uint32_t), 0);

    fill_map<<<2048, 256>>>((float *)map.data, entries, (float)columns, (float)deviation);
    select.map = (const float *)map.data;
    select.kept = (uint32_t *)kept.data;
    select.scratch = scratch.data;
    const float ms =
        cuda_median_ms([&](cudaStream_t stream) { return cuda_select(&select, stream); });
    printf("select %d x %d x %d, floor %g, spread %g, deviation %g: %.4f ms, %.0f GB/s of map\n",
           heads, rows, columns, row_floor, spread, deviation, (double)ms,
           (double)entries * 4 / ((double)ms * 1e6));
    device_free(&kept);
    device_free(&scratch);
    device_free(&map);
}

int main(int argc, char **argv)
{
    struct tally tally = {};
    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv)) {
        time_one(24, 928, 928, 1, 1);
        time_one(24, 928, 928, 0, 1);
        time_one(24, 928, 928, 1, 2);
        time_one(24, 928, 928, 1, 1, 0.1);
        time_one(24, 928, 928, 1, 1, 0.001);
        time_one(24, 928, 1856, 1, 1);
        time_one(12, 256, 256, 1, 1);
        return 0;
    }
    check_all(&tally);
    return tally_end(&tally);
}
