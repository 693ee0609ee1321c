#pragma once

// The attention that keys receive: softmax over the keys for each query, summed over the queries.
//
// The rows of a KV head (all its query heads, all queries) are one list, row = query*n_group + head. A threadgroup
// takes N of them: it goes over the keys once for the maxima and sums, and again for the probabilities. So no logit is
// kept.

#include "topk.h"

// lanes that share a key
#define LIL_SCORE_LANES 8

struct lil_score_job {
    device const char *    k; // keys of the head, slot i at k + i*nb_k1
    uint64_t               nb_k1;
    device const int32_t * slots; // the slot of each key, null: key i is in slot i
    int                    n_embd;
    int                    n_keys;

    device const char * q; // row r's query: head r%n_group at nb_q0, query r/n_group at nb_q1
    uint64_t            nb_q0;
    uint64_t            nb_q1;
    int                 n_group;
    int                 ring_pos; // >= 0: query i is in row (ring_pos + i)%n_ring
    int                 n_ring;

    // which keys a query sees: with pos those with pos[key] <= pos0 + query, otherwise [0, base + query]
    bool                 by_pos;
    device const float * pos;
    float                pos0;
    int                  base;

    // which of them it gives to. > 0: keys (base + query - n_window, base + query]; otherwise all
    int n_window;

    device const float * sinks; // of the n_group heads; null: none

    float scale;
    float softcap;

    bool sees(int j, int query) const thread { return by_pos ? pos[j] <= pos0 + (float) query : j <= base + query; }
};

static inline lil_score_job lil_score_job_init() {
    lil_score_job job;

    job.k        = nullptr;
    job.nb_k1    = 0;
    job.slots    = nullptr;
    job.n_embd   = 0;
    job.n_keys   = 0;
    job.q        = nullptr;
    job.nb_q0    = 0;
    job.nb_q1    = 0;
    job.n_group  = 1;
    job.ring_pos = -1;
    job.n_ring   = 1;
    job.by_pos   = false;
    job.pos      = nullptr;
    job.pos0     = 0.0f;
    job.base     = 0;
    job.n_window = 0;
    job.sinks    = nullptr;
    job.scale    = 1.0f;
    job.softcap  = 0.0f;

    return job;
}

// the logits of key j for the N rows in q, in threadgroup or device memory: the same in all lanes that share the key
template <int N, typename Q>
static inline void lil_score_logits(thread const lil_score_job & job, Q q, int j, int lane, thread float * x) {
    const int nk = job.n_embd / 4;

    for (int r = 0; r < N; ++r) {
        x[r] = 0.0f;
    }

    if (j < job.n_keys) {
        device const char * row = job.k + (job.slots ? job.slots[j] : j) * job.nb_k1;

        for (int i = lane; i < nk; i += LIL_SCORE_LANES) {
            const float4 ki = lil_load_quad(lil_type_k, row, i);
            for (int r = 0; r < N; ++r) {
                x[r] += dot(ki, q[r * nk + i]);
            }
        }
    }

    for (int r = 0; r < N; ++r) {
        x[r] = lil_sum_lanes(x[r], LIL_SCORE_LANES);
        if (job.softcap != 0.0f) {
            x[r] = job.softcap * precise::tanh(x[r] / job.softcap);
        }
    }
}

// Adds what the rows [r0, r0 + N), of n_rows in all, give to sum, whose first entry is that of key j_sum. Key j's entry
// is read and written by the first of the lanes that share it: thread j%(ntg/LIL_SCORE_LANES)*LIL_SCORE_LANES, always.
// Begins and ends with a barrier
template <int N>
static inline void lil_score_rows(thread const lil_score_job & job, int r0, int n_rows, device float * sum, int j_sum,
        threadgroup char * shmem, lil_place t) {
    const int nk   = job.n_embd / 4;
    const int n_sg = t.ntg / 32;
    const int lane = t.tiitg % LIL_SCORE_LANES;
    const int j0   = t.tiitg / LIL_SCORE_LANES;
    const int step = t.ntg / LIL_SCORE_LANES;

    threadgroup float4 * sq = (threadgroup float4 *) shmem; // [nk, N]
    // [2, LIL_METAL_SCORE_SIMDS, N] maximum and sum of a simd-group
    threadgroup float * sg = (threadgroup float *) (sq + N * nk);
    threadgroup float * sm = sg + 2 * N * LIL_METAL_SCORE_SIMDS; // [2, N] maximum and 1/sum

    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int i = t.tiitg; i < N * nk; i += t.ntg) {
        const int r = r0 + i / nk;
        const int p = r / job.n_group;

        sq[i] = float4(0.0f);
        if (r < n_rows) {
            device const char * q = job.q + r % job.n_group * job.nb_q0 +
                    (job.ring_pos >= 0 ? (job.ring_pos + p) % job.n_ring : p) * job.nb_q1;

            sq[i] = ((device const float4 *) q)[i % nk] * job.scale;
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    // from this key on no row sees any
    const int n_keys =
            job.by_pos ? job.n_keys : min(job.n_keys, job.base + (min(r0 + N, n_rows) - 1) / job.n_group + 1);

    float x[N];
    float m[N];
    float s[N];
    for (int r = 0; r < N; ++r) {
        m[r] = LIL_NEG;
        s[r] = 0.0f;
    }

    for (int jb = 0; jb < n_keys; jb += step) {
        const int j = jb + j0;

        lil_score_logits<N>(job, sq, j, lane, x);

        for (int r = 0; r < N; ++r) {
            const int  p    = (r0 + r) / job.n_group;
            const bool sees = j < n_keys && r0 + r < n_rows && job.sees(j, p);

            if (sees) {
                const float m_new = max(m[r], x[r]);

                s[r] = s[r] * exp(m[r] - m_new) + exp(x[r] - m_new);
                m[r] = m_new;
            }
        }
    }

    for (int r = 0; r < N; ++r) {
        const float m_all = simd_max(m[r]);
        const float s_all = simd_sum(lane == 0 ? s[r] * exp(m[r] - m_all) : 0.0f);

        if (t.tiisg == 0) {
            sg[2 * (r * LIL_METAL_SCORE_SIMDS + t.sgitg) + 0] = m_all;
            sg[2 * (r * LIL_METAL_SCORE_SIMDS + t.sgitg) + 1] = s_all;
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int r = t.sgitg; r < N; r += n_sg) {
        const float m_sg  = t.tiisg < n_sg ? sg[2 * (r * LIL_METAL_SCORE_SIMDS + t.tiisg) + 0] : LIL_NEG;
        const float s_sg  = t.tiisg < n_sg ? sg[2 * (r * LIL_METAL_SCORE_SIMDS + t.tiisg) + 1] : 0.0f;
        const float sink  = job.sinks ? job.sinks[(r0 + r) % job.n_group] : LIL_NEG;
        const float m_all = max(simd_max(m_sg), sink);
        const float s_all = simd_sum(s_sg * exp(m_sg - m_all)) + (job.sinks ? exp(sink - m_all) : 0.0f);

        if (t.tiisg == 0) {
            sm[2 * r + 0] = m_all;
            sm[2 * r + 1] = s_all > 0.0f ? 1.0f / s_all : 0.0f;
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    // the first key that any row gives to
    const int j_any = job.n_window > 0 ? max(0, job.base + r0 / job.n_group - job.n_window + 1) : 0;

    for (int jb = j_any / step * step; jb < n_keys; jb += step) {
        const int j = jb + j0;

        lil_score_logits<N>(job, sq, j, lane, x);

        float got = 0.0f;
        for (int r = 0; r < N; ++r) {
            const int  p     = (r0 + r) / job.n_group;
            const bool gives = j < n_keys && r0 + r < n_rows && job.sees(j, p) &&
                    (job.n_window == 0 || j > job.base + p - job.n_window);

            got += gives ? exp(x[r] - sm[2 * r]) * sm[2 * r + 1] : 0.0f;
        }

        if (lane == 0 && j < n_keys && j >= j_any) {
            sum[j - j_sum] += got;
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);
}
