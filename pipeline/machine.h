/* What this machine is. */
#ifndef PIPELINE_MACHINE_H
#define PIPELINE_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* The processor's name as the system tells it, else "unknown". size >= 1. */
void machine_cpu_name(char *name, size_t size);

/* What 0 threads mean to the library: OpenMP's own number. */
int32_t machine_threads(void);

#endif
