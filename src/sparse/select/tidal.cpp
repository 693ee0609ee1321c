#include "lil-kv-cache-reselect.h"

#include "llama-impl.h"

// TidalDecode (arXiv 2410.05076): per KV head the current token and the budget - 1 others with the largest q.k, the
// maximum over the group.

namespace {

class lil_kv_cache_tidal : public lil_kv_cache_reselect {
public:
    explicit lil_kv_cache_tidal(const args & a) : lil_kv_cache_reselect(a) {}

protected:
    ggml_tensor * build_select(const layer_graph & lg, ggml_tensor * work) override {
        return custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), lg.n_head_kv, lg.steps.size(), 1,
                { work, input_steps(lg), input_cells(lg) }, ops[lg.ikv].tidal_select);
    }

    ggml_tensor * build_select(const layer_graph & lg, ggml_tensor * kq, size_t i) override {
        ggml_tensor * best = ggml_reshape_2d(lg.ctx, max_over(lg, kq), lg.n_kv, lg.n_head_kv);

        ggml_tensor * bias = cell_bias(
                lg, "tidal_bias", i, -1e30f, [](uint32_t rank, uint32_t n) { return rank + 1 == n ? 1e30f : 0.0f; });

        return ggml_cast(lg.ctx, ggml_top_k(lg.ctx, ggml_add(lg.ctx, best, bias), params.budget), GGML_TYPE_F32);
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.budget < 2) {
        return format("budget = %u is too small: TidalDecode needs at least 2", p.budget);
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::tidal_select };
}

const lil_method lil_method_tidal = {
    LIL_SPARSE_TIDAL,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_tidal(a); },
    LIL_SELECT_OPTIONS "dense_layers reselect",
    LIL_POSITIONS_ABSOLUTE,
    /*.ratio =*/0.25f,
    /*.has_dense_layers =*/true,
};
