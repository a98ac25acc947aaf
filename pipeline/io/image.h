/* Still images in: PNG and JPEG through stb_image, to RGB bytes. */
#ifndef PIPELINE_IO_IMAGE_H
#define PIPELINE_IO_IMAGE_H

#include "../error.h"

#include <stdbool.h>
#include <stdint.h>

struct image {
    int32_t width, height;
    uint8_t *rgb; /* [height][width][3], freed by image_free() */
};

bool image_read(struct image *out, const char *path, struct error *error);
bool image_write_png(const char *path, const struct image *image, struct error *error);
void image_free(struct image *image);

#endif
