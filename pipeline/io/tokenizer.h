/*
 * Prompt to token ids as Wan does it: T5 text cleaning, SentencePiece unigram, </s> appended.
 * Source: specs of the public Wan2.1 code and the HF fast tokenizer it runs.
 */
#ifndef PIPELINE_IO_TOKENIZER_H
#define PIPELINE_IO_TOKENIZER_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* path: a sentencepiece .model file. */
bool tokenizer_open(struct tokenizer **out, const char *path, struct error *error);
void tokenizer_close(struct tokenizer *tokenizer); /* accepts NULL */
int64_t tokenizer_pieces(const struct tokenizer *tokenizer);

/* Raw pieces of text, no cleaning, no </s>: what a SentencePiece encode gives. *count ids, at most
 * capacity are written. */
bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, int32_t *ids,
                      int64_t capacity, int64_t *count, struct error *error);

/* Cleans, encodes as the fast tokenizer does (special tokens such as </s> in the text are their
 * ids, a run of characters without a piece is one <unk>), appends </s>; cut to max_ids including
 * it. *cut says how many ids were dropped. Fails for text that is not UTF-8, with the byte offset.
 * Empty text gives just </s>. */
bool tokenizer_prompt(const struct tokenizer *tokenizer, const char *text, int32_t *ids,
                      int64_t max_ids, int64_t *count, int64_t *cut, struct error *error);

/* The cleaning alone (width forms, quotes, ligatures, HTML entities, NFC, white space). Returns a
 * malloc'd string. */
char *text_clean(const char *text, struct error *error);

#endif
