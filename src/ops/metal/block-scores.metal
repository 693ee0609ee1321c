// InfLLM: the scores of the blocks, see lil-ops.h: block_scores.

#include "dirty.h"

// Grid: [n_blocks_max/LIL_METAL_BLOCK_SCORES rounded up, n_steps]. q.k summed over the query heads of a group is the
// sum of the queries times k. A simd-group to a block. Dirty blocks come first, a simd-group to a KV head.
//
// Threadgroup memory: n_embd*n_head_kv floats, and for each simd-group what lil_dirty_repr needs.
kernel void kernel_lil_block_scores(
        constant lil_metal_kargs_block_scores & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * q     [[buffer(2)]],
        device       char * repr  [[buffer(3)]],
        device const char * steps [[buffer(4)]],
        device const char * k     [[buffer(5)]],
        device const char * score [[buffer(6)]],
        device const char * dirty [[buffer(7)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const int i_step = tgpig.y;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);

    const int b0 = tgpig.x*LIL_METAL_BLOCK_SCORES;
    const int b1 = min(b0 + LIL_METAL_BLOCK_SCORES, (int) step[LIL_METAL_SEL_PAGES]);
    if (b0 >= b1) {
        return;
    }

    const int nk  = args.n_embd/4;
    const int n_q = nk*args.n_head_kv;

    threadgroup float4 * sq = (threadgroup float4 *) shmem; // [nk, n_head_kv]

    for (int i = tiitg; i < n_q; i += ntg.x) {
        device const char * head = q + i_step*args.nb_q2 + i/nk*args.n_group*args.nb_q1;

        float4 sum = float4(0.0f);
        for (int g = 0; g < args.n_group; ++g) {
            sum += ((device const float4 *) (head + g*args.nb_q1))[i%nk];
        }
        sq[i] = sum;
    }

    threadgroup uint * shmem_repr = (threadgroup uint *) (sq + n_q) + sgitg*2*args.dirty.n_max;

    for (int i = 0; i < args.dirty.n_dirty; ++i) {
        device const int32_t * entry = lil_dirty_entry(args.dirty, dirty, i);

        if (lil_dirty_is_in(entry, step[LIL_METAL_SEL_TABLE], b0, b1)) {
            for (int i_kv = sgitg; i_kv < args.n_head_kv; i_kv += ntg.x/32) {
                lil_dirty_repr(args.dirty, repr, k, score, entry, i_kv, tiisg, shmem_repr);
            }
        }
    }

    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);

    repr += (uint64_t) step[LIL_METAL_SEL_TABLE]*args.nb_r2;

    for (int b = b0 + sgitg; b < b1; b += ntg.x/32) {
        device const float4 * row = (device const float4 *) (repr + b*args.nb_r1);

        float x = 0.0f;
        for (int i = tiisg; i < n_q; i += 32) {
            x += dot(row[i], sq[i]);
        }
        x = simd_sum(x);

        if (tiisg == 0) {
            ((device float *) (dst + i_step*args.nb_d1))[b] = x;
        }
    }
}
