// RaaS: pages live as long as their stamps are among the highest, see lil-ops.h: raas_stamp, raas_select.

#include "topk.h"

// a page's stamp is the highest of its tokens'
struct lil_raas_stamps {
    device const float   * stamp; // by cell
    device const int32_t * cells;
    device const int32_t * first; // rank of a page's first token

    uint operator()(int p) const thread {
        float s = stamp[cells[1 + first[p]]];
        for (int r = first[p] + 1; r < first[p + 1]; ++r) {
            s = max(s, stamp[cells[1 + r]]);
        }
        return lil_topk_key(s);
    }
};

// index of the pages whose stamps are equal, from 1 on
struct lil_raas_index {
    lil_raas_stamps stamps;
    uint            equal;

    uint operator()(int p) const thread { return stamps(p) == equal ? (uint) p + 1 : 0; }
};

// whether a page is alive
struct lil_raas_alive {
    lil_raas_stamps stamps;
    int             n_pages;
    bool            all;
    uint            key;  // stamps above it are
    int             page; // and of those equal to it the ones from this page on

    bool operator()(int p) const thread {
        if (all || p == n_pages - 1) {
            return true;
        }
        const uint x = stamps(p);

        return x > key || (x == key && p >= page);
    }
};

static inline lil_raas_alive lil_raas_get_alive(
        lil_raas_stamps stamps, int n_pages, int n_alive, bool sparse, threadgroup uint * shmem, lil_place t) {
    lil_raas_alive res;

    res.stamps  = stamps;
    res.n_pages = n_pages;
    res.all     = !sparse || n_pages <= n_alive;
    res.key     = 0xFFFFFFFFu; // none but the current page
    res.page    = n_pages;

    if (!res.all && n_alive > 1) {
        const lil_topk_bound bound = lil_topk_find(stamps, n_pages - 1, n_alive - 1, shmem, t);

        lil_raas_index index;
        index.stamps = stamps;
        index.equal  = bound.key;

        res.key  = bound.key;
        res.page = (int) lil_topk_find(index, n_pages - 1, (int) bound.n_take, shmem, t).key - 1;
    }

    return res;
}

// scores of the pages that are alive; 0: it is not
struct lil_raas_scores {
    lil_raas_alive       alive;
    device const float * score;

    uint operator()(int p) const thread { return alive(p) ? lil_topk_key(score[p]) : 0; }
};

struct lil_raas_items {
    device       float   * stamp;
    device const int32_t * cells;
    device const int32_t * first;
    float                  now;

    int size(int) const thread { return 1; }

    void put(int p, int) const thread {
        for (int r = first[p]; r < first[p + 1]; ++r) {
            if (stamp[cells[1 + r]] >= now) {
                return;
            }
        }
        for (int r = first[p]; r < first[p + 1]; ++r) {
            stamp[cells[1 + r]] = now;
        }
    }
};

// Grid: [n_head_kv, n_steps]. Threadgroup memory: LIL_METAL_TOPK_SHMEM uints.
kernel void kernel_lil_raas_stamp(
        constant lil_metal_kargs_raas & args [[buffer(0)]],
        device       char * dst    [[buffer(1)]],
        device const char * scores [[buffer(3)]],
        device const char * steps  [[buffer(4)]],
        device const char * cells  [[buffer(5)]],
        device const char * pages  [[buffer(6)]],
        threadgroup  char * shmem  LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    if (!lil_is_first_of_stream(steps, args.nb_s1, tgpig.y)) {
        return;
    }

    const int strm = lil_get_stream(steps, args.nb_s1, tgpig.y);

    device     float * stamp = (device float *) (dst + (uint64_t) strm*args.nb_t2 + tgpig.x*args.nb_t1);
    threadgroup uint * buf   = (threadgroup uint *) shmem;

    for (int i_step = tgpig.y; i_step < args.n_steps; ++i_step) {
        if (lil_get_stream(steps, args.nb_s1, i_step) != strm) {
            continue;
        }

        device const int32_t * step  = (device const int32_t *) (steps + i_step*args.nb_s1);
        device const int32_t * first = (device const int32_t *) (pages + i_step*args.nb_p1);
        device const int32_t * all   = (device const int32_t *) (cells + i_step*args.nb_c2);

        const int   n_pages = step[LIL_METAL_SEL_PAGES];
        const bool  sparse  = step[LIL_METAL_SEL_SPARSE] != 0;
        const float now     = (float) step[LIL_METAL_SEL_NOW];

        if (tiitg == 0) {
            stamp[all[all[0]]] = now;
        }

        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);

        lil_raas_stamps stamps;
        stamps.stamp = stamp;
        stamps.cells = all;
        stamps.first = first;

        lil_raas_scores key;
        key.alive = lil_raas_get_alive(stamps, n_pages, args.n_pages, sparse, buf, t);
        key.score = (device const float *) (scores + i_step*args.nb_x2 + tgpig.x*args.nb_x1);

        lil_raas_items items;
        items.stamp = stamp;
        items.cells = all;
        items.first = first;
        items.now   = now;

        // a page stays alive when it is stamped, so that the order does not matter
        const int n_alive = key.alive.all ? n_pages : args.n_pages;

        lil_topk_each(key, items, n_pages, (int) ceil(args.ratio*(float) n_alive), buf, t);

        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    }
}

// Grid: [n_head_kv, n_steps]. Threadgroup memory: LIL_METAL_TOPK_SHMEM uints.
kernel void kernel_lil_raas_select(
        constant lil_metal_kargs_raas & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device const char * stamp [[buffer(2)]],
        device const char * steps [[buffer(3)]],
        device const char * cells [[buffer(4)]],
        device const char * pages [[buffer(5)]],
        threadgroup  char * shmem LIL_SHMEM,
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

    if (step[LIL_METAL_SEL_SPARSE] == 0) {
        lil_list_add(list, 0, all, 0, all[0], t);
        lil_list_set_size(list, all[0], t);
        return;
    }

    threadgroup uint * buf = (threadgroup uint *) shmem;

    lil_raas_stamps stamps;
    stamps.stamp = (device const float *) (stamp + (uint64_t) step[LIL_METAL_SEL_STREAM]*args.nb_t2 + i_kv*args.nb_t1);
    stamps.cells = all;
    stamps.first = first;

    const lil_raas_alive alive = lil_raas_get_alive(stamps, step[LIL_METAL_SEL_PAGES], args.n_pages, true, buf, t);

    lil_page_items items;
    items.list  = list;
    items.cells = all;
    items.first = first;
    items.at    = 0;

    const int n = lil_pick_each(alive, items, alive.n_pages, buf, t);

    lil_list_set_size(list, n, t);
}
