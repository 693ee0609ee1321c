#include "lil-pool.h"

#include "lil-crowd.h"
#include "lil-wait.h"

#include "ggml-impl.h"

#include <stdlib.h>

#if !defined(_WIN32)
#include <unistd.h>
#endif

// Graphs of more tokens (prompts) share their work out as they go, and are too few to compare. A token of a mixture of
// experts has as many rows in a product as experts.
#define MAX_NODE_ROWS 64

// from so many keys on ggml splits them
#define MIN_SPLIT_ROWS 512

struct lil_pool {
    struct ggml_threadpool * threads;

    int32_t n_threads;
    long    process; // that the threads belong to

    struct lil_crowd crowd;

    // the graph being computed
    uint64_t kind;
    int32_t  n;
    int64_t  t_wall;
    int64_t  t_cpu;
    int64_t  turns; // of the calling thread before they were shortened, 0: as they were
};

static long this_process(void) {
#if defined(_WIN32)
    return 0;
#else
    return (long) getpid();
#endif
}

// Graphs of the same model and batch have the same kind, however long the cache is. 0: computed with all threads,
// because it is not to be compared, or because its result depends on their number: ggml splits the keys of a single
// query among them.
static uint64_t get_kind(const struct ggml_cgraph * graph) {
    uint64_t rows = 0;

    for (int i = 0; i < graph->n_nodes; ++i) {
        const struct ggml_tensor * node = graph->nodes[i];

        if (node->op == GGML_OP_FLASH_ATTN_EXT && node->src[0]->ne[1] == 1 && node->src[1]->ne[1] >= MIN_SPLIT_ROWS) {
            return 0;
        }

        // products with weights; those with the cache have its length in their shape, and heads in the third dimension
        if ((node->op == GGML_OP_MUL_MAT && node->ne[2] == 1) || node->op == GGML_OP_MUL_MAT_ID) {
            if (ggml_nrows(node) > MAX_NODE_ROWS) {
                return 0;
            }
            rows += (uint64_t) ggml_nelements(node);
        }
    }

    return rows * 65536 + (uint64_t) graph->n_nodes;
}

void lil_pool_free(struct lil_pool * pool) {
    if (!pool) {
        return;
    }
    if (pool->process == this_process()) { // a fork has no threads to end
        ggml_threadpool_free(pool->threads);
    }
    free(pool);
}

struct ggml_threadpool * lil_pool_begin(
        struct lil_pool ** pool, const struct ggml_cgraph * graph, int n_threads, int * n_active) {
    *n_active = n_threads;

#if defined(GGML_USE_OPENMP) // it has a pool of its own
    return NULL;
#endif

    struct lil_pool * p = *pool;

    if (p && (p->n_threads < n_threads || p->process != this_process())) {
        lil_pool_free(p);
        *pool = p = NULL;
    }

    if (n_threads <= 1) {
        return NULL;
    }

    if (!p) {
        p = calloc(1, sizeof(*p));
        if (!p) {
            return NULL;
        }

        struct ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);

        p->threads   = ggml_threadpool_new(&params);
        p->n_threads = n_threads;
        p->process   = this_process();

        *pool = p;
    }

    p->kind = get_kind(graph);
    if (p->kind && p->crowd.n_max != n_threads) {
        lil_crowd_init(&p->crowd, n_threads);
    }

    p->n      = p->kind ? lil_crowd_threads(&p->crowd, p->kind) : n_threads;
    p->turns  = p->crowd.crowded || p->crowd.n < p->crowd.n_max ? lil_turns_shorten() : 0;
    p->t_wall = lil_time_us();
    p->t_cpu  = lil_thread_time_us();

    *n_active = p->n;

    return p->threads;
}

void lil_pool_end(struct lil_pool * p) {
    if (!p || p->n == 0) {
        return;
    }

    const int64_t t_now  = lil_time_us();
    const int64_t t_cpu  = lil_thread_time_us();
    const int64_t t_wall = t_now - p->t_wall;

    lil_turns_restore(p->turns);

    if (p->kind) {
        lil_crowd_add(&p->crowd, p->kind, p->n, t_now, t_wall, t_cpu < 0 ? -1 : t_wall - (t_cpu - p->t_cpu));
    }
    p->n = 0;
}
