/* Ctrl-C: work stops at the next progress report, cleans up and exits with code 130. */
#ifndef PIPELINE_INTERRUPT_H
#define PIPELINE_INTERRUPT_H

#include <stdbool.h>

/* Takes SIGINT, SIGTERM and SIGHUP where they are not ignored; a second one ends the process at
 * once. Makes a full disk and a closed pipe errors of the write instead of signals. Where a mapped
 * file is cut short (SIGBUS) the process says so and ends with code 1. */
void interrupt_install(void);

bool interrupt_requested(void);

#endif
