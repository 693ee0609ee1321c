// InfLLM: the tokens of the best blocks, see lil-ops.h: block_select.

#include "topk.h"

// blocks as items of lil_topk_each
struct lil_block_items {
    device       int32_t * list;
    device const int32_t * cells; // of block 0's first token on
    int                    block; // tokens

    int size(int) const thread { return block; }

    void put(int i, int offset) const thread {
        for (int j = 0; j < block; ++j) {
            list[1 + offset + j] = cells[1 + i*block + j];
        }
    }
};

// Grid: [n_steps]. Threadgroup memory: LIL_METAL_TOPK_SHMEM uints.
kernel void kernel_lil_block_select(
        constant lil_metal_kargs_block_select & args [[buffer(0)]],
        device       char * dst    [[buffer(1)]],
        device const char * scores [[buffer(2)]],
        device const char * steps  [[buffer(3)]],
        device const char * cells  [[buffer(4)]],
        threadgroup  char * shmem  LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    const int i_step = tgpig.x;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);
    device const int32_t * all  = (device const int32_t *) (cells + i_step*args.nb_c2);
    device       int32_t * list = (device       int32_t *) (dst   + i_step*args.nb_d2);

    const int n_blocks = step[LIL_METAL_SEL_PAGES];

    if (step[LIL_METAL_SEL_SPARSE] == 0 || n_blocks <= args.n_blocks) {
        lil_list_add(list, 0, all, 0, all[0], t);
        lil_list_set_size(list, all[0], t);
        return;
    }

    lil_topk_scores key;
    lil_block_items items;

    key.x = (device const float *) (scores + i_step*args.nb_x1);

    items.list  = list + args.n_init;
    items.cells = all  + args.n_init;
    items.block = args.block;

    const int r1 = args.n_init + n_blocks*args.block;
    const int at = args.n_init + lil_topk_each(key, items, n_blocks, args.n_blocks, (threadgroup uint *) shmem, t);

    lil_list_add(list, 0, all, 0, args.n_init, t);
    lil_list_add(list, at, all, r1, all[0], t);
    lil_list_set_size(list, at + all[0] - r1, t);
}
