/* Contexts: what is asked for is what one gets, or words that say why not; kernels and names as
 * listed. */
#include "library_case.h"

#include <stdio.h>

static void clear_environment(void)
{
    unsetenv("DRAFTATTN_BACKEND");
    unsetenv("DRAFTATTN_KERNEL");
}

static void keep_message(const char *message, void *user)
{
    strncpy(user, message, 1023);
}

static void test_names_go_both_ways(void **state)
{
    (void)state;
    for (int i = 0; i <= DRAFTATTN_BACKEND_CUDA; i++) {
        draftattn_backend backend = DRAFTATTN_BACKEND_AUTO;
        const char *name = draftattn_backend_name((draftattn_backend)i);
        assert_int_equal(draftattn_backend_from_name(name, &backend), DRAFTATTN_SUCCESS);
        assert_int_equal(backend, i);
    }
    for (int i = 0; i <= DRAFTATTN_POLICY_DRAFT_PAPER; i++) {
        draftattn_policy policy = DRAFTATTN_POLICY_DENSE;
        const char *name = draftattn_policy_name((draftattn_policy)i);
        assert_int_equal(draftattn_policy_from_name(name, &policy), DRAFTATTN_SUCCESS);
        assert_int_equal(policy, i);
    }
    assert_string_equal(draftattn_policy_name(DRAFTATTN_POLICY_DRAFT_PAPER), "draft-paper");
    assert_string_equal(draftattn_stage_name(DRAFTATTN_STAGE_DRAFT), "draft map");
    assert_string_equal(draftattn_status_string((draftattn_status)99), "unknown");
    assert_string_equal(draftattn_backend_name((draftattn_backend)-1), "unknown");
    assert_int_equal(draftattn_version(), DRAFTATTN_VERSION);
    int major, minor, patch;
    assert_int_equal(sscanf(DRAFTATTN_VERSION_STRING, "%d.%d.%d", &major, &minor, &patch), 3);
    assert_int_equal(major * 10000 + minor * 100 + patch, DRAFTATTN_VERSION);
}

static void test_unknown_names_are_refused(void **state)
{
    draftattn_policy policy = DRAFTATTN_POLICY_DRAFT;
    (void)state;
    assert_int_equal(draftattn_policy_from_name("drfat", &policy), DRAFTATTN_INVALID_ARGUMENT);
    assert_int_equal(policy, DRAFTATTN_POLICY_DRAFT);
    assert_error_names("'drfat'");
    assert_error_names("dense, draft, draft-paper");
    assert_int_equal(draftattn_policy_from_name(NULL, &policy), DRAFTATTN_INVALID_ARGUMENT);
}

static void test_environment_is_asked(void **state)
{
    draftattn_context *context = NULL;
    (void)state;
    clear_environment();
    setenv("DRAFTATTN_BACKEND", "portable", 1);
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_context_backend(context), DRAFTATTN_BACKEND_PORTABLE);
    draftattn_context_destroy(context);

    setenv("DRAFTATTN_BACKEND", "fastest", 1);
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_INVALID_ARGUMENT);
    assert_null(context);
    assert_error_names("DRAFTATTN_BACKEND");
    assert_error_names("'fastest'");
    assert_error_names("avx512");

    clear_environment();
    setenv("DRAFTATTN_KERNEL", "reference", 1);
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_context_backend(context), DRAFTATTN_BACKEND_REFERENCE);
    draftattn_context_destroy(context);

    setenv("DRAFTATTN_KERNEL", "attend_x", 1);
    assert_int_equal(draftattn_context_create(&context, NULL), DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("DRAFTATTN_KERNEL");
    assert_error_names("attend_portable_d64");
    clear_environment();
}

static void test_description_beats_environment(void **state)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context = NULL;
    (void)state;
    setenv("DRAFTATTN_BACKEND", "reference", 1);
    setenv("DRAFTATTN_KERNEL", "reference", 1);
    desc.backend = DRAFTATTN_BACKEND_PORTABLE;
    assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_context_backend(context), DRAFTATTN_BACKEND_PORTABLE);
    draftattn_context_destroy(context);
    clear_environment();

    desc.kernel = "reference";
    assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("belongs to backend reference");

    setenv("DRAFTATTN_BACKEND", "portable", 1);
    desc.backend = DRAFTATTN_BACKEND_AUTO;
    assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_context_backend(context), DRAFTATTN_BACKEND_REFERENCE);
    draftattn_context_destroy(context);
    clear_environment();
}

static void test_failures_reach_the_log(void **state)
{
    char message[1024] = "";
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context = NULL;
    (void)state;
    desc.log = keep_message;
    desc.log_user = message;
    desc.kernel = "nonesuch";
    assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_INVALID_ARGUMENT);
    assert_non_null(strstr(message, "nonesuch"));
    desc.kernel = NULL;
    desc.threads = -1;
    assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("threads is -1");
    desc.threads = 0;
    desc.size = 8;
    assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_INVALID_ARGUMENT);
    assert_error_names("draftattn_context_desc.size is 8");
    assert_int_equal(draftattn_context_create(NULL, NULL), DRAFTATTN_INVALID_ARGUMENT);
}

/* CTest hides the GPUs of the machine; and -1 asks for none. */
static void test_cuda_is_refused_in_words(void **state)
{
    static const int32_t devices[] = {-1, 0, 1000};
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context = NULL;
    (void)state;
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    for (int i = 0; i < 3; i++) {
        desc.device = devices[i];
        desc.backend = DRAFTATTN_BACKEND_CUDA;
        assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_UNSUPPORTED);
        assert_null(context);
        assert_error_names("backend cuda");
        desc.backend = DRAFTATTN_BACKEND_AUTO;
        assert_int_equal(draftattn_context_create(&context, &desc), DRAFTATTN_SUCCESS);
        assert_int_not_equal(draftattn_context_backend(context), DRAFTATTN_BACKEND_CUDA);
        draftattn_context_destroy(context);
    }
}

static void test_kernels_are_listed(void **state)
{
    int32_t count = draftattn_kernel_count(), available = 0;
    draftattn_kernel_info info;
    (void)state;
    assert_in_range(count, 3, 1000);
    for (int32_t i = 0; i < count; i++) {
        assert_int_equal(draftattn_kernel_get(i, &info), DRAFTATTN_SUCCESS);
        assert_non_null(info.name);
        assert_int_equal(info.available, info.why_not[0] == '\0');
        available += info.available;
    }
    assert_in_range(available, 3, count); /* portable twice, reference */
    assert_int_equal(draftattn_kernel_get(count, &info), DRAFTATTN_INVALID_ARGUMENT);
    assert_int_equal(draftattn_kernel_get(-1, &info), DRAFTATTN_INVALID_ARGUMENT);
    assert_int_equal(draftattn_kernel_get(0, NULL), DRAFTATTN_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names_go_both_ways),
                                       cmocka_unit_test(test_unknown_names_are_refused),
                                       cmocka_unit_test(test_environment_is_asked),
                                       cmocka_unit_test(test_description_beats_environment),
                                       cmocka_unit_test(test_failures_reach_the_log),
                                       cmocka_unit_test(test_cuda_is_refused_in_words),
                                       cmocka_unit_test(test_kernels_are_listed)};
    return cmocka_run_group_tests_name("context", tests, NULL, NULL);
}
