// Upper bounds on q.k, see lil-ops.h: page_scores.

#include "dirty.h"

// lanes that share a page, and pages that a threadgroup takes
#define LIL_SCORES_LANES 8

// Grid: [n_pages_max/LIL_METAL_SCORES_PAGES rounded up, n_head_kv, n_steps]. The bound is one dot product: with the
// maxima where q is positive, with the minima where it is negative. N query heads at once; lil_type_v is the type of
// the bounds. Dirty pages come first, one after the other, with all threads. Where not all heads of a group have room,
// they take turns.
//
// Threadgroup memory: n_row*n_embd floats.
template <int N>
kernel void kernel_lil_page_scores(
        constant lil_metal_kargs_page_scores & args [[buffer(0)]],
        device       char * dst    [[buffer(1)]],
        device const char * q      [[buffer(2)]],
        device       char * bounds [[buffer(3)]],
        device const char * steps  [[buffer(4)]],
        device const char * k      [[buffer(5)]],
        device const char * dirty  [[buffer(6)]],
        threadgroup  char * shmem  LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_kv   = tgpig.y;
    const int i_step = tgpig.z;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);

    const int p_begin = tgpig.x*LIL_METAL_SCORES_PAGES;
    const int p_end   = min(p_begin + LIL_METAL_SCORES_PAGES, (int) step[LIL_METAL_SEL_PAGES]);
    if (p_begin >= p_end) {
        return;
    }

    const int nk = args.n_embd/4;

    threadgroup float4 * sq = (threadgroup float4 *) shmem; // [nk, n_row]

    for (int i = 0; i < args.dirty.n_dirty; ++i) {
        device const int32_t * entry = lil_dirty_entry(args.dirty, dirty, i);

        if (lil_dirty_is_in(entry, step[LIL_METAL_SEL_TABLE], p_begin, p_end)) {
            lil_dirty_bounds(args.dirty, bounds, k, entry, i_kv, tiitg, ntg.x);
        }
    }

    bounds += (uint64_t) step[LIL_METAL_SEL_TABLE]*args.nb_b3 + i_kv*args.nb_b1;

    device float * scores = (device float *) (dst + i_step*args.nb_d2 + i_kv*args.nb_d1);

    for (int g0 = 0; g0 < args.n_group; g0 += args.n_row) {
        const int n_head = min(args.n_row, args.n_group - g0);

        device const char * heads = q + i_step*args.nb_q2 + (i_kv*args.n_group + g0)*args.nb_q1;

        threadgroup_barrier(mem_flags::mem_threadgroup); // of the turn before

        for (int i = tiitg; i < n_head*nk; i += ntg.x) {
            sq[i] = ((device const float4 *) (heads + i/nk*args.nb_q1))[i%nk];
        }

        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);

        for (int p0 = p_begin; p0 < p_end; p0 += ntg.x/LIL_SCORES_LANES) {
            const int p    = p0 + tiitg/LIL_SCORES_LANES;
            const int lane = tiitg%LIL_SCORES_LANES;

            float best = LIL_NEG;

            for (int h0 = 0; h0 < n_head; h0 += N) {
                float x[N];
                for (int h = 0; h < N; ++h) {
                    x[h] = 0.0f;
                }

                if (p < p_end) {
                    device const char * row = bounds + p*args.nb_b2;

                    for (int i = lane; i < nk; i += LIL_SCORES_LANES) {
                        const float4 hi = lil_type_v == LIL_METAL_TYPE_F16 ? float4(((device const half4 *) row)[i])
                                                                           : ((device const float4 *) row)[i];
                        const float4 lo = lil_type_v == LIL_METAL_TYPE_F16
                                ? float4(((device const half4 *) row)[nk + i])
                                : ((device const float4 *) row)[nk + i];

                        for (int h = 0; h < N; ++h) {
                            // a last block of fewer than N: the last head again
                            const float4 qi = sq[min(h0 + h, n_head - 1)*nk + i];

                            x[h] += dot(max(qi, float4(0.0f)), hi) + dot(min(qi, float4(0.0f)), lo);
                        }
                    }
                }

                for (int h = 0; h < N; ++h) {
                    best = max(best, lil_sum_lanes(x[h], LIL_SCORES_LANES));
                }
            }

            if (p < p_end && lane == 0) {
                scores[p] = g0 == 0 ? best : max(scores[p], best); // its own of the turn before
            }
        }
    }
}

typedef decltype(kernel_lil_page_scores<1>) kernel_lil_page_scores_t;

template LIL_HOST_NAME("kernel_lil_page_scores_1") kernel kernel_lil_page_scores_t kernel_lil_page_scores<1>;
template LIL_HOST_NAME("kernel_lil_page_scores_2") kernel kernel_lil_page_scores_t kernel_lil_page_scores<2>;
template LIL_HOST_NAME("kernel_lil_page_scores_4") kernel kernel_lil_page_scores_t kernel_lil_page_scores<4>;
template LIL_HOST_NAME("kernel_lil_page_scores_8") kernel kernel_lil_page_scores_t kernel_lil_page_scores<8>;
