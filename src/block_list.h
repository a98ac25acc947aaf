#ifndef DRAFTATTN_BLOCK_LIST_H
#define DRAFTATTN_BLOCK_LIST_H

#include "backend.h"

/* The list of marked video pairs and of every pair with text. list has room for every pair. */
void block_list_fill(const struct problem *problem, const uint8_t *keep,
                     draftattn_block_list *list);

/* Every pair. list has room. */
void block_list_fill_dense(const struct problem *problem, draftattn_block_list *list);

/* INVALID_ARGUMENT with the number of entries where to is too small. */
draftattn_status block_list_copy(const struct problem *problem, const draftattn_block_list *from,
                                 draftattn_block_list *to);

/* draftattn_block_list_check() without a plan. */
draftattn_status block_list_validate(const struct problem *problem,
                                     const draftattn_block_list *list);

#endif
