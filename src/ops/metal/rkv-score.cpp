#include "lil-metal-plan.h"

const char * lil_metal_plan_rkv_score(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * ring  = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, dst, pos, steps);

    args.n_group = ring->ne[0] / k->ne[0];
    args.n_ring  = ring->ne[1];
    args.nb_q0   = args.n_embd * sizeof(float);
    args.nb_q1   = ring->nb[1];
    args.nb_q2   = ring->nb[2];

    args.has_sinks = lil_metal_set_sinks(l, dst, 5);

    const int     n_at_once = args.n_group < 2 ? 1 : args.n_group < 4 ? 2 : args.n_group < 8 ? 4 : 8;
    const int64_t n_shmem   = LIL_METAL_RKV_SHMEM(args.n_embd, dst->ne[0]) * sizeof(float);

    if (const char * err = lil_metal_set_score(l, k, args.n_head_kv, 1, args.nb_q0 | args.nb_q1 | args.nb_q2)) {
        return err;
    }
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "the slots of a KV head do not fit into the threadgroup memory";
    }

    snprintf(l.name, sizeof(l.name), "kernel_lil_rkv_score_%d", n_at_once);
    l.n_shmem = (n_shmem + 15) / 16 * 16;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, args.n_head_kv, steps->ne[1], 1);

    return nullptr;
}
