/*
 * draftattn: finds the subcommand, runs it, prints its error once.
 * Exit codes: 0 done, 1 failed, 2 a mistake on the command line, 130 interrupted.
 */
#include "command.h"
#include "suggest.h"

#include "../interrupt.h"
#include "../io/output_file.h"

#include <draftattn.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command {
    const struct command_spec *spec;
    bool (*run)(int argc, char *const *argv, struct error *error);
} commands[] = {
    {&generate_command, cmd_generate}, {&compare_command, cmd_compare}, {&bench_command, cmd_bench},
    {&inspect_command, cmd_inspect},   {&decode_command, cmd_decode},   {&info_command, cmd_info},
};
#define COMMAND_COUNT (sizeof commands / sizeof *commands)

static void print_help(FILE *out)
{
    fprintf(out, "Usage: draftattn COMMAND [options]\n\n"
                 "Videos from text with Wan2.1 models, made faster by draft-guided block-sparse\n"
                 "attention.\n\nCommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i].spec->name, commands[i].spec->summary);
    fprintf(out, "  %-10s %s\n\nOptions:\n", "help", "print this page, or that of a command");
    fprintf(out,
            "  -h, --help                print this page\n"
            "      --version             print the version\n\n"
            "Try:\n  draftattn generate -p \"a big red ball bounces on green grass\" -o ball.mp4\n"
            "\n'draftattn help generate' lists the options of a command.\n");
}

static const char *command_at(const void *user, size_t index)
{
    (void)user;
    return index < COMMAND_COUNT ? commands[index].spec->name : NULL;
}

static const struct command *find_command(const char *name, struct error *error)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].spec->name, name) == 0)
            return &commands[i];
    const char *nearest = suggest_nearest(name, command_at, NULL);
    error_set_usage(error, "unknown command '%s'%s%s%s; the commands are", name,
                    nearest ? " (did you mean '" : "", nearest ? nearest : "",
                    nearest ? "'?)" : "");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        error_append(error, " %s,", commands[i].spec->name);
    error_append(error, " help");
    return NULL;
}

static bool help(int argc, char *const *argv, struct error *error)
{
    if (argc == 0) {
        print_help(stdout);
        return true;
    }
    const struct command *command = find_command(argv[0], error);
    if (command)
        options_print_help(command->spec, stdout);
    return command != NULL;
}

static bool run(int argc, char *const *argv, struct error *error)
{
    if (argc < 2) {
        print_help(stderr);
        return error_set_usage(error, "no command given");
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0)
        return help(argc - 2, argv + 2, error);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(0, NULL, error);
    if (strcmp(name, "--version") == 0) {
        puts("draftattn " DRAFTATTN_VERSION_STRING);
        return true;
    }
    const struct command *command = find_command(name, error);
    return command && command->run(argc - 2, argv + 2, error);
}

/* libgomp's threads spin for milliseconds while they wait, and where other programs run they take
 * the cores that their own work needs: the bundled model's dense video took 25.6 s beside two busy
 * loops on two cores of an AMD EPYC (Zen 5), and 14.6 s with this count; alone, 6.9 s with either.
 * libgomp reads its environment before main(), hence the second start. */
static void shorten_spinning(char *const *argv)
{
    char program[4096]; /* its own name, lest it be listed as a process called "exe" */
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    program[length] = '\0';
    if (setenv("GOMP_SPINCOUNT", "1000", 1) == 0)
        execv(program, argv); /* where this fails the work goes on as it is */
}

/* A standard stream that came closed would give its number to the next file that is opened, and our
 * messages would go into the video. Read-only, so that writing to it still fails. */
static void occupy_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv)
{
    struct error error = {0};
    occupy_standard_streams();
    shorten_spinning(argv);
    interrupt_install();
    bool ok = run(argc, argv, &error);
    bool lost = ferror(stdout) != 0; /* earlier, when its buffer was full */
    int reason = fflush(stdout) != 0 ? errno : 0;
    if (ok && (lost || reason))
        ok = error_set(&error, "cannot write to standard output: %s",
                       reason ? output_file_reason(reason) : "some of it is lost");
    if (ok)
        return 0;
    fprintf(stderr, "draftattn: %s\n", error.text);
    return error.interrupted ? 130 : error.usage ? 2 : 1;
}
