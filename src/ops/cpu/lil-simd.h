#pragma once

// A vector of floats, on top of ggml's own: what the CPU ops here need of it, on every instruction set that has a fast
// form. Elsewhere LIL_VF_N is 1 and a vector is a float. LIL_VF_REGS: vectors that stay in registers.
//
// A lil_vf2 is the way to the sums of several vectors, without work across lanes for each: lil_vf2_store_sum(p,
// lil_vf_sum2(a, b), lil_vf_sum2(c, d)) stores the sums of the elements of a, b, c and d.

#include "simd-mappings.h"
#include "vec.h"

#include <math.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)

typedef __m512 lil_vf;
#define LIL_VF_N    16
#define LIL_VF_REGS 32

static inline lil_vf lil_vf_load(const float * p) {
    return _mm512_loadu_ps(p);
}
static inline void lil_vf_store(float * p, lil_vf a) {
    _mm512_storeu_ps(p, a);
}
static inline lil_vf lil_vf_set1(float x) {
    return _mm512_set1_ps(x);
}
static inline lil_vf lil_vf_add(lil_vf a, lil_vf b) {
    return _mm512_add_ps(a, b);
}
static inline lil_vf lil_vf_sub(lil_vf a, lil_vf b) {
    return _mm512_sub_ps(a, b);
}
static inline lil_vf lil_vf_max(lil_vf a, lil_vf b) {
    return _mm512_max_ps(a, b);
}
static inline lil_vf lil_vf_fma(lil_vf c, lil_vf a, lil_vf b) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline lil_vf lil_vf_exp(lil_vf a) {
    return ggml_v_expf(a);
}
static inline float lil_vf_sum(lil_vf a) {
    return _mm512_reduce_add_ps(a);
}

static inline lil_vf lil_vf_min(lil_vf a, lil_vf b) {
    return _mm512_min_ps(a, b);
}
static inline lil_vf lil_vf_div(lil_vf a, lil_vf b) {
    return _mm512_div_ps(a, b);
}
static inline float lil_vf_hmax(lil_vf a) {
    return _mm512_reduce_max_ps(a);
}

static inline lil_vf lil_vf_load_f16(const ggml_fp16_t * p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}

static inline lil_vf lil_vf_load_bf16(const ggml_bf16_t * p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)), 16));
}

static inline lil_vf lil_vf_round_f16(lil_vf a) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

typedef __m512 lil_vf2;

static inline lil_vf2 lil_vf_sum2(lil_vf a, lil_vf b) {
    const __m512d x = _mm512_castps_pd(a);
    const __m512d y = _mm512_castps_pd(b);

    // a a b b
    return _mm512_add_ps(
            _mm512_castpd_ps(_mm512_mask_blend_pd(0xAA, x, y)), _mm512_castpd_ps(_mm512_shuffle_pd(x, y, 0x55)));
}

static inline void lil_vf2_store_sum(float * p, lil_vf2 ab, lil_vf2 cd) {
    // a b c d, four times
    const __m512 x = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xDD));
    const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));

    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)));
}

#elif defined(__AVX2__) && defined(__FMA__)

typedef __m256 lil_vf;
#define LIL_VF_N    8
#define LIL_VF_REGS 16

static inline lil_vf lil_vf_load(const float * p) {
    return _mm256_loadu_ps(p);
}
static inline void lil_vf_store(float * p, lil_vf a) {
    _mm256_storeu_ps(p, a);
}
static inline lil_vf lil_vf_set1(float x) {
    return _mm256_set1_ps(x);
}
static inline lil_vf lil_vf_add(lil_vf a, lil_vf b) {
    return _mm256_add_ps(a, b);
}
static inline lil_vf lil_vf_sub(lil_vf a, lil_vf b) {
    return _mm256_sub_ps(a, b);
}
static inline lil_vf lil_vf_max(lil_vf a, lil_vf b) {
    return _mm256_max_ps(a, b);
}
static inline lil_vf lil_vf_fma(lil_vf c, lil_vf a, lil_vf b) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline lil_vf lil_vf_exp(lil_vf a) {
    return ggml_v_expf(a);
}
static inline float lil_vf_sum(lil_vf a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x        = _mm_add_ps(x, _mm_movehl_ps(x, x));
    x        = _mm_add_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}

static inline lil_vf lil_vf_min(lil_vf a, lil_vf b) {
    return _mm256_min_ps(a, b);
}
static inline lil_vf lil_vf_div(lil_vf a, lil_vf b) {
    return _mm256_div_ps(a, b);
}
static inline float lil_vf_hmax(lil_vf a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x        = _mm_max_ps(x, _mm_movehl_ps(x, x));
    x        = _mm_max_ss(x, _mm_movehdup_ps(x));
    return _mm_cvtss_f32(x);
}

#if defined(__F16C__)
static inline lil_vf lil_vf_load_f16(const ggml_fp16_t * p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

static inline lil_vf lil_vf_round_f16(lil_vf a) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
#else
#define LIL_VF_F16_BY_ELEMENT
#endif

static inline lil_vf lil_vf_load_bf16(const ggml_bf16_t * p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p)), 16));
}

typedef __m256 lil_vf2;

static inline lil_vf2 lil_vf_sum2(lil_vf a, lil_vf b) {
    return _mm256_hadd_ps(a, b);
}

static inline void lil_vf2_store_sum(float * p, lil_vf2 ab, lil_vf2 cd) {
    const __m256 x = _mm256_hadd_ps(ab, cd); // a b c d, twice

    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

typedef float32x4_t lil_vf;
#define LIL_VF_N    4
#define LIL_VF_REGS 32

static inline lil_vf lil_vf_load(const float * p) {
    return vld1q_f32(p);
}
static inline void lil_vf_store(float * p, lil_vf a) {
    vst1q_f32(p, a);
}
static inline lil_vf lil_vf_set1(float x) {
    return vdupq_n_f32(x);
}
static inline lil_vf lil_vf_add(lil_vf a, lil_vf b) {
    return vaddq_f32(a, b);
}
static inline lil_vf lil_vf_sub(lil_vf a, lil_vf b) {
    return vsubq_f32(a, b);
}
static inline lil_vf lil_vf_max(lil_vf a, lil_vf b) {
    return vmaxq_f32(a, b);
}
static inline lil_vf lil_vf_fma(lil_vf c, lil_vf a, lil_vf b) {
    return vfmaq_f32(c, a, b);
}
static inline float lil_vf_sum(lil_vf a) {
    return vaddvq_f32(a);
}

static inline lil_vf lil_vf_min(lil_vf a, lil_vf b) {
    return vminq_f32(a, b);
}
static inline lil_vf lil_vf_div(lil_vf a, lil_vf b) {
    return vdivq_f32(a, b);
}
static inline float lil_vf_hmax(lil_vf a) {
    return vmaxvq_f32(a);
}

static inline lil_vf lil_vf_load_f16(const ggml_fp16_t * p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) p)));
}

static inline lil_vf lil_vf_load_bf16(const ggml_bf16_t * p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *) p), 16));
}

static inline lil_vf lil_vf_round_f16(lil_vf a) {
    return vcvt_f32_f16(vcvt_f16_f32(a));
}

typedef float32x4_t lil_vf2;

static inline lil_vf2 lil_vf_sum2(lil_vf a, lil_vf b) {
    return vpaddq_f32(a, b);
}
static inline void lil_vf2_store_sum(float * p, lil_vf2 ab, lil_vf2 cd) {
    vst1q_f32(p, vpaddq_f32(ab, cd));
}

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
static inline lil_vf lil_vf_exp(lil_vf a) {
    return ggml_v_expf(a);
}
#endif

#else

typedef float lil_vf;
#define LIL_VF_N    1
#define LIL_VF_REGS 32

static inline lil_vf lil_vf_load(const float * p) {
    return *p;
}
static inline void lil_vf_store(float * p, lil_vf a) {
    *p = a;
}
static inline lil_vf lil_vf_set1(float x) {
    return x;
}
static inline lil_vf lil_vf_add(lil_vf a, lil_vf b) {
    return a + b;
}
static inline lil_vf lil_vf_sub(lil_vf a, lil_vf b) {
    return a - b;
}
static inline lil_vf lil_vf_max(lil_vf a, lil_vf b) {
    return a > b ? a : b;
}
static inline lil_vf lil_vf_fma(lil_vf c, lil_vf a, lil_vf b) {
    return c + a * b;
}
static inline lil_vf lil_vf_exp(lil_vf a) {
    return expf(a);
}
static inline float lil_vf_sum(lil_vf a) {
    return a;
}

static inline lil_vf lil_vf_min(lil_vf a, lil_vf b) {
    return a < b ? a : b;
}
static inline lil_vf lil_vf_div(lil_vf a, lil_vf b) {
    return a / b;
}
static inline float lil_vf_hmax(lil_vf a) {
    return a;
}

static inline lil_vf lil_vf_load_f16(const ggml_fp16_t * p) {
    return GGML_CPU_FP16_TO_FP32(*p);
}
static inline lil_vf lil_vf_load_bf16(const ggml_bf16_t * p) {
    return GGML_BF16_TO_FP32(*p);
}
static inline lil_vf lil_vf_round_f16(lil_vf a) {
    return GGML_CPU_FP16_TO_FP32(GGML_CPU_FP32_TO_FP16(a));
}

struct lil_vf2 {
    float a;
    float b;
};

static inline lil_vf2 lil_vf_sum2(lil_vf a, lil_vf b) {
    return { a, b };
}

static inline void lil_vf2_store_sum(float * p, lil_vf2 ab, lil_vf2 cd) {
    p[0] = ab.a;
    p[1] = ab.b;
    p[2] = cd.a;
    p[3] = cd.b;
}

#endif

#if defined(LIL_VF_F16_BY_ELEMENT)
static inline lil_vf lil_vf_load_f16(const ggml_fp16_t * p) {
    float x[LIL_VF_N];
    for (int i = 0; i < LIL_VF_N; ++i) {
        x[i] = GGML_CPU_FP16_TO_FP32(p[i]);
    }
    return lil_vf_load(x);
}

static inline lil_vf lil_vf_round_f16(lil_vf a) {
    float x[LIL_VF_N];
    lil_vf_store(x, a);
    for (int i = 0; i < LIL_VF_N; ++i) {
        x[i] = GGML_CPU_FP16_TO_FP32(GGML_CPU_FP32_TO_FP16(x[i]));
    }
    return lil_vf_load(x);
}
#endif

// n bytes that will be read soon
static inline void lil_prefetch(const void * p, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
#if defined(__GNUC__) || defined(__clang__)
        __builtin_prefetch((const char *) p + i);
#elif defined(__AVX2__)
        _mm_prefetch((const char *) p + i, _MM_HINT_T0);
#else
        GGML_UNUSED(p);
#endif
    }
}
