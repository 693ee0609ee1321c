#pragma once

// The threads of a CPU backend that was given none: a pool of its own, and how many of them compute a graph.
//
// All of them, as long as they have their cores. Where other programs want the cores too, one thread fewer can be
// faster: a step is as slow as its slowest thread, and one that shares its core is half as fast. So where the calling
// thread lost time (it did not run, or slept because another one was late), a smaller number is tried for a moment and
// kept if it is faster; later, a larger one again. Nothing of this happens while the cores are free.

#include "ggml-cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lil_pool;

// The pool for a graph of n_threads threads at most; made or enlarged where it must be, so *pool may change. *n_active
// is how many are to compute it. NULL: one thread, or there was no memory for a pool; ggml then makes one for this
// graph. Not thread-safe: a backend computes one graph at a time.
struct ggml_threadpool * lil_pool_begin(
        struct lil_pool ** pool, const struct ggml_cgraph * graph, int n_threads, int * n_active);

// The graph is computed. pool may be NULL.
void lil_pool_end(struct lil_pool * pool);

void lil_pool_free(struct lil_pool * pool);

#ifdef __cplusplus
}
#endif
