/* Errors: text, context before and after it, and nothing that a terminal would obey. */
#include "../../pipeline/error.h" /* the library has an error.h too */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_parts(void **state)
{
    (void)state;
    struct error error = {0};
    assert_false(error_set_usage(&error, "tensor '%s'", "w"));
    assert_false(error_prefix(&error, "layer %d: ", 3));
    assert_false(error_append(&error, "; %s", "download it again"));
    assert_string_equal(error.text, "layer 3: tensor 'w'; download it again");
    assert_true(error.usage);
    assert_false(error_set(NULL, "x"));
    assert_false(error_prefix(NULL, "x"));
    assert_false(error_append(NULL, "x"));
}

static void test_control_characters(void **state)
{
    (void)state;
    struct error error = {0};
    error_set(&error, "%s", "a\x1b[31m\x07\x7f\r\b\tb\nc");
    assert_string_equal(error.text, "a?[31m????\tb\nc");
    error_set(&error, "%s",
              "Übung 雪 😀 \xc2\x9b"
              "2J \xc2\xa0 \xc2");
    assert_string_equal(error.text, "Übung 雪 😀 ??2J \xc2\xa0 \xc2");
    error_set(&error, "x");
    error_append(&error, "%s", "\x1b");
    error_prefix(&error, "%s", "\x1b");
    assert_string_equal(error.text, "?x?");
}

static void test_long(void **state)
{
    (void)state;
    struct error error = {0};
    char text[4096];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    error_set(&error, "%s", text);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    error_append(&error, "more");
    error_prefix(&error, "b: ");
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    assert_memory_equal(error.text, "b: aaa", 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
