#include "lil-metal-plan.h"

const char * lil_metal_plan_page_select(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * steps  = dst->src[1];
    const ggml_tensor * cells  = dst->src[2];
    const ggml_tensor * pages  = dst->src[3];

    lil_metal_kargs_page_select args = {};

    args.n_pages    = layer.n_pages;
    args.first_page = layer.first_page;
    args.nb_d1      = dst->nb[1];
    args.nb_d2      = dst->nb[2];
    args.nb_x1      = scores->nb[1];
    args.nb_x2      = scores->nb[2];
    args.nb_s1      = steps->nb[1];
    args.nb_c2      = cells->nb[2];
    args.nb_p1      = pages->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_page_select");
    l.n_threads = 256;
    l.n_shmem   = LIL_METAL_TOPK_SHMEM * sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}
