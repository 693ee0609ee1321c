#include "dirty.h"

// blocks that a thread takes at once
static constexpr int64_t N_RANGE = 4 * LIL_TILE;

// q.k summed over the query heads of a group is the sum of the queries times k
void lil_block_scores(ggml_tensor * dst, int ith, int nth, void * userdata) {
    static thread_local lil_scratch scratch;

    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * repr  = dst->src[1];
    const ggml_tensor * steps = dst->src[2];
    const ggml_tensor * k     = dst->src[3]; // null without dirty
    const ggml_tensor * score = k ? dst->src[4] : nullptr;
    const ggml_tensor * dirty = k ? dst->src[5] : nullptr;

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1] / n_head_kv;
    const int64_t n_embd    = q->ne[0];
    const int64_t n_pad     = lil_pad(n_embd * n_head_kv);
    const int64_t n_range   = (dst->ne[0] + N_RANGE - 1) / N_RANGE;

    float * tile = scratch.get((LIL_TILE + 1) * n_pad);
    float * qs   = tile + LIL_TILE * n_pad; // [n_embd*n_head_kv]

    for (int64_t u = ith; u < steps->ne[1] * n_range; u += nth) {
        const int64_t i_step = u / n_range;

        const int32_t * step = lil_sel_row(steps, i_step);

        const int64_t b0 = u % n_range * N_RANGE;
        const int64_t b1 = std::min<int64_t>(b0 + N_RANGE, step[LIL_SEL_PAGES]);

        if (b0 >= b1) {
            continue;
        }

        lil_dirty_each(dirty, step[LIL_SEL_TABLE], b0, b1, [&](const int32_t * entry) {
            for (int64_t i_head = 0; i_head < n_head_kv; ++i_head) {
                lil_dirty_repr(*layer, repr, k, score, entry, i_head);
            }
        });

        std::fill(qs, qs + n_pad, 0.0f);
        for (int64_t h = 0; h < q->ne[1]; ++h) {
            ggml_vec_acc_f32(n_embd, qs + h / n_group * n_embd, lil_sel_f32(q, h, i_step));
        }

        float * scores = lil_sel_f32(dst, i_step);

        for (int64_t b = b0; b < b1; b += LIL_TILE) {
            const int n = std::min<int64_t>(LIL_TILE, b1 - b);

            lil_rows rows = {};

            rows.n = n;
            for (int r = 0; r < LIL_TILE; ++r) {
                rows.row[r] = (const char *) (tile + r * n_pad);
            }
            for (int r = 0; r < n; ++r) {
                lil_load_row(repr->type, (const char *) lil_sel_f32(repr, b + r, step[LIL_SEL_TABLE]), tile + r * n_pad,
                        n_embd * n_head_kv);
                lil_pad_row(tile + r * n_pad, n_embd * n_head_kv);
            }

            float x[LIL_TILE];
            lil_rows_dot<lil_read_f32>(rows, qs, 1, n_pad, x, LIL_TILE);

            std::copy(x, x + n, scores + b);
        }
    }
}
