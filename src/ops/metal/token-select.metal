// The tokens with the largest logits, see lil-ops.h: tidal_select.

#include "topk.h"

// the largest logit of a group of query heads
struct lil_token_key {
    device const float * x;       // of the first head
    int                  n_group;
    int                  n_max;   // from head to head

    uint operator()(int i) const thread {
        float best = x[i];
        for (int g = 1; g < n_group; ++g) {
            best = max(best, x[(uint64_t) g*n_max + i]);
        }
        return lil_topk_key(best);
    }
};

struct lil_token_items {
    device       int32_t * list;
    device const int32_t * cells;

    int size(int) const thread { return 1; }

    void put(int i, int offset) const thread { list[1 + offset] = cells[1 + i]; }
};

// Grid: [n_head_kv, n_steps]. Threadgroup memory: LIL_METAL_TOPK_SHMEM uints.
kernel void kernel_lil_tidal_select(
        constant lil_metal_kargs_token_select & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * work  [[buffer(2)]],
        device const char * steps [[buffer(3)]],
        device const char * cells [[buffer(4)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    const int i_kv   = tgpig.x;
    const int i_step = tgpig.y;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);
    device const int32_t * all  = (device const int32_t *) (cells + i_step*args.nb_c2);
    device       int32_t * list = (device       int32_t *) (dst   + i_step*args.nb_d2 + i_kv*args.nb_d1);

    if (step[LIL_METAL_SEL_SPARSE] == 0 || all[0] <= args.budget) {
        lil_list_add(list, 0, all, 0, all[0], t);
        lil_list_set_size(list, all[0], t);
        return;
    }

    const int n = all[0] - 1; // besides the current one

    lil_token_key   key;
    lil_token_items items;

    key.x       = (device const float *) work + args.kq_offset + ((uint64_t) i_step*args.n_head + i_kv*args.n_group)*args.n_max;
    key.n_group = args.n_group;
    key.n_max   = args.n_max;

    items.list  = list;
    items.cells = all;

    const int at = lil_topk_each(key, items, n, args.budget - 1, (threadgroup uint *) shmem, t);

    lil_list_add(list, at, all, n, n + 1, t);
    lil_list_set_size(list, at + 1, t);
}
