#include "lil-kv-cache-reselect.h"

#include "llama-impl.h"

#include <cmath>

// LessIsMore (arXiv 2508.07101): one set for all heads, made of the first n_sink tokens, the last floor(ratio*budget),
// and the best of those between: every query head ranks them by q.k, and the lists are merged rank by rank.
//
// In the merged list a token stands where it first appears: at the smallest rank*n_head + head over the query heads. So
// the set is the tokens with the smallest such number, which ordinary ops can compute.

namespace {

class lil_kv_cache_lessismore : public lil_kv_cache_reselect {
public:
    explicit lil_kv_cache_lessismore(const args & a) : lil_kv_cache_reselect(a) {
        lil_kv_cache_lessismore::budget_changed();
    }

protected:
    void budget_changed() final {
        for (auto & op : select_layers) {
            op.n_sink   = params.n_sink;
            op.n_recent = (uint32_t) std::floor((double) params.ratio * params.budget);
        }
    }

    ggml_tensor * build_select(const layer_graph & lg, ggml_tensor * work) override {
        return custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), 1, lg.steps.size(), 1,
                { work, input_steps(lg), input_cells(lg) }, ops[lg.ikv].lessismore_select);
    }

    ggml_tensor * build_select(const layer_graph & lg, ggml_tensor * kq, size_t i) override {
        const uint32_t n_sink   = select_layers[lg.ikv].n_sink;
        const uint32_t n_recent = select_layers[lg.ikv].n_recent;

        const auto ranked = [n_sink, n_recent](
                                    uint32_t rank, uint32_t n) { return rank >= n_sink && rank + n_recent < n; };

        ggml_tensor * among = cell_bias(lg, "lim_ranked", i, -1e30f,
                [ranked](uint32_t rank, uint32_t n) { return ranked(rank, n) ? 0.0f : -1e30f; });
        ggml_tensor * bias  = cell_bias(lg, "lim_bias", i, -1e30f,
                [ranked](uint32_t rank, uint32_t n) { return ranked(rank, n) ? 0.0f : 1e30f; });

        kq = ggml_reshape_2d(lg.ctx, kq, lg.n_kv, lg.n_head);

        // I32 [n_kv, n_head] cells
        ggml_tensor * order = ggml_argsort(lg.ctx, ggml_add(lg.ctx, kq, among), GGML_SORT_ORDER_DESC);

        // where in the merged list: rank*n_head + head
        ggml_tensor * rank = ggml_reshape_3d(lg.ctx, ggml_arange(lg.ctx, 0.0f, (float) lg.n_kv, 1.0f), 1, lg.n_kv, 1);
        ggml_tensor * head =
                ggml_reshape_3d(lg.ctx, ggml_arange(lg.ctx, 0.0f, (float) lg.n_head, 1.0f), 1, 1, lg.n_head);
        ggml_tensor * place =
                ggml_repeat_4d(lg.ctx, ggml_scale(lg.ctx, rank, (float) lg.n_head), 1, lg.n_kv, lg.n_head, 1);
        place = ggml_add(lg.ctx, place, head);

        // from the order of each head to the order of the cells
        ggml_tensor * by_cell =
                ggml_fill(lg.ctx, ggml_new_tensor_3d(lg.ctx, GGML_TYPE_F32, 1, lg.n_kv, lg.n_head), 0.0f);
        by_cell = ggml_set_rows(lg.ctx, by_cell, place, order);
        by_cell = ggml_reshape_3d(lg.ctx, by_cell, lg.n_kv, lg.n_head, 1);

        // the earliest place, negative
        ggml_tensor * first = ggml_reshape_1d(lg.ctx, max_over(lg, ggml_neg(lg.ctx, by_cell)), lg.n_kv);

        ggml_tensor * set = ggml_top_k(lg.ctx, ggml_add(lg.ctx, first, bias), params.budget);

        return ggml_reshape_2d(lg.ctx, ggml_cast(lg.ctx, set, GGML_TYPE_F32), params.budget, 1);
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (!(p.ratio > 0.0f && p.ratio < 1.0f)) {
        return format("ratio = %g: between 0 and 1", p.ratio);
    }

    const uint32_t n_recent = (uint32_t) std::floor((double) p.ratio * p.budget);

    if (n_recent < 1 || (uint64_t) p.n_sink + n_recent + 1 > p.budget) {
        return format(
                "budget = %u is too small for n_sink = %u and ratio = %g: at least one recent and one ranked token "
                "must fit (recent: %u)",
                p.budget, p.n_sink, p.ratio, n_recent);
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::lessismore_select };
}

const lil_method lil_method_lessismore = {
    LIL_SPARSE_LESSISMORE,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_lessismore(a); },
    LIL_SELECT_OPTIONS "dense_layers reselect n_sink ratio",
    LIL_POSITIONS_ABSOLUTE,
    /*.ratio =*/0.25f,
    /*.has_dense_layers =*/true,
};
