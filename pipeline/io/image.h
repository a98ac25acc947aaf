/* Still images as RGB bytes: PNG and JPEG in, PNG out to a file, either to memory. */
#ifndef PIPELINE_IO_IMAGE_H
#define PIPELINE_IO_IMAGE_H

#include "../error.h"
#include "output_file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_MAX_SIDE   16384
#define IMAGE_MAX_PIXELS (1 << 26) /* of an image that is read */

struct image {
    int32_t width, height;
    uint8_t *rgb; /* [height][width][3], freed by image_free() */
};

/* Grey, palettes and 16 bits become RGB of 8 bits; transparency is dropped. */
bool image_read(struct image *out, const char *path, struct error *error);
/* Through a temporary: the file appears whole or not at all. */
bool image_write_png(const char *path, const struct image *image, struct error *error);
void image_free(struct image *image);

enum image_format { IMAGE_PNG, IMAGE_JPEG };

/* The bytes of such a file: malloc'd, for free(). */
bool image_encode(uint8_t **bytes, size_t *size, enum image_format format,
                  const struct image *image, struct error *error);

/* Into the temporary of an output file that the caller commits. */
bool image_write_png_to(const struct output_file *file, const struct image *image,
                        struct error *error);

#endif
