/*
 * Counts the allocations of our own objects, refuses one of them, and knows which are still there.
 * Blocks are kept in a table by their address, so that what a library allocated and we free, and
 * the other way round, is told apart. C++'s operator new throws, as it does without memory.
 */
#include "failing_malloc.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS (1 << 18)

static struct {
    pthread_mutex_t lock;
    bool watching;
    enum failing_malloc_kind kind;
    int64_t at, count; /* which one fails; how many there were */
    bool failed;
    int64_t left;
    struct {
        const void *block; /* NULL: never used; &gone: freed */
        int64_t number;
    } slots[SLOTS];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char gone;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **block, size_t alignment, size_t size);
void __real_free(void *block);
void *__real__Znwm(size_t size);
void _ZSt17__throw_bad_allocv(void) __attribute__((noreturn)); /* libstdc++'s */

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **block, size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);
void __wrap_free(void *block);
void *__wrap__Znwm(size_t size);

void failing_malloc_begin(int64_t n, enum failing_malloc_kind kind)
{
    pthread_mutex_lock(&state.lock);
    memset(state.slots, 0, sizeof state.slots);
    state.watching = true;
    state.kind = kind;
    state.at = n;
    state.count = state.left = 0;
    state.failed = false;
    pthread_mutex_unlock(&state.lock);
}

bool failing_malloc_end(int64_t *left, int64_t *first)
{
    pthread_mutex_lock(&state.lock);
    state.watching = false;
    *left = state.left;
    *first = 0;
    for (size_t i = 0; state.left > 0 && i < SLOTS; i++)
        if (state.slots[i].block && state.slots[i].block != &gone &&
            (!*first || state.slots[i].number < *first))
            *first = state.slots[i].number;
    pthread_mutex_unlock(&state.lock);
    return state.failed;
}

int64_t failing_malloc_count(void)
{
    return state.count;
}

/* Counts an allocation; false where it is to fail. */
static bool may_allocate(void)
{
    bool may = true;
    pthread_mutex_lock(&state.lock);
    if (state.watching) {
        state.count++;
        may = !(state.at > 0 &&
                (state.count == state.at || (state.kind == FAIL_ON && state.count > state.at)));
        state.failed = state.failed || !may;
    }
    pthread_mutex_unlock(&state.lock);
    if (!may)
        errno = ENOMEM;
    return may;
}

/* The slot of a block, or the one where it would go. */
static size_t find_slot(const void *block)
{
    size_t i = (size_t)((uintptr_t)block / 16 * 2654435761u) % SLOTS, free_slot = SLOTS;
    for (; state.slots[i].block && state.slots[i].block != block; i = (i + 1) % SLOTS)
        if (state.slots[i].block == &gone && free_slot == SLOTS)
            free_slot = i;
    return state.slots[i].block || free_slot == SLOTS ? i : free_slot;
}

static void *remember(void *block)
{
    pthread_mutex_lock(&state.lock);
    if (state.watching && block) {
        if (state.left >= SLOTS / 2) {
            fprintf(stderr, "failing_malloc: more than %d blocks\n", SLOTS / 2);
            abort();
        }
        size_t slot = find_slot(block);
        state.slots[slot].block = block;
        state.slots[slot].number = state.count;
        state.left++;
    }
    pthread_mutex_unlock(&state.lock);
    return block;
}

static void forget(const void *block)
{
    pthread_mutex_lock(&state.lock);
    size_t slot = state.watching && block ? find_slot(block) : 0;
    if (state.watching && block && state.slots[slot].block == block) {
        state.slots[slot].block = &gone;
        state.left--;
    }
    pthread_mutex_unlock(&state.lock);
}

void *__wrap_malloc(size_t size)
{
    return may_allocate() ? remember(__real_malloc(size)) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return may_allocate() ? remember(__real_calloc(count, size)) : NULL;
}

void *__wrap_realloc(void *block, size_t size)
{
    if (!may_allocate())
        return NULL;
    forget(block);
    return remember(__real_realloc(block, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return may_allocate() ? remember(__real_aligned_alloc(alignment, size)) : NULL;
}

int __wrap_posix_memalign(void **block, size_t alignment, size_t size)
{
    if (!may_allocate())
        return ENOMEM;
    int code = __real_posix_memalign(block, alignment, size);
    if (code == 0)
        remember(*block);
    return code;
}

char *__wrap_strndup(const char *text, size_t size)
{
    size_t length = strnlen(text, size);
    char *copy = __wrap_malloc(length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

char *__wrap_strdup(const char *text)
{
    return __wrap_strndup(text, strlen(text));
}

void __wrap_free(void *block)
{
    forget(block);
    __real_free(block);
}

/* Not in the table: operator delete is the library's own. LeakSanitizer sees what is lost. */
void *__wrap__Znwm(size_t size)
{
    if (!may_allocate())
        _ZSt17__throw_bad_allocv();
    return __real__Znwm(size);
}
