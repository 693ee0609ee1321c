#include "lil-kv-cache-scored.h"

#include "llama-context.h"
#include "llama-impl.h"

#include <algorithm>

// H2O (arXiv 2306.14048): every KV head of every layer keeps the last `recent` tokens and those that attention has
// looked at most, prompt queries included.
//
// prompt_scores = window: prompt queries are kept and counted later, those that still are: before the first decode
// step, and before an eviction.

namespace {

class lil_kv_cache_h2o : public lil_kv_cache_scored {
public:
    explicit lil_kv_cache_h2o(const args & a) :
        lil_kv_cache_scored(a, a.params.prompt_scores == LIL_PROMPT_SCORES_WINDOW ? LIL_PROMPT_WINDOW : 0) {
        if (is_window() && !fused) {
            lil_throw("prompt_scores = 1 (window) has the fused form only, and %s. Use exact prompt scores",
                    ops.why_not().c_str());
        }
    }

protected:
    uint32_t n_protect(bool decode) const override { return params.recent - (decode ? 1 : 0); }

    uint32_t n_win(const lil_evict_stream & st, bool decode, bool evicts) const override {
        return is_window() && (decode || evicts) ? st.n_win : 0;
    }

    bool store_queries(bool decode) const override { return is_window() && !decode; }

    uint32_t count_queries(const lil_evict_stream & st, const lil_evict_step & step) const override {
        return st.n_win - step.n_win + (store_queries(step.decode) ? step.n_new : 0);
    }

    bool need_rank(const lil_evict_step & step) const override { return step.n_win > 0; }

    // the queries that wait
    void build_rank(const layer_graph & lg) override {
        build_inplace(lg, score[lg.ikv],
                with_sinks(lg.ikv, { ring[lg.ikv], layers[lg.ikv].k, pos[lg.ikv], lg.inp.steps }),
                ops[lg.ikv].score_window);
    }

    void build_update(const layer_graph & lg, const layer_attn & attn) override {
        const size_t ikv = lg.ikv;

        if (!fused) {
            build_add(lg, score[ikv], build_received(lg, attn, lg.n_new()));
            if (!evict_layers[lg.ir].adds) {
                build_add(lg, pos[ikv], lg.inp.pos_new);
            }
            return;
        }

        ggml_tensor * k = layers[ikv].k;

        if (lg.n_new() == 1 && !store_queries(lg.decode())) {
            build_inplace(lg, score[ikv], with_sinks(ikv, { attn.q, k, pos[ikv], lg.inp.steps }), ops[ikv].score_step);
            return;
        }

        if (is_window()) {
            build_inplace(lg, score[ikv], { pos[ikv], lg.inp.steps }, ops[lg.ikv].new_slots);
            return;
        }

        auto & op = evict_layers[lg.ir];

        auto          srcs = with_sinks(ikv, { attn.q, k, lg.inp.steps });
        ggml_tensor * part = ggml_custom_4d(lg.g.ctx0, GGML_TYPE_F32, attn.k->ne[2], op.n_head_kv, op.n_score_part,
                lg.n_steps(), srcs.data(), srcs.size(), ops[ikv].score_prompt, GGML_N_TASKS_MAX, &op);

        build_inplace(lg, score[ikv], { part, pos[ikv], lg.inp.steps }, ops[lg.ikv].score_add);
    }

private:
    bool is_window() const { return params.prompt_scores == LIL_PROMPT_SCORES_WINDOW; }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.budget < 2) {
        return format("budget = %u is too small: H2O needs at least 2", p.budget);
    }
    if (p.recent >= p.budget) {
        return format("recent = %u must be below budget = %u", p.recent, p.budget);
    }
    if (p.prompt_scores != LIL_PROMPT_SCORES_EXACT && p.prompt_scores != LIL_PROMPT_SCORES_WINDOW) {
        return format("prompt_scores = %d: 0 (exact) or 1 (window)", p.prompt_scores);
    }
    if (p.prompt_scores == LIL_PROMPT_SCORES_WINDOW && p.form == LIL_FORM_PORTABLE) {
        return "prompt_scores = 1 (window) has no portable form: use form AUTO or FUSED, or exact prompt scores";
    }

    return "";
}

static lil_needs needs(const lil_sparse_params & p) {
    if (p.prompt_scores == LIL_PROMPT_SCORES_WINDOW) {
        return { &lil_ops::evict_slots, &lil_ops::score_step, &lil_ops::score_window, &lil_ops::new_slots };
    }

    return { &lil_ops::evict_slots, &lil_ops::score_step, &lil_ops::score_prompt, &lil_ops::score_add };
}

const lil_method lil_method_h2o = {
    LIL_SPARSE_H2O,
    /*.evicts =*/true,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_h2o(a); },
    LIL_EVICT_OPTIONS "recent prompt_scores",
};
