#pragma once

#include "lil-kv-cache-select.h"

#include <functional>

// InfLLM (arXiv 2402.04617), scaled to a budget: the first n_init tokens, a local window of w, and the best of the
// blocks between. A block is ranked by its representatives: per KV head the keys with the most attention from the
// queries that saw them in the window. All heads of a layer share the blocks. No layer is dense.
//
// positions = clipped: once a query has more than B tokens, it sees those outside the window at the window's distance:
// its own key position moves to w, theirs to 0. For that keys are turned back, which the portable form does.

// how a budget is spent
struct lil_infllm_shape {
    uint32_t block;   // tokens per block
    uint32_t n_block; // blocks chosen; 0: the budget is too small
    uint32_t window;  // tokens of the window, widened by what the blocks leave over
};

lil_infllm_shape lil_get_infllm_shape(const lil_sparse_params & p);

class lil_kv_cache_infllm : public lil_kv_cache_select {
public:
    explicit lil_kv_cache_infllm(const args & a);

    uint32_t graph_max_nodes() const override;

protected:
    void budget_changed() final;

    uint32_t page_size() const override { return shape.block; }

    // blocks that have left the window as a whole
    uint32_t n_pages(const lil_seq_index & idx, uint32_t n) const override {
        GGML_UNUSED(idx);

        return n_blocks(n);
    }

    // a block in the window still gets attention
    uint32_t n_final(uint32_t n) const override { return params.n_init + n_blocks(n) * shape.block; }

    std::pair<uint32_t, uint32_t> page_ranks(const lil_seq_index & idx, uint32_t i) const override {
        GGML_UNUSED(idx);

        return { params.n_init + i * shape.block, params.n_init + (i + 1) * shape.block };
    }

    uint32_t n_rows(const lil_select_step & step) const override {
        return params.n_init + shape.n_block * shape.block + step.n - params.n_init - step.n_pages * shape.block;
    }

    int64_t graph_kind(const lil_select_step & step) const override { return clips(step); }

    std::vector<ggml_tensor *> get_cell_tensors(size_t ikv) const override { return { score[ikv] }; }
    std::vector<ggml_tensor *> get_page_tensors(size_t ikv) const override { return { repr[ikv] }; }

    const ggml_tensor * get_score(size_t ikv) const override { return score[ikv]; }

    bool wants_kq(size_t ikv) const override {
        GGML_UNUSED(ikv);
        return true;
    }

    // fused form; build_pages() and build_after_dense() do both
    ggml_tensor * build_list(const layer_graph & lg) override;
    void          build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) override;
    void          build_pages(const layer_graph & lg) override;
    void          build_after_dense(const layer_graph & lg) override;

    // portable form
    ggml_tensor *   build_step(const layer_graph & lg, size_t i) override;
    lil_select_rows build_rows(const layer_graph &, size_t) override { return {}; }
    ggml_tensor *   build_prompt(const layer_graph & lg) override;

private:
    lil_infllm_shape shape;

    std::vector<ggml_tensor *> score; // F32 [n_cells, n_head_kv, n_stream]
    // F32 [n_embd_k_gqa, n_blocks_max, n_tables] the sum of each block's representatives
    std::vector<ggml_tensor *> repr;

    uint32_t n_blocks(uint32_t n) const {
        const uint32_t n_other = shape.window + params.n_init;

        return n > n_other ? (n - n_other) / shape.block : 0;
    }

    bool is_clipped() const { return params.positions == LIL_POSITIONS_CLIPPED; }

    // whether a prompt's step has queries that see tokens at the window's distance
    std::string check_step(const lil_select_step & step) const override;

    bool clips(const lil_select_step & step) const { return is_clipped() && !step.decode && step.n > params.budget; }

    // entries for the tokens behind the last block that may be chosen
    int64_t n_near() const { return shape.window + shape.block - 1; }

    static ggml_tensor * part(const layer_graph & lg, ggml_tensor * t, size_t i) {
        return ggml_view_2d(lg.ctx, t, t->ne[0], t->ne[1], t->nb[1], i * t->nb[2]);
    }

    ggml_tensor * cap(const layer_graph & lg, ggml_tensor * kq) const;
    ggml_tensor * turn(const layer_graph & lg, ggml_tensor * x, ggml_tensor * by) const;

    // decode steps
    void  fill_fixed(float * dst, const lil_select_step & s, const std::function<float(uint32_t)> & f) const;
    float key_turn(const lil_select_step & s, uint32_t r) const;

    ggml_tensor * input_fixed(const layer_graph & lg) const;
    ggml_tensor * input_fixed_turn(const layer_graph & lg) const;
    ggml_tensor * input_blocks(const layer_graph & lg) const;
    ggml_tensor * input_blocks_turn(const layer_graph & lg) const;
    ggml_tensor * input_q_turn(const layer_graph & lg) const;

    ggml_tensor * score_rows(const layer_graph & lg, ggml_tensor * cells_f32) const;
    void          build_repr(const layer_graph & lg, size_t i);

    // prompts and dense steps
    static ggml_tensor * keys(const layer_graph & lg, ggml_tensor * k);

    ggml_tensor * step_mask(const layer_graph & lg, size_t i) const;
    ggml_tensor * build_probs(const layer_graph & lg, size_t i, int64_t h, ggml_tensor * k, ggml_tensor * k_far) const;
    void          build_score(const layer_graph & lg, size_t i, int64_t h, ggml_tensor * probs) const;

    ggml_tensor * build_prompt_step(const layer_graph & lg, size_t i) const;
    ggml_tensor * build_prompt_clipped(const layer_graph & lg, size_t i) const;
};
