/*
 * libraries_cuda_open() where cuDNN is not there as a whole: its shim alone ends the program at the
 * first call. Any library stands for those of NVIDIA, in a folder of LD_LIBRARY_PATH, which a
 * program reads when it starts: so that it starts again, with the number of those that are there.
 * Versions are as no_such_versions.h has them.
 */
#include "tensor/libraries_cuda.h"
#include "unit/scratch.h"

#include <sys/wait.h>

#define TEXT_OF(number)        #number
#define VERSIONED(name, major) name TEXT_OF(major)

static const char *const names[] = {VERSIONED("libcublasLt.so.", CUBLAS_VER_MAJOR),
                                    VERSIONED("libcudnn.so.", CUDNN_MAJOR),
                                    VERSIONED("libcudnn_graph.so.", CUDNN_MAJOR)};
enum { NAMES = sizeof names / sizeof *names };

/* With the first `there` of them in LD_LIBRARY_PATH. */
static int check(int there)
{
    struct error error = {.usage = false};
    bool ok = libraries_cuda_open(&error);
    if (there == NAMES) {
        printf("all there: %s\n", ok ? "opened" : error.text);
        return !ok;
    }
    printf("without %s: %s\n", names[there], ok ? "opened" : error.text);
    return ok || !strstr(error.text, names[there]) || !strstr(error.text, "LD_LIBRARY_PATH");
}

static int again(const char *program, int there)
{
    char number[12];
    int status;
    snprintf(number, sizeof number, "%d", there);
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, number, (char *)NULL);
        _exit(127);
    }
    return child < 0 || waitpid(child, &status, 0) < 0 || status != 0;
}

int main(int argc, char **argv)
{
    struct scratch scratch;
    int failed = 0;
    if (argc > 1)
        return check(atoi(argv[1]));
    if (scratch_open(&scratch) != 0 || setenv("LD_LIBRARY_PATH", scratch.root, 1) != 0)
        return 1;
    for (int there = 0; there <= NAMES; there++) {
        failed += again(argv[0], there);
        if (there < NAMES)
            failed += symlink(ANY_LIBRARY, scratch_path(&scratch, names[there])) != 0;
    }
    scratch_close(&scratch);
    return failed != 0;
}
