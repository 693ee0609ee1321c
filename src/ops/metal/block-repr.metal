// The keys that stand for a block, see lil-ops.h: block_repr.

#include "dirty.h"

// Grid: [n_head_kv, n_dirty], a simd-group each. Threadgroup memory: twice the tokens of a block, in uints.
kernel void kernel_lil_block_repr(
        constant lil_metal_kargs_dirty & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * k     [[buffer(3)]],
        device const char * score [[buffer(4)]],
        device const char * dirty [[buffer(5)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiisg [[thread_index_in_simdgroup]]) {
    lil_dirty_repr(
            args, dst, k, score, lil_dirty_entry(args, dirty, tgpig.y), tgpig.x, tiisg, (threadgroup uint *) shmem);
}
