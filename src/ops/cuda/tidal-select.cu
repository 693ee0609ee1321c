#include "topk.h"

// A block for each KV head and step.

struct lil_tidal_select_params {
    char *        list; // [1 + n_max, n_head_kv, n_steps]
    const float * kq;   // [n_max, n_head, n_steps]
    const char *  steps;
    const char *  cells; // [1 + n_max, 1, n_steps]

    int64_t list_nb1, list_nb2;
    int64_t steps_nb1;
    int64_t cells_nb2;
    int64_t n_max;

    int n_head;
    int n_group;
    int budget;
};

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1) lil_tidal_select_kernel(const lil_tidal_select_params p) {
    const int i_kv   = blockIdx.x;
    const int i_step = blockIdx.y;

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);

    int32_t * list = (int32_t *) (p.list + i_step * p.list_nb2 + i_kv * p.list_nb1);

    if (!step[LIL_SEL_SPARSE] || cells[0] <= p.budget) {
        lil_list_copy_all(list, cells);
        return;
    }

    LIL_SHARED(int, shared);

    const int n = cells[0] - 1; // besides the current one
    const int k = p.budget - 1;

    const float * x = p.kq + ((int64_t) i_step * p.n_head + i_kv * p.n_group) * p.n_max;

    const auto get_key = [&](int i) {
        float best = x[i];
        for (int g = 1; g < p.n_group; ++g) {
            best = fmaxf(best, x[g * p.n_max + i]);
        }
        return lil_topk_key(best);
    };

    if (k > 0) {
        const lil_topk_bound bound = lil_topk_search(n, k, shared, get_key);

        lil_topk_each(n, bound, shared, get_key, [&](const int * pick, int n_pick, int n_done) {
            for (int i = threadIdx.x; i < n_pick; i += LIL_TOPK_THREADS) {
                list[1 + n_done + i] = cells[1 + pick[i]];
            }
        });
    }

    if (threadIdx.x == 0) {
        list[1 + k] = cells[1 + n];
        list[0]     = k + 1;
    }
}

void lil_cuda_tidal_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & work,
        int64_t n_embd_v, int64_t n_head, const lil_cuda_tensor & steps, const lil_cuda_tensor & cells,
        cudaStream_t stream) {
    lil_tidal_select_params p = {};

    p.n_max   = cells.ne[0] - 1;
    p.n_head  = (int) n_head;
    p.n_group = (int) (n_head / layer.n_head_kv);
    p.budget  = layer.budget;
    p.kq      = (const float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, p.n_max, steps.ne[1]);

    p.list     = (char *) list.data;
    p.list_nb1 = list.nb[1];
    p.list_nb2 = list.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    p.cells     = (const char *) cells.data;
    p.cells_nb2 = cells.nb[2];

    LIL_LAUNCH(dim3((unsigned) layer.n_head_kv, (unsigned) steps.ne[1]), LIL_TOPK_THREADS,
            sizeof(int) * LIL_TOPK_EACH_SHARED, stream, lil_tidal_select_kernel, p);
}
