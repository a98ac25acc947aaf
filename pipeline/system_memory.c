/*
 * Memory limits of Linux: /proc/meminfo, control groups version 2 and 1, RLIMIT_AS. A file that is
 * not there limits nothing.
 */
#include "system_memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The number of a one-line file, or after "key " at the beginning of a line; -1 where there is
 * none, as for "max". */
static int64_t read_number(const char *path, const char *key)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    char line[512];
    int64_t value = -1;
    size_t skip = key ? strlen(key) : 0;
    while (fgets(line, sizeof line, file))
        if (!key || strncmp(line, key, skip) == 0) {
            if (sscanf(line + skip, "%" SCNd64, &value) != 1)
                value = -1;
            break;
        }
    fclose(file);
    return value;
}

/* limit - what is used and cannot be dropped; INT64_MAX without a limit. */
static int64_t group_room(const char *folder, const char *limit_file, const char *usage_file,
                          const char *cache_key)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/%s", folder, limit_file);
    int64_t limit = read_number(path, NULL);
    snprintf(path, sizeof path, "%s/%s", folder, usage_file);
    int64_t usage = read_number(path, NULL);
    if (limit < 0 || usage < 0)
        return INT64_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    int64_t cache = read_number(path, cache_key);
    usage -= cache > 0 ? lesser(cache, usage) : 0;
    return limit > usage ? limit - usage : 0;
}

/* The group and all above it. */
static int64_t hierarchy_room(const char *mount, char *group, bool version2)
{
    int64_t room = INT64_MAX;
    for (;;) {
        char folder[4200];
        snprintf(folder, sizeof folder, "%s%s", mount, group);
        room = lesser(
            room, version2 ? group_room(folder, "memory.max", "memory.current", "inactive_file ")
                           : group_room(folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                        "total_inactive_file "));
        char *slash = strrchr(group, '/');
        if (!slash)
            return room;
        *slash = '\0';
    }
}

static int64_t control_group_room(void)
{
    FILE *file = fopen("/proc/self/cgroup", "r");
    if (!file)
        return INT64_MAX;
    char line[4096];
    int64_t room = INT64_MAX;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        if (strcmp(names, ":") == 0)
            room = lesser(room, hierarchy_room("/sys/fs/cgroup", group, true));
        else if (strcmp(names, ":memory") == 0)
            room = lesser(room, hierarchy_room("/sys/fs/cgroup/memory", group, false));
    }
    fclose(file);
    return room;
}

static int64_t address_space_room(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return INT64_MAX;
    int64_t pages = read_number("/proc/self/statm", NULL);
    int64_t used = pages > 0 ? pages * (int64_t)sysconf(_SC_PAGESIZE) : 0;
    return (int64_t)limit.rlim_cur > used ? (int64_t)limit.rlim_cur - used : 0;
}

int64_t system_memory_available(void)
{
    int64_t kilobytes = read_number("/proc/meminfo", "MemAvailable:");
    int64_t room = kilobytes >= 0 ? kilobytes * 1024 : INT64_MAX;
    return lesser(room, lesser(control_group_room(), address_space_room()));
}

int64_t system_memory_peak(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}
