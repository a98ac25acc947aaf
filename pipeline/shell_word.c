/* Between single quotes a shell leaves everything alone, and a quote itself stands outside of them
 * behind a backslash. Words of harmless characters stay bare. */
#include "shell_word.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

size_t shell_word(char *to, const char *word)
{
    char *at = to;
    bool plain = *word && word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW"
                                            "XYZ0123456789-_=./,:@%+")] == '\0';
    at += sprintf(at, plain ? "%s" : "'", word);
    for (; !plain && *word; word++)
        at += sprintf(at, *word == '\'' ? "'\\''" : "%c", *word);
    if (!plain)
        at += sprintf(at, "'");
    return (size_t)(at - to);
}
