#pragma once

// The metadata of one page or block of one KV head, by one warp: what page_bounds and block_repr compute for all that
// are dirty, and page_scores and block_scores for those among the pages that they score. LANES lanes read 8*LANES
// channels of a row of K, each 8: all of it, or of a long one (MLA) part by part.

#include "topk.h"

#include <math.h>

struct lil_dirty_params {
    // bounds [2*n_embd, n_head_kv, n_pages_max, n_tables], or repr [n_embd*n_head_kv, n_blocks_max, n_tables]
    char *       meta;
    const char * k;
    const char * score; // [n_cells, n_head_kv, n_stream]; repr
    const char * dirty;

    int64_t meta_nb1, meta_nb2, meta_nb3;
    int64_t k_nb1, k_nb2, k_head;
    int64_t score_nb1, score_nb2;
    int64_t dirty_nb1;

    int type_k;
    int is_f16; // bounds
    int n_embd;
    int n_head_kv;
    int n_dirty;
    int n_max; // tokens of a page, at most
    int n_repr;
};

static constexpr int LIL_DIRTY_N_BATCH = 4; // rows of a lane that are under way

static __device__ __forceinline__ const int32_t * lil_dirty_entry(const lil_dirty_params & p, int i) {
    return (const int32_t *) (p.dirty + i * p.dirty_nb1);
}

// whether an entry is one of the pages [p0, p1) of a table
static __device__ __forceinline__ bool lil_dirty_is_in(const int32_t * entry, int table, int p0, int p1) {
    return entry[LIL_DIRTY_TABLE] == table && entry[LIL_DIRTY_PAGE] >= p0 && entry[LIL_DIRTY_PAGE] < p1;
}

static __device__ __forceinline__ void lil_store_bounds8(char * row, int i, int is_f16, const float * x) {
    if (is_f16) {
        uint4 h;
        h.x                      = lil_float_to_half(x[0]) | lil_float_to_half(x[1]) << 16;
        h.y                      = lil_float_to_half(x[2]) | lil_float_to_half(x[3]) << 16;
        h.z                      = lil_float_to_half(x[4]) | lil_float_to_half(x[5]) << 16;
        h.w                      = lil_float_to_half(x[6]) | lil_float_to_half(x[7]) << 16;
        *(uint4 *) (row + 2 * i) = h;
    } else {
        *(float4 *) (row + 4 * i)      = { x[0], x[1], x[2], x[3] };
        *(float4 *) (row + 4 * i + 16) = { x[4], x[5], x[6], x[7] };
    }
}

// page_bounds of the channels [c0, c0 + 8*LANES)
template <int TYPE_K, int LANES>
static __device__ __forceinline__ void lil_dirty_bounds_part(
        const lil_dirty_params & p, const int32_t * entry, int i_kv, int c0) {
    constexpr int N_ROW   = LIL_WARP / LANES; // that the warp reads at once
    constexpr int N_BATCH = LIL_DIRTY_N_BATCH;

    const int lane  = threadIdx.x % LIL_WARP;
    const int i_row = lane / LANES;

    c0 += lane % LANES * 8;

    const int32_t * cells = entry + LIL_DIRTY_HEAD;
    const int       n     = entry[LIL_DIRTY_N];

    const char * k = p.k + entry[LIL_DIRTY_STREAM] * p.k_nb2 + i_kv * p.k_head;

    const bool has = c0 < p.n_embd;

    float max[8];
    float min_[8];
    LIL_UNROLL
    for (int i = 0; i < 8; ++i) {
        max[i]  = -INFINITY;
        min_[i] = INFINITY;
    }

    for (int j0 = 0; j0 < n; j0 += N_ROW * N_BATCH) {
        uint4 raw[N_BATCH];
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) { // behind the end: the last row again
            raw[b] = { 0, 0, 0, 0 };
            if (has) {
                raw[b] = lil_load8<TYPE_K>(p.type_k, k + cells[min(j0 + b * N_ROW + i_row, n - 1)] * p.k_nb1, c0);
            }
        }
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) {
            float x[8];
            lil_widen8<TYPE_K>(p.type_k, raw[b], x);
            LIL_UNROLL
            for (int i = 0; i < 8; ++i) {
                max[i]  = fmaxf(max[i], x[i]);
                min_[i] = fminf(min_[i], x[i]);
            }
        }
    }

    LIL_UNROLL
    for (int offset = LANES; offset < LIL_WARP; offset *= 2) {
        LIL_UNROLL
        for (int i = 0; i < 8; ++i) {
            max[i]  = fmaxf(max[i], __shfl_xor_sync(LIL_FULL, max[i], offset));
            min_[i] = fminf(min_[i], __shfl_xor_sync(LIL_FULL, min_[i], offset));
        }
    }

    if (has && i_row == 0) {
        char * row =
                p.meta + entry[LIL_DIRTY_TABLE] * p.meta_nb3 + entry[LIL_DIRTY_PAGE] * p.meta_nb2 + i_kv * p.meta_nb1;

        lil_store_bounds8(row, c0, p.is_f16, max);
        lil_store_bounds8(row, c0 + p.n_embd, p.is_f16, min_);
    }
}

template <int TYPE_K, int LANES>
static __device__ __forceinline__ void lil_dirty_bounds(const lil_dirty_params & p, const int32_t * entry, int i_kv) {
    LIL_UNROLL_BY(1)
    for (int c0 = 0; c0 < p.n_embd; c0 += 8 * LANES) {
        lil_dirty_bounds_part<TYPE_K, LANES>(p, entry, i_kv, c0);
    }
}

// the sum of n_pick rows' channels [c0, c0 + 8*LANES)
template <int TYPE_K, int LANES>
static __device__ __forceinline__ void lil_dirty_repr_part(
        const lil_dirty_params & p, const int32_t * entry, int i_kv, const int * pick, int n_pick, int c0) {
    constexpr int N_ROW   = LIL_WARP / LANES; // that the warp reads at once
    constexpr int N_BATCH = LIL_DIRTY_N_BATCH;

    const int lane  = threadIdx.x % LIL_WARP;
    const int i_row = lane / LANES;

    c0 += lane % LANES * 8;

    const bool   has = c0 < p.n_embd;
    const char * k   = p.k + entry[LIL_DIRTY_STREAM] * p.k_nb2 + i_kv * p.k_head;

    float sum[8] = {};

    for (int r0 = 0; r0 < n_pick; r0 += N_ROW * N_BATCH) {
        uint4 raw[N_BATCH];
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) {
            raw[b] = { 0, 0, 0, 0 };
            if (has) { // behind the end: the last row again
                raw[b] = lil_load8<TYPE_K>(p.type_k, k + pick[min(r0 + b * N_ROW + i_row, n_pick - 1)] * p.k_nb1, c0);
            }
        }
        LIL_UNROLL
        for (int b = 0; b < N_BATCH; ++b) {
            float x[8];
            lil_widen8<TYPE_K>(p.type_k, raw[b], x);
            LIL_UNROLL
            for (int i = 0; i < 8; ++i) {
                sum[i] += r0 + b * N_ROW + i_row < n_pick ? x[i] : 0.0f;
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
        float * row = (float *) (p.meta + entry[LIL_DIRTY_TABLE] * p.meta_nb2 + entry[LIL_DIRTY_PAGE] * p.meta_nb1) +
                i_kv * p.n_embd + c0;

        *(float4 *) row       = { sum[0], sum[1], sum[2], sum[3] };
        *(float4 *) (row + 4) = { sum[4], sum[5], sum[6], sum[7] };
    }
}

// block_repr: ranks the tokens by comparing each with all, then reads the rows of the best. shared [2*n_max]
template <int TYPE_K, int LANES>
static __device__ __forceinline__ void lil_dirty_repr(
        const lil_dirty_params & p, const int32_t * entry, int i_kv, int * shared) {
    const int lane = threadIdx.x % LIL_WARP;

    int * key  = shared;        // [n_max]
    int * pick = key + p.n_max; // [n_max] cells

    const int32_t * cells = entry + LIL_DIRTY_HEAD;
    const int       n     = entry[LIL_DIRTY_N];

    const float * score = (const float *) (p.score + entry[LIL_DIRTY_STREAM] * p.score_nb2 + i_kv * p.score_nb1);

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

    LIL_UNROLL_BY(1)
    for (int c0 = 0; c0 < p.n_embd; c0 += 8 * LANES) {
        lil_dirty_repr_part<TYPE_K, LANES>(p, entry, i_kv, pick, n_pick, c0);
    }
}

static inline lil_dirty_params lil_dirty_get_params(
        const lil_select_layer & layer, const lil_cuda_tensor & meta, const lil_cuda_dirty & with) {
    const lil_cuda_tensor & k     = with.k;
    const lil_cuda_tensor & score = with.score;
    const lil_cuda_tensor & dirty = with.dirty;

    lil_dirty_params p = {};

    p.n_head_kv = layer.n_head_kv;
    p.n_embd    = (int) (k.ne[0] / p.n_head_kv);
    p.n_dirty   = (int) dirty.ne[1];
    p.n_max     = (int) (dirty.ne[0] - LIL_DIRTY_HEAD);
    p.n_repr    = layer.n_repr;
    p.type_k    = k.type;
    p.is_f16    = meta.type == GGML_TYPE_F16;

    p.meta     = (char *) meta.data;
    p.meta_nb1 = meta.nb[1];
    p.meta_nb2 = meta.nb[2];
    p.meta_nb3 = meta.nb[3];

    p.k      = (const char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = lil_cuda_row_size(k.type, p.n_embd);

    p.score     = (const char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.dirty     = (const char *) dirty.data;
    p.dirty_nb1 = dirty.nb[1];

    return p;
}
