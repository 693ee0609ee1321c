#include "lil-kv-cache-select.h"
#include "lil-probe.h"

#include <cmath>

// Full attention that measures what re-selection layers are worth: which share of the later layers' softmax mass the
// sets hold that TidalDecode and LessIsMore would choose at each layer.

namespace {

class lil_kv_cache_probe : public lil_kv_cache_select, public lil_probe {
public:
    explicit lil_kv_cache_probe(const args & a) : lil_kv_cache_select(a) {
        if (!fused) {
            lil_throw("the probe has the fused form only, and %s", ops.why_not().c_str());
        }
        if (!ops.on_cpu()) { // it reads the logits
            lil_throw("the probe runs on the CPU only, and the KV cache is on %s. Use offload_kqv = false or no GPU "
                      "layers",
                    ops.names().c_str());
        }

        const size_t n = readers.size();

        for (auto & op : select_layers) {
            op.n_sink   = params.n_sink;
            op.n_recent = (uint32_t) std::floor((double) params.ratio * params.budget);
        }

        for (auto & s : states) {
            s.sum.assign(n * n, 0.0);
            s.sets.resize(n);
        }
        n_counted.assign(n, 0);

        for (size_t ir = 0; ir < n; ++ir) {
            nodes.push_back({ this, ir });
        }
    }

    int32_t get(lil_sparse_method method, float * mass, int32_t n_mass) const override {
        synchronize();

        const int32_t n = readers.size();

        if (n_mass < n * n) {
            return -1;
        }

        for (int32_t i = 0; i < n * n; ++i) {
            const uint64_t count = n_counted[i % n];

            mass[i] = count > 0 ? states[method == LIL_SPARSE_TIDAL ? 0 : 1].sum[i] / count : 0.0;
        }

        return n;
    }

protected:
    bool is_dense_layer(size_t ir) const override {
        GGML_UNUSED(ir);
        return true;
    }

    bool wants_kq(size_t ir) const override {
        GGML_UNUSED(ir);
        return true;
    }

    ggml_tensor * build_list(const layer_graph & lg) override { return input_cells(lg); }

    lil_select_rows build_rows(const layer_graph &, size_t) override { return {}; }

    void build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) override {
        GGML_UNUSED(list);

        const int64_t n_steps = lg.steps.size();

        ggml_tensor * steps = input_steps(lg);
        ggml_tensor * cells = input_cells(lg);

        ggml_tensor * tidal = custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), lg.n_head_kv, n_steps, 1,
                { work, steps, cells }, ops[lg.ikv].tidal_select);
        ggml_tensor * less  = custom(lg, GGML_TYPE_I32, 1 + n_list(lg.steps), 1, n_steps, 1, { work, steps, cells },
                ops[lg.ikv].lessismore_select);

        auto srcs = with_sinks(lg.ikv, { work, tidal, less, steps, cells });

        lg.expand(
                ggml_custom_4d(lg.ctx, GGML_TYPE_F32, 1, 1, 1, 1, srcs.data(), srcs.size(), measure, 1, &nodes[lg.ir]));
    }

private:
    // the ranks that a layer's set holds, for each of its lists
    using sets_t = std::vector<std::vector<uint32_t>>;

    struct state {
        std::vector<double> sum;  // [c*n + l] shares summed over steps
        std::vector<sets_t> sets; // [n] of this step and sequence
    };

    struct node {
        lil_kv_cache_probe * kv;
        size_t               ir;
    };

    state states[2]; // TidalDecode, LessIsMore

    std::vector<uint64_t> n_counted; // [n] steps summed
    std::vector<node>     nodes;     // [n]

    static void measure(ggml_tensor * dst, int ith, int nth, void * userdata) {
        GGML_UNUSED(nth);

        const auto * nd = (const node *) userdata;

        if (ith == 0) {
            // one sequence: what is kept from layer to layer belongs to it
            nd->kv->measure_layer(dst, nd->ir);
        }
    }

    void measure_layer(const ggml_tensor * dst, size_t ir) {
        const ggml_tensor * work  = dst->src[0];
        const ggml_tensor * steps = dst->src[3];
        const ggml_tensor * cells = dst->src[4];
        const ggml_tensor * sinks = dst->src[5];

        const auto * step = (const int32_t *) steps->data;
        const auto * all  = (const int32_t *) cells->data;

        if (!step[LIL_SEL_SPARSE]) {
            return;
        }

        const int64_t n_head   = work->src[0]->ne[1];
        const int64_t n_embd_v = work->src[2]->ne[0] / select_layers[readers[ir].ikv].n_head_kv;
        const int64_t n_max    = cells->ne[0] - 1;
        const int64_t n        = all[0];

        std::vector<uint32_t> rank_of(n_cells());
        for (int64_t r = 0; r < n; ++r) {
            rank_of[all[1 + r]] = r;
        }

        // this layer's own
        for (int i = 0; i < 2; ++i) {
            const ggml_tensor * list = dst->src[1 + i];

            auto & sets = states[i].sets[ir];
            sets.assign(list->ne[1], {});

            for (int64_t h = 0; h < list->ne[1]; ++h) {
                const auto * p = (const int32_t *) ((const char *) list->data + h * list->nb[1]);

                for (int32_t j = 0; j < p[0]; ++j) {
                    sets[h].push_back(rank_of[p[1 + j]]);
                }
            }
        }

        // what the earlier layers' sets and its own hold of this layer's attention
        std::vector<double> probs(n);

        for (int64_t h = 0; h < n_head; ++h) {
            const float * kq = (const float *) work->data +
                    ops[readers[ir].ikv].attn_kq_offset(n_embd_v, n_head, n_max, steps->ne[1]) + h * n_max;

            const float sink = sinks ? ((const float *) sinks->data)[h] : -INFINITY;
            const float max  = std::max(*std::max_element(kq, kq + n), sink);

            double total = std::exp((double) (sink - max));
            for (int64_t r = 0; r < n; ++r) {
                total += probs[r] = std::exp((double) (kq[r] - max));
            }

            for (auto & st : states) {
                for (size_t c = 0; c <= ir; ++c) {
                    const auto & sets = st.sets[c];
                    const auto & set  = sets[sets.size() == 1 ? 0 : h / (n_head / sets.size())];

                    double share = 0.0;
                    for (const uint32_t r : set) {
                        share += probs[r];
                    }

                    st.sum[c * readers.size() + ir] += share / total / n_head;
                }
            }
        }

        n_counted[ir]++;
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.form == LIL_FORM_PORTABLE) {
        return "the probe has no portable form: use form AUTO or FUSED";
    }

    const std::string err = lil_method_tidal.check(p);

    return err.empty() ? lil_method_lessismore.check(p) : err;
}

static lil_needs needs(const lil_sparse_params &) {
    return { &lil_ops::attn, &lil_ops::attn_join, &lil_ops::tidal_select, &lil_ops::lessismore_select };
}

const lil_method lil_method_probe = {
    LIL_SPARSE_PROBE,
    /*.evicts =*/false,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_probe(a); },
    "budget n_sink ratio",
};
