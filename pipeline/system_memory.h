/* What the machine lets this process have. */
#ifndef PIPELINE_SYSTEM_MEMORY_H
#define PIPELINE_SYSTEM_MEMORY_H

#include <stdint.h>

/* Bytes this process can still take without swapping: the least of the free memory of the machine,
 * of its control groups and of its address space limit. INT64_MAX where nothing can be found out.
 * */
int64_t system_memory_available(void);

/* Most bytes that were resident at once so far. */
int64_t system_memory_peak(void);

#endif
