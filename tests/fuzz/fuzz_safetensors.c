/*
 * A safetensors file from anywhere: every input is tried as a whole file and as the header of one.
 * What is accepted must be readable as it says.
 */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "io/checkpoint.h"

#define MAX_ELEMENTS 4096
#define DATA_BYTES   64

static int64_t elements_of(const struct stored_tensor *tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor->rank; i++)
        count *= tensor->shape[i] < MAX_ELEMENTS ? tensor->shape[i] : MAX_ELEMENTS;
    return count;
}

static void read_all(const char *path)
{
    struct error error = {0};
    struct checkpoint *file = NULL;
    static float values[MAX_ELEMENTS];
    if (!checkpoint_open(&file, path, &error)) {
        if (!error.text[0] || file)
            abort();
        return;
    }
    int64_t bytes, elements;
    checkpoint_totals(file, &bytes, &elements);
    for (int64_t i = 0; i < checkpoint_count(file); i++) {
        const struct stored_tensor *tensor = checkpoint_at(file, i);
        /* its last byte lies in the mapping */
        volatile unsigned char last = 0;
        if (tensor->bytes > 0)
            last = ((const unsigned char *)tensor->data)[tensor->bytes - 1];
        (void)last;
        if (checkpoint_find(file, tensor->name) != tensor)
            abort();
        int64_t count = tensor->rank <= 5 ? elements_of(tensor) : MAX_ELEMENTS + 1;
        if (count <= MAX_ELEMENTS)
            checkpoint_read(file, tensor->name, tensor->shape, tensor->rank, values, &error);
    }
    checkpoint_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_file file;
    if (!file.path[0])
        fuzz_file_open(&file);
    fuzz_file_write(&file, data, size, 0);
    read_all(file.path);
    fuzz_file_write_header(&file, data, size, DATA_BYTES);
    read_all(file.path);
    return 0;
}
