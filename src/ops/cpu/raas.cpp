#include "select.h"

#include "topk.h"

#include <cmath>

// A page's stamp is the highest of its tokens', so that it follows from them when tokens are removed, copied or stored.

namespace {

// scratch of a thread, grown on first use
struct raas_scratch {
    std::vector<int32_t> stamp; // [n_pages], keys
    std::vector<int32_t> alive; // [n_pages], pages
    std::vector<int32_t> score; // [n_pages], keys

    static raas_scratch & get() {
        static thread_local raas_scratch s;
        return s;
    }
};

// the pages that are alive, ascending; returns how many
int64_t get_alive(const lil_select_layer & layer, const int32_t * step,
        const int32_t * first, // rank of each page's first token
        const int32_t * all,
        const float *   stamp, // by cell
        int32_t *       alive) {
    const int64_t n_pages = step[LIL_SEL_PAGES];

    int64_t n = 0;

    if (!step[LIL_SEL_SPARSE] || n_pages <= layer.n_pages) {
        for (int64_t p = 0; p < n_pages; ++p) {
            alive[n++] = (int32_t) p;
        }
        return n;
    }

    int32_t * key = lil_grow(raas_scratch::get().stamp, n_pages);

    for (int64_t p = 0; p < n_pages - 1; ++p) {
        float s = stamp[all[1 + first[p]]];
        for (int64_t r = first[p] + 1; r < first[p + 1]; ++r) {
            s = std::max(s, stamp[all[1 + r]]);
        }
        key[p] = lil_topk_key(s);
    }

    lil_topk_each(key, n_pages - 1, layer.n_pages - 1, [&](int64_t p) { alive[n++] = (int32_t) p; });

    alive[n++] = (int32_t) (n_pages - 1);

    return n;
}

}

void lil_raas_stamp(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * scores = dst->src[1];
    const ggml_tensor * steps  = dst->src[2];
    const ggml_tensor * cells  = dst->src[3];
    const ggml_tensor * pages  = dst->src[4];

    auto & scratch = raas_scratch::get();

    const int64_t n_head_kv = layer->n_head_kv;

    for (int64_t u = 0; u < steps->ne[1] * n_head_kv; ++u) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step  = lil_sel_row(steps, i_step);
        const int32_t * first = lil_sel_row(pages, i_step);
        const int32_t * all   = lil_sel_list(cells, 0, i_step);

        // sequences of one stream can share cells: these steps go one after the other
        if ((step[LIL_SEL_STREAM] * n_head_kv + i_head) % nth != ith) {
            continue;
        }

        float *     stamp = lil_sel_f32(dst, i_head, step[LIL_SEL_STREAM]);
        const float now   = (float) step[LIL_SEL_NOW];

        stamp[all[all[0]]] = now;

        int32_t *     alive   = lil_grow(scratch.alive, step[LIL_SEL_PAGES]);
        const int64_t n_alive = get_alive(*layer, step, first, all, stamp, alive);

        const float * score = lil_sel_f32(scores, i_head, i_step);

        int32_t * key = lil_grow(scratch.score, n_alive);
        for (int64_t i = 0; i < n_alive; ++i) {
            key[i] = lil_topk_key(score[alive[i]]);
        }

        lil_topk_each(key, n_alive, (int64_t) ceilf(layer->ratio * (float) n_alive), [&](int64_t i) {
            const int32_t r0 = first[alive[i]];
            const int32_t r1 = first[alive[i] + 1];

            for (int32_t r = r0; r < r1; ++r) {
                if (stamp[all[1 + r]] >= now) {
                    return;
                }
            }
            for (int32_t r = r0; r < r1; ++r) {
                stamp[all[1 + r]] = now;
            }
        });
    }
}

void lil_raas_select(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * stamp = dst->src[0];
    const ggml_tensor * steps = dst->src[1];
    const ggml_tensor * cells = dst->src[2];
    const ggml_tensor * pages = dst->src[3];

    auto & scratch = raas_scratch::get();

    const int64_t n_head_kv = layer->n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step  = lil_sel_row(steps, i_step);
        const int32_t * first = lil_sel_row(pages, i_step);
        const int32_t * all   = lil_sel_list(cells, 0, i_step);

        lil_list list(lil_sel_list(dst, i_head, i_step), all);

        if (!step[LIL_SEL_SPARSE]) {
            list.add(0, all[0]);
            continue;
        }

        int32_t *     alive = lil_grow(scratch.alive, step[LIL_SEL_PAGES]);
        const int64_t n_alive =
                get_alive(*layer, step, first, all, lil_sel_f32(stamp, i_head, step[LIL_SEL_STREAM]), alive);

        for (int64_t i = 0; i < n_alive; ++i) {
            list.add(first[alive[i]], first[alive[i] + 1]);
        }
    }
}
