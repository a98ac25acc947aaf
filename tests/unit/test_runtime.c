/* Choice of a device: names, what goes with what, and what is said where there is no GPU (none is
 * in sight of unit tests). */
#include "runtime.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_names(void **state)
{
    static const struct {
        const char *name;
        bool known;
        enum runtime_kind kind;
        int32_t index;
    } names[] = {
        {"auto", true, RUNTIME_AUTO, 0},
        {"cpu", true, RUNTIME_CPU, 0},
        {"cuda", true, RUNTIME_CUDA, 0},
        {"cuda:0", true, RUNTIME_CUDA, 0},
        {"cuda:12", true, RUNTIME_CUDA, 12},
        {"cuda:", false, 0, 0},
        {"cuda:x", false, 0, 0},
        {"cuda:-1", false, 0, 0},
        {"cuda:1234", false, 0, 0},
        {"cuda1", false, 0, 0},
        {"CPU", false, 0, 0},
        {"", false, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct runtime_desc desc = {.kind = RUNTIME_AUTO};
        char text[16];
        if (runtime_kind_from_name(names[i].name, &desc.kind, &desc.index) != names[i].known)
            fail_msg("'%s'", names[i].name);
        if (!names[i].known)
            continue;
        assert_int_equal(desc.kind, names[i].kind);
        assert_int_equal(desc.index, names[i].index);
        runtime_kind_describe(&desc, text, sizeof text);
        assert_string_equal(text, strcmp(names[i].name, "cuda:0") ? names[i].name : "cuda");
    }
    for (int i = RUNTIME_PRECISION_AUTO; i <= RUNTIME_F32; i++) {
        enum runtime_precision precision = RUNTIME_PRECISION_AUTO;
        const char *name = runtime_precision_name((enum runtime_precision)i);
        assert_true(runtime_precision_from_name(name, &precision));
        assert_int_equal(precision, i);
        assert_false(runtime_precision_from_name("half", &precision));
    }
}

static void test_cpu(void **state)
{
    static const struct runtime_desc asked[] = {
        {.kind = RUNTIME_AUTO},
        {.kind = RUNTIME_CPU, .threads = 1},
        {.backend = DRAFTATTN_BACKEND_PORTABLE, .precision = RUNTIME_F32},
    };
    (void)state;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct runtime runtime;
        struct error error = {.usage = false};
        if (!runtime_open(&runtime, &asked[i], &error))
            fail_msg("%s", error.text);
        assert_ptr_equal(runtime.ops, &ops_cpu);
        assert_false(runtime.gpu);
        assert_int_equal(runtime.desc.kind, RUNTIME_CPU);
        assert_int_equal(runtime.desc.precision, RUNTIME_F32);
        assert_int_equal(runtime.activations, ELEMENT_F32);
        assert_int_equal(runtime.chosen, i == 0);
        assert_string_equal(runtime.name, "cpu");
        assert_string_equal(runtime.why_cpu, "");
        assert_true(runtime_available(&runtime) > 0);
        assert_int_equal(runtime_taken(&runtime), 0);
        assert_int_not_equal(draftattn_context_backend(runtime.context), DRAFTATTN_BACKEND_CUDA);
        runtime_close(&runtime);
        assert_null(runtime.device);
    }
}

/* A wish for a backend or kernel of the CPU is one for the CPU, in the environment too. */
static void test_environment(void **state)
{
    static const struct {
        const char *variable, *value;
        bool chosen;
    } cases[] = {
        {"DRAFTATTN_BACKEND", "portable", false}, {"DRAFTATTN_BACKEND", "auto", true},
        {"DRAFTATTN_BACKEND", "", true},          {"DRAFTATTN_KERNEL", "reference", false},
        {"DRAFTATTN_KERNEL", "", true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct runtime_desc desc = {.kind = RUNTIME_AUTO};
        struct runtime runtime;
        struct error error = {.usage = false};
        setenv(cases[i].variable, cases[i].value, 1);
        if (!runtime_open(&runtime, &desc, &error))
            fail_msg("%s", error.text);
        assert_int_equal(runtime.chosen, cases[i].chosen);
        runtime_close(&runtime);
        unsetenv(cases[i].variable);
    }
}

static void test_refused(void **state)
{
    static const struct {
        struct runtime_desc desc;
        const char *words;
    } cases[] = {
        {{.kind = RUNTIME_CPU, .offload = true}, "--offload"},
        {{.kind = RUNTIME_CPU, .precision = RUNTIME_BF16}, "--precision bf16"},
        {{.kind = RUNTIME_CPU, .backend = DRAFTATTN_BACKEND_CUDA}, "--backend cuda"},
        {{.kind = RUNTIME_CUDA, .backend = DRAFTATTN_BACKEND_AVX2}, "--backend avx2"},
        {{.offload = true, .backend = DRAFTATTN_BACKEND_AVX2}, "(--offload)"},
        {{.kind = RUNTIME_CUDA}, "--device cuda: "},
        {{.kind = RUNTIME_CUDA, .index = 3}, "--device cuda:3: "},
        {{.offload = true}, "--offload: "}, /* the flag that was given */
        {{.precision = RUNTIME_BF16}, "--precision bf16: "},
        {{.backend = DRAFTATTN_BACKEND_CUDA}, "--backend cuda: "},
        {{.kind = RUNTIME_CUDA, .offload = true}, "--device cuda: "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct runtime runtime;
        struct error error = {.usage = false};
        assert_false(runtime_open(&runtime, &cases[i].desc, &error));
        assert_true(error.usage);
        if (!strstr(error.text, cases[i].words))
            fail_msg("'%s' is not in '%s'", cases[i].words, error.text);
        assert_null(runtime.device);
        assert_null(runtime.context);
        runtime_close(&runtime);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
