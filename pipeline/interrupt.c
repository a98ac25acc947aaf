/* The one piece of state that a signal handler can share: a flag. */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t requested;

static void request(int signal_number)
{
    (void)signal_number;
    requested = 1;
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

void interrupt_install(void)
{
    take(SIGINT);
    take(SIGTERM);
    take(SIGHUP);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGXFSZ, &ignore, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

bool interrupt_requested(void)
{
    return requested != 0;
}
