#include "lil-metal-plan.h"

const char * lil_metal_plan_block_repr(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * score = dst->src[2];
    const ggml_tensor * dirty = dst->src[3];

    const int64_t n_shmem = 2 * (dirty->ne[0] - LIL_DIRTY_HEAD) * sizeof(uint32_t);

    if (const char * err = lil_metal_check_kv(k, layer.n_head_kv)) {
        return err;
    }
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "the tokens of a block do not fit into the threadgroup memory";
    }

    snprintf(l.name, sizeof(l.name), "kernel_lil_block_repr");
    l.type_k    = k->type;
    l.n_threads = 32;
    l.n_shmem   = (n_shmem + 15) / 16 * 16;
    lil_metal_set_args(l, lil_metal_dirty_args(layer, dst, k, score, dirty));
    lil_metal_set_grid(l, layer.n_head_kv, dirty->ne[1], 1);

    return nullptr;
}
