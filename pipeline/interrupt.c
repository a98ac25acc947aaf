/*
 * What a signal handler can share: a flag. And the end of the program where
 * a mapped file loses bytes under it, or its disk fails: reading on is not possible, and checking
 * the file before each read would still leave a moment in between.
 */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static volatile sig_atomic_t requested;
static bool watched; /* standard error is a terminal; set before the handlers are */

/* A forward pass may take a minute, and who hears nothing presses again. */
static void request(int signal_number)
{
    static const char text[] = "\ndraftattn: stops after this pass; once more stops at once\n";
    requested = 1;
    if (signal_number == SIGINT && watched)
        (void)!write(STDERR_FILENO, text, sizeof text - 1);
}

/* What the parent had ignored stays ignored: nohup, and a shell for what runs in its background. */
static void take(int signal_number)
{
    struct sigaction action = {.sa_handler = request, .sa_flags = (int)(SA_RESTART | SA_RESETHAND)};
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(signal_number, &action, NULL);
}

/* Nothing but write() and _exit() may be called here. */
static void lose_file(int signal_number)
{
    static const char text[] =
        "\ndraftattn: a file of the model was changed or cut short while it was read, or its disk "
        "failed; run again once it is complete\n";
    (void)signal_number;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(1);
}

void interrupt_install(void)
{
    watched = isatty(STDERR_FILENO);
    take(SIGINT);
    take(SIGTERM);
    take(SIGHUP);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGXFSZ, &ignore, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    struct sigaction lose = {.sa_handler = lose_file};
    sigemptyset(&lose.sa_mask);
    sigaction(SIGBUS, &lose, NULL);
}

bool interrupt_requested(void)
{
    return requested != 0;
}
