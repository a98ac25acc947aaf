/* Token ids for a model that has no tokenizer. */
#ifndef PIPELINE_SYNTHETIC_PROMPT_H
#define PIPELINE_SYNTHETIC_PROMPT_H

#include <stdint.h>

/* One id in [2, vocab) for each word of text, the same for the same word, and 1 for the end; at
 * most limit of them, of which the last is the end. Returns how many, and in *cut how many words
 * were left out. limit >= 1, vocab >= 3. */
int64_t synthetic_prompt(const char *text, int32_t *ids, int64_t limit, int64_t vocab,
                         int64_t *cut);

#endif
