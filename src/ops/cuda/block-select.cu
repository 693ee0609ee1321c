#include "topk.h"

// A block for each step.

struct lil_block_select_params {
    char *       list;   // [1 + n_max, 1, n_steps]
    const char * scores; // [n_blocks_max, n_steps]
    const char * steps;
    const char * cells; // [1 + n_max, 1, n_steps]

    int64_t list_nb2;
    int64_t scores_nb1;
    int64_t steps_nb1;
    int64_t cells_nb2;

    int n_pages;
    int n_sink;
    int block;
};

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1) lil_block_select_kernel(const lil_block_select_params p) {
    const int i_step = blockIdx.x;

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);
    const float *   x     = (const float *) (p.scores + i_step * p.scores_nb1);

    int32_t * list = (int32_t *) (p.list + i_step * p.list_nb2);

    const int n_blocks = step[LIL_SEL_PAGES];

    if (!step[LIL_SEL_SPARSE] || n_blocks <= p.n_pages) {
        lil_list_copy_all(list, cells);
        return;
    }

    LIL_SHARED(int, shared);

    lil_list_copy(list, 0, cells, 0, p.n_sink);

    if (p.n_pages > 0) {
        const auto get_key = [&](int i) { return lil_topk_key(x[i]); };

        const lil_topk_bound bound = lil_topk_search(n_blocks, p.n_pages, shared, get_key);

        lil_topk_each(n_blocks, bound, shared, get_key, [&](const int * pick, int n_pick, int n_done) {
            for (int i = threadIdx.x; i < n_pick * p.block; i += LIL_TOPK_THREADS) {
                list[1 + p.n_sink + n_done * p.block + i] =
                        cells[1 + p.n_sink + pick[i / p.block] * p.block + i % p.block];
            }
        });
    }

    const int n_list = p.n_sink + p.n_pages * p.block;
    const int r0     = p.n_sink + n_blocks * p.block;

    lil_list_copy(list, n_list, cells, r0, cells[0]);

    if (threadIdx.x == 0) {
        list[0] = n_list + cells[0] - r0;
    }
}

void lil_cuda_block_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, cudaStream_t stream) {
    lil_block_select_params p = {};

    p.n_pages = layer.n_pages;
    p.n_sink  = layer.n_sink;
    p.block   = layer.block;

    p.list     = (char *) list.data;
    p.list_nb2 = list.nb[2];

    p.scores     = (const char *) scores.data;
    p.scores_nb1 = scores.nb[1];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    p.cells     = (const char *) cells.data;
    p.cells_nb2 = cells.nb[2];

    LIL_LAUNCH(dim3((unsigned) steps.ne[1]), LIL_TOPK_THREADS, sizeof(int) * LIL_TOPK_EACH_SHARED, stream,
            lil_block_select_kernel, p);
}
