/* Variants of compare in words: POLICY[:SPARSITY][:KEY=VALUE]... */
#ifndef PIPELINE_CLI_VARIANT_SPEC_H
#define PIPELINE_CLI_VARIANT_SPEC_H

#include "../compare.h"

/* "draft:0.9:compensation=off" to a plan, a label for people and a name for files. base (resolved)
 * says what is not in text. */
bool variant_spec_parse(const char *text, const draftattn_plan_desc *base,
                        struct compare_variant *out, struct error *error);

/* Draft attention at this sparsity. */
void variant_spec_draft(double sparsity, const draftattn_plan_desc *base,
                        struct compare_variant *out);

/* The keys there are, for the help page. */
#define VARIANT_SPEC_KEYS                                                                          \
    "compensation, repair (on, off), probes, dense-steps, key-block (64, 128), score "             \
    "(mass, spread), row-floor, head-spread"

#endif
