/* The median of numbers, sorted in place: floats where there are many, else doubles. */
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

static inline int median_compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The same. */
static inline double median_sort_doubles(double *values, size_t count)
{
    qsort(values, count, sizeof *values, median_compare_doubles);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

#endif
