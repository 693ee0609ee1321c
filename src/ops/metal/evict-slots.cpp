#include "lil-metal-plan.h"

const char * lil_metal_plan_evict_slots(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * score = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, score, dst, steps);

    args.size_v = v->view_src == k ? 0 : ggml_row_size(v->type, v->ne[0] / args.n_head_kv); // MLA: a part of K
    args.nb_v1  = v->nb[1];
    args.nb_v2  = v->nb[2];

    const uint64_t bits = args.size_k | args.nb_k1 | args.nb_k2 | args.size_v | args.nb_v1 | args.nb_v2;
    if (bits % 2 != 0) {
        return "rows of the cache are not aligned";
    }
    args.by_quads = bits % 8 == 0;

    snprintf(l.name, sizeof(l.name), "kernel_lil_evict_slots");
    l.n_threads  = 512;
    l.writes_src = true; // K, V and score
    l.n_shmem    = (LIL_METAL_TOPK_SHMEM + 2 * LIL_METAL_EVICT_MOVES) * sizeof(uint32_t);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.shared ? 1 : args.n_head_kv, steps->ne[1], 1);

    return nullptr;
}
