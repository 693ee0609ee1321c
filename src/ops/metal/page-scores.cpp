#include "lil-metal-plan.h"

const char * lil_metal_plan_page_scores(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * q      = dst->src[0];
    const ggml_tensor * bounds = dst->src[1];
    const ggml_tensor * steps  = dst->src[2];
    const ggml_tensor * k      = dst->src[3]; // null without dirty
    const ggml_tensor * dirty  = k ? dst->src[4] : nullptr;

    const int64_t n_embd  = q->ne[0];
    const int64_t n_group = q->ne[1] / layer.n_head_kv;

    // query heads at once: all, or as many eights as there is room for
    const int64_t n_room = LIL_METAL_MAX_SHMEM / (n_embd * (int64_t) sizeof(float));
    const int64_t n_row  = n_group <= n_room ? n_group : n_room / 8 * 8;

    if (bounds->type != GGML_TYPE_F16 && bounds->type != GGML_TYPE_F32) {
        return "bounds are not of type F16 or F32";
    }
    if (n_embd % 4 != 0) {
        return "the head size is no multiple of 4";
    }
    if (q->nb[1] % 16 != 0 || q->nb[2] % 16 != 0) {
        return "rows of q are not aligned";
    }
    if (n_row == 0) {
        return "eight query heads do not fit into the threadgroup memory";
    }

    if (dirty) {
        if (const char * err = lil_metal_check_kv(k, layer.n_head_kv)) {
            return err;
        }
    }

    lil_metal_kargs_page_scores args = {};

    args.n_embd  = n_embd;
    args.n_group = n_group;
    args.n_row   = n_row;
    args.nb_d1   = dst->nb[1];
    args.nb_d2   = dst->nb[2];
    args.nb_q1   = q->nb[1];
    args.nb_q2   = q->nb[2];
    args.nb_b1   = bounds->nb[1];
    args.nb_b2   = bounds->nb[2];
    args.nb_b3   = bounds->nb[3];
    args.nb_s1   = steps->nb[1];

    if (dirty) {
        args.dirty = lil_metal_dirty_args(layer, bounds, k, nullptr, dirty);
    }

    snprintf(l.name, sizeof(l.name), "kernel_lil_page_scores_%d",
            n_group <= 1           ? 1
                    : n_group <= 2 ? 2
                    : n_group <= 4 ? 4
                                   : 8);
    l.type_k     = dirty ? k->type : -1;
    l.type_v     = bounds->type;
    l.n_threads  = 128;
    l.n_shmem    = n_row * n_embd * sizeof(float);
    l.writes_src = dirty;
    lil_metal_set_args(l, args);
    lil_metal_fill_buf(l, 6);
    lil_metal_set_grid(
            l, (dst->ne[0] + LIL_METAL_SCORES_PAGES - 1) / LIL_METAL_SCORES_PAGES, layer.n_head_kv, steps->ne[1]);

    return nullptr;
}
