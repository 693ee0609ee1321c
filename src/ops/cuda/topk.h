#pragma once

// The k largest of many scores, by one block of LIL_TOPK_THREADS threads: a radix search for the k-th largest, one byte
// at a time, then one pass in order of index. Scores are compared as integers of the same order; -0 is 0; of equal
// scores the last ones win.
//
// A block has few threads for what it reads, and each barrier costs it about what a load does: so a thread has
// LIL_TOPK_ITEMS loads under way, and a turn of the last pass, between two pairs of barriers, takes that many scores of
// every thread.

#include "lil-cuda-device.h"

static constexpr int LIL_TOPK_THREADS = 512;
static constexpr int LIL_TOPK_WARPS   = LIL_TOPK_THREADS / LIL_WARP;
static constexpr int LIL_TOPK_ITEMS   = 8;

// shared memory in ints: of lil_topk_search; of lil_topk_each too; of lil_list_add_pages too
static constexpr int LIL_TOPK_SHARED       = 256 + 2 * LIL_TOPK_WARPS + 4;
static constexpr int LIL_TOPK_EACH_SHARED  = LIL_TOPK_SHARED + LIL_TOPK_THREADS * LIL_TOPK_ITEMS;
static constexpr int LIL_TOPK_PAGES_SHARED = LIL_TOPK_EACH_SHARED + 2 * LIL_TOPK_THREADS + 1;

static __device__ __forceinline__ int32_t lil_topk_key(float x) {
    const int32_t i = __float_as_int(x + 0.0f);
    return i ^ ((i >> 31) & 0x7fffffff);
}

// The sum of x over the threads before the caller's, and over all. shared [LIL_TOPK_WARPS]
static __device__ __forceinline__ int lil_block_scan(int x, int * shared, int * total) {
    const int lane = threadIdx.x % LIL_WARP;
    const int warp = threadIdx.x / LIL_WARP;

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
        all += shared[i];
    }

    *total = all;

    return before + sum - x;
}

struct lil_topk_bound {
    int32_t key;    // the k-th largest; n_skip 0: or less, but above the next one
    int     n_skip; // of the keys equal to it so many, the first ones, are not among the k
    int     n_take; // and so many are
};

// 1 <= k <= n; get_key(i) for i in [0, n), which may read what the block's threads wrote before: a barrier comes first.
// All threads get the same. shared [LIL_TOPK_SHARED]
template <typename F>
static __device__ __forceinline__ lil_topk_bound lil_topk_search(int n, int k, int * shared, F get_key) {
    int * count = shared;                            // [256]
    int * scan  = shared + 256;                      // [LIL_TOPK_WARPS]
    int * found = shared + 256 + 2 * LIL_TOPK_WARPS; // the byte, keys above it, keys with it

    uint32_t prefix = 0; // what is known of the bound, as an unsigned key
    int      n_gt   = 0; // keys above all that begin with it
    int      n_eq   = n; // keys that begin with it

    LIL_UNROLL
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += LIL_TOPK_THREADS) {
            count[i] = 0;
        }
        __syncthreads();

        // lanes with the same byte count together: scores have few different first bytes, and adding to one place takes
        // turns
        for (int i0 = 0; i0 < n; i0 += LIL_TOPK_THREADS * LIL_TOPK_ITEMS) {
            uint32_t key[LIL_TOPK_ITEMS];
            LIL_UNROLL
            for (int u = 0; u < LIL_TOPK_ITEMS; ++u) {
                const int i = i0 + u * LIL_TOPK_THREADS + (int) threadIdx.x;
                key[u]      = i < n ? (uint32_t) get_key(i) ^ 0x80000000u : 0;
            }
            LIL_UNROLL
            for (int u = 0; u < LIL_TOPK_ITEMS; ++u) {
                const int i = i0 + u * LIL_TOPK_THREADS + (int) threadIdx.x;

                const bool is_in = i < n && (shift == 24 || key[u] >> ((shift + 8) % 32) == prefix);

                if (__ballot_sync(LIL_FULL, is_in) != 0) { // the whole warp
                    const int at = is_in ? 255 - (int) (key[u] >> shift & 255) : -1;

                    const unsigned peers = __match_any_sync(LIL_FULL, at);

                    if (is_in && __ffs((int) peers) - 1 == (int) (threadIdx.x % LIL_WARP)) {
                        atomicAdd(&count[at], __popc(peers));
                    }
                }
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

        if (n_gt + n_eq == k) { // all that begin with it: the rest of the bound need not be known
            prefix <<= shift;
            break;
        }
    }

    return { (int32_t) (prefix ^ 0x80000000u), n_gt + n_eq - k, k - n_gt };
}

// The k in order of index, in turns: f(pick, n_pick, n_done), by all threads, where pick [n_pick] in shared memory are
// the indices of a turn and n_done so many were in the turns before. f may use what is behind LIL_TOPK_EACH_SHARED, and
// lil_block_scan. shared [LIL_TOPK_EACH_SHARED], with fewer ITEMS less
template <int ITEMS = LIL_TOPK_ITEMS, typename F, typename G>
static __device__ __forceinline__ void lil_topk_each(
        int n, const lil_topk_bound & bound, int * shared, F get_key, G f) {
    int * scan = shared + 256;             // [2*LIL_TOPK_WARPS]
    int * pick = shared + LIL_TOPK_SHARED; // [LIL_TOPK_THREADS*ITEMS]

    const int lane = threadIdx.x % LIL_WARP;
    const int warp = threadIdx.x / LIL_WARP;

    const unsigned below = (1u << lane) - 1;

    int n_gt = 0; // so far
    int n_eq = 0;

    for (int i0 = 0; i0 < n; i0 += LIL_TOPK_THREADS * ITEMS) {
        const int iw = i0 + warp * LIL_WARP * ITEMS + lane; // a warp's indices are neighbours

        unsigned gt[ITEMS];
        unsigned eq[ITEMS];

        int32_t key[ITEMS];
        LIL_UNROLL
        for (int u = 0; u < ITEMS; ++u) {
            key[u] = iw + u * LIL_WARP < n ? get_key(iw + u * LIL_WARP) : 0;
        }

        int w_gt = 0;
        int w_eq = 0;
        LIL_UNROLL
        for (int u = 0; u < ITEMS; ++u) {
            gt[u] = __ballot_sync(LIL_FULL, iw + u * LIL_WARP < n && key[u] > bound.key);
            eq[u] = __ballot_sync(LIL_FULL, iw + u * LIL_WARP < n && key[u] == bound.key);

            w_gt += __popc(gt[u]);
            w_eq += __popc(eq[u]);
        }

        __syncthreads(); // scan and pick are free
        if (lane == 0) {
            scan[warp]                  = w_gt;
            scan[LIL_TOPK_WARPS + warp] = w_eq;
        }
        __syncthreads();

        const int n_done = n_gt + max(n_eq - bound.n_skip, 0);

        int gt_before = n_gt;
        int eq_before = n_eq;
        LIL_UNROLL
        for (int i = 0; i < LIL_TOPK_WARPS; ++i) {
            gt_before += i < warp ? scan[i] : 0;
            eq_before += i < warp ? scan[LIL_TOPK_WARPS + i] : 0;

            n_gt += scan[i];
            n_eq += scan[LIL_TOPK_WARPS + i];
        }

        const int n_pick = n_gt + max(n_eq - bound.n_skip, 0) - n_done;
        if (n_pick == 0) {
            continue; // the whole block
        }

        LIL_UNROLL
        for (int u = 0; u < ITEMS; ++u) {
            const int e = eq_before + __popc(eq[u] & below);
            const int j = gt_before + __popc(gt[u] & below) + max(e - bound.n_skip, 0);

            if ((gt[u] >> lane & 1) != 0 || ((eq[u] >> lane & 1) != 0 && e >= bound.n_skip)) {
                pick[j - n_done] = iw + u * LIL_WARP;
            }
            gt_before += __popc(gt[u]);
            eq_before += __popc(eq[u]);
        }
        __syncthreads();

        f(pick, n_pick, n_done);
    }
}

// list, cells: the count, then the cells. The ranks [r0, r1) to the list's places from j on; all threads
static __device__ __forceinline__ void lil_list_copy(int32_t * list, int j, const int32_t * cells, int r0, int r1) {
    for (int r = r0 + (int) threadIdx.x; r < r1; r += LIL_TOPK_THREADS) {
        list[1 + j + r - r0] = cells[1 + r];
    }
}

// a list of all that cells has
static __device__ __forceinline__ void lil_list_copy_all(int32_t * list, const int32_t * cells) {
    lil_list_copy(list, 0, cells, 0, cells[0]);
    if (threadIdx.x == 0) {
        list[0] = cells[0];
    }
}

// The tokens of the n pages get_page(0), get_page(1), ... to the list's places from j on; first: the rank of each
// page's first token. All threads; returns the place behind. shared [LIL_TOPK_PAGES_SHARED]
template <typename F>
static __device__ __forceinline__ int lil_list_add_pages(
        int32_t * list, int j, const int32_t * cells, const int32_t * first, int n, int * shared, F get_page) {
    int * rank  = shared + LIL_TOPK_EACH_SHARED; // [LIL_TOPK_THREADS]
    int * place = rank + LIL_TOPK_THREADS;       // [LIL_TOPK_THREADS + 1]

    for (int c0 = 0; c0 < n; c0 += LIL_TOPK_THREADS) {
        const int c  = c0 + (int) threadIdx.x;
        const int p  = c < n ? get_page(c) : 0;
        const int r0 = first[p];

        int       total;
        const int at = j + lil_block_scan(c < n ? first[p + 1] - r0 : 0, shared + 256, &total);

        rank[threadIdx.x]  = r0;
        place[threadIdx.x] = at;
        j += total;
        if (threadIdx.x == 0) {
            place[LIL_TOPK_THREADS] = j;
        }
        __syncthreads();

        // 16 lanes copy a page
        const int m = min(n - c0, LIL_TOPK_THREADS);
        for (int i = threadIdx.x / 16; i < m; i += LIL_TOPK_THREADS / 16) {
            const int n_copy = place[i + 1] - place[i];
            for (int t = threadIdx.x % 16; t < n_copy; t += 16) {
                list[1 + place[i] + t] = cells[1 + rank[i] + t];
            }
        }
    } // the next turn's scan has a barrier before rank is written again

    return j;
}
