#pragma once

// A model's layers, computed anew from the methods' definitions: an evaluation callback sees the nodes of each layer's
// attention. From their sources (queries, keys, values, sinks) follow what had to be read (layer-lists.h) or kept
// (layer-kept.h), and the result, in F64. What the cache holds beside keys and values is not read for it: scores, time
// stamps and what was evicted are carried on here, from the first token.
//
//   layer_check check(params);        cparams.cb_eval = on_node; cparams.cb_eval_user_data = &check;
//   check.begin(seq, n, n_new);       before a batch of n_new tokens behind n others, of one sequence
//   check.cut(seq, n), copy(from, to) what was done to the sequences
//   check.finish()                    throws what was found
//
// A cell is a token's rank, and a sequence's number that of its stream.

#include "layer-kept.h"
#include "layer-lists.h"

#include "lil-ops.h"
#include "lil.h"

#include <map>
#include <numeric>
#include <set>

class layer_check {
public:
    int n_attn    = 0; // attentions of decode steps looked at
    int n_lists   = 0; // lists of a part of the tokens, and evictions
    int n_choices = 0; // TidalDecode, LessIsMore: layers that choose, in a step

    // rope: needed where keys are turned, with positions other than absolute
    explicit layer_check(const lil_sparse_params & params, const rope_turn & rope = {}) : params(params), rope(rope) {}

    // evict: before the first batch
    void watch(llama_context * ctx) {
        for (int32_t il = 0; il < llama_model_n_layer(llama_get_model(ctx)); ++il) {
            if (evicts() && lil_sparse_get_slots(ctx, 0, il, 0, nullptr, nullptr, 0) == 0) {
                layers.insert(il);
            }
        }
    }

    void begin(int s, int n_before, int n_new) {
        seq      = s;
        n_tokens = n_before + n_new;
        decode   = n_new == 1;
    }

    void cut(int s, int n) {
        for (auto & x : raas) {
            if (x.first.second == s) {
                x.second.cut(n);
            }
        }
        for (auto & x : kept) {
            if (x.first.second == s) {
                x.second.cut(n);
            }
        }
    }

    void copy(int from, int to) {
        copy(infllm, from, to);
        copy(raas, from, to);
        copy(kept, from, to);
    }

    void finish() const { REQUIRE(error.empty(), "%s", error.c_str()); }

    // a callback's
    bool on_node(ggml_tensor * node, bool ask) {
        const auto see = get_handler(node);
        if (!see || ask || !error.empty()) {
            return see || !ask;
        }
        try {
            (this->*see)(node);
        } catch (const failure & e) {
            error = std::string(e.what()) + ", token " + std::to_string(n_tokens) + ", " + node->name;
        }
        return true;
    }

private:
    using handler = void (layer_check::*)(const ggml_tensor *);

    lil_sparse_params params;
    rope_turn         rope;

    int  seq      = 0;
    int  n_tokens = 0; // of the sequence, those of the batch included
    bool decode   = false;

    std::string error;

    // of ops the queries that they had, which may be gone when their result is used
    std::map<const ggml_tensor *, std::vector<float>> queries;
    // by the constants of a layer its keys
    std::map<const void *, const ggml_tensor *> keys;

    // the layers that the method acts on, and the cache that keys were last stored in
    std::set<int>       layers;
    const ggml_tensor * last_k = nullptr;

    // by layer and sequence
    template <typename T>
    using by_layer = std::map<std::pair<const void *, int>, T>;

    by_layer<infllm_reference> infllm;
    by_layer<raas_reference>   raas;
    by_layer<kept_reference>   kept;

    template <typename T>
    static void copy(by_layer<T> & all, int from, int to) {
        auto before = all;
        for (auto & x : before) {
            if (x.first.second == to) {
                all.erase(x.first);
            }
        }
        for (auto & x : before) {
            if (x.first.second == from) {
                all.insert({ { x.first.first, to }, x.second });
            }
        }
    }

    layer_view asked = {}; // clipped: a prompt's queries
    int64_t    n_out = 0;  // and how many KV heads' attention was seen

    bool evicts() const { return lil_sparse_evicts(params.method); }
    bool clips() const { return params.positions == LIL_POSITIONS_CLIPPED; }

    static const ggml_tensor * root(const ggml_tensor * t) { return t->view_src ? t->view_src : t; }

    static std::vector<float> get_sinks(const ggml_tensor * t) { return t ? get_floats(t) : std::vector<float>(); }

    static const lil_select_layer & constants(const ggml_tensor * node) {
        return *(const lil_select_layer *) lil_get_node_params(node).userdata;
    }

    handler get_handler(const ggml_tensor * node) const {
        using self = layer_check;

        static const lil_ops * ops = lil_get_ops(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));

        static const std::map<ggml_custom_op_t, handler> handlers = {
            { ops->attn, &self::see_queries },
            { ops->attn_join, &self::see_attn },
            { ops->tidal_select, &self::see_choice },
            { ops->lessismore_select, &self::see_choice },
            { ops->page_bounds, &self::see_bounds },
            { ops->page_scores, &self::see_bound_scores },
            { ops->raas_stamp, &self::see_stamps },
            { ops->infllm_score, &self::see_window },
            { ops->infllm_score_prompt, &self::see_window_prompt },
            { ops->score_step, &self::see_scores },
            { ops->score_prompt, &self::see_scores_prompt },
            { ops->rkv_score, &self::see_rank },
            { ops->evict_slots, &self::see_eviction },
        };

        if ((evicts() || clips()) && node->op == GGML_OP_SET_ROWS) {
            return get_store(node);
        }
        if (clips()) {
            return get_clipped(node);
        }
        if (evicts() && node->op == GGML_OP_FLASH_ATTN_EXT) {
            return !follows() || !acts_on(node->src[1]) ? nullptr
                    : decode                            ? &layer_check::see_flash_attn
                                                        : &layer_check::see_flash_attn_prompt;
        }
        if (node->op != GGML_OP_CUSTOM) {
            return nullptr;
        }

        const auto it = handlers.find(lil_get_node_params(node).fun);
        return it != handlers.end() ? it->second : nullptr;
    }

    //
    // select
    //

    layer_view make_view(const ggml_tensor * node, const ggml_tensor * q, const std::vector<float> & q_data,
            const ggml_tensor * k, const ggml_tensor * sinks) const {
        const auto & c = constants(node);
        REQUIRE(k->ne[0] == q->ne[0] * c.n_head_kv, "keys of another size than queries");

        return { q->ne[0], q->ne[1], c.n_head_kv, c.scale, c.softcap, q_data, get_floats(k, seq), get_sinks(sinks) };
    }

    // attn { q, k, v, list, steps }
    void see_queries(const ggml_tensor * node) { queries[node] = get_queries(node->src[0]); }

    // page_bounds { bounds, k, dirty }
    void see_bounds(const ggml_tensor * node) { keys[&constants(node)] = node->src[1]; }

    // page_scores { q, bounds, steps } or { q, bounds, steps, k, dirty }
    void see_bound_scores(const ggml_tensor * node) {
        queries[node] = get_queries(node->src[0]);
        if (node->src[3]) {
            keys[&constants(node)] = node->src[3];
        }
    }

    // attn_join { attn, list, sinks }
    void see_attn(const ggml_tensor * node) {
        if (evicts()) {
            see_attn_kept(node);
            return;
        }
        const ggml_tensor * attn = node->src[0];

        const auto l   = make_view(node, attn->src[0], queries.at(attn), attn->src[1], node->src[2]);
        const auto v   = get_floats(attn->src[2], seq);
        const auto out = get_floats(node);

        n_attn++;

        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            const auto list = get_list(node->src[1], h);

            REQUIRE(std::set<int32_t>(list.begin(), list.end()).size() == list.size(), "a cell twice");
            for (int64_t g = 0; g < l.n_group(); ++g) {
                check_output(l, h * l.n_group() + g, list, v, node->ne[0],
                        out.data() + (h * l.n_group() + g) * node->ne[0], EPS_OURS);
            }

            if ((int) list.size() == n_tokens) {
                continue;
            }
            n_lists++;
            REQUIRE(n_tokens > BUDGET && params.method != LIL_SPARSE_NONE, "%d of %d tokens", (int) list.size(),
                    n_tokens);
            if (params.method == LIL_SPARSE_QUEST) {
                check_quest(l, n_tokens, h, list);
            } else if (params.method == LIL_SPARSE_RAAS) {
                raas[{ &constants(node), seq }].check(n_tokens, h, list);
            } else if (params.method == LIL_SPARSE_INFLLM) {
                infllm[{ &constants(node), seq }].check(l, n_tokens, list);
            }
        }
    }

    // tidal_select, lessismore_select { attn, steps, cells }
    void see_choice(const ggml_tensor * node) {
        const ggml_tensor * attn = node->src[0];

        const auto l = make_view(node, attn->src[0], queries.at(attn), attn->src[1], nullptr);

        n_choices++;

        if (params.method == LIL_SPARSE_LESSISMORE) {
            check_lessismore(l, n_tokens, get_list(node));
            return;
        }
        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            check_tidal(l, n_tokens, h, get_list(node, h));
        }
    }

    // raas_stamp { stamp, page_scores, steps, cells, pages }
    void see_stamps(const ggml_tensor * node) {
        const ggml_tensor * scores = node->src[1];

        const auto step = get_step(node->src[2]);
        const auto l    = make_view(node, scores->src[0], queries.at(scores), keys.at(&constants(node)), nullptr);
        const auto all  = get_floats(node->src[0], seq); // [cells, n_head_kv]

        std::vector<std::vector<float>> found;
        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            const auto first = all.begin() + h * node->src[0]->ne[0];
            found.emplace_back(first, first + n_tokens);
        }
        raas[{ &constants(node), seq }].check_stamps(l, n_tokens, step[LIL_SEL_NOW], found);
    }

    // infllm_score { score, attn, list, steps, sinks }
    void see_window(const ggml_tensor * node) {
        const ggml_tensor * attn = node->src[1];

        const auto l = make_view(node, attn->src[0], queries.at(attn), attn->src[1], node->src[4]);

        infllm[{ &constants(node), seq }].looked(l, get_list(node->src[2]), 1);
    }

    // infllm_score_prompt { q, k, cells, steps, sinks }
    void see_window_prompt(const ggml_tensor * node) {
        const ggml_tensor * q = node->src[0];

        const auto l = make_view(node, q, get_queries(q), node->src[1], node->src[4]);

        infllm[{ &constants(node), seq }].looked(l, get_list(node->src[2]), (int) q->ne[2]);
    }

    //
    // evict
    //

    // what is kept is followed through the nodes of the fused form; Sink's is told by the number of tokens
    bool follows() const { return params.form == LIL_FORM_FUSED || params.method == LIL_SPARSE_SINK; }

    // layers with a sliding window have caches of their own
    bool acts_on(const ggml_tensor * k) const {
        int il = -1;
        return sscanf(root(k)->name, "cache_k_l%d", &il) == 1 && layers.count(il);
    }

    // llama.cpp's stores, whose rows are told by I64
    handler get_store(const ggml_tensor * node) const {
        const std::string name = root(node)->name;

        if (node->src[1]->type != GGML_TYPE_I64) {
            return nullptr;
        }
        return name.find("cache_k") == 0    ? &layer_check::see_key
                : name.find("cache_v") == 0 ? &layer_check::see_value
                                            : nullptr;
    }

    kept_reference & get_kept(const ggml_tensor * k) {
        return kept.insert({ { root(k), seq }, kept_reference(params) }).first->second;
    }

    void see_key(const ggml_tensor * node) {
        last_k   = root(node);
        n_out    = 0;
        auto & x = get_kept(last_k);
        x.store(x.k, get_floats(node->src[0]), node->src[0]->ne[1]);
    }

    void see_value(const ggml_tensor * node) {
        auto & x = get_kept(last_k);
        x.store(x.v, get_floats(node->src[0]), node->src[0]->ne[1]);
    }

    layer_view make_view_kept(const ggml_tensor * node, int64_t n_head, std::vector<float> q, const ggml_tensor * k,
            const ggml_tensor * sinks) {
        const auto & c = *(const lil_evict_layer *) lil_get_node_params(node).userdata;
        return { k->ne[0] / c.n_head_kv, n_head, c.n_head_kv, c.scale, c.softcap, std::move(q), get_kept(k).k,
            get_sinks(sinks) };
    }

    // score_step { score, q, k, pos, steps, sinks }
    void see_scores(const ggml_tensor * node) {
        const ggml_tensor * q = node->src[1];
        const ggml_tensor * k = node->src[2];

        get_kept(k).looked(make_view_kept(node, q->ne[1], get_queries(q), k, node->src[5]), adds(node));
    }

    // score_prompt { q, k, steps, sinks }
    void see_scores_prompt(const ggml_tensor * node) {
        const ggml_tensor * q = node->src[0];
        const ggml_tensor * k = node->src[1];

        get_kept(k).looked(make_view_kept(node, q->ne[1], get_queries(q), k, node->src[3]), adds(node));
    }

    static bool adds(const ggml_tensor * node) {
        return ((const lil_evict_layer *) lil_get_node_params(node).userdata)->adds;
    }

    // rkv_score { score, ring, k, pos, steps, sinks }
    void see_rank(const ggml_tensor * node) {
        const ggml_tensor * k    = node->src[2];
        const auto          step = get_step(node->src[4]);

        if (step[LIL_STEP_EVICT] == 0) {
            return;
        }
        const auto n_head_kv = ((const lil_evict_layer *) lil_get_node_params(node).userdata)->n_head_kv;

        get_kept(k).rank(make_view_kept(node, node->src[1]->ne[0] / (k->ne[0] / n_head_kv), {}, k, node->src[5]),
                step[LIL_STEP_WIN]);
    }

    // evict_slots { pos, k, v, score, steps }
    void see_eviction(const ggml_tensor * node) {
        const ggml_tensor * pos  = node->src[0];
        const auto          step = get_step(node->src[4]);
        const auto          all  = get_floats(pos, seq); // [capacity, n_head_kv]

        std::vector<std::set<int>> found;
        for (int64_t h = 0; h < pos->ne[1]; ++h) {
            found.emplace_back();
            for (int i = 0; i < step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT]; ++i) {
                found.back().insert((int) all[h * pos->ne[0] + i]);
            }
        }
        get_kept(node->src[1]).check_left(found);
        n_lists += step[LIL_STEP_EVICT] > 0;
    }

    // attn_join { attn, list, sinks }
    void see_attn_kept(const ggml_tensor * node) {
        const ggml_tensor * attn = node->src[0];
        const auto &        c    = constants(node);

        if (follows()) {
            check_kept({ attn->src[0]->ne[0], node->ne[1], c.n_head_kv, c.scale, c.softcap, queries.at(attn),
                               get_kept(attn->src[1]).k, get_sinks(node->src[2]) },
                    get_kept(attn->src[1]), node);
        }
    }

    // flash_attn_ext { q, k, v, mask, sinks }: [n_embd_v, 1, n_head]
    void see_flash_attn(const ggml_tensor * node) {
        check_kept(make_view(node, node->src[1]), get_kept(node->src[1]), node);
    }

    // [n_embd_v, n_head, n_tokens], q [n_embd, n_tokens, n_head]
    void see_flash_attn_prompt(const ggml_tensor * node) {
        const ggml_tensor * q = node->src[0];

        const auto         by_head = get_queries(q);
        std::vector<float> by_token;
        for (int64_t i = 0; i < q->ne[1]; ++i) {
            for (int64_t h = 0; h < q->ne[2]; ++h) {
                const auto row = by_head.begin() + (h * q->ne[1] + i) * q->ne[0];
                by_token.insert(by_token.end(), row, row + q->ne[0]);
            }
        }
        get_kept(node->src[1]).ask(by_token, q->ne[1]);
    }

    // of one token, which sees those stored in a cache
    layer_view make_view(const ggml_tensor * flash_attn, const ggml_tensor * k) {
        const ggml_tensor * q = flash_attn->src[0];

        float op_params[3]; // scale, ALiBi's, soft cap
        memcpy(op_params, flash_attn->op_params, sizeof(op_params));

        return { q->ne[0], q->ne[2], flash_attn->src[1]->ne[2], op_params[0], op_params[2], get_queries(q),
            get_kept(k).k, get_sinks(flash_attn->src[4]) };
    }

    void check_kept(layer_view l, kept_reference & x, const ggml_tensor * node) {
        const int64_t n_embd_v = node->ne[0];
        const auto    out      = get_floats(node);
        const auto    v        = get_values(l, x, n_embd_v);

        if (params.positions == LIL_POSITIONS_CACHE) { // what has gone closes up
            const int n_gone = x.n_tokens() - (int) x.get(0, l.n_head_kv).size();
            for (uint32_t t = 0; t < params.n_sink; ++t) {
                l.turn(rope, t, n_gone);
            }
        }

        n_attn++;
        x.ask(l.q, 1);

        const double eps = node->op == GGML_OP_FLASH_ATTN_EXT ? EPS_FLASH
                : params.positions == LIL_POSITIONS_CACHE     ? EPS_TURNED
                                                              : EPS_OURS;
        for (int64_t head = 0; head < l.n_head; ++head) {
            check_output(
                    l, head, x.get(head / l.n_group(), l.n_head_kv), v, n_embd_v, out.data() + head * n_embd_v, eps);
        }
    }

    static std::vector<float> get_values(const layer_view & l, const kept_reference & x, int64_t n_embd_v) {
        auto res = x.v;
        for (int t = 0; x.v.empty() && t < x.n_tokens(); ++t) { // MLA: a part of the keys
            res.insert(res.end(), l.key(t, 0), l.key(t, 0) + n_embd_v);
        }
        return res;
    }

    //
    // InfLLM, positions = clipped: the portable form, a prompt beyond the budget and the steps behind it
    //

    handler get_clipped(const ggml_tensor * node) const {
        if (node->op == GGML_OP_ROPE && !decode && n_out == 0) { // the same for each KV head
            const ggml_tensor * by = node->src[1];
            while (by->src[0]) {
                by = by->src[0];
            }
            return strstr(root(by)->name, "infllm_q_turn") ? &layer_check::see_clipped_queries : nullptr;
        }
        if (node->op == GGML_OP_MUL_MAT && node->src[1]->op == GGML_OP_SOFT_MAX && !decode) {
            return &layer_check::see_clipped_prompt;
        }
        if (node->op == GGML_OP_FLASH_ATTN_EXT && decode && strncmp(root(node->src[1])->name, "cache", 5) != 0) {
            return &layer_check::see_clipped_step;
        }
        return nullptr;
    }

    // rope { q, by }
    void see_clipped_queries(const ggml_tensor * node) {
        const ggml_tensor * q = node->src[0];

        asked.n_embd = q->ne[0];
        asked.n_head = q->ne[1];
        asked.q      = get_queries(q);
    }

    // mul_mat { v, soft_max { logits, mask, sinks } }, of a KV head: [n_embd_v, n_new, n_group]
    void see_clipped_prompt(const ggml_tensor * node) {
        const ggml_tensor * probs = node->src[1];
        const int64_t       h     = n_out++;

        auto & x = get_kept(last_k);

        asked.n_head_kv = asked.n_head / node->ne[2];
        asked.k         = x.k;
        asked.sinks     = get_sinks(probs->src[2] ? root(probs->src[2]) : nullptr);

        float scale;
        memcpy(&scale, probs->op_params, sizeof(scale));
        asked.scale = scale;

        const auto v = get_values(asked, x, node->ne[0]);

        for (int64_t i = 0; i < node->ne[1]; ++i) {
            std::vector<int32_t> seen(x.n_tokens() - node->ne[1] + i + 1);
            std::iota(seen.begin(), seen.end(), 0);

            auto l = asked;
            l.q.assign(asked.query(0, i), asked.query(0, i + 1));
            infllm_reference::clip(l, rope, (int) seen.size());

            for (int64_t g = 0; g < node->ne[2]; ++g) {
                std::vector<float> out(node->ne[0]);
                ggml_backend_tensor_get(node, out.data(), g * node->nb[2] + i * node->nb[1], node->nb[1]);
                check_output(l, h * node->ne[2] + g, seen, v, node->ne[0], out.data(), EPS_TURNED);
            }
            if (h == 0) {
                infllm[{ last_k, seq }].looked(l, seen, 1);
            }
        }
    }

    // flash_attn_ext { q, k, v, mask, sinks }: [n_embd_v, 1, n_head]
    void see_clipped_step(const ggml_tensor * node) {
        auto       l   = make_view(node, last_k);
        const auto v   = get_values(l, get_kept(last_k), node->ne[0]);
        const auto out = get_floats(node);

        infllm_reference::clip(l, rope, n_tokens);
        n_attn++;

        auto & x = infllm[{ last_k, seq }];

        std::string why;
        for (const int block : x.get_best(l, n_tokens)) {
            const auto list = x.get_list(n_tokens, block);
            try {
                for (int64_t head = 0; head < l.n_head; ++head) {
                    check_output(l, head, list, v, node->ne[0], out.data() + head * node->ne[0], EPS_FLASH);
                }
                x.looked(l, list, 1);
                return;
            } catch (const failure & e) {
                why = e.what();
            }
        }
        throw failure(why);
    }
};

static bool on_node(ggml_tensor * node, bool ask, void * data) {
    return ((layer_check *) data)->on_node(node, ask);
}
