#include "lil-kv-cache-pages.h"

#include <cmath>

lil_kv_cache_pages::lil_kv_cache_pages(const args & a) : lil_kv_cache_select(a) {
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        const ggml_type type_k = layers[ikv].k->type;
        const ggml_type type   = type_k == GGML_TYPE_F16 || type_k == GGML_TYPE_F32 ? GGML_TYPE_F16 : GGML_TYPE_F32;

        bounds.push_back(
                new_side(ikv, "bounds", type, 2 * n_embd_head_k(ikv), n_head_kv(ikv), n_pages_max, n_tables()));
    }

    lil_kv_cache_pages::budget_changed();
}

void lil_kv_cache_pages::budget_changed() {
    for (auto & layer : select_layers) {
        layer.n_pages = params.budget / lil_seq_index::PAGE;
    }
}

ggml_tensor * lil_kv_cache_pages::part(const layer_graph & lg, ggml_tensor * t, size_t i) {
    return ggml_view_2d(lg.ctx, t, t->ne[0], t->ne[1], t->nb[1], i * t->nb[2]);
}

ggml_tensor * lil_kv_cache_pages::build_scores(const layer_graph & lg) const {
    std::vector<ggml_tensor *> srcs = { lg.q, bounds[lg.ikv], input_steps(lg) };

    if (ggml_tensor * dirty = input_dirty_few(lg)) {
        srcs.insert(srcs.end(), { layers[lg.ikv].k, dirty });
    }

    return custom(lg, GGML_TYPE_F32, n_pages_graph(lg.steps), lg.n_head_kv, lg.steps.size(), 1, srcs,
            ops[lg.ikv].page_scores);
}

void lil_kv_cache_pages::build_pages(const layer_graph & lg) {
    ggml_tensor * k = layers[lg.ikv].k;
    ggml_tensor * b = bounds[lg.ikv];

    if (fused) {
        if (!input_dirty_few(lg)) {
            custom_inplace(lg, b, { k, input_dirty(lg) }, ops[lg.ikv].page_bounds);
        }
        return;
    }

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        const auto & step = lg.steps[i];

        const int64_t n = step.dirty.size();
        if (n == 0) {
            continue;
        }

        auto * inp = lg.inp;

        const auto name = "dirty_cells_" + std::to_string(i);
        const auto dest = "dirty_pages_" + std::to_string(i);

        if (inp->tensors.find(name) == inp->tensors.end()) {
            inp->add(lg.ctx, name.c_str(), page_size(), n, 1, [this, inp, i](float * dst) {
                for (const uint32_t page : inp->steps[i].dirty) {
                    const auto & idx = *inp->steps[i].index;

                    const auto [r0, r1] = page_ranks(idx, page);
                    for (uint32_t r = 0; r < page_size(); ++r) {
                        *dst++ = idx.cell(std::min(r0 + r, r1 - 1));
                    }
                }
            });
            inp->add(lg.ctx, dest.c_str(), n, 1, 1, [inp, i](float * dst) {
                for (const uint32_t page : inp->steps[i].dirty) {
                    *dst++ = page;
                }
            });
        }

        // keys of the pages [n_embd, 16*n, n_head_kv]
        ggml_tensor * cells = ggml_reshape_2d(lg.ctx, inp->tensors.at(name), page_size() * n, 1);
        ggml_tensor * keys  = gather(lg, k, step.strm, cells_to_rows(lg, cells));

        if (k->type == GGML_TYPE_F32) { // as FlashAttention reads it
            keys = ggml_cast(lg.ctx, ggml_cast(lg.ctx, keys, GGML_TYPE_F16), GGML_TYPE_F32);
        }

        const auto pool = [&](ggml_tensor * t) {
            // [n_embd, n, n_head_kv]
            return ggml_pool_2d(lg.ctx, t, GGML_OP_POOL_MAX, 1, page_size(), 1, page_size(), 0.0f, 0.0f);
        };

        ggml_tensor * rows = ggml_concat(lg.ctx, pool(keys), ggml_neg(lg.ctx, pool(ggml_neg(lg.ctx, keys))), 0);

        // row of page p and head h: p*n_head_kv + h
        ggml_tensor * dst = ggml_view_2d(lg.ctx, b, b->ne[0], b->ne[1] * b->ne[2], b->nb[1], step.table * b->nb[3]);
        ggml_tensor * ids = cells_to_rows(lg, ggml_reshape_2d(lg.ctx, inp->tensors.at(dest), n, 1));

        lg.expand(ggml_set_rows(lg.ctx, dst, ggml_reshape_2d(lg.ctx, rows, b->ne[0], n * lg.n_head_kv),
                ggml_reshape_1d(lg.ctx, ids, n * lg.n_head_kv)));
    }
}

ggml_tensor * lil_kv_cache_pages::build_scores(const layer_graph & lg, size_t i) const {
    ggml_tensor * b = bounds[lg.ikv];

    const int64_t P = n_pages_graph(lg.steps);

    // [2*n_embd, P, n_head_kv]
    ggml_tensor * rows =
            ggml_view_3d(lg.ctx, b, b->ne[0], P, b->ne[1], b->nb[2], b->nb[1], lg.steps[i].table * b->nb[3]);
    rows = ggml_cast(lg.ctx, ggml_cont(lg.ctx, rows), GGML_TYPE_F32); // a rounded query would break the bound

    // sum_i max(q_i*m_i, q_i*M_i) = max(q, 0).M + min(q, 0).m
    ggml_tensor * q = ggml_reshape_3d(lg.ctx, step_q(lg, i), lg.n_embd_k, lg.n_group(), lg.n_head_kv);
    ggml_tensor * qq =
            ggml_concat(lg.ctx, ggml_relu(lg.ctx, q), ggml_neg(lg.ctx, ggml_relu(lg.ctx, ggml_neg(lg.ctx, q))), 0);

    ggml_tensor * s = ggml_mul_mat(lg.ctx, rows, qq); // [P, n_group, n_head_kv]
    ggml_prec_set_acc(s, GGML_PREC_F32);

    return ggml_reshape_2d(lg.ctx, max_over(lg, s), P, lg.n_head_kv);
}

ggml_tensor * lil_kv_cache_pages::page_cells(const layer_graph & lg, size_t i) const {
    ggml_tensor * t = input<float>(lg, "page_cells", lil_seq_index::PAGE, n_pages_graph(lg.steps),
            [](float * dst, const lil_select_step & step) {
                const auto & idx = *step.index;

                for (uint32_t p = 0; p < idx.get_pages().size(); ++p) {
                    const uint32_t r0 = idx.get_pages()[p];

                    for (int32_t j = 0; j < lil_seq_index::PAGE; ++j) {
                        dst[p * lil_seq_index::PAGE + j] = idx.cell(r0 + j < idx.page_end(p) ? r0 + j : idx.size() - 1);
                    }
                }
            });

    return part(lg, t, i);
}

ggml_tensor * lil_kv_cache_pages::page_mask(const layer_graph & lg, size_t i) const {
    const int64_t P = n_pages_graph(lg.steps);

    ggml_tensor * t =
            input<float>(lg, "page_mask", lil_seq_index::PAGE, P, [P](float * dst, const lil_select_step & step) {
                const auto & idx = *step.index;

                std::fill_n(dst, lil_seq_index::PAGE * P, -INFINITY);
                for (uint32_t p = 0; p < idx.get_pages().size(); ++p) {
                    std::fill_n(dst + p * lil_seq_index::PAGE, idx.page_end(p) - idx.get_pages()[p], 0.0f);
                }
            });

    return part(lg, t, i);
}

lil_select_rows lil_kv_cache_pages::rows_of_pages(const layer_graph & lg, size_t i, ggml_tensor * pages) const {
    const int64_t n = pages->ne[0];

    pages = ggml_reshape_1d(lg.ctx, pages, n * lg.n_head_kv);

    ggml_tensor * cells = ggml_get_rows(lg.ctx, page_cells(lg, i), pages);
    ggml_tensor * mask  = ggml_get_rows(lg.ctx, page_mask(lg, i), pages);

    return {
        cells_to_rows(lg, ggml_reshape_2d(lg.ctx, cells, lil_seq_index::PAGE * n, lg.n_head_kv)),
        ggml_cast(lg.ctx, ggml_reshape_2d(lg.ctx, mask, lil_seq_index::PAGE * n, lg.n_head_kv), GGML_TYPE_F16),
    };
}
