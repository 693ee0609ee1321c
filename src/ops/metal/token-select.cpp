#include "lil-metal-plan.h"

static const char * plan_token_select(
        const ggml_tensor * dst, const void * userdata, bool merge, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * work  = dst->src[0];
    const ggml_tensor * steps = dst->src[1];
    const ggml_tensor * cells = dst->src[2];

    const auto logits = lil_metal_get_logits(work, layer.n_head_kv);

    lil_metal_kargs_token_select args = {};

    args.budget    = layer.budget;
    args.n_sink    = layer.n_sink;
    args.n_recent  = layer.n_recent;
    args.n_group   = logits.n_head / layer.n_head_kv;
    args.n_head    = logits.n_head;
    args.n_max     = logits.n_max;
    args.kq_offset = logits.offset;
    args.nb_d1     = dst->nb[1];
    args.nb_d2     = dst->nb[2];
    args.nb_s1     = steps->nb[1];
    args.nb_c2     = cells->nb[2];

    snprintf(l.name, sizeof(l.name), merge ? "kernel_lil_lessismore_select" : "kernel_lil_tidal_select");
    l.n_threads = 512;
    l.n_shmem   = ((LIL_METAL_TOPK_SHMEM + (merge ? 4 * args.n_head : 0)) * sizeof(uint32_t) + 15) / 16 * 16;
    lil_metal_set_args(l, args);
    if (merge) {
        lil_metal_set_grid(l, steps->ne[1], 1, 1);
    } else {
        lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);
    }

    return nullptr;
}

const char * lil_metal_plan_tidal_select(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    return plan_token_select(dst, userdata, false, l);
}

const char * lil_metal_plan_lessismore_select(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    return plan_token_select(dst, userdata, true, l);
}
