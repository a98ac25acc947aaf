/*
 * Variants of compare: parsing, labels, names.
 *
 * Every key is a field of the library's plan, and none is taken that the policy would ignore: two
 * variants that differ in their words differ in what runs.
 */
#include "variant_spec.h"

#include "generation_options.h"
#include "suggest.h"

#include <stdio.h>
#include <string.h>

#define SPEC_MAX 256

enum key_kind { KEY_SWITCH, KEY_INT, KEY_REAL, KEY_SCORE };

static const struct key {
    const char *name;
    enum key_kind kind;
    size_t offset; /* in the plan's description */
    double low, high;
    bool draft_only;
} keys[] = {
    {"compensation", KEY_SWITCH, offsetof(draftattn_plan_desc, compensation), 0, 1, true},
    {"repair", KEY_SWITCH, offsetof(draftattn_plan_desc, repair), 0, 1, true},
    {"probes", KEY_INT, offsetof(draftattn_plan_desc, probes), 0, 1024, false},
    {"dense-steps", KEY_REAL, offsetof(draftattn_plan_desc, dense_steps), 0, 1, false},
    {"key-block", KEY_INT, offsetof(draftattn_plan_desc, key_block), 64, 128, true},
    {"score", KEY_SCORE, offsetof(draftattn_plan_desc, score), 0, 1, true},
    {"row-floor", KEY_REAL, offsetof(draftattn_plan_desc, row_floor), 0, 1, true},
    {"head-spread", KEY_REAL, offsetof(draftattn_plan_desc, head_spread), 1, 1000, true},
};
#define KEY_COUNT (sizeof keys / sizeof *keys)

static const char *key_at(const void *user, size_t index)
{
    (void)user;
    return index < KEY_COUNT ? keys[index].name : NULL;
}

static const struct key *find_key(const char *variant, const char *name, struct error *error)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    const char *nearest = suggest_nearest(name, key_at, NULL);
    error_set_usage(error, "--variant '%s': '%s' is no key of a variant%s%s%s; there are", variant,
                    name, nearest ? " (did you mean '" : "", nearest ? nearest : "",
                    nearest ? "'?)" : "");
    for (size_t i = 0; i < KEY_COUNT; i++)
        error_append(error, "%s %s", i ? "," : "", keys[i].name);
    return NULL;
}

/* One of two words: 0 or 1. */
static bool parse_word(const char *what, const char *value, const char *zero, const char *one,
                       int32_t *out, struct error *error)
{
    *out = strcmp(value, one) == 0;
    return *out || strcmp(value, zero) == 0 ||
           error_set_usage(error, "%s '%s': takes %s or %s", what, value, one, zero);
}

static bool store(const struct key *key, const char *value, draftattn_plan_desc *desc,
                  struct error *error)
{
    char what[64];
    void *field = (char *)desc + key->offset;
    int64_t whole;
    int32_t word = 0;
    snprintf(what, sizeof what, "--variant: %s", key->name);
    switch (key->kind) {
    case KEY_SWITCH:
        return parse_word(what, value, "off", "on", field, error);
    case KEY_SCORE:
        if (!parse_word(what, value, "mass", "spread", &word, error))
            return false;
        *(draftattn_score *)field = word ? DRAFTATTN_SCORE_SPREAD : DRAFTATTN_SCORE_MASS;
        return true;
    case KEY_INT:
        if (!parse_int(what, value, (int64_t)key->low, (int64_t)key->high, &whole, error))
            return false;
        *(int32_t *)field = (int32_t)whole;
        return true;
    default:
        return parse_real(what, value, key->low, key->high, false, field, error);
    }
}

/* "draft 90 %" and "draft-0.9"; the keys are appended to both. */
static void begin_names(struct compare_variant *variant)
{
    const draftattn_plan_desc *desc = &variant->attention;
    const char *policy = draftattn_policy_name(desc->policy);
    if (desc->policy == DRAFTATTN_POLICY_DENSE) {
        snprintf(variant->label, sizeof variant->label, "%s", policy);
        snprintf(variant->name, sizeof variant->name, "%s", policy);
        return;
    }
    snprintf(variant->label, sizeof variant->label, "%s %.4g %%", policy, 100 * desc->sparsity);
    snprintf(variant->name, sizeof variant->name, "%s-%.6g", policy, desc->sparsity);
}

static bool append_names(struct compare_variant *variant, const char *text, const char *key,
                         const char *value, struct error *error)
{
    size_t label = strlen(variant->label), name = strlen(variant->name);
    size_t more = strlen(key) + strlen(value) + sizeof ", =";
    if (label + more > sizeof variant->label || name + more > sizeof variant->name)
        return error_set_usage(error, "--variant '%s': too many keys to name a file by", text);
    snprintf(variant->label + label, sizeof variant->label - label, ", %s=%s", key, value);
    snprintf(variant->name + name, sizeof variant->name - name, "-%s-%s", key, value);
    return true;
}

static bool take_key(struct compare_variant *variant, const char *text, char *part,
                     struct error *error)
{
    draftattn_plan_desc *desc = &variant->attention;
    char *value = strchr(part, '=');
    if (!value)
        return error_set_usage(error,
                               "--variant '%s': '%s' is no KEY=VALUE; a variant is "
                               "POLICY[:SPARSITY][:KEY=VALUE]..., such as draft:0.9:probes=0",
                               text, part);
    *value++ = '\0';
    const struct key *key = find_key(text, part, error);
    if (!key)
        return false;
    if (desc->policy == DRAFTATTN_POLICY_DENSE ||
        (key->draft_only && desc->policy != DRAFTATTN_POLICY_DRAFT))
        return error_set_usage(error, "--variant '%s': policy %s has no %s", text,
                               draftattn_policy_name(desc->policy), key->name);
    return store(key, value, desc, error) && append_names(variant, text, part, value, error);
}

/* Up to the next ':'; *rest is NULL behind the last. */
static char *next_part(char **rest)
{
    char *part = *rest, *colon = part ? strchr(part, ':') : NULL;
    *rest = colon ? colon + 1 : NULL;
    if (colon)
        *colon = '\0';
    return part;
}

bool variant_spec_parse(const char *text, const draftattn_plan_desc *base,
                        struct compare_variant *out, struct error *error)
{
    char copy[SPEC_MAX];
    char *rest = copy;
    draftattn_policy policy;
    if (strlen(text) >= sizeof copy)
        return error_set_usage(error, "--variant '%.40s...': longer than %d characters", text,
                               SPEC_MAX - 1);
    memcpy(copy, text, strlen(text) + 1);
    *out = (struct compare_variant){.attention = *base};
    if (!generation_policy("--variant", next_part(&rest), &policy, error))
        return false;
    generation_set_policy(&out->attention, policy);
    char *part = next_part(&rest);
    if (part && !strchr(part, '=')) {
        if (policy == DRAFTATTN_POLICY_DENSE)
            return error_set_usage(error, "--variant '%s': policy dense has no sparsity", text);
        if (!parse_real("--variant: sparsity", part, 0, 1, true, &out->attention.sparsity, error))
            return false;
        part = next_part(&rest);
    }
    begin_names(out);
    for (; part; part = next_part(&rest))
        if (!take_key(out, text, part, error))
            return false;
    if (out->attention.probes == 0)
        out->attention.repair = 0;
    return true;
}

void variant_spec_draft(double sparsity, const draftattn_plan_desc *base,
                        struct compare_variant *out)
{
    *out = (struct compare_variant){.attention = *base};
    generation_set_policy(&out->attention, DRAFTATTN_POLICY_DRAFT);
    out->attention.sparsity = sparsity;
    begin_names(out);
}
