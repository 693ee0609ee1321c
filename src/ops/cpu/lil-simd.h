#pragma once

// A vector of floats, on top of ggml's own: what the CPU ops here need of it, on every instruction set that has a fast
// form. Elsewhere LIL_VF_N is 1 and a vector is a float.

#include "simd-mappings.h"
#include "vec.h"

#include <math.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)

typedef __m512 lil_vf;
#define LIL_VF_N 16

static inline lil_vf lil_vf_load (const float * p)               { return _mm512_loadu_ps(p); }
static inline void   lil_vf_store(float * p, lil_vf a)           { _mm512_storeu_ps(p, a); }
static inline lil_vf lil_vf_set1 (float x)                       { return _mm512_set1_ps(x); }
static inline lil_vf lil_vf_add  (lil_vf a, lil_vf b)            { return _mm512_add_ps(a, b); }
static inline lil_vf lil_vf_sub  (lil_vf a, lil_vf b)            { return _mm512_sub_ps(a, b); }
static inline lil_vf lil_vf_max  (lil_vf a, lil_vf b)            { return _mm512_max_ps(a, b); }
static inline lil_vf lil_vf_fma  (lil_vf c, lil_vf a, lil_vf b)  { return _mm512_fmadd_ps(a, b, c); }
static inline lil_vf lil_vf_exp  (lil_vf a)                      { return ggml_v_expf(a); }
static inline float  lil_vf_sum  (lil_vf a)                      { return _mm512_reduce_add_ps(a); }

#elif defined(__AVX2__) && defined(__FMA__)

typedef __m256 lil_vf;
#define LIL_VF_N 8

static inline lil_vf lil_vf_load (const float * p)               { return _mm256_loadu_ps(p); }
static inline void   lil_vf_store(float * p, lil_vf a)           { _mm256_storeu_ps(p, a); }
static inline lil_vf lil_vf_set1 (float x)                       { return _mm256_set1_ps(x); }
static inline lil_vf lil_vf_add  (lil_vf a, lil_vf b)            { return _mm256_add_ps(a, b); }
static inline lil_vf lil_vf_sub  (lil_vf a, lil_vf b)            { return _mm256_sub_ps(a, b); }
static inline lil_vf lil_vf_max  (lil_vf a, lil_vf b)            { return _mm256_max_ps(a, b); }
static inline lil_vf lil_vf_fma  (lil_vf c, lil_vf a, lil_vf b)  { return _mm256_fmadd_ps(a, b, c); }
static inline lil_vf lil_vf_exp  (lil_vf a)                      { return ggml_v_expf(a); }
static inline float  lil_vf_sum  (lil_vf a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    x = _mm_add_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

typedef float32x4_t lil_vf;
#define LIL_VF_N 4

static inline lil_vf lil_vf_load (const float * p)               { return vld1q_f32(p); }
static inline void   lil_vf_store(float * p, lil_vf a)           { vst1q_f32(p, a); }
static inline lil_vf lil_vf_set1 (float x)                       { return vdupq_n_f32(x); }
static inline lil_vf lil_vf_add  (lil_vf a, lil_vf b)            { return vaddq_f32(a, b); }
static inline lil_vf lil_vf_sub  (lil_vf a, lil_vf b)            { return vsubq_f32(a, b); }
static inline lil_vf lil_vf_max  (lil_vf a, lil_vf b)            { return vmaxq_f32(a, b); }
static inline lil_vf lil_vf_fma  (lil_vf c, lil_vf a, lil_vf b)  { return vfmaq_f32(c, a, b); }
static inline float  lil_vf_sum  (lil_vf a)                      { return vaddvq_f32(a); }

#if defined(__ARM_FEATURE_SVE) // there ggml's exp takes vectors of another kind
static inline lil_vf lil_vf_exp(lil_vf a) {
    float x[4];
    vst1q_f32(x, a);
    for (int i = 0; i < 4; ++i) {
        x[i] = expf(x[i]);
    }
    return vld1q_f32(x);
}
#else
static inline lil_vf lil_vf_exp(lil_vf a) { return ggml_v_expf(a); }
#endif

#else

typedef float lil_vf;
#define LIL_VF_N 1

static inline lil_vf lil_vf_load (const float * p)               { return *p; }
static inline void   lil_vf_store(float * p, lil_vf a)           { *p = a; }
static inline lil_vf lil_vf_set1 (float x)                       { return x; }
static inline lil_vf lil_vf_add  (lil_vf a, lil_vf b)            { return a + b; }
static inline lil_vf lil_vf_sub  (lil_vf a, lil_vf b)            { return a - b; }
static inline lil_vf lil_vf_max  (lil_vf a, lil_vf b)            { return a > b ? a : b; }
static inline lil_vf lil_vf_fma  (lil_vf c, lil_vf a, lil_vf b)  { return c + a*b; }
static inline lil_vf lil_vf_exp  (lil_vf a)                      { return expf(a); }
static inline float  lil_vf_sum  (lil_vf a)                      { return a; }

#endif
