/* What this machine is called. */
#ifndef PIPELINE_MACHINE_H
#define PIPELINE_MACHINE_H

#include <stddef.h>

/* The processor's name as the system tells it, else "unknown". size >= 1. */
void machine_cpu_name(char *name, size_t size);

#endif
