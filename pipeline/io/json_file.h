/* JSON documents of bounded size, for the readers of this folder (cJSON stays behind their
 * headers), and the text of those that the program writes. */
#ifndef PIPELINE_IO_JSON_FILE_H
#define PIPELINE_IO_JSON_FILE_H

#include "../error.h"

#include <cjson/cJSON.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parses length bytes as one JSON document; what names it in messages ("x.json", "x.safetensors:
 * header"). The document must be an object. NULL on failure; free with cJSON_Delete(). */
cJSON *json_parse(const char *bytes, size_t length, const char *what, struct error *error);

/* Reads a regular file of at most limit bytes and parses it. */
cJSON *json_read(const char *path, size_t limit, struct error *error);

/* As cJSON prints it, indented or in one line, malloc'd; NULL without memory. Names of files may be
 * any bytes, JSON is UTF-8: what begins no character becomes '?'. */
char *json_print(const cJSON *root, bool indented);

/* True for a number that is whole and exact in a double: 0 <= value < 2^53 in size. */
bool json_whole(const cJSON *item, int64_t *out);

#endif
