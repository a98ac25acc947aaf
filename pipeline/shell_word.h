/* Words of a command line for a shell to take as they are. */
#ifndef PIPELINE_SHELL_WORD_H
#define PIPELINE_SHELL_WORD_H

#include <stddef.h>

/* The most bytes that a word of so many takes, with the end. */
#define SHELL_WORD_SIZE(length) (4 * (size_t)(length) + 3)

/* The word, in single quotes where it needs them. Returns the characters written. */
size_t shell_word(char *to, const char *word);

#endif
