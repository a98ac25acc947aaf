/* Block order: the token permutation that makes blocks contiguous. See order.c. */
#ifndef DRAFTATTN_ORDER_H
#define DRAFTATTN_ORDER_H

#include <draftattn.h>

#include <stdint.h>

#define ORDER_PATCH_HEIGHT 8
#define ORDER_PATCH_WIDTH  16

/* order[position] = raster index over frames * height * width; any grid. */
void order_strips(const draftattn_grid *grid, int64_t strip_height, int64_t *order);

/* The published order; height and width must be multiples of the patch. */
void order_patches(const draftattn_grid *grid, int64_t *order);

#endif
