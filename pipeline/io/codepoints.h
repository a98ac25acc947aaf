/* Text as an array of Unicode code points, for text_clean.c and html_entities.c. */
#ifndef PIPELINE_IO_CODEPOINTS_H
#define PIPELINE_IO_CODEPOINTS_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Appending past the memory there is sets failed; it stays set, so that it is asked once, at the
 * end. */
struct codepoints {
    int32_t *at;
    size_t count, capacity;
    bool failed;
};

void codepoints_free(struct codepoints *text);
void codepoints_add(struct codepoints *text, int32_t code);
void codepoints_add_all(struct codepoints *text, const int32_t *codes, size_t count);

/* Replaces text by what is in from, which becomes empty. */
void codepoints_move(struct codepoints *text, struct codepoints *from);

/* Strict UTF-8: no overlong forms, no surrogates; the message names the first bad byte. */
bool codepoints_decode(struct codepoints *out, const char *text, struct error *error);
/* malloc'd; NULL where memory is short. */
char *codepoints_encode(const struct codepoints *text);

#endif
