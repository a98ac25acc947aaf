/* Nearest word by optimal string alignment distance: a swap of neighbours counts once, like a typo.
 * */
#include "suggest.h"

#include <string.h>

#define MAX_WORD 40

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t m, const char *b, size_t n)
{
    size_t d[MAX_WORD + 1][MAX_WORD + 1];
    for (size_t i = 0; i <= m; i++)
        d[i][0] = i;
    for (size_t j = 0; j <= n; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= m; i++)
        for (size_t j = 1; j <= n; j++) {
            d[i][j] = least(least(d[i - 1][j], d[i][j - 1]) + 1,
                            d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[m][n];
}

const char *suggest_nearest(const char *word, const char *(*next)(const void *user, size_t index),
                            const void *user)
{
    size_t length = strlen(word);
    if (length == 0 || length > MAX_WORD)
        return NULL;
    size_t allowed = length < 3 ? 1 : length < 7 ? 2 : length / 3;
    const char *best = NULL;
    for (size_t i = 0;; i++) {
        const char *choice = next(user, i);
        if (!choice)
            return best;
        size_t other = strlen(choice);
        if (other > MAX_WORD)
            continue;
        size_t d = distance(word, length, choice, other);
        if (d <= allowed && d < other) {
            allowed = d ? d - 1 : 0; /* only a closer one replaces it */
            best = choice;
        }
        if (d == 0)
            return choice;
    }
}

bool suggest_refuse(const char *flag, const char *word,
                    const char *(*next)(const void *user, size_t index), const void *user,
                    struct error *error)
{
    const char *nearest = suggest_nearest(word, next, user);
    error_set_usage(error, "%s '%s' is unknown%s%s%s; there are", flag, word,
                    nearest ? " (did you mean '" : "", nearest ? nearest : "",
                    nearest ? "'?)" : "");
    for (size_t i = 0; next(user, i); i++)
        error_append(error, "%s %s", i ? "," : "", next(user, i));
    return false;
}
