#include "lil-kv-cache-select.h"

void lil_select_layer_graph::expand(ggml_tensor * t) const {
    ggml_build_forward_expand(g.gf, t);
}

ggml_tensor * lil_kv_cache_select::custom(const layer_graph & lg, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2,
        int64_t ne3, std::vector<ggml_tensor *> srcs, ggml_custom_op_t op) const {
    return ggml_custom_4d(lg.ctx, type, ne0, ne1, ne2, ne3, srcs.data(), srcs.size(), op, GGML_N_TASKS_MAX,
            const_cast<lil_select_layer *>(&select_layers[lg.ikv]));
}

void lil_kv_cache_select::custom_inplace(
        const layer_graph & lg, ggml_tensor * t, std::vector<ggml_tensor *> srcs, ggml_custom_op_t op) const {
    lg.expand(ggml_custom_inplace(lg.ctx, t, srcs.data(), srcs.size(), op, GGML_N_TASKS_MAX,
            const_cast<lil_select_layer *>(&select_layers[lg.ikv])));
}

void lil_kv_cache_select::build_before_store(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) {
    GGML_UNUSED(g);
    GGML_UNUSED(mctx);
    GGML_UNUSED(k_rot);
    GGML_UNUSED(il);
}

ggml_tensor * lil_kv_cache_select::build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx,
        ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) {
    GGML_UNUSED(mctx);

    built.insert(il);

    auto * inp = get_input(g);

    const size_t ikv = map_layer_ids.at(il);

    // the constants of a cache are one set for all layers that read it
    if (!owns(get_reader(il)) && select_layers[ikv].scale != kq_scale) {
        lil_throw("layer %d reads the keys of layer %d with another scale", il, (int) layers[ikv].il);
    }

    select_layers[ikv].scale        = kq_scale;
    select_layers[ikv].n_score_part = n_score_part(g, ikv);

    const layer_graph lg = {
        g,
        g.ctx0,
        inp,
        inp->steps,
        q,
        k,
        v,
        kq_mask,
        kq_scale,
        il,
        ikv,
        get_reader(il),
        q->ne[0],
        v->ne[0],
        q->ne[1],
        k->ne[1],
        k->ne[2],
    };

    if (!uses_method(inp->steps) || !g.cparams.flash_attn) { // training goes without FlashAttention
        ggml_tensor * cur = build_prompt(lg);
        lg.expand(cur);

        build_after_dense(lg);

        return cur;
    }

    return fused ? build_decode_fused(lg) : build_decode_portable(lg);
}

ggml_tensor * lil_kv_cache_select::build_prompt(const layer_graph & lg) {
    return lg.g.build_attn_mha(lg.q, lg.k, lg.v, nullptr, lg.kq_mask, sinks(lg.ikv), nullptr, 0, lg.kq_scale, lg.il);
}

ggml_tensor * lil_kv_cache_select::build_decode_fused(const layer_graph & lg) {
    const bool sparse = std::any_of(lg.steps.begin(), lg.steps.end(), [](const auto & step) { return step.sparse; });

    // the new keys and values are stored before anything here reads them
    lg.expand(lg.k);
    lg.expand(lg.v);

    if (input_dirty(lg)) {
        build_pages(lg);
    }

    ggml_tensor * steps = input_steps(lg);
    ggml_tensor * list  = input_cells_shared(lg);

    if (sparse && !is_dense_layer(lg.ir)) {
        list = build_list(lg);

        last[lg.ir].list = list;
    }

    // It stays readable after the computation. A list of everything too: a graph that differs in nothing else gets the
    // places in memory that were found for the one before
    ggml_set_output(list);

    const int64_t n_steps = lg.steps.size();
    const int64_t n_work  = ops[lg.ikv].attn_n_work(lg.n_embd_v, lg.n_head, list->ne[0] - 1, n_steps, wants_kq(lg.ir));

    ggml_tensor * work = custom(lg, GGML_TYPE_F32, n_work, 1, 1, 1,
            { lg.q, layers[lg.ikv].k, values[lg.ikv], list, steps }, ops[lg.ikv].attn);
    ggml_tensor * cur  = custom(lg, GGML_TYPE_F32, lg.n_embd_v, lg.n_head, n_steps, 1,
            with_sinks(lg.ikv, { work, list }), ops[lg.ikv].attn_join);
    lg.expand(cur);

    build_after(lg, work, list);

    return ggml_reshape_2d(lg.ctx, cur, lg.n_embd_v * lg.n_head, n_steps);
}

ggml_tensor * lil_kv_cache_select::build_decode_portable(const layer_graph & lg) {
    lg.expand(lg.k);
    lg.expand(lg.v);

    if (input_dirty(lg)) {
        build_pages(lg);
    }

    last[lg.ir].rows.assign(lg.steps.size(), {});

    ggml_tensor * cur = nullptr;

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        ggml_tensor * one = lg.steps[i].sparse ? build_step(lg, i) : build_dense_step(lg, i);
        one               = ggml_reshape_2d(lg.ctx, one, lg.n_embd_v * lg.n_head, 1);
        lg.expand(one);

        cur = cur ? ggml_concat(lg.ctx, cur, one, 1) : one;
    }

    lg.expand(cur);

    build_after_dense(lg);

    return cur;
}

ggml_tensor * lil_kv_cache_select::build_step(const layer_graph & lg, size_t i) {
    if (is_dense_layer(lg.ir)) {
        return build_dense_step(lg, i);
    }

    const auto list = build_rows(lg, i);

    remember(lg, i, list);

    const auto & step = lg.steps[i];

    // heads in the last dimension: each has rows of its own. With sinks a row of zeros more, whose logit is the sink
    const auto fold = [&](ggml_tensor * t) {
        ggml_tensor * x = gather(lg, t, step.strm, list.rows);
        if (sinks(lg.ikv)) {
            x = ggml_pad(lg.ctx, x, 0, 1, 0, 0);
        }
        x = ggml_cast(lg.ctx, x, GGML_TYPE_F16);
        return ggml_reshape_4d(lg.ctx, x, x->ne[0], x->ne[1], 1, x->ne[2]);
    };

    ggml_tensor * q = ggml_reshape_4d(lg.ctx, step_q(lg, i), lg.n_embd_k, 1, lg.n_group(), lg.n_head_kv);

    ggml_tensor * mask =
            list.mask ? ggml_reshape_4d(lg.ctx, list.mask, list.mask->ne[0], 1, 1, list.mask->ne[1]) : nullptr;

    if (sinks(lg.ikv)) {
        mask = add_sinks(lg, mask, list.rows->ne[0]);
    }

    ggml_tensor * cur = ggml_flash_attn_ext(lg.ctx, q, fold(layers[lg.ikv].k), fold(values[lg.ikv]), mask, lg.kq_scale,
            0.0f, select_layers[lg.ikv].softcap);
    ggml_prec_set_acc(cur, GGML_PREC_F32);

    return cur;
}

// mask F16 [n, 1, 1, n_head_kv] or null -> [n + 1, 1, n_group, n_head_kv]
ggml_tensor * lil_kv_cache_select::add_sinks(const layer_graph & lg, ggml_tensor * mask, int64_t n) const {
    ggml_tensor * s = ggml_reshape_4d(lg.ctx, sinks(lg.ikv), 1, 1, lg.n_group(), lg.n_head_kv);

    ggml_tensor * m = mask ? ggml_cast(lg.ctx, mask, GGML_TYPE_F32)
                           : ggml_fill(lg.ctx, ggml_new_tensor_4d(lg.ctx, GGML_TYPE_F32, n, 1, 1, 1), 0.0f);

    m = ggml_concat(lg.ctx, ggml_repeat_4d(lg.ctx, m, n, 1, lg.n_group(), lg.n_head_kv), s, 0);

    return ggml_cast(lg.ctx, m, GGML_TYPE_F16);
}

void lil_kv_cache_select::remember(const layer_graph & lg, size_t i, const lil_select_rows & list) {
    for (ggml_tensor * t : { list.rows, list.mask }) {
        if (t) {
            ggml_set_output(t); // it stays readable after the computation
            lg.expand(t);
        }
    }

    last[lg.ir].rows[i] = list;
}

//
// the portable form: ggml's own ops, on every backend. Which of exactly equal scores wins is up to them
//

ggml_tensor * lil_kv_cache_select::step_q(const layer_graph & lg, size_t i) const {
    const int64_t n_new = lg.steps[i].n_new;

    ggml_tensor * q = ggml_view_3d(
            lg.ctx, lg.q, lg.q->ne[0], lg.q->ne[1], n_new, lg.q->nb[1], lg.q->nb[2], i * n_new * lg.q->nb[2]);

    return ggml_is_contiguous(q) ? q : ggml_cont(lg.ctx, q);
}

ggml_tensor * lil_kv_cache_select::step_k(const layer_graph & lg, size_t i) const {
    const auto & k = lg.k;

    // with a stream per sequence, the streams of the ubatch follow each other
    return ggml_view_3d(lg.ctx, k, k->ne[0], k->ne[1], k->ne[2], k->nb[1], k->nb[2], (k->ne[3] > 1 ? i : 0) * k->nb[3]);
}

ggml_tensor * lil_kv_cache_select::build_dense_step(const layer_graph & lg, size_t i) const {
    const size_t s = lg.k->ne[3] > 1 ? i : 0;

    const auto stream = [&](ggml_tensor * t) {
        return ggml_view_3d(lg.ctx, t, t->ne[0], t->ne[1], t->ne[2], t->nb[1], t->nb[2], s * t->nb[3]);
    };

    ggml_tensor * mask = lg.kq_mask;
    mask = ggml_view_2d(lg.ctx, mask, mask->ne[0], 1, mask->nb[1], mask->ne[3] > 1 ? i * mask->nb[3] : i * mask->nb[1]);

    return lg.g.build_attn_mha(
            step_q(lg, i), stream(lg.k), stream(lg.v), nullptr, mask, sinks(lg.ikv), nullptr, 0, lg.kq_scale, lg.il);
}

ggml_tensor * lil_kv_cache_select::row_view(
        const layer_graph & lg, ggml_tensor * t, uint32_t strm, int64_t ne0, int64_t n_rows) const {
    return ggml_view_2d(lg.ctx, t, ne0, n_rows, ggml_row_size(t->type, ne0), strm * t->nb[2]);
}

ggml_tensor * lil_kv_cache_select::cells_to_rows(const layer_graph & lg, ggml_tensor * cells) const {
    ggml_tensor * head =
            ggml_reshape_2d(lg.ctx, ggml_arange(lg.ctx, 0.0f, (float) lg.n_head_kv, 1.0f), 1, lg.n_head_kv);

    if (cells->ne[1] != lg.n_head_kv) {
        cells = ggml_repeat_4d(lg.ctx, cells, cells->ne[0], lg.n_head_kv, 1, 1);
    }

    return ggml_cast(lg.ctx, ggml_add(lg.ctx, ggml_scale(lg.ctx, cells, (float) lg.n_head_kv), head), GGML_TYPE_I32);
}

ggml_tensor * lil_kv_cache_select::gather(
        const layer_graph & lg, ggml_tensor * t, uint32_t strm, ggml_tensor * rows) const {
    ggml_tensor * whole = t->view_src ? t->view_src : t; // MLA's values are a part of each row

    const int64_t n_embd = whole->ne[0] / lg.n_head_kv;

    ggml_tensor * src = row_view(lg, whole, strm, n_embd, lg.n_head_kv * n_cells());
    ggml_tensor * cur = ggml_get_rows(lg.ctx, src, ggml_reshape_1d(lg.ctx, rows, ggml_nelements(rows)));
    cur               = ggml_reshape_3d(lg.ctx, cur, n_embd, rows->ne[0], rows->ne[1]);

    if (t == whole) {
        return cur;
    }

    return ggml_cont(lg.ctx, ggml_view_3d(lg.ctx, cur, t->ne[0], cur->ne[1], cur->ne[2], cur->nb[1], cur->nb[2], 0));
}

ggml_tensor * lil_kv_cache_select::max_over(const layer_graph & lg, ggml_tensor * t) const {
    if (t->ne[1] == 1) {
        return t;
    }

    return ggml_pool_2d(lg.ctx, t, GGML_OP_POOL_MAX, 1, t->ne[1], 1, t->ne[1], 0.0f, 0.0f);
}
