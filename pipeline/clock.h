/* Seconds since some fixed moment, never going back. */
#ifndef PIPELINE_CLOCK_H
#define PIPELINE_CLOCK_H

#include <time.h>

static inline double clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
