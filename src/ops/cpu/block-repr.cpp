#include "select.h"

#include "rows.h"
#include "topk.h"

void lil_block_repr(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * score = dst->src[2];
    const ggml_tensor * dirty = dst->src[3];

    static thread_local std::vector<int32_t> scratch_key;
    static thread_local std::vector<float>   scratch_row;

    const int64_t n_head_kv = layer->n_head_kv;

    for (int64_t u = ith; u < dirty->ne[1]*n_head_kv; u += nth) {
        const int64_t i_head = u%n_head_kv;

        const int32_t * head = lil_sel_row(dirty, u/n_head_kv);
        const int32_t * cell = head + LIL_DIRTY_HEAD;
        const int64_t   n    = head[LIL_DIRTY_N];

        const auto    keys = lil_sel_get_cells(k, n_head_kv, head[LIL_DIRTY_STREAM], i_head);
        const float * s    = lil_sel_f32(score, i_head, head[LIL_DIRTY_STREAM]);

        float   * sum = lil_sel_f32(dst, head[LIL_DIRTY_PAGE], head[LIL_DIRTY_TABLE]) + i_head*keys.n_embd;
        float   * row = lil_grow(scratch_row, keys.n_embd);
        int32_t * key = lil_grow(scratch_key, n);

        for (int64_t i = 0; i < n; ++i) {
            key[i] = lil_topk_key(s[cell[i]]);
        }

        std::fill_n(sum, keys.n_embd, 0.0f);

        lil_topk_each(key, n, layer->n_repr, [&](int64_t i) {
            lil_widen_row(keys.type, keys.row(cell[i]), row, keys.n_embd);
            ggml_vec_acc_f32((int) keys.n_embd, sum, row);
        });
    }
}
