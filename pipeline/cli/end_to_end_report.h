/* What draftattn bench --end-to-end found, as tables of text or Markdown, or as JSON. */
#ifndef PIPELINE_CLI_END_TO_END_REPORT_H
#define PIPELINE_CLI_END_TO_END_REPORT_H

#include "../bench_end_to_end.h"

#include <stdio.h>

void end_to_end_report_table(FILE *out, const struct end_to_end_settings *settings,
                             const struct end_to_end_report *report, bool markdown);
bool end_to_end_report_json(FILE *out, const struct end_to_end_settings *settings,
                            const struct end_to_end_report *report, struct error *error);

#endif
