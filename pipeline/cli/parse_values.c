/* Values of options: whole strings, stated ranges, no silent rounding. */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Digits, a leading '-' perhaps; strtoll alone would take spaces and '+'. */
static bool scan_int(const char *text, const char **end, int64_t *out)
{
    const char *digits = text + (*text == '-');
    if (*digits < '0' || *digits > '9')
        return false;
    char *stop;
    errno = 0;
    *out = strtoll(text, &stop, 10);
    *end = stop;
    return errno == 0;
}

bool parse_int(const char *what, const char *text, int64_t low, int64_t high, int64_t *out,
               struct error *error)
{
    const char *end;
    int64_t value;
    if (!scan_int(text, &end, &value) || *end || value < low || value > high)
        return error_set_usage(error, "%s '%s': takes a whole number from %lld to %lld", what, text,
                               (long long)low, (long long)high);
    *out = value;
    return true;
}

bool parse_real(const char *what, const char *text, double low, double high, bool open, double *out,
                struct error *error)
{
    char *end = NULL;
    const char *digits = text + (*text == '-');
    bool plain = *digits && strspn(digits, "0123456789.eE+-") == strlen(digits);
    errno = 0;
    double value = plain ? strtod(text, &end) : 0;
    bool ok = plain && !*end && end != text && isfinite(value) && errno != ERANGE;
    if (!ok || value < low || value > high || (open && value >= high))
        return error_set_usage(error, "%s '%s': takes a number from %g to %s%g", what, text, low,
                               open ? "below " : "", high);
    *out = value;
    return true;
}

bool parse_size(const char *what, const char *text, int64_t low, int64_t high, int64_t *width,
                int64_t *height, struct error *error)
{
    const char *end;
    int64_t w, h;
    bool ok = scan_int(text, &end, &w) && (*end == 'x' || *end == 'X') &&
              scan_int(end + 1, &end, &h) && !*end;
    if (!ok || w < low || w > high || h < low || h > high)
        return error_set_usage(
            error, "%s '%s': takes WIDTHxHEIGHT such as 832x480, each from %lld to %lld", what,
            text, (long long)low, (long long)high);
    *width = w;
    *height = h;
    return true;
}

bool parse_list(const char *what, const char *text, int32_t limit, int32_t **out, int32_t *count,
                struct error *error)
{
    bool *chosen = calloc((size_t)limit + 1, sizeof *chosen);
    int32_t *list = calloc((size_t)limit + 1, sizeof *list);
    const char *at = text;
    bool ok = chosen && list;
    while (ok) {
        int64_t first = 0, last;
        ok = scan_int(at, &at, &first);
        last = first;
        if (ok && *at == '-')
            ok = scan_int(at + 1, &at, &last);
        ok = ok && first >= 0 && first <= last && last < limit;
        for (int64_t i = first; ok && i <= last; i++)
            chosen[i] = true;
        if (!ok || *at != ',')
            break;
        at++;
    }
    *count = 0;
    for (int32_t i = 0; ok && i < limit; i++)
        if (chosen[i])
            list[(*count)++] = i;
    free(chosen);
    if (ok && !*at) {
        *out = list;
        return true;
    }
    free(list);
    *out = NULL;
    *count = 0;
    return error_set_usage(error, "%s '%s': takes a list such as 0,1,5-7, each from 0 to %d", what,
                           text, limit - 1);
}

bool parse_tile(const char *what, const char *text, int64_t *tile, struct error *error)
{
    const char *end;
    int64_t value = 0;
    if (!text || strcmp(text, "auto") == 0)
        return true;
    if (strcmp(text, "off") != 0 &&
        (!scan_int(text, &end, &value) || *end || value < 64 || value > 16384 || value % 8))
        return error_set_usage(
            error, "%s '%s': takes auto, off, or a multiple of 8 from 64 to 16384", what, text);
    *tile = value;
    return true;
}
