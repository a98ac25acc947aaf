/* The subcommands. Each parses its own options, works, and reports through error; main.c makes exit
 * codes of it. argv begins after the command's name. */
#ifndef PIPELINE_CLI_COMMAND_H
#define PIPELINE_CLI_COMMAND_H

#include "options.h"

#include "../error.h"

#include <stdbool.h>

extern const struct command_spec generate_command, compare_command, bench_command, inspect_command,
    decode_command, info_command;

bool cmd_generate(int argc, char *const *argv, struct error *error);
bool cmd_compare(int argc, char *const *argv, struct error *error);
bool cmd_bench(int argc, char *const *argv, struct error *error);
bool cmd_decode(int argc, char *const *argv, struct error *error);
bool cmd_inspect(int argc, char *const *argv, struct error *error);
bool cmd_info(int argc, char *const *argv, struct error *error);

#endif
