// R-KV: lambda*importance - (1 - lambda)*redundancy, see lil-ops.h: rkv_score, and sparse/evict/rkv.cpp for the two.

#include "score-block.h"

// quads of a row of K that a lane of a simd-group has at most
#define LIL_RKV_QUADS ((LIL_METAL_MAX_EMBD/4 + 31)/32)

// the largest logit of the query heads of a group, N of them at once, of at least N: the same in all lanes that share
// the key. All groups' queries need not have room, so they are read where they are
template <int N>
static inline float lil_rkv_logit(
        thread const lil_score_job & job, device const float4 * q, int n_group, float softcap, int j, int lane) {
    float best = LIL_NEG;

    for (int g = 0; g < n_group; g += N) {
        float x[N];
        lil_score_logits<N>(job, q + min(g, n_group - N)*(job.n_embd/4), j, lane, x); // some heads may come twice
        for (int r = 0; r < N; ++r) {
            best = max(best, x[r]);
        }
    }

    best *= job.scale;

    return softcap != 0.0f ? softcap*precise::tanh(best/softcap) : best;
}

// Joins the softmaxes of all threads, each with a largest logit m and a sum of exp(logit - m), and a sink, LIL_NEG:
// none. m becomes the largest of all, the sum is returned. Ends with a barrier
static inline float lil_rkv_join(float x, thread float & m, float sink, threadgroup float * sg, lil_place t) {
    const float m_sg = simd_max(m);
    const float x_sg = simd_sum(x*exp(m - m_sg));

    if (t.tiisg == 0) {
        sg[2*t.sgitg + 0] = m_sg;
        sg[2*t.sgitg + 1] = x_sg;
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    const float m_one = t.tiisg < t.ntg/32 ? sg[2*t.tiisg + 0] : LIL_NEG;
    const float x_one = t.tiisg < t.ntg/32 ? sg[2*t.tiisg + 1] : 0.0f;

    m = max(simd_max(m_one), sink);

    const float sum = simd_sum(x_one*exp(m_one - m)) + (sink > LIL_NEG ? exp(sink - m) : 0.0f);

    threadgroup_barrier(mem_flags::mem_threadgroup);

    return sum;
}

// Grid: [n_head_kv, n_steps]: a threadgroup has all of a head, whose row of scores holds what is known of the slots
// until the scores are. Threadgroup memory: LIL_METAL_RKV_SHMEM(n_embd, slots) floats.
template <int N>
kernel void kernel_lil_rkv_score(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * ring  [[buffer(3)]],
        device const char * k     [[buffer(4)]],
        device const char * pos   [[buffer(5)]],
        device const char * steps [[buffer(6)]],
        device const char * sinks [[buffer(7)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    device const int32_t * step = (device const int32_t *) (steps + tgpig.y*args.nb_s1);

    if (step[LIL_METAL_STEP_EVICT] == 0) {
        return;
    }

    const int i_kv  = tgpig.x;
    const int strm  = step[LIL_METAL_STEP_STREAM];
    const int n     = step[LIL_METAL_STEP_BEFORE];
    const int n_win = step[LIL_METAL_STEP_WIN];
    const int n_sg  = t.ntg/32;
    const int nk    = args.n_embd/4;
    const int lane  = tiitg%LIL_SCORE_LANES;
    const int j0    = tiitg/LIL_SCORE_LANES;
    const int width = t.ntg/LIL_SCORE_LANES; // keys at once

    device       float * x = (device       float *) (dst + (uint64_t) strm*args.nb_x2 + i_kv*args.nb_x1);
    device const float * p = (device const float *) (pos + (uint64_t) strm*args.nb_p2 + i_kv*args.nb_p1);

    lil_score_job job = lil_score_job_init();

    job.k      = k + (uint64_t) strm*args.nb_k2 + i_kv*args.size_k;
    job.nb_k1  = args.nb_k1;
    job.n_embd = args.n_embd;
    job.n_keys = n;
    job.scale  = args.scale;

    threadgroup float4 * sq = (threadgroup float4 *) shmem;             // [nk, LIL_METAL_RKV_ROWS]
    // [3, LIL_METAL_RKV_ROWS, LIL_METAL_SCORE_SIMDS]
    threadgroup float  * sg = (threadgroup float *) (sq + LIL_METAL_RKV_ROWS*nk);
    threadgroup float  * f  = sg + 3*LIL_METAL_RKV_ROWS*LIL_METAL_SCORE_SIMDS; // [n] by slot

    //
    // redundancy
    //

    // x: 1/norm; sq: the sum of the unit vectors. A simd-group to a key
    {
        float4 sum[LIL_RKV_QUADS];
        for (int i = 0; i < LIL_RKV_QUADS; ++i) {
            sum[i] = float4(0.0f);
        }

        for (int j = sgitg; j < n; j += n_sg) {
            float4 ki[LIL_RKV_QUADS];
            float  kk = 0.0f;
            for (int i = 0; i < LIL_RKV_QUADS; ++i) {
                const int c = tiisg + 32*i;

                ki[i] = c < nk ? lil_load_quad(lil_type_k, job.k + j*job.nb_k1, c) : float4(0.0f);
                kk += dot(ki[i], ki[i]);
            }

            const float inv = 1.0f/max(precise::sqrt(simd_sum(kk)), 1e-12f);

            for (int i = 0; i < LIL_RKV_QUADS; ++i) {
                sum[i] += ki[i]*inv;
            }
            if (tiisg == 0) {
                x[j] = inv;
            }
        }

        for (int s = 0; s < n_sg; ++s) {
            if (sgitg == s) {
                for (int i = 0; i < LIL_RKV_QUADS; ++i) {
                    const int c = tiisg + 32*i;
                    if (c < nk) {
                        sq[c] = s == 0 ? sum[i] : sq[c] + sum[i];
                    }
                }
            }
            threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
        }
    }

    // f: the sum of the cosines with all others
    for (int j = sgitg; j < n; j += n_sg) {
        float ks = 0.0f;
        float kk = 0.0f;
        for (int c = tiisg; c < nk; c += 32) {
            const float4 ki = lil_load_quad(lil_type_k, job.k + j*job.nb_k1, c);

            ks += dot(ki, sq[c]);
            kk += dot(ki, ki);
        }
        ks = simd_sum(ks);
        kk = simd_sum(kk);

        if (tiisg == 0) {
            f[j] = ks*x[j] - kk*x[j]*x[j];
        }
    }

    // each key lets off the newest one that is like it: LIL_METAL_RKV_ROWS keys against all
    for (int i0 = 0; i0 < n; i0 += LIL_METAL_RKV_ROWS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);

        for (int i = tiitg; i < LIL_METAL_RKV_ROWS*nk; i += t.ntg) {
            const int j = i0 + i/nk;

            sq[i] = j < n ? lil_load_quad(lil_type_k, job.k + j*job.nb_k1, i%nk)*x[j] : float4(0.0f);
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        float best_pos[LIL_METAL_RKV_ROWS]; // -1: none
        float best_s  [LIL_METAL_RKV_ROWS];
        int   best_j  [LIL_METAL_RKV_ROWS];
        for (int r = 0; r < LIL_METAL_RKV_ROWS; ++r) {
            best_pos[r] = -1.0f;
            best_s  [r] = 0.0f;
            best_j  [r] = 0;
        }

        for (int jb = 0; jb < n; jb += width) {
            const int j = jb + j0;

            float s[LIL_METAL_RKV_ROWS];
            lil_score_logits<LIL_METAL_RKV_ROWS>(job, sq, j, lane, s);

            if (j < n) {
                const float inv = x[j];
                const float pj  = p[j];

                for (int r = 0; r < LIL_METAL_RKV_ROWS; ++r) {
                    const float sr = i0 + r == j ? 0.0f : s[r]*inv;

                    if (sr > args.threshold && pj > best_pos[r]) {
                        best_pos[r] = pj;
                        best_s  [r] = sr;
                        best_j  [r] = j;
                    }
                }
            }
        }

        // positions differ, so that one key of the simd-group writes
        for (int r = 0; r < LIL_METAL_RKV_ROWS; ++r) {
            const float m = simd_max(best_pos[r]);

            threadgroup float * sr = sg + 3*(r*LIL_METAL_SCORE_SIMDS + sgitg);
            if (tiisg == 0) {
                sr[0] = m;
            }
            if (lane == 0 && m >= 0.0f && best_pos[r] == m) {
                sr[1] = best_s[r];
                sr[2] = (float) best_j[r];
            }
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        // a lane to a key, one after the other
        if (sgitg == 0) {
            float m = -1.0f;
            float s = 0.0f;
            int   j = 0;

            if (tiisg < LIL_METAL_RKV_ROWS && i0 + tiisg < n) {
                for (int i = 0; i < n_sg; ++i) {
                    threadgroup const float * sr = sg + 3*(tiisg*LIL_METAL_SCORE_SIMDS + i);

                    if (sr[0] > m) {
                        m = sr[0];
                        s = sr[1];
                        j = (int) sr[2];
                    }
                }
            }

            for (int r = 0; r < LIL_METAL_RKV_ROWS; ++r) {
                if (tiisg == r && m >= 0.0f) {
                    f[j] -= s;
                }
                simdgroup_barrier(mem_flags::mem_threadgroup);
            }
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    // f: (1 - lambda)*softmax
    {
        const float inv_n = 1.0f/(float) n;

        float m = LIL_NEG;
        for (int j = tiitg; j < n; j += t.ntg) {
            m = max(m, f[j]*inv_n);
        }

        float sum = 0.0f;
        for (int j = tiitg; j < n; j += t.ntg) {
            sum += exp(f[j]*inv_n - m);
        }
        sum = lil_rkv_join(sum, m, LIL_NEG, sg, t);

        for (int j = tiitg; j < n; j += t.ntg) {
            f[j] = (1.0f - args.lambda)*exp(f[j]*inv_n - m)/sum;
        }
    }

    //
    // importance
    //

    // as with the logits, the largest of the group
    float sink = LIL_NEG;
    for (int g = 0; g < args.n_group; ++g) {
        sink = max(sink, lil_get_sink(sinks, args.has_sinks, i_kv*args.n_group + g));
    }

    // x: the probabilities, summed over the queries. A key's entry belongs to the first of the lanes that share it
    if (lane == 0) {
        for (int j = j0; j < n; j += width) {
            x[j] = 0.0f;
        }
    }

    for (int w = 0; w < n_win; ++w) {
        const int at = step[LIL_METAL_STEP_POS] - n_win + w; // the query's position

        device const float4 * q = (device const float4 *) (ring + (uint64_t) strm*args.nb_q2 +
                at%args.n_ring*args.nb_q1 + (uint64_t) i_kv*args.n_group*args.nb_q0);

        float m   = LIL_NEG;
        float sum = 0.0f;

        for (int jb = 0; jb < n; jb += width) {
            const int   j = jb + j0;
            const float l = lil_rkv_logit<N>(job, q, args.n_group, args.softcap, j, lane);

            if (j < n && p[j] <= (float) at) {
                const float m_new = max(m, l);

                sum = sum*exp(m - m_new) + exp(l - m_new);
                m   = m_new;
            }
        }

        sum = lil_rkv_join(lane == 0 ? sum : 0.0f, m, sink, sg, t);

        for (int jb = 0; jb < n; jb += width) {
            const int   j = jb + j0;
            const float l = lil_rkv_logit<N>(job, q, args.n_group, args.softcap, j, lane);

            if (lane == 0 && j < n && p[j] <= (float) at) {
                x[j] += exp(l - m)/sum;
            }
        }
    }

    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);

    // the most of a token and of the three on either side of it, in order of position
    for (int j = tiitg; j < n; j += t.ntg) {
        float pos_lo[3];
        float pos_hi[3];
        float x_lo  [3];
        float x_hi  [3];
        for (int s = 0; s < 3; ++s) {
            pos_lo[s] = -1.0f;
            pos_hi[s] = FLT_MAX;
            x_lo  [s] = 0.0f;
            x_hi  [s] = 0.0f;
        }

        for (int i = 0; i < n; ++i) {
            float pi = p[i];
            float xi = x[i];

            for (int s = 0; s < 3; ++s) {
                if (p[i] < p[j] && pi > pos_lo[s]) {
                    const float pt = pos_lo[s];
                    const float xt = x_lo  [s];

                    pos_lo[s] = pi;
                    x_lo  [s] = xi;
                    pi = pt;
                    xi = xt;
                }
                if (p[i] > p[j] && pi < pos_hi[s]) {
                    const float pt = pos_hi[s];
                    const float xt = x_hi  [s];

                    pos_hi[s] = pi;
                    x_hi  [s] = xi;
                    pi = pt;
                    xi = xt;
                }
            }
        }

        float best = x[j];
        for (int s = 0; s < 3; ++s) {
            best = max(best, max(x_lo[s], x_hi[s]));
        }

        f[j] = (n_win > 0 ? args.lambda*best/(float) n_win : 0.0f) - f[j];
    }

    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);

    for (int j = tiitg; j < n; j += t.ntg) {
        x[j] = f[j];
    }
}

typedef decltype(kernel_lil_rkv_score<1>) kernel_lil_rkv_score_t;

template LIL_HOST_NAME("kernel_lil_rkv_score_1") kernel kernel_lil_rkv_score_t kernel_lil_rkv_score<1>;
template LIL_HOST_NAME("kernel_lil_rkv_score_2") kernel kernel_lil_rkv_score_t kernel_lil_rkv_score<2>;
template LIL_HOST_NAME("kernel_lil_rkv_score_4") kernel kernel_lil_rkv_score_t kernel_lil_rkv_score<4>;
template LIL_HOST_NAME("kernel_lil_rkv_score_8") kernel kernel_lil_rkv_score_t kernel_lil_rkv_score<8>;
