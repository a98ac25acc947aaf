/*
 * Memory that runs out when a test says so. The linker puts the functions of failing_malloc.c in
 * place of malloc() and its kin in our own objects; libraries of others keep theirs.
 *
 *     failing_malloc_begin(n);   the n-th allocation from here on gives NULL; 0 = none does
 *     ... the calls under test ...
 *     bool failed = failing_malloc_end(&left);
 */
#ifndef TESTS_FAILING_MALLOC_H
#define TESTS_FAILING_MALLOC_H

#include <stdbool.h>
#include <stdint.h>

enum failing_malloc_kind {
    FAIL_ONCE, /* what comes after the n-th succeeds again */
    FAIL_ON    /* nothing succeeds any more */
};

void failing_malloc_begin(int64_t n, enum failing_malloc_kind kind);

/* Whether an allocation was refused. *left: blocks allocated since the beginning that are still
 * there; *first: which allocation, counted from 1, made the oldest of them, or 0. */
bool failing_malloc_end(int64_t *left, int64_t *first);

/* Allocations so far. */
int64_t failing_malloc_count(void);

#endif
