/*
 * Generations one after the other in one process, of different sizes and precisions, offloaded and
 * not, some of them stopped half-way: the card's memory returns to where it was. Libraries load
 * code the first time it is needed, so the first round does not count.
 *
 *     test_generations_runtime [ROUNDS]     (10 generations each; 2 by default)
 */
extern "C" {
#include "generate.h"
}

#include "cuda_support.h"

#include <string>
#include <unistd.h>

struct shape {
    int64_t width, height, frames;
    enum runtime_precision precision;
    bool offload;
    int64_t passes; /* stopped after so many; 0 = not */
};

static const struct shape shapes[] = {
    {64, 64, 5, RUNTIME_BF16, false, 0},    {128, 96, 9, RUNTIME_BF16, false, 0},
    {96, 160, 1, RUNTIME_F32, false, 0},    {256, 144, 17, RUNTIME_BF16, true, 0},
    {256, 256, 33, RUNTIME_BF16, false, 3}, {64, 64, 5, RUNTIME_F32, true, 0},
    {512, 512, 5, RUNTIME_BF16, false, 0},  {144, 80, 13, RUNTIME_BF16, true, 2},
    {320, 192, 9, RUNTIME_F32, false, 0},   {256, 256, 33, RUNTIME_BF16, false, 0},
};

static bool step(void *user, enum generate_phase phase, int64_t done, int64_t total)
{
    const struct shape *shape = (const struct shape *)user;
    (void)total;
    return phase != PHASE_DENOISE || shape->passes == 0 || done < shape->passes;
}

static int64_t taken(void)
{
    size_t available, total;
    CUDA_OK(cudaMemGetInfo(&available, &total));
    return (int64_t)(total - available);
}

static void generate(struct tally *tally, const struct model *model, const struct shape *shape,
                     const char *output)
{
    struct generate_settings settings = generate_settings_default();
    struct generate_report report;
    struct error error = {};
    struct generate_events events = {};
    events.step = step;
    events.user = (void *)shape;
    settings.prompt = "a red ball";
    settings.output = output;
    settings.seed = 1;
    settings.steps = 3;
    settings.width = shape->width;
    settings.height = shape->height;
    settings.frames = shape->frames;
    settings.attention.min_tokens = 1;
    settings.runtime.kind = RUNTIME_CUDA;
    settings.runtime.precision = shape->precision;
    settings.runtime.offload = shape->offload;
    bool ok = generate_settings_resolve(&settings, model, NULL, &error) &&
              generate_run(model, &settings, &events, &report, &error);
    tally_case(tally, shape->passes ? error.interrupted : ok, "%lldx%lld, %lld frames: %s",
               (long long)shape->width, (long long)shape->height, (long long)shape->frames,
               error.text);
    unlink(output);
}

int main(int argc, char **argv)
{
    cuda_device_or_skip(80, 999);
    const int rounds = argc > 1 ? atoi(argv[1]) : 2;
    const char *folder = getenv("TMPDIR");
    const std::string output = std::string(folder && folder[0] ? folder : P_tmpdir) +
                               "/draftattn-generations-" + std::to_string(getpid()) + ".gif";
    struct tally tally = {};
    struct model model;
    struct error error = {};
    int64_t first = 0;

    if (!model_open(&model, TEST_SOURCE_DIR "/samples/tiny-world/checkpoint", &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            generate(&tally, &model, &shapes[i], output.c_str());
        printf("round %d: %.1f MiB of the card are taken\n", round + 1, taken() / 1048576.0);
        if (round == 0)
            first = taken();
        else
            tally_case(&tally, taken() <= first + (1 << 20), "round %d: %lld bytes more are taken",
                       round + 1, (long long)(taken() - first));
    }
    model_close(&model);
    return tally_end(&tally);
}
