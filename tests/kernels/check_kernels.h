/*
 * What the kernel tests share: seeded random numbers, tensors of any layout between guard bands,
 * and the comparison of a call of the library with the double reference.
 */
#ifndef TESTS_KERNELS_CHECK_KERNELS_H
#define TESTS_KERNELS_CHECK_KERNELS_H

#include <draftattn.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* splitmix64: the same numbers everywhere. */
struct random {
    uint64_t state;
};

uint64_t random_bits(struct random *random);
int64_t random_between(struct random *random, int64_t low, int64_t high); /* both inclusive */
double random_uniform(struct random *random);                             /* [0, 1) */
double random_normal(struct random *random);
bool random_chance(struct random *random, double probability);

/* Exits with a message: a test that cannot get memory has nothing to say. */
void *check_alloc(size_t bytes);

/* --- the result of one comparison ---------------------------------------------------------- */

struct verdict {
    double measured; /* largest error as a multiple of what is allowed: <= 1 passes */
    char where[200]; /* the worst place, or what else went wrong */
};

/* Takes up a place when its error is the worst so far. NaN is the worst of all. */
void verdict_add(struct verdict *verdict, double got, double want, double allowed, const char *what,
                 int64_t a, int64_t b, int64_t c);
void verdict_fail(struct verdict *verdict, const char *what);

/* --- memory -------------------------------------------------------------------------------- */

/* Where a backend works. Failures end the program. */
struct test_space {
    void *(*alloc)(size_t bytes);
    void (*release)(void *memory);
    void (*copy)(void *to, const void *from, size_t bytes); /* to the host's memory or from it */
};

const struct test_space *test_space_of(draftattn_backend backend);

/* --- tensors ------------------------------------------------------------------------------- */

enum layout {
    LAYOUT_HEADS_FIRST,  /* [batch][heads][tokens][head_dim] */
    LAYOUT_TOKENS_FIRST, /* [batch][tokens][heads][head_dim] */
    LAYOUT_PADDED,       /* heads first, every stride larger than it need be */
    LAYOUT_TRANSPOSED,   /* [batch][heads][head_dim][tokens] */
    LAYOUT_BROADCAST,    /* inputs only: one batch entry stands for all */
    LAYOUT_WIDE,         /* heads first, rows 16 elements apart, each of them whole */
    LAYOUT_SHIFTED,      /* heads first, aligned to an element alone */
    LAYOUT_COUNT
};

struct test_tensor {
    draftattn_tensor tensor; /* in host memory */
    void *memory;
    int64_t begin;    /* of the tensor in memory, in elements */
    int64_t elements; /* with both guard bands */
    void *twin;       /* a copy of memory in a backend's space, or NULL */
    const struct test_space *space;
};

/* Every element, guards and padding included, holds NaN. */
struct test_tensor test_tensor_make(draftattn_dtype dtype, const int64_t shape[4],
                                    enum layout layout);
void test_tensor_free(struct test_tensor *x);
/* The tensor's twin in a space, a copy of what it holds now; and its contents back. */
draftattn_tensor test_tensor_push(struct test_tensor *x, const struct test_space *space);
void test_tensor_pull(struct test_tensor *x);
void test_tensor_normal(struct test_tensor *x, struct random *random, double deviation);
/* True where only elements of the tensor itself have been written since it was made. */
bool test_tensor_guards_hold(const struct test_tensor *x);

/* --- a whole call of the library ----------------------------------------------------------- */

struct test_case {
    draftattn_plan_desc desc;
    enum layout layout;
    double deviation; /* of q and k; v is always 1 */
    int64_t rows; /* 0 = compare all, else that many, spread, the first and the last among them */
    double list_share; /* negative: the plan's own selection; else a random list of that density */
    uint64_t seed;
};

/* Runs the case on the context, from any thread, and judges o, lse, the block list and the guards.
 * A call that fails is a failed verdict with its words. */
void check_case(draftattn_context *context, const struct test_case *test, struct verdict *verdict);
void test_case_describe(const struct test_case *test, char *text, size_t size);

/* A random problem of any kind that the library takes, of some thousand tokens at most. */
struct test_case random_case(struct random *random);

/* First positions of blocks of size tokens: video, then text, [blocks + 1]. */
void check_block_begins(int64_t video, int64_t text, int64_t size, int64_t *begin);

/* --- the parts of check_kernels ------------------------------------------------------------ */

struct check_options {
    uint64_t seed;
    int64_t problems;
    const char *kernel;        /* NULL = all */
    draftattn_backend backend; /* AUTO = all */
};

/* Numbers of failures. */
int check_tiles(const struct check_options *options);
int check_library(const struct check_options *options);
int bench_tiles(const struct check_options *options);

#endif
