#include "lil-kv-cache-infllm.h"
#include "lil-rope.h"

// InfLLM's decode step and representatives, in ggml's own ops

ggml_tensor * lil_kv_cache_infllm::build_step(const layer_graph & lg, size_t i) {
    auto * ctx = lg.ctx;

    const auto & layer = layers[lg.ikv];
    const auto & step  = lg.steps[i];

    const int64_t n_fixed = n_near() + params.n_init;
    const int64_t n       = n_fixed + shape.n_block * shape.block;
    const int64_t n_block = n_pages_graph(lg.steps);

    // the best blocks
    ggml_tensor * q     = step_q(lg, i);
    ggml_tensor * q_far = is_clipped() ? turn(lg, q, ggml_cast(ctx, part(lg, input_q_turn(lg), i), GGML_TYPE_I32)) : q;

    ggml_tensor * q_sum = ggml_reshape_3d(ctx, q_far, lg.n_embd_k, lg.n_group(), lg.n_head_kv);
    q_sum               = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, q_sum, 1, 0, 2, 3)));
    q_sum               = ggml_reshape_2d(ctx, q_sum, lg.n_embd_k * lg.n_head_kv, 1);

    ggml_tensor * reprs = ggml_view_2d(
            ctx, repr[lg.ikv], repr[lg.ikv]->ne[0], n_block, repr[lg.ikv]->nb[1], step.table * repr[lg.ikv]->nb[2]);
    ggml_tensor * bias =
            input_sparse<float>(lg, "infllm_bias", n_block, 1, [n_block](float * dst, const lil_select_step & s) {
                std::fill_n(dst + s.n_pages, n_block - s.n_pages, -1e30f);
            });
    ggml_tensor * scores = ggml_add(ctx, ggml_mul_mat(ctx, reprs, q_sum), part(lg, bias, i));
    // of a single one: ggml's top_k on Vulkan takes the lowest where all are negative
    ggml_tensor * best = ggml_reshape_1d(
            ctx, shape.n_block == 1 ? ggml_argmax(ctx, scores) : ggml_top_k(ctx, scores, shape.n_block), shape.n_block);

    // what is read: the window, what fills no block, the first tokens, the blocks
    const auto list = [&](ggml_tensor * fixed, ggml_tensor * blocks) { // [n, 1]
        ggml_tensor * chosen =
                ggml_reshape_2d(ctx, ggml_get_rows(ctx, part(lg, blocks, i), best), shape.n_block * shape.block, 1);
        return ggml_concat(ctx, part(lg, fixed, i), chosen, 0);
    };

    ggml_tensor * cells = list(input_fixed(lg), input_blocks(lg));
    ggml_tensor * rows  = cells_to_rows(lg, cells);
    ggml_tensor * mask  = part(lg,
            input_sparse<float>(lg, "infllm_mask", n, 1,
                    [this](float * dst, const lil_select_step & s) {
                        const uint32_t n_rest = s.n - shape.window - params.n_init - s.n_pages * shape.block;

                        std::fill(dst + shape.window + n_rest, dst + n_near(), -INFINITY);
                    }),
            i);

    remember(lg, i, { rows, ggml_cast(ctx, mask, GGML_TYPE_F16) });

    // [n_embd, n, n_head_kv]
    ggml_tensor * k = gather(lg, layer.k, step.strm, rows);
    ggml_tensor * v = gather(lg, values[lg.ikv], step.strm, rows);

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
        // [n, n_group, n_head_kv]
        ggml_tensor * kq = ggml_mul_mat(ctx, k, ggml_reshape_3d(ctx, q, lg.n_embd_k, lg.n_group(), lg.n_head_kv));
        ggml_prec_set_acc(kq, GGML_PREC_F32);
        kq = ggml_add(ctx, cap(lg, kq), mask);
        kq = ggml_soft_max(ctx, ggml_reshape_3d(ctx, kq, n, 1, lg.n_head));
        ggml_soft_max_add_sinks(kq, sinks(lg.ikv));
        kq = ggml_reshape_3d(ctx, kq, n, lg.n_group(), lg.n_head_kv);

        ggml_tensor * sum = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, kq, 1, 0, 2, 3))); // [1, n, n_head_kv]
        sum               = ggml_cont(ctx, ggml_view_2d(ctx, sum, shape.window, lg.n_head_kv, sum->nb[2], 0));

        ggml_tensor * keep = part(lg,
                input_sparse<float>(lg, "infllm_keep", shape.window, 1,
                        [this](float * dst, const lil_select_step &) {
                            std::fill_n(dst, shape.window - 1, 1.0f); // the current token's begins at 0
                        }),
                i);

        ggml_tensor * which =
                score_rows(lg, ggml_cont(ctx, ggml_view_2d(ctx, cells, shape.window, 1, cells->nb[1], 0)));
        ggml_tensor * all = row_view(lg, score[lg.ikv], step.strm, 1, score[lg.ikv]->ne[0] * lg.n_head_kv);
        ggml_tensor * old = ggml_reshape_2d(ctx, ggml_get_rows(ctx, all, which), shape.window, lg.n_head_kv);

        sum = ggml_add(ctx, ggml_mul(ctx, old, keep), sum);

        lg.expand(ggml_set_rows(ctx, all, ggml_reshape_2d(ctx, sum, 1, shape.window * lg.n_head_kv), which));
    }

    q = ggml_reshape_3d(ctx, q, lg.n_embd_k, 1, lg.n_head);

    ggml_tensor * cur = ggml_flash_attn_ext(
            ctx, q, k, v, ggml_cast(ctx, mask, GGML_TYPE_F16), lg.kq_scale, 0.0f, select_layers[lg.ikv].softcap);
    ggml_prec_set_acc(cur, GGML_PREC_F32);
    ggml_flash_attn_ext_add_sinks(cur, sinks(lg.ikv));

    return cur;
}

// turns x [n_embd_head, n_head, n] on by so many positions I32 [n], with no change of magnitude
ggml_tensor * lil_kv_cache_infllm::turn(const layer_graph & lg, ggml_tensor * x, ggml_tensor * by) const {
    return lil_build_turn(lg.g, model, hparams, x, ggml_reshape_1d(lg.ctx, by, ggml_nelements(by)), lg.il);
}

// cells F32 [n, 1] -> rows of the scores I32 [n*n_head_kv]: head*n_cells + cell
ggml_tensor * lil_kv_cache_infllm::score_rows(const layer_graph & lg, ggml_tensor * cells_f32) const {
    ggml_tensor * head =
            ggml_reshape_2d(lg.ctx, ggml_arange(lg.ctx, 0.0f, (float) lg.n_head_kv, 1.0f), 1, lg.n_head_kv);
    ggml_tensor * all = ggml_repeat_4d(lg.ctx, cells_f32, cells_f32->ne[0], lg.n_head_kv, 1, 1);

    all = ggml_cast(lg.ctx, ggml_add(lg.ctx, all, ggml_scale(lg.ctx, head, (float) n_cells())), GGML_TYPE_I32);

    return ggml_reshape_1d(lg.ctx, all, ggml_nelements(all));
}

//
// inputs
//

// f(rank) of the window, then of the tokens that fill no block, filled up with the current one, then of the first
// tokens
void lil_kv_cache_infllm::fill_fixed(
        float * dst, const lil_select_step & s, const std::function<float(uint32_t)> & f) const {
    const uint32_t rest = params.n_init + s.n_pages * shape.block;

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
float lil_kv_cache_infllm::key_turn(const lil_select_step & s, uint32_t r) const {
    return r + shape.window < s.n ? (float) (s.pos - (llama_pos) shape.window - s.index->pos(r)) : 0.0f;
}

ggml_tensor * lil_kv_cache_infllm::input_fixed(const layer_graph & lg) const {
    return input_sparse<float>(
            lg, "infllm_fixed", n_near() + params.n_init, 1, [this](float * dst, const lil_select_step & s) {
                fill_fixed(dst, s, [&](uint32_t r) { return (float) s.index->cell(r); });
            });
}

ggml_tensor * lil_kv_cache_infllm::input_fixed_turn(const layer_graph & lg) const {
    return input_sparse<float>(
            lg, "infllm_fixed_turn", n_near() + params.n_init, 1, [this](float * dst, const lil_select_step & s) {
                fill_fixed(dst, s, [&](uint32_t r) { return key_turn(s, r); });
            });
}

ggml_tensor * lil_kv_cache_infllm::input_blocks(const layer_graph & lg) const {
    return input_sparse<float>(
            lg, "infllm_blocks", shape.block, n_pages_graph(lg.steps), [this](float * dst, const lil_select_step & s) {
                for (uint32_t r = params.n_init; r < params.n_init + s.n_pages * shape.block; ++r) {
                    *dst++ = s.index->cell(r);
                }
            });
}

ggml_tensor * lil_kv_cache_infllm::input_blocks_turn(const layer_graph & lg) const {
    return input_sparse<float>(lg, "infllm_blocks_turn", shape.block, n_pages_graph(lg.steps),
            [this](float * dst, const lil_select_step & s) {
                for (uint32_t r = params.n_init; r < params.n_init + s.n_pages * shape.block; ++r) {
                    *dst++ = key_turn(s, r);
                }
            });
}

//
// representatives
//

void lil_kv_cache_infllm::build_repr(const layer_graph & lg, size_t i) {
    auto * ctx = lg.ctx;
    auto * inp = lg.inp;

    const auto & step = lg.steps[i];

    const int64_t n      = step.dirty.size();
    const int64_t n_repr = params.n_repr;
    const int64_t block  = shape.block;

    const auto id    = std::to_string(i);
    const auto cells = "dirty_cells_" + id;
    const auto poss  = "dirty_pos_" + id;
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

        inp->add(ctx, cells.c_str(), block * n, 1, 1,
                [each](float * dst) { each([&](const lil_seq_index & idx, uint32_t r) { *dst++ = idx.cell(r); }); });
        inp->add(ctx, poss.c_str(), block * n, 1, 1,
                [each](float * dst) { each([&](const lil_seq_index & idx, uint32_t r) { *dst++ = -idx.pos(r); }); });
        inp->add(ctx, dest.c_str(), n, 1, 1, [inp, i](int32_t * dst) {
            for (const uint32_t b : inp->steps[i].dirty) {
                *dst++ = b;
            }
        });
    }

    ggml_tensor * all = ggml_reshape_2d(ctx, inp->tensors.at(cells), block * n, 1);

    // the best of each block [n_repr, n, n_head_kv], as indices into `all`
    ggml_tensor * s = ggml_get_rows(
            ctx, row_view(lg, score[lg.ikv], step.strm, 1, score[lg.ikv]->ne[0] * lg.n_head_kv), score_rows(lg, all));
    ggml_tensor * top =
            ggml_cast(ctx, ggml_top_k(ctx, ggml_reshape_3d(ctx, s, block, n, lg.n_head_kv), n_repr), GGML_TYPE_F32);
    ggml_tensor * first = ggml_reshape_2d(ctx, ggml_arange(ctx, 0.0f, (float) (n * block), (float) block), 1, n);
    ggml_tensor * ids   = ggml_cast(ctx, ggml_add(ctx, top, first), GGML_TYPE_I32);
    ids                 = ggml_reshape_1d(ctx, ids, n_repr * n * lg.n_head_kv);

    const auto pick = [&](ggml_tensor * t) {
        return ggml_reshape_2d(
                ctx, ggml_get_rows(ctx, ggml_reshape_2d(ctx, t, 1, block * n), ids), n_repr * n, lg.n_head_kv);
    };

    // [n_embd, n_repr*n, n_head_kv]
    ggml_tensor * keys = gather(lg, layers[lg.ikv].k, step.strm, cells_to_rows(lg, pick(all)));

    if (layers[lg.ikv].k->type == GGML_TYPE_F32) { // as FlashAttention reads it
        keys = ggml_cast(ctx, ggml_cast(ctx, keys, GGML_TYPE_F16), GGML_TYPE_F32);
    }

    if (is_clipped()) {
        keys = ggml_reshape_3d(ctx, keys, lg.n_embd_k, 1, n_repr * n * lg.n_head_kv);
        keys = turn(lg, keys, ggml_cast(ctx, pick(inp->tensors.at(poss)), GGML_TYPE_I32));
    }

    keys = ggml_reshape_4d(ctx, keys, lg.n_embd_k, n_repr, n, lg.n_head_kv);

    // [1, n_embd, n, n_head_kv]
    ggml_tensor * sum = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, keys, 1, 0, 2, 3)));
    sum               = ggml_reshape_3d(ctx, sum, lg.n_embd_k, n, lg.n_head_kv);
    sum = ggml_reshape_2d(ctx, ggml_cont(ctx, ggml_permute(ctx, sum, 0, 2, 1, 3)), lg.n_embd_k * lg.n_head_kv, n);

    ggml_tensor * table = ggml_view_2d(ctx, repr[lg.ikv], repr[lg.ikv]->ne[0], repr[lg.ikv]->ne[1], repr[lg.ikv]->nb[1],
            step.table * repr[lg.ikv]->nb[2]);

    lg.expand(ggml_set_rows(ctx, table, sum, ggml_reshape_1d(ctx, inp->tensors.at(dest), n)));
}
