/*
 * Still images written through stb: the one file that knows it. What it writes goes through our own
 * stream, because it does not report a full disk.
 */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* gcc judges unused functions at the end of the file, so that there is no going back. */
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

void image_free(struct image *image)
{
    free(image->rgb);
    *image = (struct image){0};
}

struct byte_buffer {
    uint8_t *bytes;
    size_t size, capacity;
    bool failed;
};

static void append_bytes(void *user, void *data, int size)
{
    struct byte_buffer *buffer = user;
    size_t needed = buffer->size + (size_t)(size > 0 ? size : 0);
    if (needed > buffer->capacity) {
        size_t capacity = needed < 4096 ? 4096 : 2 * needed;
        uint8_t *grown = realloc(buffer->bytes, capacity);
        buffer->failed |= !grown;
        if (!grown)
            return;
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    if (size > 0)
        memcpy(buffer->bytes + buffer->size, data, (size_t)size);
    buffer->size = needed;
}

/* name: of the file, or what the image is, for messages. */
static bool check_sides(const char *name, const struct image *image, struct error *error)
{
    return (image->width >= 1 && image->height >= 1 && image->width <= IMAGE_MAX_SIDE &&
            image->height <= IMAGE_MAX_SIDE) ||
           error_set(error, "image '%s': %d x %d pixels; a side takes 1 to %d", name, image->width,
                     image->height, IMAGE_MAX_SIDE);
}

bool image_encode(uint8_t **bytes, size_t *size, enum image_format format,
                  const struct image *image, struct error *error)
{
    enum { JPEG_QUALITY = 92 };
    struct byte_buffer buffer = {0};
    *bytes = NULL;
    *size = 0;
    if (!check_sides("in memory", image, error))
        return false;
    int done = format == IMAGE_PNG
                   ? stbi_write_png_to_func(append_bytes, &buffer, image->width, image->height, 3,
                                            image->rgb, image->width * 3)
                   : stbi_write_jpg_to_func(append_bytes, &buffer, image->width, image->height, 3,
                                            image->rgb, JPEG_QUALITY);
    if (!done || buffer.failed) {
        free(buffer.bytes);
        return error_out_of_memory(error, "an encoded image",
                                   3ULL * (unsigned)image->width * (unsigned)image->height);
    }
    *bytes = buffer.bytes;
    *size = buffer.size;
    return true;
}

struct png_stream {
    FILE *file;
    bool failed;
};

static void write_bytes(void *user, void *data, int size)
{
    struct png_stream *stream = user;
    if (size < 0 || fwrite(data, 1, (size_t)size, stream->file) != (size_t)size)
        stream->failed = true;
}

bool image_write_png_to(const struct output_file *file, const struct image *image,
                        struct error *error)
{
    if (!check_sides(file->target, image, error))
        return false;
    struct png_stream stream = {.file = fopen(file->temporary, "wb")};
    if (!stream.file)
        return error_set(error, "image '%s': %s", file->target, strerror(errno));
    errno = 0;
    bool ok = stbi_write_png_to_func(write_bytes, &stream, image->width, image->height, 3,
                                     image->rgb, image->width * 3) != 0;
    ok = ok && !stream.failed;
    int reason = ok ? 0 : errno;
    if (fclose(stream.file) != 0 && ok) {
        reason = errno;
        ok = false;
    }
    return ok ||
           error_set(error, "image '%s': %s", file->target, strerror(reason ? reason : ENOMEM));
}

bool image_write_png(const char *path, const struct image *image, struct error *error)
{
    struct output_file file;
    if (!output_file_create(&file, path, error))
        return false;
    if (image_write_png_to(&file, image, error))
        return output_file_commit(&file, error);
    output_file_discard(&file);
    return false;
}
