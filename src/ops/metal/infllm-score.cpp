#include "lil-metal-plan.h"

// what the three have in common; any may be null
static lil_metal_kargs_infllm get_args(const lil_select_layer & layer, const ggml_tensor * score,
        const ggml_tensor * part, const ggml_tensor * list, const ggml_tensor * steps) {
    lil_metal_kargs_infllm args = {};

    args.n_steps  = steps->ne[1];
    args.n_recent = layer.n_recent;
    args.scale    = layer.scale;
    args.softcap  = layer.softcap;

    if (score) {
        args.nb_x1 = score->nb[1];
        args.nb_x2 = score->nb[2];
    }
    if (part) {
        args.n_part = part->ne[2];
        args.nb_a1  = part->nb[1];
        args.nb_a2  = part->nb[2];
        args.nb_a3  = part->nb[3];
    }
    args.nb_l1 = list->ne[1] == 1 ? 0 : list->nb[1];
    args.nb_l2 = list->nb[2];
    args.nb_s1 = steps->nb[1];

    return args;
}

const char * lil_metal_plan_infllm_score(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * work  = dst->src[1];
    const ggml_tensor * list  = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    const auto logits = lil_metal_get_logits(work, layer.n_head_kv);

    lil_metal_kargs_infllm args = get_args(layer, dst, nullptr, list, steps);

    args.n_head    = logits.n_head;
    args.n_group   = logits.n_head / layer.n_head_kv;
    args.n_max     = logits.n_max;
    args.kq_offset = logits.offset;

    args.has_sinks = lil_metal_set_sinks(l, dst, 4);

    snprintf(l.name, sizeof(l.name), "kernel_lil_infllm_score");
    l.n_threads = 512;
    l.n_shmem   = (2 * args.n_group * sizeof(float) + 15) / 16 * 16;
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

const char * lil_metal_plan_infllm_score_prompt(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * cells = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    lil_metal_kargs_infllm args = get_args(layer, nullptr, dst, cells, steps);

    args.n_embd  = k->ne[0] / layer.n_head_kv;
    args.n_group = q->ne[1] / layer.n_head_kv;
    args.n_query = q->ne[2] / steps->ne[1];
    args.size_k  = ggml_row_size(k->type, args.n_embd);
    args.nb_q1   = q->nb[1];
    args.nb_q2   = q->nb[2];
    args.nb_k1   = k->nb[1];
    args.nb_k2   = k->nb[2];

    args.has_sinks = lil_metal_set_sinks(l, dst, 4);

    snprintf(l.name, sizeof(l.name), "kernel_lil_infllm_score_prompt");
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, args.n_part, layer.n_head_kv, steps->ne[1]);

    return lil_metal_set_score(l, k, layer.n_head_kv, LIL_METAL_SCORE_ROWS, q->nb[1] | q->nb[2]);
}

const char * lil_metal_plan_infllm_score_add(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_select_layer *) userdata;

    const ggml_tensor * part  = dst->src[1];
    const ggml_tensor * cells = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    snprintf(l.name, sizeof(l.name), "kernel_lil_infllm_score_add");
    l.n_threads = 256;
    lil_metal_set_args(l, get_args(layer, dst, part, cells, steps));
    lil_metal_set_grid(l, layer.n_head_kv, steps->ne[1], 1);

    return nullptr;
}
