/*
 * A file that appears whole or not at all: written under a hidden name in the folder of the target,
 * flushed to the disk and renamed at the end.
 *
 *     if (!output_file_create(&file, "out.mp4", error))
 *         return false;
 *     ... write file.temporary ...
 *     return ok ? output_file_commit(&file, error) : (output_file_discard(&file), false);
 */
#ifndef PIPELINE_IO_OUTPUT_FILE_H
#define PIPELINE_IO_OUTPUT_FILE_H

#include "../error.h"

#include <stdbool.h>

struct output_file {
    char *target;
    char *temporary; /* NULL once committed or discarded */
};

/* Creates the empty temporary. Refuses a target that is a folder or a device, a folder that is
 * missing or cannot be written. */
bool output_file_create(struct output_file *out, const char *target, struct error *error);

/* What create would say, leaving nothing behind. */
bool output_file_check(const char *target, struct error *error);

/* Whether two paths name one file, also where it is not there yet. */
bool output_file_same(const char *a, const char *b);

/* Flushes the temporary to the disk and renames it; removes it on failure. Frees in every case. */
bool output_file_commit(struct output_file *file, struct error *error);

/* errno's words for a write that failed, with the way out where the disk is full. Static, or as
 * strerror() has it. */
const char *output_file_reason(int reason);

/* Removes the temporary and frees. Accepts a zeroed struct. */
void output_file_discard(struct output_file *file);

#endif
