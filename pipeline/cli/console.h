/* Progress and notes on standard error: a bar on a terminal, lines otherwise, nothing when quiet.
 * */
#ifndef PIPELINE_CLI_CONSOLE_H
#define PIPELINE_CLI_CONSOLE_H

#include "../generate.h"

#include <stdbool.h>
#include <stdint.h>

struct console {
    bool quiet, terminal;
    int64_t steps;     /* of denoising, to speak of steps where passes are counted; 0 = unknown */
    const char *label; /* of the run under way, where there are several; NULL = none */
    enum generate_phase phase;
    bool in_phase;  /* something was said about phase */
    bool line_open; /* a bar stands on the last line */
    double phase_start, last_time;
    int64_t phase_first; /* done when the phase began: not 0 in the rest of an earlier run */
};

void console_open(struct console *console, bool quiet);
/* Ends a bar's line. */
void console_close(struct console *console);

/* Callbacks for struct generate_events; user is the console. console_step is false after Ctrl-C. */
bool console_step(void *user, enum generate_phase phase, int64_t done, int64_t total);
void console_note(void *user, const char *text);

/* printf to standard error unless quiet. */
void console_print(struct console *console, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
