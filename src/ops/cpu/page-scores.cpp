#include "dirty.h"

// pages that a thread takes at once
static constexpr int64_t N_RANGE = 4 * LIL_TILE;

// The bound of a page is one dot product: with the maxima where q is positive, with the minima where it is negative.
void lil_page_scores(ggml_tensor * dst, int ith, int nth, void * userdata) {
    static thread_local lil_scratch scratch;

    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * q      = dst->src[0];
    const ggml_tensor * bounds = dst->src[1];
    const ggml_tensor * steps  = dst->src[2];
    const ggml_tensor * k      = dst->src[3]; // null without dirty
    const ggml_tensor * dirty  = k ? dst->src[4] : nullptr;

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1] / n_head_kv;
    const int64_t n_embd    = q->ne[0];
    const int64_t n_pad     = lil_pad(2 * n_embd);
    const int64_t n_range   = (dst->ne[0] + N_RANGE - 1) / N_RANGE;

    float * tile = scratch.get(LIL_TILE * n_pad + n_group * (n_pad + LIL_TILE));
    float * qs   = tile + LIL_TILE * n_pad; // [n_group][n_pad]
    float * x    = qs + n_group * n_pad;    // [n_group][LIL_TILE]

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv * n_range; u += nth) {
        const int64_t i_step = u / (n_head_kv * n_range);
        const int64_t i_head = u / n_range % n_head_kv;

        const int32_t * step = lil_sel_row(steps, i_step);

        const int64_t p0 = u % n_range * N_RANGE;
        const int64_t p1 = std::min<int64_t>(p0 + N_RANGE, step[LIL_SEL_PAGES]);

        if (p0 >= p1) {
            continue;
        }

        lil_dirty_each(dirty, step[LIL_SEL_TABLE], p0, p1,
                [&](const int32_t * entry) { lil_dirty_bounds(*layer, bounds, k, entry, i_head); });

        for (int64_t g = 0; g < n_group; ++g) {
            const float * src = lil_sel_f32(q, i_head * n_group + g, i_step);

            for (int64_t i = 0; i < n_embd; ++i) {
                qs[g * n_pad + i]          = std::max(src[i], 0.0f);
                qs[g * n_pad + n_embd + i] = std::min(src[i], 0.0f);
            }
            std::fill(qs + g * n_pad + 2 * n_embd, qs + (g + 1) * n_pad, 0.0f);
        }

        const char * head  = (const char *) bounds->data + step[LIL_SEL_TABLE] * bounds->nb[3] + i_head * bounds->nb[1];
        float *      score = lil_sel_f32(dst, i_head, i_step);

        for (int64_t p = p0; p < p1; p += LIL_TILE) {
            const int n = std::min<int64_t>(LIL_TILE, p1 - p);

            lil_rows rows = {};

            rows.n = n;
            for (int r = 0; r < LIL_TILE; ++r) {
                rows.row[r] = (const char *) (tile + r * n_pad);
            }
            for (int r = 0; r < n; ++r) {
                lil_load_row(bounds->type, head + (p + r) * bounds->nb[2], tile + r * n_pad, 2 * n_embd);
                lil_pad_row(tile + r * n_pad, 2 * n_embd);
            }
            lil_rows_dot<lil_read_f32>(rows, qs, n_group, n_pad, x, LIL_TILE);

            for (int r = 0; r < n; ++r) {
                float max = x[r];
                for (int64_t g = 1; g < n_group; ++g) {
                    max = std::max(max, x[g * LIL_TILE + r]);
                }
                score[p + r] = max;
            }
        }
    }
}
