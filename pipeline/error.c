/*
 * Messages quote names from files and command lines, which may hold anything: bytes that a terminal
 * would obey (below 0x20, 0x7f, and U+0080 to U+009F) are shown as '?', other UTF-8 is kept.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void make_printable(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at; at++) {
        if ((*at < 0x20 && *at != '\n' && *at != '\t') || *at == 0x7f)
            *at = '?';
        else if (at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f)
            at[0] = at[1] = '?';
    }
}

static void store_at(struct error *error, size_t at, const char *format, va_list args)
{
    if (!error || at >= sizeof error->text)
        return;
    vsnprintf(error->text + at, sizeof error->text - at, format, args);
    make_printable(error->text + at);
}

bool error_set(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    store_at(error, 0, format, args);
    va_end(args);
    return false;
}

bool error_set_usage(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    store_at(error, 0, format, args);
    va_end(args);
    if (error)
        error->usage = true;
    return false;
}

bool error_prefix(struct error *error, const char *format, ...)
{
    if (!error)
        return false;
    char rest[sizeof error->text];
    memcpy(rest, error->text, sizeof rest);
    va_list args;
    va_start(args, format);
    store_at(error, 0, format, args);
    va_end(args);
    return error_append(error, "%s", rest);
}

bool error_append(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    store_at(error, error ? strlen(error->text) : 0, format, args);
    va_end(args);
    return false;
}

bool error_out_of_memory(struct error *error, const char *what, unsigned long long bytes)
{
    return error_set(error, "out of memory: %s needs %.1f MiB", what, (double)bytes / 1048576.0);
}
