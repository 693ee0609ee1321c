#include "lil-cuda-device.h"

#include <math.h>

// A warp has one page of one KV head. LANES lanes read a row of K, each 8 channels.

struct lil_page_bounds_params {
    char       * bounds; // [2*n_embd, n_head_kv, n_pages_max, n_tables]
    const char * k;
    const char * dirty;

    int64_t bounds_nb1, bounds_nb2, bounds_nb3;
    int64_t k_nb1, k_nb2, k_head;
    int64_t dirty_nb1;

    int type_k;
    int is_f16; // bounds
    int n_embd;
    int n_head_kv;
    int n_unit; // n_dirty*n_head_kv
};

static constexpr int LIL_PAGE_BOUNDS_N_WARP  = 4;
static constexpr int LIL_PAGE_BOUNDS_N_BATCH = 4; // rows of a lane that are under way

static __device__ __forceinline__ void lil_store_bounds8(char * row, int i, int is_f16, const float * x) {
    if (is_f16) {
        uint4 h;
        h.x = lil_float_to_half(x[0]) | lil_float_to_half(x[1]) << 16;
        h.y = lil_float_to_half(x[2]) | lil_float_to_half(x[3]) << 16;
        h.z = lil_float_to_half(x[4]) | lil_float_to_half(x[5]) << 16;
        h.w = lil_float_to_half(x[6]) | lil_float_to_half(x[7]) << 16;
        *(uint4 *) (row + 2*i) = h;
    } else {
        *(float4 *) (row + 4*i)      = { x[0], x[1], x[2], x[3] };
        *(float4 *) (row + 4*i + 16) = { x[4], x[5], x[6], x[7] };
    }
}

template <int TYPE_K, int LANES>
static __global__ void __launch_bounds__(LIL_WARP*LIL_PAGE_BOUNDS_N_WARP) lil_page_bounds_kernel(const lil_page_bounds_params p) {
    constexpr int N_ROW   = LIL_WARP/LANES; // that the warp reads at once
    constexpr int N_BATCH = LIL_PAGE_BOUNDS_N_BATCH;

    const int unit = blockIdx.x*LIL_PAGE_BOUNDS_N_WARP + threadIdx.x/LIL_WARP;
    if (unit >= p.n_unit) {
        return; // the whole warp
    }

    const int lane  = threadIdx.x%LIL_WARP;
    const int i_row = lane/LANES;
    const int c0    = lane%LANES*8;
    const int i_kv  = unit%p.n_head_kv;

    const int32_t * entry = (const int32_t *) (p.dirty + unit/p.n_head_kv*p.dirty_nb1);
    const int32_t * cells = entry + LIL_DIRTY_HEAD;
    const int       n     = entry[LIL_DIRTY_N];

    const char * k = p.k + entry[LIL_DIRTY_STREAM]*p.k_nb2 + i_kv*p.k_head;

    const bool has = c0 < p.n_embd;

    float max[8];
    float min_[8];
    LIL_UNROLL
    for (int i = 0; i < 8; ++i) {
        max [i] = -INFINITY;
        min_[i] =  INFINITY;
    }

    for (int j0 = 0; j0 < n; j0 += N_ROW*N_BATCH) {
        uint4 raw[N_BATCH];
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) { // behind the end: the last row again
            raw[b] = { 0, 0, 0, 0 };
            if (has) {
                raw[b] = lil_load8<TYPE_K>(p.type_k, k + cells[min(j0 + b*N_ROW + i_row, n - 1)]*p.k_nb1, c0);
            }
        }
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) {
            float x[8];
            lil_widen8<TYPE_K>(p.type_k, raw[b], x);
            LIL_UNROLL
            for (int i = 0; i < 8; ++i) {
                max [i] = fmaxf(max [i], x[i]);
                min_[i] = fminf(min_[i], x[i]);
            }
        }
    }

    LIL_UNROLL
    for (int offset = LANES; offset < LIL_WARP; offset *= 2) {
        LIL_UNROLL
        for (int i = 0; i < 8; ++i) {
            max [i] = fmaxf(max [i], __shfl_xor_sync(LIL_FULL, max [i], offset));
            min_[i] = fminf(min_[i], __shfl_xor_sync(LIL_FULL, min_[i], offset));
        }
    }

    if (has && i_row == 0) {
        char * row = p.bounds + entry[LIL_DIRTY_TABLE]*p.bounds_nb3 + entry[LIL_DIRTY_PAGE]*p.bounds_nb2 + i_kv*p.bounds_nb1;

        lil_store_bounds8(row, c0,            p.is_f16, max);
        lil_store_bounds8(row, c0 + p.n_embd, p.is_f16, min_);
    }
}

template <int TYPE_K>
static void lil_page_bounds_launch(const lil_page_bounds_params & p, cudaStream_t stream) {
    const int n_block = (p.n_unit + LIL_PAGE_BOUNDS_N_WARP - 1)/LIL_PAGE_BOUNDS_N_WARP;
    const int n_lanes = lil_cuda_n_lanes(p.n_embd);

    const auto kernel = n_lanes == 8 ? lil_page_bounds_kernel<TYPE_K, 8> : n_lanes == 16 ? lil_page_bounds_kernel<TYPE_K, 16> : lil_page_bounds_kernel<TYPE_K, 32>;

    LIL_LAUNCH(dim3(n_block), LIL_WARP*LIL_PAGE_BOUNDS_N_WARP, 0, stream, kernel, p);
}

bool lil_cuda_page_bounds_supports(const lil_select_layer & layer, const lil_cuda_tensor & bounds, const lil_cuda_tensor & k, const lil_cuda_tensor & dirty) {
    const int64_t n_embd = k.ne[0]/layer.n_head_kv;

    return (bounds.type == GGML_TYPE_F16 || bounds.type == GGML_TYPE_F32) && lil_cuda_can_read(bounds, n_embd) && bounds.ne[0] == 2*n_embd &&
        lil_cuda_can_read(k, n_embd) && k.ne[0]%layer.n_head_kv == 0 && dirty.type == GGML_TYPE_I32;
}

void lil_cuda_page_bounds(const lil_select_layer & layer, const lil_cuda_tensor & bounds, const lil_cuda_tensor & k, const lil_cuda_tensor & dirty, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_page_bounds_supports(layer, bounds, k, dirty));

    lil_page_bounds_params p = {};

    p.n_head_kv = layer.n_head_kv;
    p.n_embd    = (int) (k.ne[0]/p.n_head_kv);
    p.n_unit    = (int) (dirty.ne[1]*p.n_head_kv);
    p.type_k    = k.type;
    p.is_f16    = bounds.type == GGML_TYPE_F16;

    p.bounds     = (char *) bounds.data;
    p.bounds_nb1 = bounds.nb[1];
    p.bounds_nb2 = bounds.nb[2];
    p.bounds_nb3 = bounds.nb[3];

    p.k      = (const char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = lil_cuda_row_size(k.type, p.n_embd);

    p.dirty     = (const char *) dirty.data;
    p.dirty_nb1 = dirty.nb[1];

    if (p.n_unit == 0) {
        return;
    }
    if (p.type_k == GGML_TYPE_F16) {
        lil_page_bounds_launch<GGML_TYPE_F16>(p, stream);
    } else {
        lil_page_bounds_launch<LIL_TYPE_ANY>(p, stream);
    }
}
