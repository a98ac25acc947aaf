/* Prompts against the fast tokenizer of the public pipelines (T5TokenizerFast over the bundled
 * model's files), raw pieces against SentencePiece, and files that are no tokenizer. */
#include "io/tokenizer.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define MODEL       TEST_SOURCE_DIR "/samples/tiny-world/checkpoint/tokenizer/spiece.model"
#define BYTES_MODEL TEST_SOURCE_DIR "/tests/golden/cases/tokenizer/spiece.model"

static struct tokenizer *open_model(const char *path)
{
    struct tokenizer *tokenizer = NULL;
    struct error error = {0};
    if (!tokenizer_open(&tokenizer, path, &error))
        fail_msg("%s", error.text);
    return tokenizer;
}

static void check_ids(const int32_t *got, int64_t count, const int32_t *want, int64_t expected)
{
    assert_int_equal(count, expected);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(got[i], want[i]);
}

#define CHECK_PROMPT(tokenizer, text, ...)                                                         \
    do {                                                                                           \
        static const int32_t want_[] = {__VA_ARGS__};                                              \
        int32_t ids_[64];                                                                          \
        int64_t count_, cut_;                                                                      \
        struct error error_ = {0};                                                                 \
        assert_true(tokenizer_prompt(tokenizer, text, ids_, 64, &count_, &cut_, &error_));         \
        assert_int_equal(cut_, 0);                                                                 \
        check_ids(ids_, count_, want_, sizeof want_ / sizeof want_[0]);                            \
    } while (0)

static void prompts_of_the_reference(void **state)
{
    (void)state;
    struct tokenizer *t = open_model(MODEL);
    assert_int_equal(tokenizer_pieces(t), 168);
    CHECK_PROMPT(t, "a big red ball bounces on green grass under a blue sky", 71, 11, 37, 8, 26, 4,
                 19, 38, 41, 71, 15, 42, 1);
    CHECK_PROMPT(t, "", 1);
    CHECK_PROMPT(t, "  \n ", 1);
    CHECK_PROMPT(t, "  a\n red　ball ", 71, 37, 8, 1);
    tokenizer_close(t);
}

static void unknown_characters_merge(void **state)
{
    (void)state;
    struct tokenizer *t = open_model(MODEL);
    CHECK_PROMPT(t, "🙂🙂 a 🙂b", 75, 2, 71, 75, 2, 139, 1);
    CHECK_PROMPT(t, "日本 red", 75, 2, 37, 1);
    CHECK_PROMPT(t, "red 🙂 🙂 ball", 37, 75, 2, 75, 2, 8, 1);
    tokenizer_close(t);
    /* This model could spell a character's bytes: 243 162 156 133 raw. The pipelines do not. */
    t = open_model(BYTES_MODEL);
    CHECK_PROMPT(t, "привет мир 🙂", 288, 280, 337, 2, 1);
    CHECK_PROMPT(t, "🙂🙂", 337, 2, 1);
    tokenizer_close(t);
}

static void special_tokens_inside_a_prompt(void **state)
{
    (void)state;
    struct tokenizer *t = open_model(MODEL);
    CHECK_PROMPT(t, "a </s> red ball<pad>x", 71, 1, 37, 8, 0, 75, 161, 1);
    CHECK_PROMPT(t, "a</s>b", 71, 1, 75, 139, 1);
    CHECK_PROMPT(t, "</s>", 1, 1);
    CHECK_PROMPT(t, "</s> </s>", 1, 1, 1);
    CHECK_PROMPT(t, "a <unk> b <s> c", 71, 2, 75, 139, 3, 75, 140, 1);
    /* no token of this model */
    CHECK_PROMPT(t, "<extra_id_0> a", 75, 101, 142, 161, 157, 155, 138, 136, 146, 141, 136, 89, 103,
                 71, 1);
    tokenizer_close(t);
}

static void raw_pieces(void **state)
{
    (void)state;
    static const int32_t want[] = {288, 280, 337, 243, 162, 156, 133};
    struct tokenizer *t = open_model(BYTES_MODEL);
    struct error error = {0};
    int32_t ids[8] = {0};
    int64_t count;
    assert_true(tokenizer_encode(t, "привет мир 🙂", ids, 8, &count, &error));
    check_ids(ids, count, want, 7);
    /* All are counted, no more than fit are written. */
    memset(ids, 0xff, sizeof ids);
    assert_true(tokenizer_encode(t, "привет мир 🙂", ids, 2, &count, &error));
    assert_int_equal(count, 7);
    assert_int_equal(ids[1], 280);
    assert_int_equal(ids[2], -1);
    assert_true(tokenizer_encode(t, "", NULL, 0, &count, &error));
    assert_int_equal(count, 0);
    tokenizer_close(t);
}

static void long_prompts_are_cut(void **state)
{
    (void)state;
    struct tokenizer *t = open_model(MODEL);
    int32_t ids[5] = {-1, -1, -1, -1, -1};
    int64_t count, cut;
    struct error error = {0};
    const char *text = "a big red ball on green grass";
    assert_true(tokenizer_prompt(t, text, ids, 4, &count, &cut, &error));
    check_ids(ids, count, (int32_t[]){71, 11, 37, 1}, 4);
    assert_int_equal(cut, 4);
    assert_int_equal(ids[4], -1);
    assert_true(tokenizer_prompt(t, text, ids, 1, &count, &cut, &error));
    check_ids(ids, count, (int32_t[]){1}, 1);
    assert_int_equal(cut, 7);
    assert_false(tokenizer_prompt(t, text, ids, 0, &count, &cut, &error));
    assert_false(tokenizer_prompt(t, "caf\351", ids, 4, &count, &cut, &error));
    assert_non_null(strstr(error.text, "byte 3 of 4 is 0xe9"));
    tokenizer_close(t);
}

static char *read_model(size_t *size)
{
    FILE *file = fopen(MODEL, "rb");
    assert_non_null(file);
    char *bytes = malloc((size_t)1 << 20);
    assert_non_null(bytes);
    *size = fread(bytes, 1, (size_t)1 << 20, file);
    fclose(file);
    return bytes;
}

static void configured_tokens(void **state)
{
    struct scratch *scratch = *state;
    size_t size;
    char *bytes = read_model(&size);
    const char *path = scratch_write(scratch, "spiece.model", bytes, size);
    free(bytes);
    scratch_text(scratch, "tokenizer_config.json",
                 "{\"added_tokens_decoder\": {\"300\": {\"content\": \"<extra_id_0>\"}, \"310\": "
                 "{\"content\": \"<extra_id_01>\"}}}");
    struct tokenizer *t = open_model(path);
    CHECK_PROMPT(t, "<extra_id_0> a<extra_id_01>", 300, 71, 310, 1);
    tokenizer_close(t);

    static const char *const broken[][2] = {
        {"{", "broken JSON"},
        {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}", "entry 'x'"},
        {"{\"added_tokens_decoder\": {\"5\": {}}}", "entry '5'"},
        {"{\"added_tokens_decoder\": {\"-5\": {\"content\": \"a\"}}}", "entry '-5'"},
        {"{\"added_tokens_decoder\": {\"5\": {\"content\": \"\"}}}", "entry '5'"},
        {"{\"added_tokens_decoder\": [1, 2]}", "entry ''"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        struct error error = {0};
        scratch_text(scratch, "tokenizer_config.json", broken[i][0]);
        assert_false(tokenizer_open(&t, path, &error));
        assert_null(t);
        assert_non_null(strstr(error.text, "tokenizer_config.json"));
        if (!strstr(error.text, broken[i][1]))
            fail_msg("'%s' does not say '%s'", error.text, broken[i][1]);
    }
}

static void refuse(const char *path, const char *words)
{
    struct tokenizer *tokenizer;
    struct error error = {0};
    assert_false(tokenizer_open(&tokenizer, path, &error));
    assert_null(tokenizer);
    if (!strstr(error.text, words) || !strstr(error.text, path))
        fail_msg("'%s' does not say '%s' and '%s'", error.text, path, words);
}

static void files_that_are_no_tokenizer(void **state)
{
    struct scratch *scratch = *state;
    refuse(scratch_path(scratch, "nothing.model"), "cannot open");
    refuse(scratch->root, "not a regular file");
    refuse(scratch_text(scratch, "empty.model", ""), "has 0 bytes");
    refuse(scratch_text(scratch, "text.model", "hello\n"), "not a SentencePiece model");
    refuse(scratch_text(scratch, "html.model", "<!doctype html><html></html>"),
           "not a SentencePiece model");
    size_t size;
    char *bytes = read_model(&size);
    static const size_t cuts[] = {1, 2, 17, 1000, 5000, 100000, 240000};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        struct tokenizer *tokenizer = NULL;
        struct error error = {0};
        const char *path = scratch_write(scratch, "cut.model", bytes, cuts[i]);
        if (!tokenizer_open(&tokenizer, path, &error))
            assert_non_null(strstr(error.text, "cut.model"));
        tokenizer_close(tokenizer);
    }
    free(bytes);
    tokenizer_close(NULL);
}

/* The library follows the table of character replacements blindly; a wrong one must be caught. */
static void damaged_tables_are_found(void **state)
{
    struct scratch *scratch = *state;
    size_t size;
    char *bytes = read_model(&size);
    memset(bytes + 10000, 0xff, 4000);
    refuse(scratch_write(scratch, "a.model", bytes, size),
           "the table of character replacements is damaged");
    free(bytes);
    /* Wherever a byte changes, a tokenizer that opens must also work. */
    uint32_t random = 1;
    for (int round = 0; round < 120; round++) {
        bytes = read_model(&size);
        for (int i = 0; i <= round % 4; i++) {
            random = random * 1664525 + 1013904223;
            bytes[random % (round % 2 ? size : 4000)] ^= (char)(1 << (round / 4 % 8));
        }
        struct tokenizer *tokenizer;
        struct error error = {0};
        const char *path = scratch_write(scratch, "b.model", bytes, size);
        if (tokenizer_open(&tokenizer, path, &error)) {
            int32_t ids[64];
            int64_t count, cut;
            tokenizer_prompt(tokenizer, "a red ball 日本 🙂 café ½ Å", ids, 64, &count, &cut,
                             &error);
            tokenizer_close(tokenizer);
        } else {
            assert_non_null(strstr(error.text, "b.model"));
        }
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_of_the_reference),
        cmocka_unit_test(unknown_characters_merge),
        cmocka_unit_test(special_tokens_inside_a_prompt),
        cmocka_unit_test(raw_pieces),
        cmocka_unit_test(long_prompts_are_cut),
        cmocka_unit_test_setup_teardown(configured_tokens, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(files_that_are_no_tokenizer, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(damaged_tables_are_found, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
