#include "lil-metal-plan.h"

static const char * plan_raas(const ggml_tensor * dst, const void * userdata, bool select, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * stamp  = dst->src[0];
    const ggml_tensor * scores = select ? nullptr : dst->src[1];
    const ggml_tensor * steps  = dst->src[select ? 1 : 2];
    const ggml_tensor * cells  = dst->src[select ? 2 : 3];
    const ggml_tensor * pages  = dst->src[select ? 3 : 4];

    lil_metal_kargs_raas args = {};

    args.n_pages = layer.n_pages;
    args.n_steps = steps->ne[1];
    args.ratio   = layer.ratio;
    args.nb_t1   = stamp->nb[1];
    args.nb_t2   = stamp->nb[2];
    args.nb_x1   = scores ? scores->nb[1] : 0;
    args.nb_x2   = scores ? scores->nb[2] : 0;
    args.nb_d1   = dst->nb[1];
    args.nb_d2   = dst->nb[2];
    args.nb_s1   = steps->nb[1];
    args.nb_c2   = cells->nb[2];
    args.nb_p1   = pages->nb[1];

    snprintf(l.name, sizeof(l.name), select ? "kernel_lil_raas_select" : "kernel_lil_raas_stamp");
    l.n_threads = 256;
    l.n_shmem   = LIL_METAL_TOPK_SHMEM * sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

const char * lil_metal_plan_raas_stamp(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    return plan_raas(dst, userdata, false, l);
}

const char * lil_metal_plan_raas_select(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    return plan_raas(dst, userdata, true, l);
}
