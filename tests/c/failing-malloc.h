#ifndef FAILING_MALLOC_H
#define FAILING_MALLOC_H

// Allocations that are counted, and fail where told to. A test includes this, then sources of ours, which take these
// for malloc() and the like, then undefines the four names.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MEM_HEADER 16

static uint64_t mem_now;
static uint64_t mem_peak;
static int      mem_fail = -1; // allocations until one fails; < 0: none does

static inline bool mem_fails(void) {
    return mem_fail >= 0 && mem_fail-- == 0;
}

static inline void * mem_track(void * base, size_t size) {
    if (base == NULL) {
        return NULL;
    }

    memcpy(base, &size, sizeof(size));
    mem_now += size;
    mem_peak = mem_now > mem_peak ? mem_now : mem_peak;

    return (char *) base + MEM_HEADER;
}

static inline void * mem_malloc(size_t size) {
    return mem_fails() ? NULL : mem_track(malloc(size + MEM_HEADER), size);
}

static inline void * mem_calloc(size_t n, size_t size) {
    return mem_fails() ? NULL : mem_track(calloc(1, n * size + MEM_HEADER), n * size);
}

static inline void mem_free(void * ptr) {
    if (ptr != NULL) {
        size_t size;
        memcpy(&size, (char *) ptr - MEM_HEADER, sizeof(size));
        mem_now -= size;
        free((char *) ptr - MEM_HEADER);
    }
}

// always moves, the worst a realloc can do
static inline void * mem_realloc(void * ptr, size_t size) {
    void * result = mem_malloc(size);

    if (result != NULL && ptr != NULL) {
        size_t old;
        memcpy(&old, (char *) ptr - MEM_HEADER, sizeof(old));
        memcpy(result, ptr, old < size ? old : size);
        mem_free(ptr);
    }

    return result;
}

#define malloc  mem_malloc
#define calloc  mem_calloc
#define realloc mem_realloc
#define free    mem_free

#endif // FAILING_MALLOC_H
