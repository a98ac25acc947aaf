/* Prompt cleaning against ftfy 6.3 followed by html.unescape twice and white space, as the public
 * pipelines do it: what stands on the right was made by these. */
#include "io/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check(const char *text, const char *want)
{
    struct error error = {0};
    char *got = text_clean(text, &error);
    if (!got)
        fail_msg("%s: %s", text, error.text);
    assert_string_equal(got, want);
    free(got);
}

static void white_space_runs_become_one_space(void **state)
{
    (void)state;
    check("a red ball", "a red ball");
    check("  a \t red\n\nball  ", "a red ball");
    check("", "");
    check(" \n\t ", "");
    check("a\r\nb\rc\u2028d\u2029e", "a b c d e");
    check("a\u00a0b\u2003c\u202fd\u1680e", "a b c d e");
    check("zero\u200dwidth\u200bspace", "zero\u200dwidth\u200bspace");
    check("&nbsp;a&nbsp;", "a");
    check("x&#13;y&#10;z", "x y z");
}

static void width_quotes_and_ligatures_are_plain(void **state)
{
    (void)state;
    check("Ｗｉｄｅ　ｔｅｘｔ，１２３！", "Wide text,123!");
    check("ﾊﾟﾋﾟｶﾞ ﾡ ￠", "パピガ \u1100 ¢");
    check("‘a’ “b” ‚c„ ʼd", "'a' \"b\" 'c\" 'd");
    check("ﬁne ﬂow ﬀ ﬃ ﬄ ﬅ ﬆ", "fine flow ff ffi ffl ſt st");
    check("Ǆ ǆ Ĳ ŉ", "DŽ dž IJ 'n");
}

static void canonical_composition(void **state)
{
    (void)state;
    check("e\u0301 A\u030a", "é Å");
    check("q\u0323\u0307 q\u0307\u0323", "q\u0323\u0307 q\u0323\u0307");
    check("\u1100\u1161", "가");
}

static void control_characters_go(void **state)
{
    (void)state;
    check("a\007bc", "abc");
    check("\033[31mred\033[0m \033", "red");
    check("\033[1;32", "[1;32");
    check("\ufeffbom \ufffc x", "bom x");
    check("\302\223quoted\302\224 e\302\205f", "\"quoted\" e…f");
}

static void other_scripts_stay(void **state)
{
    (void)state;
    check("北京 猫が走る", "北京 猫が走る");
    check("привет мир 🙂", "привет мир 🙂");
    check("👩\u200d🚀 flag", "👩\u200d🚀 flag");
    check("İ ı ß ẞ", "İ ı ß ẞ");
}

static void html_references(void **state)
{
    (void)state;
    check("caf&eacute; &amp; cr&egrave;me", "café & crème");
    check("tom &amp jerry &notit; &notin; &copy2", "tom & jerry ¬it; ∉ ©2");
    check("&#39;x&#x27; &#128; &#0; &#xD800; &#x1F642; &#1;", "'x' € \ufffd \ufffd 🙂");
    check("&frac12;&FRAC12; &there4;", "½½ ∴");
    check("&EACUTE;T&EACUTE; &HELLIP;", "ÉTÉ …");
    check("AT&T; R&D &; &#; &#x; &", "AT&T; R&D &; &#; &#x; &");
    check("&unknown; &toolongtobeanentityofhtmlatallreally;",
          "&unknown; &toolongtobeanentityofhtmlatallreally;");
    check("&#1234567890123456789012345;", "\ufffd");
}

static void nested_references_unfold(void **state)
{
    (void)state;
    check("&amp;lt;b&amp;gt; &amp;amp;amp;", "<b> &");
    /* A '<' says that a line is HTML: its references are read late, after quotes were straightened.
     * */
    check("&rsquo;", "'");
    check("<b>&rsquo;</b>", "<b>’</b>");
    check("one &rsquo;\n<b> &rsquo;", "one ' <b> ’");
    check("1 < 2 &lt; 3", "1 < 2 < 3");
    /* Deeper than anyone nests: it must end, and soon. */
    enum { DEPTH = 20000 };
    char *text = malloc(DEPTH * 4 + 2), *end = text;
    *end++ = '&';
    for (int i = 0; i < DEPTH; i++, end += 4)
        memcpy(end, "amp;", 4);
    *end = '\0';
    char *clean = text_clean(text, NULL);
    assert_non_null(clean);
    assert_true(strlen(clean) < strlen(text));
    free(clean);
    free(text);
}

static void refuse(const char *text, const char *words)
{
    struct error error = {0};
    char *got = text_clean(text, &error);
    assert_null(got);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    (void)state;
    refuse("caf\351 au lait", "byte 3 of 12 is 0xe9");
    refuse("\377", "byte 0 of 1 is 0xff");
    refuse("ab\200", "byte 2 of 3 is 0x80");
    refuse("ab\303", "byte 2 of 3 is 0xc3");       /* cut off */
    refuse("\300\200", "byte 0 of 2 is 0xc0");     /* overlong NUL */
    refuse("\355\240\200", "byte 0 of 3 is 0xed"); /* surrogate */
    refuse("\364\220\200\200", "byte 0 of 4 is 0xf4");
    assert_null(text_clean("\377", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_runs_become_one_space),
        cmocka_unit_test(width_quotes_and_ligatures_are_plain),
        cmocka_unit_test(canonical_composition),
        cmocka_unit_test(control_characters_go),
        cmocka_unit_test(other_scripts_stay),
        cmocka_unit_test(html_references),
        cmocka_unit_test(nested_references_unfold),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
