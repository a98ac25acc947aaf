/*
 * Runs a fuzz target on files, or on all files of folders: what libFuzzer's own main does with
 * -runs=0, for compilers without libFuzzer. An input on which the target fails ends the program;
 * its name is the last one printed.
 */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include <dirent.h>
#include <sys/stat.h>

static int inputs;

static bool replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info) != 0) {
        perror(path);
        return false;
    }
    /* An array of the input's own size, so that a sanitizer sees reads behind it. */
    size_t size = (size_t)info.st_size;
    uint8_t *data = fuzz_alloc(size);
    bool ok = size == 0 || fread(data, 1, size, file) == size;
    fclose(file);
    if (ok) {
        printf("%s\n", path);
        fflush(stdout);
        LLVMFuzzerTestOneInput(data, size);
        inputs++;
    } else {
        perror(path);
    }
    free(data);
    return ok;
}

static bool replay(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder)
        return replay_file(path);
    bool ok = true;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        ok = replay_file(name) && ok;
    }
    closedir(folder);
    return ok;
}

int main(int argc, char **argv)
{
    bool ok = true;
    LLVMFuzzerTestOneInput(NULL, 0);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-') /* options are libFuzzer's */
            ok = replay(argv[i]) && ok;
    printf("%d inputs\n", inputs);
    return ok && inputs > 0 ? 0 : 1;
}
