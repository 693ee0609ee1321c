#include "select.h"

#include "topk.h"

void lil_page_select(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * steps  = dst->src[1];
    const ggml_tensor * cells  = dst->src[2];
    const ggml_tensor * pages  = dst->src[3];

    static thread_local std::vector<int32_t> scratch;

    const int64_t n_head_kv = layer->n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step  = lil_sel_row(steps, i_step);
        const int32_t * first = lil_sel_row(pages, i_step);
        const int32_t * all   = lil_sel_list(cells, 0, i_step);

        lil_list list(lil_sel_list(dst, i_head, i_step), all);

        const int64_t n_pages = step[LIL_SEL_PAGES];

        if (!step[LIL_SEL_SPARSE] || n_pages <= layer->n_pages) {
            list.add(0, all[0]);
            continue;
        }

        int64_t p0 = 0;                  // pages [p0, n_pages - 1) compete
        int64_t k  = layer->n_pages - 1; // for as many places

        if (layer->first_page) {
            list.add(first[0], first[1]);
            p0++;
            k--;
        }

        int32_t * key = lil_grow(scratch, n_pages);
        lil_topk_keys(lil_sel_f32(scores, i_head, i_step), n_pages, key);

        lil_topk_each(key + p0, n_pages - 1 - p0, k, [&](int64_t i) { list.add(first[p0 + i], first[p0 + i + 1]); });

        list.add(first[n_pages - 1], first[n_pages]);
    }
}
