#pragma once

// What the kernels share. Rows of K and V go four channels at a time (a quad), so a head has a multiple of 4 channels.
//
// No kernel uses infinities: Metal compiles with fast math.

#if defined(__METAL_VERSION__)
// ggml-metal takes a library with warnings for one that does not compile
#pragma clang diagnostic ignored "-Weverything"

#include <metal_stdlib>
using namespace metal;

// what C++ does not take
#define LIL_SHMEM           [[threadgroup(0)]]
#define LIL_HOST_NAME(name) [[host_name(name)]]
#else
#define LIL_SHMEM
#define LIL_HOST_NAME(name)
#endif

#include "lil-metal-args.h"

#define LIL_NEG (-FLT_MAX / 2) // below every logit

constant int32_t lil_type_k [[function_constant(LIL_METAL_FC_TYPE_K)]];
constant int32_t lil_type_v [[function_constant(LIL_METAL_FC_TYPE_V)]];

// quad i of a row; an F32 cache is read as FlashAttention reads it, in F16
static inline float4 lil_load_quad(int32_t type, device const char * row, int i) {
    switch (type) {
        case LIL_METAL_TYPE_F16: {
            return float4(((device const half4 *) row)[i]);
        }
        case LIL_METAL_TYPE_F32: {
            return float4(half4(((device const float4 *) row)[i]));
        }
        case LIL_METAL_TYPE_BF16: {
            const ushort4 x = ((device const ushort4 *) row)[i];

            return float4(as_type<float>((uint) x.x << 16), as_type<float>((uint) x.y << 16),
                    as_type<float>((uint) x.z << 16), as_type<float>((uint) x.w << 16));
        }
        case LIL_METAL_TYPE_Q8_0: // blocks of half d, int8_t qs[32]
        {
            device const char * block = row + i / 8 * 34;
            device const char * qs    = block + 2 + i % 8 * 4;

            const float d = *(device const half *) block;

            return float4(d * (float) (signed char) qs[0], d * (float) (signed char) qs[1],
                    d * (float) (signed char) qs[2], d * (float) (signed char) qs[3]);
        }
        default: // Q4_0: blocks of half d, uint8_t qs[16]; the low halves of qs are the first 16 channels
        {
            device const char *  block = row + i / 8 * 18;
            device const uchar * qs    = (device const uchar *) block + 2 + i % 4 * 4;

            const float d     = *(device const half *) block;
            const int   shift = i % 8 < 4 ? 0 : 4;

            return float4(d * (float) ((int) (qs[0] >> shift & 0xF) - 8),
                    d * (float) ((int) (qs[1] >> shift & 0xF) - 8), d * (float) ((int) (qs[2] >> shift & 0xF) - 8),
                    d * (float) ((int) (qs[3] >> shift & 0xF) - 8));
        }
    }
}

// x over the lanes whose index differs in the bits below n, a power of 2
static inline float lil_sum_lanes(float x, int n) {
    for (int mask = n / 2; mask > 0; mask /= 2) {
        x += simd_shuffle_xor(x, (ushort) mask);
    }
    return x;
}

// the learned sink of a query head, a logit that counts in the softmax's denominator and gives to no token
static inline float lil_get_sink(device const char * sinks, int32_t has_sinks, int i_head) {
    return has_sinks ? ((device const float *) sinks)[i_head] : LIL_NEG;
}

// of a step of the select ops
static inline int lil_get_stream(device const char * steps, uint64_t nb_s1, int i_step) {
    return ((device const int32_t *) (steps + i_step * nb_s1))[LIL_METAL_SEL_STREAM];
}

// Sequences of one stream can share cells, so that their steps go one after the other: the threadgroup of a stream's
// first step takes them all, those of the others none.
static inline bool lil_is_first_of_stream(device const char * steps, uint64_t nb_s1, int i_step) {
    for (int s = 0; s < i_step; ++s) {
        if (lil_get_stream(steps, nb_s1, s) == lil_get_stream(steps, nb_s1, i_step)) {
            return false;
        }
    }
    return true;
}
