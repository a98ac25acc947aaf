/*
 * A JSON configuration file with typed, bounded reads; messages name file, field and value. Missing
 * fields take the fallback where there is one.
 */
#ifndef PIPELINE_IO_CONFIG_H
#define PIPELINE_IO_CONFIG_H

#include "../error.h"

#include <stdbool.h>
#include <stdint.h>

struct config;

bool config_open(struct config **out, const char *path, struct error *error);
void config_close(struct config *config); /* accepts NULL */
const char *config_path(const struct config *config);

bool config_has(const struct config *config, const char *field); /* present and not null */
bool config_int(const struct config *config, const char *field, int64_t low, int64_t high,
                int64_t *out, struct error *error);
bool config_int_or(const struct config *config, const char *field, int64_t low, int64_t high,
                   int64_t fallback, int64_t *out, struct error *error);
bool config_float_or(const struct config *config, const char *field, double low, double high,
                     double fallback, double *out, struct error *error);
bool config_bool_or(const struct config *config, const char *field, bool fallback, bool *out,
                    struct error *error);
/* NULL where absent; owned by config. */
const char *config_string(const struct config *config, const char *field);
/* Array of exactly count numbers. */
bool config_floats(const struct config *config, const char *field, double *out, int count,
                   struct error *error);
bool config_ints(const struct config *config, const char *field, int64_t low, int64_t high,
                 int64_t *out, int count, struct error *error);
bool config_bools(const struct config *config, const char *field, bool *out, int count,
                  struct error *error);

#endif
