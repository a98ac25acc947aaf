/* What a mistyped word may have meant. */
#ifndef PIPELINE_CLI_SUGGEST_H
#define PIPELINE_CLI_SUGGEST_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>

/* The choice closest to word by edit distance, or NULL where none is close (about a third of its
 * letters wrong at most). next(user, i) gives choice i, NULL after the last. */
const char *suggest_nearest(const char *word, const char *(*next)(const void *user, size_t index),
                            const void *user);

/* "--policy 'x' is unknown (did you mean 'y'?); there are a, b, c", a mistake of use. False. */
bool suggest_refuse(const char *flag, const char *word,
                    const char *(*next)(const void *user, size_t index), const void *user,
                    struct error *error);

#endif
