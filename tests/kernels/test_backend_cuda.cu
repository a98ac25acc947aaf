/*
 * The CUDA backend through the public interface, as far as other tests do not see it: a captured
 * call replayed on new data, streams side by side, several devices, the block set of the CPU on the
 * same map, repair as on the CPU, lists in device memory, host pointers, rubbish in the workspace.
 *
 *     test_backend_cuda [--time]    whole calls on large grids instead
 */
#include "cuda_support.h"

#include <string>

struct setting {
    draftattn_plan_desc desc;
    draftattn_context *context;
    draftattn_plan *plan;
    draftattn_plan_info info;
    size_t workspace_size;
    int64_t heads, elements; /* of a tensor */
};

/* One set of tensors and a workspace. */
struct buffers {
    struct device_buffer q, k, v, o, lse, workspace;
};

static void must(draftattn_status status, const char *what)
{
    if (status != DRAFTATTN_SUCCESS) {
        fprintf(stderr, "%s: %s: %s\n", what, draftattn_status_string(status),
                draftattn_context_last_error(NULL));
        exit(1);
    }
}

#define MUST(call) must((call), #call)

static draftattn_plan_desc desc_of(int64_t frames, int64_t height, int64_t width, int64_t text)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();

    desc.grid = {frames, height, width, text};
    desc.heads = 3;
    desc.in_dtype = desc.out_dtype = DRAFTATTN_BF16;
    desc.min_tokens = 1;
    desc.dense_steps = 0;
    return desc;
}

static struct setting setting_make(const draftattn_plan_desc &desc, draftattn_backend backend,
                                   int32_t device = 0)
{
    struct setting s = {};
    draftattn_context_desc context_desc = draftattn_context_desc_default();

    context_desc.backend = backend;
    context_desc.device = device;
    s.desc = desc;
    MUST(draftattn_context_create(&s.context, &context_desc));
    MUST(draftattn_plan_create(&s.plan, s.context, &desc));
    MUST(draftattn_plan_info_get(s.plan, &s.info));
    MUST(draftattn_plan_workspace_size(s.plan, &s.workspace_size));
    s.heads = (int64_t)desc.batch * desc.heads;
    s.elements = s.heads * s.info.tokens * desc.head_dim;
    return s;
}

static void setting_free(struct setting *s)
{
    draftattn_plan_destroy(s->plan);
    draftattn_context_destroy(s->context);
}

static void fill_inputs(const struct setting &s, const struct buffers &b, uint64_t seed)
{
    const struct device_buffer *all[] = {&b.q, &b.k, &b.v};

    for (uint64_t i = 0; i < 3; i++) {
        const std::vector<char> values =
            random_elements(s.desc.in_dtype, s.elements, seed * 8 + 2 * i, 1);
        device_upload(all[i], values.data());
    }
}

static struct buffers buffers_make(const struct setting &s, uint64_t seed, int rubbish = 0xff)
{
    const size_t in = (size_t)s.elements * dtype_size(s.desc.in_dtype);
    struct buffers b = {device_make(in, 0),
                        device_make(in, 0),
                        device_make(in, 0),
                        device_make((size_t)s.elements * dtype_size(s.desc.out_dtype), 0xff),
                        device_make((size_t)(s.heads * s.info.tokens) * sizeof(float), 0xff),
                        device_make(s.workspace_size, rubbish)};

    fill_inputs(s, b, seed);
    return b;
}

static void buffers_free(struct buffers *b)
{
    struct device_buffer *all[] = {&b->q, &b->k, &b->v, &b->o, &b->lse, &b->workspace};

    for (struct device_buffer *buffer : all)
        device_free(buffer);
}

static draftattn_tensor tensor_of(const struct setting &s, void *data, draftattn_dtype dtype,
                                  int64_t width)
{
    const int64_t heads = s.desc.heads, tokens = s.info.tokens;

    return {data,
            dtype,
            {s.desc.batch, heads, tokens, width},
            {heads * tokens * width, tokens * width, width, 1}};
}

/* With pointers of any kind. */
static draftattn_status run_on(const struct setting &s, void *q, void *k, void *v, void *o,
                               void *lse, void *workspace, cudaStream_t stream,
                               const draftattn_block_list *list)
{
    const int64_t dim = s.desc.head_dim;
    const draftattn_tensor tq = tensor_of(s, q, s.desc.in_dtype, dim);
    const draftattn_tensor tk = tensor_of(s, k, s.desc.in_dtype, dim);
    const draftattn_tensor tv = tensor_of(s, v, s.desc.in_dtype, dim);
    const draftattn_tensor to = tensor_of(s, o, s.desc.out_dtype, dim);
    const draftattn_tensor tl = tensor_of(s, lse, DRAFTATTN_F32, 1);

    return draftattn_run(s.plan, NULL, &tq, &tk, &tv, &to, lse ? &tl : NULL, list, workspace,
                         s.workspace_size, stream);
}

static draftattn_status run(const struct setting &s, const struct buffers &b, cudaStream_t stream,
                            const draftattn_block_list *list = NULL)
{
    return run_on(s, b.q.data, b.k.data, b.v.data, b.o.data, b.lse.data, b.workspace.data, stream,
                  list);
}

/* All that a run leaves to be read, bit by bit. */
static std::string results(const struct setting &s, const struct buffers &b)
{
    std::vector<char> o = device_vector<char>(&b.o), lse = device_vector<char>(&b.lse);
    std::vector<draftattn_head_stats> heads((size_t)s.heads);
    std::vector<int64_t> row_ptr((size_t)(s.heads * s.info.query_blocks + 1));
    std::vector<int32_t> block_idx((size_t)s.info.max_list_entries);
    draftattn_block_list list = {row_ptr.data(), block_idx.data(), s.info.max_list_entries};
    draftattn_stats stats;

    MUST(draftattn_read_stats(s.plan, b.workspace.data, &stats, heads.data()));
    MUST(draftattn_read_block_list(s.plan, b.workspace.data, &list));
    MUST(draftattn_block_list_check(s.plan, &list));
    std::string all(o.begin(), o.end());
    all.append(lse.begin(), lse.end());
    all.append((const char *)heads.data(), heads.size() * sizeof(heads[0]));
    all.append((const char *)row_ptr.data(), row_ptr.size() * sizeof(row_ptr[0]));
    all.append((const char *)block_idx.data(), (size_t)row_ptr.back() * sizeof(block_idx[0]));
    return all;
}

static bool guards_hold(const struct buffers &b)
{
    return device_guards_hold(&b.q) && device_guards_hold(&b.k) && device_guards_hold(&b.v) &&
           device_guards_hold(&b.o) && device_guards_hold(&b.lse) &&
           device_guards_hold(&b.workspace);
}

/* Plans that between them enqueue every launch there is. */
static std::vector<draftattn_plan_desc> every_kind()
{
    std::vector<draftattn_plan_desc> all;
    draftattn_plan_desc desc = desc_of(5, 18, 23, 70);

    all.push_back(desc); /* raster, repair */
    desc.order = DRAFTATTN_ORDER_BLOCK;
    desc.score = DRAFTATTN_SCORE_SPREAD;
    desc.head_spread = 1.5;
    desc.batch = 2;
    all.push_back(desc);
    desc.in_dtype = desc.out_dtype = DRAFTATTN_F32;
    desc.head_dim = 64;
    desc.key_block = 64;
    desc.order = DRAFTATTN_ORDER_RASTER;
    all.push_back(desc);
    desc = desc_of(5, 18, 23, 70);
    desc.policy = DRAFTATTN_POLICY_DENSE;
    all.push_back(desc);
    desc = desc_of(4, 16, 32, 0);
    desc.policy = DRAFTATTN_POLICY_DRAFT_PAPER;
    desc.in_dtype = DRAFTATTN_F16;
    all.push_back(desc);
    desc = desc_of(7, 11, 13, 0);
    desc.compensation = 0;
    desc.probes = 0;
    all.push_back(desc);
    desc = desc_of(5, 18, 23, 70);
    desc.probes = 200; /* no whole tiles; logits that move the base of what shares a warp */
    desc.softmax_scale = 0.5f;
    all.push_back(desc);
    desc.in_dtype = DRAFTATTN_F16;
    all.push_back(desc);
    return all;
}

/* --- the tests ---------------------------------------------------------------------------- */

static void test_rubbish(struct tally *tally, const draftattn_plan_desc &desc, int kind)
{
    struct setting s = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    struct buffers a = buffers_make(s, 3, 0xff), b = buffers_make(s, 3, 0x00);

    MUST(run(s, a, NULL));
    MUST(run(s, b, NULL));
    const std::string first = results(s, a);
    tally_case(tally, first == results(s, b), "kind %d: what the workspace held matters", kind);
    device_fill(&b.workspace, 0x7b); /* large numbers in all types */
    MUST(run(s, b, NULL));
    tally_case(tally, first == results(s, b), "kind %d: large numbers in the workspace matter",
               kind);
    device_fill(&a.o, 0xff);
    MUST(run(s, a, NULL));
    tally_case(tally, first == results(s, a), "kind %d: a second run differs", kind);
    tally_case(tally, guards_hold(a) && guards_hold(b), "kind %d: guard bands", kind);
    buffers_free(&a);
    buffers_free(&b);
    setting_free(&s);
}

/* Elements further apart than 32 bits count give the same bits as side by side. */
static void test_far(struct tally *tally, draftattn_order order)
{
    draftattn_plan_desc desc = desc_of(2, 9, 13, 20);
    desc.order = order;
    struct setting s = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    struct buffers b = buffers_make(s, 5);
    const struct device_buffer *near[] = {&b.q, &b.k, &b.v, &b.o};
    const int64_t dim = desc.head_dim, tokens = s.info.tokens;
    const int64_t far = INT32_MAX / tokens / 8 * 8 + 8 + 4 * dim * s.heads;
    const size_t row = (size_t)dim * 2, pitch = (size_t)far * 2;
    std::vector<char> got((size_t)(s.heads * tokens) * row);
    draftattn_tensor t[4];
    char *all;

    MUST(run(s, b, NULL));
    if (cudaMalloc((void **)&all, (size_t)tokens * pitch) == cudaSuccess) {
        for (int64_t i = 0; i < 4; i++) {
            t[i] = tensor_of(s, all + (size_t)i * row, desc.in_dtype, dim);
            t[i].stride[1] = 4 * dim, t[i].stride[2] = far;
            for (int64_t head = 0; i < 3 && head < s.heads; head++)
                CUDA_OK(cudaMemcpy2D(all + (size_t)(4 * head + i) * row, pitch,
                                     near[i]->data + (size_t)(head * tokens) * row, row, row,
                                     (size_t)tokens, cudaMemcpyDeviceToDevice));
        }
        MUST(draftattn_run(s.plan, NULL, &t[0], &t[1], &t[2], &t[3], NULL, NULL, b.workspace.data,
                           s.workspace_size, NULL));
        for (int64_t head = 0; head < s.heads; head++)
            CUDA_OK(cudaMemcpy2D(got.data() + (size_t)(head * tokens) * row, row,
                                 all + (size_t)(4 * head + 3) * row, pitch, row, (size_t)tokens,
                                 cudaMemcpyDeviceToHost));
        tally_case(tally, got == device_vector<char>(&b.o), "order %d: 2^31 elements apart", order);
        CUDA_OK(cudaFree(all));
    }
    cudaGetLastError(); /* a card without so much memory */
    buffers_free(&b);
    setting_free(&s);
}

/* A failure that the caller has seen the status of, but not taken from the runtime, is not ours. */
static void test_stale_error(struct tally *tally)
{
    struct setting s = setting_make(desc_of(5, 18, 23, 70), DRAFTATTN_BACKEND_CUDA);
    struct buffers b = buffers_make(s, 3);
    void *none;

    tally_case(tally, cudaMalloc(&none, SIZE_MAX / 2) != cudaSuccess, "no memory is that large");
    const draftattn_status status = run(s, b, NULL);
    tally_case(tally, status == DRAFTATTN_SUCCESS, "the caller's error: %s",
               draftattn_status_string(status));
    CUDA_FINISH();
    buffers_free(&b);
    setting_free(&s);
}

/* The strictest capture there is; then the same memory holds other numbers. */
static void test_graph(struct tally *tally, const draftattn_plan_desc &desc, int kind)
{
    struct setting s = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    struct buffers captured = buffers_make(s, 5), plain = buffers_make(s, 6);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;

    CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    const draftattn_status status = run(s, captured, stream);
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    tally_case(tally, status == DRAFTATTN_SUCCESS && ended == cudaSuccess,
               "kind %d: capture: %s, %s", kind, draftattn_context_last_error(NULL),
               cudaGetErrorString(ended));
    cudaGetLastError();
    if (status == DRAFTATTN_SUCCESS && ended == cudaSuccess) {
        MUST(run(s, plain, stream));
        CUDA_OK(cudaStreamSynchronize(stream));
        fill_inputs(s, captured, 6);
        CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
        for (int replay = 0; replay < 2; replay++) {
            device_fill(&captured.o, 0xff);
            CUDA_OK(cudaDeviceSynchronize());
            CUDA_OK(cudaGraphLaunch(exec, stream));
            CUDA_OK(cudaStreamSynchronize(stream));
            tally_case(tally, results(s, captured) == results(s, plain),
                       "kind %d: replay %d differs from a call", kind, replay);
        }
        CUDA_OK(cudaGraphExecDestroy(exec));
        CUDA_OK(cudaGraphDestroy(graph));
    }
    CUDA_OK(cudaStreamDestroy(stream));
    buffers_free(&captured);
    buffers_free(&plain);
    setting_free(&s);
}

static void test_streams(struct tally *tally, const draftattn_plan_desc &desc, int kind)
{
    enum { STREAMS = 4 };
    struct setting s = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    struct buffers b[STREAMS];
    cudaStream_t stream[STREAMS];
    std::string alone[STREAMS];

    for (int i = 0; i < STREAMS; i++) {
        b[i] = buffers_make(s, 20 + (uint64_t)i);
        CUDA_OK(cudaStreamCreateWithFlags(&stream[i], cudaStreamNonBlocking));
        MUST(run(s, b[i], NULL));
        alone[i] = results(s, b[i]);
        device_fill(&b[i].o, 0xff);
    }
    CUDA_FINISH();
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < STREAMS; i++)
            MUST(run(s, b[i], stream[i]));
    CUDA_FINISH();
    for (int i = 0; i < STREAMS; i++) {
        tally_case(tally, results(s, b[i]) == alone[i], "kind %d: stream %d of %d", kind, i,
                   STREAMS);
        CUDA_OK(cudaStreamDestroy(stream[i]));
        buffers_free(&b[i]);
    }
    setting_free(&s);
}

/* A context is bound to its device, whichever is current; the caller's current one stays. */
static void test_devices(struct tally *tally, const draftattn_plan_desc &desc, int kind)
{
    std::string first;
    int count, current;

    CUDA_OK(cudaGetDeviceCount(&count));
    for (int device = 0; device < count; device++) {
        CUDA_OK(cudaSetDevice(device));
        struct setting s = setting_make(desc, DRAFTATTN_BACKEND_CUDA, device);
        struct buffers b = buffers_make(s, 9);
        CUDA_FINISH();
        CUDA_OK(cudaSetDevice(count - 1 - device));
        MUST(run(s, b, NULL));
        const std::string here = results(s, b);
        CUDA_OK(cudaGetDevice(&current));
        tally_case(tally, current == count - 1 - device, "kind %d: device %d is left current", kind,
                   current);
        first = device == 0 ? here : first;
        tally_case(tally, here == first, "kind %d: device %d differs", kind, device);
        buffers_free(&b);
        setting_free(&s);
    }
    CUDA_OK(cudaSetDevice(0));
}

/* --- the same set as the CPU's ------------------------------------------------------------ */

static std::vector<int64_t> selected(const struct setting &s, const float *map, void *workspace)
{
    std::vector<int64_t> all((size_t)(s.heads * s.info.query_blocks + 1));
    std::vector<int32_t> block_idx((size_t)s.info.max_list_entries);
    draftattn_block_list list = {all.data(), block_idx.data(), s.info.max_list_entries};

    MUST(draftattn_select(s.plan, map, &list, workspace, s.workspace_size, NULL));
    all.insert(all.end(), block_idx.begin(), block_idx.begin() + all.back());
    return all;
}

/* distinct values; 0 = as many as there are. */
static std::vector<float> random_map(const struct setting &s, uint64_t seed, int64_t distinct)
{
    std::vector<float> map((size_t)(s.heads * s.info.video_query_blocks * s.info.video_key_blocks));

    for (size_t i = 0; i < map.size(); i++)
        map[i] = distinct ? (float)random_below(seed, i, distinct) / 8 - 0.25f
                          : random_uniform(seed, i) / (float)s.info.video_key_blocks;
    return map;
}

static void test_same_set(struct tally *tally, const draftattn_plan_desc &desc, uint64_t seed)
{
    static const int64_t distinct[] = {0, 1, 3, 50};
    struct setting cpu = setting_make(desc, DRAFTATTN_BACKEND_PORTABLE);
    struct setting gpu = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    struct device_buffer workspace = device_make(gpu.workspace_size, 0xff);
    char *memory = (char *)aligned_alloc(256, (cpu.workspace_size + 255) / 256 * 256);

    for (int64_t values : distinct) {
        const std::vector<float> map = random_map(cpu, seed, values);
        struct device_buffer device_map = device_from(map);
        const bool same = selected(cpu, map.data(), memory) ==
                          selected(gpu, (const float *)device_map.data, workspace.data);
        tally_case(tally, same, "selection: seed %llu, %lld values: not the CPU's set",
                   (unsigned long long)seed, (long long)values);
        device_free(&device_map);
    }
    free(memory);
    device_free(&workspace);
    setting_free(&cpu);
    setting_free(&gpu);
}

static draftattn_plan_desc random_selection(uint64_t seed)
{
    const bool paper = random_below(seed, 0, 4) == 0;
    const int64_t height = random_below(seed, 1, 30) + 1, width = random_below(seed, 2, 40) + 1;
    draftattn_plan_desc desc =
        desc_of(random_below(seed, 3, 6) + 1, paper ? 16 : height, paper ? 32 : width,
                random_below(seed, 4, 2) * random_below(seed, 5, 300));

    desc.in_dtype = desc.out_dtype = DRAFTATTN_F32; /* what every backend takes */
    desc.policy = paper                            ? DRAFTATTN_POLICY_DRAFT_PAPER
                  : random_below(seed, 13, 6) == 0 ? DRAFTATTN_POLICY_DENSE
                                                   : DRAFTATTN_POLICY_DRAFT;
    desc.heads = (int32_t)random_below(seed, 6, 4) + 1;
    desc.batch = (int32_t)random_below(seed, 7, 2) + 1;
    desc.key_block = !paper && random_below(seed, 8, 2) ? 64 : 128;
    desc.sparsity = 0.99 * (double)random_uniform(seed, 9);
    desc.row_floor = (double)random_uniform(seed, 10);
    desc.head_spread = random_below(seed, 11, 2) ? 1 : 1 + 2 * (double)random_uniform(seed, 12);
    return desc;
}

/* --- repair and the rest as on the CPU ---------------------------------------------------- */

static double relative_error(const std::vector<float> &got, const std::vector<float> &want)
{
    double difference = 0, norm = 0;

    for (size_t i = 0; i < want.size(); i++) {
        difference += pow((double)got[i] - want[i], 2);
        norm += pow((double)want[i], 2);
    }
    return sqrt(difference / norm);
}

/* o, lse and what is told about the heads. */
static void test_like_the_cpu(struct tally *tally, draftattn_plan_desc desc, const char *name)
{
    desc.in_dtype = desc.out_dtype = DRAFTATTN_F32;
    struct setting cpu = setting_make(desc, DRAFTATTN_BACKEND_PORTABLE);
    struct setting gpu = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    struct buffers b = buffers_make(gpu, 31);
    char *memory = (char *)aligned_alloc(256, (cpu.workspace_size + 255) / 256 * 256);
    std::vector<float> q = device_vector<float>(&b.q), k = device_vector<float>(&b.k);
    std::vector<float> v = device_vector<float>(&b.v), o(q.size()),
                       lse(device_vector<float>(&b.lse));
    std::vector<draftattn_head_stats> here((size_t)cpu.heads), there((size_t)cpu.heads);

    MUST(run(gpu, b, NULL));
    MUST(run_on(cpu, q.data(), k.data(), v.data(), o.data(), lse.data(), memory, NULL, NULL));
    MUST(draftattn_read_stats(cpu.plan, memory, NULL, here.data()));
    MUST(draftattn_read_stats(gpu.plan, b.workspace.data, NULL, there.data()));
    const double error = relative_error(device_vector<float>(&b.o), o);
    tally_case(tally, error < 1e-4, "%s: o differs from the CPU's by %.3g", name, error);
    const double lse_error = relative_error(device_vector<float>(&b.lse), lse);
    tally_case(tally, lse_error < 1e-5, "%s: lse differs from the CPU's by %.3g", name, lse_error);
    for (size_t h = 0; h < here.size(); h++) {
        const bool same =
            there[h].repaired == here[h].repaired &&
            fabsf(there[h].density - here[h].density) < 1e-6f &&
            fabsf(there[h].error - here[h].error) <= 1e-3f * here[h].error &&
            fabsf(there[h].error_before - here[h].error_before) <= 1e-3f * here[h].error_before;
        tally_case(tally, same,
                   "%s: head %zu: density %g error %g before %g repaired %d, CPU %g %g %g %d", name,
                   h, (double)there[h].density, (double)there[h].error,
                   (double)there[h].error_before, there[h].repaired, (double)here[h].density,
                   (double)here[h].error, (double)here[h].error_before, here[h].repaired);
    }
    free(memory);
    buffers_free(&b);
    setting_free(&cpu);
    setting_free(&gpu);
}

/* --- lists and pointers ------------------------------------------------------------------- */

static void test_lists(struct tally *tally)
{
    struct setting s = setting_make(desc_of(6, 17, 19, 40), DRAFTATTN_BACKEND_CUDA);
    struct buffers b = buffers_make(s, 41);
    const size_t rows = (size_t)(s.heads * s.info.query_blocks);
    std::vector<int64_t> row_ptr(1, 0);
    std::vector<int32_t> block_idx;

    for (size_t row = 0; row < rows; row++) {
        for (int32_t key = 0; key < s.info.key_blocks; key++)
            if (random_below(43, row * 1000 + (size_t)key, 3) == 0)
                block_idx.push_back(key);
        row_ptr.push_back((int64_t)block_idx.size());
    }
    const int64_t capacity = (int64_t)block_idx.size();
    const draftattn_block_list host = {row_ptr.data(), block_idx.data(), capacity};
    MUST(run(s, b, NULL, &host));
    const std::string want = results(s, b);

    struct device_buffer device_rows = device_from(row_ptr), device_idx = device_from(block_idx);
    const draftattn_block_list device = {(int64_t *)device_rows.data, (int32_t *)device_idx.data,
                                         capacity};
    device_fill(&b.o, 0xff);
    MUST(run(s, b, NULL, &device));
    tally_case(tally, results(s, b) == want, "a list on the device differs from one of the host");

    const draftattn_block_list mixed = {row_ptr.data(), (int32_t *)device_idx.data, capacity};
    const draftattn_block_list other = {(int64_t *)device_rows.data, block_idx.data(), capacity};
    tally_case(tally, run(s, b, NULL, &mixed) == DRAFTATTN_INVALID_ARGUMENT,
               "a list of two halves");
    tally_case(tally, run(s, b, NULL, &other) == DRAFTATTN_INVALID_ARGUMENT, "the other halves");

    /* Rubbish is no list, but no harm either; what is read back is a list. */
    device_fill(&device_rows, 0x7f);
    MUST(run(s, b, NULL, &device));
    results(s, b);
    device_fill(&device_rows, 0xff);
    device_fill(&device_idx, 0x81);
    MUST(run(s, b, NULL, &device));
    results(s, b);
    tally_case(tally, guards_hold(b), "guard bands after lists of rubbish");
    device_free(&device_rows);
    device_free(&device_idx);
    buffers_free(&b);
    setting_free(&s);
}

static void expect_words(struct tally *tally, draftattn_status status, const char *words)
{
    const char *said = draftattn_context_last_error(NULL);

    tally_case(tally, status == DRAFTATTN_INVALID_ARGUMENT && strstr(said, words),
               "'%s' is missing in '%s'", words, said);
}

static void test_host_pointers(struct tally *tally)
{
    struct setting s = setting_make(desc_of(2, 9, 11, 0), DRAFTATTN_BACKEND_CUDA);
    struct buffers b = buffers_make(s, 47);
    std::vector<char> host(s.workspace_size + 64);
    char *h = host.data() + (64 - (uintptr_t)host.data() % 64) % 64, *w = b.workspace.data;
    char *q = b.q.data, *k = b.k.data, *v = b.v.data, *o = b.o.data, *l = b.lse.data;
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context;

    expect_words(tally, run_on(s, h, k, v, o, l, w, NULL, NULL), "q is in host memory");
    expect_words(tally, run_on(s, q, h, v, o, l, w, NULL, NULL), "k is in host memory");
    expect_words(tally, run_on(s, q, k, h, o, l, w, NULL, NULL), "v is in host memory");
    expect_words(tally, run_on(s, q, k, v, h, l, w, NULL, NULL), "o is in host memory");
    expect_words(tally, run_on(s, q, k, v, o, h, w, NULL, NULL), "lse is in host memory");
    expect_words(tally, run_on(s, q, k, v, o, l, h, NULL, NULL), "workspace is in host memory");
    expect_words(tally, draftattn_read_stats(s.plan, h, NULL, NULL), "workspace is in host memory");
    expect_words(tally, draftattn_read_stats(s.plan, w, NULL, NULL), "no finished run");
    tally_case(tally, run_on(s, q, k, v, o, NULL, w, NULL, NULL) == DRAFTATTN_SUCCESS, "no lse");
    tally_case(tally, draftattn_read_stats(s.plan, w, NULL, NULL) == DRAFTATTN_SUCCESS, "a run");

    desc.device = -1;
    MUST(draftattn_context_create(&context, &desc));
    tally_case(tally, draftattn_context_backend(context) != DRAFTATTN_BACKEND_CUDA,
               "device -1 takes CUDA");
    draftattn_context_destroy(context);
    desc.device = 0;
    MUST(draftattn_context_create(&context, &desc));
    tally_case(tally, draftattn_context_backend(context) == DRAFTATTN_BACKEND_CUDA,
               "auto takes another backend than CUDA");
    draftattn_context_destroy(context);
    buffers_free(&b);
    setting_free(&s);
}

/* --- timing ------------------------------------------------------------------------------- */

static void time_grid(int64_t frames, int64_t height, int64_t width, int64_t text, int32_t heads,
                      draftattn_order order, double sparsity)
{
    draftattn_plan_desc desc = desc_of(frames, height, width, text);

    desc.heads = heads;
    desc.order = order;
    desc.sparsity = sparsity;
    if (sparsity == 0)
        desc.policy = DRAFTATTN_POLICY_DENSE;
    struct setting s = setting_make(desc, DRAFTATTN_BACKEND_CUDA);
    const size_t bytes = (size_t)s.elements * 2;
    struct buffers b = {device_make(bytes, 0),
                        device_make(bytes, 0),
                        device_make(bytes, 0),
                        device_make(bytes, 0),
                        device_make((size_t)(s.heads * s.info.tokens) * sizeof(float), 0),
                        device_make(s.workspace_size, 0)};
    device_random(&b.q, DRAFTATTN_BF16, 1, 1);
    device_random(&b.k, DRAFTATTN_BF16, 2, 1);
    device_random(&b.v, DRAFTATTN_BF16, 3, 1);
    const float ms = cuda_median_ms(
        [&](cudaStream_t stream) { return run(s, b, stream) ? cudaErrorUnknown : cudaSuccess; });
    draftattn_stats stats;
    MUST(draftattn_read_stats(s.plan, b.workspace.data, &stats, NULL));
    const double dense = 4.0 * (double)heads * pow((double)s.info.tokens, 2) * desc.head_dim;
    printf("%lldx%lldx%lld+%lld, %d heads, %s, %s: density %.3f, %.3f ms, dense work at %.0f "
           "TFLOP/s, workspace %.2f GB\n",
           (long long)frames, (long long)height, (long long)width, (long long)text, heads,
           order ? "block order" : "raster", s.info.kernel_name, stats.density, (double)ms,
           dense / (double)ms / 1e9, (double)s.workspace_size / 1e9);
    buffers_free(&b);
    setting_free(&s);
}

static int time_all()
{
    for (double sparsity : {0.0, 0.75, 0.9}) {
        for (draftattn_order order : {DRAFTATTN_ORDER_RASTER, DRAFTATTN_ORDER_BLOCK}) {
            time_grid(21, 30, 52, 0, 12, order, sparsity);
            time_grid(32, 64, 58, 256, 24, order, sparsity);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct tally tally = {};
    int kind = 0;

    cuda_device_or_skip(80, 999);
    if (asked_to_time(argc, argv))
        return time_all();
    for (const draftattn_plan_desc &desc : every_kind()) {
        test_rubbish(&tally, desc, kind);
        test_graph(&tally, desc, kind);
        test_streams(&tally, desc, kind);
        test_devices(&tally, desc, kind);
        kind++;
    }
    for (uint64_t seed = 1; seed <= 60; seed++)
        test_same_set(&tally, random_selection(seed), seed);
    test_like_the_cpu(&tally, desc_of(5, 18, 23, 70), "repair");
    draftattn_plan_desc desc = desc_of(6, 20, 21, 0);
    desc.batch = 2, desc.head_dim = 64, desc.key_block = 64, desc.sparsity = 0.9;
    test_like_the_cpu(&tally, desc, "short blocks");
    desc.repair = 0;
    test_like_the_cpu(&tally, desc, "probes alone");
    desc.policy = DRAFTATTN_POLICY_DENSE;
    test_like_the_cpu(&tally, desc, "dense");
    test_lists(&tally);
    test_host_pointers(&tally);
    test_stale_error(&tally);
    test_far(&tally, DRAFTATTN_ORDER_RASTER);
    test_far(&tally, DRAFTATTN_ORDER_BLOCK);
    return tally_end(&tally);
}
