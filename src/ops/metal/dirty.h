#pragma once

// The metadata of one page or block of one KV head: what page_bounds and block_repr compute for all that are dirty, and
// page_scores and block_scores for those among the pages that they score.

#include "topk.h"

static inline device const int32_t * lil_dirty_entry(
        constant lil_metal_kargs_dirty & args, device const char * dirty, int i) {
    return (device const int32_t *) (dirty + i * args.nb_d1);
}

// whether an entry is one of the pages [p0, p1) of a table
static inline bool lil_dirty_is_in(device const int32_t * entry, int table, int p0, int p1) {
    return entry[LIL_METAL_DIRTY_TABLE] == table && entry[LIL_METAL_DIRTY_PAGE] >= p0 &&
            entry[LIL_METAL_DIRTY_PAGE] < p1;
}

// what is the greater (the smaller) of two stays where they are equal
static inline float4 lil_greater(float4 a, float4 b) {
    return float4(b.x > a.x ? b.x : a.x, b.y > a.y ? b.y : a.y, b.z > a.z ? b.z : a.z, b.w > a.w ? b.w : a.w);
}

static inline float4 lil_smaller(float4 a, float4 b) {
    return float4(b.x < a.x ? b.x : a.x, b.y < a.y ? b.y : a.y, b.z < a.z ? b.z : a.z, b.w < a.w ? b.w : a.w);
}

// page_bounds, by the threads i of n_thread, each a quad of channels at a time; lil_type_v is the type of the bounds
static inline void lil_dirty_bounds(constant lil_metal_kargs_dirty & args, device char * bounds, device const char * k,
        device const int32_t * entry, int i_kv, int i, int n_thread) {
    device const int32_t * cells = entry + LIL_METAL_DIRTY_HEAD;

    k += (uint64_t) entry[LIL_METAL_DIRTY_STREAM] * args.nb_k2 + i_kv * args.size_k;
    bounds += (uint64_t) entry[LIL_METAL_DIRTY_TABLE] * args.nb_m3 +
            (uint64_t) entry[LIL_METAL_DIRTY_PAGE] * args.nb_m2 + i_kv * args.nb_m1;

    const int n  = entry[LIL_METAL_DIRTY_N];
    const int nk = args.n_embd / 4;

    for (; i < nk; i += n_thread) {
        float4 hi = lil_load_quad(lil_type_k, k + cells[0] * args.nb_k1, i);
        float4 lo = hi;

        for (int j = 1; j < n; ++j) {
            const float4 x = lil_load_quad(lil_type_k, k + cells[j] * args.nb_k1, i);

            hi = lil_greater(hi, x);
            lo = lil_smaller(lo, x);
        }

        if (lil_type_v == LIL_METAL_TYPE_F16) {
            ((device half4 *) bounds)[i]      = half4(hi);
            ((device half4 *) bounds)[nk + i] = half4(lo);
        } else {
            ((device float4 *) bounds)[i]      = hi;
            ((device float4 *) bounds)[nk + i] = lo;
        }
    }
}

// block_repr, by a simd-group; lane: of the thread. A block is small: each token's place among the scores is counted.
// shmem: 2*n_max uints of the simd-group's own
static inline void lil_dirty_repr(constant lil_metal_kargs_dirty & args, device char * repr, device const char * k,
        device const char * score, device const int32_t * entry, int i_kv, int lane, threadgroup uint * shmem) {
    device const int32_t * cells = entry + LIL_METAL_DIRTY_HEAD;

    const int      n    = entry[LIL_METAL_DIRTY_N];
    const uint64_t strm = entry[LIL_METAL_DIRTY_STREAM];

    device const float * x = (device const float *) (score + strm * args.nb_x2 + i_kv * args.nb_x1);

    k += strm * args.nb_k2 + i_kv * args.size_k;
    repr += (uint64_t) entry[LIL_METAL_DIRTY_TABLE] * args.nb_m2 + (uint64_t) entry[LIL_METAL_DIRTY_PAGE] * args.nb_m1;

    threadgroup uint * key  = shmem;            // [n]
    threadgroup uint * take = key + args.n_max; // [n]

    for (int i = lane; i < n; i += 32) {
        key[i] = lil_topk_key(x[cells[i]]);
    }

    simdgroup_barrier(mem_flags::mem_threadgroup);

    for (int i = lane; i < n; i += 32) {
        int n_before = 0;
        for (int j = 0; j < n; ++j) {
            n_before += key[j] > key[i] || (key[j] == key[i] && j > i);
        }
        take[i] = n_before < args.n_repr;
    }

    simdgroup_barrier(mem_flags::mem_threadgroup);

    device float4 * sum = (device float4 *) repr + i_kv * (args.n_embd / 4);

    for (int c = lane; c < args.n_embd / 4; c += 32) {
        float4 s = float4(0.0f);
        for (int i = 0; i < n; ++i) {
            if (take[i]) {
                s += lil_load_quad(lil_type_k, k + cells[i] * args.nb_k1, c);
            }
        }
        sum[c] = s;
    }

    simdgroup_barrier(mem_flags::mem_threadgroup); // another head's may follow
}
