/*
 * How the library reports failure: a status for the program, a sentence for the reader. The
 * sentence is kept per thread, so that a plan can be shared; it is the only state outside objects.
 */
#ifndef DRAFTATTN_ERROR_H
#define DRAFTATTN_ERROR_H

#include <draftattn.h>

/* Stores the sentence for the calling thread and returns status, so that it can end a function. */
draftattn_status error_report(draftattn_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

const char *error_last(void);

/* Words for a backend's failure: what failed and why; SUCCESS passes. */
draftattn_status error_backend(draftattn_status status, const char *what);

/* Returns status itself, so that a reader, an analyser too, sees that it is no success. */
#define RETURN_IF(condition, status, ...)                                                          \
    do {                                                                                           \
        if (condition) {                                                                           \
            error_report(status, __VA_ARGS__);                                                     \
            return status;                                                                         \
        }                                                                                          \
    } while (0)

#define TRY(call)                                                                                  \
    do {                                                                                           \
        draftattn_status try_status = (call);                                                      \
        if (try_status != DRAFTATTN_SUCCESS)                                                       \
            return try_status;                                                                     \
    } while (0)

#endif
