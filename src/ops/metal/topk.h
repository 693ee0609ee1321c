#pragma once

// The k largest of many scores, by a threadgroup, and lists in the making.
//
// Scores are compared as integers of the same order, by radix: which ones are chosen hangs neither on the order of
// threads nor on rounding. Of equal scores the last ones come first.

#include "lil-metal.h"

// threadgroup memory, in uints, LIL_METAL_TOPK_SHMEM in all: the histogram of a digit, what was found in it, two sums
// of each simd-group
#define LIL_TOPK_FOUND 256
#define LIL_TOPK_SUMS  260

// a thread's place
struct lil_place {
    int tiitg;
    int tiisg;
    int sgitg;
    int ntg;
};

// -0 is 0
static inline uint lil_topk_key(float x) {
    const uint bits = as_type<uint>(x);

    return bits == 0x80000000u ? 0x80000000u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// what a threadgroup has found
struct lil_topk_bound {
    uint key;     // the k-th largest
    uint n_equal; // keys equal to it
    uint n_take;  // those of them, the last ones, that are among the k
};

// The k-th largest of key(0) ... key(n - 1), 1 <= k <= n: digit by digit from the top. Ends with a barrier
template <typename KEY>
static inline lil_topk_bound lil_topk_find(KEY key, int n, int k, threadgroup uint * shmem, lil_place t) {
    threadgroup atomic_uint * hist  = (threadgroup atomic_uint *) shmem; // [256]
    threadgroup uint *        found = shmem + LIL_TOPK_FOUND;            // [3]

    lil_topk_bound res;
    res.key     = 0;
    res.n_equal = n;
    res.n_take  = k;

    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = t.tiitg; i < 256; i += t.ntg) {
            atomic_store_explicit(&hist[i], 0u, memory_order_relaxed);
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        const uint mask = shift == 24 ? 0 : 0xFFFFFFFFu << (shift + 8); // digits that are known

        for (int i = t.tiitg; i < n; i += t.ntg) {
            const uint x = key(i);
            if ((x & mask) == res.key) {
                atomic_fetch_add_explicit(&hist[x >> shift & 0xFF], 1u, memory_order_relaxed);
            }
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        // the digit in which the count from the top reaches what is left; 8 digits a lane
        if (t.sgitg == 0) {
            uint sum = 0;
            for (int j = 0; j < 8; ++j) {
                sum += atomic_load_explicit(&hist[255 - 8 * t.tiisg - j], memory_order_relaxed);
            }

            uint above = simd_prefix_exclusive_sum(sum);

            if (above < res.n_take && res.n_take <= above + sum) {
                for (int j = 0; j < 8; ++j) {
                    const uint digit = 255 - 8 * t.tiisg - j;
                    const uint count = atomic_load_explicit(&hist[digit], memory_order_relaxed);

                    if (res.n_take <= above + count) {
                        found[0] = digit;
                        found[1] = count;
                        found[2] = res.n_take - above;
                        break;
                    }
                    above += count;
                }
            }
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        res.key |= found[0] << shift;
        res.n_equal = found[1];
        res.n_take  = found[2];
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    return res;
}

// scores as keys
struct lil_topk_scores {
    device const float * x;

    uint operator()(int i) const thread { return lil_topk_key(x[i]); }
};

// x of the simd-groups before this one; total: of all. Ends with a barrier
static inline int lil_sum_before(int x, threadgroup int * sums, lil_place t, thread int & total) {
    if (t.tiisg == 0) {
        sums[t.sgitg] = x;
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    const int sum = t.tiisg < t.ntg / 32 ? sums[t.tiisg] : 0;

    total = simd_sum(sum);

    const int before = simd_sum(t.tiisg < t.sgitg ? sum : 0);

    threadgroup_barrier(mem_flags::mem_threadgroup);

    return before;
}

// Puts the k largest of key(0) ... key(n - 1) behind each other, ascending by i: items.put(i, at), where at is the sum
// of items.size() of those before. Returns the sum of all. Every simd-group takes a range of its own, three times
template <typename KEY, typename ITEMS>
static inline int lil_topk_each(KEY key, ITEMS items, int n, int k, threadgroup uint * shmem, lil_place t) {
    k = min(k, n);
    if (k <= 0) {
        return 0;
    }

    lil_topk_bound bound;
    bound.key     = 0;
    bound.n_equal = 0;
    bound.n_take  = 0;

    if (k < n) {
        bound = lil_topk_find(key, n, k, shmem, t);
    }

    threadgroup int * sums = (threadgroup int *) shmem + LIL_TOPK_SUMS; // [2, 32]

    const int n_sg = t.ntg / 32;
    const int size = ((n + n_sg - 1) / n_sg + 31) / 32 * 32;
    const int i0   = t.sgitg * size;
    const int i1   = min(i0 + size, n);

    int total;

    // keys equal to the bound, in the ranges before
    int n_equal = 0;
    if (bound.n_take < bound.n_equal) {
        for (int i = i0 + t.tiisg; i < i1; i += 32) {
            n_equal += key(i) == bound.key;
        }
        n_equal = lil_sum_before(simd_sum(n_equal), sums, t, total);
    }

    const int n_skip = (int) (bound.n_equal - bound.n_take);

    // what is chosen there
    int at = 0;
    for (int pass = 0; pass < 2; ++pass) {
        int n_eq = n_equal;
        int sum  = 0;

        for (int i = i0; i < i1; i += 32) {
            const int  j = i + t.tiisg;
            const uint x = j < i1 ? key(j) : 0;

            const int equal = j < i1 && x == bound.key;
            const int rank  = n_eq + simd_prefix_exclusive_sum(equal);
            const int take  = j < i1 && (x > bound.key || (equal && rank >= n_skip));
            const int width = take ? items.size(j) : 0;
            const int left  = simd_prefix_exclusive_sum(width);

            if (pass == 1 && take) {
                items.put(j, at + sum + left);
            }

            n_eq += simd_sum(equal);
            sum += simd_sum(width);
        }

        if (pass == 0) {
            at = lil_sum_before(sum, sums + 32, t, total);
        }
    }

    return total;
}

// cells of the ranks [r0, r1) behind the first `at` entries of a list
static inline void lil_list_add(
        device int32_t * list, int at, device const int32_t * cells, int r0, int r1, lil_place t) {
    for (int r = r0 + t.tiitg; r < r1; r += t.ntg) {
        list[1 + at + r - r0] = cells[1 + r];
    }
}

static inline void lil_list_set_size(device int32_t * list, int n, lil_place t) {
    if (t.tiitg == 0) {
        list[0] = n;
    }
}

// Puts those of 0 ... n - 1 that pick(i) picks behind each other, ascending by i, in the manner of lil_topk_each
template <typename PICK, typename ITEMS>
static inline int lil_pick_each(PICK pick, ITEMS items, int n, threadgroup uint * shmem, lil_place t) {
    threadgroup int * sums = (threadgroup int *) shmem + LIL_TOPK_SUMS;

    const int n_sg = t.ntg / 32;
    const int size = ((n + n_sg - 1) / n_sg + 31) / 32 * 32;
    const int i0   = min(t.sgitg * size, n);
    const int i1   = min(i0 + size, n);

    int total = 0;
    int at    = 0;
    for (int i = i0 + t.tiisg; i < i1; i += 32) {
        at += pick(i) ? items.size(i) : 0;
    }
    at = lil_sum_before(simd_sum(at), sums, t, total);

    for (int i = i0; i < i1; i += 32) {
        const int  j     = i + t.tiisg;
        const bool take  = j < i1 && pick(j);
        const int  width = take ? items.size(j) : 0;
        const int  left  = simd_prefix_exclusive_sum(width);

        if (take) {
            items.put(j, at + left);
        }
        at += simd_sum(width);
    }

    return total;
}

// pages as items of lil_topk_each and lil_pick_each: their tokens go to a list
struct lil_page_items {
    device int32_t *       list;
    device const int32_t * cells;
    device const int32_t * first; // rank of a page's first token
    int                    at;    // entries that the list has

    int size(int i) const thread { return first[i + 1] - first[i]; }

    void put(int i, int offset) const thread {
        for (int r = first[i]; r < first[i + 1]; ++r) {
            list[1 + at + offset + r - first[i]] = cells[1 + r];
        }
    }
};
