#pragma once

// What the kernels share. Rows of K and V are read eight channels at a time: 16 bytes of F16, by one lane of a group of
// LANES = 8, 16 or 32 lanes (the smallest that has 8*LANES channels). So a warp reads 32/LANES rows at once. Of rows of
// more than 256 channels (MLA) a lane reads 8 of every 256.

#include "lil-cuda.h"

#include <math.h>

#ifndef LIL_EMU_CUDA

#include <cuda_fp16.h>

// block: a multiple of 32 threads; smem: bytes of dynamic shared memory
#define LIL_LAUNCH(grid, block, smem, stream, kernel, ...) kernel<<<grid, block, smem, stream>>>(__VA_ARGS__)

// the block's shared memory, all of it dynamic
#define LIL_SHARED(type, name) \
    extern __shared__ __align__(16) unsigned char lil_shared[]; \
    type *                                        name = (type *) lil_shared

#define LIL_PRAGMA(x)    _Pragma(#x)
#define LIL_UNROLL       _Pragma("unroll")
#define LIL_UNROLL_BY(n) LIL_PRAGMA(unroll n)

#endif

#define LIL_WARP 32
#define LIL_FULL 0xffffffffu

// a lane's eights of a long row of K, and of V
static constexpr int LIL_N_C_K = (LIL_CUDA_MAX_EMBD + 255) / 256;
static constexpr int LIL_N_C_V = (LIL_CUDA_MAX_EMBD_V + 255) / 256;

// the type that is known only at run time
#define LIL_TYPE_ANY GGML_TYPE_COUNT

static inline bool lil_cuda_is_kv_type(ggml_type type) {
    return type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0 ||
            type == GGML_TYPE_F32;
}

// heads of K or V, or a row of bounds, that can be read by 8 channels
static inline bool lil_cuda_can_read(const lil_cuda_tensor & t, int64_t n_embd) {
    const bool is_quant = t.type == GGML_TYPE_Q8_0 || t.type == GGML_TYPE_Q4_0;

    return lil_cuda_is_kv_type(t.type) && n_embd > 0 && n_embd <= LIL_CUDA_MAX_EMBD &&
            n_embd % (is_quant ? 32 : 8) == 0 && t.nb[1] % (is_quant ? 2 : 16) == 0 &&
            t.nb[2] % (is_quant ? 2 : 16) == 0 && t.nb[3] % (is_quant ? 2 : 16) == 0;
}

static inline int lil_cuda_n_lanes(int64_t n_embd) {
    return n_embd <= 64 ? 8 : n_embd <= 128 ? 16 : 32;
}

// bytes of n_embd channels
static inline int64_t lil_cuda_row_size(ggml_type type, int64_t n_embd) {
    switch (type) {
        case GGML_TYPE_F32:  return 4 * n_embd;
        case GGML_TYPE_Q8_0: return n_embd / 32 * 34;
        case GGML_TYPE_Q4_0: return n_embd / 32 * 18;
        default:             return 2 * n_embd;
    }
}

static __device__ __forceinline__ float lil_half_to_float(uint32_t x) {
    return __half2float(__ushort_as_half((unsigned short) x));
}

static __device__ __forceinline__ uint32_t lil_float_to_half(float x) {
    return __half_as_ushort(__float2half_rn(x));
}

// the channels [i, i + 8) of a row as they lie there; TYPE may be LIL_TYPE_ANY
template <int TYPE>
static __device__ __forceinline__ uint4 lil_load8(int type, const char * row, int i) {
    if (TYPE != LIL_TYPE_ANY) {
        type = TYPE;
    }

    uint4 res;

    // blocks of 32: the scale, then 32 bytes or 16 of two halves
    if (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0) {
        const bool is_q8 = type == GGML_TYPE_Q8_0;

        const uint16_t * block = (const uint16_t *) (row + i / 32 * (is_q8 ? 34 : 18));
        const uint16_t * qs    = block + 1 + (is_q8 ? i % 32 : i % 16) / 2;

        res.x = qs[0] | (uint32_t) qs[1] << 16;
        res.y = qs[2] | (uint32_t) qs[3] << 16;
        res.z = block[0];
        res.w = 0;

        if (!is_q8) {
            const int shift = i % 32 < 16 ? 0 : 4;

            res.x = res.x >> shift & 0x0f0f0f0fu;
            res.y = res.y >> shift & 0x0f0f0f0fu;
        }
    } else if (type == GGML_TYPE_F32) { // read as F16
        const float4 a = *(const float4 *) (row + 4 * i);
        const float4 b = *(const float4 *) (row + 4 * i + 16);

        res.x = lil_float_to_half(a.x) | lil_float_to_half(a.y) << 16;
        res.y = lil_float_to_half(a.z) | lil_float_to_half(a.w) << 16;
        res.z = lil_float_to_half(b.x) | lil_float_to_half(b.y) << 16;
        res.w = lil_float_to_half(b.z) | lil_float_to_half(b.w) << 16;
    } else {
        res = *(const uint4 *) (row + 2 * i);
    }

    return res;
}

// lil_load8's result as numbers
template <int TYPE>
static __device__ __forceinline__ void lil_widen8(int type, const uint4 & raw, float * x) {
    if (TYPE != LIL_TYPE_ANY) {
        type = TYPE;
    }

    if (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0) {
        const float d = lil_half_to_float(raw.z);
        const int   o = type == GGML_TYPE_Q8_0 ? 0 : 8;

        LIL_UNROLL
        for (int i = 0; i < 4; ++i) {
            x[i]     = d * (float) ((int) (int8_t) (raw.x >> 8 * i) - o);
            x[i + 4] = d * (float) ((int) (int8_t) (raw.y >> 8 * i) - o);
        }
    } else {
        const uint32_t w[4] = { raw.x, raw.y, raw.z, raw.w };

        LIL_UNROLL
        for (int i = 0; i < 4; ++i) {
            if (type == GGML_TYPE_BF16) {
                x[2 * i]     = __uint_as_float(w[i] << 16);
                x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
            } else {
                x[2 * i]     = lil_half_to_float(w[i] & 0xffffu);
                x[2 * i + 1] = lil_half_to_float(w[i] >> 16);
            }
        }
    }
}

// Sums v[0], ..., v[N - 1] over each group of LANES lanes. The lane l of a group returns the sum of v[l/(LANES/N)], N
// <= LANES. v is used up. Halves change hands, so that N sums cost N - 1 + log2(LANES/N) shuffles.
template <int N, int LANES>
static __device__ __forceinline__ float lil_group_sum(float * v, int lane) {
    int n = N;

    LIL_UNROLL
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        if (n > 1) {
            n /= 2;
            const bool upper = (lane & offset) != 0;

            LIL_UNROLL
            for (int i = 0; i < N / 2; ++i) {
                if (i < n) {
                    const float keep = upper ? v[i + n] : v[i];
                    const float give = upper ? v[i] : v[i + n];

                    v[i] = keep + __shfl_xor_sync(LIL_FULL, give, offset);
                }
            }
        } else {
            v[0] += __shfl_xor_sync(LIL_FULL, v[0], offset);
        }
    }

    return v[0];
}

static __device__ __forceinline__ float lil_warp_max(float x) {
    LIL_UNROLL
    for (int offset = LIL_WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(LIL_FULL, x, offset));
    }
    return x;
}

static __device__ __forceinline__ float lil_warp_sum(float x) {
    LIL_UNROLL
    for (int offset = LIL_WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(LIL_FULL, x, offset);
    }
    return x;
}

// the learned sink of a query head, a logit that counts in the softmax's denominator and gives to no token
static __device__ __forceinline__ float lil_get_sink(const float * sinks, int64_t i_head) {
    return sinks ? sinks[i_head] : -INFINITY;
}

// entries of a list of n that one of n_split parts has
static __host__ __device__ __forceinline__ int lil_split_size(int n, int n_split) {
    return ((n + n_split - 1) / n_split + 31) / 32 * 32;
}
