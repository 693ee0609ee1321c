#include "lil-kv-cache-infllm.h"
#include "lil-keys.h"

#include <algorithm>
#include <cmath>

// InfLLM's prompts and dense steps, in ggml's own ops: the scores of the window's tokens, and attention with clipped
// positions

ggml_tensor * lil_kv_cache_infllm::build_prompt(const layer_graph & lg) {
    if (!clips(lg.steps[0]) &&
            !std::any_of(lg.steps.begin(), lg.steps.end(), [&](const auto & step) { return clips(step); })) {
        return lil_kv_cache_select::build_prompt(lg);
    }

    ggml_tensor * cur = nullptr;

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        ggml_tensor * one = clips(lg.steps[i]) ? build_prompt_clipped(lg, i) : build_prompt_step(lg, i);
        cur               = cur ? ggml_concat(lg.ctx, cur, one, 1) : one;
    }

    return cur;
}

// llama.cpp's attention for the queries of one step
ggml_tensor * lil_kv_cache_infllm::build_prompt_step(const layer_graph & lg, size_t i) const {
    const size_t s = lg.k->ne[3] > 1 ? i : 0;

    const auto stream = [&](ggml_tensor * t) {
        return ggml_view_3d(lg.ctx, t, t->ne[0], t->ne[1], t->ne[2], t->nb[1], t->nb[2], s * t->nb[3]);
    };

    return lg.g.build_attn_mha(step_q(lg, i), stream(lg.k), stream(lg.v), nullptr, step_mask(lg, i), sinks(lg.ikv),
            nullptr, 0, lg.kq_scale, lg.il);
}

ggml_tensor * lil_kv_cache_infllm::build_prompt_clipped(const layer_graph & lg, size_t i) const {
    auto * ctx = lg.ctx;

    const int64_t n_kv = lg.n_kv;

    // all keys, turned back to position 0
    ggml_tensor * by = input<float>(lg, "infllm_back", n_kv, 1, [](float * dst, const lil_select_step & s) {
        for (uint32_t r = 0; r < s.n; ++r) {
            dst[s.index->cell(r)] = (float) -s.index->pos(r);
        }
    });

    ggml_tensor * k_far = ggml_cast(ctx, step_k(lg, i), GGML_TYPE_F32);
    k_far               = turn(lg, k_far, ggml_cast(ctx, part(lg, by, i), GGML_TYPE_I32));
    k_far               = keys(lg, ggml_cast(ctx, k_far, GGML_TYPE_F16));

    ggml_tensor * k = keys(lg, step_k(lg, i));

    // [n_embd_v, n_head_kv, n_kv]
    ggml_tensor * v_all = ggml_view_3d(ctx, lg.v, lg.v->ne[0], lg.v->ne[1], n_kv, lg.v->nb[1], lg.v->nb[2],
            (lg.k->ne[3] > 1 ? i : 0) * lg.v->nb[3]);
    v_all               = ggml_cast(ctx, v_all, GGML_TYPE_F32);

    ggml_tensor * res = nullptr;

    for (int64_t h = 0; h < lg.n_head_kv; ++h) { // one after another: the probabilities are large
        ggml_tensor * probs = build_probs(lg, i, h, k, k_far);
        build_score(lg, i, h, probs);

        ggml_tensor * v = ggml_view_2d(ctx, v_all, v_all->ne[0], n_kv, v_all->nb[2], h * v_all->nb[1]);
        v               = ggml_cont(ctx, ggml_transpose(ctx, v)); // [n_kv, n_embd_v]

        ggml_tensor * cur = ggml_mul_mat(ctx, v, probs); // [n_embd_v, n_new, n_group]
        cur               = ggml_cont(ctx, ggml_permute(ctx, cur, 0, 2, 1, 3));
        cur               = ggml_reshape_2d(ctx, cur, lg.n_embd_v * lg.n_group(), lg.steps[i].n_new);
        lg.expand(cur);

        res = res ? ggml_concat(ctx, res, cur, 0) : cur;
    }

    return res;
}

// the mask of step i [n_kv, n_new]
ggml_tensor * lil_kv_cache_infllm::step_mask(const layer_graph & lg, size_t i) const {
    ggml_tensor * m = lg.kq_mask;

    const int64_t n_new = lg.steps[i].n_new;

    return ggml_view_2d(lg.ctx, m, m->ne[0], n_new, m->nb[1], m->ne[3] > 1 ? i * m->nb[3] : i * n_new * m->nb[1]);
}

// k [n_embd, n_head_kv, n_kv] -> [n_embd, n_kv, n_head_kv] for products
ggml_tensor * lil_kv_cache_infllm::keys(const layer_graph & lg, ggml_tensor * k) {
    return lil_build_keys(lg.ctx, ggml_permute(lg.ctx, k, 0, 2, 1, 3));
}

// from the query's position to the window's distance from 0
ggml_tensor * lil_kv_cache_infllm::input_q_turn(const layer_graph & lg) const {
    return input<float>(lg, "infllm_q_turn", lg.steps[0].n_new, 1, [this](float * dst, const lil_select_step & s) {
        for (uint32_t r = s.n - s.n_new; r < s.n; ++r) {
            *dst++ = (float) ((llama_pos) shape.window - s.index->pos(r));
        }
    });
}

// the probabilities of KV head h's queries [n_kv, n_new, n_group]; k: the layer's keys(), k_far: those at position 0
ggml_tensor * lil_kv_cache_infllm::build_probs(
        const layer_graph & lg, size_t i, int64_t h, ggml_tensor * k, ggml_tensor * k_far) const {
    auto * ctx = lg.ctx;

    const auto head = [&](ggml_tensor * q) { // [n_embd, n_new, n_group]
        return ggml_permute(ctx,
                ggml_view_3d(ctx, q, q->ne[0], lg.n_group(), q->ne[2], q->nb[1], q->nb[2], h * lg.n_group() * q->nb[1]),
                0, 2, 1, 3);
    };
    const auto logits = [&](ggml_tensor * k, ggml_tensor * q) {
        ggml_tensor * kq = ggml_mul_mat(ctx, ggml_view_2d(ctx, k, k->ne[0], k->ne[1], k->nb[1], h * k->nb[2]), head(q));
        ggml_prec_set_acc(kq, GGML_PREC_F32);
        return kq;
    };

    ggml_tensor * q  = step_q(lg, i);
    ggml_tensor * kq = logits(k, q);

    if (k_far) {
        ggml_tensor * q_far = turn(lg, q, ggml_cast(ctx, part(lg, input_q_turn(lg), i), GGML_TYPE_I32));
        ggml_tensor * far   = logits(k_far, q_far);

        const int64_t n_kv = lg.n_kv;

        ggml_tensor * is_far = part(lg,
                input<float>(lg, "infllm_far", n_kv, lg.steps[i].n_new,
                        [this, n_kv](float * dst, const lil_select_step & s) {
                            for (uint32_t r = s.n - s.n_new; r < s.n; ++r, dst += n_kv) {
                                for (uint32_t j = 0; r >= params.budget && j + shape.window <= r; ++j) {
                                    dst[s.index->cell(j)] = 1.0f;
                                }
                            }
                        }),
                i);

        kq = ggml_add(ctx, kq, ggml_mul(ctx, ggml_sub(ctx, far, kq), is_far));
    }

    ggml_tensor * probs = select_layers[lg.ikv].softcap != 0.0f
            ? ggml_soft_max_ext(ctx, cap(lg, kq), step_mask(lg, i), 1.0f, 0.0f)
            : ggml_soft_max_ext(ctx, kq, step_mask(lg, i), lg.kq_scale, 0.0f);

    if (ggml_tensor * s = sinks(lg.ikv)) { // the group's
        ggml_soft_max_add_sinks(probs, ggml_view_1d(ctx, s, lg.n_group(), h * lg.n_group() * s->nb[0]));
    }

    return probs;
}

// adds what the window's tokens got to their scores
void lil_kv_cache_infllm::build_score(const layer_graph & lg, size_t i, int64_t h, ggml_tensor * probs) const {
    auto * ctx = lg.ctx;

    const int64_t n_kv  = lg.n_kv;
    const int64_t n_new = lg.steps[i].n_new;

    ggml_tensor * window = part(lg,
            input<float>(lg, "infllm_window", n_kv, n_new,
                    [this, n_kv](float * dst, const lil_select_step & s) {
                        for (uint32_t r = s.n - s.n_new; r < s.n; ++r, dst += n_kv) {
                            for (uint32_t j = r + 1 > shape.window ? r + 1 - shape.window : 0; j <= r; ++j) {
                                dst[s.index->cell(j)] = 1.0f;
                            }
                        }
                    }),
            i);

    ggml_tensor * keep = part(lg,
            input<float>(lg, "infllm_old", n_kv, 1,
                    [n_kv](float * dst, const lil_select_step & s) {
                        std::fill_n(dst, n_kv, 1.0f);
                        for (uint32_t r = s.n - s.n_new; r < s.n; ++r) {
                            dst[s.index->cell(r)] = 0.0f;
                        }
                    }),
            i);

    ggml_tensor * sum = ggml_reshape_2d(ctx, ggml_mul(ctx, probs, window), n_kv, n_new * lg.n_group());
    sum               = ggml_reshape_1d(ctx, ggml_sum_rows(ctx, ggml_cont(ctx, ggml_transpose(ctx, sum))), n_kv);

    ggml_tensor * dst =
            ggml_view_1d(ctx, score[lg.ikv], n_kv, lg.steps[i].strm * score[lg.ikv]->nb[2] + h * score[lg.ikv]->nb[1]);

    lg.expand(ggml_cpy(ctx, ggml_add(ctx, ggml_mul(ctx, dst, ggml_reshape_1d(ctx, keep, n_kv)), sum), dst));
}
