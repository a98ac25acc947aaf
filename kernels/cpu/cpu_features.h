/* What this machine's CPU and its operating system let a kernel use. */
#ifndef DRAFTATTN_KERNELS_CPU_CPU_FEATURES_H
#define DRAFTATTN_KERNELS_CPU_CPU_FEATURES_H

#include <draftattn.h>

/* NULL where the instruction set of a CPU backend works here, else why not, in words (static). */
const char *cpu_features_why_not(draftattn_backend backend);

#endif
