// InfLLM: the scores of the blocks, see lil-ops.h: block_scores.

#include "lil-metal.h"

// Grid: [n_blocks_max/LIL_METAL_BLOCK_SCORES rounded up, n_steps]. q.k summed over the query heads of a group is the sum of the
// queries times k. A simd-group to a block. Threadgroup memory: n_embd*n_head_kv floats.
kernel void kernel_lil_block_scores(
        constant lil_metal_kargs_block_scores & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * q     [[buffer(2)]],
        device const char * repr  [[buffer(3)]],
        device const char * steps [[buffer(4)]],
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

    threadgroup_barrier(mem_flags::mem_threadgroup);

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
