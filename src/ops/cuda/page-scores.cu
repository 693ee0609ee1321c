#include "dirty.h"

#include <math.h>

// A warp has N_PAGE pages of one KV head. LANES lanes read a row of bounds, each the maxima and the minima of 8
// channels, or of 8 of every 256 of a long row (MLA), N_C times. With M the maximum and m the minimum, max(q*M, q*m) is
// (q*(M + m) + |q|*(M - m))/2: two multiply-adds.

struct lil_page_scores_params {
    float *      scores; // [n_pages_max, n_head_kv, n_steps]
    const char * q;      // [n_embd, n_head, n_steps]
    const char * bounds; // [2*n_embd, n_head_kv, n_pages_max, n_tables]
    const char * steps;

    int64_t scores_nb1, scores_nb2;
    int64_t q_nb1, q_nb2;
    int64_t bounds_nb1, bounds_nb2, bounds_nb3;
    int64_t steps_nb1;

    int n_embd;
    int n_group;
};

static constexpr int LIL_PAGE_SCORES_N_WARP = 4;
static constexpr int LIL_PAGE_SCORES_N_PAGE = 16;

// 8 channels of a row of bounds as they lie there. F32 ones are read in full
template <bool IS_F16>
struct lil_bounds8;

template <>
struct lil_bounds8<true> {
    uint4 raw;

    __device__ void load(const char * row, int i) { raw = *(const uint4 *) (row + 2 * i); }

    __device__ void widen(float * x) const { lil_widen8<GGML_TYPE_F16>(GGML_TYPE_F16, raw, x); }
};

template <>
struct lil_bounds8<false> {
    float4 a;
    float4 b;

    __device__ void load(const char * row, int i) {
        a = *(const float4 *) (row + 4 * i);
        b = *(const float4 *) (row + 4 * i + 16);
    }

    __device__ void widen(float * x) const {
        x[0] = a.x;
        x[1] = a.y;
        x[2] = a.z;
        x[3] = a.w;
        x[4] = b.x;
        x[5] = b.y;
        x[6] = b.z;
        x[7] = b.w;
    }
};

// a group of more than GROUP heads takes turns; its pages come from the cache then
template <bool IS_F16, int LANES, int N_C, int GROUP>
static __global__ void __launch_bounds__(LIL_WARP * LIL_PAGE_SCORES_N_WARP,
        N_C > 1 ? 2
                : GROUP < 8  ? 5
                : LANES == 8 ? 3
                             : 4) lil_page_scores_kernel(const lil_page_scores_params p, const lil_dirty_params d) {
    constexpr int N_ROW   = LIL_WARP / LANES;             // pages that the warp reads at once
    constexpr int N_BATCH = N_C > 1 ? 1 : IS_F16 ? 4 : 2; // rows of a lane that are under way
    constexpr int N_TURN  = LIL_PAGE_SCORES_N_PAGE / (N_ROW * N_BATCH);

    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int n_pages = step[LIL_SEL_PAGES];
    const int p0      = (blockIdx.x * LIL_PAGE_SCORES_N_WARP + threadIdx.x / LIL_WARP) * LIL_PAGE_SCORES_N_PAGE;

    if (p0 >= n_pages) {
        return; // the whole warp
    }

    for (int i = 0; i < d.n_dirty; ++i) {
        const int32_t * entry = lil_dirty_entry(d, i);

        if (lil_dirty_is_in(entry, step[LIL_SEL_TABLE], p0, min(p0 + LIL_PAGE_SCORES_N_PAGE, n_pages))) {
            lil_dirty_bounds<LIL_TYPE_ANY, LANES>(d, entry, i_kv);
            __syncwarp(); // the warp reads them below, and nobody else does
        }
    }

    const int lane  = threadIdx.x % LIL_WARP;
    const int i_row = lane / LANES;
    const int c0    = lane % LANES * 8;

    const auto has = [&](int c) { return c0 + 256 * c < p.n_embd; };

    const char * bounds = p.bounds + step[LIL_SEL_TABLE] * p.bounds_nb3 + i_kv * p.bounds_nb1;
    float *      scores = (float *) ((char *) p.scores + i_step * p.scores_nb2 + i_kv * p.scores_nb1);

    for (int g0 = 0; g0 < p.n_group; g0 += GROUP) {
        float q[GROUP][N_C][8];
        LIL_UNROLL
        for (int g = 0; g < GROUP; ++g) { // heads that there are not: the last one
            const float * src = (const float *) (p.q + i_step * p.q_nb2 +
                    (i_kv * p.n_group + min(g0 + g, p.n_group - 1)) * p.q_nb1);
            LIL_UNROLL
            for (int c = 0; c < N_C; ++c) {
                LIL_UNROLL
                for (int i = 0; i < 8; ++i) {
                    q[g][c][i] = has(c) ? 0.5f * src[c0 + 256 * c + i] : 0.0f;
                }
            }
        }

        LIL_UNROLL_BY(1)
        for (int t = 0; t < N_TURN; ++t) {
            lil_bounds8<IS_F16> hi[N_BATCH][N_C] = {};
            lil_bounds8<IS_F16> lo[N_BATCH][N_C] = {};
            LIL_UNROLL
            for (int b = 0; b < N_BATCH; ++b) { // behind the end: the last page again
                const char * row = bounds + min(p0 + (t * N_BATCH + b) * N_ROW + i_row, n_pages - 1) * p.bounds_nb2;
                LIL_UNROLL
                for (int c = 0; c < N_C; ++c) {
                    if (has(c)) {
                        hi[b][c].load(row, c0 + 256 * c);
                        lo[b][c].load(row, c0 + 256 * c + p.n_embd);
                    }
                }
            }
            LIL_UNROLL
            for (int b = 0; b < N_BATCH; ++b) {
                float s[GROUP] = {};
                LIL_UNROLL
                for (int c = 0; c < N_C; ++c) {
                    float x[8];
                    float y[8];
                    hi[b][c].widen(x);
                    lo[b][c].widen(y);

                    LIL_UNROLL
                    for (int i = 0; i < 8; ++i) {
                        const float sum  = x[i] + y[i];
                        const float diff = x[i] - y[i];
                        LIL_UNROLL
                        for (int g = 0; g < GROUP; ++g) {
                            s[g] += q[g][c][i] * sum;
                            s[g] += fabsf(q[g][c][i]) * diff;
                        }
                    }
                }

                float res = lil_group_sum<GROUP, LANES>(s, lane);
                LIL_UNROLL
                for (int offset = LANES / GROUP; offset < LANES; offset *= 2) { // the maximum over the heads
                    res = fmaxf(res, __shfl_xor_sync(LIL_FULL, res, offset));
                }

                const int page = p0 + (t * N_BATCH + b) * N_ROW + i_row;
                if (lane % LANES == 0 && page < n_pages) {
                    scores[page] = g0 == 0 ? res : fmaxf(scores[page], res); // its own of the turn before
                }
            }
        }
    }
}

// what a launch is made of
struct lil_page_scores_job {
    lil_page_scores_params p;
    lil_dirty_params       d;

    dim3         grid;
    cudaStream_t stream;
};

template <bool IS_F16, int LANES, int N_C, int GROUP>
static void lil_page_scores_launch(const lil_page_scores_job & job) {
    const auto kernel = lil_page_scores_kernel<IS_F16, LANES, N_C, GROUP>;

    LIL_LAUNCH(job.grid, LIL_WARP * LIL_PAGE_SCORES_N_WARP, 0, job.stream, kernel, job.p, job.d);
}

template <bool IS_F16, int LANES>
static void lil_page_scores_launch_group(const lil_page_scores_job & job) {
    if (job.p.n_group == 1) {
        lil_page_scores_launch<IS_F16, LANES, 1, 1>(job);
    } else if (job.p.n_group <= 4) {
        lil_page_scores_launch<IS_F16, LANES, 1, 4>(job);
    } else {
        lil_page_scores_launch<IS_F16, LANES, 1, 8>(job);
    }
}

template <bool IS_F16>
static void lil_page_scores_launch_lanes(const lil_page_scores_job & job) {
    if (job.p.n_embd > 256) {
        lil_page_scores_launch<IS_F16, LIL_WARP, LIL_N_C_K, 4>(job);
        return;
    }
    switch (lil_cuda_n_lanes(job.p.n_embd)) {
        case 8:  lil_page_scores_launch_group<IS_F16, 8>(job); break;
        case 16: lil_page_scores_launch_group<IS_F16, 16>(job); break;
        case 32: lil_page_scores_launch_group<IS_F16, 32>(job); break;
    }
}

bool lil_cuda_page_scores_supports(const lil_select_layer & layer, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & q, const lil_cuda_tensor & bounds, const lil_cuda_tensor & steps,
        const lil_cuda_dirty & with) {
    return scores.type == GGML_TYPE_F32 && q.type == GGML_TYPE_F32 && steps.type == GGML_TYPE_I32 &&
            q.ne[1] % layer.n_head_kv == 0 && (bounds.type == GGML_TYPE_F16 || bounds.type == GGML_TYPE_F32) &&
            lil_cuda_can_read(bounds, q.ne[0]) && bounds.ne[0] == 2 * q.ne[0] && layer.n_head_kv <= 65535 &&
            steps.ne[1] <= 65535 && (!with.any() || lil_cuda_page_bounds_supports(layer, bounds, with.k, with.dirty));
}

void lil_cuda_page_scores(const lil_select_layer & layer, const lil_cuda_tensor & scores, const lil_cuda_tensor & q,
        const lil_cuda_tensor & bounds, const lil_cuda_tensor & steps, const lil_cuda_dirty & with,
        cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_page_scores_supports(layer, scores, q, bounds, steps, with));

    lil_page_scores_params p = {};

    p.n_embd  = (int) q.ne[0];
    p.n_group = (int) (q.ne[1] / layer.n_head_kv);

    p.scores     = (float *) scores.data;
    p.scores_nb1 = scores.nb[1];
    p.scores_nb2 = scores.nb[2];

    p.q     = (const char *) q.data;
    p.q_nb1 = q.nb[1];
    p.q_nb2 = q.nb[2];

    p.bounds     = (const char *) bounds.data;
    p.bounds_nb1 = bounds.nb[1];
    p.bounds_nb2 = bounds.nb[2];
    p.bounds_nb3 = bounds.nb[3];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    const int64_t n_page = LIL_PAGE_SCORES_N_WARP * LIL_PAGE_SCORES_N_PAGE; // of a block

    const lil_page_scores_job job = { p, lil_dirty_get_params(layer, bounds, with),
        dim3((unsigned) ((scores.ne[0] + n_page - 1) / n_page), (unsigned) layer.n_head_kv, (unsigned) steps.ne[1]),
        stream };

    if (bounds.type == GGML_TYPE_F16) {
        lil_page_scores_launch_lanes<true>(job);
    } else {
        lil_page_scores_launch_lanes<false>(job);
    }
}
