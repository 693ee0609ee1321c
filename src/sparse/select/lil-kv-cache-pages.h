#pragma once

#include "lil-kv-cache-select.h"

// Pages of 16 positions with a bound on q.k: per KV head and channel the minimum m and the maximum M of the keys. A
// page's score is sum_i max(q_i*m_i, q_i*M_i), the maximum over the group; no key of the page has a larger q.k (Quest).
class lil_kv_cache_pages : public lil_kv_cache_select {
public:
    explicit lil_kv_cache_pages(const args & a);

protected:
    void budget_changed() final;

    // F16 or F32 [2*n_embd_head_k, n_head_kv, n_pages_max, n_tables], the maxima, then the minima. F16 holds the values
    // of an F16 cache exactly.
    std::vector<ggml_tensor *> bounds;

    uint32_t n_pages(const lil_seq_index & idx, uint32_t n) const override { return idx.n_pages(n); }

    std::pair<uint32_t, uint32_t> page_ranks(const lil_seq_index & idx, uint32_t i) const override {
        return { idx.get_pages()[i], idx.page_end(i) };
    }

    void build_pages(const layer_graph & lg) override;

    std::vector<ggml_tensor *> get_page_tensors(size_t ikv) const override { return { bounds[ikv] }; }

    // fused: F32 [n_pages, n_head_kv, n_steps]
    ggml_tensor * build_scores(const layer_graph & lg) const;

    // portable
    ggml_tensor * build_scores(const layer_graph & lg, size_t i) const; // F32 [n_pages, n_head_kv]
    // F32 [16, n_pages] cells, filled up with the current token's
    ggml_tensor * page_cells(const layer_graph & lg, size_t i) const;
    ggml_tensor * page_mask(const layer_graph & lg, size_t i) const; // F32 [16, n_pages] 0, or -inf where filled up

    // the rows of pages [n, n_head_kv], chosen per head
    lil_select_rows rows_of_pages(const layer_graph & lg, size_t i, ggml_tensor * pages) const;

    // a step's part of an input [ne0, ne1, n_steps]
    static ggml_tensor * part(const layer_graph & lg, ggml_tensor * t, size_t i);
};
