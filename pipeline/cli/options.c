/*
 * The option table: parsing and the help page. Number syntax lives in parse_values.c.
 *
 * Values may follow as the next argument or after '='. A next argument that is itself an option of
 * the command is refused as a value, because "--prompt --steps 5" is a slip and not a prompt;
 * --prompt=--steps says it on purpose.
 */
#include "options.h"

#include "suggest.h"

#include <string.h>

#define HELP_COLUMN 28
#define HELP_WIDTH  80

static const struct option_spec *find_name(const struct command_spec *command, const char *name,
                                           size_t length)
{
    for (const struct option_spec *o = command->options; o->name; o++)
        if (o->kind != OPTION_HEADING && strlen(o->name) == length &&
            memcmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static const struct option_spec *find_letter(const struct command_spec *command, char letter)
{
    for (const struct option_spec *o = command->options; o->name; o++)
        if (letter && o->letter == letter)
            return o;
    return NULL;
}

static bool is_option(const struct command_spec *command, const char *text)
{
    if (text[0] != '-' || !text[1])
        return false;
    if (text[1] != '-')
        return find_letter(command, text[1]) && !text[2];
    return find_name(command, text + 2, strcspn(text + 2, "=")) != NULL;
}

static const char *option_at(const void *user, size_t index)
{
    const struct option_spec *o = ((const struct command_spec *)user)->options;
    while (o->name && (o->kind == OPTION_HEADING || index-- > 0))
        o++;
    return o->name;
}

static bool unknown(const struct command_spec *command, const char *text, struct error *error)
{
    char word[64];
    size_t skip = strspn(text, "-"), length = strcspn(text + skip, "=");
    const char *nearest = NULL;
    if (text[1] == '-' && length < sizeof word) {
        memcpy(word, text + skip, length);
        word[length] = '\0';
        nearest = suggest_nearest(word, option_at, command);
    }
    return error_set_usage(error, "unknown option '%s'%s%s%s; 'draftattn help %s' lists them", text,
                           nearest ? " (did you mean '--" : "", nearest ? nearest : "",
                           nearest ? "'?)" : "", command->name);
}

static bool store(const struct option_spec *o, const char *shown, const char *value,
                  void *arguments, struct error *error)
{
    void *field = (char *)arguments + o->offset;
    if (o->kind == OPTION_TEXT) {
        *(const char **)field = value;
        return true;
    }
    if (o->kind == OPTION_TEXTS) {
        struct option_texts *texts = field;
        if (texts->count == OPTION_TEXTS_MAX)
            return error_set_usage(error, "%s '%s': given more than %d times", shown, value,
                                   OPTION_TEXTS_MAX);
        texts->values[texts->count++] = value;
        return true;
    }
    if (o->kind == OPTION_REAL) {
        struct option_real *real = field;
        real->given = true;
        return parse_real(shown, value, o->low, o->high, o->open, &real->value, error);
    }
    struct option_int *number = field;
    number->given = true;
    if (o->kind == OPTION_INT)
        return parse_int(shown, value, (int64_t)o->low, (int64_t)o->high, &number->value, error);
    number->value = strcmp(value, "on") == 0;
    return number->value || strcmp(value, "off") == 0 ||
           error_set_usage(error, "%s '%s': takes on or off", shown, value);
}

/* The option at argv[*at]; attached is its value in the same argument, or NULL. */
static bool take(const struct command_spec *command, const struct option_spec *o,
                 const char *attached, int argc, char *const *argv, int *at, void *arguments,
                 struct error *error)
{
    char shown[64];
    snprintf(shown, sizeof shown, "--%s", o->name);
    if (o->kind == OPTION_FLAG) {
        *(bool *)((char *)arguments + o->offset) = true;
        return !attached || error_set_usage(error, "option '%s' takes no value", shown);
    }
    if (attached)
        return store(o, shown, attached, arguments, error);
    if (*at + 1 >= argc || is_option(command, argv[*at + 1]))
        return error_set_usage(
            error,
            "option '%s' needs a value (%s); one that begins with '-' is given as "
            "%s=VALUE",
            shown, o->argument, shown);
    *at += 1;
    return store(o, shown, argv[*at], arguments, error);
}

static bool take_positional(const struct command_spec *command, const char *text, void *arguments,
                            struct error *error)
{
    if (!command->positional)
        return error_set_usage(
            error,
            "unexpected argument '%s': '%s' takes options only (quote a value that "
            "has spaces)",
            text, command->name);
    const char **field = (const char **)((char *)arguments + command->positional_offset);
    if (*field)
        return error_set_usage(error, "unexpected argument '%s': %s is '%s' already", text,
                               command->positional, *field);
    *field = text;
    return true;
}

bool options_parse(const struct command_spec *command, int argc, char *const *argv, void *arguments,
                   bool *help, struct error *error)
{
    *help = false;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *help = true;
            return true;
        }
    bool only_positional = false;
    for (int i = 0; i < argc; i++) {
        const char *text = argv[i];
        if (only_positional || text[0] != '-' || !text[1]) {
            if (!take_positional(command, text, arguments, error))
                return false;
            continue;
        }
        if (strcmp(text, "--") == 0) {
            only_positional = true;
            continue;
        }
        bool long_form = text[1] == '-';
        size_t length = strcspn(text, "=");
        const struct option_spec *o =
            long_form ? find_name(command, text + 2, length - 2) : find_letter(command, text[1]);
        if (!o)
            return unknown(command, text, error);
        const char *attached = NULL;
        if (long_form)
            attached = text[length] ? text + length + 1 : NULL;
        else if (text[2])
            attached = text + 2 + (text[2] == '=');
        if (!take(command, o, attached, argc, argv, &i, arguments, error))
            return false;
    }
    return true;
}

static bool is_given(const struct option_spec *o, const void *arguments)
{
    const void *field = (const char *)arguments + o->offset;
    switch (o->kind) {
    case OPTION_HEADING:
        return false;
    case OPTION_FLAG:
        return *(const bool *)field;
    case OPTION_TEXT:
        return *(const char *const *)field != NULL;
    case OPTION_TEXTS:
        return ((const struct option_texts *)field)->count > 0;
    case OPTION_REAL:
        return ((const struct option_real *)field)->given;
    default:
        return ((const struct option_int *)field)->given;
    }
}

const char *options_given_beside(const struct command_spec *command, const void *arguments,
                                 const char *const *allowed)
{
    for (const struct option_spec *o = command->options; o->name; o++) {
        const char *const *name = allowed;
        if (!is_given(o, arguments))
            continue;
        while (*name && strcmp(*name, o->name) != 0)
            name++;
        if (!*name)
            return o->name;
    }
    return NULL;
}

/* Words of text from column to HELP_WIDTH, the cursor being at column; a '\n' in text is kept. */
static void print_wrapped(FILE *out, const char *text, int indent, int column)
{
    while (*text) {
        int length = (int)strcspn(text, " \n");
        if (column > indent && column + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length;
        if (*text == '\n') {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        }
        text += *text != '\0';
    }
    fputc('\n', out);
}

static void print_option(FILE *out, const struct option_spec *o)
{
    char left[64];
    int length = snprintf(left, sizeof left, "  %c%c%c --%s%s%s", o->letter ? '-' : ' ',
                          o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
                          o->argument ? " " : "", o->argument ? o->argument : "");
    fprintf(out, "%s", left);
    if (length > HELP_COLUMN - 2) {
        fputc('\n', out);
        length = 0;
    }
    fprintf(out, "%*s", HELP_COLUMN - length, "");
    print_wrapped(out, o->help, HELP_COLUMN, HELP_COLUMN);
}

void options_print_help(const struct command_spec *command, FILE *out)
{
    fprintf(out, "Usage: draftattn %s %s\n\n", command->name, command->usage);
    print_wrapped(out, command->text ? command->text : command->summary, 0, 0);
    for (const struct option_spec *o = command->options; o->name; o++) {
        if (o->kind == OPTION_HEADING)
            fprintf(out, "\n%s:\n", o->name);
        else
            print_option(out, o);
    }
    fprintf(out, "  -h, --help                print this page\n");
}
