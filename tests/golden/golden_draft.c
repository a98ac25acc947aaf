/*
 * The published method: for every case of case.json the block order, the draft map, the masks at
 * three sparsities and the outputs of policy draft-paper must be those of the reference
 * implementation, from q, k, v as float and as stored (half). Masks and order must be identical,
 * on a GPU too.
 */
#include "golden.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAP_TOLERANCE    1e-5
#define OUTPUT_TOLERANCE 1e-4
#define CASE_BYTES_MAX   (1 << 20)

struct draft_case {
    const struct golden *golden;
    const struct checkpoint *io;
    draftattn_context *context;
    int number;
    draftattn_plan_desc desc;
    int64_t tokens, elements;
    void *q, *k, *v;             /* [token, head, head_dim] floats, in the backend's memory */
    void *raw_q, *raw_k, *raw_v; /* the same as stored */
};

/* A plan, its workspace and the buffers of one run. */
struct draft_run {
    draftattn_plan *plan;
    draftattn_plan_info info;
    void *workspace, *o, *map; /* in the backend's memory */
    size_t workspace_size;
    float *got; /* o or map */
    draftattn_block_list list;
    uint8_t *mask;
};

/* ---- the backend's memory -------------------------------------------------------------------- */

static void *alloc(const struct golden *golden, size_t bytes)
{
    return golden->ops->alloc(golden->device, bytes);
}

static void release(const struct golden *golden, void *memory)
{
    golden->ops->free(golden->device, memory);
}

static bool put(const struct golden *golden, void **out, const void *from, size_t bytes,
                const char *what, struct error *error)
{
    *out = alloc(golden, bytes);
    if (!*out)
        return error_out_of_memory(error, what, bytes);
    golden->ops->upload(golden->device, *out, from, bytes);
    return true;
}

/* ---- cases ----------------------------------------------------------------------------------- */

static bool read_json(const char *dir, cJSON **out, struct error *error)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/case.json", dir);
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(error, "%s: cannot be opened", path);
    text = calloc(1, CASE_BYTES_MAX + 1);
    size_t length = text ? fread(text, 1, CASE_BYTES_MAX, file) : 0;
    fclose(file);
    *out = length > 0 && length < CASE_BYTES_MAX ? cJSON_Parse(text) : NULL;
    free(text);
    return *out || error_set(error, "%s: not JSON", path);
}

static bool read_number(const cJSON *json, const char *field, int64_t *out, struct error *error)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, field);
    if (!cJSON_IsNumber(item))
        return error_set(error, "case.json: field '%s' is missing or not a number", field);
    *out = (int64_t)item->valuedouble;
    return true;
}

static bool tensor_of(const struct draft_case *test, const char *what, float **out,
                      const struct stored_tensor **info, struct error *error)
{
    char name[64];
    snprintf(name, sizeof name, "%d_%s", test->number, what);
    return golden_floats(test->io, name, out, info, error);
}

/* As float and as stored. */
static bool input_of(const struct draft_case *test, const char *what, void **out, void **raw,
                     struct error *error)
{
    const struct stored_tensor *info;
    float *values = NULL;
    bool ok = tensor_of(test, what, &values, &info, error);
    if (ok && (info->dtype != STORED_F16 || (int64_t)info->bytes != 2 * test->elements))
        ok = error_set(error, "%s: expected %lld halves", info->name, (long long)test->elements);
    ok = ok && put(test->golden, raw, info->data, info->bytes, what, error) &&
         put(test->golden, out, values, 2 * info->bytes, what, error);
    free(values);
    return ok;
}

static bool open_case(struct draft_case *test, const cJSON *json, struct error *error)
{
    int64_t number = 0, heads = 0, head_dim = 0, patch_height = 0, patch_width = 0;
    draftattn_grid *grid = &test->desc.grid;
    test->desc = draftattn_plan_desc_default();
    if (!read_number(json, "case", &number, error) ||
        !read_number(json, "T", &grid->frames, error) ||
        !read_number(json, "H", &grid->height, error) ||
        !read_number(json, "W", &grid->width, error) ||
        !read_number(json, "text", &grid->text_tokens, error) ||
        !read_number(json, "pool_h", &patch_height, error) ||
        !read_number(json, "pool_w", &patch_width, error) ||
        !read_number(json, "heads", &heads, error) ||
        !read_number(json, "head_dim", &head_dim, error))
        return false;
    if (patch_height != 8 || patch_width != 16)
        return error_set(error,
                         "case.json: patches of %lld x %lld; the method is defined for 8 x 16",
                         (long long)patch_height, (long long)patch_width);
    test->number = (int)number;
    test->desc.heads = (int32_t)heads;
    test->desc.head_dim = (int32_t)head_dim;
    test->desc.policy = DRAFTATTN_POLICY_DRAFT_PAPER;
    test->desc.dense_steps = 0;
    test->desc.min_tokens = 1;
    test->tokens = grid->frames * grid->height * grid->width + grid->text_tokens;
    test->elements = test->tokens * heads * head_dim;
    return input_of(test, "q", &test->q, &test->raw_q, error) &&
           input_of(test, "k", &test->k, &test->raw_k, error) &&
           input_of(test, "v", &test->v, &test->raw_v, error);
}

static void close_case(struct draft_case *test)
{
    void *all[] = {test->q, test->k, test->v, test->raw_q, test->raw_k, test->raw_v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        release(test->golden, all[i]);
}

static bool library_failed(const struct draft_case *test, const char *call, struct error *error)
{
    return error_set(error, "%s: %s", call, draftattn_context_last_error(test->context));
}

static void close_run(const struct draft_case *test, struct draft_run *run)
{
    draftattn_plan_destroy(run->plan);
    release(test->golden, run->workspace);
    release(test->golden, run->o);
    release(test->golden, run->map);
    free(run->got);
    free(run->list.row_ptr);
    free(run->list.block_idx);
    free(run->mask);
}

static bool open_run(const struct draft_case *test, const draftattn_plan_desc *desc,
                     struct draft_run *run, struct error *error)
{
    *run = (struct draft_run){0};
    if (draftattn_plan_create(&run->plan, test->context, desc) != DRAFTATTN_SUCCESS)
        return library_failed(test, "draftattn_plan_create", error);
    draftattn_plan_info_get(run->plan, &run->info);
    draftattn_plan_workspace_size(run->plan, &run->workspace_size);
    size_t entries = (size_t)run->info.max_list_entries, elements = (size_t)test->elements;
    size_t rows = (size_t)(desc->heads * run->info.query_blocks) + 1;
    run->workspace = alloc(test->golden, run->workspace_size);
    run->o = alloc(test->golden, elements * sizeof(float));
    run->map = alloc(test->golden, entries * sizeof(float));
    run->got = malloc((elements > entries ? elements : entries) * sizeof(float));
    run->list.row_ptr = malloc(rows * sizeof(int64_t));
    run->list.block_idx = malloc(entries * sizeof(int32_t));
    run->list.capacity = run->info.max_list_entries;
    run->mask = malloc(entries);
    if (run->workspace && run->o && run->map && run->got && run->list.row_ptr &&
        run->list.block_idx && run->mask)
        return true;
    close_run(test, run);
    return error_out_of_memory(error, "a run", run->workspace_size);
}

/* The first count floats of o or map. */
static bool got(const struct draft_case *test, struct draft_run *run, const void *from,
                int64_t count, struct error *error)
{
    const struct golden *golden = test->golden;
    golden->ops->download(golden->device, run->got, from, (size_t)count * sizeof(float));
    return golden->ops->synchronise(golden->device, error);
}

static void *stream_of(const struct draft_case *test)
{
    return test->golden->ops->stream(test->golden->device);
}

static draftattn_tensor tensor(const struct draft_case *test, draftattn_dtype dtype, void *data)
{
    int64_t heads = test->desc.heads, head_dim = test->desc.head_dim;
    return (draftattn_tensor){.data = data,
                              .dtype = dtype,
                              .shape = {1, heads, test->tokens, head_dim},
                              .stride = {test->elements, head_dim, heads * head_dim, 1}};
}

static bool check_order(const struct draft_case *test, const struct draft_run *run,
                        struct error *error)
{
    float *want = NULL;
    const struct stored_tensor *info;
    int64_t *order = malloc((size_t)test->tokens * sizeof *order);
    bool ok = order && tensor_of(test, "reorder", &want, &info, error);
    if (ok && draftattn_plan_order(run->plan, order) != DRAFTATTN_SUCCESS)
        ok = library_failed(test, "draftattn_plan_order", error);
    for (int64_t i = 0; ok && i < run->info.video_tokens; i++)
        if (order[i] != (int64_t)want[i])
            ok = error_set(error, "order: position %lld holds token %lld, expected %lld",
                           (long long)i, (long long)order[i], (long long)want[i]);
    free(order);
    free(want);
    return ok;
}

static bool check_map(const struct draft_case *test, struct draft_run *run, struct error *error)
{
    float *want = NULL;
    draftattn_tensor q = tensor(test, DRAFTATTN_F32, test->q);
    draftattn_tensor k = tensor(test, DRAFTATTN_F32, test->k);
    int64_t count = test->desc.heads * run->info.video_query_blocks * run->info.video_key_blocks;
    if (draftattn_draft_map(run->plan, &q, &k, run->map, run->workspace, run->workspace_size,
                            stream_of(test)) != DRAFTATTN_SUCCESS)
        return library_failed(test, "draftattn_draft_map", error);
    bool ok = got(test, run, run->map, count, error) &&
              tensor_of(test, "draft_map", &want, NULL, error) &&
              golden_close(test->golden, "map", run->got, want, count, MAP_TOLERANCE, error);
    free(want);
    return ok;
}

/* The list's video part is the published mask, and whatever touches text is kept. */
static bool check_mask(const struct draft_case *test, struct draft_run *run, int percent,
                       struct error *error)
{
    const draftattn_plan_info *info = &run->info;
    char name[32];
    float *want = NULL;
    snprintf(name, sizeof name, "mask_%d", percent);
    if (draftattn_block_list_to_mask(run->plan, &run->list, run->mask) != DRAFTATTN_SUCCESS)
        return library_failed(test, "draftattn_block_list_to_mask", error);
    bool ok = tensor_of(test, name, &want, NULL, error);
    for (int64_t i = 0; ok && i < info->max_list_entries; i++) {
        int64_t key = i % info->key_blocks, row = i / info->key_blocks;
        int64_t head = row / info->query_blocks, query = row % info->query_blocks;
        int expected = 1;
        if (query < info->video_query_blocks && key < info->video_key_blocks)
            expected =
                want[(head * info->video_query_blocks + query) * info->video_key_blocks + key] != 0;
        if (run->mask[i] != expected)
            ok = error_set(error, "%s: head %lld, query block %lld, key block %lld is %d", name,
                           (long long)head, (long long)query, (long long)key, run->mask[i]);
    }
    free(want);
    return ok;
}

static bool check_output(const struct draft_case *test, struct draft_run *run, const char *name,
                         draftattn_dtype dtype, struct error *error)
{
    bool half = dtype == DRAFTATTN_F16;
    float *want = NULL;
    draftattn_tensor q = tensor(test, dtype, half ? test->raw_q : test->q);
    draftattn_tensor k = tensor(test, dtype, half ? test->raw_k : test->k);
    draftattn_tensor v = tensor(test, dtype, half ? test->raw_v : test->v);
    draftattn_tensor o = tensor(test, DRAFTATTN_F32, run->o);
    if (draftattn_run(run->plan, NULL, &q, &k, &v, &o, NULL, NULL, run->workspace,
                      run->workspace_size, stream_of(test)) != DRAFTATTN_SUCCESS ||
        draftattn_read_block_list(run->plan, run->workspace, &run->list) != DRAFTATTN_SUCCESS)
        return library_failed(test, "draftattn_run", error);
    bool ok = !name || (got(test, run, run->o, test->elements, error) &&
                        tensor_of(test, name, &want, NULL, error) &&
                        golden_close(test->golden, name, run->got, want, test->elements,
                                     OUTPUT_TOLERANCE, error));
    free(want);
    return ok;
}

/* One sparsity in percent; 0 with the dense policy is the dense call. */
static bool check_sparsity(const struct draft_case *test, draftattn_policy policy, int percent,
                           draftattn_dtype dtype, struct error *error)
{
    struct draft_run run;
    char name[32];
    draftattn_plan_desc desc = test->desc;
    desc.policy = policy;
    desc.sparsity = percent / 100.0;
    desc.in_dtype = dtype;
    snprintf(name, sizeof name, "out_%d", percent);
    const char *output = percent == 0 ? "out_dense" : percent == 50 ? NULL : name;
    if (!open_run(test, &desc, &run, error))
        return false;
    bool ok = check_output(test, &run, output, dtype, error);
    if (ok && policy == DRAFTATTN_POLICY_DRAFT_PAPER && dtype == DRAFTATTN_F32)
        ok = check_order(test, &run, error) && check_map(test, &run, error);
    if (ok && percent > 0)
        ok = check_mask(test, &run, percent, error);
    close_run(test, &run);
    return ok;
}

static bool check_case(const struct draft_case *test, struct error *error)
{
    static const int percents[] = {0, 50, 75, 90};
    static const draftattn_dtype dtypes[] = {DRAFTATTN_F32, DRAFTATTN_F16};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++)
            if (!check_sparsity(test, DRAFTATTN_POLICY_DRAFT_PAPER, percents[i], dtypes[j], error))
                return error_prefix(error, "case %d, %d %%: ", test->number, percents[i]);
    return check_sparsity(test, DRAFTATTN_POLICY_DENSE, 0, DRAFTATTN_F32, error) ||
           error_prefix(error, "case %d, dense: ", test->number);
}

bool golden_draft(const struct golden *golden, struct error *error)
{
    struct checkpoint *io = NULL;
    cJSON *json = NULL;
    bool ok = golden_open(golden, NULL, &io, error) && read_json(golden->dir, &json, error);
    const cJSON *cases = ok ? cJSON_GetObjectItemCaseSensitive(json, "cases") : NULL, *item;
    if (ok && cJSON_GetArraySize(cases) < 1)
        ok = error_set(error, "case.json: field 'cases' is missing or empty");
    cJSON_ArrayForEach(item, cases)
    {
        struct draft_case test = {.golden = golden, .io = io, .context = golden->context};
        ok = ok && open_case(&test, item, error) && check_case(&test, error);
        close_case(&test);
    }
    cJSON_Delete(json);
    checkpoint_close(io);
    return ok;
}
