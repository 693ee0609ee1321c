#include "lil-keys.h"
#include "lil-kv-cache-select.h"
#include "lil-rope.h"

#include "llama-impl.h"

#include "llama-model.h"

#include <cmath>

// InfLLM (arXiv 2402.04617), scaled to a budget: the first n_init tokens, a local window of w, and the best of the blocks
// between. A block is ranked by its representatives: per KV head the keys with the most attention from the queries that saw
// them in the window. All heads of a layer share the blocks. No layer is dense.
//
// positions = clipped: once a query has more than B tokens, it sees those outside the window at the window's distance: its
// own key position moves to w, theirs to 0. For that keys are turned back, which the portable form does.

namespace {

// how a budget is spent
struct infllm_shape {
    uint32_t block;   // tokens per block
    uint32_t n_block; // blocks chosen; 0: the budget is too small
    uint32_t window;  // tokens of the window, widened by what the blocks leave over
};

infllm_shape get_shape(const lil_sparse_params & p) {
    infllm_shape res = {};

    res.block = p.block != 0 ? p.block : p.budget < 128 ? 8 : 16;

    const int64_t left = (int64_t) p.budget - p.n_init - p.budget/2 - (res.block - 1); // for blocks

    res.n_block = left < 0 ? 0 : left/res.block;
    res.window  = p.budget/2 + (left < 0 ? 0 : left%res.block);

    return res;
}

class lil_kv_cache_infllm : public lil_kv_cache_select {
public:
    explicit lil_kv_cache_infllm(const args & a) : lil_kv_cache_select(a), shape(get_shape(a.params)) {
        if (is_clipped()) {
            if (params.fused_dense) {
                lil_throw("fused_dense = true and positions = clipped: clipped positions have the portable form only");
            }
            fused = false;
        }

        n_pages_max = std::max<uint32_t>(n_pages_max, GGML_PAD(n_cells()/shape.block + 16, 16));

        for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
            auto & op = op_layers[ikv];

            op.n_pages  = shape.n_block;
            op.n_sink   = params.n_init;
            op.n_recent = shape.window;
            op.block    = shape.block;
            op.n_repr   = params.n_repr;

            score.push_back(new_side(ikv, "score", GGML_TYPE_F32, n_cells(), n_head_kv(ikv), n_stream));
            repr .push_back(new_side(ikv, "repr",  GGML_TYPE_F32, layers[ikv].k->ne[0], n_pages_max, n_tables()));
        }

        alloc_side();
    }

    uint32_t graph_max_nodes() const override {
        return lil_kv_cache_select::graph_max_nodes() + layers.size()*n_seq_max*48*n_head_kv(0);
    }

protected:
    uint32_t page_size() const override { return shape.block; }

    // blocks that have left the window as a whole
    uint32_t n_pages(const lil_seq_index & idx) const override { return n_blocks(idx.size()); }

    // a block in the window still gets attention
    uint32_t n_final(uint32_t n) const override { return params.n_init + n_blocks(n)*shape.block; }

    std::pair<uint32_t, uint32_t> page_ranks(const lil_seq_index & idx, uint32_t i) const override {
        GGML_UNUSED(idx);

        return { params.n_init + i*shape.block, params.n_init + (i + 1)*shape.block };
    }

    uint32_t n_rows(const lil_select_step & step) const override {
        return params.n_init + shape.n_block*shape.block + step.n - params.n_init - step.n_pages*shape.block;
    }

    std::vector<ggml_tensor *> get_cell_tensors(size_t ikv) const override { return { score[ikv] }; }
    std::vector<ggml_tensor *> get_page_tensors(size_t ikv) const override { return { repr[ikv] }; }

    const ggml_tensor * get_score(size_t ikv) const override { return score[ikv]; }

    bool wants_kq(size_t ikv) const override { GGML_UNUSED(ikv); return true; }

    //
    // fused form
    //

    ggml_tensor * build_list(const layer_graph & lg) override {
        const int64_t n_steps = lg.steps.size();

        ggml_tensor * scores = custom(lg, GGML_TYPE_F32, n_pages_graph(lg.steps), n_steps, 1, 1,
                { lg.q, repr[lg.ikv], input_steps(lg) }, ops[lg.ikv].block_scores);

        return custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), 1, n_steps, 1,
                { scores, input_steps(lg), input_cells(lg) }, ops[lg.ikv].block_select);
    }

    void build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) override {
        custom_inplace(lg, score[lg.ikv], { work, list, input_steps(lg) }, ops[lg.ikv].infllm_score);
    }

    void build_pages(const layer_graph & lg) override {
        if (fused) {
            custom_inplace(lg, repr[lg.ikv], { layers[lg.ikv].k, score[lg.ikv], input_dirty(lg) }, ops[lg.ikv].block_repr);
            return;
        }

        for (size_t i = 0; i < lg.steps.size(); ++i) {
            if (!lg.steps[i].dirty.empty()) {
                build_repr(lg, i);
            }
        }
    }

    void build_after_dense(const layer_graph & lg) override {
        const int64_t n_steps = lg.steps.size();
        const int64_t n_new   = lg.steps[0].n_new;

        if (fused) {
            ggml_tensor * part = custom(lg, GGML_TYPE_F32, shape.window + n_new, lg.n_head_kv, op_layers[lg.ikv].n_part, n_steps,
                    { lg.q, layers[lg.ikv].k, input_cells(lg), input_steps(lg) }, ops[lg.ikv].infllm_score_prompt);

            custom_inplace(lg, score[lg.ikv], { part, input_cells(lg), input_steps(lg) }, ops[lg.ikv].infllm_score_add);
            return;
        }

        for (size_t i = 0; i < lg.steps.size(); ++i) {
            if (!lg.steps[i].sparse && !clips(lg.steps[i])) { // otherwise done
                ggml_tensor * k = keys(lg, step_k(lg, i));

                for (int64_t h = 0; h < lg.n_head_kv; ++h) {
                    build_score(lg, i, h, build_probs(lg, i, h, k, nullptr));
                }
            }
        }
    }

    //
    // portable form
    //

    ggml_tensor * build_step(const layer_graph & lg, size_t i) override {
        auto * ctx = lg.ctx;

        const auto & layer = layers[lg.ikv];
        const auto & step  = lg.steps[i];

        const int64_t n_fixed = n_near() + params.n_init;
        const int64_t n       = n_fixed + shape.n_block*shape.block;
        const int64_t n_block = n_pages_graph(lg.steps);

        // the best blocks
        ggml_tensor * q = step_q(lg, i);
        ggml_tensor * q_far = is_clipped() ? turn(lg, q, ggml_cast(ctx, part(lg, input_q_turn(lg), i), GGML_TYPE_I32)) : q;

        ggml_tensor * q_sum = ggml_reshape_3d(ctx, q_far, lg.n_embd_k, lg.n_group(), lg.n_head_kv);
        q_sum = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, q_sum, 1, 0, 2, 3)));
        q_sum = ggml_reshape_2d(ctx, q_sum, lg.n_embd_k*lg.n_head_kv, 1);

        ggml_tensor * reprs  = ggml_view_2d(ctx, repr[lg.ikv], repr[lg.ikv]->ne[0], n_block, repr[lg.ikv]->nb[1], step.table*repr[lg.ikv]->nb[2]);
        ggml_tensor * bias   = input_sparse<float>(lg, "infllm_bias", n_block, 1, [n_block](float * dst, const lil_select_step & s) {
            std::fill_n(dst + s.n_pages, n_block - s.n_pages, -1e30f);
        });
        ggml_tensor * scores = ggml_add(ctx, ggml_mul_mat(ctx, reprs, q_sum), part(lg, bias, i));
        // of a single one: ggml's top_k on Vulkan takes the lowest where all are negative
        ggml_tensor * best   = ggml_reshape_1d(ctx, shape.n_block == 1 ? ggml_argmax(ctx, scores) : ggml_top_k(ctx, scores, shape.n_block), shape.n_block);

        // what is read: the window, what fills no block, the first tokens, the blocks
        const auto list = [&](ggml_tensor * fixed, ggml_tensor * blocks) { // [n, 1]
            ggml_tensor * chosen = ggml_reshape_2d(ctx, ggml_get_rows(ctx, part(lg, blocks, i), best), shape.n_block*shape.block, 1);
            return ggml_concat(ctx, part(lg, fixed, i), chosen, 0);
        };

        ggml_tensor * cells = list(input_fixed(lg), input_blocks(lg));
        ggml_tensor * rows  = cells_to_rows(lg, cells);
        ggml_tensor * mask  = part(lg, input_sparse<float>(lg, "infllm_mask", n, 1, [this](float * dst, const lil_select_step & s) {
            const uint32_t n_rest = s.n - shape.window - params.n_init - s.n_pages*shape.block;

            std::fill(dst + shape.window + n_rest, dst + n_near(), -INFINITY);
        }), i);

        remember(lg, i, { rows, ggml_cast(ctx, mask, GGML_TYPE_F16) });

        // [n_embd, n, n_head_kv]
        ggml_tensor * k = gather(lg, layer.k, step.strm, rows);
        ggml_tensor * v = gather(lg, layer.v, step.strm, rows);

        if (is_clipped()) {
            ggml_tensor * by = list(input_fixed_turn(lg), input_blocks_turn(lg));

            k = ggml_cont(ctx, ggml_permute(ctx, k, 0, 2, 1, 3)); // [n_embd, n_head_kv, n]
            k = turn(lg, k, ggml_cast(ctx, ggml_reshape_1d(ctx, by, n), GGML_TYPE_I32));
            k = ggml_cont(ctx, ggml_permute(ctx, k, 0, 2, 1, 3));
        }

        k = ggml_cast(ctx, k, GGML_TYPE_F16);
        v = ggml_cast(ctx, v, GGML_TYPE_F16);

        // the scores of the window
        {
            ggml_tensor * kq = ggml_mul_mat(ctx, k, ggml_reshape_3d(ctx, q, lg.n_embd_k, lg.n_group(), lg.n_head_kv)); // [n, n_group, n_head_kv]
            ggml_prec_set_acc(kq, GGML_PREC_F32);
            kq = ggml_soft_max(ctx, ggml_add(ctx, cap(lg, kq), mask));

            ggml_tensor * sum = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, kq, 1, 0, 2, 3))); // [1, n, n_head_kv]
            sum = ggml_cont(ctx, ggml_view_2d(ctx, sum, shape.window, lg.n_head_kv, sum->nb[2], 0));

            ggml_tensor * keep = part(lg, input_sparse<float>(lg, "infllm_keep", shape.window, 1, [this](float * dst, const lil_select_step &) {
                std::fill_n(dst, shape.window - 1, 1.0f); // the current token's begins at 0
            }), i);

            ggml_tensor * which = score_rows(lg, ggml_cont(ctx, ggml_view_2d(ctx, cells, shape.window, 1, cells->nb[1], 0)));
            ggml_tensor * all   = row_view(lg, score[lg.ikv], step.strm, 1, score[lg.ikv]->ne[0]*lg.n_head_kv);
            ggml_tensor * old   = ggml_reshape_2d(ctx, ggml_get_rows(ctx, all, which), shape.window, lg.n_head_kv);

            sum = ggml_add(ctx, ggml_mul(ctx, old, keep), sum);

            lg.expand(ggml_set_rows(ctx, all, ggml_reshape_2d(ctx, sum, 1, shape.window*lg.n_head_kv), which));
        }

        q = ggml_reshape_3d(ctx, q, lg.n_embd_k, 1, lg.n_head);

        ggml_tensor * cur = ggml_flash_attn_ext(ctx, q, k, v, ggml_cast(ctx, mask, GGML_TYPE_F16), lg.kq_scale, 0.0f, op_layers[lg.ikv].softcap);
        ggml_prec_set_acc(cur, GGML_PREC_F32);

        return cur;
    }

    lil_select_rows build_rows(const layer_graph &, size_t) override { return {}; }

    ggml_tensor * build_prompt(const layer_graph & lg) override {
        if (!clips(lg.steps[0]) && !std::any_of(lg.steps.begin(), lg.steps.end(), [&](const auto & step) { return clips(step); })) {
            return lil_kv_cache_select::build_prompt(lg);
        }

        ggml_tensor * cur = nullptr;

        for (size_t i = 0; i < lg.steps.size(); ++i) {
            ggml_tensor * one = clips(lg.steps[i]) ? build_prompt_clipped(lg, i) : build_prompt_step(lg, i);
            cur = cur ? ggml_concat(lg.ctx, cur, one, 1) : one;
        }

        return cur;
    }

private:
    const infllm_shape shape;

    std::vector<ggml_tensor *> score; // F32 [n_cells, n_head_kv, n_stream]
    std::vector<ggml_tensor *> repr;  // F32 [n_embd_k_gqa, n_blocks_max, n_tables] the sum of each block's representatives

    uint32_t n_blocks(uint32_t n) const {
        const uint32_t n_other = shape.window + params.n_init;

        return n > n_other ? (n - n_other)/shape.block : 0;
    }

    bool is_clipped() const { return params.positions == LIL_POSITIONS_CLIPPED; }

    // whether a prompt's step has queries that see tokens at the window's distance
    bool clips(const lil_select_step & step) const { return is_clipped() && step.n_new > 1 && step.n > params.budget; }

    // entries for the tokens behind the last block that may be chosen
    int64_t n_near() const { return shape.window + shape.block - 1; }

    static ggml_tensor * part(const layer_graph & lg, ggml_tensor * t, size_t i) {
        return ggml_view_2d(lg.ctx, t, t->ne[0], t->ne[1], t->nb[1], i*t->nb[2]);
    }

    ggml_tensor * cap(const layer_graph & lg, ggml_tensor * kq) const {
        const float softcap = op_layers[lg.ikv].softcap;

        if (softcap == 0.0f) {
            return ggml_scale(lg.ctx, kq, lg.kq_scale);
        }

        return ggml_scale(lg.ctx, ggml_tanh(lg.ctx, ggml_scale(lg.ctx, kq, lg.kq_scale/softcap)), softcap);
    }

    // turns x [n_embd_head, n_head, n] on by so many positions I32 [n], with no change of magnitude
    ggml_tensor * turn(const layer_graph & lg, ggml_tensor * x, ggml_tensor * by) const {
        return lil_build_turn(lg.g, model, hparams, x, ggml_reshape_1d(lg.ctx, by, ggml_nelements(by)), lg.il);
    }

    // cells F32 [n, 1] -> rows of the scores I32 [n*n_head_kv]: head*n_cells + cell
    ggml_tensor * score_rows(const layer_graph & lg, ggml_tensor * cells_f32) const {
        ggml_tensor * head = ggml_reshape_2d(lg.ctx, ggml_arange(lg.ctx, 0.0f, (float) lg.n_head_kv, 1.0f), 1, lg.n_head_kv);
        ggml_tensor * all  = ggml_repeat_4d(lg.ctx, cells_f32, cells_f32->ne[0], lg.n_head_kv, 1, 1);

        all = ggml_cast(lg.ctx, ggml_add(lg.ctx, all, ggml_scale(lg.ctx, head, (float) n_cells())), GGML_TYPE_I32);

        return ggml_reshape_1d(lg.ctx, all, ggml_nelements(all));
    }

    //
    // inputs
    //

    // f(rank) of the window, then of the tokens that fill no block, filled up with the current one, then of the first tokens
    template <typename F>
    void fill_fixed(float * dst, const lil_select_step & s, F f) const {
        const uint32_t rest = params.n_init + s.n_pages*shape.block;

        for (uint32_t r = s.n - shape.window; r < s.n; ++r) {
            *dst++ = f(r);
        }
        for (uint32_t r = rest; r + 1 < rest + shape.block; ++r) {
            *dst++ = f(r < s.n - shape.window ? r : s.n - 1);
        }
        for (uint32_t r = 0; r < params.n_init; ++r) {
            *dst++ = f(r);
        }
    }

    // how far a key moves: to the window's distance, outside of it
    float key_turn(const lil_select_step & s, uint32_t r) const {
        return r + shape.window < s.n ? (float) (s.pos - (llama_pos) shape.window - s.index->pos(r)) : 0.0f;
    }

    ggml_tensor * input_fixed(const layer_graph & lg) const {
        return input_sparse<float>(lg, "infllm_fixed", n_near() + params.n_init, 1, [this](float * dst, const lil_select_step & s) {
            fill_fixed(dst, s, [&](uint32_t r) { return (float) s.index->cell(r); });
        });
    }

    ggml_tensor * input_fixed_turn(const layer_graph & lg) const {
        return input_sparse<float>(lg, "infllm_fixed_turn", n_near() + params.n_init, 1, [this](float * dst, const lil_select_step & s) {
            fill_fixed(dst, s, [&](uint32_t r) { return key_turn(s, r); });
        });
    }

    ggml_tensor * input_blocks(const layer_graph & lg) const {
        return input_sparse<float>(lg, "infllm_blocks", shape.block, n_pages_graph(lg.steps), [this](float * dst, const lil_select_step & s) {
            for (uint32_t r = params.n_init; r < params.n_init + s.n_pages*shape.block; ++r) {
                *dst++ = s.index->cell(r);
            }
        });
    }

    ggml_tensor * input_blocks_turn(const layer_graph & lg) const {
        return input_sparse<float>(lg, "infllm_blocks_turn", shape.block, n_pages_graph(lg.steps), [this](float * dst, const lil_select_step & s) {
            for (uint32_t r = params.n_init; r < params.n_init + s.n_pages*shape.block; ++r) {
                *dst++ = key_turn(s, r);
            }
        });
    }

    // from the query's position to the window's distance from 0
    ggml_tensor * input_q_turn(const layer_graph & lg) const {
        return input<float>(lg, "infllm_q_turn", lg.steps[0].n_new, 1, [this](float * dst, const lil_select_step & s) {
            for (uint32_t r = s.n - s.n_new; r < s.n; ++r) {
                *dst++ = (float) ((llama_pos) shape.window - s.index->pos(r));
            }
        });
    }

    //
    // representatives
    //

    void build_repr(const layer_graph & lg, size_t i) {
        auto * ctx = lg.ctx;
        auto * inp = lg.inp;

        const auto & step = lg.steps[i];

        const int64_t n      = step.dirty.size();
        const int64_t n_repr = params.n_repr;
        const int64_t block  = shape.block;

        const auto id    = std::to_string(i);
        const auto cells = "dirty_cells_"  + id;
        const auto poss  = "dirty_pos_"    + id;
        const auto dest  = "dirty_blocks_" + id;

        if (inp->tensors.find(cells) == inp->tensors.end()) {
            const auto each = [this, inp, i](auto f) {
                for (const uint32_t b : inp->steps[i].dirty) {
                    const auto [r0, r1] = page_ranks(*inp->steps[i].index, b);
                    for (uint32_t r = r0; r < r1; ++r) {
                        f(*inp->steps[i].index, r);
                    }
                }
            };

            inp->add(ctx, cells.c_str(), block*n, 1, 1, [each](float * dst) { each([&](const lil_seq_index & idx, uint32_t r) { *dst++ = idx.cell(r); }); });
            inp->add(ctx, poss .c_str(), block*n, 1, 1, [each](float * dst) { each([&](const lil_seq_index & idx, uint32_t r) { *dst++ = -idx.pos(r); }); });
            inp->add(ctx, dest .c_str(), n, 1, 1, [inp, i](int32_t * dst) {
                for (const uint32_t b : inp->steps[i].dirty) {
                    *dst++ = b;
                }
            });
        }

        ggml_tensor * all = ggml_reshape_2d(ctx, inp->tensors.at(cells), block*n, 1);

        // the best of each block [n_repr, n, n_head_kv], as indices into `all`
        ggml_tensor * s = ggml_get_rows(ctx, row_view(lg, score[lg.ikv], step.strm, 1, score[lg.ikv]->ne[0]*lg.n_head_kv), score_rows(lg, all));
        ggml_tensor * top = ggml_cast(ctx, ggml_top_k(ctx, ggml_reshape_3d(ctx, s, block, n, lg.n_head_kv), n_repr), GGML_TYPE_F32);
        ggml_tensor * first = ggml_reshape_2d(ctx, ggml_arange(ctx, 0.0f, (float) (n*block), (float) block), 1, n);
        ggml_tensor * ids = ggml_cast(ctx, ggml_add(ctx, top, first), GGML_TYPE_I32);
        ids = ggml_reshape_1d(ctx, ids, n_repr*n*lg.n_head_kv);

        const auto pick = [&](ggml_tensor * t) {
            return ggml_reshape_2d(ctx, ggml_get_rows(ctx, ggml_reshape_2d(ctx, t, 1, block*n), ids), n_repr*n, lg.n_head_kv);
        };

        ggml_tensor * keys = gather(lg, layers[lg.ikv].k, step.strm, cells_to_rows(lg, pick(all))); // [n_embd, n_repr*n, n_head_kv]

        if (layers[lg.ikv].k->type == GGML_TYPE_F32) { // as FlashAttention reads it
            keys = ggml_cast(ctx, ggml_cast(ctx, keys, GGML_TYPE_F16), GGML_TYPE_F32);
        }

        if (is_clipped()) {
            keys = ggml_reshape_3d(ctx, keys, lg.n_embd_k, 1, n_repr*n*lg.n_head_kv);
            keys = turn(lg, keys, ggml_cast(ctx, pick(inp->tensors.at(poss)), GGML_TYPE_I32));
        }

        keys = ggml_reshape_4d(ctx, keys, lg.n_embd_k, n_repr, n, lg.n_head_kv);

        ggml_tensor * sum = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, keys, 1, 0, 2, 3))); // [1, n_embd, n, n_head_kv]
        sum = ggml_reshape_3d(ctx, sum, lg.n_embd_k, n, lg.n_head_kv);
        sum = ggml_reshape_2d(ctx, ggml_cont(ctx, ggml_permute(ctx, sum, 0, 2, 1, 3)), lg.n_embd_k*lg.n_head_kv, n);

        ggml_tensor * table = ggml_view_2d(ctx, repr[lg.ikv], repr[lg.ikv]->ne[0], repr[lg.ikv]->ne[1], repr[lg.ikv]->nb[1], step.table*repr[lg.ikv]->nb[2]);

        lg.expand(ggml_set_rows(ctx, table, sum, ggml_reshape_1d(ctx, inp->tensors.at(dest), n)));
    }

    //
    // prompts and dense steps
    //

    // the mask of step i [n_kv, n_new]
    ggml_tensor * step_mask(const layer_graph & lg, size_t i) const {
        ggml_tensor * m = lg.kq_mask;

        const int64_t n_new = lg.steps[i].n_new;

        return ggml_view_2d(lg.ctx, m, m->ne[0], n_new, m->nb[1], m->ne[3] > 1 ? i*m->nb[3] : i*n_new*m->nb[1]);
    }

    // k [n_embd, n_head_kv, n_kv] -> [n_embd, n_kv, n_head_kv] for products
    static ggml_tensor * keys(const layer_graph & lg, ggml_tensor * k) {
        return lil_build_keys(lg.ctx, ggml_permute(lg.ctx, k, 0, 2, 1, 3));
    }

    // the probabilities of KV head h's queries [n_kv, n_new, n_group]; k: the layer's keys(), k_far: those at position 0
    ggml_tensor * build_probs(const layer_graph & lg, size_t i, int64_t h, ggml_tensor * k, ggml_tensor * k_far) const {
        auto * ctx = lg.ctx;

        const auto head = [&](ggml_tensor * q) { // [n_embd, n_new, n_group]
            return ggml_permute(ctx, ggml_view_3d(ctx, q, q->ne[0], lg.n_group(), q->ne[2], q->nb[1], q->nb[2], h*lg.n_group()*q->nb[1]), 0, 2, 1, 3);
        };
        const auto logits = [&](ggml_tensor * k, ggml_tensor * q) {
            ggml_tensor * kq = ggml_mul_mat(ctx, ggml_view_2d(ctx, k, k->ne[0], k->ne[1], k->nb[1], h*k->nb[2]), head(q));
            ggml_prec_set_acc(kq, GGML_PREC_F32);
            return kq;
        };

        ggml_tensor * q  = step_q(lg, i);
        ggml_tensor * kq = logits(k, q);

        if (k_far) {
            ggml_tensor * q_far = turn(lg, q, ggml_cast(ctx, part(lg, input_q_turn(lg), i), GGML_TYPE_I32));
            ggml_tensor * far   = logits(k_far, q_far);

            const int64_t n_kv = lg.n_kv;

            ggml_tensor * is_far = part(lg, input<float>(lg, "infllm_far", n_kv, lg.steps[i].n_new, [this, n_kv](float * dst, const lil_select_step & s) {
                for (uint32_t r = s.n - s.n_new; r < s.n; ++r, dst += n_kv) {
                    for (uint32_t j = 0; r >= params.budget && j + shape.window <= r; ++j) {
                        dst[s.index->cell(j)] = 1.0f;
                    }
                }
            }), i);

            kq = ggml_add(ctx, kq, ggml_mul(ctx, ggml_sub(ctx, far, kq), is_far));
        }

        if (op_layers[lg.ikv].softcap != 0.0f) {
            return ggml_soft_max_ext(ctx, cap(lg, kq), step_mask(lg, i), 1.0f, 0.0f);
        }

        return ggml_soft_max_ext(ctx, kq, step_mask(lg, i), lg.kq_scale, 0.0f);
    }

    // adds what the window's tokens got to their scores
    void build_score(const layer_graph & lg, size_t i, int64_t h, ggml_tensor * probs) const {
        auto * ctx = lg.ctx;

        const int64_t n_kv  = lg.n_kv;
        const int64_t n_new = lg.steps[i].n_new;

        ggml_tensor * window = part(lg, input<float>(lg, "infllm_window", n_kv, n_new, [this, n_kv](float * dst, const lil_select_step & s) {
            for (uint32_t r = s.n - s.n_new; r < s.n; ++r, dst += n_kv) {
                for (uint32_t j = r + 1 > shape.window ? r + 1 - shape.window : 0; j <= r; ++j) {
                    dst[s.index->cell(j)] = 1.0f;
                }
            }
        }), i);

        ggml_tensor * keep = part(lg, input<float>(lg, "infllm_old", n_kv, 1, [n_kv](float * dst, const lil_select_step & s) {
            std::fill_n(dst, n_kv, 1.0f);
            for (uint32_t r = s.n - s.n_new; r < s.n; ++r) {
                dst[s.index->cell(r)] = 0.0f;
            }
        }), i);

        ggml_tensor * sum = ggml_reshape_2d(ctx, ggml_mul(ctx, probs, window), n_kv, n_new*lg.n_group());
        sum = ggml_reshape_1d(ctx, ggml_sum_rows(ctx, ggml_cont(ctx, ggml_transpose(ctx, sum))), n_kv);

        ggml_tensor * dst = ggml_view_1d(ctx, score[lg.ikv], n_kv, lg.steps[i].strm*score[lg.ikv]->nb[2] + h*score[lg.ikv]->nb[1]);

        lg.expand(ggml_cpy(ctx, ggml_add(ctx, ggml_mul(ctx, dst, ggml_reshape_1d(ctx, keep, n_kv)), sum), dst));
    }

    // llama.cpp's attention for the queries of one step
    ggml_tensor * build_prompt_step(const layer_graph & lg, size_t i) const {
        const size_t s = lg.k->ne[3] > 1 ? i : 0;

        const auto stream = [&](ggml_tensor * t) {
            return ggml_view_3d(lg.ctx, t, t->ne[0], t->ne[1], t->ne[2], t->nb[1], t->nb[2], s*t->nb[3]);
        };

        return lg.g.build_attn_mha(step_q(lg, i), stream(lg.k), stream(lg.v), nullptr, step_mask(lg, i), nullptr, nullptr, 0, lg.kq_scale, lg.il);
    }

    ggml_tensor * build_prompt_clipped(const layer_graph & lg, size_t i) const {
        auto * ctx = lg.ctx;

        const int64_t n_kv = lg.n_kv;

        // all keys, turned back to position 0
        ggml_tensor * by = input<float>(lg, "infllm_back", n_kv, 1, [](float * dst, const lil_select_step & s) {
            for (uint32_t r = 0; r < s.n; ++r) {
                dst[s.index->cell(r)] = (float) -s.index->pos(r);
            }
        });

        ggml_tensor * k_far = ggml_cast(ctx, step_k(lg, i), GGML_TYPE_F32);
        k_far = turn(lg, k_far, ggml_cast(ctx, part(lg, by, i), GGML_TYPE_I32));
        k_far = keys(lg, ggml_cast(ctx, k_far, GGML_TYPE_F16));

        ggml_tensor * k = keys(lg, step_k(lg, i));

        // [n_embd_v, n_head_kv, n_kv]
        ggml_tensor * v_all = ggml_view_3d(ctx, lg.v, lg.v->ne[0], lg.v->ne[1], n_kv, lg.v->nb[1], lg.v->nb[2], (lg.k->ne[3] > 1 ? i : 0)*lg.v->nb[3]);
        v_all = ggml_cast(ctx, v_all, GGML_TYPE_F32);

        ggml_tensor * res = nullptr;

        for (int64_t h = 0; h < lg.n_head_kv; ++h) { // one after another: the probabilities are large
            ggml_tensor * probs = build_probs(lg, i, h, k, k_far);
            build_score(lg, i, h, probs);

            ggml_tensor * v = ggml_view_2d(ctx, v_all, v_all->ne[0], n_kv, v_all->nb[2], h*v_all->nb[1]);
            v = ggml_cont(ctx, ggml_transpose(ctx, v)); // [n_kv, n_embd_v]

            ggml_tensor * cur = ggml_mul_mat(ctx, v, probs); // [n_embd_v, n_new, n_group]
            cur = ggml_cont(ctx, ggml_permute(ctx, cur, 0, 2, 1, 3));
            cur = ggml_reshape_2d(ctx, cur, lg.n_embd_v*lg.n_group(), lg.steps[i].n_new);
            lg.expand(cur);

            res = res ? ggml_concat(ctx, res, cur, 0) : cur;
        }

        return res;
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.block > 256) {
        return format("block = %u: 1 to 256, or 0 for the default", p.block);
    }

    const auto shape = get_shape(p);

    if (p.n_repr == 0 || p.n_repr > shape.block) {
        return format("n_repr = %u: 1 to block = %u", p.n_repr, shape.block);
    }
    if (shape.n_block == 0) {
        lil_sparse_params q = p;
        while (get_shape(q).n_block == 0) {
            q.budget++;
        }

        return format("budget = %u is too small for n_init = %u and block = %u: at least %u, so that one block can be chosen", p.budget, p.n_init, shape.block, q.budget);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && p.min_ctx > p.budget) {
        return format("min_ctx = %u with positions = 2 (clipped): a prompt's queries see clipped distances from budget = %u on, and so must steps", p.min_ctx, p.budget);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && p.form == LIL_FORM_FUSED) {
        return "positions = 2 (clipped) has no fused form: use form AUTO or PORTABLE";
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::infllm_score, &lil_ops::infllm_score_prompt, &lil_ops::infllm_score_add,
        &lil_ops::block_repr, &lil_ops::block_scores, &lil_ops::block_select };
}

const lil_method lil_method_infllm = {
    LIL_SPARSE_INFLLM, /*.evicts =*/ false, check, needs, [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_infllm(a); },
};
