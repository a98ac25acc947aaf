/*
 * Where the CPU stages keep things between and during calls. Everything is float and aligned. Keys
 * and values stay where the caller has them if attend.h can take them from there; else heads are
 * worked on in groups, and there are copies for the heads of one group.
 */
#ifndef DRAFTATTN_KERNELS_CPU_SCRATCH_CPU_H
#define DRAFTATTN_KERNELS_CPU_SCRATCH_CPU_H

#include "attend.h"
#include "backend.h"

/* Block means that lie side by side where the draft map reads them. */
#define MEAN_PANEL_BLOCKS 64

struct task_cpu {
    int64_t cost;
    int32_t head;
    int32_t block; /* query block; from query_blocks on, tiles of probe rows */
};

struct thread_cpu {
    float *work;                      /* attend_scratch_floats(), or three tiles of rows */
    float *lse;                       /* [ATTEND_MAX_ROWS] */
    float *bias;                      /* [key_blocks]: of the means that a tile sees */
    int64_t *skipped;                 /* [key_blocks]: which those are */
    struct attend_panel *panels;      /* [key_panels + mean_panels] */
    float *fit_o, *fit_q, *fit_exact; /* [probes][head_dim]: the rows the fit looks at */
    void *fit;                        /* repair_fit_bytes() */
};

struct scratch_cpu {
    int64_t mean_panels;
    int64_t group; /* heads whose copies there is room for */

    /* For all heads. */
    float *q_mean;          /* [heads][video_query_blocks][head_dim] */
    float *k_mean, *v_mean; /* [heads][key_blocks][head_dim] */
    float *k_mean_panels;   /* [heads][mean_panels][head_dim][MEAN_PANEL_BLOCKS], padded with 0 */
    float *k_spread_panels; /* the same of variances; only for SCORE_SPREAD, else NULL */
    float *exact;           /* [heads][probes][head_dim] */
    float *weight;          /* [heads][2 * head_dim][head_dim] */
    float *shift;           /* [heads][head_dim] */
    int64_t *probe_tokens;  /* [probes]; the reference backend keeps positions there */
    struct task_cpu *tasks; /* [heads * (query_blocks + probe tiles)] */

    /* For the heads of a group: [group][tokens][head_dim] in block order. */
    float *k, *v;
    float *o; /* what waits for repair where the caller's o is not float, else NULL */

    float *by_token; /* [tokens][head_dim]; reference backend only */

    char *threads; /* [threads] of thread_bytes */
    size_t thread_bytes;
};

/* Lays scratch out over base; base NULL tells the size alone. False where it overflows. */
bool scratch_cpu_open(const struct problem *problem, void *base, struct scratch_cpu *scratch,
                      size_t *bytes);

struct thread_cpu scratch_cpu_thread(const struct problem *problem,
                                     const struct scratch_cpu *scratch, int thread);

/* Keys and values can be used where the caller has them. Rows that do not lie one behind the other
 * cannot: they fall on few cache lines and many pages, and are read more than once. */
bool keys_are_in_place(const struct run *run);

/* Where outputs that repair may correct are kept as float: the caller's own rows if they are. index
 * is the head's place in its group. */
struct rows waiting_rows(const struct run *run, const struct scratch_cpu *scratch, int64_t head,
                         int64_t index);

/* Query rows of the probes, in their order. */
struct rows probe_queries(const struct run *run, const struct scratch_cpu *scratch, int64_t head);

/* Tiles of probe rows. */
static inline int64_t probe_tiles(const struct problem *problem)
{
    return (problem->probes + ATTEND_MAX_ROWS - 1) / ATTEND_MAX_ROWS;
}

static inline int64_t block_length(const int64_t *begin, int64_t block)
{
    return begin[block + 1] - begin[block];
}

/* Every pair of the query block is listed. */
static inline bool block_is_full(const struct run *run, int64_t head, int64_t query_block)
{
    const struct problem *problem = run->problem;
    int64_t row = list_row(problem, head, query_block);
    return !run->list ||
           run->list->row_ptr[row + 1] - run->list->row_ptr[row] == problem->key_blocks;
}

static inline bool head_is_full(const struct run *run, int64_t head)
{
    const struct problem *problem = run->problem;
    return !run->list || run->list->row_ptr[list_row(problem, head + 1, 0)] -
                                 run->list->row_ptr[list_row(problem, head, 0)] ==
                             problem->query_blocks * problem->key_blocks;
}

#endif
