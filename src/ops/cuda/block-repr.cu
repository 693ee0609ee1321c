#include "topk.h"

// A warp has one block of one KV head: it ranks the tokens by comparing each with all, then reads the rows of the best. LANES lanes
// read a row of K, each 8 channels.

struct lil_block_repr_params {
    char       * repr;  // [n_embd*n_head_kv, n_blocks_max, n_tables]
    const char * k;
    const char * score; // [n_cells, n_head_kv, n_stream]
    const char * dirty;

    int64_t repr_nb1, repr_nb2;
    int64_t k_nb1, k_nb2, k_head;
    int64_t score_nb1, score_nb2;
    int64_t dirty_nb1;

    int type_k;
    int n_embd;
    int n_head_kv;
    int n_unit; // n_dirty*n_head_kv
    int n_max;  // tokens of a block, at most
    int n_repr;
};

static constexpr int LIL_BLOCK_REPR_N_WARP  = 4;
static constexpr int LIL_BLOCK_REPR_N_BATCH = 4; // rows of a lane that are under way

template <int TYPE_K, int LANES>
static __global__ void __launch_bounds__(LIL_WARP*LIL_BLOCK_REPR_N_WARP) lil_block_repr_kernel(const lil_block_repr_params p) {
    constexpr int N_ROW   = LIL_WARP/LANES; // that the warp reads at once
    constexpr int N_BATCH = LIL_BLOCK_REPR_N_BATCH;

    const int warp = threadIdx.x/LIL_WARP;
    const int lane = threadIdx.x%LIL_WARP;
    const int unit = blockIdx.x*LIL_BLOCK_REPR_N_WARP + warp;
    if (unit >= p.n_unit) {
        return; // the whole warp
    }

    LIL_SHARED(int, shared);
    int * key  = shared + warp*2*p.n_max; // [n_max]
    int * pick = key + p.n_max;           // [n_max] cells

    const int i_kv = unit%p.n_head_kv;

    const int32_t * entry = (const int32_t *) (p.dirty + unit/p.n_head_kv*p.dirty_nb1);
    const int32_t * cells = entry + LIL_DIRTY_HEAD;
    const int       n     = entry[LIL_DIRTY_N];

    const float * score = (const float *) (p.score + entry[LIL_DIRTY_STREAM]*p.score_nb2 + i_kv*p.score_nb1);
    const char  * k     = p.k + entry[LIL_DIRTY_STREAM]*p.k_nb2 + i_kv*p.k_head;

    for (int i = lane; i < n; i += LIL_WARP) {
        key[i] = lil_topk_key(score[cells[i]]);
    }
    __syncwarp();

    int n_pick = 0;
    for (int i0 = 0; i0 < n; i0 += LIL_WARP) {
        const int i    = i0 + lane;
        const int mine = key[min(i, n - 1)];

        int n_better = 0;
        for (int j = 0; j < n; ++j) { // all lanes read the same word
            n_better += key[j] > mine || (key[j] == mine && j > i);
        }

        const bool     is_in = i < n && n_better < p.n_repr;
        const unsigned in    = __ballot_sync(LIL_FULL, is_in);
        if (is_in) {
            pick[n_pick + __popc(in & ((1u << lane) - 1))] = cells[i];
        }
        n_pick += __popc(in);
    }
    __syncwarp();

    const int  i_row = lane/LANES;
    const int  c0    = lane%LANES*8;
    const bool has   = c0 < p.n_embd;

    float sum[8] = {};

    for (int r0 = 0; r0 < n_pick; r0 += N_ROW*N_BATCH) {
        uint4 raw[N_BATCH];
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) {
            raw[b] = { 0, 0, 0, 0 };
            if (has) { // behind the end: the last row again
                raw[b] = lil_load8<TYPE_K>(p.type_k, k + pick[min(r0 + b*N_ROW + i_row, n_pick - 1)]*p.k_nb1, c0);
            }
        }
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) {
            float x[8];
            lil_widen8<TYPE_K>(p.type_k, raw[b], x);
            LIL_UNROLL
            for (int i = 0; i < 8; ++i) {
                sum[i] += r0 + b*N_ROW + i_row < n_pick ? x[i] : 0.0f;
            }
        }
    }

    LIL_UNROLL
    for (int offset = LANES; offset < LIL_WARP; offset *= 2) {
        LIL_UNROLL
        for (int i = 0; i < 8; ++i) {
            sum[i] += __shfl_xor_sync(LIL_FULL, sum[i], offset);
        }
    }

    if (has && i_row == 0) {
        float * row = (float *) (p.repr + entry[LIL_DIRTY_TABLE]*p.repr_nb2 + entry[LIL_DIRTY_PAGE]*p.repr_nb1) + i_kv*p.n_embd + c0;

        *(float4 *) row       = { sum[0], sum[1], sum[2], sum[3] };
        *(float4 *) (row + 4) = { sum[4], sum[5], sum[6], sum[7] };
    }
}

template <int TYPE_K>
static void lil_block_repr_launch(const lil_block_repr_params & p, cudaStream_t stream) {
    const int n_block = (p.n_unit + LIL_BLOCK_REPR_N_WARP - 1)/LIL_BLOCK_REPR_N_WARP;
    const int n_lanes = lil_cuda_n_lanes(p.n_embd);

    const auto kernel = n_lanes == 8 ? lil_block_repr_kernel<TYPE_K, 8> : n_lanes == 16 ? lil_block_repr_kernel<TYPE_K, 16> : lil_block_repr_kernel<TYPE_K, 32>;

    LIL_LAUNCH(dim3(n_block), LIL_WARP*LIL_BLOCK_REPR_N_WARP, sizeof(int)*LIL_BLOCK_REPR_N_WARP*2*p.n_max, stream, kernel, p);
}

bool lil_cuda_block_repr_supports(const lil_select_layer & layer, const lil_cuda_tensor & repr, const lil_cuda_tensor & k, const lil_cuda_tensor & score, const lil_cuda_tensor & dirty) {
    return repr.type == GGML_TYPE_F32 && score.type == GGML_TYPE_F32 && dirty.type == GGML_TYPE_I32 && repr.ne[0] == k.ne[0] && k.ne[0]%layer.n_head_kv == 0 &&
        lil_cuda_can_read(k, k.ne[0]/layer.n_head_kv) && repr.nb[1]%16 == 0 && repr.nb[2]%16 == 0 && dirty.ne[0] - LIL_DIRTY_HEAD <= LIL_CUDA_MAX_BLOCK;
}

void lil_cuda_block_repr(const lil_select_layer & layer, const lil_cuda_tensor & repr, const lil_cuda_tensor & k, const lil_cuda_tensor & score, const lil_cuda_tensor & dirty, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_block_repr_supports(layer, repr, k, score, dirty));

    lil_block_repr_params p = {};

    p.n_head_kv = layer.n_head_kv;
    p.n_embd    = (int) (k.ne[0]/p.n_head_kv);
    p.n_unit    = (int) (dirty.ne[1]*p.n_head_kv);
    p.n_max     = (int) (dirty.ne[0] - LIL_DIRTY_HEAD);
    p.n_repr    = layer.n_repr;
    p.type_k    = k.type;

    p.repr     = (char *) repr.data;
    p.repr_nb1 = repr.nb[1];
    p.repr_nb2 = repr.nb[2];

    p.k      = (const char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = lil_cuda_row_size(k.type, p.n_embd);

    p.score     = (const char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.dirty     = (const char *) dirty.data;
    p.dirty_nb1 = dirty.nb[1];

    if (p.n_unit == 0) {
        return;
    }
    if (p.type_k == GGML_TYPE_F16) {
        lil_block_repr_launch<GGML_TYPE_F16>(p, stream);
    } else {
        lil_block_repr_launch<LIL_TYPE_ANY>(p, stream);
    }
}
