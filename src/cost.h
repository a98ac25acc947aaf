/* What attention is estimated to cost, in exact keys per query row. */
#ifndef DRAFTATTN_COST_H
#define DRAFTATTN_COST_H

#include "backend.h"

/* A sparse run of the problem's settings on a grid of so many tokens, text included; a dense one
 * costs as many keys as there are tokens. tokens > text_tokens. */
double cost_sparse(const struct problem *problem, const struct backend_cost *cost, int64_t tokens);

/* The fewest tokens from which on a sparse run costs less than a dense one: 0 where that is any
 * grid or cost is NULL, INT64_MAX where it is none. */
int64_t cost_break_even(const struct problem *problem, const struct backend_cost *cost);

#endif
