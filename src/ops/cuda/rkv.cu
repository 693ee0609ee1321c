#include "lil-mma.h"

#include <math.h>

// R-KV's scores of a KV head in three kernels, see sparse/evict/rkv.cpp for what they are:
//   the order of the slots by position, by counting; 1/|k| of each key; the sum of the unit keys, for each block's keys
//   for each key, in order: its unit key times the sum of all (so much it is like the others); the newest key that it
//   is like, which is let off; the logits of the last queries a block for each KV head: softmax of the logits, its mean
//   over the queries, the maximum of 7; softmax of the likeness
// What keys are let off is added as integers, whose sums do not depend on the order.

struct lil_rkv_params {
    char *       score; // [capacity, n_head_kv, n_stream]
    const char * ring;  // [n_embd*n_head, n_ring, n_stream]
    const char * k;
    const char * pos; // [capacity, n_head_kv, n_stream]
    const char * steps;
    float *      scratch;

    const float * sinks; // [n_head], or null

    int64_t score_nb1, score_nb2;
    int64_t ring_nb1, ring_nb2;
    int64_t k_nb1, k_nb2, k_head;
    int64_t pos_nb1, pos_nb2;
    int64_t steps_nb1;

    int type_k;
    int n_embd;
    int n_group;
    int n_ring;
    int n_max;  // slots, a multiple of 4
    int n_tile; // of N_A slots

    float scale;
    float softcap;
    float lambda;
    float threshold;
};

static constexpr int   LIL_RKV_FINISH_THREADS = 1024;
static constexpr int   LIL_RKV_FINISH_WARPS   = LIL_RKV_FINISH_THREADS / LIL_WARP;
static constexpr int   LIL_RKV_POS            = 512;              // positions that are compared between barriers
static constexpr float LIL_RKV_ONE            = 1099511627776.0f; // 2^40: sums of 2^20 keys have room

// a head's scratch; all but sum in order of position
struct lil_rkv_head {
    unsigned long long * let_off; // [n_max] what the key is let off, times LIL_RKV_ONE
    int32_t *            slot;    // [n_max]
    float *              pos;     // [n_max]
    float *              inv;     // [n_max] 1/|k|
    float *              like;    // [n_max] the sum of its similarities to all others
    float *              mean;    // [n_max]
    float *              logit;   // [n_max, n_ring]
    float *              sum;     // [n_embd, n_tile] of the unit keys of a tile of slots

    __device__ __forceinline__ lil_rkv_head(const lil_rkv_params & p, int i) {
        float * x = p.scratch + (int64_t) i * n_word(p.n_max, p.n_ring, p.n_embd, p.n_tile);

        let_off = (unsigned long long *) x;
        slot    = (int32_t *) x + 2 * (int64_t) p.n_max;
        pos     = x + 3 * (int64_t) p.n_max;
        inv     = x + 4 * (int64_t) p.n_max;
        like    = x + 5 * (int64_t) p.n_max;
        mean    = x + 6 * (int64_t) p.n_max;
        logit   = x + 7 * (int64_t) p.n_max;
        sum     = logit + (int64_t) p.n_ring * p.n_max;
    }

    static __host__ __device__ __forceinline__ int64_t n_word(
            int64_t n_max, int64_t n_ring, int64_t n_embd, int64_t n_tile) {
        return (7 + n_ring) * n_max + n_embd * n_tile; // a multiple of 4
    }
};

// f(x) for each channel's value x of a row of a tile, 8 channels of F16 at a time
template <typename F>
static __device__ __forceinline__ void lil_rkv_each(const uint16_t * row, int n_embd, F f) {
    for (int i = 0; i < n_embd; i += 8) {
        float x[8];
        lil_widen8<GGML_TYPE_F16>(GGML_TYPE_F16, *(const uint4 *) (row + i), x);
        LIL_UNROLL
        for (int c = 0; c < 8; ++c) {
            f(i + c, x[c]);
        }
    }
}

// Grid: [n_tile, n_head_kv, n_steps]
template <int TYPE, int N_K>
static __global__ void __launch_bounds__(lil_mma_shape<N_K>::N_THREAD) lil_rkv_order_kernel(const lil_rkv_params p) {
    constexpr int N_A      = lil_mma_shape<N_K>::N_A;
    constexpr int N_B      = lil_mma_shape<N_K>::N_B;
    constexpr int N_THREAD = lil_mma_shape<N_K>::N_THREAD;

    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;
    const int j0     = blockIdx.x * N_A; // slot

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int n    = step[LIL_STEP_BEFORE];
    const int strm = step[LIL_STEP_STREAM];

    if (step[LIL_STEP_EVICT] == 0 || j0 >= n) {
        return; // the whole block
    }

    const lil_rkv_head head(p, i_step * gridDim.y + i_kv);

    const char *  k   = p.k + strm * p.k_nb2 + i_kv * p.k_head;
    const float * pos = (const float *) (p.pos + strm * p.pos_nb2 + i_kv * p.pos_nb1);

    LIL_SHARED(uint16_t, tiles); // N_A rows, then [LIL_RKV_POS] positions, [N_A] 1/|k|

    const int stride = lil_mma_n_pad(p.n_embd) + 8;

    float * s_pos = (float *) (tiles + N_A * stride);
    float * s_inv = s_pos + LIL_RKV_POS;

    for (int half = 0; half < 2; ++half) { // behind the end: zeros
        lil_mma_load<N_K>(
                tiles + half * N_B * stride, p.n_embd,
                [&](int r) {
                    r += j0 + half * N_B;
                    return r < n ? k + r * p.k_nb1 : nullptr;
                },
                [&](const char * row, int i) { return lil_load8_f16<TYPE>(p.type_k, row, i); });
    }

    const int  j    = j0 + (int) threadIdx.x;
    const bool mine = (int) threadIdx.x < N_A && j < n;

    const float pos_j = mine ? pos[j] : 0.0f;

    int n_before = 0;
    for (int i0 = 0; i0 < n; i0 += LIL_RKV_POS) {
        LIL_UNROLL
        for (int i = threadIdx.x; i < LIL_RKV_POS; i += N_THREAD) {
            s_pos[i] = i0 + i < n ? pos[i0 + i] : INFINITY;
        }
        __syncthreads();

        if ((int) threadIdx.x < N_A) {
            LIL_UNROLL_BY(8)
            for (int i = 0; i < LIL_RKV_POS; i += 4) {
                const float4 x = *(const float4 *) (s_pos + i);
                n_before += (x.x < pos_j) + (x.y < pos_j) + (x.z < pos_j) + (x.w < pos_j);
            }
        }
        __syncthreads();
    }

    float inv = 0.0f;
    if (mine) {
        float sum = 0.0f;
        lil_rkv_each(tiles + threadIdx.x * stride, p.n_embd, [&](int, float x) { sum += x * x; });
        inv = 1.0f / fmaxf(sqrtf(sum), 1e-12f);

        head.let_off[n_before] = 0;
        head.slot[n_before]    = j;
        head.pos[n_before]     = pos_j;
        head.inv[n_before]     = inv;
    }
    if ((int) threadIdx.x < N_A) {
        s_inv[threadIdx.x] = inv;
    }
    __syncthreads();

    for (int d = threadIdx.x; d < p.n_embd; d += N_THREAD) {
        float sum = 0.0f;
        LIL_UNROLL_BY(8)
        for (int r = 0; r < N_A; ++r) {
            sum += s_inv[r] * lil_half_to_float(tiles[r * stride + d]);
        }
        head.sum[(int64_t) blockIdx.x * p.n_embd + d] = sum;
    }
}

// Grid: [n_tile, n_head_kv, n_steps]
template <int TYPE, int N_K>
static __global__ void __launch_bounds__(lil_mma_shape<N_K>::N_THREAD, 2) lil_rkv_like_kernel(const lil_rkv_params p) {
    constexpr int M_TILE   = lil_mma_shape<N_K>::M_TILE;
    constexpr int N_A      = lil_mma_shape<N_K>::N_A;
    constexpr int N_B      = lil_mma_shape<N_K>::N_B;
    constexpr int N_T      = lil_mma_shape<N_K>::N_T;
    constexpr int N_WARP   = lil_mma_shape<N_K>::N_WARP;
    constexpr int N_THREAD = lil_mma_shape<N_K>::N_THREAD;

    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;
    const int i0     = blockIdx.x * N_A; // in order of position

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int n    = step[LIL_STEP_BEFORE];
    const int strm = step[LIL_STEP_STREAM];

    if (step[LIL_STEP_EVICT] == 0 || i0 >= n) {
        return; // the whole block
    }

    const lil_rkv_head head(p, i_step * gridDim.y + i_kv);

    const char * k    = p.k + strm * p.k_nb2 + i_kv * p.k_head;
    const char * ring = p.ring + strm * p.ring_nb2 + (int64_t) i_kv * p.n_group * p.n_embd * sizeof(float);

    // two, then [2, N_B] 1/|k|, [2, N_WARP] flags, [n_embd] the sum of all unit keys
    LIL_SHARED(uint16_t, tiles);

    const int stride = lil_mma_n_pad(p.n_embd) + 8;

    float * s_inv  = (float *) (tiles + N_A * stride);
    int *   s_done = (int *) (s_inv + 2 * N_B);
    float * s_sum  = (float *) (s_done + 2 * N_WARP);

    const auto load_k = [&](const char * row, int i) { return lil_load8_f16<TYPE>(p.type_k, row, i); };

    for (int half = 0; half < 2; ++half) { // behind the end: the last one again
        lil_mma_load<N_K>(
                tiles + half * N_B * stride, p.n_embd,
                [&](int r) { return k + (int64_t) head.slot[min(i0 + half * N_B + r, n - 1)] * p.k_nb1; }, load_k);
    }
    for (int d = threadIdx.x; d < p.n_embd; d += N_THREAD) {
        float sum = 0.0f;
        LIL_UNROLL_BY(8)
        for (int t = 0; t < (n + N_A - 1) / N_A; ++t) {
            sum += head.sum[(int64_t) t * p.n_embd + d];
        }
        s_sum[d] = sum;
    }
    __syncthreads();

    lil_mma_a<N_K> a;
    a.get(tiles, p.n_embd);

    if ((int) threadIdx.x < N_A && i0 + (int) threadIdx.x < n) {
        float all  = 0.0f;
        float self = 0.0f;
        lil_rkv_each(tiles + threadIdx.x * stride, p.n_embd, [&](int d, float x) {
            all += x * s_sum[d];
            self += x * x;
        });

        const float inv             = head.inv[i0 + threadIdx.x];
        head.like[i0 + threadIdx.x] = inv * all - inv * self * inv;
    }
    __syncthreads(); // the tiles are free

    // the lane's keys
    const int lane = threadIdx.x % LIL_WARP;
    const int warp = threadIdx.x / LIL_WARP;
    const int iw   = i0 + warp * 16 * M_TILE + lane / 4;

    //
    // logits: the columns of a product are 8 queries, and the products are those of the heads
    //

    const int n_win = step[LIL_STEP_WIN];
    const int p0    = step[LIL_STEP_POS] - n_win; // the first query's position

    for (int q0 = 0; q0 < n_win; q0 += 8) {
        float best[M_TILE][4];
        LIL_UNROLL
        for (int m = 0; m < M_TILE; ++m) {
            LIL_UNROLL
            for (int i = 0; i < 4; ++i) {
                best[m][i] = -INFINITY;
            }
        }

        for (int g0 = 0; g0 < p.n_group; g0 += N_B / 8) {
            lil_mma_load<N_K>(
                    tiles, p.n_embd,
                    [&](int r) {
                        const int g = g0 + r / 8;
                        const int q = q0 + r % 8;
                        return g < p.n_group && q < n_win
                                ? ring + (p0 + q) % p.n_ring * p.ring_nb1 + g * p.n_embd * sizeof(float)
                                : nullptr;
                    },
                    [&](const char * row, int i) { return lil_load8_scaled(row, i, p.scale); });
            __syncthreads();

            LIL_UNROLL_BY(1)
            for (int n0 = 0; n0 < N_B && g0 + n0 / 8 < p.n_group; n0 += 8 * N_T) {
                float x[M_TILE][N_T][4];
                a.mul(x, tiles, p.n_embd, n0);

                LIL_UNROLL
                for (int m = 0; m < M_TILE; ++m) {
                    LIL_UNROLL
                    for (int t = 0; t < N_T; ++t) {
                        LIL_UNROLL
                        for (int i = 0; i < 4; ++i) {
                            best[m][i] = g0 + n0 / 8 + t < p.n_group ? fmaxf(best[m][i], x[m][t][i]) : best[m][i];
                        }
                    }
                }
            }
            __syncthreads(); // the tile is free
        }

        LIL_UNROLL
        for (int m = 0; m < M_TILE; ++m) {
            LIL_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int at = iw + m * 16 + i / 2 * 8;
                const int q  = q0 + lane % 4 * 2 + i % 2;

                if (at < n && q < n_win) {
                    const float x = p.softcap != 0.0f ? p.softcap * tanhf(best[m][i] / p.softcap) : best[m][i];

                    head.logit[(int64_t) q * p.n_max + at] = head.pos[at] <= (float) (p0 + q) ? x : -INFINITY;
                }
            }
        }
    }

    //
    // the newest key that each is like: the keys pass from the newest on, until all have found theirs
    //

    float inv[M_TILE][2];
    int   newest[M_TILE][2];
    float found[M_TILE][2];
    LIL_UNROLL
    for (int m = 0; m < M_TILE; ++m) {
        LIL_UNROLL
        for (int h = 0; h < 2; ++h) {
            inv[m][h]    = head.inv[min(iw + m * 16 + h * 8, n - 1)];
            newest[m][h] = -1;
            found[m][h]  = 0.0f;
        }
    }

    const auto load = [&](int j0, int buf) {
        lil_mma_load<N_K>(
                tiles + buf * N_B * stride, p.n_embd,
                [&](int r) { return k + (int64_t) head.slot[min(j0 + r, n - 1)] * p.k_nb1; }, load_k);

        if ((int) threadIdx.x < N_B) {
            const int j                    = j0 + (int) threadIdx.x;
            s_inv[buf * N_B + threadIdx.x] = j < n ? head.inv[j] : 0.0f;
        }
    };

    const int j_last = (n - 1) / N_B * N_B;

    load(j_last, 0);
    __syncthreads();

    for (int j0 = j_last, buf = 0; j0 >= 0; j0 -= N_B, buf ^= 1) {
        if (j0 > 0) {
            load(j0 - N_B, buf ^ 1);
        }

        LIL_UNROLL_BY(1)
        for (int n0 = 0; n0 < N_B; n0 += 8 * N_T) {
            float x[M_TILE][N_T][4];
            a.mul(x, tiles + buf * N_B * stride, p.n_embd, n0);

            LIL_UNROLL
            for (int i = 0; i < 2 * N_T; ++i) {
                const int   c     = n0 + i / 2 * 8 + lane % 4 * 2 + i % 2;
                const float inv_j = s_inv[buf * N_B + c];

                LIL_UNROLL
                for (int m = 0; m < M_TILE; ++m) {
                    LIL_UNROLL
                    for (int h = 0; h < 2; ++h) {
                        const float s = x[m][i / 2][2 * h + i % 2] * inv[m][h] * inv_j;

                        if (s > p.threshold && j0 + c != iw + m * 16 + h * 8 && j0 + c > newest[m][h]) {
                            newest[m][h] = j0 + c;
                            found[m][h]  = s;
                        }
                    }
                }
            }
        }

        // four lanes have columns of the same rows
        bool is_done = true;
        LIL_UNROLL
        for (int m = 0; m < M_TILE; ++m) {
            LIL_UNROLL
            for (int h = 0; h < 2; ++h) {
                int top = newest[m][h];
                top     = max(top, __shfl_xor_sync(LIL_FULL, top, 1));
                top     = max(top, __shfl_xor_sync(LIL_FULL, top, 2));

                is_done = is_done && (top >= 0 || iw + m * 16 + h * 8 >= n);
            }
        }
        const unsigned done = __ballot_sync(LIL_FULL, is_done);
        if (lane == 0) {
            s_done[buf * N_WARP + warp] = done == LIL_FULL;
        }
        __syncthreads();

        bool all_done = true;
        LIL_UNROLL
        for (int i = 0; i < N_WARP; ++i) {
            all_done = all_done && s_done[buf * N_WARP + i];
        }
        if (all_done) {
            break; // the whole block
        }
    }

    LIL_UNROLL
    for (int m = 0; m < M_TILE; ++m) {
        LIL_UNROLL
        for (int h = 0; h < 2; ++h) {
            int top = newest[m][h];
            top     = max(top, __shfl_xor_sync(LIL_FULL, top, 1));
            top     = max(top, __shfl_xor_sync(LIL_FULL, top, 2));

            if (top >= 0 && top == newest[m][h] && iw + m * 16 + h * 8 < n) { // one of the four
                atomicAdd(head.let_off + top, (unsigned long long) (found[m][h] * LIL_RKV_ONE));
            }
        }
    }
}

// the sum or the maximum over the block. shared [LIL_RKV_FINISH_WARPS]
static __device__ __forceinline__ float lil_rkv_block_sum(float x, float * shared) {
    x = lil_warp_sum(x);
    __syncthreads(); // shared is free
    if (threadIdx.x % LIL_WARP == 0) {
        shared[threadIdx.x / LIL_WARP] = x;
    }
    __syncthreads();
    return lil_warp_sum(shared[threadIdx.x % LIL_WARP]);
}

static __device__ __forceinline__ float lil_rkv_block_max(float x, float * shared) {
    x = lil_warp_max(x);
    __syncthreads(); // shared is free
    if (threadIdx.x % LIL_WARP == 0) {
        shared[threadIdx.x / LIL_WARP] = x;
    }
    __syncthreads();
    return lil_warp_max(shared[threadIdx.x % LIL_WARP]);
}

// Grid: [n_head_kv, n_steps]
static __global__ void __launch_bounds__(LIL_RKV_FINISH_THREADS, 1) lil_rkv_finish_kernel(const lil_rkv_params p) {
    static_assert(LIL_RKV_FINISH_WARPS == LIL_WARP, "a warp has a word of each warp");

    const int i_kv   = blockIdx.x;
    const int i_step = blockIdx.y;

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int n     = step[LIL_STEP_BEFORE];
    const int n_win = step[LIL_STEP_WIN];

    if (step[LIL_STEP_EVICT] == 0) {
        return; // the whole block
    }

    const lil_rkv_head head(p, i_step * gridDim.x + i_kv);

    // as with the logits, the largest of the group
    float sink = -INFINITY;
    for (int g = 0; g < p.n_group; ++g) {
        sink = fmaxf(sink, lil_get_sink(p.sinks, i_kv * p.n_group + g));
    }

    LIL_SHARED(float, shared);
    float * s_max = shared + LIL_RKV_FINISH_WARPS; // [n_ring]
    float * s_inv = s_max + p.n_ring;              // [n_ring]

    // a warp for each query
    for (int q = threadIdx.x / LIL_WARP; q < n_win; q += LIL_RKV_FINISH_WARPS) {
        const float * x = head.logit + (int64_t) q * p.n_max;

        float max = sink;
        LIL_UNROLL_BY(4)
        for (int i = threadIdx.x % LIL_WARP; i < n; i += LIL_WARP) {
            max = fmaxf(max, x[i]);
        }
        max = lil_warp_max(max);
        max = max > -INFINITY ? max : 0.0f; // a query that sees nothing gives nothing

        float sum = 0.0f;
        LIL_UNROLL_BY(4)
        for (int i = threadIdx.x % LIL_WARP; i < n; i += LIL_WARP) {
            sum += expf(x[i] - max);
        }
        sum = lil_warp_sum(sum) + expf(sink - max);

        if (threadIdx.x % LIL_WARP == 0) {
            s_max[q] = max;
            s_inv[q] = sum > 0.0f ? 1.0f / (sum * (float) n_win) : 0.0f;
        }
    }
    __syncthreads();

    float max = -INFINITY;
    for (int i = threadIdx.x; i < n; i += LIL_RKV_FINISH_THREADS) {
        float mean = 0.0f;
        for (int q = 0; q < n_win; ++q) {
            mean += expf(head.logit[(int64_t) q * p.n_max + i] - s_max[q]) * s_inv[q];
        }
        head.mean[i] = mean;

        const float like = (head.like[i] - (float) head.let_off[i] / LIL_RKV_ONE) / (float) n;
        head.like[i]     = like;
        max              = fmaxf(max, like);
    }
    max = lil_rkv_block_max(max, shared);

    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += LIL_RKV_FINISH_THREADS) {
        sum += expf(head.like[i] - max);
    }
    sum = lil_rkv_block_sum(sum, shared);

    float * score = (float *) (p.score + step[LIL_STEP_STREAM] * p.score_nb2 + i_kv * p.score_nb1);

    for (int i = threadIdx.x; i < n; i += LIL_RKV_FINISH_THREADS) {
        float mean = 0.0f; // none is less
        LIL_UNROLL
        for (int d = -3; d <= 3; ++d) {
            mean = fmaxf(mean, head.mean[i + d < 0 ? 0 : i + d < n ? i + d : n - 1]);
        }
        score[head.slot[i]] = p.lambda * mean - (1.0f - p.lambda) * expf(head.like[i] - max) / sum;
    }
}

template <int TYPE, int N_K>
static void lil_rkv_launch_shape(lil_rkv_params & p, int64_t n_head_kv, int64_t n_steps, cudaStream_t stream) {
    constexpr int N_A      = lil_mma_shape<N_K>::N_A;
    constexpr int N_B      = lil_mma_shape<N_K>::N_B;
    constexpr int N_WARP   = lil_mma_shape<N_K>::N_WARP;
    constexpr int N_THREAD = lil_mma_shape<N_K>::N_THREAD;

    const dim3   grid((unsigned) p.n_tile, (unsigned) n_head_kv, (unsigned) n_steps);
    const size_t smem = lil_mma_smem<N_K>(p.n_embd);

    const auto order = lil_rkv_order_kernel<TYPE, N_K>;
    const auto like  = lil_rkv_like_kernel<TYPE, N_K>;

    LIL_LAUNCH(grid, N_THREAD, smem + sizeof(float) * (LIL_RKV_POS + N_A), stream, order, p);
    LIL_LAUNCH(grid, N_THREAD, smem + sizeof(float) * (2 * N_B + 2 * N_WARP + p.n_embd), stream, like, p);
    LIL_LAUNCH(dim3((unsigned) n_head_kv, (unsigned) n_steps), LIL_RKV_FINISH_THREADS,
            sizeof(float) * (LIL_RKV_FINISH_WARPS + 2 * p.n_ring), stream, lil_rkv_finish_kernel, p);
}

template <int TYPE>
static void lil_rkv_launch_type(lil_rkv_params & p, int64_t n_head_kv, int64_t n_steps, cudaStream_t stream) {
    if (p.n_embd <= 64) {
        lil_rkv_launch_shape<TYPE, 4>(p, n_head_kv, n_steps, stream);
    } else if (p.n_embd <= 128) {
        lil_rkv_launch_shape<TYPE, 8>(p, n_head_kv, n_steps, stream);
    } else {
        lil_rkv_launch_shape<TYPE, 16>(p, n_head_kv, n_steps, stream);
    }
}

static int64_t lil_rkv_n_max(const lil_cuda_tensor & k) {
    return (k.ne[1] + 3) / 4 * 4;
}

static int64_t lil_rkv_n_tile(const lil_cuda_tensor & k, int64_t n_embd) {
    return (k.ne[1] + lil_mma_n_a(n_embd) - 1) / lil_mma_n_a(n_embd);
}

bool lil_cuda_rkv_score_supports(const lil_evict_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & ring, const lil_cuda_tensor & k, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps) {
    return score.type == GGML_TYPE_F32 && pos.type == GGML_TYPE_F32 && ring.type == GGML_TYPE_F32 &&
            steps.type == GGML_TYPE_I32 && score.ne[1] == layer.n_head_kv && k.ne[0] % layer.n_head_kv == 0 &&
            ring.ne[0] % k.ne[0] == 0 && lil_cuda_can_read(k, k.ne[0] / layer.n_head_kv) && ring.nb[1] % 16 == 0 &&
            ring.nb[2] % 16 == 0 && ring.ne[1] <= 4096 && layer.threshold >= 0.0f && layer.n_head_kv <= 65535 &&
            steps.ne[1] <= 65535;
}

size_t lil_cuda_rkv_score_n_scratch(const lil_evict_layer & layer, const lil_cuda_tensor & ring,
        const lil_cuda_tensor & k, const lil_cuda_tensor & steps) {
    const int64_t n_embd = k.ne[0] / layer.n_head_kv;

    return lil_rkv_head::n_word(lil_rkv_n_max(k), ring.ne[1], n_embd, lil_rkv_n_tile(k, n_embd)) * layer.n_head_kv *
            steps.ne[1];
}

void lil_cuda_rkv_score(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & ring,
        const lil_cuda_tensor & k, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, float * scratch, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_rkv_score_supports(layer, score, ring, k, pos, steps));

    lil_rkv_params p = {};

    p.n_embd    = (int) (k.ne[0] / layer.n_head_kv);
    p.n_group   = (int) (ring.ne[0] / k.ne[0]);
    p.n_ring    = (int) ring.ne[1];
    p.n_max     = (int) lil_rkv_n_max(k);
    p.n_tile    = (int) lil_rkv_n_tile(k, p.n_embd);
    p.type_k    = k.type;
    p.scale     = layer.scale;
    p.softcap   = layer.softcap;
    p.lambda    = layer.lambda;
    p.threshold = layer.threshold;
    p.scratch   = scratch;
    p.sinks     = (const float *) sinks.data;

    p.score     = (char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.ring     = (const char *) ring.data;
    p.ring_nb1 = ring.nb[1];
    p.ring_nb2 = ring.nb[2];

    p.k      = (const char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = lil_cuda_row_size(k.type, p.n_embd);

    p.pos     = (const char *) pos.data;
    p.pos_nb1 = pos.nb[1];
    p.pos_nb2 = pos.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    if (p.n_embd > 256) {
        lil_rkv_launch_shape<LIL_TYPE_ANY, LIL_MMA_N_K_LONG>(p, layer.n_head_kv, steps.ne[1], stream);
    } else if (p.type_k == GGML_TYPE_F16) {
        lil_rkv_launch_type<GGML_TYPE_F16>(p, layer.n_head_kv, steps.ne[1], stream);
    } else {
        lil_rkv_launch_type<LIL_TYPE_ANY>(p, layer.n_head_kv, steps.ne[1], stream);
    }
}
