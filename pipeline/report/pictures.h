/* Pictures made from frames: smaller copies and amplified differences. RGB, [height][width][3]. */
#ifndef PIPELINE_REPORT_PICTURES_H
#define PIPELINE_REPORT_PICTURES_H

#include <stdint.h>

/* Means of factor x factor pixels into out [height / factor][width / factor][3]; what is left at
 * the right and lower edge is dropped. factor 1 copies. */
void picture_shrink(uint8_t *out, const uint8_t *rgb, int64_t width, int64_t height,
                    int64_t factor);

/* out = |a - b| * factor, clipped, per channel; size bytes. out may be a or b. */
void picture_difference(uint8_t *out, const uint8_t *a, const uint8_t *b, int64_t size,
                        int32_t factor);

/* Adds to histogram[256] how often each |a - b| occurs. */
void picture_difference_count(int64_t histogram[256], const uint8_t *a, const uint8_t *b,
                              int64_t size);

/* The largest power of two up to 32 by which at most a fiftieth of the differences clips. */
int32_t picture_difference_factor(const int64_t histogram[256]);

#endif
