/* What the targets that call the library share. Every array has the size that the contract asks for
 * and not a byte more, so that a sanitizer sees what is read or written beside it. */
#ifndef TESTS_FUZZ_LIBRARY_H
#define TESTS_FUZZ_LIBRARY_H

#include "fuzz_input.h"

#include <draftattn.h>

#define FUZZ_BACKENDS 4

/* A context of a CPU backend, with one thread; the portable one where the machine lacks it. Made
 * once for the whole run of the program. */
static inline draftattn_context *fuzz_context(int choice)
{
    static draftattn_context *contexts[FUZZ_BACKENDS];
    draftattn_context **context = &contexts[choice % FUZZ_BACKENDS];
    draftattn_context_desc desc = draftattn_context_desc_default();
    desc.threads = 1;
    desc.backend = (draftattn_backend)(DRAFTATTN_BACKEND_REFERENCE + choice % FUZZ_BACKENDS);
    if (!*context && draftattn_context_create(context, &desc) != DRAFTATTN_SUCCESS) {
        desc.backend = DRAFTATTN_BACKEND_PORTABLE;
        if (draftattn_context_create(context, &desc) != DRAFTATTN_SUCCESS)
            abort();
    }
    return *context;
}

static inline size_t fuzz_dtype_size(draftattn_dtype dtype)
{
    return dtype == DRAFTATTN_F32 ? 4 : 2;
}

/* A tensor of a plan's shape without gaps; its data are to be freed. Bytes of the input, repeated,
 * are its values: any bits, NaN and infinity among them. */
static inline draftattn_tensor fuzz_tensor(const draftattn_plan_desc *desc, int64_t tokens,
                                           int64_t last, draftattn_dtype dtype,
                                           const struct fuzz_input *input)
{
    int64_t heads = desc->heads, count = desc->batch * heads * tokens * last;
    size_t bytes = (size_t)count * fuzz_dtype_size(dtype);
    uint8_t *data = fuzz_alloc(bytes);
    size_t filled = input->size < bytes ? input->size : bytes;
    memset(data, 0, bytes);
    if (filled > 0)
        memcpy(data, input->data, filled);
    for (; filled > 0 && filled < bytes; filled *= 2)
        memcpy(data + filled, data, filled < bytes - filled ? filled : bytes - filled);
    return (draftattn_tensor){.data = data,
                              .dtype = dtype,
                              .shape = {desc->batch, heads, tokens, last},
                              .stride = {heads * tokens * last, tokens * last, last, 1}};
}

static inline void *fuzz_workspace(size_t size)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 256, size) != 0)
        abort();
    memset(memory, 0xa5, size); /* a run may not count on what is in it */
    return memory;
}

/* A failure has words; a success has a status of 0. */
static inline bool fuzz_judge(draftattn_status status)
{
    if (status != DRAFTATTN_SUCCESS && !draftattn_context_last_error(NULL)[0])
        abort();
    return status == DRAFTATTN_SUCCESS;
}

#endif
