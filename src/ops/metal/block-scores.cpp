#include "lil-metal-plan.h"

const char * lil_metal_plan_block_scores(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * repr  = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    const int64_t n_embd  = q->ne[0];
    const int64_t n_shmem = n_embd*layer.n_head_kv*sizeof(float);

    if (n_embd%4 != 0) {
        return "the head size is no multiple of 4";
    }
    if (q->nb[1]%16 != 0 || q->nb[2]%16 != 0 || repr->nb[1]%16 != 0 || repr->nb[2]%16 != 0) {
        return "rows of q, or of the representatives, are not aligned";
    }
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "a query of all KV heads does not fit into the threadgroup memory";
    }

    lil_metal_kargs_block_scores args = {};

    args.n_embd    = n_embd;
    args.n_head_kv = layer.n_head_kv;
    args.n_group   = q->ne[1]/layer.n_head_kv;
    args.nb_d1     = dst->nb[1];
    args.nb_q1     = q->nb[1];
    args.nb_q2     = q->nb[2];
    args.nb_r1     = repr->nb[1];
    args.nb_r2     = repr->nb[2];
    args.nb_s1     = steps->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_block_scores");
    l.n_threads = 256;
    l.n_shmem   = n_shmem;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, (dst->ne[0] + LIL_METAL_BLOCK_SCORES - 1)/LIL_METAL_BLOCK_SCORES, steps->ne[1], 1);

    return nullptr;
}
