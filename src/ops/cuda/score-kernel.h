#pragma once

// The attention that keys receive from many queries, softmax by softmax: the prompts' scores of H2O and InfLLM. The
// rows of a KV head are row = query*G + head. Two kernels, each of which computes the logits, because neither they nor
// the probabilities have room:
//   max and sum of each row: a block has rows in registers, and a part of the keys passes
//   sums of the keys: a block has keys in registers, and the rows pass. It alone writes its keys' sums, so nothing is
//   added twice and the order of the sums is always the same.
// Logits are products of F16, queries times scale and keys, summed in F32.

#include "lil-mma.h"

#include <math.h>

enum lil_score_mode {
    LIL_SCORE_PROMPT, // score_prompt: query i sees slots [0, base + i]
    LIL_SCORE_WINDOW, // score_window: query i of a ring sees positions up to its own
    LIL_SCORE_INFLLM, // infllm_score_prompt: query i sees ranks [0, base + i] and gives to the last n_window of them
};

struct lil_score_params {
    const char * q; // query i, head h, step s: q + s*q_nb_step + stream*q_nb_strm + i*q_nb_query + h*q_nb_head
    const char * k; // cell c of stream s and KV head h: k + s*k_nb2 + c*k_nb1 + h*k_head
    const char * steps;
    const char * cells; // INFLLM: [1 + n_max, 1, n_steps]
    const char * pos;   // WINDOW: [capacity, n_head_kv, n_stream]
    // PROMPT, INFLLM: part [n_sum, n_head_kv, 1, n_steps], set; WINDOW: score [capacity, n_head_kv, n_stream], added to
    char *  dst;
    float * stat; // [2, n_row, n_split, n_head_kv, n_steps] maximum, sum

    const float * sinks; // [n_head_kv*n_group], or null

    int64_t q_nb_step, q_nb_strm, q_nb_query, q_nb_head;
    int64_t k_nb1, k_nb2, k_head;
    int64_t steps_nb1;
    int64_t cells_nb2;
    int64_t pos_nb1, pos_nb2;
    int64_t dst_nb1, dst_nb_step, dst_nb_strm;

    int mode;
    int type_k;
    int n_embd;
    int n_head_kv;
    int n_group;
    int n_query;  // WINDOW: at most
    int n_sum;    // keys whose sums are wanted, at most
    int n_split;  // parts of the keys
    int n_window; // INFLLM

    float scale;
    float softcap;
};

// what a block works at
struct lil_score_job {
    const char *    q;
    const char *    k;
    const int32_t * cells;
    const float *   pos;

    int   base;
    int   n_keys;
    int   n_query;
    int   j_first; // the first key whose sum is wanted
    int   q_ring;  // WINDOW: the first query's row
    float pos0;

    __device__ __forceinline__ lil_score_job(const lil_score_params & p, int i_kv, int i_step) {
        const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

        int64_t strm;

        cells   = nullptr;
        pos     = nullptr;
        base    = 0;
        j_first = 0;
        q_ring  = -1;
        pos0    = 0.0f;
        n_query = p.n_query;

        if (p.mode == LIL_SCORE_INFLLM) {
            strm    = step[LIL_SEL_STREAM];
            base    = step[LIL_SEL_N] - step[LIL_SEL_NEW];
            n_keys  = step[LIL_SEL_N];
            j_first = max(0, base - p.n_window + 1);
            cells   = (const int32_t *) (p.cells + i_step * p.cells_nb2) + 1;
        } else if (p.mode == LIL_SCORE_PROMPT) {
            strm   = step[LIL_STEP_STREAM];
            base   = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];
            n_keys = base + n_query;
        } else {
            strm    = step[LIL_STEP_STREAM];
            n_query = step[LIL_STEP_WIN];
            n_keys  = step[LIL_STEP_BEFORE];
            q_ring  = step[LIL_STEP_POS] - n_query;
            pos0    = (float) q_ring;
            pos     = (const float *) (p.pos + strm * p.pos_nb2 + i_kv * p.pos_nb1);
        }

        q = p.q + i_step * p.q_nb_step + strm * p.q_nb_strm + (int64_t) i_kv * p.n_group * p.q_nb_head;
        k = p.k + strm * p.k_nb2 + i_kv * p.k_head;
    }

    // of row r, which there is
    __device__ __forceinline__ const char * query(const lil_score_params & p, int r) const {
        const int i = r / p.n_group;
        return q + (q_ring >= 0 ? (q_ring + i) % LIL_PROMPT_WINDOW : i) * p.q_nb_query +
                (r - i * p.n_group) * p.q_nb_head;
    }

    // keys behind the last one: the last one
    __device__ __forceinline__ const char * key(const lil_score_params & p, int j) const {
        j = min(j, n_keys - 1);
        return k + (int64_t) (cells ? cells[j] : j) * p.k_nb1;
    }

    __device__ __forceinline__ int n_row(const lil_score_params & p) const { return n_query * p.n_group; }
};

static __device__ __forceinline__ float lil_score_cap(const lil_score_params & p, float x) {
    return p.softcap != 0.0f ? p.softcap * tanhf(x / p.softcap) : x;
}

// Grid: [tiles of N_A rows, each n_split times, n_head_kv, n_steps]
template <int TYPE, int N_K>
static __global__ void __launch_bounds__(lil_mma_shape<N_K>::N_THREAD, 2)
        lil_score_stat_kernel(const lil_score_params p) {
    constexpr int M_TILE = lil_mma_shape<N_K>::M_TILE;
    constexpr int N_A    = lil_mma_shape<N_K>::N_A;
    constexpr int N_B    = lil_mma_shape<N_K>::N_B;
    constexpr int N_T    = lil_mma_shape<N_K>::N_T;

    const int split  = blockIdx.x % p.n_split;
    const int r0     = blockIdx.x / p.n_split * N_A;
    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;

    const lil_score_job job(p, i_kv, i_step);

    const int n_row = job.n_row(p);
    if (r0 >= n_row) {
        return; // the whole block
    }

    LIL_SHARED(uint16_t, tiles); // two, then [2, N_B] positions

    const int n_pad  = lil_mma_n_pad(p.n_embd);
    const int n_tile = N_B * (n_pad + 8);

    float * s_pos = (float *) (tiles + 2 * n_tile);

    const auto load_q = [&](const char * row, int i) { return lil_load8_scaled(row, i, p.scale); };
    const auto load_k = [&](const char * row, int i) { return lil_load8_f16<TYPE>(p.type_k, row, i); };

    for (int half = 0; half < 2; ++half) {
        lil_mma_load<N_K>(
                tiles + half * n_tile, p.n_embd,
                [&](int r) {
                    r += r0 + half * N_B;
                    return r < n_row ? job.query(p, r) : nullptr;
                },
                load_q);
    }
    __syncthreads();

    lil_mma_a<N_K> a;
    a.get(tiles, p.n_embd);

    __syncthreads(); // the tiles are free

    // the lane's rows
    const int lane = threadIdx.x % LIL_WARP;
    const int rw   = r0 + threadIdx.x / LIL_WARP * 16 * M_TILE + lane / 4;

    int   query[M_TILE][2];
    float max[M_TILE][2];
    float sum[M_TILE][2];
    LIL_UNROLL
    for (int m = 0; m < M_TILE; ++m) {
        LIL_UNROLL
        for (int h = 0; h < 2; ++h) {
            query[m][h] = (rw + m * 16 + h * 8) / p.n_group;
            max[m][h]   = -INFINITY;
            sum[m][h]   = 0.0f;
        }
    }

    // the keys that any row sees, and of these the block's part
    const int n_seen  = job.pos ? job.n_keys : min(job.n_keys, job.base + (min(r0 + N_A, n_row) - 1) / p.n_group + 1);
    const int n_part  = ((n_seen + p.n_split - 1) / p.n_split + N_B - 1) / N_B * N_B;
    const int j_begin = split * n_part;
    const int j_end   = min(n_seen, j_begin + n_part);

    const auto load = [&](int j0, int buf) {
        lil_mma_load<N_K>(tiles + buf * n_tile, p.n_embd, [&](int r) { return job.key(p, j0 + r); }, load_k);

        if (job.pos && (int) threadIdx.x < N_B) {
            s_pos[buf * N_B + threadIdx.x] = job.pos[min(j0 + (int) threadIdx.x, job.n_keys - 1)];
        }
    };

    if (j_begin < j_end) {
        load(j_begin, 0);
    }
    __syncthreads();

    for (int j0 = j_begin, buf = 0; j0 < j_end; j0 += N_B, buf ^= 1) {
        if (j0 + N_B < j_end) {
            load(j0 + N_B, buf ^ 1);
        }

        LIL_UNROLL_BY(1)
        for (int n0 = 0; n0 < N_B; n0 += 8 * N_T) {
            float x[M_TILE][N_T][4];
            a.mul(x, tiles + buf * n_tile, p.n_embd, n0);

            LIL_UNROLL
            for (int m = 0; m < M_TILE; ++m) {
                LIL_UNROLL
                for (int h = 0; h < 2; ++h) {
                    float top = max[m][h];
                    LIL_UNROLL
                    for (int i = 0; i < 2 * N_T; ++i) {
                        const int  c  = n0 + i / 2 * 8 + lane % 4 * 2 + i % 2;
                        const bool is = j0 + c < j_end &&
                                (job.pos ? s_pos[buf * N_B + c] <= job.pos0 + (float) query[m][h]
                                         : j0 + c <= job.base + query[m][h]);

                        float & l = x[m][i / 2][2 * h + i % 2];

                        l   = is ? lil_score_cap(p, l) : -INFINITY;
                        top = fmaxf(top, l);
                    }
                    if (top > -INFINITY) {
                        sum[m][h] *= expf(max[m][h] - top);
                        LIL_UNROLL
                        for (int i = 0; i < 2 * N_T; ++i) {
                            sum[m][h] += expf(x[m][i / 2][2 * h + i % 2] - top);
                        }
                        max[m][h] = top;
                    }
                }
            }
        }
        __syncthreads();
    }

    float * stat = p.stat + (((int64_t) i_step * p.n_head_kv + i_kv) * p.n_split + split) * p.n_query * p.n_group * 2;

    LIL_UNROLL
    for (int m = 0; m < M_TILE; ++m) {
        LIL_UNROLL
        for (int h = 0; h < 2; ++h) {
            const float top = fmaxf(
                    max[m][h], fmaxf(__shfl_xor_sync(LIL_FULL, max[m][h], 1), __shfl_xor_sync(LIL_FULL, max[m][h], 2)));
            const float all = fmaxf(top, __shfl_xor_sync(LIL_FULL, top, 3));

            float s = max[m][h] > -INFINITY ? sum[m][h] * expf(max[m][h] - all) : 0.0f;
            s += __shfl_xor_sync(LIL_FULL, s, 1);
            s += __shfl_xor_sync(LIL_FULL, s, 2);

            const int r = rw + m * 16 + h * 8;
            if (lane % 4 == 0 && r < n_row) {
                stat[2 * r]     = all;
                stat[2 * r + 1] = s;
            }
        }
    }
}

// Grid: [tiles of N_A keys, n_head_kv, n_steps]
template <int TYPE, int N_K>
static __global__ void __launch_bounds__(lil_mma_shape<N_K>::N_THREAD, 2)
        lil_score_sum_kernel(const lil_score_params p) {
    constexpr int M_TILE = lil_mma_shape<N_K>::M_TILE;
    constexpr int N_A    = lil_mma_shape<N_K>::N_A;
    constexpr int N_B    = lil_mma_shape<N_K>::N_B;
    constexpr int N_T    = lil_mma_shape<N_K>::N_T;

    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;

    const lil_score_job job(p, i_kv, i_step);

    const int n_row = job.n_row(p);
    const int j0    = job.j_first + blockIdx.x * N_A;

    if (n_row == 0 || j0 >= job.n_keys) {
        return; // the whole block
    }

    LIL_SHARED(uint16_t, tiles); // two, then [3, N_B, 2] maximum, 1/sum and query of their rows

    const int n_pad  = lil_mma_n_pad(p.n_embd);
    const int n_tile = N_B * (n_pad + 8);

    float * s_max   = (float *) (tiles + 2 * n_tile);
    float * s_inv   = s_max + 2 * N_B;
    int *   s_query = (int *) (s_inv + 2 * N_B);

    const auto load_q = [&](const char * row, int i) { return lil_load8_scaled(row, i, p.scale); };
    const auto load_k = [&](const char * row, int i) { return lil_load8_f16<TYPE>(p.type_k, row, i); };

    for (int half = 0; half < 2; ++half) {
        lil_mma_load<N_K>(
                tiles + half * n_tile, p.n_embd, [&](int r) { return job.key(p, j0 + half * N_B + r); }, load_k);
    }
    __syncthreads();

    lil_mma_a<N_K> a;
    a.get(tiles, p.n_embd);

    __syncthreads(); // the tiles are free

    // the lane's keys
    const int lane = threadIdx.x % LIL_WARP;
    const int jw   = j0 + threadIdx.x / LIL_WARP * 16 * M_TILE + lane / 4;

    float pos[M_TILE][2];
    float sum[M_TILE][2];
    LIL_UNROLL
    for (int m = 0; m < M_TILE; ++m) {
        LIL_UNROLL
        for (int h = 0; h < 2; ++h) {
            pos[m][h] = job.pos ? job.pos[min(jw + m * 16 + h * 8, job.n_keys - 1)] : 0.0f;
            sum[m][h] = 0.0f;
        }
    }

    // rows whose queries may give to any of the keys
    const int i_begin = job.pos ? 0 : min(job.n_query, max(0, j0 - job.base));
    const int i_end   = p.n_window > 0 ? min(job.n_query, max(0, j0 + N_A - 1 - job.base + p.n_window)) : job.n_query;
    const int r_end   = i_end * p.n_group;

    const float * stat   = p.stat + ((int64_t) i_step * p.n_head_kv + i_kv) * p.n_split * p.n_query * p.n_group * 2;
    const int64_t n_stat = (int64_t) p.n_query * p.n_group * 2;

    const auto load = [&](int r0, int buf) {
        lil_mma_load<N_K>(
                tiles + buf * n_tile, p.n_embd, [&](int r) { return r0 + r < r_end ? job.query(p, r0 + r) : nullptr; },
                load_q);

        if ((int) threadIdx.x < N_B) {
            const int r = r0 + (int) threadIdx.x;

            float max = -INFINITY;
            float all = 0.0f;
            if (r < r_end) {
                const float sink = lil_get_sink(p.sinks, i_kv * p.n_group + r % p.n_group);

                max = sink;
                for (int s = 0; s < p.n_split; ++s) {
                    max = fmaxf(max, stat[s * n_stat + 2 * r]);
                }
                all = max > -INFINITY ? expf(sink - max) : 0.0f;
                for (int s = 0; s < p.n_split && max > -INFINITY; ++s) {
                    all += stat[s * n_stat + 2 * r + 1] * expf(stat[s * n_stat + 2 * r] - max);
                }
            }

            s_max[buf * N_B + threadIdx.x]   = max;
            s_inv[buf * N_B + threadIdx.x]   = 1.0f / all;
            s_query[buf * N_B + threadIdx.x] = all > 0.0f ? r / p.n_group : -1; // -1: gives nothing
        }
    };

    if (i_begin * p.n_group < r_end) {
        load(i_begin * p.n_group, 0);
    }
    __syncthreads();

    for (int r0 = i_begin * p.n_group, buf = 0; r0 < r_end; r0 += N_B, buf ^= 1) {
        if (r0 + N_B < r_end) {
            load(r0 + N_B, buf ^ 1);
        }

        LIL_UNROLL_BY(1)
        for (int n0 = 0; n0 < N_B; n0 += 8 * N_T) {
            float x[M_TILE][N_T][4];
            a.mul(x, tiles + buf * n_tile, p.n_embd, n0);

            LIL_UNROLL
            for (int i = 0; i < 2 * N_T; ++i) {
                const int   c     = buf * N_B + n0 + i / 2 * 8 + lane % 4 * 2 + i % 2;
                const float max   = s_max[c];
                const float inv   = s_inv[c];
                const int   query = s_query[c];

                LIL_UNROLL
                for (int m = 0; m < M_TILE; ++m) {
                    LIL_UNROLL
                    for (int h = 0; h < 2; ++h) {
                        const int j = jw + m * 16 + h * 8;

                        const bool is = query >= 0 &&
                                (job.pos ? pos[m][h] <= job.pos0 + (float) query : j <= job.base + query) &&
                                (p.n_window == 0 || j > job.base + query - p.n_window);

                        sum[m][h] += is ? expf(lil_score_cap(p, x[m][i / 2][2 * h + i % 2]) - max) * inv : 0.0f;
                    }
                }
            }
        }
        __syncthreads();
    }

    const int64_t strm = p.dst_nb_strm ? ((const int32_t *) (p.steps + i_step * p.steps_nb1))[LIL_STEP_STREAM] : 0;

    float * dst = (float *) (p.dst + i_step * p.dst_nb_step + strm * p.dst_nb_strm + i_kv * p.dst_nb1);

    LIL_UNROLL
    for (int m = 0; m < M_TILE; ++m) {
        LIL_UNROLL
        for (int h = 0; h < 2; ++h) {
            float s = sum[m][h];
            s += __shfl_xor_sync(LIL_FULL, s, 1);
            s += __shfl_xor_sync(LIL_FULL, s, 2);

            const int j = jw + m * 16 + h * 8;
            if (lane % 4 == 0 && j < job.n_keys) {
                dst[j - job.j_first] = p.mode == LIL_SCORE_WINDOW ? dst[j] + s : s;
            }
        }
    }
}

// parts of n_kv keys: two blocks for each multiprocessor, each with 512 keys or more
static int lil_score_n_split(
        int64_t n_row, int64_t n_embd, int64_t n_kv, int64_t n_head_kv, int64_t n_steps, int n_sm) {
    const int64_t n_block = (n_row + lil_mma_n_a(n_embd) - 1) / lil_mma_n_a(n_embd) * n_head_kv * n_steps;
    const int64_t n_want  = n_block > 0 ? (2 * n_sm + n_block - 1) / n_block : 1;
    const int64_t n_room  = (n_kv + 511) / 512;

    return (int) (n_want < n_room ? n_want : n_room > 0 ? n_room : 1);
}

static size_t lil_score_n_scratch(
        int64_t n_row, int64_t n_embd, int64_t n_kv, int64_t n_head_kv, int64_t n_steps, int n_sm) {
    return 2 * n_row * n_head_kv * n_steps * lil_score_n_split(n_row, n_embd, n_kv, n_head_kv, n_steps, n_sm);
}

template <int TYPE, int N_K>
static void lil_score_launch_shape(const lil_score_params & p, int64_t n_steps, cudaStream_t stream) {
    constexpr int N_A = lil_mma_shape<N_K>::N_A;
    constexpr int N_B = lil_mma_shape<N_K>::N_B;

    constexpr int N_THREAD = lil_mma_shape<N_K>::N_THREAD;

    const size_t smem = lil_mma_smem<N_K>(p.n_embd) + sizeof(float) * 6 * N_B;

    const auto stat = lil_score_stat_kernel<TYPE, N_K>;
    const auto sum  = lil_score_sum_kernel<TYPE, N_K>;

    LIL_LAUNCH(dim3((unsigned) ((p.n_query * p.n_group + N_A - 1) / N_A * p.n_split), (unsigned) p.n_head_kv,
                       (unsigned) n_steps),
            N_THREAD, smem, stream, stat, p);
    LIL_LAUNCH(dim3((unsigned) ((p.n_sum + N_A - 1) / N_A), (unsigned) p.n_head_kv, (unsigned) n_steps), N_THREAD, smem,
            stream, sum, p);
}

template <int TYPE>
static void lil_score_launch_type(const lil_score_params & p, int64_t n_steps, cudaStream_t stream) {
    if (p.n_embd <= 64) {
        lil_score_launch_shape<TYPE, 4>(p, n_steps, stream);
    } else if (p.n_embd <= 128) {
        lil_score_launch_shape<TYPE, 8>(p, n_steps, stream);
    } else {
        lil_score_launch_shape<TYPE, 16>(p, n_steps, stream);
    }
}

static void lil_score_launch(const lil_score_params & p, int64_t n_steps, cudaStream_t stream) {
    if (p.n_embd > 256) {
        lil_score_launch_shape<LIL_TYPE_ANY, LIL_MMA_N_K_LONG>(p, n_steps, stream);
    } else if (p.type_k == GGML_TYPE_F16) {
        lil_score_launch_type<GGML_TYPE_F16>(p, n_steps, stream);
    } else {
        lil_score_launch_type<LIL_TYPE_ANY>(p, n_steps, stream);
    }
}

// the parameters that come from K and steps
static lil_score_params lil_score_get_params(
        int mode, int64_t n_embd, int64_t n_head_kv, const lil_cuda_tensor & k, const lil_cuda_tensor & steps) {
    lil_score_params p = {};

    p.mode      = mode;
    p.n_embd    = (int) n_embd;
    p.n_head_kv = (int) n_head_kv;

    p.k      = (const char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = lil_cuda_row_size(k.type, n_embd);
    p.type_k = k.type;

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    return p;
}

// q F32 [n_embd, n_head, n_query*n_steps] and K of n_head_kv heads
static bool lil_score_supports(
        int64_t n_head_kv, const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & steps) {
    return q.type == GGML_TYPE_F32 && steps.type == GGML_TYPE_I32 && q.ne[1] % n_head_kv == 0 &&
            k.ne[0] == q.ne[0] * n_head_kv && q.ne[2] % steps.ne[1] == 0 && lil_cuda_can_read(k, q.ne[0]) &&
            q.nb[1] % 16 == 0 && q.nb[2] % 16 == 0 && n_head_kv <= 65535 && steps.ne[1] <= 65535;
}
