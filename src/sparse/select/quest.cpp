#include "lil-kv-cache-pages.h"

#include "llama-impl.h"

// Quest (arXiv 2406.10774): the page of the current token and the budget/16 - 1 best others, by the bound on q.k. The
// first n_dense_layers are dense.

namespace {

class lil_kv_cache_quest : public lil_kv_cache_pages {
public:
    explicit lil_kv_cache_quest(const args & a) : lil_kv_cache_pages(a) {
        for (auto & op : select_layers) {
            op.first_page = params.first_page;
        }

        alloc_side();
    }

protected:
    bool is_dense_layer(size_t ir) const override { return ir < n_dense_layers; }

    uint32_t n_each_max() const override { return fused ? LIL_DRAFT_MAX : 1; }

    uint32_t n_rows(const lil_select_step & step) const override {
        // all but the last one hold 16, unless tokens were removed
        const uint32_t n = std::min<uint32_t>(params.budget / lil_seq_index::PAGE, step.n_pages);

        return (n - 1) * lil_seq_index::PAGE + step.n - step.index->get_pages()[step.n_pages - 1];
    }

    void build_pages(const layer_graph & lg) override {
        if (!is_dense_layer(lg.ir)) {
            lil_kv_cache_pages::build_pages(lg);
        }
    }

    ggml_tensor * build_list(const layer_graph & lg) override {
        return custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), lg.n_head_kv, lg.steps.size(), 1,
                { build_scores(lg), input_steps(lg), input_cells(lg), input_pages(lg) }, ops[lg.ikv].page_select);
    }

    lil_select_rows build_rows(const layer_graph & lg, size_t i) override {
        const int64_t P = n_pages_graph(lg.steps);

        ggml_tensor * bias =
                input_sparse<float>(lg, "page_bias", P, 1, [this, P](float * dst, const lil_select_step & step) {
                    std::fill_n(dst + step.n_pages, P - step.n_pages, -1e30f);

                    if (params.first_page) {
                        dst[0] = 1e30f;
                    }
                    dst[step.n_pages - 1] = 1e30f;
                });

        ggml_tensor * scores = ggml_add(lg.ctx, build_scores(lg, i), part(lg, bias, i));

        return rows_of_pages(lg, i, ggml_top_k(lg.ctx, scores, params.budget / lil_seq_index::PAGE));
    }
};

}

static std::string check(const lil_sparse_params & p) {
    const uint32_t least = (p.first_page ? 2 : 1) * lil_seq_index::PAGE;

    if (p.budget < least) {
        return format("budget = %u is too small: Quest needs at least %u, %s", p.budget, least,
                p.first_page ? "the first page and the current one" : "one page");
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::page_bounds, &lil_ops::page_scores, &lil_ops::page_select };
}

const lil_method lil_method_quest = {
    LIL_SPARSE_QUEST,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_quest(a); },
    LIL_SELECT_OPTIONS "dense_layers first_page",
    LIL_POSITIONS_ABSOLUTE,
    /*.ratio =*/0.25f,
    /*.has_dense_layers =*/true,
};
