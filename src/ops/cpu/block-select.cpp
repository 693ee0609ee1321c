#include "select.h"

#include "topk.h"

void lil_block_select(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * steps  = dst->src[1];
    const ggml_tensor * cells  = dst->src[2];

    static thread_local std::vector<int32_t> scratch;

    for (int64_t i_step = ith; i_step < steps->ne[1]; i_step += nth) {
        const int32_t * step = lil_sel_row(steps, i_step);
        const int32_t * all  = lil_sel_list(cells, 0, i_step);

        lil_list list(lil_sel_list(dst, 0, i_step), all);

        const int64_t n_blocks = step[LIL_SEL_PAGES];

        if (!step[LIL_SEL_SPARSE] || n_blocks <= layer->n_pages) {
            list.add(0, all[0]);
            continue;
        }

        const int64_t first = layer->n_sink; // rank of block 0
        const int64_t block = layer->block;

        int32_t * key = lil_grow(scratch, n_blocks);
        lil_topk_keys(lil_sel_f32(scores, i_step), n_blocks, key);

        list.add(0, first);
        lil_topk_each(key, n_blocks, layer->n_pages,
                [&](int64_t i) { list.add(first + i * block, first + (i + 1) * block); });
        list.add(first + n_blocks * block, all[0]);
    }
}
