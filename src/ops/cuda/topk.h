#pragma once

// The k largest of many scores, by one block of LIL_TOPK_THREADS threads: a radix search for the k-th largest, one byte at a
// time, then one pass in order of index. Scores are compared as integers of the same order; -0 is 0; of equal scores the last
// ones win.

#include "lil-cuda-device.h"

static constexpr int LIL_TOPK_THREADS = 512;
static constexpr int LIL_TOPK_WARPS   = LIL_TOPK_THREADS/LIL_WARP;

// shared memory of the functions below, in ints
static constexpr int LIL_TOPK_SHARED = 256 + LIL_TOPK_WARPS + 4;

static __device__ __forceinline__ int32_t lil_topk_key(float x) {
    const int32_t i = __float_as_int(x + 0.0f);
    return i ^ ((i >> 31) & 0x7fffffff);
}

// The sum of x over the threads before the caller's, and over all. shared [LIL_TOPK_WARPS]
static __device__ __forceinline__ int lil_block_scan(int x, int * shared, int * total) {
    const int lane = threadIdx.x%LIL_WARP;
    const int warp = threadIdx.x/LIL_WARP;

    int sum = x;
    LIL_UNROLL
    for (int delta = 1; delta < LIL_WARP; delta *= 2) {
        const int y = __shfl_up_sync(LIL_FULL, sum, delta);
        sum += lane >= delta ? y : 0;
    }

    __syncthreads(); // shared is free
    if (lane == LIL_WARP - 1) {
        shared[warp] = sum;
    }
    __syncthreads();

    int before = 0;
    int all    = 0;
    LIL_UNROLL
    for (int i = 0; i < LIL_TOPK_WARPS; ++i) {
        before += i < warp ? shared[i] : 0;
        all    += shared[i];
    }

    *total = all;

    return before + sum - x;
}

struct lil_topk_bound {
    int32_t key;    // the k-th largest
    int     n_skip; // of the keys equal to it so many, the first ones, are not among the k
    int     n_take; // and so many are
};

// 1 <= k <= n; get_key(i) for i in [0, n). All threads get the same. shared [LIL_TOPK_SHARED]
template <typename F>
static __device__ __forceinline__ lil_topk_bound lil_topk_search(int n, int k, int * shared, F get_key) {
    int * count = shared;                        // [256]
    int * scan  = shared + 256;                  // [LIL_TOPK_WARPS]
    int * found = shared + 256 + LIL_TOPK_WARPS; // the byte, keys above it, keys with it

    uint32_t prefix = 0; // what is known of the bound, as an unsigned key
    int      n_gt   = 0; // keys above all that begin with it
    int      n_eq   = n; // keys that begin with it

    LIL_UNROLL
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += LIL_TOPK_THREADS) {
            count[i] = 0;
        }
        __syncthreads();

        // lanes with the same byte count together: scores have few different first bytes, and adding to one place takes turns
        for (int i0 = 0; i0 < n; i0 += LIL_TOPK_THREADS) {
            const int      i   = i0 + (int) threadIdx.x;
            const uint32_t key = i < n ? (uint32_t) get_key(i) ^ 0x80000000u : 0;

            const bool is_in = i < n && (shift == 24 || key >> ((shift + 8)%32) == prefix);
            const int  at    = is_in ? 255 - (int) (key >> shift & 255) : -1;

            const unsigned peers = __match_any_sync(LIL_FULL, at);

            if (is_in && __ffs((int) peers) - 1 == (int) (threadIdx.x%LIL_WARP)) {
                atomicAdd(&count[at], __popc(peers));
            }
        }
        __syncthreads();

        // count is by descending byte, so that the sum before a byte is that of the keys above it
        const int c = threadIdx.x < 256 ? count[threadIdx.x] : 0;

        int       total;
        const int above = n_gt + lil_block_scan(c, scan, &total);

        if (above < k && k <= above + c) { // one thread
            found[0] = 255 - (int) threadIdx.x;
            found[1] = above;
            found[2] = c;
        }
        __syncthreads();

        prefix = prefix << 8 | (uint32_t) found[0];
        n_gt   = found[1];
        n_eq   = found[2];

        __syncthreads(); // found is free
    }

    return { (int32_t) (prefix ^ 0x80000000u), n_gt + n_eq - k, k - n_gt };
}

// f(i, j, is_in, total) once for each thread and LIL_TOPK_THREADS indices in turn: whether i is among the k, and how many of
// these come before it; i >= n: is_in is false. total: how many there are with all indices of the turn. All threads call it together.
template <typename F, typename G>
static __device__ __forceinline__ void lil_topk_each(int n, const lil_topk_bound & bound, int * shared, F get_key, G f) {
    int * scan = shared + 256;

    int n_equal = 0; // so far
    int n_in    = 0;

    for (int i0 = 0; i0 < n; i0 += LIL_TOPK_THREADS) {
        const int i = i0 + (int) threadIdx.x;

        const int32_t key = i < n ? get_key(i) : 0;

        const bool is_gt = i < n && key >  bound.key;
        const bool is_eq = i < n && key == bound.key;

        int total;

        const int before = n_equal + lil_block_scan(is_eq, scan, &total);
        n_equal += total;

        const bool is_in = is_gt || (is_eq && before >= bound.n_skip);

        const int j = n_in + lil_block_scan(is_in, scan, &total);
        n_in += total;

        f(i, j, is_in, n_in);
    }
}

// list, cells: the count, then the cells. The ranks [r0, r1) to the list's places from j on; all threads
static __device__ __forceinline__ void lil_list_copy(int32_t * list, int j, const int32_t * cells, int r0, int r1) {
    for (int r = r0 + (int) threadIdx.x; r < r1; r += LIL_TOPK_THREADS) {
        list[1 + j + r - r0] = cells[1 + r];
    }
}
