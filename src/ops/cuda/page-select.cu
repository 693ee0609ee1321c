#include "topk.h"

// A block for each KV head and step.

struct lil_page_select_params {
    char *       list;   // [1 + n_max, n_head_kv, n_steps]
    const char * scores; // [n_pages_max, n_head_kv, n_steps]
    const char * steps;
    const char * cells; // [1 + n_max, 1, n_steps]
    const char * pages; // [n_pages_max + 1, n_steps]

    int64_t list_nb1, list_nb2;
    int64_t scores_nb1, scores_nb2;
    int64_t steps_nb1;
    int64_t cells_nb2;
    int64_t pages_nb1;

    int n_pages;
    int first_page;
};

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1) lil_page_select_kernel(const lil_page_select_params p) {
    const int i_kv   = blockIdx.x;
    const int i_step = blockIdx.y;

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * first = (const int32_t *) (p.pages + i_step * p.pages_nb1);
    const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);
    const float *   x     = (const float *) (p.scores + i_step * p.scores_nb2 + i_kv * p.scores_nb1);

    int32_t * list = (int32_t *) (p.list + i_step * p.list_nb2 + i_kv * p.list_nb1);

    const int n_pages = step[LIL_SEL_PAGES];

    if (!step[LIL_SEL_SPARSE] || n_pages <= p.n_pages) {
        lil_list_copy_all(list, cells);
        return;
    }

    LIL_SHARED(int, shared);

    const int p0 = p.first_page ? 1 : 0; // pages [p0, n_pages - 1) compete
    const int k  = p.n_pages - 1 - p0;   // for as many places
    const int n  = n_pages - 1 - p0;

    int n_list = 0;

    if (p.first_page) {
        lil_list_copy(list, 0, cells, first[0], first[1]);
        n_list = first[1] - first[0];
    }

    if (k > 0) {
        const auto get_key = [&](int i) { return lil_topk_key(x[p0 + i]); };

        const lil_topk_bound bound = lil_topk_search(n, k, shared, get_key);

        lil_topk_each(n, bound, shared, get_key, [&](const int * pick, int n_pick, int) {
            n_list =
                    lil_list_add_pages(list, n_list, cells, first, n_pick, shared, [&](int c) { return p0 + pick[c]; });
        });
    }

    lil_list_copy(list, n_list, cells, first[n_pages - 1], first[n_pages]);

    if (threadIdx.x == 0) {
        list[0] = n_list + first[n_pages] - first[n_pages - 1];
    }
}

void lil_cuda_page_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages,
        cudaStream_t stream) {
    lil_page_select_params p = {};

    p.list     = (char *) list.data;
    p.list_nb1 = list.nb[1];
    p.list_nb2 = list.nb[2];

    p.scores     = (const char *) scores.data;
    p.scores_nb1 = scores.nb[1];
    p.scores_nb2 = scores.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    p.cells     = (const char *) cells.data;
    p.cells_nb2 = cells.nb[2];

    p.pages     = (const char *) pages.data;
    p.pages_nb1 = pages.nb[1];

    p.n_pages    = layer.n_pages;
    p.first_page = layer.first_page;

    LIL_LAUNCH(dim3((unsigned) layer.n_head_kv, (unsigned) steps.ne[1]), LIL_TOPK_THREADS,
            sizeof(int) * LIL_TOPK_PAGES_SHARED, stream, lil_page_select_kernel, p);
}
