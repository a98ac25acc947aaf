/*
 * How the runtime reports failure. Every fallible function takes a struct error last and returns
 * bool; the text names the file, flag, field or value at fault and the way out, and is printed
 * once, by main.
 *
 *     if (rank != 2)
 *         return error_set(error, "%s: '%s' has rank %d, expected 2", path, name, rank);
 *     if (!checkpoint_open(&weights, path, error))
 *         goto done;
 */
#ifndef PIPELINE_ERROR_H
#define PIPELINE_ERROR_H

#include <stdbool.h>

struct error {
    bool usage;       /* the command line is at fault: exit code 2 instead of 1 */
    bool interrupted; /* Ctrl-C: exit code 130 */
    char text[2048];
};

/* Stores the text (formatted like printf, control characters but newline and tab replaced by '?')
 * in place of what was there and returns false, so that it can end a function. error: or NULL. */
bool error_set(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for a mistake on the command line. */
bool error_set_usage(struct error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts context in front of the text that is there: "transformer: " + text. Returns false. */
bool error_prefix(struct error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts more after the text that is there: text + "; the latents are kept". Returns false. */
bool error_append(struct error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

bool error_out_of_memory(struct error *error, const char *what, unsigned long long bytes);

#endif
