/*
 * A PNG or JPEG from anywhere. Images of more than a million pixels are left out, for their time
 * alone: a header of a few bytes can ask for them, and the limit of image_read() is above.
 */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "io/image.h"

#define MAX_PIXELS (1 << 20)

static uint32_t big_endian(const uint8_t *bytes, int count)
{
    uint32_t value = 0;
    for (int i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* Wherever something stands that could be the size of a PNG (IHDR) or of a JPEG (SOF0 to 2). */
static bool is_large(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 12 <= size; i++) {
        uint64_t width = 0, height = 0;
        if (memcmp(data + i, "IHDR", 4) == 0) {
            width = big_endian(data + i + 4, 4);
            height = big_endian(data + i + 8, 4);
        } else if (data[i] >= 0xc0 && data[i] <= 0xc2) {
            height = big_endian(data + i + 4, 2);
            width = big_endian(data + i + 6, 2);
        }
        if (width <= IMAGE_MAX_SIDE && height <= IMAGE_MAX_SIDE && width * height > MAX_PIXELS)
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_file file;
    struct error error = {0};
    struct image image;
    if (!file.path[0])
        fuzz_file_open(&file);
    if (is_large(data, size))
        return 0;
    fuzz_file_write(&file, data, size, 0);
    if (image_read(&image, file.path, &error)) {
        volatile uint8_t last = image.rgb[(size_t)image.width * (size_t)image.height * 3 - 1];
        (void)last;
    } else if (!error.text[0] || image.rgb) {
        abort();
    }
    image_free(&image);
    return 0;
}
