#pragma once

// From a node of a graph to the launch of its kernel: name, function constants, arguments, grid. All that the backend
// has to do is to make the pipeline and to encode the launch. A plan stands beside its kernel: attn.cpp beside
// attn.metal.

#include "lil-metal-args.h"
#include "lil-ops.h"

#include "ggml.h"

#include <cstdio>
#include <cstring>

struct lil_metal_launch {
    char     name[64];         // of the kernel
    int32_t  type_k;           // LIL_METAL_FC_TYPE_K, -1: the kernel has none
    int32_t  type_v;           // LIL_METAL_FC_TYPE_V, -1: the kernel has none
    uint32_t grid[3];          // threadgroups
    uint32_t n_threads;        // of a threadgroup, a multiple of 32
    bool     all_threads;      // so many exactly; otherwise at most
    uint32_t n_shmem;          // bytes of threadgroup memory, a multiple of 16
    size_t   n_args;           // bytes
    alignas(8) char args[256]; // buffer 0

    int                 n_buf;
    const ggml_tensor * buf[8]; // buffers 1, 2, ...: the node, then what it reads. Inplace, they overlap

    bool writes_src; // it writes to its sources too, not only to the node
};

// threadgroup memory of every GPU with simd-group functions
#define LIL_METAL_MAX_SHMEM 32768

static_assert(LIL_METAL_ATTN_CHUNK == LIL_ATTN_CHUNK, "");

static_assert(LIL_METAL_SEL_STREAM == LIL_SEL_STREAM && LIL_METAL_SEL_TABLE == LIL_SEL_TABLE &&
                LIL_METAL_SEL_SPARSE == LIL_SEL_SPARSE && LIL_METAL_SEL_N == LIL_SEL_N &&
                LIL_METAL_SEL_NEW == LIL_SEL_NEW && LIL_METAL_SEL_PAGES == LIL_SEL_PAGES &&
                LIL_METAL_SEL_NOW == LIL_SEL_NOW,
        "");

static_assert(LIL_METAL_STEP_STREAM == LIL_STEP_STREAM && LIL_METAL_STEP_BEFORE == LIL_STEP_BEFORE &&
                LIL_METAL_STEP_EVICT == LIL_STEP_EVICT && LIL_METAL_STEP_PROTECT == LIL_STEP_PROTECT &&
                LIL_METAL_STEP_NEW == LIL_STEP_NEW && LIL_METAL_STEP_POS == LIL_STEP_POS &&
                LIL_METAL_STEP_WIN == LIL_STEP_WIN,
        "");

static_assert(LIL_METAL_DIRTY_STREAM == LIL_DIRTY_STREAM && LIL_METAL_DIRTY_TABLE == LIL_DIRTY_TABLE &&
                LIL_METAL_DIRTY_PAGE == LIL_DIRTY_PAGE && LIL_METAL_DIRTY_N == LIL_DIRTY_N &&
                LIL_METAL_DIRTY_HEAD == LIL_DIRTY_HEAD,
        "");

static_assert(LIL_METAL_TYPE_F32 == GGML_TYPE_F32 && LIL_METAL_TYPE_F16 == GGML_TYPE_F16 &&
                LIL_METAL_TYPE_Q4_0 == GGML_TYPE_Q4_0 && LIL_METAL_TYPE_Q8_0 == GGML_TYPE_Q8_0 &&
                LIL_METAL_TYPE_BF16 == GGML_TYPE_BF16,
        "");

// why heads of K (or of V, which are the shorter) cannot be read, null: they can
static inline const char * lil_metal_check_head(ggml_type type, int64_t n_embd) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q4_0: break;
        default:             return "keys and values may be F16, BF16, F32, Q8_0 or Q4_0";
    }
    if (n_embd % 4 != 0 || n_embd % ggml_blck_size(type) != 0) {
        return "the head size is no multiple of 4, or of the type's blocks";
    }
    return n_embd <= LIL_METAL_MAX_EMBD ? nullptr : "the head size is more than 576";
}

// and rows of this K or V
static inline const char * lil_metal_check_kv(const ggml_tensor * kv, int64_t n_head_kv) {
    if (const char * err = lil_metal_check_head(kv->type, kv->ne[0] / n_head_kv)) {
        return err;
    }

    // of 4 elements; blocks are read by halves
    const size_t align = ggml_is_quantized(kv->type) ? 2 : 4 * ggml_type_size(kv->type);

    return kv->nb[1] % align == 0 && kv->nb[2] % align == 0 ? nullptr : "rows of the cache are not aligned";
}

template <typename T>
static inline void lil_metal_set_args(lil_metal_launch & l, const T & args) {
    static_assert(sizeof(T) <= sizeof(l.args), "");
    memcpy(l.args, &args, sizeof(T));
    l.n_args = sizeof(T);
}

static inline void lil_metal_set_grid(lil_metal_launch & l, int64_t x, int64_t y, int64_t z) {
    l.grid[0] = (uint32_t) x;
    l.grid[1] = (uint32_t) y;
    l.grid[2] = (uint32_t) z;
}

// the logits in attn's work: where they begin, in floats, and how many there are to a query head
struct lil_metal_logits {
    int64_t offset;
    int64_t n_max;
    int64_t n_head;
};

static inline lil_metal_logits lil_metal_get_logits(const ggml_tensor * work, int64_t n_head_kv) {
    while (work->view_src) {
        work = work->view_src;
    }

    const ggml_tensor * q    = work->src[0];
    const ggml_tensor * v    = work->src[2];
    const ggml_tensor * list = work->src[3];

    lil_metal_logits res = {};

    res.n_max  = list->ne[0] - 1;
    res.n_head = q->ne[1];
    res.offset = lil_attn_kq_offset(v->ne[0] / n_head_kv, res.n_head, res.n_max, q->ne[2]);

    return res;
}

// Kernels that score n_row rows of queries at once: threads, threadgroup memory, and why they cannot. nb_q: the strides
// of the queries, or-ed
static inline const char * lil_metal_set_score(
        lil_metal_launch & l, const ggml_tensor * k, int64_t n_head_kv, int64_t n_row, uint64_t nb_q) {
    if (const char * err = lil_metal_check_kv(k, n_head_kv)) {
        return err;
    }
    if (nb_q % 16 != 0) {
        return "rows of q are not aligned";
    }

    l.type_k    = k->type;
    l.n_threads = 32 * LIL_METAL_SCORE_SIMDS;
    l.n_shmem   = (LIL_METAL_SCORE_SHMEM(n_row, k->ne[0] / n_head_kv) * sizeof(float) + 15) / 16 * 16;

    return nullptr;
}

// What the evict ops have in common; any may be null. The heads are pos's: a node before the attention is looked at
// when the layer's constants are not yet set
static inline lil_metal_kargs_evict lil_metal_evict_args(const lil_evict_layer & layer, const ggml_tensor * k,
        const ggml_tensor * score, const ggml_tensor * pos, const ggml_tensor * steps) {
    lil_metal_kargs_evict args = {};

    args.n_head_kv = pos ? pos->ne[1] : layer.n_head_kv;
    args.last      = layer.last;
    args.shared    = layer.shared;
    args.scale     = layer.scale;
    args.softcap   = layer.softcap;
    args.lambda    = layer.lambda;
    args.threshold = layer.threshold;

    if (k) {
        args.n_embd = k->ne[0] / args.n_head_kv;
        args.size_k = ggml_row_size(k->type, args.n_embd);
        args.nb_k1  = k->nb[1];
        args.nb_k2  = k->nb[2];
    }
    if (score) {
        args.nb_x1 = score->nb[1];
        args.nb_x2 = score->nb[2];
    }
    if (pos) {
        args.nb_p1 = pos->nb[1];
        args.nb_p2 = pos->nb[2];
    }
    args.nb_s1 = steps->nb[1];

    return args;
}

// The metadata (bounds or repr) of the pages in dirty; score: block_repr's, otherwise null
static inline lil_metal_kargs_dirty lil_metal_dirty_args(const lil_select_layer & layer, const ggml_tensor * meta,
        const ggml_tensor * k, const ggml_tensor * score, const ggml_tensor * dirty) {
    lil_metal_kargs_dirty args = {};

    args.n_embd  = k->ne[0] / layer.n_head_kv;
    args.n_dirty = dirty->ne[1];
    args.n_max   = dirty->ne[0] - LIL_DIRTY_HEAD;
    args.n_repr  = layer.n_repr;
    args.size_k  = ggml_row_size(k->type, args.n_embd);
    args.nb_m1   = meta->nb[1];
    args.nb_m2   = meta->nb[2];
    args.nb_m3   = meta->nb[3];
    args.nb_k1   = k->nb[1];
    args.nb_k2   = k->nb[2];
    args.nb_x1   = score ? score->nb[1] : 0;
    args.nb_x2   = score ? score->nb[2] : 0;
    args.nb_d1   = dirty->nb[1];

    return args;
}

// a kernel's buffers that a node has not
static inline void lil_metal_fill_buf(lil_metal_launch & l, int n_buf) {
    while (l.n_buf < n_buf) {
        l.buf[l.n_buf] = l.buf[0];
        l.n_buf++;
    }
}

// Learned sinks, the last source of a node, of i others: whether there are any. The kernel's last buffer in any case
static inline bool lil_metal_set_sinks(lil_metal_launch & l, const ggml_tensor * node, int i) {
    lil_metal_fill_buf(l, i + 2);

    return node->src[i] != nullptr;
}

// How to compute the node of an op. Returns null, or why no kernel can. userdata: of the node, a lil_select_layer, or a
// lil_evict_layer for the evict ops
typedef const char * (*lil_metal_plan_t)(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l);

#define LIL_METAL_PLAN_OF(op) \
    const char * lil_metal_plan_##op(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l);
LIL_OPS(LIL_METAL_PLAN_OF)
#undef LIL_METAL_PLAN_OF

// the same for any node: not one of our ops is a reason too
const char * lil_metal_plan(const ggml_tensor * node, lil_metal_launch & l);
