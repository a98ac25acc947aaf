/*
 * The runtime's end of libdraftattn: one plan for the token grid, a workspace, and the sums over
 * calls that the reports are made of. The network hands over tokens in block order; it asks here
 * for the order.
 */
#ifndef PIPELINE_MODELS_SELF_ATTENTION_H
#define PIPELINE_MODELS_SELF_ATTENTION_H

#include "../error.h"
#include "../tensor/ops.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stdint.h>

struct self_attention;

/* Sums over all calls so far; a call is one layer of one forward pass. */
struct self_attention_report {
    int64_t calls, dense_calls;
    double density;     /* mean over sparse calls; 1 when there were none */
    double density_all; /* mean over all calls */
    double
        error_median;   /* median over sparse calls and heads of the estimated error; NaN if none */
    double error_worst; /* the worst head, and where it was */
    int32_t worst_layer, worst_step, worst_head;
    double repaired_share;                 /* of heads in sparse calls */
    double seconds[DRAFTATTN_STAGE_COUNT]; /* NaN on a GPU: a stage is not waited for there */
};

/* context and device stay the caller's, and work on the same memory. desc as for
 * draftattn_plan_create(), order BLOCK; its element types become the device's activations. layers:
 * of the network, for self_attention_collect(). */
bool self_attention_create(struct self_attention **out, draftattn_context *context,
                           const draftattn_plan_desc *desc, int32_t layers, const struct ops *ops,
                           struct device *device, struct error *error);
void self_attention_destroy(struct self_attention *attention); /* accepts NULL */

int64_t self_attention_tokens(const struct self_attention *attention);
/* [tokens]: raster index of every position in block order. */
const int64_t *self_attention_order(const struct self_attention *attention);
/* Grid, heads and head_dim, as given (dense_layers is not kept). */
const draftattn_plan_desc *self_attention_desc(const struct self_attention *attention);
int64_t self_attention_workspace_bytes(const struct self_attention *attention);

/* q, k, v [tokens][heads * head_dim] at a row stride in elements, block order; o likewise. Device
 * memory, of the activations' type. What the library says of the run is kept by layer, without
 * waiting; a run of no layer (negative), or one that is watched, waits and counts at once. */
bool self_attention_run(struct self_attention *attention, const draftattn_step *step, const void *q,
                        const void *k, const void *v, int64_t qkv_stride, void *o, int64_t o_stride,
                        struct error *error);
/* Waits, and counts what the last runs of all layers have kept, as done at step: after a forward
 * pass, or the replay of one. */
bool self_attention_collect(struct self_attention *attention, const draftattn_step *step,
                            struct error *error);

void self_attention_report_get(const struct self_attention *attention,
                               struct self_attention_report *report);
/* What runs at this step, in words. */
size_t self_attention_describe(const struct self_attention *attention, const draftattn_step *step,
                               char *buffer, size_t size);

/* For a closer look at the last run, as a listener takes it. */
const draftattn_plan *self_attention_plan(const struct self_attention *attention);
/* [heads]: what the library says of each. */
const draftattn_head_stats *self_attention_heads(const struct self_attention *attention);
/* map [heads][video query blocks][video key blocks], host memory: the draft map of the q and k of
 * the last run, which must still be there. */
bool self_attention_draft_map(struct self_attention *attention, float *map, struct error *error);
/* list as for draftattn_read_block_list(). */
bool self_attention_block_list(const struct self_attention *attention, draftattn_block_list *list,
                               struct error *error);

/* Called after every run, when all of the above can be asked about it. NULL = off. */
typedef void (*self_attention_listener_fn)(void *user, const draftattn_step *step);
void self_attention_set_listener(struct self_attention *attention,
                                 self_attention_listener_fn listener, void *user);

/* Called after every run with what went in and came out, in host memory and float32 whatever the
 * device, which copies all of it on a GPU; for tests. NULL = off. */
typedef void (*self_attention_tap_fn)(void *user, const draftattn_step *step, const float *q,
                                      const float *k, const float *v, int64_t qkv_stride,
                                      const float *o, int64_t o_stride);
void self_attention_set_tap(struct self_attention *attention, self_attention_tap_fn tap,
                            void *user);
/* Whether there is a listener or a tap: every run is waited for then. */
bool self_attention_watched(const struct self_attention *attention);

#endif
