// Drops the tokens with the lowest scores, see lil-ops.h: evict_slots.

#include "topk.h"

// What a cut goes by: the scores of one KV head, or their sum over those that hold the same tokens. The lowest go
// first, of equal ones the older.
struct lil_evict_ranking {
    device const char * score;   // of the first head
    device const char * pos;
    uint64_t            nb_x1;
    int                 n_head;
    float               protect;

    float get_pos(int i) const thread { return ((device const float *) pos)[i]; }

    // greater: goes before; 0: stays whatever happens
    uint key(int i) const thread {
        if (get_pos(i) >= protect) {
            return 0;
        }
        float sum = ((device const float *) score)[i];
        for (int h = 1; h < n_head; ++h) {
            sum += ((device const float *) (score + h*nb_x1))[i];
        }
        return ~lil_topk_key(sum);
    }
};

struct lil_evict_key {
    lil_evict_ranking r;

    uint operator()(int i) const thread { return r.key(i); }
};

// among those whose scores are equal
struct lil_evict_key_pos {
    lil_evict_ranking r;
    uint              equal;

    uint operator()(int i) const thread { return r.key(i) == equal ? ~lil_topk_key(r.get_pos(i)) : 0; }
};

// what goes
struct lil_evict_cut {
    lil_evict_ranking r;
    uint              key; // those above
    float             pos; // and of those equal to it the ones up to this position

    bool gone(int i) const thread {
        const uint x = r.key(i);

        return x > key || (x == key && r.get_pos(i) <= pos);
    }
};

static inline void lil_copy_row(device char * dst, device const char * src, int n, bool by_quads, int lane) {
    if (by_quads) {
        for (int i = lane; i < n/8; i += 32) {
            ((device ushort4 *) dst)[i] = ((device const ushort4 *) src)[i];
        }
    } else {
        for (int i = lane; i < n/2; i += 32) {
            ((device ushort *) dst)[i] = ((device const ushort *) src)[i];
        }
    }
}

// Grid: [n_head_kv, or 1 where all heads hold the same tokens; n_steps]. The tokens behind those left, the last one
// first, move into the holes, the first one first. Threadgroup memory: LIL_METAL_TOPK_SHMEM + 2*LIL_METAL_EVICT_MOVES
// uints.
kernel void kernel_lil_evict_slots(
        constant lil_metal_kargs_evict & args [[buffer(0)]],
        device       char * dst   [[buffer(1)]],
        device       char * k     [[buffer(3)]],
        device       char * v     [[buffer(4)]],
        device       char * score [[buffer(5)]],
        device const char * steps [[buffer(6)]],
        threadgroup  char * shmem LIL_SHMEM,
        uint3   tgpig [[threadgroup_position_in_grid]],
        ushort  tiitg [[thread_index_in_threadgroup]],
        ushort  tiisg [[thread_index_in_simdgroup]],
        ushort  sgitg [[simdgroup_index_in_threadgroup]],
        ushort3 ntg   [[threads_per_threadgroup]]) {
    const lil_place t = { tiitg, tiisg, sgitg, ntg.x };

    device const int32_t * step = (device const int32_t *) (steps + tgpig.y*args.nb_s1);

    const int n       = step[LIL_METAL_STEP_BEFORE];
    const int n_evict = step[LIL_METAL_STEP_EVICT];
    if (n_evict == 0) {
        return;
    }

    const int n_keep = n - n_evict;
    const int n_head = args.shared ? args.n_head_kv : 1;
    const int n_sg   = t.ntg/32;

    const uint64_t strm = step[LIL_METAL_STEP_STREAM];

    k     += strm*args.nb_k2 + tgpig.x*args.size_k;
    v     += strm*args.nb_v2 + tgpig.x*args.size_v;
    score += strm*args.nb_x2 + tgpig.x*args.nb_x1;
    dst   += strm*args.nb_p2 + tgpig.x*args.nb_p1;

    lil_evict_ranking r;

    r.score   = score;
    r.pos     = dst;
    r.nb_x1   = args.nb_x1;
    r.n_head  = n_head;
    r.protect = (float) step[LIL_METAL_STEP_PROTECT];

    lil_evict_cut cut;
    cut.r   = r;
    cut.key = 0;
    cut.pos = -1.0f;

    threadgroup uint * work = (threadgroup uint *) shmem;

    {
        lil_evict_key key;
        key.r = r;

        const lil_topk_bound bound = lil_topk_find(key, n, n_evict, work, t);

        cut.key = bound.key;

        lil_evict_key_pos key_pos;
        key_pos.r     = r;
        key_pos.equal = bound.key;

        // positions differ, so this bound is exact
        const uint key_bound = lil_topk_find(key_pos, n, (int) bound.n_take, work, t).key;

        cut.pos = as_type<float>(~key_bound & 0x7FFFFFFFu); // a position is not negative
    }

    threadgroup int * sums  = (threadgroup int *) work + LIL_TOPK_SUMS;
    threadgroup int * holes = (threadgroup int *) work + LIL_METAL_TOPK_SHMEM; // [LIL_METAL_EVICT_MOVES]
    threadgroup int * from  = holes + LIL_METAL_EVICT_MOVES;                   // [LIL_METAL_EVICT_MOVES]

    // every simd-group looks for holes, and for tokens to move, in ranges of its own
    const int size_h = ((n_keep  + n_sg - 1)/n_sg + 31)/32*32;
    const int size_f = ((n_evict + n_sg - 1)/n_sg + 31)/32*32;

    const int h0 = min(t.sgitg*size_h, n_keep);
    const int h1 = min(h0 + size_h,    n_keep);
    const int f0 = min(n_keep + t.sgitg*size_f, n);
    const int f1 = min(f0 + size_f,             n);

    // tokens to move, in the ranges before; as many as there are holes
    int n_move = 0;
    int f_at   = 0;
    for (int i = f0 + t.tiisg; i < f1; i += 32) {
        f_at += !cut.gone(i);
    }
    f_at = lil_sum_before(simd_sum(f_at), sums, t, n_move);

    for (int n_done = 0; n_done < n_move; n_done += LIL_METAL_EVICT_MOVES) {
        // holes left: those that were filled before are none any more
        int n_hole = 0;
        int h_at   = 0;
        for (int i = h0 + t.tiisg; i < h1; i += 32) {
            h_at += cut.gone(i);
        }
        h_at = lil_sum_before(simd_sum(h_at), sums, t, n_hole);

        for (int i = h0; i < h1; i += 32) {
            const int j    = i + t.tiisg;
            const int gone = j < h1 && cut.gone(j);
            const int at   = h_at + simd_prefix_exclusive_sum(gone);

            if (gone && at < LIL_METAL_EVICT_MOVES) {
                holes[at] = j;
            }
            h_at += simd_sum(gone);
        }

        int f_next = f_at;
        for (int i = f0; i < f1; i += 32) {
            const int j    = i + t.tiisg;
            const int here = j < f1 && !cut.gone(j);
            const int at   = n_move - 1 - (f_next + simd_prefix_exclusive_sum(here)) - n_done;

            if (here && 0 <= at && at < LIL_METAL_EVICT_MOVES) {
                from[at] = j;
            }
            f_next += simd_sum(here);
        }

        threadgroup_barrier(mem_flags::mem_threadgroup);

        const int n_now = min(n_move - n_done, LIL_METAL_EVICT_MOVES);

        // a simd-group to a move
        for (int i = t.sgitg; i < n_now*n_head; i += n_sg) {
            const int h = i%n_head;

            const uint64_t to = holes[i/n_head];
            const uint64_t at = from [i/n_head];

            lil_copy_row(k + h*args.size_k + to*args.nb_k1, k + h*args.size_k + at*args.nb_k1,
                    (int) args.size_k, args.by_quads != 0, t.tiisg);
            lil_copy_row(v + h*args.size_v + to*args.nb_v1, v + h*args.size_v + at*args.nb_v1,
                    (int) args.size_v, args.by_quads != 0, t.tiisg);

            if (t.tiisg == 0) {
                device float * x = (device float *) (score + h*args.nb_x1);
                device float * p = (device float *) (dst   + h*args.nb_p1);

                x[to] = x[at];
                p[to] = p[at];
            }
        }

        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    }
}
