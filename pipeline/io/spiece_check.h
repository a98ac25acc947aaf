/* What the SentencePiece library takes on trust in a .model file. */
#ifndef PIPELINE_IO_SPIECE_CHECK_H
#define PIPELINE_IO_SPIECE_CHECK_H

#include <stdbool.h>
#include <stddef.h>

/* NULL where bytes can be given to the library, else what is wrong with them, in words. Static. */
const char *spiece_check(const void *bytes, size_t size);

#endif
