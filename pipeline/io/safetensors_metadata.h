/* What a safetensors file says about itself: its "__metadata__", texts by name. */
#ifndef PIPELINE_IO_SAFETENSORS_METADATA_H
#define PIPELINE_IO_SAFETENSORS_METADATA_H

#include "json_file.h"

/* An object whose every member is a text, empty where the file says nothing; NULL on failure, free
 * with cJSON_Delete(). Reads the header alone, and at most 16 MiB of it; the tensors are not looked
 * at. */
cJSON *safetensors_metadata(const char *path, struct error *error);

#endif
