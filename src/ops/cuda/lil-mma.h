#pragma once

// Dot products of many rows with many rows on tensor cores: products of F16, sums in F32.
//
// A tile is rows of F16 in shared memory, each of n_pad channels (n_embd and zeros, a multiple of 16) and 8 more that
// keep rows of a column in different banks. A block keeps N_A rows in registers ("a", 16*M_TILE of each warp) and lets
// tiles of N_B rows pass ("b").

#include "lil-cuda-device.h"

// N_K: steps of 16 channels, at most. Of long rows (MLA) a block has fewer, so that its tiles fit into the 48 KB of
// shared memory that every device gives without being asked
template <int N_K>
struct lil_mma_shape {
    static constexpr int N_WARP   = N_K <= 16 ? 4 : 2;
    static constexpr int N_THREAD = LIL_WARP * N_WARP;
    static constexpr int M_TILE   = N_K <= 8 ? 2 : 1;         // 16 rows of a warp
    static constexpr int N_A      = 16 * M_TILE * N_WARP;     // rows of a block
    static constexpr int N_B      = N_A / 2;                  // of a tile: two tiles have room where a lay before
    static constexpr int N_T      = N_B < 32 ? N_B / 8 : 4;   // 8 rows of b that are computed at once
    static constexpr int N_LOAD   = N_B * 2 * N_K / N_THREAD; // loads of a thread for a tile
    static constexpr int N_AHEAD  = N_LOAD <= 8 ? N_LOAD : 6; // of which so many are under way
};

// N_K of the kernels that take heads of n_embd channels: one of 4, 8, 16 and this
static constexpr int LIL_MMA_N_K_LONG = LIL_CUDA_MAX_EMBD / 16;

// rows of a block of such
static inline int lil_mma_n_a(int64_t n_embd) {
    return n_embd <= 128    ? lil_mma_shape<8>::N_A
            : n_embd <= 256 ? lil_mma_shape<16>::N_A
                            : lil_mma_shape<LIL_MMA_N_K_LONG>::N_A;
}

static __host__ __device__ __forceinline__ int lil_mma_n_pad(int n_embd) {
    return (n_embd + 15) / 16 * 16;
}

// bytes of shared memory of N_A rows
template <int N_K>
static size_t lil_mma_smem(int n_embd) {
    return sizeof(uint16_t) * lil_mma_shape<N_K>::N_A * (lil_mma_n_pad(n_embd) + 8);
}

// d [16 rows, 8 columns] += a [16 rows, 16 channels]*b [8 columns, 16 channels], by a warp. With g = lane/4 and t =
// lane%4 a lane has
//   a[0] row g, channels 2t and 2t + 1; a[1] row g + 8; a[2], a[3] of these channels 2t + 8 and 2t + 9
//   b[0] column g, channels 2t and 2t + 1; b[1] channels 2t + 8 and 2t + 9
//   d[0], d[1] row g, columns 2t and 2t + 1; d[2], d[3] row g + 8
// This one without tensor cores: for devices before compute capability 7.5
static __device__ __forceinline__ void lil_mma_shuffle(float * d, const uint32_t * a, const uint32_t * b) {
    const int lane = threadIdx.x % LIL_WARP;

    LIL_UNROLL
    for (int i = 0; i < 8; ++i) { // channels 2i and 2i + 1
        const uint32_t a0 = __shfl_sync(LIL_FULL, a[i / 4 * 2], lane / 4 * 4 + i % 4);
        const uint32_t a1 = __shfl_sync(LIL_FULL, a[i / 4 * 2 + 1], lane / 4 * 4 + i % 4);
        const uint32_t b0 = __shfl_sync(LIL_FULL, b[i / 4], lane % 4 * 8 + i % 4);
        const uint32_t b1 = __shfl_sync(LIL_FULL, b[i / 4], lane % 4 * 8 + 4 + i % 4);

        LIL_UNROLL
        for (int shift = 0; shift < 32; shift += 16) {
            const float x0 = lil_half_to_float(a0 >> shift & 0xffffu);
            const float x1 = lil_half_to_float(a1 >> shift & 0xffffu);
            const float y0 = lil_half_to_float(b0 >> shift & 0xffffu);
            const float y1 = lil_half_to_float(b1 >> shift & 0xffffu);

            d[0] += x0 * y0;
            d[1] += x0 * y1;
            d[2] += x1 * y0;
            d[3] += x1 * y1;
        }
    }
}

static __device__ __forceinline__ void lil_mma(float * d, const uint32_t * a, const uint32_t * b) {
#if defined(LIL_EMU_CUDA)
    emu_mma(d, a, b);
#elif __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif __CUDA_ARCH__ >= 750
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#else
    lil_mma_shuffle(d, a, b);
#endif
}

static __device__ __forceinline__ uint4 lil_pack8(const float * x) {
    uint4 res;
    res.x = lil_float_to_half(x[0]) | lil_float_to_half(x[1]) << 16;
    res.y = lil_float_to_half(x[2]) | lil_float_to_half(x[3]) << 16;
    res.z = lil_float_to_half(x[4]) | lil_float_to_half(x[5]) << 16;
    res.w = lil_float_to_half(x[6]) | lil_float_to_half(x[7]) << 16;
    return res;
}

// the channels [i, i + 8) of a row of K as F16
template <int TYPE>
static __device__ __forceinline__ uint4 lil_load8_f16(int type, const char * row, int i) {
    if (TYPE != LIL_TYPE_ANY) {
        type = TYPE;
    }

    const uint4 raw = lil_load8<TYPE>(type, row, i);
    if (type == GGML_TYPE_F16 || type == GGML_TYPE_F32) {
        return raw;
    }

    float x[8];
    lil_widen8<TYPE>(type, raw, x);
    return lil_pack8(x);
}

// of F32, times scale
static __device__ __forceinline__ uint4 lil_load8_scaled(const char * row, int i, float scale) {
    const float4 a = *(const float4 *) (row + 4 * i);
    const float4 b = *(const float4 *) (row + 4 * i + 16);

    const float x[8] = { a.x * scale, a.y * scale, a.z * scale, a.w * scale, b.x * scale, b.y * scale, b.z * scale,
        b.w * scale };
    return lil_pack8(x);
}

// Writes a tile, rows get_row(r) for r in [0, N_B); all threads. load(row, i): 8 channels as F16; a row that is null is
// zeros
template <int N_K, typename F, typename G>
static __device__ __forceinline__ void lil_mma_load(uint16_t * tile, int n_embd, F get_row, G load) {
    constexpr int N_THREAD = lil_mma_shape<N_K>::N_THREAD;
    constexpr int N_LOAD   = lil_mma_shape<N_K>::N_LOAD;
    constexpr int N_AHEAD  = lil_mma_shape<N_K>::N_AHEAD;

    static_assert(N_LOAD % N_AHEAD == 0, "");

    const int n_pad = lil_mma_n_pad(n_embd);

    LIL_UNROLL_BY(1)
    for (int u0 = 0; u0 < N_LOAD; u0 += N_AHEAD) {
        uint4 raw[N_AHEAD];
        LIL_UNROLL
        for (int u = 0; u < N_AHEAD; ++u) {
            const int r = ((u0 + u) * N_THREAD + (int) threadIdx.x) / (2 * N_K);
            const int i = ((u0 + u) * N_THREAD + (int) threadIdx.x) % (2 * N_K) * 8;

            raw[u] = { 0, 0, 0, 0 };
            if (i < n_embd) {
                const char * row = get_row(r);
                if (row) {
                    raw[u] = load(row, i);
                }
            }
        }
        LIL_UNROLL
        for (int u = 0; u < N_AHEAD; ++u) {
            const int r = ((u0 + u) * N_THREAD + (int) threadIdx.x) / (2 * N_K);
            const int i = ((u0 + u) * N_THREAD + (int) threadIdx.x) % (2 * N_K) * 8;

            if (i < n_pad) {
                *(uint4 *) (tile + r * (n_pad + 8) + i) = raw[u];
            }
        }
    }
}

// the warp's rows of two tiles that lie one behind the other
template <int N_K>
struct lil_mma_a {
    uint32_t x[lil_mma_shape<N_K>::M_TILE][N_K][4];

    __device__ __forceinline__ void get(const uint16_t * tiles, int n_embd) {
        constexpr int M_TILE = lil_mma_shape<N_K>::M_TILE;

        const int lane   = threadIdx.x % LIL_WARP;
        const int n_pad  = lil_mma_n_pad(n_embd);
        const int stride = (n_pad + 8) / 2;

        LIL_UNROLL
        for (int m = 0; m < M_TILE; ++m) {
            const uint32_t * row = (const uint32_t *) tiles +
                    ((threadIdx.x / LIL_WARP * M_TILE + m) * 16 + lane / 4) * stride + lane % 4;
            LIL_UNROLL
            for (int i = 0; i < N_K; ++i) {
                if (i * 16 < n_pad) {
                    x[m][i][0] = row[i * 8];
                    x[m][i][1] = row[i * 8 + 8 * stride];
                    x[m][i][2] = row[i * 8 + 4];
                    x[m][i][3] = row[i * 8 + 4 + 8 * stride];
                }
            }
        }
    }

    // d [M_TILE][N_T][4] = the rows times the rows [r0, r0 + 8*N_T) of a tile
    template <int N_T>
    __device__ __forceinline__ void mul(float (*d)[N_T][4], const uint16_t * tile, int n_embd, int r0) const {
        constexpr int M_TILE = lil_mma_shape<N_K>::M_TILE;

        const int lane   = threadIdx.x % LIL_WARP;
        const int n_pad  = lil_mma_n_pad(n_embd);
        const int stride = (n_pad + 8) / 2;

        const uint32_t * row = (const uint32_t *) tile + (r0 + lane / 4) * stride + lane % 4;

        LIL_UNROLL
        for (int m = 0; m < M_TILE; ++m) {
            LIL_UNROLL
            for (int n = 0; n < N_T; ++n) {
                LIL_UNROLL
                for (int i = 0; i < 4; ++i) {
                    d[m][n][i] = 0.0f;
                }
            }
        }
        LIL_UNROLL
        for (int i = 0; i < N_K; ++i) {
            if (i * 16 < n_pad) {
                LIL_UNROLL
                for (int n = 0; n < N_T; ++n) {
                    const uint32_t b[2] = { row[n * 8 * stride + i * 8], row[n * 8 * stride + i * 8 + 4] };
                    LIL_UNROLL
                    for (int m = 0; m < M_TILE; ++m) {
                        lil_mma(d[m][n], x[m][i], b);
                    }
                }
            }
        }
    }
};
