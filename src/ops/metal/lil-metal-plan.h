#pragma once

// From a node of a graph to the launch of its kernel: name, function constants, arguments, grid. All that the backend has to
// do is to make the pipeline and to encode the launch; all that a test has to do is to run it.

#include "lil-metal-args.h"
#include "lil-ops.h"

#include "ggml.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

// the ops that have a kernel, named as in lil_ops
enum lil_metal_op {
    LIL_METAL_OP_ATTN,
    LIL_METAL_OP_ATTN_JOIN,
    LIL_METAL_OP_PAGE_BOUNDS,
    LIL_METAL_OP_PAGE_SCORES,
    LIL_METAL_OP_PAGE_SELECT,
    LIL_METAL_OP_TIDAL_SELECT,
    LIL_METAL_OP_LESSISMORE_SELECT,
    LIL_METAL_OP_RAAS_STAMP,
    LIL_METAL_OP_RAAS_SELECT,

    // userdata is a lil_h2o_layer
    LIL_METAL_OP_H2O_EVICT,
    LIL_METAL_OP_H2O_SCORE,
    LIL_METAL_OP_H2O_SCORE_PROMPT,
    LIL_METAL_OP_H2O_SCORE_ADD,
    LIL_METAL_OP_H2O_SCORE_WINDOW,
    LIL_METAL_OP_NEW_SLOTS,
};

struct lil_metal_launch {
    char     name[64];     // of the kernel
    int32_t  type_k;       // LIL_METAL_FC_TYPE_K, -1: the kernel has none
    int32_t  type_v;       // LIL_METAL_FC_TYPE_V, -1: the kernel has none
    uint32_t grid[3];      // threadgroups
    uint32_t n_threads;    // of a threadgroup, at most: a multiple of 32. attn: exactly
    uint32_t n_shmem;      // bytes of threadgroup memory, a multiple of 16
    size_t   n_args;       // bytes
    alignas(8) char args[256]; // buffer 0

    int                 n_buf;
    const ggml_tensor * buf[8]; // buffers 1, 2, ...: the node, then what it reads. Inplace, they overlap
};

// threadgroup memory of every GPU with simd-group functions
#define LIL_METAL_MAX_SHMEM 32768

static_assert(LIL_METAL_ATTN_CHUNK == LIL_ATTN_CHUNK, "");

static_assert(LIL_METAL_SEL_STREAM == LIL_SEL_STREAM && LIL_METAL_SEL_TABLE == LIL_SEL_TABLE && LIL_METAL_SEL_SPARSE == LIL_SEL_SPARSE &&
              LIL_METAL_SEL_PAGES  == LIL_SEL_PAGES && LIL_METAL_SEL_NOW == LIL_SEL_NOW, "");

static_assert(LIL_METAL_STEP_STREAM == LIL_STEP_STREAM && LIL_METAL_STEP_BEFORE == LIL_STEP_BEFORE && LIL_METAL_STEP_EVICT == LIL_STEP_EVICT &&
              LIL_METAL_STEP_PROTECT == LIL_STEP_PROTECT && LIL_METAL_STEP_NEW == LIL_STEP_NEW && LIL_METAL_STEP_POS == LIL_STEP_POS &&
              LIL_METAL_STEP_WIN  == LIL_STEP_WIN  && LIL_METAL_H2O_WINDOW == LIL_H2O_WINDOW, "");

static_assert(LIL_METAL_DIRTY_STREAM == LIL_DIRTY_STREAM && LIL_METAL_DIRTY_TABLE == LIL_DIRTY_TABLE && LIL_METAL_DIRTY_PAGE == LIL_DIRTY_PAGE &&
              LIL_METAL_DIRTY_N      == LIL_DIRTY_N      && LIL_METAL_DIRTY_HEAD  == LIL_DIRTY_HEAD, "");

static_assert(LIL_METAL_TYPE_F32  == GGML_TYPE_F32  && LIL_METAL_TYPE_F16  == GGML_TYPE_F16 && LIL_METAL_TYPE_Q4_0 == GGML_TYPE_Q4_0 &&
              LIL_METAL_TYPE_Q8_0 == GGML_TYPE_Q8_0 && LIL_METAL_TYPE_BF16 == GGML_TYPE_BF16, "");

// why rows of this K or V cannot be read, null: they can
static inline const char * lil_metal_check_kv(const ggml_tensor * kv, int64_t n_head_kv) {
    switch (kv->type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q4_0: break;
        default: return "only caches of type F32, F16, BF16, Q8_0 and Q4_0 can be read";
    }

    const int64_t n_embd = kv->ne[0]/n_head_kv;

    if (n_embd%4 != 0 || n_embd%ggml_blck_size(kv->type) != 0) {
        return "the head size is no multiple of 4, or of the type's blocks";
    }

    // of 4 elements; blocks are read by halves
    const size_t align = ggml_is_quantized(kv->type) ? 2 : 4*ggml_type_size(kv->type);

    return kv->nb[1]%align == 0 && kv->nb[2]%align == 0 ? nullptr : "rows of the cache are not aligned";
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

static inline const char * lil_metal_plan_attn(const ggml_tensor * dst, const lil_select_layer & layer, lil_metal_launch & l) {
    static const int N[] = { 1, 2, 3, 4, 5, 6, 7, 8, 12, 16 }; // query heads that a kernel takes

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * list  = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int64_t n_head_kv = layer.n_head_kv;
    const int64_t n_head    = q->ne[1];
    const int64_t n_group   = n_head/n_head_kv;
    const int64_t n_steps   = steps->ne[1];
    const int64_t n_max     = list->ne[0] - 1;
    const int64_t n_embd    = k->ne[0]/n_head_kv;
    const int64_t n_embd_v  = v->ne[0]/n_head_kv;

    l.n_threads = 128;

    if (const char * err = lil_metal_check_kv(k, n_head_kv)) { return err; }
    if (const char * err = lil_metal_check_kv(v, n_head_kv)) { return err; }

    if (q->nb[1]%16 != 0 || q->nb[2]%16 != 0) {
        return "rows of q are not aligned";
    }
    if (n_embd_v/4 > l.n_threads) {
        return "the head size of V is more than 512";
    }

    const auto n_shmem = [&](int64_t n) {
        return (n*(std::max(n_embd, n_embd_v) + LIL_ATTN_CHUNK + 2)*sizeof(float) + 15)/16*16;
    };

    int64_t n_most = 0;
    for (int n : N) {
        if (n_shmem(n) <= LIL_METAL_MAX_SHMEM) {
            n_most = n;
        }
    }
    if (n_most == 0) {
        return "the head size is too large for the threadgroup memory";
    }

    const int64_t n_part = (n_group + n_most - 1)/n_most;

    int64_t n_take = 0;
    for (int n : N) {
        if (n*n_part >= n_group) {
            n_take = n;
            break;
        }
    }

    lil_metal_kargs_attn args = {};

    args.n_embd    = n_embd;
    args.n_embd_v  = n_embd_v;
    args.n_group   = n_group;
    args.n_head    = n_head;
    args.n_part    = n_part;
    args.n_max     = n_max;
    args.scale     = layer.scale;
    args.softcap   = layer.softcap;
    args.kq_offset = dst->ne[0] == lil_attn_n_work(n_embd_v, n_head, n_max, n_steps, true) ? lil_attn_kq_offset(n_embd_v, n_head, n_max, n_steps) : -1;
    args.size_k    = ggml_row_size(k->type, n_embd);
    args.size_v    = ggml_row_size(v->type, n_embd_v);
    args.nb_q1     = q->nb[1];
    args.nb_q2     = q->nb[2];
    args.nb_k1     = k->nb[1];
    args.nb_k2     = k->nb[2];
    args.nb_v1     = v->nb[1];
    args.nb_v2     = v->nb[2];
    args.nb_l1     = list->ne[1] == 1 ? 0 : list->nb[1];
    args.nb_l2     = list->nb[2];
    args.nb_s1     = steps->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_attn_%d", (int) n_take);
    l.type_k  = k->type;
    l.type_v  = v->type;
    l.n_shmem = n_shmem(n_take);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, lil_attn_n_chunk(n_max), n_head_kv*n_part, n_steps);

    return nullptr;
}

static inline const char * lil_metal_plan_attn_join(const ggml_tensor * dst, const lil_select_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * list = dst->src[1];

    lil_metal_kargs_attn_join args = {};

    args.n_embd_v = dst->ne[0];
    args.n_group  = dst->ne[1]/layer.n_head_kv;
    args.n_head   = dst->ne[1];
    args.n_chunk  = lil_attn_n_chunk(list->ne[0] - 1);
    args.nb_d1    = dst->nb[1];
    args.nb_d2    = dst->nb[2];
    args.nb_l1    = list->ne[1] == 1 ? 0 : list->nb[1];
    args.nb_l2    = list->nb[2];

    snprintf(l.name, sizeof(l.name), "kernel_lil_attn_join");
    l.n_threads = 128;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, dst->ne[1], dst->ne[2], 1);

    return nullptr;
}

static inline const char * lil_metal_plan_page_bounds(const ggml_tensor * dst, const lil_select_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * dirty = dst->src[2];

    const int64_t n_embd = k->ne[0]/layer.n_head_kv;

    if (const char * err = lil_metal_check_kv(k, layer.n_head_kv)) {
        return err;
    }
    if (dst->type != GGML_TYPE_F16 && dst->type != GGML_TYPE_F32) {
        return "bounds are not of type F16 or F32";
    }

    lil_metal_kargs_page_bounds args = {};

    args.n_embd = n_embd;
    args.size_k = ggml_row_size(k->type, n_embd);
    args.nb_b1  = dst->nb[1];
    args.nb_b2  = dst->nb[2];
    args.nb_b3  = dst->nb[3];
    args.nb_k1  = k->nb[1];
    args.nb_k2  = k->nb[2];
    args.nb_d1  = dirty->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_page_bounds");
    l.type_k    = k->type;
    l.type_v    = dst->type;
    l.n_threads = n_embd <= 128 ? 32 : 64;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, dirty->ne[1], 1);

    return nullptr;
}

static inline const char * lil_metal_plan_page_scores(const ggml_tensor * dst, const lil_select_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * q      = dst->src[0];
    const ggml_tensor * bounds = dst->src[1];
    const ggml_tensor * steps  = dst->src[2];

    const int64_t n_embd  = q->ne[0];
    const int64_t n_group = q->ne[1]/layer.n_head_kv;
    const int64_t n_shmem = n_group*n_embd*sizeof(float);

    if (bounds->type != GGML_TYPE_F16 && bounds->type != GGML_TYPE_F32) {
        return "bounds are not of type F16 or F32";
    }
    if (n_embd%4 != 0) {
        return "the head size is no multiple of 4";
    }
    if (q->nb[1]%16 != 0 || q->nb[2]%16 != 0) {
        return "rows of q are not aligned";
    }
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "the query heads of a KV head do not fit into the threadgroup memory";
    }

    lil_metal_kargs_page_scores args = {};

    args.n_embd  = n_embd;
    args.n_group = n_group;
    args.nb_d1   = dst->nb[1];
    args.nb_d2   = dst->nb[2];
    args.nb_q1   = q->nb[1];
    args.nb_q2   = q->nb[2];
    args.nb_b1   = bounds->nb[1];
    args.nb_b2   = bounds->nb[2];
    args.nb_b3   = bounds->nb[3];
    args.nb_s1   = steps->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_page_scores_%d", n_group <= 1 ? 1 : n_group <= 2 ? 2 : n_group <= 4 ? 4 : 8);
    l.type_k    = bounds->type;
    l.n_threads = 128;
    l.n_shmem   = n_shmem;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, (dst->ne[0] + LIL_METAL_SCORES_PAGES - 1)/LIL_METAL_SCORES_PAGES, layer.n_head_kv, steps->ne[1]);

    return nullptr;
}

static inline const char * lil_metal_plan_page_select(const ggml_tensor * dst, const lil_select_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * steps  = dst->src[1];
    const ggml_tensor * cells  = dst->src[2];
    const ggml_tensor * pages  = dst->src[3];

    lil_metal_kargs_page_select args = {};

    args.n_pages    = layer.n_pages;
    args.first_page = layer.first_page;
    args.nb_d1      = dst->nb[1];
    args.nb_d2      = dst->nb[2];
    args.nb_x1      = scores->nb[1];
    args.nb_x2      = scores->nb[2];
    args.nb_s1      = steps->nb[1];
    args.nb_c2      = cells->nb[2];
    args.nb_p1      = pages->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_page_select");
    l.n_threads = 256;
    l.n_shmem   = LIL_METAL_TOPK_SHMEM*sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

static inline const char * lil_metal_plan_token_select(const ggml_tensor * dst, const lil_select_layer & layer, bool merge, lil_metal_launch & l) {
    const ggml_tensor * work  = dst->src[0];
    const ggml_tensor * steps = dst->src[1];
    const ggml_tensor * cells = dst->src[2];

    const ggml_tensor * node = work;
    while (node->view_src) {
        node = node->view_src;
    }

    // of the attn that made the logits
    const ggml_tensor * q    = node->src[0];
    const ggml_tensor * v    = node->src[2];
    const ggml_tensor * list = node->src[3];

    lil_metal_kargs_token_select args = {};

    args.budget    = layer.budget;
    args.n_sink    = layer.n_sink;
    args.n_recent  = layer.n_recent;
    args.n_group   = q->ne[1]/layer.n_head_kv;
    args.n_head    = q->ne[1];
    args.n_max     = list->ne[0] - 1;
    args.kq_offset = lil_attn_kq_offset(v->ne[0]/layer.n_head_kv, q->ne[1], list->ne[0] - 1, q->ne[2]);
    args.nb_d1     = dst->nb[1];
    args.nb_d2     = dst->nb[2];
    args.nb_s1     = steps->nb[1];
    args.nb_c2     = cells->nb[2];

    snprintf(l.name, sizeof(l.name), merge ? "kernel_lil_lessismore_select" : "kernel_lil_tidal_select");
    l.n_threads = 512;
    l.n_shmem   = ((LIL_METAL_TOPK_SHMEM + (merge ? 4*args.n_head : 0))*sizeof(uint32_t) + 15)/16*16;
    lil_metal_set_args(l, args);
    if (merge) {
        lil_metal_set_grid(l, steps->ne[1], 1, 1);
    } else {
        lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);
    }

    return nullptr;
}

static inline const char * lil_metal_plan_raas(const ggml_tensor * dst, const lil_select_layer & layer, bool select, lil_metal_launch & l) {
    const ggml_tensor * stamp  = dst->src[0];
    const ggml_tensor * scores = select ? nullptr : dst->src[1];
    const ggml_tensor * steps  = dst->src[select ? 1 : 2];
    const ggml_tensor * cells  = dst->src[select ? 2 : 3];
    const ggml_tensor * pages  = dst->src[select ? 3 : 4];

    lil_metal_kargs_raas args = {};

    args.n_pages = layer.n_pages;
    args.n_steps = steps->ne[1];
    args.ratio   = layer.ratio;
    args.nb_t1   = stamp->nb[1];
    args.nb_t2   = stamp->nb[2];
    args.nb_x1   = scores ? scores->nb[1] : 0;
    args.nb_x2   = scores ? scores->nb[2] : 0;
    args.nb_d1   = dst->nb[1];
    args.nb_d2   = dst->nb[2];
    args.nb_s1   = steps->nb[1];
    args.nb_c2   = cells->nb[2];
    args.nb_p1   = pages->nb[1];

    snprintf(l.name, sizeof(l.name), select ? "kernel_lil_raas_select" : "kernel_lil_raas_stamp");
    l.n_threads = 256;
    l.n_shmem   = LIL_METAL_TOPK_SHMEM*sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, select ? steps->ne[1] : 1, 1);

    return nullptr;
}

//
// evict
//

// what the evict ops have in common; any may be null
static inline lil_metal_kargs_evict lil_metal_evict_args(const lil_h2o_layer & layer, const ggml_tensor * k, const ggml_tensor * score, const ggml_tensor * pos, const ggml_tensor * steps) {
    lil_metal_kargs_evict args = {};

    args.n_head_kv = layer.n_head_kv;
    args.last      = layer.last;
    args.shared    = layer.shared;
    args.scale     = layer.scale;
    args.softcap   = layer.softcap;

    if (k) {
        args.n_embd = k->ne[0]/layer.n_head_kv;
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

static inline const char * lil_metal_plan_h2o_evict(const ggml_tensor * dst, const lil_h2o_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * score = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, score, dst, steps);

    args.size_v = ggml_row_size(v->type, v->ne[0]/layer.n_head_kv);
    args.nb_v1  = v->nb[1];
    args.nb_v2  = v->nb[2];

    const uint64_t bits = args.size_k | args.nb_k1 | args.nb_k2 | args.size_v | args.nb_v1 | args.nb_v2;
    if (bits%2 != 0) {
        return "rows of the cache are not aligned";
    }
    args.by_quads = bits%8 == 0;

    snprintf(l.name, sizeof(l.name), "kernel_lil_h2o_evict");
    l.n_threads = 512;
    l.n_shmem   = (LIL_METAL_TOPK_SHMEM + 2*LIL_METAL_EVICT_MOVES)*sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.shared ? 1 : layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

// the kernels that score queries, n_row of them at once
static inline const char * lil_metal_plan_score(const char * name, const ggml_tensor * k, int64_t n_row, lil_metal_kargs_evict & args, lil_metal_launch & l) {
    if (const char * err = lil_metal_check_kv(k, args.n_head_kv)) {
        return err;
    }
    if (args.nb_q0%16 != 0 || args.nb_q1%16 != 0 || args.nb_q2%16 != 0) {
        return "rows of q are not aligned";
    }

    const int64_t n_shmem = LIL_METAL_SCORE_SHMEM(n_row, (int64_t) args.n_embd)*sizeof(float);
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "the head size is too large for the threadgroup memory";
    }

    snprintf(l.name, sizeof(l.name), "%s", name);
    l.type_k    = k->type;
    l.n_threads = 32*LIL_METAL_SCORE_SIMDS;
    l.n_shmem   = (n_shmem + 15)/16*16;
    lil_metal_set_args(l, args);

    return nullptr;
}

static inline const char * lil_metal_plan_h2o_score(const ggml_tensor * dst, const lil_h2o_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * q     = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, dst, pos, steps);

    args.n_group = q->ne[1]/layer.n_head_kv;
    args.n_query = 1;
    args.nb_q0   = q->nb[1];
    args.nb_q2   = q->nb[2];

    const int n_row = args.n_group <= 1 ? 1 : args.n_group <= 2 ? 2 : args.n_group <= 4 ? 4 : 8;

    char name[64];
    snprintf(name, sizeof(name), "kernel_lil_h2o_score_%d", n_row);

    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);
    return lil_metal_plan_score(name, k, n_row, args, l);
}

static inline const char * lil_metal_plan_h2o_score_prompt(const ggml_tensor * dst, const lil_h2o_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, nullptr, nullptr, steps);

    args.n_group = q->ne[1]/layer.n_head_kv;
    args.n_query = q->ne[2]/steps->ne[1];
    args.n_part  = dst->ne[2];
    args.n_kv    = dst->ne[0];
    args.nb_q0   = q->nb[1];
    args.nb_q1   = q->nb[2];
    args.nb_q2   = q->nb[2]*args.n_query;
    args.nb_a1   = dst->nb[1];
    args.nb_a2   = dst->nb[2];
    args.nb_a3   = dst->nb[3];

    lil_metal_set_grid(l, args.n_part, layer.n_head_kv, steps->ne[1]);
    return lil_metal_plan_score("kernel_lil_h2o_score_prompt", k, LIL_METAL_SCORE_ROWS, args, l);
}

static inline const char * lil_metal_plan_h2o_score_add(const ggml_tensor * dst, const lil_h2o_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * part  = dst->src[1];
    const ggml_tensor * pos   = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, nullptr, dst, pos, steps);

    args.n_part = part->ne[2]; // lil_h2o_score_prompt's kernel writes all
    args.nb_a1  = part->nb[1];
    args.nb_a2  = part->nb[2];
    args.nb_a3  = part->nb[3];

    snprintf(l.name, sizeof(l.name), "kernel_lil_h2o_score_add");
    l.n_threads = 256;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

static inline const char * lil_metal_plan_h2o_score_window(const ggml_tensor * dst, const lil_h2o_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * win   = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, dst, pos, steps);

    args.n_group = win->ne[0]/k->ne[0];
    args.nb_q0   = args.n_embd*sizeof(float);
    args.nb_q1   = win->nb[1];
    args.nb_q2   = win->nb[2];

    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);
    return lil_metal_plan_score("kernel_lil_h2o_score_window", k, LIL_METAL_SCORE_ROWS, args, l);
}

static inline const char * lil_metal_plan_new_slots(const ggml_tensor * dst, const lil_h2o_layer & layer, lil_metal_launch & l) {
    const ggml_tensor * pos   = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    snprintf(l.name, sizeof(l.name), "kernel_lil_new_slots");
    l.n_threads = 128;
    lil_metal_set_args(l, lil_metal_evict_args(layer, nullptr, dst, pos, steps));
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

// How to compute a node. Returns null, or why no kernel can; layer: the op's userdata
static inline const char * lil_metal_plan(lil_metal_op op, const ggml_tensor * dst, const void * layer, lil_metal_launch & l) {
    l = {};

    l.type_k = -1;
    l.type_v = -1;

    l.buf[l.n_buf++] = dst;
    for (int i = 0; i < GGML_MAX_SRC && dst->src[i]; ++i) {
        l.buf[l.n_buf++] = dst->src[i];
    }

    const auto & select = *(const lil_select_layer *) layer;
    const auto & evict  = *(const lil_h2o_layer    *) layer;

    switch (op) {
        case LIL_METAL_OP_ATTN:      return lil_metal_plan_attn     (dst, select, l);
        case LIL_METAL_OP_ATTN_JOIN: return lil_metal_plan_attn_join(dst, select, l);

        case LIL_METAL_OP_PAGE_BOUNDS:       return lil_metal_plan_page_bounds (dst, select, l);
        case LIL_METAL_OP_PAGE_SCORES:       return lil_metal_plan_page_scores (dst, select, l);
        case LIL_METAL_OP_PAGE_SELECT:       return lil_metal_plan_page_select (dst, select, l);
        case LIL_METAL_OP_TIDAL_SELECT:      return lil_metal_plan_token_select(dst, select, false, l);
        case LIL_METAL_OP_LESSISMORE_SELECT: return lil_metal_plan_token_select(dst, select, true, l);
        case LIL_METAL_OP_RAAS_STAMP:        return lil_metal_plan_raas(dst, select, false, l);
        case LIL_METAL_OP_RAAS_SELECT:       return lil_metal_plan_raas(dst, select, true, l);

        case LIL_METAL_OP_H2O_EVICT:        return lil_metal_plan_h2o_evict       (dst, evict, l);
        case LIL_METAL_OP_H2O_SCORE:        return lil_metal_plan_h2o_score       (dst, evict, l);
        case LIL_METAL_OP_H2O_SCORE_PROMPT: return lil_metal_plan_h2o_score_prompt(dst, evict, l);
        case LIL_METAL_OP_H2O_SCORE_ADD:    return lil_metal_plan_h2o_score_add   (dst, evict, l);
        case LIL_METAL_OP_H2O_SCORE_WINDOW: return lil_metal_plan_h2o_score_window(dst, evict, l);
        case LIL_METAL_OP_NEW_SLOTS:        return lil_metal_plan_new_slots       (dst, evict, l);
    }

    return "no such kernel";
}
