/* Still images: PNG and JPEG in, PNG out, as RGB bytes. */
#ifndef PIPELINE_IO_IMAGE_H
#define PIPELINE_IO_IMAGE_H

#include "../error.h"
#include "output_file.h"

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_MAX_SIDE 16384

struct image {
    int32_t width, height;
    uint8_t *rgb; /* [height][width][3], freed by image_free() */
};

bool image_read(struct image *out, const char *path, struct error *error);
/* Through a temporary: the file appears whole or not at all. */
bool image_write_png(const char *path, const struct image *image, struct error *error);
void image_free(struct image *image);

/* Into the temporary of an output file that the caller commits. */
bool image_write_png_to(const struct output_file *file, const struct image *image,
                        struct error *error);

#endif
