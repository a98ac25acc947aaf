/* JSON configurations: typed reads, bounds, fallbacks, and the words for what is wrong. */
#include "io/config.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct config *open_text(struct scratch *scratch, const char *text)
{
    struct config *config = NULL;
    struct error error = {0};
    if (!config_open(&config, scratch_text(scratch, "config.json", text), &error))
        fail_msg("%s", error.text);
    return config;
}

static void says(const struct error *error, const char *words)
{
    if (!strstr(error->text, words))
        fail_msg("'%s' does not say '%s'", error->text, words);
}

static void fields_are_read(void **state)
{
    struct config *config = open_text(
        *state, "{\"layers\": 30, \"eps\": 1e-06, \"on\": true, \"name\": \"Wan\",\n"
                " \"patch\": [1, 2, 2], \"mean\": [-0.5, 2e3], \"flags\": [false, true],\n"
                " \"nothing\": null, \"big\": 9007199254740991, \"negative\": -7}\n");
    struct error error = {0};
    int64_t value, list[3];
    double number, numbers[2];
    bool flag, flags[2];
    assert_true(config_int(config, "layers", 1, 100, &value, &error));
    assert_int_equal(value, 30);
    assert_true(config_int(config, "big", 0, INT64_MAX, &value, &error));
    assert_true(value == INT64_C(9007199254740991));
    assert_true(config_int(config, "negative", -7, -7, &value, &error));
    assert_int_equal(value, -7);
    assert_true(config_int_or(config, "absent", 1, 2, 17, &value, &error));
    assert_int_equal(value, 17); /* fallbacks are ours and need not fit */
    assert_true(config_int_or(config, "nothing", 1, 2, 18, &value, &error));
    assert_int_equal(value, 18);
    assert_true(config_float_or(config, "eps", 0, 1, 5, &number, &error));
    assert_true(number == 1e-6);
    assert_true(config_float_or(config, "nothing", 0, 1, 0.25, &number, &error));
    assert_true(number == 0.25);
    assert_true(config_bool_or(config, "on", false, &flag, &error));
    assert_true(flag);
    assert_true(config_bool_or(config, "absent", true, &flag, &error));
    assert_true(flag);
    assert_string_equal(config_string(config, "name"), "Wan");
    assert_null(config_string(config, "absent"));
    assert_null(config_string(config, "nothing"));
    assert_null(config_string(config, "layers"));
    assert_true(config_ints(config, "patch", 1, 2, list, 3, &error));
    assert_true(list[0] == 1 && list[1] == 2 && list[2] == 2);
    assert_true(config_floats(config, "mean", numbers, 2, &error));
    assert_true(numbers[0] == -0.5 && numbers[1] == 2000);
    assert_true(config_bools(config, "flags", flags, 2, &error));
    assert_true(!flags[0] && flags[1]);
    assert_true(config_has(config, "layers"));
    assert_false(config_has(config, "nothing"));
    assert_false(config_has(config, "LAYERS"));
    assert_non_null(strstr(config_path(config), "config.json"));
    config_close(config);
    config_close(NULL);
}

static void wrong_fields_are_named(void **state)
{
    struct config *config = open_text(
        *state,
        "{\"layers\": 0, \"half\": 1.5, \"text\": \"30\", \"huge\": 9007199254740992,\n"
        " \"list\": [1, 2], \"mixed\": [1, \"2\", 3], \"object\": {}, \"infinite\": 1e999}");
    struct error error = {0};
    int64_t value, list[3];
    double number, numbers[3];
    bool flag, flags[3];
    assert_false(config_int(config, "layers", 1, 100, &value, &error));
    says(&error, "config.json: 'layers' is 0, expected a whole number in 1..100");
    assert_false(config_int(config, "half", 1, 100, &value, &error));
    says(&error, "'half' is 1.5");
    assert_false(config_int(config, "text", 1, 100, &value, &error));
    says(&error, "'text' is \"30\"");
    assert_false(config_int(config, "huge", 0, INT64_MAX, &value, &error));
    says(&error, "'huge' is 9");
    assert_false(config_int(config, "infinite", 0, INT64_MAX, &value, &error));
    says(&error, "'infinite'");
    assert_false(config_int(config, "absent", 1, 100, &value, &error));
    says(&error, "field 'absent' is missing");
    /* A fallback is for what is absent, not for what is wrong. */
    assert_false(config_int_or(config, "text", 1, 100, 5, &value, &error));
    assert_false(config_float_or(config, "text", 0, 1, 0.5, &number, &error));
    says(&error, "'text' is \"30\", expected a number in 0..1");
    assert_false(config_float_or(config, "half", 0, 1, 0.5, &number, &error));
    says(&error, "'half' is 1.5, expected a number in 0..1");
    assert_false(config_float_or(config, "infinite", 0, 1e9, 0.5, &number, &error));
    assert_false(config_bool_or(config, "layers", true, &flag, &error));
    says(&error, "'layers' is 0, expected true or false");
    assert_false(config_ints(config, "list", 1, 2, list, 3, &error));
    says(&error, "'list' has 2 values, expected 3");
    assert_false(config_ints(config, "mixed", 1, 3, list, 3, &error));
    says(&error, "'mixed' is \"2\"");
    assert_false(config_floats(config, "mixed", numbers, 3, &error));
    says(&error, "'mixed' holds \"2\"");
    assert_false(config_bools(config, "mixed", flags, 3, &error));
    says(&error, "'mixed' holds 1, expected true or false");
    assert_false(config_ints(config, "object", 1, 3, list, 3, &error));
    says(&error, "'object' is an object, expected a list of 3 values");
    assert_false(config_floats(config, "absent", numbers, 3, &error));
    says(&error, "field 'absent' is missing");
    assert_false(config_int(config, "absent", 1, 100, &value, NULL));
    config_close(config);
}

static void refuse(const char *path, const char *words)
{
    struct config *config;
    struct error error = {0};
    assert_false(config_open(&config, path, &error));
    assert_null(config);
    says(&error, words);
    says(&error, path);
}

static void broken_files_are_refused(void **state)
{
    struct scratch *s = *state;
    refuse(scratch_path(s, "none.json"), "cannot open");
    refuse(s->root, "not a regular file");
    refuse(scratch_text(s, "a.json", ""), "is empty");
    refuse(scratch_text(s, "a.json", "{\"a\": 1"), "broken JSON near byte");
    refuse(scratch_text(s, "a.json", "{\"a\": 1,}"), "broken JSON");
    refuse(scratch_text(s, "a.json", "{'a': 1}"), "broken JSON near byte");
    refuse(scratch_text(s, "a.json", "\"text\""), "a JSON object { ... } was expected");
    refuse(scratch_text(s, "a.json", "[1]"), "a JSON object { ... } was expected");
    refuse(scratch_text(s, "a.json", "{} x"), "text after the JSON document at byte 3 of 4");
    refuse(scratch_text(s, "a.json", "\x89PNG\r\n\x1a\n"), "broken JSON");
}

/* Nesting must not use up the stack, nor commas the memory. */
static void hostile_sizes_are_refused(void **state)
{
    struct scratch *s = *state;
    enum { BYTES = 9 << 20 };
    char *text = malloc(BYTES);
    assert_non_null(text);
    memset(text, '[', BYTES);
    memcpy(text, "{\"a\":", 5);
    refuse(scratch_write(s, "deep.json", text, 1 << 20), "broken JSON");
    for (int i = 5; i < BYTES; i++)
        text[i] = i % 2 ? '1' : ',';
    text[5] = '[';
    refuse(scratch_write(s, "wide.json", text, BYTES), "more than 4194304 JSON values");
    free(text);
    FILE *file = fopen(scratch_path(s, "large.json"), "wb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 17L << 20, SEEK_SET), 0);
    assert_int_equal(fputc('}', file), '}');
    fclose(file);
    refuse(scratch_path(s, "large.json"), "at most 16777216 are read");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_read),
        cmocka_unit_test(wrong_fields_are_named),
        cmocka_unit_test(broken_files_are_refused),
        cmocka_unit_test(hostile_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
