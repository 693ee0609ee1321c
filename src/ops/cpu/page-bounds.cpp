#include "dirty.h"

void lil_page_bounds(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * dirty = dst->src[2];

    for (int64_t u = ith; u < dirty->ne[1] * layer.n_head_kv; u += nth) {
        lil_dirty_bounds(layer, dst, k, lil_sel_row(dirty, u / layer.n_head_kv), u % layer.n_head_kv);
    }
}
