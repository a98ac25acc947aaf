/* A model on disk, opened far enough to plan with: where its parts are, their shapes, its defaults.
 * */
#ifndef PIPELINE_MODEL_H
#define PIPELINE_MODEL_H

#include "io/model_folder.h"
#include "models/umt5.h"
#include "models/wan_transformer.h"
#include "models/wan_vae.h"

#define MODEL_DEFAULTS_FILE "generation_defaults.json"

/* What to generate with where the user does not say: from generation_defaults.json in the model's
 * folder, else what Wan2.1 was published with. */
struct model_defaults {
    int64_t width, height, frames;
    int64_t steps, steps_large; /* large: for more pixels than width * height */
    double guidance, fps;
    double flow_shift, flow_shift_large; /* likewise */
    double sparsity; /* of draft attention up to width * height; negative = the library's default,
                        which larger videos take in any case */
    int64_t probes;  /* likewise */
    char *negative_prompt;
    char *prompt; /* an example; NULL = none */
};

struct model {
    struct model_folder folder;
    struct wan_transformer_config transformer;
    struct wan_vae_config vae;
    struct umt5_config text;
    struct model_defaults defaults;
    bool synthetic; /* no files: random weights, made-up tokens; folder.root is its name */
};

/* Reads configurations, no weights. *out is zeroed on failure. */
bool model_open(struct model *out, const char *path, struct error *error);
void model_close(struct model *model); /* accepts a zeroed struct */

/* A published model's shapes without its weights, for measuring time and memory: its videos are
 * noise. */
bool model_open_synthetic(struct model *out, const char *name, struct error *error);
/* Their names, NULL after the last. Static. */
const char *model_synthetic_name(size_t index);

/* The last part of the folder's path. */
const char *model_name(const struct model *model);
/* Name, a space and a hash of all shapes and constants: what has another hash is another model.
 * size >= MODEL_PATH_MAX + 32. */
void model_identity(const struct model *model, char *buffer, size_t size);

/* Opens a network's weights under diffusers' names; path "" (of a synthetic model) gives NULL, with
 * which the networks load random ones. */
bool model_open_weights(struct checkpoint **out, const char *path, checkpoint_rename_fn rename,
                        struct error *error);

/* Pixels and frames per latent. */
#define MODEL_VAE_STRIDE      8
#define MODEL_VAE_STRIDE_TIME 4

#endif
