/*
 * Median cut (Heckbert 1982) over a histogram of 5 bits a channel: the box with the largest spread
 * times weight is split at its median until there are 256; a colour is the mean of its box. Indices
 * are looked up per histogram cell. The dither is an 8 x 8 ordered one: it stands still from frame
 * to frame, where error diffusion would crawl and defeat the compression.
 */
#include "gif_palette.h"

#include <string.h>

struct box {
    int32_t first, count; /* in present */
    int32_t axis, spread; /* the widest channel and its range */
    uint64_t weight;
};

static int channel(uint32_t cell, int axis)
{
    return (int)(cell >> (5 * axis)) & 31;
}

static uint32_t cell_of(const int rgb[3])
{
    return (uint32_t)(rgb[0] >> 3) | (uint32_t)(rgb[1] >> 3) << 5 | (uint32_t)(rgb[2] >> 3) << 10;
}

static int32_t count_colours(struct gif_palette *palette, const uint8_t *rgb, int64_t pixels)
{
    memset(palette->weight, 0, sizeof palette->weight);
    memset(palette->sum, 0, sizeof palette->sum);
    for (int64_t i = 0; i < pixels; i++, rgb += 3) {
        uint32_t cell = cell_of((int[3]){rgb[0], rgb[1], rgb[2]});
        palette->weight[cell]++;
        for (int c = 0; c < 3; c++)
            palette->sum[cell][c] += rgb[c];
    }
    int32_t count = 0;
    for (uint32_t cell = 0; cell < 32768; cell++)
        if (palette->weight[cell])
            palette->present[count++] = (uint16_t)cell;
    return count;
}

static void measure(const struct gif_palette *palette, struct box *box)
{
    int low[3] = {31, 31, 31}, high[3] = {0, 0, 0};
    box->weight = 0;
    for (int32_t i = box->first; i < box->first + box->count; i++) {
        uint32_t cell = palette->present[i];
        box->weight += palette->weight[cell];
        for (int c = 0; c < 3; c++) {
            int value = channel(cell, c);
            low[c] = value < low[c] ? value : low[c];
            high[c] = value > high[c] ? value : high[c];
        }
    }
    box->axis = 0;
    box->spread = 0;
    for (int c = 0; c < 3; c++)
        if (high[c] - low[c] > box->spread) {
            box->spread = high[c] - low[c];
            box->axis = c;
        }
}

/* Orders the box's cells along its axis (counting sort over 32 values) and cuts at half the weight.
 * */
static void split(struct gif_palette *palette, struct box *box, struct box *rest)
{
    uint16_t *cells = palette->present + box->first;
    uint16_t *sorted = (uint16_t *)palette->nearest; /* not in use yet */
    int32_t start[33] = {0};
    for (int32_t i = 0; i < box->count; i++)
        start[channel(cells[i], box->axis) + 1]++;
    for (int i = 0; i < 32; i++)
        start[i + 1] += start[i];
    for (int32_t i = 0; i < box->count; i++)
        sorted[start[channel(cells[i], box->axis)]++] = cells[i];
    memcpy(cells, sorted, (size_t)box->count * sizeof *cells);

    uint64_t half = 0;
    int32_t cut = 0;
    while (cut < box->count - 1 && half * 2 < box->weight)
        half += palette->weight[cells[cut++]];
    *rest = (struct box){.first = box->first + cut, .count = box->count - cut};
    box->count = cut;
    measure(palette, box);
    measure(palette, rest);
}

static void choose_colours(struct gif_palette *palette, int32_t present)
{
    struct box boxes[GIF_COLOURS] = {{.first = 0, .count = present}};
    int32_t count = 1;
    measure(palette, &boxes[0]);
    while (count < GIF_COLOURS) {
        int32_t best = -1;
        for (int32_t i = 0; i < count; i++)
            if (boxes[i].spread > 0 &&
                (best < 0 || (double)boxes[i].weight * boxes[i].spread >
                                 (double)boxes[best].weight * boxes[best].spread))
                best = i;
        if (best < 0)
            break; /* every colour has a box of its own */
        split(palette, &boxes[best], &boxes[count++]);
    }
    for (int32_t i = 0; i < GIF_COLOURS; i++) {
        uint64_t sum[3] = {0};
        uint64_t weight = 0;
        for (int32_t j = 0; i < count && j < boxes[i].count; j++) {
            uint32_t cell = palette->present[boxes[i].first + j];
            weight += palette->weight[cell];
            for (int c = 0; c < 3; c++)
                sum[c] += palette->sum[cell][c];
        }
        palette->argb[i] = 0xff000000u;
        for (int c = 0; c < 3 && weight; c++)
            palette->argb[i] |= (uint32_t)((sum[c] + weight / 2) / weight) << (8 * (2 - c));
    }
}

/* The palette's entry closest to the middle of a cell. */
static int nearest_colour(struct gif_palette *palette, uint32_t cell)
{
    if (palette->nearest[cell] >= 0)
        return palette->nearest[cell];
    int best = 0, best_distance = 1 << 30;
    for (int i = 0; i < GIF_COLOURS; i++) {
        int distance = 0;
        for (int c = 0; c < 3; c++) {
            int value = (int)(palette->argb[i] >> (8 * (2 - c))) & 255;
            int d = value - (channel(cell, c) * 8 + 4);
            distance += d * d;
        }
        if (distance < best_distance) {
            best_distance = distance;
            best = i;
        }
    }
    return palette->nearest[cell] = (int16_t)best;
}

/* Bayer's 8 x 8 matrix by bit interleaving: 0 .. 63. */
static int bayer(int x, int y)
{
    int value = 0;
    for (int bit = 0; bit < 3; bit++)
        value |= (((x ^ y) >> bit & 1) << 1 | (y >> bit & 1)) << (2 * (2 - bit));
    return value;
}

void gif_palette_frame(struct gif_palette *palette, const uint8_t *rgb, int32_t width,
                       int32_t height, uint8_t *pixels, ptrdiff_t stride)
{
    int32_t present = count_colours(palette, rgb, (int64_t)width * height);
    choose_colours(palette, present);
    memset(palette->nearest, 0xff, sizeof palette->nearest);
    for (int32_t y = 0; y < height; y++)
        for (int32_t x = 0; x < width; x++, rgb += 3) {
            int shift = bayer(x & 7, y & 7) / 8 - 4, value[3]; /* -4 .. 3: half a cell */
            for (int c = 0; c < 3; c++) {
                int v = rgb[c] + shift;
                value[c] = v < 0 ? 0 : v > 255 ? 255 : v;
            }
            pixels[y * stride + x] = (uint8_t)nearest_colour(palette, cell_of(value));
        }
}
