/* Finds the model: what the user says goes first, what came with the program last. */
#include "model_location.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef DRAFTATTN_SOURCE_MODEL_DIR
#define DRAFTATTN_SOURCE_MODEL_DIR ""
#endif

static bool copy(char *path, size_t size, const char *text, struct error *error)
{
    int length = snprintf(path, size, "%s", text);
    return (length >= 0 && (size_t)length < size) ||
           error_set_usage(error, "the model's path is longer than %zu bytes", size - 1);
}

static bool is_model(const char *path)
{
    char file[4200];
    int length = snprintf(file, sizeof file, "%s/model_index.json", path);
    return path[0] && length > 0 && (size_t)length < sizeof file && access(file, R_OK) == 0;
}

/* <folder of the program>/../share/draftattn/tiny-world, "" if that cannot be told. */
static void installed_path(char *path, size_t size)
{
    char program[3800];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    path[0] = '\0';
    if (length <= 0)
        return;
    program[length] = '\0';
    char *slash = strrchr(program, '/');
    if (!slash)
        return;
    *slash = '\0';
    snprintf(path, size, "%s/../share/draftattn/tiny-world", program);
}

bool model_location_find(const char *given, char *path, size_t size, struct error *error)
{
    const char *variable = getenv("DRAFTATTN_MODEL");
    if (!given && variable && variable[0])
        given = variable;
    if (given)
        return copy(path, size, given, error);
    char installed[4096];
    installed_path(installed, sizeof installed);
    if (is_model(installed))
        return copy(path, size, installed, error);
    if (is_model(DRAFTATTN_SOURCE_MODEL_DIR))
        return copy(path, size, DRAFTATTN_SOURCE_MODEL_DIR, error);
    return error_set_usage(error,
                           "no model: give one with --model FOLDER or the environment variable "
                           "DRAFTATTN_MODEL; the bundled one is not in '%s' nor in '%s'",
                           installed, DRAFTATTN_SOURCE_MODEL_DIR);
}
