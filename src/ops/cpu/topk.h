#pragma once

// What the ops that choose tokens share: the largest of many scores, lists in the making, the logits of a step.

#include "select.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// grows only
template <typename T>
static inline T * lil_grow(std::vector<T> & v, int64_t n) {
    if ((int64_t) v.size() < n) {
        v.resize(n);
    }
    return v.data();
}

// Scores are compared as integers of the same order: total whatever the scores are. -0 is 0.
static inline int32_t lil_topk_key(float x) {
    x += 0.0f;

    int32_t i;
    memcpy(&i, &x, sizeof(i));

    return i ^ ((i >> 31) & INT32_MAX);
}

static inline void lil_topk_keys(const float * x, int64_t n, int32_t * key) {
    for (int64_t i = 0; i < n; ++i) {
        key[i] = lil_topk_key(x[i]);
    }
}

// f(i) for the keys [i0, i1) that are at least lo, ascending by i
template <typename F>
static inline void lil_topk_scan(const int32_t * key, int64_t i0, int64_t i1, int32_t lo, F && f) {
    for (; i0 < i1; ++i0) {
        if (key[i0] >= lo) {
            f(i0);
        }
    }
}

// the same where they are few: one comparison for 4 keys
template <typename F>
static inline void lil_topk_scan_few(const int32_t * key, int64_t i0, int64_t i1, int32_t lo, F && f) {
    constexpr int N = 16;

    for (; i0 + 4 * N <= i1; i0 += 4 * N) {
        const int32_t * x = key + i0;

        int32_t best[N];
        for (int j = 0; j < N; ++j) {
            best[j] = std::max(std::max(x[j], x[j + N]), std::max(x[j + 2 * N], x[j + 3 * N]));
        }

        int found[4 * N];
        int n = 0;
        for (int j = 0; j < N; ++j) {
            if (best[j] < lo) {
                continue;
            }
            for (int i = j; i < 4 * N; i += N) {
                if (x[i] >= lo) {
                    int at = n++;
                    for (; at > 0 && found[at - 1] > i; --at) {
                        found[at] = found[at - 1];
                    }
                    found[at] = i;
                }
            }
        }

        for (int j = 0; j < n; ++j) {
            f(i0 + found[j]);
        }
    }

    lil_topk_scan(key, i0, i1, lo, f);
}

struct lil_topk_bound {
    int32_t key;  // the k-th largest
    int64_t n_gt; // keys above it
    int64_t n_ge; // and with those equal to it
};

// The k-th largest, 1 <= k <= n, where n_ge keys, at least k, are at least lo. Halves the range of keys that it can be
// in: counting is fast, and when few are left in the range, they are copied out. At most 32 passes, whatever the scores
// are.
static inline lil_topk_bound lil_topk_search(const int32_t * key, int64_t n, int64_t k, int32_t lo, int64_t n_ge) {
    static thread_local std::vector<int32_t> scratch;

    int32_t hi = lo;
    for (int64_t i = 0; i < n; ++i) {
        hi = std::max(hi, key[i]);
    }

    int64_t n_gt  = 0; // keys > hi, fewer than k
    int64_t n_out = 0; // those of them that were not copied

    for (bool copied = false; lo < hi;) {
        if (!copied && n_ge - n_gt <= n / 8) {
            int32_t * in = lil_grow(scratch, n_ge - n_gt);

            int64_t m = 0;
            lil_topk_scan_few(key, 0, n, lo, [&](int64_t i) {
                if (key[i] <= hi) {
                    in[m++] = key[i];
                }
            });

            key    = in;
            n      = m;
            n_out  = n_gt;
            copied = true;
        }

        const int32_t mid = (int32_t) (lo + ((int64_t) hi - lo) / 2);

        int32_t n_above = 0;
        for (int64_t i = 0; i < n; ++i) {
            n_above += key[i] > mid;
        }

        if (n_out + n_above >= k) {
            lo   = mid + 1;
            n_ge = n_out + n_above;
        } else {
            hi   = mid;
            n_gt = n_out + n_above;
        }
    }

    return { lo, n_gt, n_ge };
}

// a key that at least k of n keys reach, as a sample suggests not many more; n_ge: how many do
static inline int32_t lil_topk_guess(const int32_t * key, int64_t n, int64_t k, int64_t & n_ge) {
    static thread_local std::vector<int32_t> scratch;

    if (n >= 4096) {
        const int64_t stride = n / 1024;
        const int64_t n_some = n / stride;

        int32_t * some = lil_grow(scratch, n_some);
        for (int64_t i = 0; i < n_some; ++i) {
            some[i] = key[i * stride];
        }

        const double  mean   = (double) k * n_some / n; // how many of those wanted are in the sample
        const int64_t k_some = (int64_t) (mean + 3.0 * std::sqrt(mean)) + 2;

        if (k_some <= n_some) {
            const int32_t lo =
                    lil_topk_search(some, n_some, k_some, *std::min_element(some, some + n_some), n_some).key;

            int32_t n_reach = 0;
            for (int64_t i = 0; i < n; ++i) {
                n_reach += key[i] >= lo;
            }

            if (n_reach >= k) {
                n_ge = n_reach;
                return lo;
            }
        }
    }

    int32_t lo = INT32_MAX;
    for (int64_t i = 0; i < n; ++i) {
        lo = std::min(lo, key[i]);
    }

    n_ge = n;
    return lo;
}

// f(i) for the k largest of key [n], ascending by i; of equal keys the last ones
template <typename F>
static inline void lil_topk_each(const int32_t * key, int64_t n, int64_t k, F && f) {
    k = std::min(k, n);
    if (k <= 0) {
        return;
    }

    int64_t       n_ge;
    const int32_t lo = lil_topk_guess(key, n, k, n_ge);

    const lil_topk_bound bound = lil_topk_search(key, n, k, lo, n_ge);

    // keys equal to the bound count from here on; those above it, which is not the greatest key then, before
    int64_t i_equal = 0;
    for (int64_t m = bound.n_ge; m > k; ++i_equal) {
        m -= key[i_equal] == bound.key;
    }

    const int32_t above = bound.key == INT32_MAX ? bound.key : bound.key + 1;

    if (bound.n_gt > 0) {
        if (k <= n / 8) {
            lil_topk_scan_few(key, 0, i_equal, above, f);
        } else {
            lil_topk_scan(key, 0, i_equal, above, f);
        }
    }
    if (k <= n / 8) {
        lil_topk_scan_few(key, i_equal, n, bound.key, f);
    } else {
        lil_topk_scan(key, i_equal, n, bound.key, f);
    }
}

// a list in the making: ranges of ranks, ascending
struct lil_list {
    int32_t *       list;
    const int32_t * cells;

    lil_list(int32_t * list, const int32_t * cells) : list(list), cells(cells) { list[0] = 0; }

    void add(int64_t r0, int64_t r1) {
        memcpy(list + 1 + list[0], cells + 1 + r0, (r1 - r0) * sizeof(int32_t));
        list[0] += (int32_t) (r1 - r0);
    }
};

// the logits in the work of lil_attn
struct lil_sel_logits {
    const float * data; // [n_max, n_head, n_steps]
    int64_t       n_max;
    int64_t       n_head;

    const float * row(int64_t i_head, int64_t i_step) const { return data + (i_step * n_head + i_head) * n_max; }
};

static inline lil_sel_logits lil_sel_get_logits(const ggml_tensor * work, int64_t n_head_kv) {
    while (work->view_src) {
        work = work->view_src;
    }

    const ggml_tensor * q    = work->src[0];
    const ggml_tensor * v    = work->src[2];
    const ggml_tensor * list = work->src[3];

    lil_sel_logits res = {};

    res.n_max  = list->ne[0] - 1;
    res.n_head = q->ne[1];
    res.data =
            (const float *) work->data + lil_cpu_attn_kq_offset(v->ne[0] / n_head_kv, res.n_head, res.n_max, q->ne[2]);

    return res;
}
