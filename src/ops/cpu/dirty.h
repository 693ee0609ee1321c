#pragma once

// The metadata of one page or block, for one KV head: what page_bounds and block_repr compute for all that are dirty,
// and page_scores and block_scores for those among the pages that they score.

#include "select.h"

#include "rows.h"
#include "topk.h"

// calls f(entry) for each dirty page in [p0, p1) of a table; dirty may be null
template <typename F>
static inline void lil_dirty_each(const ggml_tensor * dirty, int64_t table, int64_t p0, int64_t p1, F && f) {
    for (int64_t i = 0; dirty && i < dirty->ne[1]; ++i) {
        const int32_t * entry = lil_sel_row(dirty, i);

        if (entry[LIL_DIRTY_TABLE] == table && entry[LIL_DIRTY_PAGE] >= p0 && entry[LIL_DIRTY_PAGE] < p1) {
            f(entry);
        }
    }
}

static inline void lil_dirty_bounds(const lil_select_layer & layer, const ggml_tensor * bounds, const ggml_tensor * k,
        const int32_t * entry, int64_t i_head) {
    static thread_local lil_scratch scratch;

    GGML_ASSERT(bounds->type == GGML_TYPE_F16 || bounds->type == GGML_TYPE_F32);

    const int64_t n_embd = k->ne[0] / layer.n_head_kv;

    float * max = scratch.get(3 * n_embd);
    float * min = max + n_embd;
    float * row = min + n_embd;

    const int32_t * cells = entry + LIL_DIRTY_HEAD;
    const auto      keys  = lil_sel_get_cells(k, layer.n_head_kv, entry[LIL_DIRTY_STREAM], i_head);

    lil_widen_row(keys.type, keys.row(cells[0]), max, n_embd);
    std::copy(max, max + n_embd, min);

    for (int32_t j = 1; j < entry[LIL_DIRTY_N]; ++j) {
        lil_widen_row(keys.type, keys.row(cells[j]), row, n_embd);

        for (int64_t i = 0; i < n_embd; ++i) {
            max[i] = row[i] > max[i] ? row[i] : max[i];
            min[i] = row[i] < min[i] ? row[i] : min[i];
        }
    }

    char * dst = (char *) bounds->data + entry[LIL_DIRTY_TABLE] * bounds->nb[3] +
            entry[LIL_DIRTY_PAGE] * bounds->nb[2] + i_head * bounds->nb[1];

    if (bounds->type == GGML_TYPE_F16) {
        ggml_cpu_fp32_to_fp16(max, (ggml_fp16_t *) dst, 2 * n_embd);
    } else {
        ggml_cpu_fp32_to_fp32(max, (float *) dst, 2 * n_embd);
    }
}

static inline void lil_dirty_repr(const lil_select_layer & layer, const ggml_tensor * repr, const ggml_tensor * k,
        const ggml_tensor * score, const int32_t * entry, int64_t i_head) {
    static thread_local std::vector<int32_t> scratch_key;
    static thread_local std::vector<float>   scratch_row;

    const int32_t * cell = entry + LIL_DIRTY_HEAD;
    const int64_t   n    = entry[LIL_DIRTY_N];

    const auto    keys = lil_sel_get_cells(k, layer.n_head_kv, entry[LIL_DIRTY_STREAM], i_head);
    const float * s    = lil_sel_f32(score, i_head, entry[LIL_DIRTY_STREAM]);

    float *   sum = lil_sel_f32(repr, entry[LIL_DIRTY_PAGE], entry[LIL_DIRTY_TABLE]) + i_head * keys.n_embd;
    float *   row = lil_grow(scratch_row, keys.n_embd);
    int32_t * key = lil_grow(scratch_key, n);

    for (int64_t i = 0; i < n; ++i) {
        key[i] = lil_topk_key(s[cell[i]]);
    }

    std::fill_n(sum, keys.n_embd, 0.0f);

    lil_topk_each(key, n, layer.n_repr, [&](int64_t i) {
        lil_widen_row(keys.type, keys.row(cell[i]), row, keys.n_embd);
        ggml_vec_acc_f32((int) keys.n_embd, sum, row);
    });
}
