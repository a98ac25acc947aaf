/* Variants of compare in words: what they become, what they are called, what is refused. The
 * program's own files are included, as they are in no library. */
#include "cli/generation_options.c"
#include "cli/parse_values.c"
#include "cli/suggest.c"
#include "cli/variant_spec.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static draftattn_plan_desc base(void)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.sparsity = 0.5; /* as a model's defaults may say */
    desc.probes = 128;
    return desc;
}

static struct compare_variant parse(const char *text)
{
    struct compare_variant variant;
    struct error error = {0};
    draftattn_plan_desc desc = base();
    if (!variant_spec_parse(text, &desc, &variant, &error))
        fail_msg("%s: %s", text, error.text);
    return variant;
}

static void policies(void **state)
{
    (void)state;
    struct compare_variant v = parse("draft:0.9");
    assert_int_equal(v.attention.policy, DRAFTATTN_POLICY_DRAFT);
    assert_true(v.attention.sparsity == 0.9 && v.attention.compensation && v.attention.repair);
    assert_int_equal(v.attention.probes, 128);
    assert_string_equal(v.label, "draft 90 %");
    assert_string_equal(v.name, "draft-0.9");
    v = parse("draft");
    assert_true(v.attention.sparsity == 0.5);
    assert_string_equal(v.label, "draft 50 %");
    v = parse("draft-paper:0.875");
    assert_int_equal(v.attention.policy, DRAFTATTN_POLICY_DRAFT_PAPER);
    assert_true(!v.attention.compensation && !v.attention.repair);
    assert_string_equal(v.label, "draft-paper 87.5 %");
    assert_string_equal(v.name, "draft-paper-0.875");
    v = parse("dense");
    assert_int_equal(v.attention.policy, DRAFTATTN_POLICY_DENSE);
    assert_string_equal(v.label, "dense");
    draftattn_plan_desc desc = base();
    variant_spec_draft(0.75, &desc, &v);
    assert_string_equal(v.name, "draft-0.75");
    assert_true(v.attention.sparsity == 0.75);
}

static void keys_of_the_plan(void **state)
{
    (void)state;
    struct compare_variant v = parse("draft:0.9:compensation=off:probes=0");
    assert_int_equal(v.attention.compensation, 0);
    assert_int_equal(v.attention.probes, 0);
    assert_int_equal(v.attention.repair, 0); /* there is nothing to fit it on */
    assert_string_equal(v.label, "draft 90 %, compensation=off, probes=0");
    assert_string_equal(v.name, "draft-0.9-compensation-off-probes-0");
    v = parse("draft:repair=off:score=spread:row-floor=0.5:head-spread=2:key-block=64");
    assert_int_equal(v.attention.repair, 0);
    assert_int_equal(v.attention.score, DRAFTATTN_SCORE_SPREAD);
    assert_true(v.attention.row_floor == 0.5 && v.attention.head_spread == 2);
    assert_int_equal(v.attention.key_block, 64);
    v = parse("draft-paper:0.75:dense-steps=0:probes=64");
    assert_true(v.attention.dense_steps == 0 && v.attention.probes == 64);
}

static void refused(const char *text, const char *words)
{
    struct compare_variant variant;
    struct error error = {0};
    draftattn_plan_desc desc = base();
    assert_false(variant_spec_parse(text, &desc, &variant, &error));
    assert_true(error.usage);
    if (!strstr(error.text, words))
        fail_msg("%s: '%s' has no '%s'", text, error.text, words);
}

static void refusals(void **state)
{
    (void)state;
    char endless[400];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    refused("", "there are dense, draft, draft-paper");
    refused("drafft:0.9", "did you mean 'draft'?");
    refused("draft:1", "below 1");
    refused("draft:", "sparsity");
    refused("draft:0.9:0.8", "KEY=VALUE");
    refused("draft:0.9:", "KEY=VALUE");
    refused("draft:prob=1", "did you mean 'probes'?");
    refused("draft:colour=red", "head-spread");
    refused("draft:probes=", "probes");
    refused("draft:probes=2000", "1024");
    refused("draft:score=best", "spread or mass");
    refused("draft:compensation=yes", "on or off");
    refused("draft-paper:0.9:compensation=on", "policy draft-paper has no compensation");
    refused("dense:0.5", "no sparsity");
    refused("dense:probes=5", "policy dense has no probes");
    refused("draft:0.9:score=spread:score=spread:score=spread:score=spread:score=spread:"
            "score=spread:score=spread",
            "too many keys");
    refused(endless, "longer than");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policies),
        cmocka_unit_test(keys_of_the_plan),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
