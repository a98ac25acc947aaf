/* Pictures made from frames. Nothing here allocates or fails. */
#include "pictures.h"

#include <stdlib.h>

void picture_shrink(uint8_t *out, const uint8_t *rgb, int64_t width, int64_t height, int64_t factor)
{
    int64_t columns = width / factor, rows = height / factor, area = factor * factor;
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x++)
            for (int c = 0; c < 3; c++) {
                const uint8_t *corner = rgb + 3 * (y * factor * width + x * factor) + c;
                int64_t sum = area / 2;
                for (int64_t i = 0; i < factor; i++)
                    for (int64_t j = 0; j < factor; j++)
                        sum += corner[3 * (i * width + j)];
                out[3 * (y * columns + x) + c] = (uint8_t)(sum / area);
            }
}

void picture_difference(uint8_t *out, const uint8_t *a, const uint8_t *b, int64_t size,
                        int32_t factor)
{
    for (int64_t i = 0; i < size; i++) {
        int32_t value = abs(a[i] - b[i]) * factor;
        out[i] = (uint8_t)(value < 255 ? value : 255);
    }
}

void picture_difference_count(int64_t histogram[256], const uint8_t *a, const uint8_t *b,
                              int64_t size)
{
    for (int64_t i = 0; i < size; i++)
        histogram[abs(a[i] - b[i])]++;
}

int32_t picture_difference_factor(const int64_t histogram[256])
{
    int64_t total = 0;
    for (int i = 0; i < 256; i++)
        total += histogram[i];
    int32_t factor = 32;
    for (; factor > 1; factor /= 2) {
        int64_t clipped = 0;
        for (int i = 255 / factor + 1; i < 256; i++)
            clipped += histogram[i];
        if (50 * clipped <= total)
            break;
    }
    return factor;
}
