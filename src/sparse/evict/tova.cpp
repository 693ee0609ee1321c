#include "lil-kv-cache-scored.h"

#include "llama-impl.h"

// TOVA (arXiv 2401.06104): every layer keeps the tokens that its last query attended to most, summed over all its
// heads. All heads keep the same ones, and none but the current token is protected.
//
// The scores of the heads are kept apart and summed when a token has to go. Since the heads drop the same slots, a slot
// holds the same token in each of them.

namespace {

class lil_kv_cache_tova : public lil_kv_cache_scored {
public:
    explicit lil_kv_cache_tova(const args & a) : lil_kv_cache_scored(a, 0) {
        for (auto & op : evict_layers) {
            op.last   = true;
            op.shared = true;
        }
    }

protected:
    uint32_t n_protect(bool decode) const override {
        GGML_UNUSED(decode);

        return 0;
    }

    void build_update(const layer_graph & lg, const layer_attn & attn) override {
        const size_t ikv = lg.ikv;

        if (fused) {
            build_inplace(lg, score[ikv],
                    with_sinks(ikv, { view_last_query(lg, attn.q), layers[ikv].k, pos[ikv], lg.inp.steps }),
                    ops[ikv].score_step);
            return;
        }

        if (evict_layers[lg.ir].adds) {
            build_add(lg, score[ikv], build_received(lg, attn, 1));
            return;
        }

        ggml_tensor * t    = score[ikv];
        ggml_tensor * last = build_received(lg, attn, 1);
        ggml_tensor * dst  = ggml_view_3d(lg.g.ctx0, t, last->ne[0], last->ne[1], last->ne[2], t->nb[1], t->nb[2],
                lg.inp.built[0].strm * t->nb[2]);

        ggml_build_forward_expand(lg.g.gf, ggml_cpy(lg.g.ctx0, last, dst));

        build_add(lg, pos[ikv], lg.inp.pos_new);
    }

    ggml_tensor * build_ranking(const layer_graph & lg, const lil_evict_step & step) const override {
        auto * ctx0 = lg.g.ctx0;

        ggml_tensor * s =
                ggml_cont(ctx0, ggml_transpose(ctx0, view_slots(lg, score[lg.ikv], step.n_before, step.strm)));

        return ggml_reshape_2d(ctx0, ggml_sum_rows(ctx0, s), step.n_before, 1);
    }

    void get_scores(size_t ikv, uint32_t strm, uint32_t h, std::vector<float> & dst) const override {
        GGML_UNUSED(h);

        std::vector<float> s(dst.size());

        std::fill(dst.begin(), dst.end(), 0.0f);
        for (uint32_t i = 0; i < n_head_kv(ikv); ++i) {
            get_head(score[ikv], strm, i, s);
            for (size_t j = 0; j < s.size(); ++j) {
                dst[j] += s[j];
            }
        }
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.budget < 2) {
        return format("budget = %u is too small: TOVA needs at least 2", p.budget);
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::evict_slots, &lil_ops::score_step };
}

const lil_method lil_method_tova = {
    LIL_SPARSE_TOVA,
    /*.evicts =*/true,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_tova(a); },
    LIL_EVICT_OPTIONS,
};
