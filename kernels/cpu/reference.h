/*
 * The definition of correct: attention over a block list, block means and the draft map as plain
 * loops in double precision over the caller's tensors. Everything else in the library is judged
 * against this file, so it shares no code with what it judges: not the number formats, not the
 * pooling, not the softmax.
 *
 * It trusts its caller: shapes agree, lists are valid (draftattn_block_list_check()), positions are
 * in range. It is slow on purpose and takes a subset of rows where a whole answer takes too long.
 */
#ifndef DRAFTATTN_KERNELS_CPU_REFERENCE_H
#define DRAFTATTN_KERNELS_CPU_REFERENCE_H

#include <draftattn.h>

#include <stdbool.h>
#include <stdint.h>

#define REFERENCE_MAX_HEAD_DIM 512

/* Positions are places in block order; block b holds the positions begin[b] .. begin[b + 1). */
struct reference_problem {
    const draftattn_tensor *q, *k, *v; /* [batch, heads, tokens, head_dim], any strides */
    const int64_t *order;       /* [tokens] position -> token; NULL = the tensors are in order */
    const int64_t *query_begin; /* [query_blocks + 1] */
    const int64_t *key_begin;   /* [key_blocks + 1] */
    int64_t query_blocks;
    int64_t key_blocks;
    double scale;                     /* of the logits, never 0 by default */
    const draftattn_block_list *list; /* NULL = every pair */
    bool compensation;                /* blocks that are not listed enter through their means */
    const int64_t *rows;              /* positions of the query rows wanted; NULL = all */
    int64_t row_count;                /* read only where rows is not NULL */
    const draftattn_tensor *o;   /* the wanted rows are written at their tokens, others untouched */
    const draftattn_tensor *lse; /* F32 [batch, heads, tokens, 1], or NULL */
    int32_t threads;             /* 0 = OpenMP's own number; results do not depend on it */
};

/*
 *     o_i = ( sum_{J listed} sum_{t in J} e^{s q_i.k_t} v_t
 *           + sum_{J not listed} n_J e^{s q_i.mean_k(J)} mean_v(J) ) / (the same sums without v)
 *
 * lse_i is the natural logarithm of the denominator. A row that sees nothing gives 0 and -infinity.
 * False when memory runs out; nothing has been written then for the head that failed.
 */
bool reference_attend(const struct reference_problem *problem);

/* Means over the tokens of each block of one head of x: means [blocks][head_dim]. */
void reference_pool(const draftattn_tensor *x, int64_t batch, int64_t head, const int64_t *order,
                    const int64_t *begin, int64_t blocks, double *means);

/*
 * What selection ranks by, map [batch * heads, video_query_blocks, video_key_blocks]. MASS: the
 * softmax over video key blocks J of scale * mean_q(I).mean_k(J) + log n_J. SPREAD: that times
 * scale * sqrt(sum_d mean_q(I)[d]^2 var_k(J)[d]), the variance being the mean squared distance from
 * the mean.
 * False when memory runs out.
 */
bool reference_score_map(const struct reference_problem *problem, int64_t video_query_blocks,
                         int64_t video_key_blocks, draftattn_score score, float *map);

/* One element as stored, and stored to the nearest value, ties to even. */
double reference_load(const draftattn_tensor *x, int64_t batch, int64_t head, int64_t token,
                      int64_t d);
void reference_store(const draftattn_tensor *x, int64_t batch, int64_t head, int64_t token,
                     int64_t d, double value);

#endif
