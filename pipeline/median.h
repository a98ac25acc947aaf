/* The median of floats, sorted in place. */
#ifndef PIPELINE_MEDIAN_H
#define PIPELINE_MEDIAN_H

#include <stddef.h>
#include <stdlib.h>

static inline int median_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* count >= 1; no NaN. values ascend afterwards. */
static inline double median_sort(float *values, size_t count)
{
    qsort(values, count, sizeof *values, median_compare);
    return ((double)values[(count - 1) / 2] + (double)values[count / 2]) / 2.0;
}

#endif
