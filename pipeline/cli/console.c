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
#include <sys/ioctl.h>
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

/* "9 s", "2 min 05 s", "3 h 20 min" */
static void describe_time(double seconds, char *text, size_t size)
{
    int64_t s = seconds < 1e9 ? (int64_t)(seconds + 0.5) : 1000000000;
    if (s < 60)
        snprintf(text, size, "%" PRId64 " s", s);
    else if (s < 3600)
        snprintf(text, size, "%" PRId64 " min %02" PRId64 " s", s / 60, s % 60);
    else
        snprintf(text, size, "%" PRId64 " h %02" PRId64 " min", s / 3600, s / 60 % 60);
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
    double now = (double)(done - c->phase_first); /* the others are of an earlier run */
    if (now > 0 && steps)
        length += snprintf(text + length, size - (size_t)length, ", %.3g s a step",
                           elapsed * (double)total / (now * (double)units));
    if (now > 0) {
        char left[48];
        describe_time(elapsed / now * (double)(total - done), left, sizeof left);
        snprintf(text + length, size - (size_t)length, ", %s left", left);
    }
}

static int terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* "denoise", or "draft 90 %: denoise" */
static void describe_phase(const struct console *c, char *text, size_t size)
{
    snprintf(text, size, "%s%s%s", c->label ? c->label : "", c->label ? ": " : "",
             generate_phase_name(c->phase));
}

/* One line, whatever the width of the terminal: a line that wraps could not be drawn over. */
static void draw_bar(struct console *c, int64_t done, int64_t total, const char *text)
{
    char bar[BAR_WIDTH + 1], line[256], phase[128];
    int columns = terminal_columns();
    describe_phase(c, phase, sizeof phase);
    int name = (int)strlen(phase) < 8 ? 8 : (int)strlen(phase);
    int room = columns - name - (int)strlen(text) - (int)sizeof " [] ";
    int width = room < 5 ? 0 : room < BAR_WIDTH ? room : BAR_WIDTH;
    memset(bar, '.', (size_t)width);
    memset(bar, '#', (size_t)((double)done / (double)total * width));
    bar[width] = '\0';
    snprintf(line, sizeof line, width ? "%-8s [%s] %s" : "%-8s %s%s", phase, bar, text);
    fprintf(stderr, "\r%.*s\033[K", columns - 1, line);
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
        c->phase_first = done;
    }
    double interval = c->terminal ? BAR_INTERVAL : LINE_INTERVAL;
    bool due = begins ? c->terminal : done >= total || now - c->last_time >= interval;
    if (!due)
        return go_on;
    char text[128], name[128];
    c->last_time = now;
    describe(c, done, total, now - c->phase_start, text, sizeof text);
    if (c->terminal) {
        draw_bar(c, done, total, text);
    } else {
        describe_phase(c, name, sizeof name);
        fprintf(stderr, "%s: %s\n", name, text);
    }
    return go_on;
}
