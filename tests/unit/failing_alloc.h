/* failing_alloc.h: every allocation of the code under test fails in turn. Included by one file of a test that is linked
 * with
 * --wrap for the five functions below (tests.cmake, KVQ_WRAP_ALLOC). */
#ifndef KVQ_TEST_FAILING_ALLOC_H
#define KVQ_TEST_FAILING_ALLOC_H

#include <stddef.h>

static int allocations_left = -1; /* until the one that fails; below 0: none fails */

static int fails_now(void) {
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t n, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t n) {
    return fails_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
    return fails_now() ? NULL : __real_realloc(p, n);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size) {
    return fails_now() ? NULL : __real_reallocarray(p, n, size);
}

char *__wrap_strdup(const char *text) {
    return fails_now() ? NULL : __real_strdup(text);
}

#endif
