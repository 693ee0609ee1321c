#include "lil-metal-plan.h"

const char * lil_metal_plan_block_repr(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * score = dst->src[2];
    const ggml_tensor * dirty = dst->src[3];

    const int64_t n_embd  = k->ne[0]/layer.n_head_kv;
    const int64_t n_shmem = 2*(dirty->ne[0] - LIL_DIRTY_HEAD)*sizeof(uint32_t);

    if (const char * err = lil_metal_check_kv(k, layer.n_head_kv)) {
        return err;
    }
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "the tokens of a block do not fit into the threadgroup memory";
    }

    lil_metal_kargs_block_repr args = {};

    args.n_embd = n_embd;
    args.n_repr = layer.n_repr;
    args.size_k = ggml_row_size(k->type, n_embd);
    args.nb_r1  = dst->nb[1];
    args.nb_r2  = dst->nb[2];
    args.nb_k1  = k->nb[1];
    args.nb_k2  = k->nb[2];
    args.nb_x1  = score->nb[1];
    args.nb_x2  = score->nb[2];
    args.nb_d1  = dirty->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_block_repr");
    l.type_k    = k->type;
    l.n_threads = n_embd <= 128 ? 32 : 64;
    l.n_shmem   = (n_shmem + 15)/16*16;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, dirty->ne[1], 1);

    return nullptr;
}
