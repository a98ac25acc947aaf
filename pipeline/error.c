#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void store(struct error *error, const char *format, va_list args)
{
    if (error)
        vsnprintf(error->text, sizeof error->text, format, args);
}

bool error_set(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    store(error, format, args);
    va_end(args);
    return false;
}

bool error_set_usage(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    store(error, format, args);
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
    int length = vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    if (length >= 0 && (size_t)length < sizeof error->text)
        snprintf(error->text + length, sizeof error->text - (size_t)length, "%s", rest);
    return false;
}

bool error_out_of_memory(struct error *error, const char *what, unsigned long long bytes)
{
    return error_set(error, "out of memory: %s needs %.1f MiB", what, (double)bytes / 1048576.0);
}
