/* The few calls of the SentencePiece library that tokenizer.c needs, in C; exceptions end here. */
#ifndef PIPELINE_IO_SENTENCEPIECE_SHIM_H
#define PIPELINE_IO_SENTENCEPIECE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct spiece;

/* The message where there is no memory: not the file's fault. */
#define SPIECE_OUT_OF_MEMORY "out of memory"

enum spiece_kind {
    SPIECE_ORDINARY,
    SPIECE_CONTROL, /* never matches text: <pad>, </s>, ... */
    SPIECE_UNKNOWN,
    SPIECE_BYTE, /* a byte of a character that has no piece */
    SPIECE_UNUSED
};

/* bytes: a whole .model file. NULL on failure, with the library's words in message. */
struct spiece *spiece_load(const void *bytes, size_t size, char *message, size_t message_size);
void spiece_free(struct spiece *spiece); /* accepts NULL */

int32_t spiece_count(const struct spiece *spiece);
enum spiece_kind spiece_kind(const struct spiece *spiece, int32_t id);
/* NUL-terminated, owned by spiece. */
const char *spiece_text(const struct spiece *spiece, int32_t id);

/* Ids of text, malloc'd in *ids. false on failure, with words in message. */
bool spiece_encode(const struct spiece *spiece, const char *text, size_t size, int32_t **ids,
                   int64_t *count, char *message, size_t message_size);

#ifdef __cplusplus
}
#endif

#endif
