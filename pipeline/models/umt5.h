/* UMT5 text encoder (encoder half of T5 v1.1 with a relative position table in every layer). */
#ifndef PIPELINE_MODELS_UMT5_H
#define PIPELINE_MODELS_UMT5_H

#include "../error.h"
#include "../io/model_folder.h"
#include "../progress.h"
#include "../tensor/ops.h"

struct umt5;

struct umt5_config {
    int64_t vocab, width, heads, head_dim, ffn, layers, buckets, max_distance;
    double eps;
};

/* path "" gives the published UMT5-XXL. */
bool umt5_config_read(struct umt5_config *out, const char *path, struct error *error);

/* The checkpoint must outlive the encoder: embedding rows are read from it when needed. NULL gives
 * random weights, for measurements. progress counts layers. */
bool umt5_load(struct umt5 **out, const struct umt5_config *config,
               const struct checkpoint *checkpoint, const struct ops *ops, struct device *device,
               const struct progress *progress, struct error *error);
void umt5_free(struct umt5 *umt5); /* accepts NULL */

/* out [count][width], host memory. ids of real tokens only, no padding. */
bool umt5_encode(struct umt5 *umt5, const int32_t *ids, int64_t count, float *out,
                 struct error *error);

/* Memory of weights and work on a device with these activations. */
int64_t umt5_bytes(const struct umt5_config *config, enum element activations);

#endif
