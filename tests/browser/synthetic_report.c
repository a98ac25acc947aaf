/* synthetic_report FILE: the report of a made-up comparison with hostile texts, for a browser. */
#include "unit/comparison_case.h"

#include "report/report.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct comparison_case c;
    struct error error = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: synthetic_report FILE\n");
        return 2;
    }
    case_open(&c);
    c.comparison.prompt = c.comparison.command = CASE_HOSTILE;
    c.comparison.model = c.comparison.machine = c.comparison.negative_prompt = CASE_HOSTILE;
    bool ok = report_write(argv[1], &c.comparison, &error);
    if (!ok)
        fprintf(stderr, "%s\n", error.text);
    case_close(&c);
    return ok ? 0 : 1;
}
