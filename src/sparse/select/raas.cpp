#include "lil-kv-cache-pages.h"

#include "llama-impl.h"

// RaaS (arXiv 2502.11147): pages with time stamps. Each step stamps the better half of the pages it reads, by Quest's
// bound; the budget/16 pages with the newest stamps are read, and one that is left out once stays out, for it is never
// stamped again. A prompt's pages do not expire: they go only where nothing else is left, the older first. No layer is
// dense.
//
// Stamps belong to tokens, so that they outlive every edit of the cache; a page has the newest of its tokens'.

namespace {

class lil_kv_cache_raas : public lil_kv_cache_pages {
public:
    explicit lil_kv_cache_raas(const args & a) : lil_kv_cache_pages(a) {
        if (!fused) {
            lil_throw("RaaS has the fused form only, and %s", ops.why_not().c_str());
        }

        for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
            select_layers[ikv].ratio = params.ratio;

            stamp.push_back(new_side(ikv, "stamp", GGML_TYPE_F32, n_cells(), n_head_kv(ikv), n_stream));
        }

        alloc_side();
    }

protected:
    bool dense_needs_pages() const override { return true; }

    uint32_t n_rows(const lil_select_step & step) const override {
        const auto & pages = step.index->get_pages();

        const uint32_t n = std::min<uint32_t>(params.budget / lil_seq_index::PAGE, pages.size());

        return (n - 1) * lil_seq_index::PAGE + step.n - pages.back();
    }

    std::string check_step(const lil_select_step & step) const override {
        const uint32_t n_prompt = step.n - std::min(step.n, step.now);

        if (n_prompt < params.budget) {
            return "";
        }

        return format("RaaS: the prompt has %u tokens and the budget is %u: a prompt's pages stay, so nothing of the "
                      "answer but its last page is read. "
                      "Use a budget well above the prompt, or Quest",
                n_prompt, params.budget);
    }

    std::vector<ggml_tensor *> get_cell_tensors(size_t ikv) const override { return { stamp[ikv] }; }

    const ggml_tensor * get_score(size_t ikv) const override { return stamp[ikv]; }

    ggml_tensor * build_list(const layer_graph & lg) override {
        build_stamp(lg);

        return custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), lg.n_head_kv, lg.steps.size(), 1,
                { stamp[lg.ikv], input_steps(lg), input_cells(lg), input_pages(lg) }, ops[lg.ikv].raas_select);
    }

    lil_select_rows build_rows(const layer_graph &, size_t) override { return {}; }

    void build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) override {
        GGML_UNUSED(work);

        if (list == input_cells(lg)) { // every step was dense
            build_stamp(lg);
        }
    }

    void build_after_dense(const layer_graph & lg) override {
        if (lg.steps[0].decode) {
            build_pages(lg);
            build_stamp(lg);
            return;
        }

        // the prompt's tokens
        const int64_t n_cell = n_cells();
        const int64_t n_head = lg.n_head_kv;
        const int64_t n_new  = lg.steps[0].n_new;

        const auto name = "raas_prompt_" + std::to_string(n_head); // KV heads may differ by layer

        ggml_tensor * rows = input<int32_t>(
                lg, name.c_str(), n_new * n_head, 1, [n_cell, n_head](int32_t * dst, const lil_select_step & step) {
                    for (int64_t h = 0; h < n_head; ++h) {
                        for (uint32_t r = step.n - step.n_new; r < step.n; ++r) {
                            *dst++ = h * n_cell + step.index->cell(r);
                        }
                    }
                });

        for (size_t i = 0; i < lg.steps.size(); ++i) {
            ggml_tensor * never =
                    ggml_fill(lg.ctx, ggml_new_tensor_2d(lg.ctx, GGML_TYPE_F32, 1, n_new * n_head), LIL_RAAS_NEVER);
            ggml_tensor * which = ggml_view_1d(lg.ctx, rows, n_new * n_head, i * rows->nb[2]);

            lg.expand(ggml_set_rows(
                    lg.ctx, row_view(lg, stamp[lg.ikv], lg.steps[i].strm, 1, n_cell * n_head), never, which));
        }
    }

private:
    std::vector<ggml_tensor *> stamp; // F32 [n_cells, n_head_kv, n_stream]

    void build_stamp(const layer_graph & lg) {
        custom_inplace(lg, stamp[lg.ikv], { build_scores(lg), input_steps(lg), input_cells(lg), input_pages(lg) },
                ops[lg.ikv].raas_stamp);
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.budget < (uint32_t) lil_seq_index::PAGE) {
        return format(
                "budget = %u is too small: RaaS needs at least %d, one page", p.budget, (int) lil_seq_index::PAGE);
    }
    if (!(p.ratio > 0.0f && p.ratio <= 1.0f)) {
        return format("ratio = %g: above 0, at most 1", p.ratio);
    }
    if (p.form == LIL_FORM_PORTABLE) {
        return "RaaS has no portable form: use form AUTO or FUSED";
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::page_bounds, &lil_ops::page_scores, &lil_ops::raas_stamp,
        &lil_ops::raas_select };
}

const lil_method lil_method_raas = {
    LIL_SPARSE_RAAS,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_raas(a); },
    LIL_SELECT_OPTIONS "ratio",
    /*.positions =*/LIL_POSITIONS_ABSOLUTE,
    /*.ratio     =*/0.5f,
};
