#include "lil-metal-plan.h"

const char * lil_metal_plan_block_scores(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * repr  = dst->src[1];
    const ggml_tensor * steps = dst->src[2];
    const ggml_tensor * k     = dst->src[3]; // null without dirty
    const ggml_tensor * score = k ? dst->src[4] : nullptr;
    const ggml_tensor * dirty = k ? dst->src[5] : nullptr;

    const int64_t n_threads = 256;
    const int64_t n_embd    = q->ne[0];
    const int64_t n_shmem   = n_embd * layer.n_head_kv * sizeof(float) +
            (dirty ? n_threads / 32 * 2 * (dirty->ne[0] - LIL_DIRTY_HEAD) * sizeof(uint32_t) : 0);

    if (n_embd % 4 != 0) {
        return "the head size is no multiple of 4";
    }
    if (q->nb[1] % 16 != 0 || q->nb[2] % 16 != 0 || repr->nb[1] % 16 != 0 || repr->nb[2] % 16 != 0) {
        return "rows of q, or of the representatives, are not aligned";
    }
    if (n_shmem > LIL_METAL_MAX_SHMEM) {
        return "a query of all KV heads does not fit into the threadgroup memory";
    }
    if (dirty) {
        if (const char * err = lil_metal_check_kv(k, layer.n_head_kv)) {
            return err;
        }
    }

    lil_metal_kargs_block_scores args = {};

    args.n_embd    = n_embd;
    args.n_head_kv = layer.n_head_kv;
    args.n_group   = q->ne[1] / layer.n_head_kv;
    args.nb_d1     = dst->nb[1];
    args.nb_q1     = q->nb[1];
    args.nb_q2     = q->nb[2];
    args.nb_r1     = repr->nb[1];
    args.nb_r2     = repr->nb[2];
    args.nb_s1     = steps->nb[1];

    if (dirty) {
        args.dirty = lil_metal_dirty_args(layer, repr, k, score, dirty);
    }

    snprintf(l.name, sizeof(l.name), "kernel_lil_block_scores");
    l.type_k     = dirty ? k->type : -1;
    l.n_threads  = n_threads;
    l.n_shmem    = (n_shmem + 15) / 16 * 16;
    l.writes_src = dirty;
    lil_metal_set_args(l, args);
    lil_metal_fill_buf(l, 7);
    lil_metal_set_grid(l, (dst->ne[0] + LIL_METAL_BLOCK_SCORES - 1) / LIL_METAL_BLOCK_SCORES, steps->ne[1], 1);

    return nullptr;
}
