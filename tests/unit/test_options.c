/* The option table: what parses, what is refused and in which words, and the help page. The
 * program's own files are included, as they are in no library. */
#include "cli/options.c"
#include "cli/parse_values.c"
#include "cli/suggest.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct arguments {
    const char *text, *other, *file;
    struct option_int count, on;
    struct option_real share;
    struct option_texts several;
    bool quiet;
};

static const struct option_spec options[] = {
    OPTION_ROW_HEADING("First"),
    OPTION_ROW_TEXT('p', "prompt", "TEXT", text, "what to show"),
    OPTION_ROW_TEXT(0, "negative-prompt", "TEXT", other,
                    "a long explanation that has to be wrapped because it does not fit the page"),
    OPTION_ROW_HEADING("Second"),
    OPTION_ROW_INT('s', "steps", "N", count, 1, 100, "number of steps"),
    OPTION_ROW_BELOW(0, "sparsity", "X", share, 0, 1, "a share"),
    OPTION_ROW_SWITCH(0, "compensation", on, "on or off"),
    OPTION_ROW_TEXTS('v', "variant", "SPEC", several, "may be given several times"),
    OPTION_ROW_FLAG('q', "quiet", quiet, "errors only"),
    OPTION_ROW_END,
};
static const struct command_spec command = {
    .name = "test",
    .summary = "test",
    .usage = "[FILE]",
    .positional = "FILE",
    .positional_offset = offsetof(struct arguments, file),
    .options = options,
};

static bool parse(struct arguments *a, struct error *error, int argc, const char *const *argv)
{
    bool help;
    *a = (struct arguments){0};
    *error = (struct error){0};
    return options_parse(&command, argc, (char *const *)argv, a, &help, error);
}
#define PARSE(a, error, ...)                                                                       \
    parse(a, error, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)),                 \
          (const char *[]){__VA_ARGS__})

static void test_forms(void **state)
{
    (void)state;
    struct arguments a;
    struct error e;
    assert_true(PARSE(&a, &e, "--prompt", "a ball", "-s", "5", "--sparsity=0.9", "-q", "in.st"));
    assert_string_equal(a.text, "a ball");
    assert_int_equal(a.count.value, 5);
    assert_true(a.count.given && a.share.given && !a.on.given && a.quiet);
    assert_float_equal(a.share.value, 0.9, 1e-12);
    assert_string_equal(a.file, "in.st");
    assert_true(PARSE(&a, &e, "-s12", "-p=x", "--compensation", "off", "--", "--odd"));
    assert_int_equal(a.count.value, 12);
    assert_string_equal(a.text, "x");
    assert_true(a.on.given && a.on.value == 0);
    assert_string_equal(a.file, "--odd");
    assert_true(PARSE(&a, &e, "--prompt=--steps"));
    assert_string_equal(a.text, "--steps");
    assert_true(PARSE(&a, &e, "--prompt", "-minus words"));
    assert_true(PARSE(&a, &e, "--steps", "1", "--steps", "2")); /* the last one counts */
    assert_int_equal(a.count.value, 2);
}

static void refused(const char *words, int argc, const char *const *argv)
{
    struct arguments a;
    struct error e;
    assert_false(parse(&a, &e, argc, argv));
    assert_true(e.usage);
    if (!strstr(e.text, words))
        fail_msg("'%s' does not say '%s'", e.text, words);
}
#define REFUSED(words, ...)                                                                        \
    refused(words, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)),                  \
            (const char *[]){__VA_ARGS__})

static void test_refused(void **state)
{
    (void)state;
    REFUSED("did you mean '--steps'?", "--stpes", "5");
    REFUSED("did you mean '--negative-prompt'?", "--negativ-prompt=x");
    REFUSED("unknown option '--zzzzzzzz'; 'draftattn help test'", "--zzzzzzzz");
    REFUSED("unknown option '-x'", "-x");
    REFUSED("unknown option '--First'", "--First"); /* a heading is no option */
    REFUSED("needs a value (N)", "--steps");
    REFUSED("needs a value (TEXT)", "--prompt", "--steps", "5");
    REFUSED("takes no value", "--quiet=yes");
    REFUSED("from 1 to 100", "--steps", "12abc");
    REFUSED("from 1 to 100", "--steps", "0");
    REFUSED("from 1 to 100", "--steps", "-3");
    REFUSED("from 1 to 100", "--steps", "101");
    REFUSED("from 1 to 100", "--steps", "");
    REFUSED("from 1 to 100", "--steps", " 5");
    REFUSED("from 1 to 100", "--steps", "1e1");
    REFUSED("from 1 to 100", "--steps", "99999999999999999999");
    REFUSED("'1'", "--sparsity", "1");
    REFUSED("from 0 to below 1", "--sparsity", "1.5");
    REFUSED("from 0 to below 1", "--sparsity", "-0.1");
    REFUSED("from 0 to below 1", "--sparsity", "nan");
    REFUSED("from 0 to below 1", "--sparsity", "inf");
    REFUSED("from 0 to below 1", "--sparsity", "0x0.8");
    REFUSED("from 0 to below 1", "--sparsity", "0,5");
    REFUSED("takes on or off", "--compensation", "yes");
    REFUSED("FILE is 'a' already", "a", "b");
}

static void test_sizes_and_lists(void **state)
{
    (void)state;
    struct error e = {0};
    int64_t w = 0, h = 0;
    assert_true(parse_size("--size", "832x480", 1, 16384, &w, &h, &e));
    assert_true(w == 832 && h == 480);
    static const char *const bad_sizes[] = {"832",    "832x", "x480",     "832x480x3", "0x16",
                                            "16x-16", "a",    "99999x16", "832 x480",  ""};
    for (size_t i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++)
        assert_false(parse_size("--size", bad_sizes[i], 1, 16384, &w, &h, &e));

    int32_t *list = NULL, count = 0;
    assert_true(parse_list("--dense-layers", "5-7,0,1,6", 30, &list, &count, &e));
    const int32_t want[] = {0, 1, 5, 6, 7};
    assert_int_equal(count, 5);
    assert_memory_equal(list, want, sizeof want);
    free(list);
    static const char *const bad_lists[] = {"",   ",",    "1,",           "a", "3-1", "30",
                                            "-1", "1--2", "0-99999999999"};
    for (size_t i = 0; i < sizeof bad_lists / sizeof *bad_lists; i++) {
        assert_false(parse_list("--dense-layers", bad_lists[i], 30, &list, &count, &e));
        assert_null(list);
        assert_int_equal(count, 0);
    }
    int64_t tile = -1;
    assert_true(parse_tile("--tile", "auto", &tile, &e) && tile == -1);
    assert_true(parse_tile("--tile", "off", &tile, &e) && tile == 0);
    assert_true(parse_tile("--tile", "128", &tile, &e) && tile == 128);
    assert_false(parse_tile("--tile", "100", &tile, &e));
    assert_false(parse_tile("--tile", "32", &tile, &e));
    assert_false(parse_tile("--tile", "128px", &tile, &e));
}

static void test_help(void **state)
{
    (void)state;
    char *page = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&page, &size);
    options_print_help(&command, out);
    fclose(out);
    assert_non_null(strstr(page, "Usage: draftattn test [FILE]\n"));
    assert_non_null(strstr(page, "\nFirst:\n  -p, --prompt TEXT         what to show\n"));
    assert_non_null(strstr(page, "\nSecond:\n"));
    assert_non_null(strstr(page, "      --sparsity X          a share\n"));
    for (const char *line = page; *line;) {
        size_t length = strcspn(line, "\n");
        assert_true(length <= 80);
        assert_true(length == 0 || line[length - 1] != ' ');
        line += length + (line[length] == '\n');
    }
    free(page);
}

static const char *word_at(const void *user, size_t index)
{
    return ((const char *const *)user)[index];
}

static void test_suggestions(void **state)
{
    (void)state;
    static const char *const words[] = {"draft", "draft-paper", "dense", NULL};
    assert_string_equal(suggest_nearest("drafft", word_at, words), "draft");
    assert_string_equal(suggest_nearest("desne", word_at, words), "dense");
    assert_string_equal(suggest_nearest("draft_paper", word_at, words), "draft-paper");
    assert_null(suggest_nearest("quantum", word_at, words));
    assert_null(suggest_nearest("", word_at, words));
}

static void test_several(void **state)
{
    (void)state;
    struct arguments a;
    struct error e;
    const char *many[2 * (OPTION_TEXTS_MAX + 1)];
    assert_true(PARSE(&a, &e, "-v", "one", "--variant=two", "-q", "-vthree"));
    assert_int_equal(a.several.count, 3);
    assert_string_equal(a.several.values[0], "one");
    assert_string_equal(a.several.values[1], "two");
    assert_string_equal(a.several.values[2], "three");
    assert_false(PARSE(&a, &e, "-v", "one", "-v"));
    for (int i = 0; i <= OPTION_TEXTS_MAX; i++) {
        many[2 * i] = "-v";
        many[2 * i + 1] = "again";
    }
    assert_true(parse(&a, &e, 2 * OPTION_TEXTS_MAX, many));
    assert_false(parse(&a, &e, 2 * (OPTION_TEXTS_MAX + 1), many));
    assert_non_null(strstr(e.text, "more than 16"));
}

/* Which option stands beside those that are allowed, of every kind. */
static void test_given_beside(void **state)
{
    static const char *const none[] = {NULL};
    static const char *const some[] = {"quiet", "steps", "prompt", NULL};
    static const struct {
        const char *argument, *name;
    } cases[] = {
        {"--prompt=x", "prompt"},     {"--steps=5", "steps"},
        {"--sparsity=0", "sparsity"}, {"--compensation=off", "compensation"},
        {"--variant=x", "variant"},   {"--quiet", "quiet"},
    };
    struct arguments a;
    struct error e;
    (void)state;
    assert_true(PARSE(&a, &e, "--"));
    assert_null(options_given_beside(&command, &a, none));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(PARSE(&a, &e, cases[i].argument));
        assert_string_equal(options_given_beside(&command, &a, none), cases[i].name);
    }
    assert_true(PARSE(&a, &e, "-q", "-s", "5", "--prompt=x"));
    assert_null(options_given_beside(&command, &a, some));
    assert_true(PARSE(&a, &e, "-q", "-s", "5", "--sparsity=0.5"));
    assert_string_equal(options_given_beside(&command, &a, some), "sparsity");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),           cmocka_unit_test(test_refused),
        cmocka_unit_test(test_sizes_and_lists), cmocka_unit_test(test_help),
        cmocka_unit_test(test_given_beside),    cmocka_unit_test(test_suggestions),
        cmocka_unit_test(test_several),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
