// The tokens with the largest logits, see lil-ops.h: tidal_select, lessismore_select.

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

    key.x       = (device const float *) work + args.kq_offset +
            ((uint64_t) i_step*args.n_head + i_kv*args.n_group)*args.n_max;
    key.n_group = args.n_group;
    key.n_max   = args.n_max;

    items.list  = list;
    items.cells = all;

    const int at = lil_topk_each(key, items, n, args.budget - 1, (threadgroup uint *) shmem, t);

    lil_list_add(list, at, all, n, n + 1, t);
    lil_list_set_size(list, at + 1, t);
}

// The tokens between the first and the last ones, as every query head ranks them. Rank by rank, in the order of the
// heads, the heads name tokens until k are named: so these are all that any head has among its first R - 1, and some of
// those of rank R, where R is the least rank whose tokens, with all before, are k or more.
struct lil_merge {
    device      const float * x;     // [n_max, n_head], from the first of these tokens on
    threadgroup const uint  * key;   // [n_head] of the token that has rank R
    threadgroup const int   * token; // [n_head]
    threadgroup const int   * extra; // [n_head] tokens of rank R that are named, -1: none
    int                       n_head;
    int                       n_max;

    // whether any head has it among its first R, or R - 1
    bool named(int i, bool before) const thread {
        for (int h = 0; h < n_head; ++h) {
            const uint xi = lil_topk_key(x[(uint64_t) h*n_max + i]);
            if (xi > key[h] || (xi == key[h] && i >= token[h] + (before ? 1 : 0))) {
                return true;
            }
        }
        return false;
    }

    bool operator()(int i) const thread {
        for (int h = 0; h < n_head; ++h) {
            if (extra[h] == i) {
                return true;
            }
        }
        return named(i, true);
    }
};

// index of those whose logits are equal, from 1 on
struct lil_merge_index {
    device const float * x;
    uint                 equal;

    uint operator()(int i) const thread { return lil_topk_key(x[i]) == equal ? (uint) i + 1 : 0; }
};

// Grid: [n_steps]. The rank R is searched by halves. Threadgroup memory: LIL_METAL_TOPK_SHMEM + 4*n_head uints.
kernel void kernel_lil_lessismore_select(
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

    const int i_step = tgpig.x;
    const int n_head = args.n_head;

    device const int32_t * step = (device const int32_t *) (steps + i_step*args.nb_s1);
    device const int32_t * all  = (device const int32_t *) (cells + i_step*args.nb_c2);
    device       int32_t * list = (device       int32_t *) (dst   + i_step*args.nb_d2);

    if (step[LIL_METAL_SEL_SPARSE] == 0 || all[0] <= args.budget) {
        lil_list_add(list, 0, all, 0, all[0], t);
        lil_list_set_size(list, all[0], t);
        return;
    }

    const int r0 = args.n_sink;
    const int r1 = all[0] - args.n_recent;
    const int n  = r1 - r0;
    const int k  = args.budget - args.n_sink - args.n_recent;

    threadgroup uint * buf   = (threadgroup uint *) shmem;
    threadgroup uint * key   = buf + LIL_METAL_TOPK_SHMEM;               // [n_head]
    threadgroup int  * token = (threadgroup int *) (key + n_head);       // [n_head]
    threadgroup int  * extra = token + n_head;                           // [n_head]
    threadgroup int  * fresh = extra + n_head;                           // [n_head]
    threadgroup int  * sums  = (threadgroup int *) buf + LIL_TOPK_SUMS;

    lil_merge merge;

    merge.x      = (device const float *) work + args.kq_offset + (uint64_t) i_step*n_head*args.n_max + r0;
    merge.key    = key;
    merge.token  = token;
    merge.extra  = extra;
    merge.n_head = n_head;
    merge.n_max  = args.n_max;

    int lo = (k + n_head - 1)/n_head; // R is in [lo, hi]
    int hi = k;

    while (true) {
        const int at = (lo + hi)/2; // the rank that key and token are of

        for (int h = 0; h < n_head; ++h) {
            lil_topk_scores by_key;
            lil_merge_index by_index;

            by_key.x = merge.x + (uint64_t) h*args.n_max;

            const lil_topk_bound bound = lil_topk_find(by_key, n, at, buf, t);

            by_index.x     = by_key.x;
            by_index.equal = bound.key;

            const uint last = lil_topk_find(by_index, n, (int) bound.n_take, buf, t).key;

            if (tiitg == 0) {
                key  [h] = bound.key;
                token[h] = (int) last - 1;
            }
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        if (lo == hi) {
            break;
        }

        int n_named = 0;
        int total   = 0;
        for (int i = tiitg; i < n; i += t.ntg) {
            n_named += merge.named(i, false);
        }
        lil_sum_before(simd_sum(n_named), sums, t, total);

        if (total >= k) {
            hi = at;
        } else {
            lo = at + 1;
        }
    }

    // the tokens of rank R, in the order of the heads
    int n_before = 0;
    int total    = 0;
    for (int i = tiitg; i < n; i += t.ntg) {
        n_before += merge.named(i, true);
    }
    lil_sum_before(simd_sum(n_before), sums, t, total);

    for (int h = tiitg; h < n_head; h += t.ntg) {
        bool is_new = !merge.named(token[h], true);
        for (int g = 0; g < h; ++g) {
            is_new = is_new && token[g] != token[h];
        }
        fresh[h] = is_new;
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    if (tiitg == 0) {
        int n_left = k - total;
        for (int h = 0; h < n_head; ++h) {
            const bool take = fresh[h] && n_left > 0;

            extra[h] = take ? token[h] : -1;
            n_left  -= take;
        }
    }

    threadgroup_barrier(mem_flags::mem_threadgroup);

    lil_list_add(list, 0, all, 0, r0, t);

    lil_token_items items;
    items.list  = list + r0;
    items.cells = all  + r0;

    const int n_put = lil_pick_each(merge, items, n, buf, t);

    lil_list_add(list, r0 + n_put, all, r1, all[0], t);
    lil_list_set_size(list, r0 + n_put + args.n_recent, t);
}
