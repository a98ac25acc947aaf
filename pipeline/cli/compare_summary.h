/* The table that compare ends with. */
#ifndef PIPELINE_CLI_COMPARE_SUMMARY_H
#define PIPELINE_CLI_COMPARE_SUMMARY_H

#include "../compare.h"

#include <stdio.h>

void compare_summary_print(FILE *out, const struct comparison *comparison);

#endif
