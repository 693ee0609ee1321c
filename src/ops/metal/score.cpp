#include "lil-metal-plan.h"

// n_row rows of queries at once
static const char * plan_score(const char * name, const ggml_tensor * k, int64_t n_row,
        const lil_metal_kargs_evict & args, lil_metal_launch & l) {
    snprintf(l.name, sizeof(l.name), "%s", name);
    lil_metal_set_args(l, args);

    return lil_metal_set_score(l, k, args.n_head_kv, n_row, args.nb_q0 | args.nb_q1 | args.nb_q2);
}

const char * lil_metal_plan_score_step(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * q     = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, dst, pos, steps);

    args.n_group = q->ne[1] / args.n_head_kv;
    args.n_query = 1;
    args.nb_q0   = q->nb[1];
    args.nb_q2   = q->nb[2];

    args.has_sinks = lil_metal_set_sinks(l, dst, 5);

    const int n_row = args.n_group <= 1 ? 1 : args.n_group <= 2 ? 2 : args.n_group <= 4 ? 4 : 8;

    char name[64];
    snprintf(name, sizeof(name), "kernel_lil_score_step_%d", n_row);

    l.writes_src = true; // pos

    lil_metal_set_grid(l, args.n_head_kv, steps->ne[1], 1);
    return plan_score(name, k, n_row, args, l);
}

const char * lil_metal_plan_score_prompt(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, nullptr, nullptr, steps);

    args.n_group = q->ne[1] / layer.n_head_kv;
    args.n_query = q->ne[2] / steps->ne[1];
    args.n_part  = dst->ne[2];
    args.n_kv    = dst->ne[0];
    args.nb_q0   = q->nb[1];
    args.nb_q1   = q->nb[2];
    args.nb_q2   = q->nb[2] * args.n_query;
    args.nb_a1   = dst->nb[1];
    args.nb_a2   = dst->nb[2];
    args.nb_a3   = dst->nb[3];

    args.has_sinks = lil_metal_set_sinks(l, dst, 3);

    lil_metal_set_grid(l, args.n_part, layer.n_head_kv, steps->ne[1]);
    return plan_score("kernel_lil_score_prompt", k, LIL_METAL_SCORE_ROWS, args, l);
}

const char * lil_metal_plan_score_add(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * part  = dst->src[1];
    const ggml_tensor * pos   = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, nullptr, dst, pos, steps);

    args.n_part = part->ne[2]; // lil_score_prompt's kernel writes all
    args.nb_a1  = part->nb[1];
    args.nb_a2  = part->nb[2];
    args.nb_a3  = part->nb[3];

    snprintf(l.name, sizeof(l.name), "kernel_lil_score_add");
    l.n_threads  = 256;
    l.writes_src = true; // pos
    lil_metal_set_args(l, args);
    lil_metal_set_grid(l, args.n_head_kv, steps->ne[1], 1);

    return nullptr;
}

const char * lil_metal_plan_score_window(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * win   = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    lil_metal_kargs_evict args = lil_metal_evict_args(layer, k, dst, pos, steps);

    args.n_group = win->ne[0] / k->ne[0];
    args.n_ring  = win->ne[1];
    args.nb_q0   = args.n_embd * sizeof(float);
    args.nb_q1   = win->nb[1];
    args.nb_q2   = win->nb[2];

    args.has_sinks = lil_metal_set_sinks(l, dst, 5);

    lil_metal_set_grid(l, args.n_head_kv, steps->ne[1], 1);
    return plan_score("kernel_lil_score_window", k, LIL_METAL_SCORE_ROWS, args, l);
}

const char * lil_metal_plan_new_slots(const ggml_tensor * dst, const void * userdata, lil_metal_launch & l) {
    const auto & layer = *(const lil_evict_layer *) userdata;

    const ggml_tensor * pos   = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    snprintf(l.name, sizeof(l.name), "kernel_lil_new_slots");
    l.n_threads  = 128;
    l.writes_src = true; // pos
    lil_metal_set_args(l, lil_metal_evict_args(layer, nullptr, dst, pos, steps));
    lil_metal_set_grid(l, pos->ne[1], steps->ne[1], 1);

    return nullptr;
}
