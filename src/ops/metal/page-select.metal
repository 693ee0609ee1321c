// Quest: the tokens of the best pages, see lil-ops.h: page_select.

#include "topk.h"

// Grid: [n_head_kv, n_steps]. Threadgroup memory: LIL_METAL_TOPK_SHMEM uints.
kernel void kernel_lil_page_select(
        constant lil_metal_kargs_page_select & args [[buffer(0)]],
        device       char * dst    [[buffer(1)]],
        device const char * scores [[buffer(2)]],
        device const char * steps  [[buffer(3)]],
        device const char * cells  [[buffer(4)]],
        device const char * pages  [[buffer(5)]],
        threadgroup  char * shmem  LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    const int i_kv   = tgpig.x;
    const int i_step = tgpig.y;

    device const int32_t * step  = (device const int32_t *) (steps + i_step*args.nb_s1);
    device const int32_t * first = (device const int32_t *) (pages + i_step*args.nb_p1);
    device const int32_t * all   = (device const int32_t *) (cells + i_step*args.nb_c2);
    device       int32_t * list  = (device       int32_t *) (dst   + i_step*args.nb_d2 + i_kv*args.nb_d1);

    const int n_pages = step[LIL_METAL_SEL_PAGES];

    if (step[LIL_METAL_SEL_SPARSE] == 0 || n_pages <= args.n_pages) {
        lil_list_add(list, 0, all, 0, all[0], t);
        lil_list_set_size(list, all[0], t);
        return;
    }

    // pages [p0, n_pages - 1) compete for n_pages - 1 - p0 places
    const int p0 = args.first_page ? 1 : 0;

    int at = 0;

    if (p0 == 1) {
        lil_list_add(list, 0, all, first[0], first[1], t);
        at += first[1] - first[0];
    }

    lil_topk_scores key;
    lil_page_items  items;

    key.x = (device const float *) (scores + i_step*args.nb_x2 + i_kv*args.nb_x1) + p0;

    items.list  = list;
    items.cells = all;
    items.first = first + p0;
    items.at    = at;

    at += lil_topk_each(key, items, n_pages - 1 - p0, args.n_pages - 1 - p0, (threadgroup uint *) shmem, t);

    lil_list_add(list, at, all, first[n_pages - 1], first[n_pages], t);
    lil_list_set_size(list, at + first[n_pages] - first[n_pages - 1], t);
}
