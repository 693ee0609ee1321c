#include "lil-metal-plan.h"

#include <algorithm>

const char * lil_metal_plan_attn(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    static const int N[] = { 1, 2, 3, 4, 5, 6, 7, 8, 12, 16 }; // query heads that a kernel takes

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * list  = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int64_t n_head_kv = layer.n_head_kv;
    const int64_t n_head    = q->ne[1];
    const int64_t n_group   = n_head / n_head_kv;
    const int64_t n_steps   = steps->ne[1];
    const int64_t n_max     = list->ne[0] - 1;
    const int64_t n_embd    = k->ne[0] / n_head_kv;
    const int64_t n_embd_v  = v->ne[0] / n_head_kv;

    l.n_threads   = 128;
    l.all_threads = true;

    if (const char * err = lil_metal_check_kv(k, n_head_kv)) {
        return err;
    }
    if (const char * err = lil_metal_check_kv(v, n_head_kv)) {
        return err;
    }
    if (n_embd_v > LIL_METAL_MAX_EMBD_V) {
        return "values of a head have more than 512 channels";
    }

    if (q->nb[1] % 16 != 0 || q->nb[2] % 16 != 0) {
        return "rows of q are not aligned";
    }

    const auto n_shmem = [&](int64_t n) {
        return (n * (std::max(n_embd, n_embd_v) + LIL_ATTN_CHUNK + 2) * sizeof(float) + 15) / 16 * 16;
    };

    int64_t n_most = 0;
    for (int n : N) {
        if (n_shmem(n) <= LIL_METAL_MAX_SHMEM) {
            n_most = n;
        }
    }

    const int64_t n_part = (n_group + n_most - 1) / n_most;

    int64_t n_take = 0;
    for (int n : N) {
        if (n * n_part >= n_group) {
            n_take = n;
            break;
        }
    }

    lil_metal_kargs_attn args = {};

    args.n_embd    = n_embd;
    args.n_embd_v  = n_embd_v;
    args.n_group   = n_group;
    args.n_head    = n_head;
    args.n_part    = n_part;
    args.n_max     = n_max;
    args.scale     = layer.scale;
    args.softcap   = layer.softcap;
    args.kq_offset = dst->ne[0] == lil_attn_n_work(n_embd_v, n_head, n_max, n_steps, true)
            ? lil_attn_kq_offset(n_embd_v, n_head, n_max, n_steps)
            : -1;
    args.size_k    = ggml_row_size(k->type, n_embd);
    args.size_v    = ggml_row_size(v->type, n_embd_v);
    args.nb_q1     = q->nb[1];
    args.nb_q2     = q->nb[2];
    args.nb_k1     = k->nb[1];
    args.nb_k2     = k->nb[2];
    args.nb_v1     = v->nb[1];
    args.nb_v2     = v->nb[2];
    args.nb_l1     = list->ne[1] == 1 ? 0 : list->nb[1];
    args.nb_l2     = list->nb[2];
    args.nb_s1     = steps->nb[1];

    snprintf(l.name, sizeof(l.name), "kernel_lil_attn_%d", (int) n_take);
    l.type_k  = k->type;
    l.type_v  = v->type;
    l.n_shmem = n_shmem(n_take);
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, lil_attn_n_chunk(n_max), n_head_kv * n_part, n_steps);

    return nullptr;
}

const char * lil_metal_plan_attn_join(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * list = dst->src[1];

    lil_metal_kargs_attn_join args = {};

    args.n_embd_v = dst->ne[0];
    args.n_group  = dst->ne[1] / layer.n_head_kv;
    args.n_head   = dst->ne[1];
    args.n_chunk  = lil_attn_n_chunk(list->ne[0] - 1);
    args.nb_d1    = dst->nb[1];
    args.nb_d2    = dst->nb[2];
    args.nb_l1    = list->ne[1] == 1 ? 0 : list->nb[1];
    args.nb_l2    = list->nb[2];

    args.has_sinks = lil_metal_set_sinks(l, dst, 2);

    snprintf(l.name, sizeof(l.name), "kernel_lil_attn_join");
    l.n_threads = 128;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, dst->ne[1], dst->ne[2], 1);

    return nullptr;
}
