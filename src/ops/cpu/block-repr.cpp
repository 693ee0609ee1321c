#include "dirty.h"

void lil_block_repr(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * score = dst->src[2];
    const ggml_tensor * dirty = dst->src[3];

    for (int64_t u = ith; u < dirty->ne[1] * layer.n_head_kv; u += nth) {
        lil_dirty_repr(layer, dst, k, score, lil_sel_row(dirty, u / layer.n_head_kv), u % layer.n_head_kv);
    }
}
