/* Random numbers, tensors between guard bands, verdicts (check_kernels.h). */
#include "check_kernels.h"

#include "cpu/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64 };

uint64_t random_bits(struct random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int64_t random_between(struct random *random, int64_t low, int64_t high)
{
    return low + (int64_t)(random_bits(random) % (uint64_t)(high - low + 1));
}

double random_uniform(struct random *random)
{
    return (double)(random_bits(random) >> 11) * 0x1p-53;
}

double random_normal(struct random *random)
{
    double radius = sqrt(-2 * log(1 - random_uniform(random)));
    return radius * cos(6.283185307179586 * random_uniform(random));
}

bool random_chance(struct random *random, double probability)
{
    return random_uniform(random) < probability;
}

void *check_alloc(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

void verdict_add(struct verdict *verdict, double got, double want, double allowed, const char *what,
                 int64_t a, int64_t b, int64_t c)
{
    double error = got == want ? 0 : fabs(got - want) / allowed;

    if (isnan(error)) {
        error = INFINITY;
    }
    if (error > verdict->measured || verdict->where[0] == '\0') {
        verdict->measured = error > verdict->measured ? error : verdict->measured;
        snprintf(verdict->where, sizeof(verdict->where),
                 "%s at %lld, %lld, %lld: %.9g, should be %.9g within %.3g", what, (long long)a,
                 (long long)b, (long long)c, got, want, allowed);
    }
}

void verdict_fail(struct verdict *verdict, const char *what)
{
    verdict->measured = INFINITY;
    snprintf(verdict->where, sizeof(verdict->where), "%s", what);
}

static size_t dtype_size(draftattn_dtype dtype)
{
    return dtype == DRAFTATTN_F32 ? 4 : 2;
}

struct test_tensor test_tensor_make(draftattn_dtype dtype, const int64_t shape[4],
                                    enum layout layout)
{
    struct test_tensor x = {.tensor = {.dtype = dtype}};
    const int64_t b = shape[0], h = shape[1], n = shape[2], d = shape[3];
    int64_t *stride = x.tensor.stride;
    int64_t span;

    memcpy(x.tensor.shape, shape, sizeof(x.tensor.shape));
    switch (layout) {
    case LAYOUT_TOKENS_FIRST:
        stride[3] = 1, stride[1] = d, stride[2] = h * d, stride[0] = span = n * h * d;
        break;
    case LAYOUT_PADDED:
        stride[3] = 2, stride[2] = 2 * d + 3, stride[1] = n * stride[2] + 5;
        stride[0] = span = h * stride[1] + 7;
        break;
    case LAYOUT_TRANSPOSED:
        stride[2] = 1, stride[3] = n, stride[1] = n * d, stride[0] = span = h * n * d;
        break;
    case LAYOUT_WIDE:
        stride[3] = 1, stride[2] = d + 16, stride[1] = n * stride[2] + 8;
        stride[0] = span = h * stride[1];
        break;
    default:
        stride[3] = 1, stride[2] = d, stride[1] = n * d, stride[0] = span = h * n * d;
        break;
    }
    x.begin = layout == LAYOUT_SHIFTED ? GUARD + 1 : GUARD;
    x.elements = span * b + x.begin + GUARD;
    if (layout == LAYOUT_BROADCAST) {
        stride[0] = 0;
        x.elements = span + 2 * GUARD;
    }
    x.memory = check_alloc((size_t)x.elements * dtype_size(dtype));
    memset(x.memory, 0xff, (size_t)x.elements * dtype_size(dtype)); /* NaN in every dtype */
    x.tensor.data = (char *)x.memory + x.begin * (int64_t)dtype_size(dtype);
    return x;
}

static size_t bytes_of(const struct test_tensor *x)
{
    return (size_t)x->elements * dtype_size(x->tensor.dtype);
}

draftattn_tensor test_tensor_push(struct test_tensor *x, const struct test_space *space)
{
    draftattn_tensor tensor = x->tensor;

    x->space = space;
    x->twin = space->alloc(bytes_of(x));
    space->copy(x->twin, x->memory, bytes_of(x));
    tensor.data = (char *)x->twin + x->begin * (int64_t)dtype_size(tensor.dtype);
    return tensor;
}

void test_tensor_pull(struct test_tensor *x)
{
    x->space->copy(x->memory, x->twin, bytes_of(x));
}

void test_tensor_free(struct test_tensor *x)
{
    if (x->twin) {
        x->space->release(x->twin);
    }
    free(x->memory);
    x->memory = x->twin = NULL;
}

void test_tensor_normal(struct test_tensor *x, struct random *random, double deviation)
{
    const int64_t *shape = x->tensor.shape;
    const int64_t batches = x->tensor.stride[0] == 0 ? 1 : shape[0];

    for (int64_t b = 0; b < batches; b++) {
        for (int64_t h = 0; h < shape[1]; h++) {
            for (int64_t t = 0; t < shape[2]; t++) {
                for (int64_t d = 0; d < shape[3]; d++) {
                    reference_store(&x->tensor, b, h, t, d, deviation * random_normal(random));
                }
            }
        }
    }
}

bool test_tensor_guards_hold(const struct test_tensor *x)
{
    const size_t size = dtype_size(x->tensor.dtype);
    const int64_t *shape = x->tensor.shape, *stride = x->tensor.stride;
    unsigned char *inside = check_alloc((size_t)x->elements);
    const unsigned char *bytes = x->memory;
    bool hold = true;

    memset(inside, 0, (size_t)x->elements);
    for (int64_t i = 0; i < shape[0] * shape[1]; i++) {
        for (int64_t j = 0; j < shape[2] * shape[3]; j++) {
            inside[x->begin + i / shape[1] * stride[0] + i % shape[1] * stride[1] +
                   j / shape[3] * stride[2] + j % shape[3] * stride[3]] = 1;
        }
    }
    for (int64_t i = 0; i < x->elements; i++) {
        for (size_t byte = 0; byte < size && !inside[i]; byte++) {
            hold = hold && bytes[(size_t)i * size + byte] == 0xff;
        }
    }
    free(inside);
    return hold;
}
