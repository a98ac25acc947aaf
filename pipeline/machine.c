/* Owns the questions about the processor: its name, and the threads that work is shared among; and
 * the one about the program's origin, which is answered by a header that every build brings up to
 * date. */
#include "machine.h"

#include "commit.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

void machine_cpu_name(char *name, size_t size)
{
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(name, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        break;
    }
    if (file)
        fclose(file);
}

int32_t machine_threads(void)
{
    return omp_get_max_threads();
}

void machine_describe(int32_t threads, char *buffer, size_t size)
{
    char name[128];
    int32_t count = threads > 0 ? threads : machine_threads();
    machine_cpu_name(name, sizeof name);
    snprintf(buffer, size, "%s, %d thread%s", name, count, count == 1 ? "" : "s");
}

const char *machine_commit(void)
{
    return DRAFTATTN_COMMIT;
}
