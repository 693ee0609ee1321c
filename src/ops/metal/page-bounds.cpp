#include "lil-metal-plan.h"

const char * lil_metal_plan_page_bounds(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * dirty = dst->src[2];

    const int64_t n_embd = k->ne[0] / layer.n_head_kv;

    if (const char * err = lil_metal_check_kv(k, layer.n_head_kv)) {
        return err;
    }
    if (dst->type != GGML_TYPE_F16 && dst->type != GGML_TYPE_F32) {
        return "bounds are not of type F16 or F32";
    }

    snprintf(l.name, sizeof(l.name), "kernel_lil_page_bounds");
    l.type_k    = k->type;
    l.type_v    = dst->type;
    l.n_threads = n_embd <= 128 ? 32 : 64;
    lil_metal_set_args(l, lil_metal_dirty_args(layer, dst, k, nullptr, dirty));
    lil_metal_set_grid(l, layer.n_head_kv, dirty->ne[1], 1);

    return nullptr;
}
