#ifndef DRAFTATTN_REPAIR_H
#define DRAFTATTN_REPAIR_H

#include <draftattn.h>

/*
 * Sums over the heads of a run: density, median and worst error (NaN where a head has none). Heads
 * that are exact count with error 0.
 */
void repair_summarise(const draftattn_head_stats *heads, int64_t count, draftattn_stats *stats);

#endif
