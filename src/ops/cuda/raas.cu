#include "topk.h"

#include <limits.h>
#include <math.h>

// raas_stamp: a block for each KV head and stream, which takes the stream's steps one after the other, for sequences of
// one stream can share cells. raas_select: a block for each KV head and step.

struct lil_raas_params {
    char *       stamp;  // [n_cells, n_head_kv, n_stream]
    const char * scores; // [n_pages_max, n_head_kv, n_steps]
    char *       list;   // [1 + n_max, n_head_kv, n_steps]
    const char * steps;
    const char * cells;   // [1 + n_max, 1, n_steps]
    const char * pages;   // [n_pages_max + 1, n_steps]
    int32_t *    scratch; // [n_pages_max, blocks] page stamps; raas_stamp: and as many pages

    int64_t stamp_nb1, stamp_nb2;
    int64_t scores_nb1, scores_nb2;
    int64_t list_nb1, list_nb2;
    int64_t steps_nb1;
    int64_t cells_nb2;
    int64_t pages_nb1;
    int64_t n_pages_max;

    int   n_pages;
    int   n_steps;
    float ratio;
};

static constexpr int LIL_RAAS_BATCH = 8; // pages of 16 lanes that are under way

// keys of the pages' stamps; all threads. lil_topk_search, which comes next, begins with a barrier
static __device__ __forceinline__ void lil_raas_get_stamps(
        int32_t * key, const float * stamp, const int32_t * cells, const int32_t * first, int n_pages) {
    constexpr int N = LIL_TOPK_THREADS / 16;

    const int lane = threadIdx.x % 16;

    for (int p0 = 0; p0 < n_pages; p0 += N * LIL_RAAS_BATCH) {
        float best[LIL_RAAS_BATCH];
        int   r0[LIL_RAAS_BATCH];
        int   r1[LIL_RAAS_BATCH];

        LIL_UNROLL
        for (int b = 0; b < LIL_RAAS_BATCH; ++b) {
            const int page = min(p0 + b * N + (int) threadIdx.x / 16, n_pages - 1);
            r0[b]          = first[page] + lane;
            r1[b]          = first[page + 1];
        }
        LIL_UNROLL
        for (int b = 0; b < LIL_RAAS_BATCH; ++b) {
            best[b] = r0[b] < r1[b] ? stamp[cells[1 + r0[b]]] : -INFINITY;
        }
        LIL_UNROLL
        for (int b = 0; b < LIL_RAAS_BATCH; ++b) {
            for (int r = r0[b] + 16; r < r1[b]; r += 16) {
                best[b] = fmaxf(best[b], stamp[cells[1 + r]]);
            }
            LIL_UNROLL
            for (int offset = 8; offset > 0; offset /= 2) {
                best[b] = fmaxf(best[b], __shfl_xor_sync(LIL_FULL, best[b], offset));
            }
            if (lane == 0 && p0 + b * N + (int) threadIdx.x / 16 < n_pages) {
                key[p0 + b * N + threadIdx.x / 16] = lil_topk_key(best[b]);
            }
        }
    }
}

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1) lil_raas_stamp_kernel(const lil_raas_params p) {
    const int i_kv = blockIdx.x;
    const int strm = blockIdx.y;

    LIL_SHARED(int, shared);

    float *   stamp = (float *) (p.stamp + strm * p.stamp_nb2 + i_kv * p.stamp_nb1);
    int32_t * key   = p.scratch + ((int64_t) strm * gridDim.x + i_kv) * 2 * p.n_pages_max;
    int32_t * alive = key + p.n_pages_max;

    for (int i_step = 0; i_step < p.n_steps; ++i_step) {
        const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);
        if (step[LIL_SEL_STREAM] != strm) {
            continue; // the whole block
        }

        const int32_t * first = (const int32_t *) (p.pages + i_step * p.pages_nb1);
        const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);
        const float *   score = (const float *) (p.scores + i_step * p.scores_nb2 + i_kv * p.scores_nb1);

        const int   n_pages = step[LIL_SEL_PAGES];
        const float now     = (float) step[LIL_SEL_NOW];
        const bool  is_all  = !step[LIL_SEL_SPARSE] || n_pages <= p.n_pages;

        if (threadIdx.x == 0) {
            stamp[cells[cells[0]]] = now;
        }
        __syncthreads();

        lil_raas_get_stamps(key, stamp, cells, first, n_pages);

        int n_alive = n_pages;

        if (!is_all) {
            n_alive = p.n_pages;

            if (n_alive > 1) {
                const auto get_key = [&](int i) { return key[i]; };

                const lil_topk_bound bound = lil_topk_search(n_pages - 1, n_alive - 1, shared, get_key);

                lil_topk_each(n_pages - 1, bound, shared, get_key, [&](const int * pick, int n_pick, int n_done) {
                    for (int i = threadIdx.x; i < n_pick; i += LIL_TOPK_THREADS) {
                        alive[n_done + i] = pick[i];
                    }
                });
            }
            if (threadIdx.x == 0) {
                alive[n_alive - 1] = n_pages - 1;
            }
        }

        const int n_top = min((int) ceilf(p.ratio * (float) n_alive), n_alive);

        if (n_top > 0) {
            const auto get_page = [&](int i) { return is_all ? i : alive[i]; };
            const auto get_key  = [&](int i) { return lil_topk_key(score[get_page(i)]); };

            const lil_topk_bound bound = lil_topk_search(n_alive, n_top, shared, get_key);

            lil_topk_each(n_alive, bound, shared, get_key, [&](const int * pick, int n_pick, int) {
                for (int i = threadIdx.x / 16; i < n_pick; i += LIL_TOPK_THREADS / 16) {
                    const int page = get_page(pick[i]);

                    if (key[page] < lil_topk_key(now)) {
                        for (int r = first[page] + (int) threadIdx.x % 16; r < first[page + 1]; r += 16) {
                            stamp[cells[1 + r]] = now;
                        }
                    }
                }
            });
        }
        __syncthreads(); // the next step reads stamps and writes keys
    }
}

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1) lil_raas_select_kernel(const lil_raas_params p) {
    const int i_kv   = blockIdx.x;
    const int i_step = blockIdx.y;

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * first = (const int32_t *) (p.pages + i_step * p.pages_nb1);
    const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);
    const float *   stamp = (const float *) (p.stamp + step[LIL_SEL_STREAM] * p.stamp_nb2 + i_kv * p.stamp_nb1);

    int32_t * list = (int32_t *) (p.list + i_step * p.list_nb2 + i_kv * p.list_nb1);
    int32_t * key  = p.scratch + ((int64_t) i_step * gridDim.x + i_kv) * p.n_pages_max;

    const int n_pages = step[LIL_SEL_PAGES];

    if (!step[LIL_SEL_SPARSE] || n_pages <= p.n_pages) {
        lil_list_copy_all(list, cells);
        return;
    }

    LIL_SHARED(int, shared);

    int n_list = 0;

    if (p.n_pages > 1) {
        lil_raas_get_stamps(key, stamp, cells, first, n_pages - 1);

        const auto get_key = [&](int i) { return key[i]; };

        const lil_topk_bound bound = lil_topk_search(n_pages - 1, p.n_pages - 1, shared, get_key);

        lil_topk_each(n_pages - 1, bound, shared, get_key, [&](const int * pick, int n_pick, int) {
            n_list = lil_list_add_pages(list, n_list, cells, first, n_pick, shared, [&](int c) { return pick[c]; });
        });
    }

    lil_list_copy(list, n_list, cells, first[n_pages - 1], first[n_pages]);

    if (threadIdx.x == 0) {
        list[0] = n_list + first[n_pages] - first[n_pages - 1];
    }
}

static lil_raas_params lil_raas_get_params(const lil_select_layer & layer, const lil_cuda_tensor & stamp,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages,
        int32_t * scratch) {
    lil_raas_params p = {};

    p.n_pages     = layer.n_pages;
    p.n_steps     = (int) steps.ne[1];
    p.ratio       = layer.ratio;
    p.n_pages_max = pages.ne[0] - 1;
    p.scratch     = scratch;

    p.stamp     = (char *) stamp.data;
    p.stamp_nb1 = stamp.nb[1];
    p.stamp_nb2 = stamp.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    p.cells     = (const char *) cells.data;
    p.cells_nb2 = cells.nb[2];

    p.pages     = (const char *) pages.data;
    p.pages_nb1 = pages.nb[1];

    return p;
}

size_t lil_cuda_raas_stamp_n_scratch(
        const lil_select_layer & layer, const lil_cuda_tensor & stamp, const lil_cuda_tensor & pages) {
    return 2 * (pages.ne[0] - 1) * layer.n_head_kv * stamp.ne[2];
}

void lil_cuda_raas_stamp(const lil_select_layer & layer, const lil_cuda_tensor & stamp, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages, int32_t * scratch,
        cudaStream_t stream) {
    lil_raas_params p = lil_raas_get_params(layer, stamp, steps, cells, pages, scratch);

    p.scores     = (const char *) scores.data;
    p.scores_nb1 = scores.nb[1];
    p.scores_nb2 = scores.nb[2];

    LIL_LAUNCH(dim3((unsigned) layer.n_head_kv, (unsigned) stamp.ne[2]), LIL_TOPK_THREADS,
            sizeof(int) * LIL_TOPK_EACH_SHARED, stream, lil_raas_stamp_kernel, p);
}

size_t lil_cuda_raas_select_n_scratch(
        const lil_select_layer & layer, const lil_cuda_tensor & steps, const lil_cuda_tensor & pages) {
    return (pages.ne[0] - 1) * layer.n_head_kv * steps.ne[1];
}

void lil_cuda_raas_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & stamp,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages, int32_t * scratch,
        cudaStream_t stream) {
    lil_raas_params p = lil_raas_get_params(layer, stamp, steps, cells, pages, scratch);

    p.list     = (char *) list.data;
    p.list_nb1 = list.nb[1];
    p.list_nb2 = list.nb[2];

    LIL_LAUNCH(dim3((unsigned) layer.n_head_kv, (unsigned) steps.ne[1]), LIL_TOPK_THREADS,
            sizeof(int) * LIL_TOPK_PAGES_SHARED, stream, lil_raas_select_kernel, p);
}
