/*
 * Every allocation of ours fails once: the n-th, for n = 1, 2, 3, ... until a run has none left to
 * fail. Whatever fails says so, gives everything back and leaves no broken file; what does not
 * fail has the result of a run with memory enough; and the run after it works.
 *
 *     test_failing_malloc [--every K]     generations: of K allocations one, for a quick look
 */
#include "failing_malloc.h"
#include "tiny_model.h"
#include "unit/library_case.h"

#include "capture.h"
#include "latents_file.h"
#include "run_state.h"

#include <stdint.h>

static int64_t every = 1;

/* ---- the library ----------------------------------------------------------------------------- */

struct calls {
    draftattn_backend backend;
    draftattn_context *context;
    draftattn_plan *plan;
    void *workspace; /* of the test's own memory, as are the tensors */
    size_t workspace_size;
    draftattn_tensor q, k, v, o, lse;
    draftattn_block_list list;
    float *map;
    uint8_t *mask;
    int64_t *order;
};

#define CALL(call)                                                                                 \
    do {                                                                                           \
        draftattn_status status_ = (call);                                                         \
        if (status_ != DRAFTATTN_SUCCESS)                                                          \
            return status_;                                                                        \
    } while (0)

static draftattn_plan_desc calls_desc(void)
{
    static const int32_t layers[] = {2, 3};
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){.frames = 2, .height = 9, .width = 16, .text_tokens = 5};
    desc.heads = 2;
    desc.head_dim = 64;
    desc.probes = 16;
    desc.dense_steps = 0;
    desc.dense_layers = layers;
    desc.dense_layer_count = 2;
    desc.score = DRAFTATTN_SCORE_SPREAD;
    return desc;
}

/* Every call of the public header that can fail for want of memory, and those it needs. */
static draftattn_status make_calls(struct calls *c)
{
    draftattn_context_desc context_desc = draftattn_context_desc_default();
    draftattn_plan_desc desc = calls_desc();
    const draftattn_step step = {.step = 1, .steps = 4, .layer = 0, .sigma = 0.5f};
    char text[512];
    int32_t dense;
    draftattn_stats stats;
    draftattn_head_stats heads[2];
    context_desc.backend = c->backend;
    context_desc.threads = 1;
    CALL(draftattn_context_create(&c->context, &context_desc));
    CALL(draftattn_plan_create(&c->plan, c->context, &desc));
    CALL(draftattn_plan_is_dense(c->plan, &step, &dense));
    draftattn_plan_describe(c->plan, &step, text, sizeof text);
    CALL(draftattn_plan_order(c->plan, c->order));
    CALL(draftattn_draft_map(c->plan, &c->q, &c->k, c->map, c->workspace, c->workspace_size, NULL));
    CALL(draftattn_select(c->plan, c->map, &c->list, c->workspace, c->workspace_size, NULL));
    CALL(draftattn_block_list_check(c->plan, &c->list));
    CALL(draftattn_block_list_to_mask(c->plan, &c->list, c->mask));
    CALL(draftattn_block_list_from_mask(c->plan, c->mask, &c->list));
    CALL(draftattn_attend(c->plan, &c->q, &c->k, &c->v, &c->o, &c->lse, &c->list, c->workspace,
                          c->workspace_size, NULL));
    CALL(draftattn_run(c->plan, &step, &c->q, &c->k, &c->v, &c->o, &c->lse, NULL, c->workspace,
                       c->workspace_size, NULL));
    CALL(draftattn_read_stats(c->plan, c->workspace, &stats, heads));
    return draftattn_read_block_list(c->plan, c->workspace, &c->list);
}

static void library_fails(draftattn_backend backend)
{
    struct library_case test;
    const draftattn_plan_desc desc = calls_desc();
    library_case_open(&test, &desc, backend, 1);
    struct calls calls = {.backend = backend,
                          .workspace = test.workspace,
                          .workspace_size = test.workspace_size,
                          .q = test.tq,
                          .k = test.tk,
                          .v = test.tv,
                          .o = test.to,
                          .lse = test.tlse,
                          .list = test.list};
    calls.map = library_case_alloc((size_t)test.info.max_list_entries * sizeof *calls.map);
    calls.mask = library_case_alloc((size_t)test.info.max_list_entries);
    calls.order = library_case_alloc((size_t)test.info.tokens * sizeof *calls.order);
    int64_t left, first, n = 0;
    for (bool failed = true; failed;) {
        n++;
        failing_malloc_begin(n, n % 2 ? FAIL_ONCE : FAIL_ON);
        draftattn_status status = make_calls(&calls);
        draftattn_plan_destroy(calls.plan);
        draftattn_context_destroy(calls.context);
        failed = failing_malloc_end(&left, &first);
        calls.plan = NULL;
        calls.context = NULL;
        if (left)
            fail_msg("allocation %lld failed, and %lld blocks are left, the first of number %lld",
                     (long long)n, (long long)left, (long long)first);
        assert_int_equal(status, failed ? DRAFTATTN_OUT_OF_MEMORY : DRAFTATTN_SUCCESS);
        if (failed)
            assert_error_names("memory");
    }
    assert_true(n > 3); /* the context, the plan, its layers, ... */
    print_message("%s: %lld allocations\n", draftattn_backend_name(backend), (long long)n - 1);
    free(calls.map);
    free(calls.mask);
    free(calls.order);
    library_case_close(&test);
}

static void every_call_of_the_library(void **state)
{
    (void)state;
    for (int backend = DRAFTATTN_BACKEND_REFERENCE; backend <= DRAFTATTN_BACKEND_AVX512;
         backend++) {
        draftattn_context *context = NULL;
        draftattn_context_desc desc = draftattn_context_desc_default();
        desc.backend = (draftattn_backend)backend;
        bool works = draftattn_context_create(&context, &desc) == DRAFTATTN_SUCCESS;
        draftattn_context_destroy(context);
        if (works)
            library_fails((draftattn_backend)backend);
    }
}

/* ---- what compare looks at ------------------------------------------------------------------- */

struct look {
    struct capture *capture;
    struct self_attention *attention;
};

static void look_without_memory(void *user, const draftattn_step *step)
{
    struct look *look = user;
    int64_t left, first;
    failing_malloc_begin(1, FAIL_ON);
    capture_attention(look->capture, look->attention, step);
    assert_true(failing_malloc_end(&left, &first));
    assert_int_equal(left, 0);
}

/* Maps are left out, and why is said; the errors, and the video, are there. */
static void draft_maps(void **state)
{
    enum { TOKENS = 4 * 16 * 16, WIDTH = 2 * 64 };
    (void)state;
    struct error error = {0};
    struct look look = {0};
    struct comparison_variant variant = {0};
    struct device *device;
    draftattn_context *context;
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    const struct capture_desc whole = {.steps = 1, .layers = 1, .heads = 2, .passes = 1};
    const draftattn_step step = {.step = 0, .steps = 1, .layer = 0, .sigma = -1};
    float *q = malloc((size_t)TOKENS * WIDTH * 2 * sizeof *q), *o = q + (size_t)TOKENS * WIDTH;
    desc.grid = (draftattn_grid){.frames = 4, .height = 16, .width = 16};
    desc.heads = 2;
    desc.head_dim = 64;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    desc.probes = 64;
    desc.dense_steps = 0;
    desc.min_tokens = 1;
    for (int64_t i = 0; i < (int64_t)TOKENS * WIDTH; i++)
        q[i] = sinf((float)i * 1.7f);
    assert_true(ops_cpu.create(&device, &(struct device_desc){0}, &error));
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_SUCCESS);
    assert_true(
        self_attention_create(&look.attention, context, &desc, 1, &ops_cpu, device, &error));
    assert_true(capture_create(&look.capture, &whole, &error));
    self_attention_set_listener(look.attention, look_without_memory, &look);
    assert_true(self_attention_run(look.attention, &step, q, q, q, WIDTH, o, WIDTH, &error));
    assert_true(capture_finish(look.capture, &variant, &error));
    assert_int_equal(variant.map_count, 0);
    assert_true(variant.error_worst[0] >= variant.error_median[0]);
    assert_non_null(strstr(capture_trouble(look.capture), "out of memory: a draft map"));
    free(variant.maps);
    free(variant.error_median);
    free(variant.error_worst);
    capture_destroy(look.capture);
    self_attention_destroy(look.attention);
    draftattn_context_destroy(context);
    ops_cpu.destroy(device);
    free(q);
}

/* ---- a generation ---------------------------------------------------------------------------- */

struct job {
    struct scratch *scratch;
    const char *model; /* folder */
    char output[256];  /* folder/out/... */
    char latents[256];
    char state[256];
};

static bool generate(const struct job *job, struct error *error)
{
    struct model model;
    struct generate_settings settings = generate_settings_default();
    struct generate_report report;
    settings.prompt = "a red ball";
    settings.output = job->output;
    settings.save_latents = job->latents;
    settings.state = job->state;
    settings.save_every = 1;
    settings.seed = 1;
    settings.runtime.threads = 1;
    settings.attention.dense_steps = 0;
    bool ok = model_open(&model, job->model, error) &&
              generate_settings_resolve(&settings, &model, NULL, error) &&
              generate_run(&model, &settings, NULL, &report, error);
    model_close(&model);
    return ok;
}

/* All files of the folder, one after the other; how many there are. */
static int read_folder(const char *folder, uint8_t **bytes, size_t *size)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, NULL, alphasort), files = 0;
    assert_true(count >= 0);
    *bytes = NULL;
    *size = 0;
    for (int i = 0; i < count; i++) {
        char path[600];
        struct stat info;
        snprintf(path, sizeof path, "%.250s/%.250s", folder, entries[i]->d_name);
        free(entries[i]);
        if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        FILE *file = fopen(path, "rb");
        *bytes = realloc(*bytes, *size + (size_t)info.st_size + 1);
        assert_true(file && *bytes);
        assert_int_equal(fread(*bytes + *size, 1, (size_t)info.st_size, file), info.st_size);
        *size += (size_t)info.st_size;
        fclose(file);
        files++;
    }
    free(entries);
    return files;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* A state that goes on. */
static void check_state(const struct job *job)
{
    struct model model;
    struct run_state state;
    struct error error = {0};
    if (!model_open(&model, job->model, &error) || !run_state_read(&state, job->state, &error) ||
        !run_state_load(&state, &model, &error))
        fail_msg("%s", error.text);
    assert_int_equal(state.step, 1);
    run_state_free(&state);
    model_close(&model);
}

/* After a failure there is nothing but whole latents and a whole state. */
static void check_left(const struct job *job, const char *folder)
{
    float *latents = NULL;
    int64_t shape[4];
    struct error error = {0};
    uint8_t *bytes;
    size_t size;
    int files = read_folder(folder, &bytes, &size);
    free(bytes);
    if (exists(job->latents)) {
        if (!latents_read(job->latents, 16, &latents, shape, &error))
            fail_msg("%s", error.text);
        free(latents);
        files--;
    }
    if (exists(job->state)) {
        check_state(job);
        files--;
    }
    assert_int_equal(files, 0);
}

static void empty_folder(struct scratch *scratch, const char *folder)
{
    scratch_remove(folder);
    scratch_folder(scratch, "out");
}

static void generation_fails(struct scratch *scratch, const char *name,
                             enum failing_malloc_kind kind)
{
    struct job job = {.scratch = scratch, .model = tiny_model_make(scratch)};
    char folder[256];
    struct error error = {0};
    uint8_t *expected, *bytes;
    size_t expected_size, size;
    int64_t left, first, n = 0, runs = 0, tolerated = 0;
    snprintf(folder, sizeof folder, "%s", scratch_folder(scratch, "out"));
    snprintf(job.output, sizeof job.output, "%.200s/%.40s", folder, name);
    snprintf(job.latents, sizeof job.latents, "%.200s/kept", folder);
    snprintf(job.state, sizeof job.state, "%.200s/state", folder);
    if (!generate(&job, &error)) /* libraries make their lasting things here */
        fail_msg("%s", error.text);
    int files = read_folder(folder, &expected, &expected_size);
    assert_true(files >= 2);
    for (bool failed = true; failed; n += every) {
        empty_folder(scratch, folder);
        error = (struct error){0};
        failing_malloc_begin(n + 1, kind);
        bool ok = generate(&job, &error);
        failed = failing_malloc_end(&left, &first);
        runs++;
        if (left)
            fail_msg("allocation %lld failed (%s), and %lld blocks are left, the first of number "
                     "%lld",
                     (long long)n + 1, error.text, (long long)left, (long long)first);
        if (ok) { /* the whole result, then, whether or not something failed */
            assert_int_equal(read_folder(folder, &bytes, &size), files);
            assert_int_equal(size, expected_size);
            assert_memory_equal(bytes, expected, size);
            free(bytes);
            tolerated += failed;
        } else {
            assert_true(failed);
            if (!strstr(error.text, "memory"))
                fail_msg("allocation %lld failed: '%s'", (long long)n + 1, error.text);
            check_left(&job, folder);
        }
    }
    print_message("%s: %lld allocations, %lld runs, %lld did not need the memory\n", name,
                  (long long)failing_malloc_count(), (long long)runs, (long long)tolerated);
    free(expected);
}

static void a_gif(void **state)
{
    generation_fails(*state, "out.gif", FAIL_ONCE);
}

static void a_gif_without_any_more_memory(void **state)
{
    generation_fails(*state, "out.gif", FAIL_ON);
}

static void a_png_series(void **state)
{
    generation_fails(*state, "out-%03d.png", FAIL_ONCE);
}

static void an_mp4(void **state)
{
    generation_fails(*state, "out.mp4", FAIL_ON);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--every") == 0)
        every = atoi(argv[2]) > 0 ? atoi(argv[2]) : 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_of_the_library),
        cmocka_unit_test(draft_maps),
        cmocka_unit_test_setup_teardown(a_gif, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_gif_without_any_more_memory, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(a_png_series, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(an_mp4, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
