#pragma once

// The attention that keys receive: softmax over the keys for each query, summed over the queries.
//
// The vectors run over queries (rows), so that a row's maximum and sum need no work across lanes. The rows of a group
// (all query heads of one KV head, all queries) are one list, row = query*G + head; a block is up to NV vectors of it.
// A key is widened to F32 once per block, then used for every row in it. The logits of a block are kept, [n_kv][NV]
// vectors, because a softmax needs the whole row before its first probability.

#include "lil-ops-cpu.h"
#include "lil-simd.h"
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

struct lil_score_job {
    ggml_type type;
    float     scale;
    float     softcap;

    const char *    k_head; // keys of the head, slot i at k_head + i*k_stride
    size_t          k_stride;
    const int32_t * slots; // the slot of each key; null: key i is in slot i
    int64_t         n_embd;
    int64_t         n_keys;

    // row r's query [n_embd]
    const char *  q;
    size_t        q_stride_head;
    size_t        q_stride_token;
    int64_t       n_group;  // G
    const float * sinks;    // learned ones of the G heads; null: none
    int64_t       ring_pos; // >= 0: the queries are a ring, query i in row (ring_pos + i) % LIL_PROMPT_WINDOW

    // which keys a query sees. pos: those with pos[key] <= pos0 + query; otherwise keys [0, base + query]
    const float * pos;
    float         pos0;
    int64_t       base;

    // which of them it gives to. > 0: keys (base + query - n_window, base + query]; otherwise all
    int64_t n_window;

    const char * key(int64_t j) const { return k_head + (slots ? slots[j] : j) * k_stride; }

    const char * query(int64_t r) const {
        const int64_t i = r / n_group;

        return q + (r % n_group) * q_stride_head +
                (ring_pos >= 0 ? (ring_pos + i) % LIL_PROMPT_WINDOW : i) * q_stride_token;
    }
};

// scratch of a thread, grown on first use
struct lil_score_scratch {
    std::vector<float> qt;     // [n_embd][rows]
    std::vector<float> kf;     // [keys of a tile][n_embd]
    std::vector<float> logits; // [n_keys][rows]

    static lil_score_scratch & get() {
        static thread_local lil_score_scratch s;
        return s;
    }
};

// rows [r0, r0 + n_rows), at most NV*LIL_VF_N: adds to sum, whose first entry is that of key j_sum
template <int NV, int NK>
static inline void lil_score_block(
        const lil_score_job & job, int64_t r0, int64_t n_rows, float * sum, int64_t j_sum = 0) {
    constexpr int N_ROWS = NV * LIL_VF_N;

    auto & scratch = lil_score_scratch::get();

    const int64_t n_embd = job.n_embd;

    // the last key that any row of the block sees
    const int64_t n_keys = job.pos ? job.n_keys : std::min(job.n_keys, job.base + (r0 + n_rows - 1) / job.n_group + 1);

    if ((int64_t) scratch.qt.size() < n_embd * N_ROWS) {
        scratch.qt.resize(n_embd * N_ROWS);
    }
    if ((int64_t) scratch.kf.size() < NK * n_embd) {
        scratch.kf.resize(NK * n_embd);
    }
    if ((int64_t) scratch.logits.size() < n_keys * N_ROWS) {
        scratch.logits.resize(n_keys * N_ROWS);
    }

    float * qt     = scratch.qt.data();
    float * kf     = scratch.kf.data();
    float * logits = scratch.logits.data();

    for (int r = 0; r < N_ROWS; ++r) {
        const float * q = r < n_rows ? (const float *) job.query(r0 + r) : nullptr;

        for (int64_t d = 0; d < n_embd; ++d) {
            qt[d * N_ROWS + r] = q ? q[d] * job.scale : 0.0f;
        }
    }

    lil_vf row_max[NV];
    for (int v = 0; v < NV; ++v) {
        row_max[v] = lil_vf_set1(-INFINITY);
    }

    // keys that every row of the block sees need no mask
    const int64_t n_free = job.pos ? 0 : std::min(n_keys, job.base + r0 / job.n_group + 1);

    for (int64_t j0 = 0; j0 < n_keys; j0 += NK) {
        for (int kk = 0; kk < NK; ++kk) { // a tile past the end repeats the last key
            lil_widen_row(job.type, job.key(std::min(j0 + kk, n_keys - 1)), kf + kk * n_embd, n_embd);
        }

        lil_vf acc[NK][NV];
        for (int kk = 0; kk < NK; ++kk) {
            for (int v = 0; v < NV; ++v) {
                acc[kk][v] = lil_vf_set1(0.0f);
            }
        }

        for (int64_t d = 0; d < n_embd; ++d) {
            lil_vf q[NV];
            for (int v = 0; v < NV; ++v) {
                q[v] = lil_vf_load(qt + d * N_ROWS + v * LIL_VF_N);
            }
            for (int kk = 0; kk < NK; ++kk) {
                const lil_vf x = lil_vf_set1(kf[kk * n_embd + d]);
                for (int v = 0; v < NV; ++v) {
                    acc[kk][v] = lil_vf_fma(acc[kk][v], x, q[v]);
                }
            }
        }

        for (int kk = 0; kk < NK && j0 + kk < n_keys; ++kk) {
            const int64_t j = j0 + kk;

            float * l = logits + j * N_ROWS;

            for (int v = 0; v < NV; ++v) {
                lil_vf_store(l + v * LIL_VF_N, acc[kk][v]);
            }

            if (job.softcap != 0.0f) {
                for (int r = 0; r < N_ROWS; ++r) {
                    l[r] = job.softcap * tanhf(l[r] / job.softcap);
                }
            }

            if (j >= n_free) {
                for (int r = 0; r < N_ROWS; ++r) {
                    const int64_t i = (r0 + r) / job.n_group;

                    if (job.pos ? job.pos[j] > job.pos0 + (float) i : j > job.base + i) {
                        l[r] = -INFINITY;
                    }
                }
            }

            for (int v = 0; v < NV; ++v) {
                row_max[v] = lil_vf_max(row_max[v], lil_vf_load(l + v * LIL_VF_N));
            }
        }
    }

    lil_vf row_sum[NV];
    for (int v = 0; v < NV; ++v) {
        row_sum[v] = lil_vf_set1(0.0f);
    }

    if (job.sinks) {
        float sink[N_ROWS];
        for (int r = 0; r < N_ROWS; ++r) {
            sink[r] = job.sinks[(r0 + r) % job.n_group];
        }
        for (int v = 0; v < NV; ++v) {
            const lil_vf s = lil_vf_load(sink + v * LIL_VF_N);

            row_max[v] = lil_vf_max(row_max[v], s);
            row_sum[v] = lil_vf_exp(lil_vf_sub(s, row_max[v]));
        }
    }

    for (int64_t j = 0; j < n_keys; ++j) {
        for (int v = 0; v < NV; ++v) {
            float * l = logits + j * N_ROWS + v * LIL_VF_N;

            const lil_vf p = lil_vf_exp(lil_vf_sub(lil_vf_load(l), row_max[v]));

            lil_vf_store(l, p);
            row_sum[v] = lil_vf_add(row_sum[v], p);
        }
    }

    // 1/sum, and 0 for the rows that fill up the block
    float inv[N_ROWS];
    for (int v = 0; v < NV; ++v) {
        lil_vf_store(inv + v * LIL_VF_N, row_sum[v]);
    }
    for (int r = 0; r < N_ROWS; ++r) {
        inv[r] = r < n_rows ? 1.0f / inv[r] : 0.0f;
    }

    lil_vf inv_v[NV];
    for (int v = 0; v < NV; ++v) {
        inv_v[v] = lil_vf_load(inv + v * LIL_VF_N);
    }

    // the first key that any row gives to, and the first that every row gives to
    const int64_t j_any = job.n_window > 0 ? std::max<int64_t>(0, job.base + r0 / job.n_group - job.n_window + 1) : 0;
    const int64_t j_all = job.n_window > 0 ? job.base + (r0 + n_rows - 1) / job.n_group - job.n_window + 1 : 0;

    for (int64_t j = j_any; j < n_keys; ++j) {
        float * l = logits + j * N_ROWS;

        if (j < j_all) {
            for (int r = 0; r < N_ROWS; ++r) {
                if (j <= job.base + (r0 + r) / job.n_group - job.n_window) {
                    l[r] = 0.0f;
                }
            }
        }

        lil_vf s = lil_vf_set1(0.0f);
        for (int v = 0; v < NV; ++v) {
            s = lil_vf_fma(s, lil_vf_load(l + v * LIL_VF_N), inv_v[v]);
        }
        sum[j - j_sum] += lil_vf_sum(s);
    }
}

// rows of a block of prompts: wide enough to hide the widening of the keys, few enough for the logits to stay in cache
static constexpr int LIL_SCORE_NV   = LIL_VF_N >= 16 ? 2 : LIL_VF_N == 1 ? 8 : 32 / LIL_VF_N;
static constexpr int LIL_SCORE_NK   = LIL_VF_N >= 16 ? 8 : 2;
static constexpr int LIL_SCORE_ROWS = LIL_SCORE_NV * LIL_VF_N;
