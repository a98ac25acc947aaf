/* Which model a command works with. */
#ifndef PIPELINE_CLI_MODEL_LOCATION_H
#define PIPELINE_CLI_MODEL_LOCATION_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>

/* given, or where that is NULL: $DRAFTATTN_MODEL, the bundled model as installed (beside the
 * program, in ../share/draftattn/tiny-world), the bundled model in the source tree. */
bool model_location_find(const char *given, char *path, size_t size, struct error *error);

#endif
