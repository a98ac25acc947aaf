/* What this machine is, and what runs on it. */
#ifndef PIPELINE_MACHINE_H
#define PIPELINE_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* The processor's name as the system tells it, else "unknown". size >= 1. */
void machine_cpu_name(char *name, size_t size);

/* What 0 threads mean to the library: OpenMP's own number. */
int32_t machine_threads(void);

/* What work is timed on: "AMD EPYC, 2 threads"; 0 threads as above. size >= 1. */
void machine_describe(int32_t threads, char *buffer, size_t size);

/* The commit that the program was built from, "-dirty" where files had changed; the version where
 * it was built from something else than a checkout. */
const char *machine_commit(void);

#endif
