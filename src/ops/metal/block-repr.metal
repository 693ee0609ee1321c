// The keys that stand for a block, see lil-ops.h: block_repr.

#include "topk.h"

// Grid: [n_head_kv, n_dirty]. A block is small: each token's place among the scores is counted. Threadgroup memory: twice the
// tokens of a block, in uints.
kernel void kernel_lil_block_repr(
        constant lil_metal_kargs_block_repr & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * k     [[buffer(3)]],
        device const char * score [[buffer(4)]],
        device const char * dirty [[buffer(5)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_kv = tgpig.x;

    device const int32_t * entry = (device const int32_t *) (dirty + tgpig.y*args.nb_d1);
    device const int32_t * cells = entry + LIL_METAL_DIRTY_HEAD;

    const int      n    = entry[LIL_METAL_DIRTY_N];
    const uint64_t strm = entry[LIL_METAL_DIRTY_STREAM];

    device const float * x = (device const float *) (score + strm*args.nb_x2 + i_kv*args.nb_x1);

    k   += strm*args.nb_k2 + i_kv*args.size_k;
    dst += (uint64_t) entry[LIL_METAL_DIRTY_TABLE]*args.nb_r2 + (uint64_t) entry[LIL_METAL_DIRTY_PAGE]*args.nb_r1;

    threadgroup uint * key  = (threadgroup uint *) shmem; // [n]
    threadgroup uint * take = key + n;                    // [n]

    for (int i = tiitg; i < n; i += ntg.x) {
        key[i] = lil_topk_key(x[cells[i]]);
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int i = tiitg; i < n; i += ntg.x) {
        int n_before = 0;
        for (int j = 0; j < n; ++j) {
            n_before += key[j] > key[i] || (key[j] == key[i] && j > i);
        }
        take[i] = n_before < args.n_repr;
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    device float4 * sum = (device float4 *) dst + i_kv*(args.n_embd/4);

    for (int c = tiitg; c < args.n_embd/4; c += ntg.x) {
        float4 s = float4(0.0f);
        for (int i = 0; i < n; ++i) {
            if (take[i]) {
                s += lil_load_quad(lil_type_k, k + cells[i]*args.nb_k1, c);
            }
        }
        sum[c] = s;
    }
}
