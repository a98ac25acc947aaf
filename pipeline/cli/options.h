/*
 * Command-line options: one table per command drives the parser, the help page and the messages.
 *
 *     struct arguments { struct option_int steps; };
 *     static const struct option_spec options[] = {
 *         OPTION_ROW_HEADING("Sampling"),
 *         OPTION_ROW_INT('s', "steps", "N", steps, 1, 1000, "denoising steps"),
 *         OPTION_ROW_END,
 *     };
 */
#ifndef PIPELINE_CLI_OPTIONS_H
#define PIPELINE_CLI_OPTIONS_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct option_int {
    bool given;
    int64_t value;
};

struct option_real {
    bool given;
    double value;
};

#define OPTION_TEXTS_MAX 16

struct option_texts {
    int count;
    const char *values[OPTION_TEXTS_MAX]; /* in the order given */
};

enum option_kind {
    OPTION_HEADING, /* of the options that follow, on the help page */
    OPTION_FLAG,    /* bool: true when there */
    OPTION_TEXT,    /* const char *: points into argv */
    OPTION_TEXTS,   /* struct option_texts: may be given several times */
    OPTION_INT,     /* struct option_int, low <= value <= high */
    OPTION_REAL,    /* struct option_real, low <= value <= high (below high where open) */
    OPTION_SWITCH   /* struct option_int: "on" = 1, "off" = 0 */
};

struct option_spec {
    enum option_kind kind;
    char letter;      /* 0 = none */
    const char *name; /* without the dashes; NULL ends the table */
    const char *argument;
    size_t offset; /* in the struct that options_parse() fills */
    double low, high;
    bool open; /* high itself is not allowed */
    const char *help;
};

/* Rows of a table. field is a member of the file's own struct arguments. */
#define OPTION_ROW(kind, letter, name, argument, field, low, high, open, help)                     \
    {                                                                                              \
        kind, letter, name, argument, offsetof(struct arguments, field), low, high, open, help     \
    }
#define OPTION_ROW_TEXT(letter, name, argument, field, help)                                       \
    OPTION_ROW(OPTION_TEXT, letter, name, argument, field, 0, 0, false, help)
#define OPTION_ROW_TEXTS(letter, name, argument, field, help)                                      \
    OPTION_ROW(OPTION_TEXTS, letter, name, argument, field, 0, 0, false, help)
#define OPTION_ROW_INT(letter, name, argument, field, low, high, help)                             \
    OPTION_ROW(OPTION_INT, letter, name, argument, field, low, high, false, help)
#define OPTION_ROW_REAL(letter, name, argument, field, low, high, help)                            \
    OPTION_ROW(OPTION_REAL, letter, name, argument, field, low, high, false, help)
#define OPTION_ROW_BELOW(letter, name, argument, field, low, high, help)                           \
    OPTION_ROW(OPTION_REAL, letter, name, argument, field, low, high, true, help)
#define OPTION_ROW_SWITCH(letter, name, field, help)                                               \
    OPTION_ROW(OPTION_SWITCH, letter, name, "on|off", field, 0, 0, false, help)
#define OPTION_ROW_FLAG(letter, name, field, help)                                                 \
    OPTION_ROW(OPTION_FLAG, letter, name, NULL, field, 0, 0, false, help)
#define OPTION_ROW_HEADING(text)                                                                   \
    {                                                                                              \
        .kind = OPTION_HEADING, .name = text                                                       \
    }
#define OPTION_ROW_END                                                                             \
    {                                                                                              \
        .name = NULL                                                                               \
    }

struct command_spec {
    const char *name;
    const char *summary;      /* one line, as in the list of commands */
    const char *usage;        /* what follows "draftattn NAME" */
    const char *text;         /* paragraphs under the usage line; NULL = none */
    const char *positional;   /* what the one positional argument is called; NULL = takes none */
    size_t positional_offset; /* const char * */
    const struct option_spec *options;
};

/* Fills arguments (zeroed by the caller) from argv[0 .. argc). *help is set where --help or -h
 * stands, and the rest is not looked at. Numbers are parsed strictly; an unknown option names the
 * nearest. */
bool options_parse(const struct command_spec *command, int argc, char *const *argv, void *arguments,
                   bool *help, struct error *error);

/* The first option that was given and is not in allowed (names, ended by NULL); NULL = none. */
const char *options_given_beside(const struct command_spec *command, const void *arguments,
                                 const char *const *allowed);

/* The help page, at most 80 columns. */
void options_print_help(const struct command_spec *command, FILE *out);

/* Whole-string numbers. what ("--steps") begins the message. */
bool parse_int(const char *what, const char *text, int64_t low, int64_t high, int64_t *out,
               struct error *error);
bool parse_real(const char *what, const char *text, double low, double high, bool open, double *out,
                struct error *error);

/* "832x480" */
bool parse_size(const char *what, const char *text, int64_t low, int64_t high, int64_t *width,
                int64_t *height, struct error *error);

/* "0,1,5-7" to ascending numbers without repetition, in [0, limit). *out is malloc'd. */
bool parse_list(const char *what, const char *text, int32_t limit, int32_t **out, int32_t *count,
                struct error *error);

/* "auto" (and NULL) leaves *tile, "off" gives 0, else a side in pixels from 64. */
bool parse_tile(const char *what, const char *text, int64_t *tile, struct error *error);

#endif
