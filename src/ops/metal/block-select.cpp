#include "lil-metal-plan.h"

const char * lil_metal_plan_block_select(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * scores = dst->src[0];
    const ggml_tensor * steps  = dst->src[1];
    const ggml_tensor * cells  = dst->src[2];

    lil_metal_kargs_block_select args = {};

    args.n_blocks = layer.n_pages;
    args.block    = layer.block;
    args.n_init   = layer.n_sink;
    args.nb_d2    = dst->nb[2];
    args.nb_x1    = scores->nb[1];
    args.nb_s1    = steps->nb[1];
    args.nb_c2    = cells->nb[2];

    snprintf(l.name, sizeof(l.name), "kernel_lil_block_select");
    l.n_threads = 256;
    l.n_shmem   = LIL_METAL_TOPK_SHMEM * sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, steps->ne[1], 1, 1);

    return nullptr;
}
