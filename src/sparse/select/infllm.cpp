#include "lil-kv-cache-infllm.h"

#include "llama-impl.h"

lil_infllm_shape lil_get_infllm_shape(const lil_sparse_params & p) {
    lil_infllm_shape res = {};

    res.block = p.block != 0 ? p.block : p.budget < 128 ? 8 : 16;

    const int64_t left = (int64_t) p.budget - p.n_init - p.budget / 2 - (res.block - 1); // for blocks

    res.n_block = left < 0 ? 0 : left / res.block;
    res.window  = p.budget / 2 + (left < 0 ? 0 : left % res.block);

    return res;
}

lil_kv_cache_infllm::lil_kv_cache_infllm(const args & a) :
    lil_kv_cache_select(a), shape(lil_get_infllm_shape(a.params)) {
    if (is_clipped()) {
        if (params.fused_dense == LIL_FUSED_DENSE_ON) {
            lil_throw(
                    "fused_dense = 1 (on) and positions = 2 (clipped): clipped positions have the portable form only");
        }
        fused       = false;
        fused_dense = false;
    }

    n_pages_max = std::max<uint32_t>(n_pages_max, GGML_PAD(n_cells() / shape.block + 16, 16));

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        score.push_back(new_side(ikv, "score", GGML_TYPE_F32, n_cells(), n_head_kv(ikv), n_stream));
        repr.push_back(new_side(ikv, "repr", GGML_TYPE_F32, layers[ikv].k->ne[0], n_pages_max, n_tables()));
    }

    params.block = shape.block; // whatever the budget becomes
    lil_kv_cache_infllm::budget_changed();

    alloc_side();
}

void lil_kv_cache_infllm::budget_changed() {
    shape = lil_get_infllm_shape(params);

    for (auto & op : select_layers) {
        op.n_pages  = shape.n_block;
        op.n_sink   = params.n_init;
        op.n_recent = shape.window;
        op.block    = shape.block;
        op.n_repr   = params.n_repr;
    }
}

uint32_t lil_kv_cache_infllm::graph_max_nodes() const {
    return lil_kv_cache_select::graph_max_nodes() + layers.size() * n_seq_max * 48 * n_head_kv(0);
}

std::string lil_kv_cache_infllm::check_step(const lil_select_step & step) const {
    if (is_clipped() || step.n <= hparams.n_ctx_train) {
        return "";
    }

    return format("InfLLM: %u tokens, and the model was trained on %u: blocks at distances that it has never seen are "
                  "noise to it. "
                  "Use clipped positions",
            step.n, hparams.n_ctx_train);
}

ggml_tensor * lil_kv_cache_infllm::build_list(const layer_graph & lg) {
    const int64_t n_steps = lg.steps.size();

    std::vector<ggml_tensor *> srcs = { lg.q, repr[lg.ikv], input_steps(lg) };

    if (ggml_tensor * dirty = input_dirty_few(lg)) {
        srcs.insert(srcs.end(), { layers[lg.ikv].k, score[lg.ikv], dirty });
    }

    ggml_tensor * scores =
            custom(lg, GGML_TYPE_F32, n_pages_graph(lg.steps), n_steps, 1, 1, srcs, ops[lg.ikv].block_scores);

    return custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), 1, n_steps, 1, { scores, input_steps(lg), input_cells(lg) },
            ops[lg.ikv].block_select);
}

void lil_kv_cache_infllm::build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) {
    if (!owns(lg.ir)) { // scores are the owner's queries'
        return;
    }

    custom_inplace(lg, score[lg.ikv], with_sinks(lg.ikv, { work, list, input_steps(lg) }), ops[lg.ikv].infllm_score);
}

void lil_kv_cache_infllm::build_pages(const layer_graph & lg) {
    if (fused) {
        if (!input_dirty_few(lg)) {
            custom_inplace(
                    lg, repr[lg.ikv], { layers[lg.ikv].k, score[lg.ikv], input_dirty(lg) }, ops[lg.ikv].block_repr);
        }
        return;
    }

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        if (!lg.steps[i].dirty.empty()) {
            build_repr(lg, i);
        }
    }
}

void lil_kv_cache_infllm::build_after_dense(const layer_graph & lg) {
    if (!owns(lg.ir)) {
        return;
    }

    const int64_t n_steps = lg.steps.size();
    const int64_t n_new   = lg.steps[0].n_new;

    if (fused) {
        ggml_tensor * part =
                custom(lg, GGML_TYPE_F32, shape.window + n_new, lg.n_head_kv, select_layers[lg.ikv].n_score_part,
                        n_steps, with_sinks(lg.ikv, { lg.q, layers[lg.ikv].k, input_cells(lg), input_steps(lg) }),
                        ops[lg.ikv].infllm_score_prompt);

        custom_inplace(lg, score[lg.ikv], { part, input_cells(lg), input_steps(lg) }, ops[lg.ikv].infllm_score_add);
        return;
    }

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        if (!lg.steps[i].sparse && !clips(lg.steps[i])) { // otherwise done
            ggml_tensor * k = keys(lg, step_k(lg, i));

            for (int64_t h = 0; h < lg.n_head_kv; ++h) {
                build_score(lg, i, h, build_probs(lg, i, h, k, nullptr));
            }
        }
    }
}

ggml_tensor * lil_kv_cache_infllm::cap(const layer_graph & lg, ggml_tensor * kq) const {
    const float softcap = select_layers[lg.ikv].softcap;

    if (softcap == 0.0f) {
        return ggml_scale(lg.ctx, kq, lg.kq_scale);
    }

    return ggml_scale(lg.ctx, ggml_tanh(lg.ctx, ggml_scale(lg.ctx, kq, lg.kq_scale / softcap)), softcap);
}

static std::string check(const lil_sparse_params & p) {
    if (p.block > 256) {
        return format("block = %u: 1 to 256, or 0 for the default", p.block);
    }

    const auto shape = lil_get_infllm_shape(p);

    if (p.n_repr == 0 || p.n_repr > shape.block) {
        return format("n_repr = %u: 1 to block = %u", p.n_repr, shape.block);
    }
    if (shape.n_block == 0) {
        lil_sparse_params q = p;
        while (lil_get_infllm_shape(q).n_block == 0) {
            q.budget++;
        }

        return format(
                "budget = %u is too small for n_init = %u and block = %u: at least %u, so that one block can be chosen",
                p.budget, p.n_init, shape.block, q.budget);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && p.min_ctx > p.budget) {
        return format(
                "min_ctx = %u with positions = 2 (clipped): a prompt's queries see clipped distances from budget = "
                "%u on, and so must steps",
                p.min_ctx, p.budget);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && p.form == LIL_FORM_FUSED) {
        return "positions = 2 (clipped) has no fused form: use form AUTO or PORTABLE";
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::infllm_score, &lil_ops::infllm_score_prompt,
        &lil_ops::infllm_score_add, &lil_ops::block_repr, &lil_ops::block_scores, &lil_ops::block_select };
}

const lil_method lil_method_infllm = {
    LIL_SPARSE_INFLLM,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_infllm(a); },
    LIL_SELECT_OPTIONS "n_init block n_repr positions",
    /*.positions =*/LIL_POSITIONS_CLIPPED,
};
