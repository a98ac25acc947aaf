/*
 * What the tests of whole calls share: a context, a plan, its buffers and random inputs in one
 * object, so that a test says what it is about and nothing else. Includes cmocka's needs.
 */
#ifndef TESTS_LIBRARY_CASE_H
#define TESTS_LIBRARY_CASE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <draftattn.h>

struct library_case {
    draftattn_context *context;
    draftattn_plan *plan;
    draftattn_plan_desc desc;
    draftattn_plan_info info;
    int64_t elements;
    float *q, *k, *v, *o, *lse;
    draftattn_tensor tq, tk, tv, to, tlse;
    void *workspace;
    size_t workspace_size;
    draftattn_block_list list;
};

static inline void *library_case_alloc(size_t bytes)
{
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    assert_non_null(memory);
    memset(memory, 0, bytes);
    return memory;
}

/* [batch, heads, tokens, last] without gaps. */
static inline draftattn_tensor library_case_tensor(const struct library_case *test, float *data,
                                                   int64_t last)
{
    int64_t heads = test->desc.heads, tokens = test->info.tokens;
    return (draftattn_tensor){.data = data,
                              .dtype = DRAFTATTN_F32,
                              .shape = {test->desc.batch, heads, tokens, last},
                              .stride = {heads * tokens * last, tokens * last, last, 1}};
}

static inline float library_case_random(uint64_t *state)
{
    float sum = -6; /* twelve uniform numbers: normal enough */
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*state >> 40) / 16777216.0f;
    }
    return sum;
}

static inline void library_case_fill(struct library_case *test, uint64_t seed)
{
    float *inputs[3] = {test->q, test->k, test->v};
    for (int t = 0; t < 3; t++)
        for (int64_t i = 0; i < test->elements; i++)
            inputs[t][i] = library_case_random(&seed);
}

static inline void library_case_open(struct library_case *test, const draftattn_plan_desc *desc,
                                     draftattn_backend backend, int32_t threads)
{
    draftattn_context_desc context_desc = draftattn_context_desc_default();
    *test = (struct library_case){.desc = *desc};
    context_desc.backend = backend;
    context_desc.threads = threads;
    assert_int_equal(draftattn_context_create(&test->context, &context_desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_create(&test->plan, test->context, desc), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_info_get(test->plan, &test->info), DRAFTATTN_SUCCESS);
    assert_int_equal(draftattn_plan_workspace_size(test->plan, &test->workspace_size),
                     DRAFTATTN_SUCCESS);
    int64_t rows = (int64_t)desc->batch * desc->heads;
    test->elements = rows * test->info.tokens * desc->head_dim;
    float **buffers[4] = {&test->q, &test->k, &test->v, &test->o};
    draftattn_tensor *tensors[4] = {&test->tq, &test->tk, &test->tv, &test->to};
    for (int i = 0; i < 4; i++) {
        *buffers[i] = library_case_alloc((size_t)test->elements * sizeof(float));
        *tensors[i] = library_case_tensor(test, *buffers[i], desc->head_dim);
    }
    test->lse = library_case_alloc((size_t)(rows * test->info.tokens) * sizeof(float));
    test->tlse = library_case_tensor(test, test->lse, 1);
    test->workspace = library_case_alloc(test->workspace_size);
    test->list.row_ptr =
        library_case_alloc((size_t)(rows * test->info.query_blocks + 1) * sizeof(int64_t));
    test->list.block_idx =
        library_case_alloc((size_t)test->info.max_list_entries * sizeof(int32_t));
    test->list.capacity = test->info.max_list_entries;
    library_case_fill(test, 1);
}

static inline void library_case_close(struct library_case *test)
{
    draftattn_plan_destroy(test->plan);
    draftattn_context_destroy(test->context);
    free(test->q);
    free(test->k);
    free(test->v);
    free(test->o);
    free(test->lse);
    free(test->workspace);
    free(test->list.row_ptr);
    free(test->list.block_idx);
}

static inline draftattn_status library_case_run(struct library_case *test,
                                                const draftattn_step *step,
                                                const draftattn_block_list *list)
{
    return draftattn_run(test->plan, step, &test->tq, &test->tk, &test->tv, &test->to, &test->tlse,
                         list, test->workspace, test->workspace_size, NULL);
}

static inline void assert_error_names(const char *words)
{
    if (!strstr(draftattn_context_last_error(NULL), words))
        fail_msg("'%s' is not in: %s", words, draftattn_context_last_error(NULL));
}

#endif
