/* Owns what can be asked about the compiled kernels; variants.def is the list itself. */
#include "backend.h"
#include "error.h"

int32_t draftattn_kernel_count(void)
{
    int32_t count;
    kernels_all(&count);
    return count;
}

draftattn_status draftattn_kernel_get(int32_t index, draftattn_kernel_info *info)
{
    int32_t count;
    const struct kernel_row *rows = kernels_all(&count);
    RETURN_IF(!info, DRAFTATTN_INVALID_ARGUMENT, "info is NULL");
    RETURN_IF(index < 0 || index >= count, DRAFTATTN_INVALID_ARGUMENT,
              "kernel index is %d; there are %d kernels", index, count);
    const struct backend *backend = backends_find(rows[index].backend);
    const char *why = backend ? backend->why_not(0) : "its backend is not part of this build";
    if (!why && backend->row_why_not)
        why = backend->row_why_not(&rows[index], NULL, 0);
    *info = (draftattn_kernel_info){.name = rows[index].name,
                                    .backend = rows[index].backend,
                                    .head_dim = rows[index].head_dim,
                                    .available = !why,
                                    .why_not = why ? why : ""};
    return DRAFTATTN_SUCCESS;
}
