/*
 * Writes a safetensors file, whole or not at all (output_file.h). A full disk or an interrupted
 * write leaves what was there before.
 */
#include "checkpoint.h"

#include "../tensor/checked.h"
#include "output_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_json_string(FILE *to, const char *text)
{
    fputc('"', to);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(to, "\\%c", *c);
        else if (*c < 0x20)
            fprintf(to, "\\u%04x", *c);
        else
            fputc(*c, to);
    }
    fputc('"', to);
}

static void put_metadata(FILE *to, const char *const *metadata)
{
    fputs("\"__metadata__\":{", to);
    for (int i = 0; metadata[i] && metadata[i + 1]; i += 2) {
        if (i)
            fputc(',', to);
        put_json_string(to, metadata[i]);
        fputc(':', to);
        put_json_string(to, metadata[i + 1]);
    }
    fputc('}', to);
}

/* Bytes of the tensor's data; false where they leave size_t or the dtype has no size. */
static bool data_bytes(const struct tensor_to_write *tensor, size_t *bytes)
{
    size_t size = stored_dtype_size(tensor->dtype);
    return size > 0 && tensor->rank >= 0 && tensor->rank <= 8 &&
           checked_bytes(tensor->shape, tensor->rank, size, bytes);
}

static bool put_tensor(FILE *to, const struct tensor_to_write *tensor, int64_t *offset)
{
    size_t bytes;
    int64_t end;
    if (!data_bytes(tensor, &bytes) || !checked_add(*offset, (int64_t)bytes, &end))
        return false;
    put_json_string(to, tensor->name);
    fprintf(to, ":{\"dtype\":\"%s\",\"shape\":[", stored_dtype_name(tensor->dtype));
    for (int i = 0; i < tensor->rank; i++)
        fprintf(to, i ? ",%lld" : "%lld", (long long)tensor->shape[i]);
    fprintf(to, "],\"data_offsets\":[%lld,%lld]}", (long long)*offset, (long long)end);
    *offset = end;
    return true;
}

/* The header with its length in front, padded so that the data begin on a multiple of 8. */
static bool make_header(const struct tensor_to_write *tensors, int count,
                        const char *const *metadata, char **header, size_t *size)
{
    *header = NULL;
    FILE *to = open_memstream(header, size);
    if (!to)
        return false;
    bool ok = true;
    int64_t offset = 0;
    uint64_t length = 0;
    fwrite(&length, sizeof length, 1, to);
    fputc('{', to);
    if (metadata && metadata[0])
        put_metadata(to, metadata);
    for (int i = 0; ok && i < count; i++) {
        if (i || (metadata && metadata[0]))
            fputc(',', to);
        ok = put_tensor(to, &tensors[i], &offset);
    }
    fputc('}', to);
    for (long at = ftell(to); at % 8; at++)
        fputc(' ', to);
    ok = ok && !ferror(to);
    ok = fclose(to) == 0 && ok;
    if (!ok) {
        free(*header);
        *header = NULL;
        return false;
    }
    length = *size - sizeof length;
    memcpy(*header, &length, sizeof length);
    return true;
}

static bool write_all(FILE *to, const char *header, size_t header_size,
                      const struct tensor_to_write *tensors, int count)
{
    bool ok = fwrite(header, 1, header_size, to) == header_size;
    for (int i = 0; ok && i < count; i++) {
        size_t bytes = 0;
        data_bytes(&tensors[i], &bytes);
        ok = bytes == 0 || fwrite(tensors[i].data, 1, bytes, to) == bytes;
    }
    return ok && fflush(to) == 0;
}

static bool write_file(const char *path, const char *header, size_t header_size,
                       const struct tensor_to_write *tensors, int count, struct error *error)
{
    struct output_file file;
    if (!output_file_create(&file, path, error))
        return false;
    FILE *to = fopen(file.temporary, "wb");
    bool ok = to && write_all(to, header, header_size, tensors, count);
    int reason = errno;
    if (to && fclose(to) != 0 && ok) {
        reason = errno;
        ok = false;
    }
    if (ok)
        return output_file_commit(&file, error);
    output_file_discard(&file);
    return error_set(error, "%s: cannot write: %s", path, output_file_reason(reason));
}

bool safetensors_write(const char *path, const struct tensor_to_write *tensors, int count,
                       const char *const *metadata, struct error *error)
{
    char *header;
    size_t header_size;
    if (!make_header(tensors, count, metadata, &header, &header_size))
        return error_set(error,
                         "%s: cannot describe its %d tensors (out of memory, or a shape that "
                         "leaves 2^63 bytes)",
                         path, count);
    bool ok = write_file(path, header, header_size, tensors, count, error);
    free(header);
    return ok;
}
