#pragma once

// The attention of one token over many rows, in parts: attn's kernel, and without V the first half of score_step.
//
// A block has one KV head's part of one list, for up to N_SET*GROUP query heads of the group: larger groups have
// several blocks, which read the same rows from the L2 cache. Its warps form sets of N_WARP; a set has GROUP query
// heads (two sets read the same rows at the same time, the second from the cache). A warp takes units of up to 32
// entries:
//   logits     LANES lanes read a row of K, each 8 channels, for GROUP heads at once; the sums go to shared memory.
//              Of a long row (MLA) a lane has 8 channels of every 256, N_C times
//   softmax    lane j has entry j, relative to the warp's own running maximum
//   sum over V lanes and rows as with K; each lane keeps 8 channels of GROUP heads in registers
// Loads run a batch of N_BATCH rows per lane ahead of their use, through the softmax as well. Warps meet only at the
// end.

#include "lil-cuda-device.h"

#include <math.h>

struct lil_attn_params {
    const char * q; // [n_embd_k, n_head, n_steps]
    const char * k; // cell c of stream s and KV head h: k + s*k_nb2 + c*k_nb1 + h*k_head
    const char * v;
    const char * list; // may be null: the cells [0, BEFORE - EVICT + NEW) of a lil_step_field row
    const char * steps;
    float *      part; // [n_embd_v + 2, n_head, n_split, n_steps]; without V n_embd_v is 0
    float *      kq;   // [n_max, n_head, n_steps], may be null

    int64_t q_nb1, q_nb2;
    int64_t k_nb1, k_nb2, k_head;
    int64_t v_nb1, v_nb2, v_head;
    int64_t list_nb1, list_nb2; // list_nb1 is 0 where all heads share a list
    int64_t steps_nb1;
    int64_t n_max;

    int type_k;
    int type_v;
    int n_embd_k;
    int n_embd_v;
    int n_head_kv;
    int n_group;
    int n_split;

    float scale;
    float softcap;
};

static constexpr int LIL_ATTN_N_WARP = 4; // of a set

// blocks of a multiprocessor that registers must suffice for: with one set of warps
static constexpr int lil_attn_min_blocks(int group) {
    return group == 8 ? 2 : group == 4 ? 3 : 4;
}

// rows between parts of each head's
static __host__ __device__ __forceinline__ int64_t lil_attn_part_offset(
        const lil_attn_params & p, int i_step, int split, int i_head) {
    return ((int64_t) (i_step * p.n_split + split) * p.n_head_kv * p.n_group + i_head) * (p.n_embd_v + 2);
}

// GROUP, a power of 2; TYPE_V GGML_TYPE_COUNT + 1: none
template <int TYPE_K, int TYPE_V, int LANES, int N_C, int GROUP, int N_SET>
static __global__ void __launch_bounds__(LIL_WARP * LIL_ATTN_N_WARP * N_SET,
        N_SET == 1 ? lil_attn_min_blocks(GROUP) : 1) lil_attn_kernel(const lil_attn_params p) {
    constexpr int  N_WARP  = LIL_ATTN_N_WARP;
    constexpr int  N_BATCH = N_C == 1 ? 4 : 1; // rows of a lane that are under way
    constexpr int  N_ROW   = LIL_WARP / LANES; // that a warp reads at once
    constexpr int  N_STEP  = N_ROW * N_BATCH;  // rows of a batch, at most 32 and a power of 2
    constexpr int  N_C_V   = N_C == 1 ? 1 : LIL_N_C_V;
    constexpr bool HAS_V   = TYPE_V != LIL_TYPE_ANY + 1;

    const int n_chunk = gridDim.y / p.n_head_kv; // blocks of a group

    const int split  = blockIdx.x;
    const int i_kv   = blockIdx.y / n_chunk;
    const int i_step = blockIdx.z;

    const int lane = threadIdx.x % LIL_WARP;
    const int warp = threadIdx.x / LIL_WARP;
    const int set  = warp / N_WARP;
    const int w    = warp % N_WARP;

    const int i_row = lane / LANES;                                 // which of the rows
    const int c0    = lane % LANES * 8;                             // first of the lane's channels
    const int g0    = (blockIdx.y % n_chunk * N_SET + set) * GROUP; // first of the set's heads

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * cells = p.list ? (const int32_t *) (p.list + i_step * p.list_nb2 + i_kv * p.list_nb1) : nullptr;

    const int n       = cells ? *cells++ : step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT] + step[LIL_STEP_NEW];
    const int n_part  = lil_split_size(n, p.n_split);
    const int j_begin = split * n_part;
    const int j_end   = min(n, j_begin + n_part);

    if (j_begin >= j_end) {
        return; // the whole block
    }

    // whether a row has the lane's channels [c0 + 256*c, ... + 8)
    const auto has_k = [&](int c) { return c0 + 256 * c < p.n_embd_k; };
    const auto has_v = [&](int c) { return HAS_V && c0 + 256 * c < p.n_embd_v; };

    const int64_t strm = step[LIL_STEP_STREAM];

    const char * k = p.k + strm * p.k_nb2 + i_kv * p.k_head;
    const char * v = HAS_V ? p.v + strm * p.v_nb2 + i_kv * p.v_head : nullptr;

    LIL_SHARED(float, shared);
    float * x = shared + warp * LIL_WARP * GROUP; // [GROUP, 32] logits, then probabilities; free behind the last unit

    // times scale; heads that there are not read the last one's
    float q[GROUP][N_C][8];
    LIL_UNROLL
    for (int g = 0; g < GROUP; ++g) {
        const int     i_head = i_kv * p.n_group + min(g0 + g, p.n_group - 1);
        const float * src    = (const float *) (p.q + i_step * p.q_nb2 + i_head * p.q_nb1);
        LIL_UNROLL
        for (int c = 0; c < N_C; ++c) {
            LIL_UNROLL
            for (int i = 0; i < 8; ++i) {
                q[g][c][i] = has_k(c) ? src[c0 + 256 * c + i] * p.scale : 0.0f;
            }
        }
    }

    float y[GROUP][N_C_V][8] = {}; // sum of exp(x - max)*v, of the lane's rows
    float sum[GROUP]         = {}; // of exp(x - max), of the lane's entries
    float max[GROUP];              // the same in all lanes
    LIL_UNROLL
    for (int g = 0; g < GROUP; ++g) {
        max[g] = -INFINITY;
    }

    const uint4 zero = { 0, 0, 0, 0 };

    for (int j0 = j_begin; j0 < j_end; j0 += LIL_WARP * N_WARP) {
        // the unit: entries [jw, jw + m)
        const int u  = (min(LIL_WARP * N_WARP, j_end - j0) + N_WARP - 1) / N_WARP;
        const int jw = j0 + w * u;
        const int m  = min(u, j_end - jw);

        if (m <= 0) {
            break; // the whole warp
        }

        const int cell = cells ? cells[jw + min(lane, m - 1)] : jw + min(lane, m - 1);

        // rows r of the unit behind its end are the last one again
        const auto get_cell = [&](int r) { return (int64_t) __shfl_sync(LIL_FULL, cell, min(r, m - 1)); };
        const auto load_k   = [&](uint4(*raw)[N_C], int r0) {
            LIL_UNROLL
            for (int b = 0; b < N_BATCH; ++b) {
                const char * row = k + get_cell(r0 + b * N_ROW + i_row) * p.k_nb1;
                LIL_UNROLL
                for (int c = 0; c < N_C; ++c) {
                    raw[b][c] = has_k(c) ? lil_load8<TYPE_K>(p.type_k, row, c0 + 256 * c) : zero;
                }
            }
        };
        const auto load_v = [&](uint4(*raw)[N_C], int r0) {
            if (HAS_V) {
                LIL_UNROLL
                for (int b = 0; b < N_BATCH; ++b) {
                    const char * row = v + get_cell(r0 + b * N_ROW + i_row) * p.v_nb1;
                    LIL_UNROLL
                    for (int c = 0; c < N_C_V; ++c) {
                        raw[b][c] = has_v(c) ? lil_load8<TYPE_V>(p.type_v, row, c0 + 256 * c) : zero;
                    }
                }
            }
        };
        const auto copy = [&](uint4(*raw)[N_C], const uint4(*from)[N_C]) {
            LIL_UNROLL
            for (int b = 0; b < N_BATCH; ++b) {
                LIL_UNROLL
                for (int c = 0; c < N_C; ++c) {
                    raw[b][c] = from[b][c];
                }
            }
        };

        uint4 raw[N_BATCH][N_C];
        uint4 next[N_BATCH][N_C];

        load_k(raw, 0);

        for (int r0 = 0; r0 < m; r0 += N_STEP) {
            if (r0 + N_STEP < m) {
                load_k(next, r0 + N_STEP);
            } else {
                load_v(next, 0);
            }

            LIL_UNROLL
            for (int b = 0; b < N_BATCH; ++b) {
                float s[GROUP] = {};
                LIL_UNROLL
                for (int c = 0; c < N_C; ++c) {
                    float kx[8];
                    lil_widen8<TYPE_K>(p.type_k, raw[b][c], kx);

                    LIL_UNROLL
                    for (int g = 0; g < GROUP; ++g) {
                        LIL_UNROLL
                        for (int i = 0; i < 8; ++i) {
                            s[g] += q[g][c][i] * kx[i];
                        }
                    }
                }

                const float res = lil_group_sum<GROUP, LANES>(s, lane);

                if (lane % (LANES / GROUP) == 0) {
                    x[(r0 + b * N_ROW + i_row) * GROUP + lane % LANES / (LANES / GROUP)] = res;
                }
            }

            if (HAS_V || r0 + N_STEP < m) {
                copy(raw, next);
            }
        }

        __syncwarp();

        LIL_UNROLL
        for (int g = 0; g < GROUP; ++g) {
            float l = lane < m ? x[lane * GROUP + g] : -INFINITY;

            if (p.softcap != 0.0f && lane < m) {
                l = p.softcap * tanhf(l / p.softcap);
            }
            if (p.kq && lane < m && g0 + g < p.n_group) {
                p.kq[((int64_t) i_step * p.n_head_kv * p.n_group + i_kv * p.n_group + g0 + g) * p.n_max + jw + lane] =
                        l;
            }

            const float max_new = fmaxf(max[g], lil_warp_max(l));
            const float prob    = expf(l - max_new); // 0 behind the end

            if (max_new != max[g]) { // the whole warp
                const float f = expf(max[g] - max_new);

                sum[g] *= f;
                if (HAS_V) {
                    LIL_UNROLL
                    for (int c = 0; c < N_C_V; ++c) {
                        LIL_UNROLL
                        for (int i = 0; i < 8; ++i) {
                            y[g][c][i] *= f;
                        }
                    }
                }
                max[g] = max_new;
            }

            sum[g] += prob;
            x[lane * GROUP + g] = prob;
        }

        __syncwarp();

        if (HAS_V) {
            for (int r0 = 0; r0 < m; r0 += N_STEP) {
                if (r0 + N_STEP < m) {
                    load_v(next, r0 + N_STEP);
                }

                LIL_UNROLL
                for (int b = 0; b < N_BATCH; ++b) {
                    const float * prob = x + (r0 + b * N_ROW + i_row) * GROUP; // 0 behind the end
                    LIL_UNROLL
                    for (int c = 0; c < N_C_V; ++c) {
                        float vx[8];
                        lil_widen8<TYPE_V>(p.type_v, raw[b][c], vx);

                        LIL_UNROLL
                        for (int g = 0; g < GROUP; ++g) {
                            LIL_UNROLL
                            for (int i = 0; i < 8; ++i) {
                                y[g][c][i] += prob[g] * vx[i];
                            }
                        }
                    }
                }

                if (r0 + N_STEP < m) {
                    copy(raw, next);
                }
            }

            __syncwarp(); // x is written again
        }
    }

    //
    // the warps' results become one. Shared memory: max and sum of each warp and head, then two rows of y for each head
    //

    LIL_UNROLL
    for (int g = 0; g < GROUP; ++g) {
        sum[g] = lil_warp_sum(sum[g]);
        if (HAS_V) {
            LIL_UNROLL
            for (int offset = LANES; offset < LIL_WARP; offset *= 2) { // of long rows there is one
                LIL_UNROLL
                for (int i = 0; i < 8; ++i) {
                    y[g][0][i] += __shfl_xor_sync(LIL_FULL, y[g][0][i], offset);
                }
            }
        }
    }

    __syncthreads(); // x is free

    float * s_max = shared;                         // [GROUP, N_WARP, N_SET]
    float * s_sum = s_max + GROUP * N_WARP * N_SET; // [GROUP, N_WARP, N_SET]
    float * s_y   = s_sum + GROUP * N_WARP * N_SET; // [n_embd_v, GROUP, 2, N_SET]

    if (lane == 0) {
        LIL_UNROLL
        for (int g = 0; g < GROUP; ++g) {
            s_max[warp * GROUP + g] = max[g];
            s_sum[warp * GROUP + g] = sum[g];
        }
    }

    __syncthreads();

    if (HAS_V) {
        LIL_UNROLL
        for (int g = 0; g < GROUP; ++g) {
            float m = -INFINITY;
            LIL_UNROLL
            for (int i = 0; i < N_WARP; ++i) {
                m = fmaxf(m, s_max[(set * N_WARP + i) * GROUP + g]);
            }
            const float f = expf(max[g] - m); // 0 for a warp without entries; the first has some
            LIL_UNROLL
            for (int c = 0; c < N_C_V; ++c) {
                LIL_UNROLL
                for (int i = 0; i < 8; ++i) {
                    y[g][c][i] *= f;
                }
            }
        }

        float * dst = s_y + (set * 2 + w % 2) * GROUP * p.n_embd_v + c0;

        // warps 2 and 3, then 0 and 1
        LIL_UNROLL
        for (int half = 1; half >= 0; --half) {
            LIL_UNROLL
            for (int c = 0; c < N_C_V; ++c) {
                if (w / 2 == half && i_row == 0 && has_v(c)) {
                    LIL_UNROLL
                    for (int g = 0; g < GROUP; ++g) {
                        LIL_UNROLL
                        for (int i = 0; i < 8; ++i) {
                            const int at = g * p.n_embd_v + 256 * c + i;
                            dst[at]      = half ? y[g][c][i] : y[g][c][i] + dst[at];
                        }
                    }
                }
            }
            __syncthreads();
        }
    }

    for (int g = w; g < GROUP && g0 + g < p.n_group; g += N_WARP) {
        float * part = p.part + lil_attn_part_offset(p, i_step, split, i_kv * p.n_group + g0 + g);

        if (HAS_V) {
            const float * src = s_y + (set * 2 * GROUP + g) * p.n_embd_v;

            for (int i = lane; i < p.n_embd_v; i += LIL_WARP) {
                part[i] = src[i] + src[GROUP * p.n_embd_v + i];
            }
        }

        if (lane == 0) {
            float m = -INFINITY;
            LIL_UNROLL
            for (int i = 0; i < N_WARP; ++i) {
                m = fmaxf(m, s_max[(set * N_WARP + i) * GROUP + g]);
            }
            float total = 0.0f;
            LIL_UNROLL
            for (int i = 0; i < N_WARP; ++i) {
                total += s_sum[(set * N_WARP + i) * GROUP + g] * expf(s_max[(set * N_WARP + i) * GROUP + g] - m);
            }
            part[p.n_embd_v]     = m;
            part[p.n_embd_v + 1] = total;
        }
    }
}

template <int TYPE_K, int TYPE_V, int LANES, int N_C, int GROUP, int N_SET>
static void lil_attn_launch(const lil_attn_params & p, int n_steps, cudaStream_t stream) {
    const int n_warp  = LIL_ATTN_N_WARP * N_SET;
    const int n_chunk = (p.n_group + GROUP * N_SET - 1) / (GROUP * N_SET);

    const int n_units = n_warp * LIL_WARP * GROUP;
    const int n_join  = n_warp * GROUP * 2 + N_SET * 2 * GROUP * p.n_embd_v;

    const auto kernel = lil_attn_kernel<TYPE_K, TYPE_V, LANES, N_C, GROUP, N_SET>;

    LIL_LAUNCH(dim3(p.n_split, p.n_head_kv * n_chunk, n_steps), LIL_WARP * n_warp,
            sizeof(float) * (n_units > n_join ? n_units : n_join), stream, kernel, p);
}

template <int TYPE_K, int TYPE_V, int LANES>
static void lil_attn_launch_group(const lil_attn_params & p, int n_steps, cudaStream_t stream) {
    if (p.n_group == 1) {
        lil_attn_launch<TYPE_K, TYPE_V, LANES, 1, 1, 1>(p, n_steps, stream);
    } else if (p.n_group == 2) {
        lil_attn_launch<TYPE_K, TYPE_V, LANES, 1, 2, 1>(p, n_steps, stream);
    } else if (p.n_group <= 4) {
        lil_attn_launch<TYPE_K, TYPE_V, LANES, 1, 4, 1>(p, n_steps, stream);
    } else if (p.n_group <= 8) {
        lil_attn_launch<TYPE_K, TYPE_V, LANES, 1, 8, 1>(p, n_steps, stream);
    } else {
        lil_attn_launch<TYPE_K, TYPE_V, LANES, 1, 8, 2>(p, n_steps, stream);
    }
}

// rows of up to 256 channels
template <int TYPE_K, int TYPE_V>
static void lil_attn_launch_lanes(const lil_attn_params & p, int n_steps, cudaStream_t stream) {
    switch (lil_cuda_n_lanes(p.n_embd_k > p.n_embd_v ? p.n_embd_k : p.n_embd_v)) {
        case 8:  lil_attn_launch_group<TYPE_K, TYPE_V, 8>(p, n_steps, stream); break;
        case 16: lil_attn_launch_group<TYPE_K, TYPE_V, 16>(p, n_steps, stream); break;
        case 32: lil_attn_launch_group<TYPE_K, TYPE_V, 32>(p, n_steps, stream); break;
    }
}

static bool lil_attn_is_long(const lil_attn_params & p) {
    return p.n_embd_k > 256 || p.n_embd_v > 256;
}

// Long rows: 4 heads' queries and sums are what a thread has registers for
template <int TYPE_K, int TYPE_V>
static void lil_attn_launch_long(const lil_attn_params & p, int n_steps, cudaStream_t stream) {
    lil_attn_launch<TYPE_K, TYPE_V, LIL_WARP, LIL_N_C_K, 4, 2>(p, n_steps, stream);
}
