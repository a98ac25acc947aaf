/*
 * Tensors of one network, from safetensors: a single file, or shards through their index file,
 * memory-mapped read-only. Every number in the header is hostile until checked: lengths, dtypes,
 * shapes, offsets (inside the file, size = product of shape, no two tensors overlap).
 */
#ifndef PIPELINE_IO_CHECKPOINT_H
#define PIPELINE_IO_CHECKPOINT_H

#include "../error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* checkpoint_read() takes the first four; the others are listed, found and refused in words. */
enum stored_dtype {
    STORED_F64,
    STORED_F32,
    STORED_F16,
    STORED_BF16,
    STORED_I64,
    STORED_I32,
    STORED_U8,
    STORED_U64,
    STORED_U32,
    STORED_I16,
    STORED_U16,
    STORED_I8,
    STORED_BOOL,
    STORED_F8_E4M3,
    STORED_F8_E5M2,
    STORED_OTHER /* a name this reader does not know */
};
/* "BF16" and so on; "?" for STORED_OTHER. Static. */
const char *stored_dtype_name(enum stored_dtype dtype);
/* Bytes of one element, 0 for STORED_OTHER. */
size_t stored_dtype_size(enum stored_dtype dtype);
/* Converts count elements of an F64, F32, F16 or BF16 array at any address; false for another
 * dtype. */
bool stored_to_float(enum stored_dtype dtype, const void *data, int64_t count, float *out);

struct stored_tensor {
    const char *name;
    const char *file;
    enum stored_dtype dtype;
    int rank;
    int64_t shape[8];
    const void *data; /* unaligned, little-endian, inside the mapping */
    size_t bytes;
};

struct checkpoint;

/* path: a .safetensors file, a *.safetensors.index.json, or a folder that holds one of
 * diffusion_pytorch_model / model .safetensors or its index. */
bool checkpoint_open(struct checkpoint **out, const char *path, struct error *error);
void checkpoint_close(struct checkpoint *checkpoint); /* accepts NULL */

const char *checkpoint_path(const struct checkpoint *checkpoint);
int64_t checkpoint_count(const struct checkpoint *checkpoint);
const struct stored_tensor *checkpoint_at(const struct checkpoint *checkpoint, int64_t index);
/* Sum of stored bytes and of elements. */
void checkpoint_totals(const struct checkpoint *checkpoint, int64_t *bytes, int64_t *elements);

/* Translates the name a network asks for into the one the file uses; NULL = as it is. buffer takes
 * the answer. Set once after opening. */
typedef const char *(*checkpoint_rename_fn)(const char *name, char *buffer, size_t size);
void checkpoint_set_rename(struct checkpoint *checkpoint, checkpoint_rename_fn rename);

/* By the renamed name, else by name itself, else by the other name of a tied embedding
 * (shared.weight, encoder.embed_tokens.weight). A stray "model.diffusion_model." in front of the
 * file's names does not count. NULL where there is none. */
const struct stored_tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name);

/* Finds name, checks its shape (total element count and the non-1 dimensions in order, so that
 * [C,1,1] fits [C]), converts F32, F16, BF16 or F64 to float in out; out NULL only checks. The
 * message names file, tensor, what it has and what was expected. */
bool checkpoint_read(const struct checkpoint *checkpoint, const char *name, const int64_t *shape,
                     int rank, float *out, struct error *error);

/* Writes named tensors as one safetensors file that appears whole or not at all (output_file.h).
 * metadata: pairs of strings ended by NULL, or NULL. */
struct tensor_to_write {
    const char *name;
    enum stored_dtype dtype;
    int rank;
    int64_t shape[8];
    const void *data;
};
bool safetensors_write(const char *path, const struct tensor_to_write *tensors, int count,
                       const char *const *metadata, struct error *error);

#endif
