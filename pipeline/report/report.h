/* The HTML report of a comparison: one self-contained file that a browser shows without network. */
#ifndef PIPELINE_REPORT_REPORT_H
#define PIPELINE_REPORT_REPORT_H

#include "../comparison.h"
#include "../error.h"

#include <stdbool.h>

/* No report is larger; what does not fit is left out with words in its place. */
#define REPORT_MAX_BYTES 15000000

/* Writes the report to path, which appears whole or not at all. The videos are encoded anew for the
 * page, from the frames of the variants; Ctrl-C stops that. */
bool report_write(const char *path, const struct comparison *comparison, struct error *error);

#endif
