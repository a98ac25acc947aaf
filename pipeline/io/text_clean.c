/*
 * Prompts as Wan's tokenizer cleans them: the repairs of ftfy, HTML references twice, white space.
 * A line is repaired until nothing changes any more. What ftfy does beyond that to text whose
 * encoding was mistaken (mojibake) is left out: a prompt that is not UTF-8 is refused, one that is,
 * is taken at its word.
 */
#include "tokenizer.h"

#include "codepoints.h"
#include "html_entities.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Nested references (&amp;amp;...) lose one level a round; nobody means more than this. */
#define ROUNDS_MAX 32

static const struct {
    int32_t code;
    int32_t letters[3];
} ligatures[] = {
    {0x132, {'I', 'J'}},       {0x133, {'i', 'j'}},       {0x149, {0x2bc, 'n'}},
    {0x1c4, {'D', 0x17d}},     {0x1c5, {'D', 0x17e}},     {0x1c6, {'d', 0x17e}},
    {0x1c7, {'L', 'J'}},       {0x1c8, {'L', 'j'}},       {0x1c9, {'l', 'j'}},
    {0x1ca, {'N', 'J'}},       {0x1cb, {'N', 'j'}},       {0x1cc, {'n', 'j'}},
    {0x1f1, {'D', 'Z'}},       {0x1f2, {'D', 'z'}},       {0x1f3, {'d', 'z'}},
    {0xfb00, {'f', 'f'}},      {0xfb01, {'f', 'i'}},      {0xfb02, {'f', 'l'}},
    {0xfb03, {'f', 'f', 'i'}}, {0xfb04, {'f', 'f', 'l'}}, {0xfb05, {0x17f, 't'}},
    {0xfb06, {'s', 't'}},
};

static bool add_ligature(struct codepoints *out, int32_t code)
{
    for (size_t i = 0; i < sizeof ligatures / sizeof ligatures[0]; i++) {
        if (ligatures[i].code != code)
            continue;
        for (int k = 0; k < 3 && ligatures[i].letters[k]; k++)
            codepoints_add(out, ligatures[i].letters[k]);
        return true;
    }
    return false;
}

/* Full-width and half-width forms: each alone in its compatible form. */
static int32_t plain_width(int32_t code)
{
    if (code == 0x3000)
        return ' ';
    if (code < 0xff01 || code > 0xffef)
        return code;
    int32_t plain[4];
    int boundary = 0;
    utf8proc_ssize_t length =
        utf8proc_decompose_char(code, plain, 4, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &boundary);
    return length == 1 ? plain[0] : code;
}

static int32_t straight_quote(int32_t code)
{
    if (code >= 0x201c && code <= 0x201f)
        return '"';
    return (code >= 0x2018 && code <= 0x201b) || code == 0x2bc ? '\'' : code;
}

static bool is_control(int32_t code)
{
    return code < 0x09 || code == 0x0b || (code >= 0x0e && code < 0x20) || code == 0x7f ||
           (code >= 0x206a && code <= 0x206f) || code == 0xfeff ||
           (code >= 0xfff9 && code <= 0xfffc);
}

/* Length of a terminal's colour sequence, ESC [ 1;31 m; 0 for none. */
static size_t terminal_escape(const int32_t *at, size_t left)
{
    if (left < 3 || at[0] != 0x1b || at[1] != '[')
        return 0;
    size_t i = 2;
    while (i < left && ((at[i] >= '0' && at[i] <= '9') || at[i] == ';'))
        i++;
    bool letter = i < left && (at[i] | 0x20) >= 'a' && (at[i] | 0x20) <= 'z';
    return letter ? i + 1 : 0;
}

/* Everything that looks at one character, in the order of ftfy. */
static void fix_characters(struct codepoints *text)
{
    struct codepoints out = {0};
    for (size_t i = 0; i < text->count; i++) {
        size_t escape = terminal_escape(text->at + i, text->count - i);
        if (escape > 0) {
            i += escape - 1;
            continue;
        }
        int32_t code = html_windows_1252(text->at[i]);
        if (code == '\r' && i + 1 < text->count && text->at[i + 1] == '\n')
            continue;
        if (code == '\r' || code == 0x2028 || code == 0x2029)
            code = '\n';
        if (add_ligature(&out, code))
            continue;
        code = straight_quote(plain_width(code));
        if (!is_control(code))
            codepoints_add(&out, code);
    }
    codepoints_move(text, &out);
}

/* Canonical composition (NFC). */
static void compose(struct codepoints *text)
{
    char *utf8 = codepoints_encode(text);
    utf8proc_uint8_t *composed = utf8 ? utf8proc_NFC((const utf8proc_uint8_t *)utf8) : NULL;
    struct codepoints out = {0};
    if (!composed || !codepoints_decode(&out, (const char *)composed, NULL))
        out.failed = true;
    codepoints_move(text, &out);
    free(composed);
    free(utf8);
}

static void fix_line(struct codepoints *line, bool unescape)
{
    for (int round = 0; round < ROUNDS_MAX && !line->failed; round++) {
        struct codepoints before = {0};
        codepoints_add_all(&before, line->at, line->count);
        if (unescape)
            html_unescape_careful(line);
        fix_characters(line);
        compose(line);
        size_t bytes = before.count * sizeof *before.at;
        bool same =
            before.count == line->count && (bytes == 0 || memcmp(before.at, line->at, bytes) == 0);
        line->failed = line->failed || before.failed;
        codepoints_free(&before);
        if (same)
            break;
    }
}

/* References are left alone from the first line with a '<' on: that text is HTML and means them. */
static void fix_text(struct codepoints *text)
{
    struct codepoints out = {0};
    bool unescape = true;
    for (size_t i = 0; i < text->count;) {
        struct codepoints line = {0};
        bool ended = false;
        for (; i < text->count && !ended; i++) {
            codepoints_add(&line, text->at[i]);
            ended = text->at[i] == '\n';
            if (text->at[i] == '<')
                unescape = false;
        }
        fix_line(&line, unescape);
        codepoints_add_all(&out, line.at, line.count);
        out.failed = out.failed || line.failed;
        codepoints_free(&line);
    }
    codepoints_move(text, &out);
}

static bool is_space(int32_t code)
{
    return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 ||
           code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* Every run of white space becomes one space, none is left at the ends. */
static void fix_spaces(struct codepoints *text)
{
    struct codepoints out = {0};
    bool gap = false;
    for (size_t i = 0; i < text->count; i++) {
        if (is_space(text->at[i])) {
            gap = out.count > 0;
            continue;
        }
        if (gap)
            codepoints_add(&out, ' ');
        gap = false;
        codepoints_add(&out, text->at[i]);
    }
    codepoints_move(text, &out);
}

char *text_clean(const char *text, struct error *error)
{
    struct codepoints codes = {0};
    char *clean = NULL;
    if (codepoints_decode(&codes, text, error)) {
        fix_text(&codes);
        html_unescape(&codes);
        html_unescape(&codes);
        fix_spaces(&codes);
        clean = codes.failed ? NULL : codepoints_encode(&codes);
        if (!clean)
            error_out_of_memory(error, "the text", strlen(text));
    }
    codepoints_free(&codes);
    return clean;
}
