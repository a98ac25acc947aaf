/*
 * Golden cases: folders of inputs and expected outputs from the reference implementations. One
 * function a kind; golden_main.c finds the kind by the folder's name (the longest kind that begins
 * it) or, where no name fits, by _class_name in its config.json.
 */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include "error.h"
#include "io/checkpoint.h"
#include "tensor/ops.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stdint.h>

struct golden {
    const char *dir; /* the case's folder */
    const struct ops *ops;
    struct device *device;
    bool gpu;                   /* device and context are a GPU's */
    enum element activations;   /* of the device */
    draftattn_context *context; /* of the backend under test */
    const char *model;          /* folder of the bundled model */
};

/* true = passed; else error says what differs and by how much. */
typedef bool (*golden_fn)(const struct golden *golden, struct error *error);

bool golden_draft(const struct golden *golden, struct error *error);
bool golden_schedulers(const struct golden *golden, struct error *error);
bool golden_tokenizer(const struct golden *golden, struct error *error);
bool golden_umt5(const struct golden *golden, struct error *error);
bool golden_wan_transformer(const struct golden *golden, struct error *error); /* T2V and I2V */
bool golden_wan_vae(const struct golden *golden, struct error *error);
bool golden_wan_pipeline(const struct golden *golden, struct error *error);
bool golden_tiny_world(const struct golden *golden, struct error *error);

/* Opens DIR/io.safetensors (or file) and finds a tensor as float; *out is malloc'd. */
bool golden_open(const struct golden *golden, const char *file, struct checkpoint **out,
                 struct error *error);
bool golden_floats(const struct checkpoint *io, const char *name, float **out,
                   const struct stored_tensor **info, struct error *error);

/* Largest absolute difference against tolerance, on a GPU against 1e-3 where that is more; prints
 * it, measured/allowed. With bfloat16 it is the relative L2 difference, and 3e-2 are allowed. NaN
 * fails. */
bool golden_close(const struct golden *golden, const char *what, const float *got,
                  const float *want, int64_t count, double tolerance, struct error *error);
/* sqrt(sum (got - want)^2 / sum want^2); prints and checks likewise. */
bool golden_near(const char *what, const float *got, const float *want, int64_t count,
                 double tolerance, struct error *error);

/* What may differ between two runs in bfloat16, as a relative L2 difference. */
#define GOLDEN_BF16_TOLERANCE 3e-2

/* The rule-made weights and inputs of specs (FNV-1a seeded splitmix64): value of element index of
 * the tensor name, and a whole tensor by the rule for its kind. */
double golden_rule(const char *name, int64_t index);
void golden_rule_tensor(const char *name, const int64_t *shape, int rank, float *out);

#endif
