#include "lil-kv-cache-scored.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

// R-KV (arXiv 2505.24133): the cache fills up to B, then every KV head drops all but B - buffer tokens at once. It
// keeps the last n_obs and those with the largest Z = lambda*I - (1 - lambda)*R, over the tokens held, in order of
// position.
//
//   I, importance: for each of the last n_obs queries the softmax, over the keys that it sees, of the largest logit in
//   its group; the mean over the queries; the maximum over 7 neighbours in order.
//
//   R, redundancy: S_ij, the cosine of keys i and j, 0 where i = j; for each i the newest j with S_ij > threshold is
//   let off (S_ij = 0), so that of keys that repeat each other the newest stays; softmax over j of the mean over i.

namespace {

constexpr int N_POOL = 7;

// portable form: S goes in chunks of rows, of at most so many elements where that makes at most so many chunks
constexpr int64_t N_CHUNK_ELEMENTS = 16 * 1024 * 1024;
constexpr int64_t N_CHUNKS         = 32;

class lil_kv_cache_rkv : public lil_kv_cache_scored {
public:
    explicit lil_kv_cache_rkv(const args & a) : lil_kv_cache_scored(a, a.params.n_obs, /*.ring_stays =*/true) {
        for (auto & op : evict_layers) {
            op.lambda    = params.lambda;
            op.threshold = params.threshold;
        }
    }

    uint32_t graph_max_nodes() const override {
        uint32_t res = lil_kv_cache_scored::graph_max_nodes();

        for (size_t ikv = 0; !fused && ikv < layers.size(); ++ikv) {
            const int64_t n_row = get_n_row(params.capacity, n_head_kv(ikv));

            res += n_stream * (64 + 32 * ((params.capacity + n_row - 1) / n_row));
        }

        return res;
    }

protected:
    uint32_t n_protect(bool decode) const override { return params.n_obs - (decode ? 1 : 0); }

    uint32_t n_left(bool decode) const override { return params.budget - params.buffer - (decode ? 1 : 0); }

    uint32_t n_win(const lil_evict_stream & st, bool decode, bool evicts) const override {
        GGML_UNUSED(decode);

        return evicts ? st.n_win : 0;
    }

    bool store_queries(bool decode) const override {
        GGML_UNUSED(decode);

        return true;
    }

    uint32_t count_queries(const lil_evict_stream & st, const lil_evict_step & step) const override {
        return st.n_win + step.n_new;
    }

    bool need_rank(const lil_evict_step & step) const override { return step.n_evict > 0; }

    void build_rank(const layer_graph & lg) override {
        if (fused) {
            build_inplace(lg, score[lg.ikv],
                    with_sinks(lg.ikv, { ring[lg.ikv], layers[lg.ikv].k, pos[lg.ikv], lg.inp.steps }),
                    ops[lg.ikv].rkv_score);
            return;
        }

        for (size_t i = 0; i < lg.inp.built.size(); ++i) {
            if (need_rank(lg.inp.built[i])) {
                build_score(lg, i);
            }
        }
    }

    void build_update(const layer_graph & lg, const layer_attn & attn) override {
        GGML_UNUSED(attn);

        const size_t ikv = lg.ikv;

        if (fused) {
            build_inplace(lg, score[ikv], { pos[ikv], lg.inp.steps }, ops[lg.ikv].new_slots);
        } else {
            build_add(lg, score[ikv], nullptr);
            build_add(lg, pos[ikv], lg.inp.pos_new);
        }
    }

private:
    // rows of S in a chunk
    static int64_t get_n_row(int64_t n, int64_t n_head) {
        return std::clamp<int64_t>(std::max(N_CHUNK_ELEMENTS / (n * n_head), (n + N_CHUNKS - 1) / N_CHUNKS), 1, n);
    }

    //
    // portable form
    //

    void build_score(const layer_graph & lg, size_t i_step) const {
        auto * ctx0 = lg.g.ctx0;

        const size_t ikv  = lg.ikv;
        const auto & step = lg.inp.built[i_step];

        const int64_t n      = step.n_before;
        const int64_t n_head = n_head_kv(ikv);

        // from here on in order of position
        // I32 [n, n_head]
        ggml_tensor * order =
                ggml_argsort(ctx0, ggml_cont(ctx0, view_slots(lg, pos[ikv], n, step.strm)), GGML_SORT_ORDER_ASC);

        ggml_tensor * p = ggml_get_rows(ctx0, view_cells(lg, pos[ikv], n, step.strm), order); // [1, n, n_head]
        // [n_embd, n, n_head]
        ggml_tensor * k = ggml_get_rows(ctx0, view_heads(lg, layers[ikv].k, n, step.strm), order);

        if (layers[ikv].k->type == GGML_TYPE_F32) { // as FlashAttention reads it
            k = ggml_cast(ctx0, ggml_cast(ctx0, k, GGML_TYPE_F16), GGML_TYPE_F32);
        }

        ggml_tensor * imp = build_importance(lg, i_step, ggml_reshape_3d(ctx0, p, n, 1, n_head), k);
        ggml_tensor * red = build_redundancy(lg, k);

        // [n, n_head]
        ggml_tensor * z =
                ggml_sub(ctx0, ggml_scale(ctx0, imp, params.lambda), ggml_scale(ctx0, red, 1.0f - params.lambda));

        ggml_build_forward_expand(lg.g.gf,
                ggml_set_rows(
                        ctx0, view_cells(lg, score[ikv], n, step.strm), ggml_reshape_3d(ctx0, z, 1, n, n_head), order));
    }

    // p [n, 1, n_head], k [n_embd, n, n_head] -> [n, n_head]
    ggml_tensor * build_importance(const layer_graph & lg, size_t i_step, ggml_tensor * p, ggml_tensor * k) const {
        auto * ctx0 = lg.g.ctx0;

        const auto & op = evict_layers[lg.ir];

        ggml_tensor * t = ring[lg.ikv];

        const int64_t n       = k->ne[1];
        const int64_t n_head  = k->ne[2];
        const int64_t n_embd  = k->ne[0];
        const int64_t n_group = t->ne[0] / n_embd / n_head;

        // a constant of the model, which the reserved graphs were built with first
        GGML_ASSERT(cur.reserve || op.scale != 0.0f);

        const auto view_ring = [&](ggml_tensor * x) { // [1, n_ring]
            return ggml_view_2d(ctx0, x, 1, n_ring, x->nb[0], i_step * x->nb[1]);
        };

        ggml_tensor * q = ggml_view_4d(ctx0, t, n_embd, n_group, n_ring, n_head, n_embd * t->nb[0], t->nb[1],
                n_group * n_embd * t->nb[0], lg.inp.built[i_step].strm * t->nb[2]);
        q               = ggml_reshape_3d(ctx0, ggml_cont(ctx0, q), n_embd, n_group * n_ring, n_head);

        ggml_tensor * kq = ggml_mul_mat(ctx0, k, q); // [n, n_group*n_ring, n_head]
        ggml_prec_set_acc(kq, GGML_PREC_F32);

        kq = ggml_pool_2d(ctx0, kq, GGML_OP_POOL_MAX, 1, n_group, 1, n_group, 0.0f, 0.0f); // [n, n_ring, n_head]
        kq = ggml_scale(ctx0, kq, op.scale);

        if (op.softcap != 0.0f) {
            kq = ggml_scale(ctx0, ggml_tanh(ctx0, ggml_scale(ctx0, kq, 1.0f / op.softcap)), op.softcap);
        }

        // keys behind the query
        ggml_tensor * behind = ggml_step(
                ctx0, ggml_sub(ctx0, ggml_repeat_4d(ctx0, p, n, n_ring, n_head, 1), view_ring(lg.inp.ring_pos)));

        kq = ggml_soft_max(ctx0, ggml_add(ctx0, kq, ggml_scale(ctx0, behind, -1e30f)));
        if (ggml_tensor * s = sinks(lg.ikv)) { // of a group the largest, as of its logits
            s = ggml_pool_2d(ctx0, ggml_reshape_2d(ctx0, s, n_group, n_head), GGML_OP_POOL_MAX, n_group, 1, n_group, 1,
                    0.0f, 0.0f);
            ggml_soft_max_add_sinks(kq, ggml_reshape_1d(ctx0, s, n_head));
        }
        kq = ggml_mul(ctx0, kq, view_ring(lg.inp.ring_weight));

        ggml_tensor * mean = ggml_sum_rows(ctx0, ggml_cont(ctx0, ggml_transpose(ctx0, kq))); // [1, n, n_head]

        return ggml_pool_2d(
                ctx0, ggml_reshape_2d(ctx0, mean, n, n_head), GGML_OP_POOL_MAX, N_POOL, 1, 1, 1, N_POOL / 2, 0.0f);
    }

    // k [n_embd, n, n_head] -> [n, n_head]
    ggml_tensor * build_redundancy(const layer_graph & lg, ggml_tensor * k) const {
        auto * ctx0 = lg.g.ctx0;

        const int64_t n      = k->ne[1];
        const int64_t n_head = k->ne[2];

        k = ggml_l2_norm(ctx0, k, 1e-12f);

        ggml_tensor * rank = ggml_arange(ctx0, 1.0f, n + 1.0f, 1.0f); // [n] 1 for the oldest
        ggml_tensor * sum  = nullptr;

        const int64_t n_row = get_n_row(n, n_head);

        for (int64_t i0 = 0; i0 < n; i0 += n_row) {
            const int64_t n_i = std::min(n_row, n - i0);

            // [n, n_i, n_head]
            ggml_tensor * s = ggml_mul_mat(
                    ctx0, k, ggml_view_3d(ctx0, k, k->ne[0], n_i, n_head, k->nb[1], k->nb[2], i0 * k->nb[1]));
            ggml_prec_set_acc(s, GGML_PREC_F32);

            // not with itself
            ggml_tensor * self = ggml_view_2d(ctx0, rank, 1, n_i, rank->nb[0], i0 * rank->nb[0]);
            ggml_tensor * other =
                    ggml_step(ctx0, ggml_abs(ctx0, ggml_sub(ctx0, ggml_repeat_4d(ctx0, rank, n, n_i, 1, 1), self)));
            s = ggml_mul(ctx0, s, other);

            // the newest above the threshold: the rank of each that is, and of those the highest. Where none is, argmax
            // means nothing and no rank is above it
            ggml_tensor * above =
                    ggml_mul(ctx0, ggml_step(ctx0, ggml_scale_bias(ctx0, s, 1.0f, -params.threshold)), rank);
            // rank - 1
            ggml_tensor * newest =
                    ggml_cast(ctx0, ggml_argmax(ctx0, ggml_reshape_2d(ctx0, above, n, n_i * n_head)), GGML_TYPE_F32);
            newest = ggml_reshape_3d(ctx0, ggml_scale_bias(ctx0, newest, 1.0f, 0.5f), 1, n_i, n_head);
            s      = ggml_sub(ctx0, s, ggml_mul(ctx0, s, ggml_step(ctx0, ggml_sub(ctx0, above, newest))));

            ggml_tensor * part = ggml_sum_rows(ctx0, ggml_cont(ctx0, ggml_transpose(ctx0, s))); // [1, n, n_head]

            sum = sum ? ggml_add(ctx0, sum, part) : part;
            ggml_build_forward_expand(lg.g.gf, sum); // chunk by chunk
        }

        return ggml_soft_max(ctx0, ggml_scale(ctx0, ggml_reshape_2d(ctx0, sum, n, n_head), 1.0f / n));
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.n_obs < 1) {
        return "n_obs = 0: at least 1";
    }
    if ((uint64_t) p.buffer + p.n_obs >= p.budget) {
        return format(
                "buffer + n_obs = %u + %u = %llu must be below budget = %u, so that a cut leaves more than the last "
                "n_obs tokens",
                p.buffer, p.n_obs, (unsigned long long) p.buffer + p.n_obs, p.budget);
    }
    if (!(p.lambda >= 0.0f && p.lambda <= 1.0f)) {
        return format("lambda = %g: 0 to 1", p.lambda);
    }
    if (!(p.threshold >= 0.0f && p.threshold <= 1.0f)) {
        return format("threshold = %g: a cosine similarity, 0 to 1", p.threshold);
    }

    return "";
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::evict_slots, &lil_ops::rkv_score, &lil_ops::new_slots };
}

const lil_method lil_method_rkv = {
    LIL_SPARSE_RKV,
    /*.evicts =*/true,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_rkv(a); },
    LIL_EVICT_OPTIONS "buffer observed lam threshold",
};
