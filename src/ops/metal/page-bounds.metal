// Per channel the maximum and the minimum of a page's keys, see lil-ops.h: page_bounds.

#include "lil-metal.h"

// what is the greater (the smaller) of two stays where they are equal
static inline float4 lil_greater(float4 a, float4 b) {
    return float4(b.x > a.x ? b.x : a.x, b.y > a.y ? b.y : a.y, b.z > a.z ? b.z : a.z, b.w > a.w ? b.w : a.w);
}

static inline float4 lil_smaller(float4 a, float4 b) {
    return float4(b.x < a.x ? b.x : a.x, b.y < a.y ? b.y : a.y, b.z < a.z ? b.z : a.z, b.w < a.w ? b.w : a.w);
}

// Grid: [n_head_kv, n_dirty]. A thread takes a quad of channels; lil_type_v is the type of the bounds.
kernel void kernel_lil_page_bounds(
        constant lil_metal_kargs_page_bounds & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * k     [[buffer(3)]],
        device const char * dirty [[buffer(4)]],
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_kv = tgpig.x;

    device const int32_t * entry = (device const int32_t *) (dirty + tgpig.y*args.nb_d1);
    device const int32_t * cells = entry + LIL_METAL_DIRTY_HEAD;

    k   += (uint64_t) entry[LIL_METAL_DIRTY_STREAM]*args.nb_k2 + i_kv*args.size_k;
    dst += (uint64_t) entry[LIL_METAL_DIRTY_TABLE]*args.nb_b3 + (uint64_t) entry[LIL_METAL_DIRTY_PAGE]*args.nb_b2 + i_kv*args.nb_b1;

    const int n  = entry[LIL_METAL_DIRTY_N];
    const int nk = args.n_embd/4;

    for (int i = tiitg; i < nk; i += ntg.x) {
        float4 hi = lil_load_quad(lil_type_k, k + cells[0]*args.nb_k1, i);
        float4 lo = hi;

        for (int j = 1; j < n; ++j) {
            const float4 x = lil_load_quad(lil_type_k, k + cells[j]*args.nb_k1, i);

            hi = lil_greater(hi, x);
            lo = lil_smaller(lo, x);
        }

        if (lil_type_v == LIL_METAL_TYPE_F16) {
            ((device half4 *) dst)[i]      = half4(hi);
            ((device half4 *) dst)[nk + i] = half4(lo);
        } else {
            ((device float4 *) dst)[i]      = hi;
            ((device float4 *) dst)[nk + i] = lo;
        }
    }
}
