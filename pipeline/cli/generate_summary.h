/* What generate says before and after the work, to people and to machines. */
#ifndef PIPELINE_CLI_GENERATE_SUMMARY_H
#define PIPELINE_CLI_GENERATE_SUMMARY_H

#include "console.h"

#include <stdio.h>

void generate_summary_begin(struct console *console, const struct generate_settings *settings,
                            const char *model_path);
void generate_summary_end(struct console *console, const struct generate_settings *settings,
                          const struct generate_report *report);
/* One JSON object on one line. */
bool generate_summary_json(FILE *out, const struct generate_settings *settings,
                           const struct generate_report *report, const char *model_path,
                           struct error *error);

#endif
