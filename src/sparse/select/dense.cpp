#include "lil-kv-cache-select.h"

// Full attention through the fused op, which reads each key and value once for all query heads of its group.

namespace {

class lil_kv_cache_dense : public lil_kv_cache_select {
public:
    explicit lil_kv_cache_dense(const args & a) : lil_kv_cache_select(a) {}

    uint32_t graph_max_nodes() const override { return 16 * layers.size(); }

protected:
    bool takes_any_batch() const override { return true; }

    uint32_t n_each_max() const override { return LIL_DRAFT_MAX; }

    bool is_dense_layer(size_t ir) const override {
        GGML_UNUSED(ir);

        return true;
    }

    ggml_tensor * build_list(const layer_graph & lg) override { return input_cells(lg); }

    lil_select_rows build_rows(const layer_graph &, size_t) override { return {}; }
};

}

static std::string check(const lil_sparse_params &) {
    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join };
}

const lil_method lil_method_dense = {
    LIL_SPARSE_DENSE,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_dense(a); },
    "fused_dense",
};
