/*
 * Parts of a generation as members of a JSON object, for what generate prints and compare writes.
 * What was not measured is null.
 */
#ifndef PIPELINE_GENERATE_JSON_H
#define PIPELINE_GENERATE_JSON_H

#include "generate.h"

#include <cjson/cJSON.h>

/* Version, prompts, seed, size and sampling. settings resolved. */
void generate_json_settings(cJSON *to, const struct generate_settings *settings);

/* "device", "precision" and "offload". */
void generate_json_device(cJSON *to, const struct generate_report *report);

/* "attention", which it returns: what was asked for and what was done. */
cJSON *generate_json_attention(cJSON *to, const draftattn_plan_desc *asked,
                               const struct generate_report *report);

/* "seconds", which it returns: the phases and their total. */
cJSON *generate_json_seconds(cJSON *to, const struct generate_report *report);

/* "memory", in bytes: what was planned, and what was taken. */
void generate_json_memory(cJSON *to, const struct generate_report *report);

#endif
