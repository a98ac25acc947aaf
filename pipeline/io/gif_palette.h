/* 256 colours for one frame, and the frame in them. */
#ifndef PIPELINE_IO_GIF_PALETTE_H
#define PIPELINE_IO_GIF_PALETTE_H

#include <stddef.h>
#include <stdint.h>

#define GIF_COLOURS 256

/* Work space of gif_palette_frame(), to be reused from frame to frame. */
struct gif_palette {
    uint32_t weight[32768];  /* pixels per colour of 5 bits a channel */
    uint32_t sum[32768][3];  /* of their full values */
    int16_t nearest[32768];  /* index of the palette, or -1 where not asked yet */
    uint16_t present[32768]; /* colours that occur, ordered box by box */
    uint32_t argb[GIF_COLOURS];
};

/* Chooses argb (opaque, all GIF_COLOURS set) for rgb [height][width][3] by median cut and writes
 * indices at pixels, stride bytes a row, with a little ordered dither. Deterministic. */
void gif_palette_frame(struct gif_palette *palette, const uint8_t *rgb, int32_t width,
                       int32_t height, uint8_t *pixels, ptrdiff_t stride);

#endif
