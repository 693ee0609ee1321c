#include "dirty.h"

// A warp has one block of one KV head.

static constexpr int LIL_BLOCK_REPR_N_WARP = 4;

template <int TYPE_K, int LANES>
static __global__ void __launch_bounds__(LIL_WARP * LIL_BLOCK_REPR_N_WARP, 8)
        lil_block_repr_kernel(const lil_dirty_params p) {
    const int warp = threadIdx.x / LIL_WARP;
    const int unit = blockIdx.x * LIL_BLOCK_REPR_N_WARP + warp;
    if (unit >= p.n_dirty * p.n_head_kv) {
        return; // the whole warp
    }

    LIL_SHARED(int, shared);

    lil_dirty_repr<TYPE_K, LANES>(
            p, lil_dirty_entry(p, unit / p.n_head_kv), unit % p.n_head_kv, shared + warp * 2 * p.n_max);
}

template <int TYPE_K>
static void lil_block_repr_launch(const lil_dirty_params & p, cudaStream_t stream) {
    const int n_block = (p.n_dirty * p.n_head_kv + LIL_BLOCK_REPR_N_WARP - 1) / LIL_BLOCK_REPR_N_WARP;
    const int n_lanes = lil_cuda_n_lanes(p.n_embd);

    const auto kernel = n_lanes == 8 ? lil_block_repr_kernel<TYPE_K, 8>
            : n_lanes == 16          ? lil_block_repr_kernel<TYPE_K, 16>
                                     : lil_block_repr_kernel<TYPE_K, 32>;

    LIL_LAUNCH(dim3(n_block), LIL_WARP * LIL_BLOCK_REPR_N_WARP, sizeof(int) * LIL_BLOCK_REPR_N_WARP * 2 * p.n_max,
            stream, kernel, p);
}

bool lil_cuda_block_repr_supports(const lil_select_layer & layer, const lil_cuda_tensor & repr,
        const lil_cuda_tensor & k, const lil_cuda_tensor & score, const lil_cuda_tensor & dirty) {
    return repr.type == GGML_TYPE_F32 && score.type == GGML_TYPE_F32 && dirty.type == GGML_TYPE_I32 &&
            repr.ne[0] == k.ne[0] && k.ne[0] % layer.n_head_kv == 0 &&
            lil_cuda_can_read(k, k.ne[0] / layer.n_head_kv) && repr.nb[1] % 16 == 0 && repr.nb[2] % 16 == 0 &&
            dirty.ne[0] - LIL_DIRTY_HEAD <= LIL_CUDA_MAX_BLOCK;
}

void lil_cuda_block_repr(const lil_select_layer & layer, const lil_cuda_tensor & repr, const lil_cuda_tensor & k,
        const lil_cuda_tensor & score, const lil_cuda_tensor & dirty, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_block_repr_supports(layer, repr, k, score, dirty));

    const lil_dirty_params p = lil_dirty_get_params(layer, repr, { k, dirty, score });

    if (p.n_dirty == 0) {
        return;
    }
    if (p.type_k == GGML_TYPE_F16) {
        lil_block_repr_launch<GGML_TYPE_F16>(p, stream);
    } else {
        lil_block_repr_launch<LIL_TYPE_ANY>(p, stream);
    }
}
