/* A growing array of code points and its ways from and to UTF-8. Refuses other bytes. */
#include "codepoints.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void codepoints_free(struct codepoints *text)
{
    free(text->at);
    *text = (struct codepoints){0};
}

void codepoints_add(struct codepoints *text, int32_t code)
{
    if (text->count == text->capacity) {
        size_t capacity = text->capacity ? text->capacity * 2 : 128;
        int32_t *at = realloc(text->at, capacity * sizeof *at);
        if (!at) {
            text->failed = true;
            return;
        }
        text->at = at;
        text->capacity = capacity;
    }
    text->at[text->count++] = code;
}

void codepoints_add_all(struct codepoints *text, const int32_t *codes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        codepoints_add(text, codes[i]);
}

void codepoints_move(struct codepoints *text, struct codepoints *from)
{
    bool failed = text->failed || from->failed;
    free(text->at);
    *text = *from;
    text->failed = failed;
    *from = (struct codepoints){0};
}

bool codepoints_decode(struct codepoints *out, const char *text, struct error *error)
{
    size_t length = strlen(text);
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used = utf8proc_iterate(bytes + i, (utf8proc_ssize_t)(length - i), &code);
        if (used <= 0)
            return error_set(error,
                             "the text is not UTF-8: byte %zu of %zu is 0x%02x, which begins no "
                             "character; save it as UTF-8",
                             i, length, bytes[i]);
        codepoints_add(out, code);
        i += (size_t)used;
    }
    if (out->failed)
        return error_out_of_memory(error, "the text", length * sizeof *out->at);
    return true;
}

char *codepoints_encode(const struct codepoints *text)
{
    utf8proc_uint8_t *out = malloc(text->count * 4 + 1);
    if (!out)
        return NULL;
    size_t used = 0;
    for (size_t i = 0; i < text->count; i++)
        used += (size_t)utf8proc_encode_char(text->at[i], out + used);
    out[used] = '\0';
    return (char *)out;
}
