#include "dirty.h"

// A warp has one page of one KV head.

static constexpr int LIL_PAGE_BOUNDS_N_WARP = 4;

template <int TYPE_K, int LANES>
static __global__ void __launch_bounds__(LIL_WARP * LIL_PAGE_BOUNDS_N_WARP)
        lil_page_bounds_kernel(const lil_dirty_params p) {
    const int unit = blockIdx.x * LIL_PAGE_BOUNDS_N_WARP + threadIdx.x / LIL_WARP;
    if (unit >= p.n_dirty * p.n_head_kv) {
        return; // the whole warp
    }

    lil_dirty_bounds<TYPE_K, LANES>(p, lil_dirty_entry(p, unit / p.n_head_kv), unit % p.n_head_kv);
}

template <int TYPE_K>
static void lil_page_bounds_launch(const lil_dirty_params & p, cudaStream_t stream) {
    const int n_block = (p.n_dirty * p.n_head_kv + LIL_PAGE_BOUNDS_N_WARP - 1) / LIL_PAGE_BOUNDS_N_WARP;
    const int n_lanes = lil_cuda_n_lanes(p.n_embd);

    const auto kernel = n_lanes == 8 ? lil_page_bounds_kernel<TYPE_K, 8>
            : n_lanes == 16          ? lil_page_bounds_kernel<TYPE_K, 16>
                                     : lil_page_bounds_kernel<TYPE_K, 32>;

    LIL_LAUNCH(dim3(n_block), LIL_WARP * LIL_PAGE_BOUNDS_N_WARP, 0, stream, kernel, p);
}

bool lil_cuda_page_bounds_supports(const lil_select_layer & layer, const lil_cuda_tensor & bounds,
        const lil_cuda_tensor & k, const lil_cuda_tensor & dirty) {
    const int64_t n_embd = k.ne[0] / layer.n_head_kv;

    return (bounds.type == GGML_TYPE_F16 || bounds.type == GGML_TYPE_F32) && lil_cuda_can_read(bounds, n_embd) &&
            bounds.ne[0] == 2 * n_embd && lil_cuda_can_read(k, n_embd) && k.ne[0] % layer.n_head_kv == 0 &&
            dirty.type == GGML_TYPE_I32;
}

void lil_cuda_page_bounds(const lil_select_layer & layer, const lil_cuda_tensor & bounds, const lil_cuda_tensor & k,
        const lil_cuda_tensor & dirty, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_page_bounds_supports(layer, bounds, k, dirty));

    const lil_dirty_params p = lil_dirty_get_params(layer, bounds, { k, dirty, {} });

    if (p.n_dirty == 0) {
        return;
    }
    if (p.type_k == GGML_TYPE_F16) {
        lil_page_bounds_launch<GGML_TYPE_F16>(p, stream);
    } else {
        lil_page_bounds_launch<LIL_TYPE_ANY>(p, stream);
    }
}
