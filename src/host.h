/*
 * What backends in host memory have in common because src/ can do it: selection, and the ways into
 * the workspace and out of it. The members of struct backend of these names.
 */
#ifndef DRAFTATTN_HOST_H
#define DRAFTATTN_HOST_H

#include "backend.h"

bool host_select_size(const struct problem *problem, size_t *bytes);
draftattn_status host_select(const struct run *run);

draftattn_status host_store(const struct problem *problem, void *stream, void *to, const void *from,
                            size_t bytes);
draftattn_status host_read(const struct problem *problem, void *to, const void *from, size_t bytes);
draftattn_status host_copy(const struct problem *problem, void *stream, void *to, const void *from,
                           size_t bytes);

#endif
