/* Progress for people. Bars are redrawn ten times a second at most, lines come every five seconds.
 * */
#include "console.h"

#include "../clock.h"
#include "../interrupt.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH     30
#define BAR_INTERVAL  0.1
#define LINE_INTERVAL 5.0

void console_open(struct console *console, bool quiet)
{
    const char *kind = getenv("TERM");
    *console = (struct console){
        .quiet = quiet,
        .terminal = isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0,
    };
}

void console_close(struct console *console)
{
    if (console->line_open)
        fputc('\n', stderr);
    console->line_open = false;
    console->in_phase = false;
}

void console_print(struct console *console, const char *format, ...)
{
    if (console->quiet)
        return;
    console_close(console);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

void console_note(void *user, const char *text)
{
    console_print(user, "%s\n", text);
}

/* "5 of 12, 1.24 s a step, 9 s left" */
static void describe(const struct console *c, int64_t done, int64_t total, double elapsed,
                     char *text, size_t size)
{
    bool steps = c->phase == PHASE_DENOISE && c->steps > 0;
    int64_t units = steps ? c->steps : total;
    double finished = (double)done * (double)units / (double)total;
    int length = snprintf(text, size, "%" PRId64 " of %" PRId64, (int64_t)finished, units);
    if (done >= total) {
        snprintf(text + length, size - (size_t)length, ", %.1f s", elapsed);
        return;
    }
    if (done > 0 && steps)
        length +=
            snprintf(text + length, size - (size_t)length, ", %.3g s a step", elapsed / finished);
    if (done > 0)
        snprintf(text + length, size - (size_t)length, ", %.0f s left",
                 elapsed / (double)done * (double)(total - done));
}

static void draw_bar(struct console *c, int64_t done, int64_t total, const char *text)
{
    char bar[BAR_WIDTH + 1];
    int filled = (int)((double)done / (double)total * BAR_WIDTH);
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r%-8s [%s] %s\033[K", generate_phase_name(c->phase), bar, text);
    c->line_open = true;
    if (done >= total)
        console_close(c);
}

bool console_step(void *user, enum generate_phase phase, int64_t done, int64_t total)
{
    struct console *c = user;
    bool go_on = !interrupt_requested();
    if (c->quiet || total < 1 || done < 0 || done > total)
        return go_on;
    double now = clock_seconds();
    bool begins = !c->in_phase || c->phase != phase || (done == 0 && !c->line_open);
    if (begins) {
        console_close(c);
        c->phase = phase;
        c->in_phase = true;
        c->phase_start = c->last_time = now;
    }
    double interval = c->terminal ? BAR_INTERVAL : LINE_INTERVAL;
    bool due = begins ? c->terminal : done >= total || now - c->last_time >= interval;
    if (!due)
        return go_on;
    char text[128];
    c->last_time = now;
    describe(c, done, total, now - c->phase_start, text, sizeof text);
    if (c->terminal)
        draw_bar(c, done, total, text);
    else
        fprintf(stderr, "%s: %s\n", generate_phase_name(phase), text);
    return go_on;
}
