/* The one place where backends are listed, and the only one that knows which of them were built. */
#include "backend.h"

extern const struct backend backend_avx512, backend_avx2, backend_portable, backend_reference;
#ifdef DRAFTATTN_HAVE_CUDA
extern const struct backend backend_cuda;
#endif

static const struct backend *const backends[] = {
#ifdef DRAFTATTN_HAVE_CUDA
    &backend_cuda,
#endif
    &backend_avx512, &backend_avx2, &backend_portable, &backend_reference, NULL};

const struct backend *const *backends_all(void)
{
    return backends;
}

const struct backend *backends_find(draftattn_backend id)
{
    for (const struct backend *const *all = backends; *all; all++)
        if ((*all)->id == id)
            return *all;
    return NULL;
}
