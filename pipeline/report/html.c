/*
 * Markup into a file: counting, escaping, base64.
 *
 * Prompts, names and paths may hold anything. Every byte of theirs passes through html_text(),
 * which escapes what is markup and replaces what HTML cannot hold: control characters and bytes
 * that are no UTF-8. NaN and infinity never reach the page as such.
 */
#include "html.h"

#include <libavutil/base64.h>

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

static void put(struct html *html, const char *bytes, size_t size)
{
    errno = 0;
    if (!html->reason && fwrite(bytes, 1, size, html->file) != size)
        html->reason = errno ? errno : EIO;
    html->bytes += (int64_t)size;
}

void html_print(struct html *html, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    errno = 0;
    int size = html->reason ? 0 : vfprintf(html->file, format, args);
    va_end(args);
    if (size < 0)
        html->reason = errno ? errno : EIO;
    else
        html->bytes += size;
}

/* Bytes of the character at text; 0 where there is none that HTML can hold. */
static size_t character_length(const unsigned char *text)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char lead = text[0];
    if (lead < 0x80)
        return (lead >= 0x20 && lead != 0x7f) || lead == '\n' || lead == '\t';
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    uint32_t code = lead & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (text[i] & 0x3fu);
    }
    bool control = code < 0xa0, surrogate = code >= 0xd800 && code < 0xe000;
    bool none = (code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
    return code < smallest[length] || code > 0x10ffff || control || surrogate || none ? 0 : length;
}

static const char *escape(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void html_text(struct html *html, const char *text, size_t limit)
{
    size_t at = 0, length = strlen(text);
    while (text[at] && (!limit || at < limit)) {
        size_t size = character_length((const unsigned char *)text + at);
        const char *escaped = size == 0 ? "\xef\xbf\xbd" : escape(text[at]);
        if (escaped)
            put(html, escaped, strlen(escaped));
        else
            put(html, text + at, size);
        at += size ? size : 1;
    }
    if (at < length)
        html_print(html, "… (%zu more bytes)", length - at);
}

void html_number(struct html *html, const char *format, double value, const char *infinite)
{
    char text[64];
    if (isnan(value))
        snprintf(text, sizeof text, "–");
    else if (isinf(value))
        snprintf(text, sizeof text, "%s", infinite);
    else
        snprintf(text, sizeof text, format, value);
    put(html, text, strlen(text));
}

/* Chunks of whole groups of three bytes, so that only the last one is padded. */
enum { CHUNK = 3 * 4096 };

static void put_base64(struct html *html, const uint8_t *bytes, size_t size)
{
    char text[AV_BASE64_SIZE(CHUNK)];
    for (size_t at = 0; at < size; at += CHUNK) {
        size_t part = size - at < CHUNK ? size - at : CHUNK;
        av_base64_encode(text, sizeof text, bytes + at, (int)part);
        put(html, text, strlen(text));
    }
}

void html_data(struct html *html, const char *type, const void *bytes, size_t size)
{
    html_print(html, "data:%s;base64,", type);
    put_base64(html, bytes, size);
}

void html_data_file(struct html *html, const char *type, FILE *file)
{
    uint8_t bytes[CHUNK];
    size_t size;
    html_print(html, "data:%s;base64,", type);
    rewind(file);
    do {
        errno = 0;
        size = fread(bytes, 1, sizeof bytes, file);
        put_base64(html, bytes, size);
    } while (size == sizeof bytes);
    if (ferror(file) && !html->reason)
        html->reason = errno ? errno : EIO;
}

int64_t html_data_size(int64_t bytes)
{
    return (bytes + 2) / 3 * 4;
}
