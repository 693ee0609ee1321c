#pragma once

// What the select ops of the CPU share.

#include "lil-ops-cpu.h"

#include <cstddef>
#include <cstdint>

// steps, dirty, pages: the row i
static inline const int32_t * lil_sel_row(const ggml_tensor * t, int64_t i) {
    return (const int32_t *) ((const char *) t->data + i * t->nb[1]);
}

// list, cells: the count, then the cells. A list with one head serves every KV head
static inline int32_t * lil_sel_list(const ggml_tensor * list, int64_t i_head, int64_t i_step) {
    return (int32_t *) ((char *) list->data + i_step * list->nb[2] + (list->ne[1] == 1 ? 0 : i_head) * list->nb[1]);
}

// F32 tensors: the row (i1, i2, i3)
static inline float * lil_sel_f32(const ggml_tensor * t, int64_t i1, int64_t i2 = 0, int64_t i3 = 0) {
    return (float *) ((char *) t->data + i3 * t->nb[3] + i2 * t->nb[2] + i1 * t->nb[1]);
}

// Entries that one partial result of attn covers: fewer where rows are long, for MLA has one KV head, which threads
// share by chunks
static inline int64_t lil_cpu_attn_chunk(int64_t n_embd_v) {
    return n_embd_v > 256 ? LIL_ATTN_CHUNK / 4 : LIL_ATTN_CHUNK;
}

static inline int64_t lil_cpu_attn_n_chunk(int64_t n_embd_v, int64_t n_max) {
    const int64_t n = lil_cpu_attn_chunk(n_embd_v);

    return (n_max + n - 1) / n;
}

static inline int64_t lil_cpu_attn_kq_offset(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps) {
    return (n_embd_v + 2) * n_head * lil_cpu_attn_n_chunk(n_embd_v, n_max) * n_steps;
}

static inline int64_t lil_cpu_attn_n_work(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps, bool kq) {
    return lil_cpu_attn_kq_offset(n_embd_v, n_head, n_max, n_steps) + (kq ? n_max * n_head * n_steps : 0);
}

// one KV head of K or V in one stream: cell c at data + c*stride
struct lil_sel_cells {
    const char * data;
    size_t       stride;
    int64_t      n_embd; // of a head
    ggml_type    type;

    const char * row(int64_t cell) const { return data + cell * stride; }
};

static inline lil_sel_cells lil_sel_get_cells(const ggml_tensor * kv, int64_t n_head_kv, int64_t strm, int64_t i_head) {
    lil_sel_cells res = {};

    res.n_embd = kv->ne[0] / n_head_kv;
    res.type   = kv->type;
    res.stride = kv->nb[1];
    res.data   = (const char *) kv->data + strm * kv->nb[2] + i_head * ggml_row_size(kv->type, res.n_embd);

    return res;
}
