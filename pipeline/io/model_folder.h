/*
 * Where the parts of a model are: diffusers layout (model_index.json, a folder each) or Wan's
 * original layout (transformer in the root, Wan2.1_VAE, models_t5_umt5-xxl-enc, google/umt5-xxl).
 */
#ifndef PIPELINE_IO_MODEL_FOLDER_H
#define PIPELINE_IO_MODEL_FOLDER_H

#include "../error.h"
#include "checkpoint.h"

#define MODEL_PATH_MAX 4096

enum model_layout { MODEL_LAYOUT_DIFFUSERS, MODEL_LAYOUT_ORIGINAL };

struct model_folder {
    enum model_layout layout;
    char root[MODEL_PATH_MAX];
    char transformer[MODEL_PATH_MAX]; /* what checkpoint_open() takes */
    char transformer_config[MODEL_PATH_MAX];
    char vae[MODEL_PATH_MAX];
    char vae_config[MODEL_PATH_MAX]; /* "" in the original layout: the published constants hold */
    char text_encoder[MODEL_PATH_MAX];
    char text_encoder_config[MODEL_PATH_MAX]; /* "" likewise */
    char tokenizer[MODEL_PATH_MAX];           /* spiece.model */
    char scheduler_config[MODEL_PATH_MAX];    /* "" likewise */
    checkpoint_rename_fn
        rename_transformer; /* from the diffusers name to the file's; NULL = same */
    checkpoint_rename_fn rename_vae;
    checkpoint_rename_fn rename_text_encoder;
};

/* Fails, naming the file that is missing, for a folder that does not exist, is empty, or holds a
 * pipeline that is not Wan. */
bool model_folder_open(struct model_folder *out, const char *path, struct error *error);

#endif
