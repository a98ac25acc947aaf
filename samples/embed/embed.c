/*
 * The library inside a program: one attention call of a video transformer, dense and draft-guided.
 *
 *     cc embed.c $(pkg-config --cflags --libs draftattn) -lm -o embed && ./embed
 *
 * A runtime makes context and plan once, keeps the workspace, and calls draftattn_run() for every
 * layer and step. Here queries, keys and values are waves over the token grid: near tokens look
 * alike, as they do in a video.
 */
#include <draftattn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FRAMES = 9, HEIGHT = 16, WIDTH = 16, TOKENS = FRAMES * HEIGHT * WIDTH, HEADS = 2, DIM = 64 };
enum { COUNT = TOKENS * HEADS * DIM };

/* [token][head][dim], as most runtimes hold it: the strides say so, nothing is copied. */
static draftattn_tensor tensor(float *data)
{
    draftattn_tensor view = {
        data, DRAFTATTN_F32, {1, HEADS, TOKENS, DIM}, {COUNT, DIM, HEADS * DIM, 1}};
    return view;
}

static void fill(float *data, double amplitude, double phase)
{
    for (int t = 0; t < TOKENS; t++)
        for (int c = 0; c < HEADS * DIM; c++) {
            double frame = t / (HEIGHT * WIDTH), row = t / WIDTH % HEIGHT, column = t % WIDTH;
            double wave = sin(phase + c) * frame + cos(2.1 * c) * row + sin(3.7 * c) * column;
            data[t * HEADS * DIM + c] = (float)(amplitude * cos(0.5 * wave + c));
        }
}

/* Plans, runs and reports one policy. Returns 0, or 1 after saying why not. */
static int attend(draftattn_context *context, draftattn_policy policy, float *const qkv[3],
                  float *out, draftattn_stats *stats)
{
    draftattn_plan *plan = NULL;
    void *workspace = NULL;
    size_t bytes = 0;
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid.frames = FRAMES;
    desc.grid.height = HEIGHT;
    desc.grid.width = WIDTH;
    desc.heads = HEADS;
    desc.head_dim = DIM;
    desc.policy = policy;
    desc.sparsity = 0.75;
    draftattn_tensor q = tensor(qkv[0]), k = tensor(qkv[1]), v = tensor(qkv[2]), o = tensor(out);

    draftattn_status status = draftattn_plan_create(&plan, context, &desc);
    if (!status)
        status = draftattn_plan_workspace_size(plan, &bytes);
    if (!status && !(workspace = aligned_alloc(256, bytes + (256 - bytes % 256) % 256)))
        status = DRAFTATTN_OUT_OF_MEMORY;
    if (!status)
        status = draftattn_run(plan, NULL, &q, &k, &v, &o, NULL, NULL, workspace, bytes, NULL);
    if (!status)
        status = draftattn_read_stats(plan, workspace, stats, NULL);
    if (!status) {
        char words[512];
        draftattn_plan_describe(plan, NULL, words, sizeof words);
        printf("%s\n", words);
    } else
        fprintf(stderr, "embed: %s: %s\n", draftattn_status_string(status),
                draftattn_context_last_error(context));
    free(workspace);
    draftattn_plan_destroy(plan);
    return status != DRAFTATTN_SUCCESS;
}

static double relative_error(const float *got, const float *want)
{
    double difference = 0, norm = 0;
    for (int i = 0; i < COUNT; i++) {
        difference += pow((double)got[i] - want[i], 2);
        norm += pow(want[i], 2);
    }
    return sqrt(difference / norm);
}

int main(void)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context = NULL;
    draftattn_stats dense, draft;
    float *memory = malloc(5 * COUNT * sizeof *memory);
    float *qkv[3] = {memory, memory + COUNT, memory + 2 * COUNT};
    float *exact = memory + 3 * COUNT, *sparse = memory + 4 * COUNT;
    desc.device = -1; /* the tensors are in host memory */
    if (!memory || draftattn_context_create(&context, &desc) != DRAFTATTN_SUCCESS) {
        fprintf(stderr, "embed: %s\n",
                memory ? draftattn_context_last_error(NULL) : "out of memory");
        free(memory);
        return 1;
    }
    fill(qkv[0], 1.5, 0.0);
    fill(qkv[1], 1.5, 0.1);
    fill(qkv[2], 1.0, 0.7);
    int failed = attend(context, DRAFTATTN_POLICY_DENSE, qkv, exact, &dense) ||
                 attend(context, DRAFTATTN_POLICY_DRAFT, qkv, sparse, &draft);
    if (!failed)
        printf("density %.3f, relative error against dense %.4f\n", draft.density,
               relative_error(sparse, exact));
    draftattn_context_destroy(context);
    free(memory);
    return failed;
}
