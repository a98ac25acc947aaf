/*
 * Owns the reference backend: the stages of backend.h by way of reference.h, one head at a time,
 * plain loops in double precision. Means live for as long as the sum that needs them, so there is
 * no pool stage; repair, which only the probe rows' outputs enter, is shared with the other
 * backends.
 */
#include "host.h"
#include "reference.h"
#include "stages_cpu.h"

#include <string.h>

static const char *reference_why_not(int32_t device)
{
    (void)device;
    return NULL;
}

static struct reference_problem whole_problem(const struct run *run)
{
    const struct problem *problem = run->problem;
    return (struct reference_problem){.q = run->q,
                                      .k = run->k,
                                      .v = run->v,
                                      .order = problem->order,
                                      .query_begin = problem->query_begin,
                                      .key_begin = problem->key_begin,
                                      .query_blocks = problem->query_blocks,
                                      .key_blocks = problem->key_blocks,
                                      .scale = (double)problem->desc.softmax_scale,
                                      .threads = problem->threads};
}

/* One head as a problem of its own. */
struct head_view {
    draftattn_tensor q, k, v, o, lse;
    draftattn_block_list list;
    struct reference_problem problem;
};

static draftattn_tensor view_of(const struct problem *problem, const draftattn_tensor *tensor,
                                int64_t head)
{
    draftattn_tensor view = *tensor;
    view.data = rows_of(problem, tensor, head).base;
    view.shape[0] = view.shape[1] = 1;
    return view;
}

static void open_view(const struct run *run, int64_t head, struct head_view *view)
{
    const struct problem *problem = run->problem;
    view->problem = whole_problem(run);
    view->q = view_of(problem, run->q, head);
    view->k = view_of(problem, run->k, head);
    view->v = view_of(problem, run->v, head);
    view->o = view_of(problem, run->o, head);
    view->problem.q = &view->q;
    view->problem.k = &view->k;
    view->problem.v = &view->v;
    view->problem.o = &view->o;
    view->problem.compensation = run->compensation;
    if (run->lse) {
        view->lse = view_of(problem, run->lse, head);
        view->problem.lse = &view->lse;
    }
    if (run->list) {
        view->list = *run->list;
        view->list.row_ptr += list_row(problem, head, 0);
        view->problem.list = &view->list;
    }
}

static draftattn_status reference_pool_stage(const struct run *run)
{
    (void)run;
    return DRAFTATTN_SUCCESS;
}

static draftattn_status reference_draft_map(const struct run *run, draftattn_score score,
                                            float *map)
{
    struct reference_problem problem = whole_problem(run);
    bool done = reference_score_map(&problem, run->problem->video_query_blocks,
                                    run->problem->video_key_blocks, score, map);
    return done ? DRAFTATTN_SUCCESS : DRAFTATTN_OUT_OF_MEMORY;
}

static draftattn_status reference_gather(const struct run *run, int64_t first, int64_t count)
{
    (void)run, (void)first, (void)count;
    return DRAFTATTN_SUCCESS;
}

/* Row by position of an output that lies in scratch by token. */
static float *row_by_token(const struct problem *problem, float *rows, int64_t position)
{
    int64_t token = problem->order ? problem->order[position] : position;
    return rows + token * problem->desc.head_dim;
}

/* The head's outputs, and its probe rows' exact ones, as repair wants them. */
static bool attend_with_probes(const struct run *run, const struct scratch_cpu *scratch,
                               struct head_view *view, int64_t head)
{
    const struct problem *problem = run->problem;
    int64_t head_dim = problem->desc.head_dim, tokens = problem->tokens;
    float *exact = scratch->exact + head * problem->probes * head_dim;
    struct rows waiting = waiting_rows(run, scratch, head, 0);
    struct rows to = rows_of(problem, run->o, head);
    view->o = (draftattn_tensor){.data = scratch->by_token,
                                 .dtype = DRAFTATTN_F32,
                                 .shape = {1, 1, tokens, head_dim},
                                 .stride = {0, 0, head_dim, 1}};
    if (!reference_attend(&view->problem))
        return false;
    for (int64_t i = 0; i < tokens; i++)
        rows_store(i < problem->video_tokens ? &waiting : &to, i,
                   row_by_token(problem, scratch->by_token, i));
    for (int64_t i = 0; i < problem->probes; i++)
        scratch->probe_tokens[i] = probe_position(problem, i);
    view->problem.list = NULL;
    view->problem.lse = NULL;
    view->problem.rows = scratch->probe_tokens;
    view->problem.row_count = problem->probes;
    if (!reference_attend(&view->problem))
        return false;
    for (int64_t i = 0; i < problem->probes; i++)
        memcpy(exact + i * head_dim,
               row_by_token(problem, scratch->by_token, scratch->probe_tokens[i]),
               (size_t)head_dim * sizeof(*exact));
    return true;
}

static draftattn_status reference_attend_stage(const struct run *run, int64_t first, int64_t count)
{
    struct scratch_cpu scratch;
    scratch_cpu_open(run->problem, run->scratch, &scratch, NULL);
    for (int64_t head = first; head < first + count; head++) {
        struct head_view view = {0};
        open_view(run, head, &view);
        bool done = run->probes ? attend_with_probes(run, &scratch, &view, head)
                                : reference_attend(&view.problem);
        if (!done)
            return DRAFTATTN_OUT_OF_MEMORY;
    }
    return DRAFTATTN_SUCCESS;
}

/* Beside plain loops in double precision, what is not attending is next to nothing. */
static const struct backend_cost reference_cost = {.row = 2, .apply = 0.1, .fit = 0.1};

const struct backend backend_reference = {.version = BACKEND_VERSION,
                                          .id = DRAFTATTN_BACKEND_REFERENCE,
                                          .automatic = false,
                                          .why_not = reference_why_not,
                                          .scratch_size = cpu_scratch_size,
                                          .group_heads = cpu_group_heads,
                                          .pool = reference_pool_stage,
                                          .draft_map = reference_draft_map,
                                          .gather = reference_gather,
                                          .attend = reference_attend_stage,
                                          .repair = cpu_repair,
                                          .cost = &reference_cost,
                                          .select_size = host_select_size,
                                          .select = host_select,
                                          .store = host_store,
                                          .read = host_read,
                                          .copy = host_copy};
