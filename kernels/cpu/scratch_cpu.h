/*
 * Where the CPU stages keep things between and during calls. Everything is float, in block order,
 * and aligned; a panel is PANEL_KEYS keys as attend.h wants them. Key block b owns the panels
 * [b * block_panels, (b + 1) * block_panels), of which a short block fills only the first.
 */
#ifndef DRAFTATTN_KERNELS_CPU_SCRATCH_CPU_H
#define DRAFTATTN_KERNELS_CPU_SCRATCH_CPU_H

#include "attend.h"
#include "backend.h"

struct task_cpu {
    int64_t cost;
    int32_t head;  /* within the group */
    int32_t block; /* query block; from query_blocks on, tiles of probe rows */
};

struct thread_cpu {
    float *work;                 /* attend_scratch_floats() */
    float *o;                    /* [ATTEND_MAX_ROWS][head_dim] */
    float *lse;                  /* [ATTEND_MAX_ROWS] */
    float *bias;                 /* [mean_panels * PANEL_KEYS] */
    struct attend_panel *panels; /* [key_panels + mean_panels] */
    void *fit;                   /* repair_fit_bytes() */
};

struct scratch_cpu {
    int64_t block_panels, key_panels, mean_panels;
    int64_t panel_floats; /* head_dim * PANEL_KEYS */
    int64_t group;        /* heads that are worked on together */

    /* For all heads. */
    float *q_mean;    /* [heads][video_query_blocks][head_dim] */
    float *mean_kt;   /* [heads][mean_panels] panels: block means as keys */
    float *mean_v;    /* [heads][mean_panels] */
    float *var_kt;    /* [heads][mean_panels]: variances of k; only for SCORE_SPREAD, else NULL */
    float *mean_bias; /* [mean_panels * PANEL_KEYS]: log2 of the block's tokens */
    float *tail_bias; /* [2][PANEL_KEYS]: the last panel of the video, of the text */

    /* For the heads of a group. */
    float *q;       /* [group][tokens][head_dim], times softmax_scale * log2(e) */
    float *kt, *v;  /* [group][key_panels] */
    float *o;       /* [group][tokens][head_dim]; with probes, else NULL, as all below */
    float *probe_q; /* [group][probes][head_dim] */
    float *exact;   /* [group][probes][head_dim] */
    float *fit_o, *fit_q, *fit_exact; /* the same shape: the rows the fit looks at */
    float *weight;                    /* [group][2 * head_dim][head_dim] */
    float *shift;                     /* [group][head_dim] */
    float *by_token;                  /* [tokens][head_dim]; reference backend only, as the next */
    int64_t *probe_rows;              /* [probes] */
    struct task_cpu *tasks;           /* [group * (query_blocks + probe tiles)] */

    char *threads; /* [threads] of thread_bytes */
    size_t thread_bytes;
};

/* Lays scratch out over base; base NULL tells the size alone. False where it overflows. */
bool scratch_cpu_open(const struct problem *problem, void *base, struct scratch_cpu *scratch,
                      size_t *bytes);

struct thread_cpu scratch_cpu_thread(const struct problem *problem,
                                     const struct scratch_cpu *scratch, int thread);

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
