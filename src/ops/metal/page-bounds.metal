// Per channel the maximum and the minimum of a page's keys, see lil-ops.h: page_bounds.

#include "dirty.h"

// Grid: [n_head_kv, n_dirty]. lil_type_v is the type of the bounds.
kernel void kernel_lil_page_bounds(
        constant lil_metal_kargs_dirty & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * k     [[buffer(3)]],
        device const char * dirty [[buffer(4)]],
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    lil_dirty_bounds(args, dst, k, lil_dirty_entry(args, dirty, tgpig.y), tgpig.x, tiitg, ntg.x);
}
