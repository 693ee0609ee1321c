#pragma once

#include "lil-kv-cache-select.h"

// The first n_dense_layers are dense. The next one and the re-selection layer c attend fully and choose tokens by q.k;
// the layers after each attend to those (TidalDecode, LessIsMore). Layers are counted among the full-attention layers.
class lil_kv_cache_reselect : public lil_kv_cache_select {
public:
    explicit lil_kv_cache_reselect(const args & a);

protected:
    uint32_t n_each_max() const override { return fused ? LIL_DRAFT_MAX : 1; }

    bool is_dense_layer(size_t ir) const override { return ir <= n_dense_layers || ir == params.reselect; }

    bool selects(size_t ir) const { return ir == n_dense_layers || ir == params.reselect; }

    bool wants_kq(size_t ir) const override { return selects(ir); }

    // fused: the list of the tokens chosen, from the logits over all
    virtual ggml_tensor * build_select(const layer_graph & lg, ggml_tensor * work) = 0;

    // portable: the cells chosen by step i, F32 [budget, n_head_kv] or [budget, 1], from q.k of all cells [n_kv,
    // n_group, n_head_kv]
    virtual ggml_tensor * build_select(const layer_graph & lg, ggml_tensor * kq, size_t i) = 0;

    void build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) override;
    void build_after_dense(const layer_graph & lg) override;

    ggml_tensor * build_list(const layer_graph & lg) override;

    lil_select_rows build_rows(const layer_graph & lg, size_t i) override;

    // portable: numbers for each cell, F32 [n_kv]: `otherwise` for cells that are not the sequence's, value(rank) for
    // the others
    ggml_tensor * cell_bias(const layer_graph & lg, const char * name, size_t i, float otherwise,
            std::function<float(uint32_t rank, uint32_t n)> value) const;
};
