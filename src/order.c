/*
 * Owns the two block orders. Both permute the video alone; text keeps its places after it.
 *
 * Strips: a frame is cut into horizontal strips of strip_height rows or about as many: as equal as
 * they can be, for a low last strip would make long blocks. A strip is walked column by column,
 * down one column and up the next; the next strip runs back, and the next frame runs the whole path
 * back, so that it starts where the last one ended. Cutting this walk every 128 tokens gives a
 * compact patch everywhere, also across strip and frame edges, for any grid. The walk moves one
 * token at a time, but for one move of a strip's height between strips of even width.
 *
 * Patches: 8 x 16 tokens, the draft regions of arXiv 2505.14708, in the order frame, patch row,
 * patch column, row, column.
 */
#include "order.h"

/* One frame, forward: order[i] = index within the frame. */
static void walk_frame(int64_t height, int64_t width, int64_t strip_height, int64_t *order)
{
    int64_t strips = (height + strip_height / 2) / strip_height, position = 0, top = 0;
    strips = strips < 1 ? 1 : strips;
    for (int64_t strip = 0; strip < strips; strip++) {
        int64_t rows = height / strips + (strip < height % strips);
        for (int64_t i = 0; i < width; i++) {
            int64_t x = strip % 2 ? width - 1 - i : i;
            for (int64_t j = 0; j < rows; j++) {
                int64_t y = top + (i % 2 ? rows - 1 - j : j);
                order[position++] = y * width + x;
            }
        }
        top += rows;
    }
}

void order_strips(const draftattn_grid *grid, int64_t strip_height, int64_t *order)
{
    int64_t area = grid->height * grid->width;
    walk_frame(grid->height, grid->width, strip_height, order);
    for (int64_t frame = 1; frame < grid->frames; frame++)
        for (int64_t i = 0; i < area; i++)
            order[frame * area + i] = frame * area + order[frame % 2 ? area - 1 - i : i];
}

void order_patches(const draftattn_grid *grid, int64_t *order)
{
    int64_t position = 0;
    for (int64_t frame = 0; frame < grid->frames; frame++)
        for (int64_t top = 0; top < grid->height; top += ORDER_PATCH_HEIGHT)
            for (int64_t left = 0; left < grid->width; left += ORDER_PATCH_WIDTH)
                for (int64_t y = top; y < top + ORDER_PATCH_HEIGHT; y++)
                    for (int64_t x = left; x < left + ORDER_PATCH_WIDTH; x++)
                        order[position++] = (frame * grid->height + y) * grid->width + x;
}
