/* Words that the library's own messages need beside the public ones. */
#ifndef DRAFTATTN_NAMES_H
#define DRAFTATTN_NAMES_H

#include <draftattn.h>

#include <stddef.h>

const char *dtype_name(draftattn_dtype dtype);

/* "a, b, c"; cut where it does not fit. size >= 1. */
void names_join(const char *const *names, int count, char *out, size_t size);

#endif
