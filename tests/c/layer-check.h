#pragma once

// A decode step of the select family, computed anew from the definition: an evaluation callback sees the nodes of each
// layer's attention, and from their sources (queries, keys, values, sinks) follow the list that had to be chosen and
// the result, in F64.
//
//   layer_check check;           cparams.cb_eval = on_node; cparams.cb_eval_user_data = &check;
//   check.n_tokens = T;          before a decode step that sees T tokens, 0 before a prompt; a cell is a token's rank
//   REQUIRE(check.error.empty(), ...)

#undef NDEBUG

#include "lil-ops.h"
#include "lil.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

static const int BUDGET = 48;
static const int PAGE   = 16;

struct failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

#define REQUIRE(x, ...) \
    do { \
        if (!(x)) { \
            char text[400]; \
            snprintf(text, sizeof(text), __VA_ARGS__); \
            throw failure(std::string(text) + " [" #x "]"); \
        } \
    } while (0)

static std::vector<uint8_t> get_bytes(const ggml_tensor * t) {
    std::vector<uint8_t> res(ggml_nbytes(t));
    ggml_backend_tensor_get(t, res.data(), 0, res.size());
    return res;
}

// F32, F16 rows as numbers, without the gaps between them (MLA's values lie in its keys): attention reads F16. Of a
// tensor of several streams the one of that number
static std::vector<float> get_floats(const ggml_tensor * t, int strm = 0) {
    const auto bytes = get_bytes(t);

    std::vector<float> res(t->ne[0] * t->ne[1]);
    for (int64_t i = 0; i < t->ne[1]; ++i) {
        const uint8_t * src = bytes.data() + (t->ne[2] > 1 ? strm : 0) * t->nb[2] + i * t->nb[1];
        float *         dst = res.data() + i * t->ne[0];

        if (t->type == GGML_TYPE_F32) {
            memcpy(dst, src, t->ne[0] * sizeof(float));
        } else {
            ggml_fp16_to_fp32_row((const ggml_fp16_t *) src, dst, t->ne[0]);
        }
    }
    return res;
}

struct layer_check {
    lil_sparse_method method    = LIL_SPARSE_NONE;
    int               n_steps   = 0; // attentions looked at
    int               n_lists   = 0; // of these, with a list that was chosen
    int               n_choices = 0; // TidalDecode, LessIsMore: lists looked at where they were chosen
    double            worst     = 0.0;

    int n_tokens = 0; // so far, in a decode step; 0: a prompt is computed, nothing is looked at

    std::string error;

    // of each attention the queries [n_embd, n_head] and the stream of its step, which are gone once its parts are
    // joined
    std::map<const ggml_tensor *, std::vector<float>> queries;
    std::map<const ggml_tensor *, int>                streams;
};

static double logit(const lil_select_layer & layer, const float * q, const float * k, int64_t n) {
    double x = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        x += (double) q[i] * k[i];
    }
    x *= layer.scale;
    return layer.softcap != 0.0f ? layer.softcap * std::tanh(x / layer.softcap) : x;
}

// Quest: the cells of the current page and of the best others. Scores within eps of the last one that is in are as good
static void check_quest(const lil_select_layer & layer, const std::vector<float> & q, const std::vector<float> & k,
        int64_t n_embd, int64_t n_group, int n, int h, const std::vector<int32_t> & list) {
    const int64_t n_head_kv = layer.n_head_kv;
    const int     n_pages   = (n + PAGE - 1) / PAGE;

    std::vector<double> score(n_pages, -INFINITY);
    for (int p = 0; p < n_pages; ++p) {
        for (int64_t g = 0; g < n_group; ++g) {
            double s = 0.0;
            for (int64_t i = 0; i < n_embd; ++i) {
                float lo = INFINITY;
                float hi = -INFINITY;
                for (int t = p * PAGE; t < std::min(n, (p + 1) * PAGE); ++t) {
                    const float x = k[(t * n_head_kv + h) * n_embd + i];

                    lo = std::min(lo, x);
                    hi = std::max(hi, x);
                }
                const float x = q[(h * n_group + g) * n_embd + i];
                s += std::max((double) x * lo, (double) x * hi);
            }
            score[p] = std::max(score[p], s);
        }
    }

    std::set<int> pages;
    for (const int32_t cell : list) {
        pages.insert(cell / PAGE);
    }
    REQUIRE((int) pages.size() == std::min(n_pages, BUDGET / PAGE) && pages.count(n_pages - 1), "%d pages of %d",
            (int) pages.size(), n_pages);

    double worst_in = INFINITY;
    double best_out = -INFINITY;
    for (int p = 0; p + 1 < n_pages; ++p) {
        (pages.count(p) ? worst_in : best_out) =
                pages.count(p) ? std::min(worst_in, score[p]) : std::max(best_out, score[p]);
    }
    REQUIRE(worst_in >= best_out - 2e-3 * std::max(1.0, std::fabs(best_out)), "page of score %g left out for one of %g",
            best_out, worst_in);
}

// TidalDecode: the current token and the best others
static void check_tidal(const lil_select_layer & layer, const std::vector<float> & q, const std::vector<float> & k,
        int64_t n_embd, int64_t n_group, int n, int h, const std::vector<int32_t> & list) {
    const int64_t n_head_kv = layer.n_head_kv;

    const std::set<int32_t> in(list.begin(), list.end());

    REQUIRE((int) in.size() == std::min(n, BUDGET) && in.count(n - 1), "%d tokens", (int) in.size());

    double worst_in = INFINITY;
    double best_out = -INFINITY;
    for (int t = 0; t + 1 < n; ++t) {
        double s = -INFINITY;
        for (int64_t g = 0; g < n_group; ++g) {
            s = std::max(s,
                    logit(layer, q.data() + (h * n_group + g) * n_embd, k.data() + (t * n_head_kv + h) * n_embd,
                            n_embd));
        }
        if (in.count(t)) {
            worst_in = std::min(worst_in, s);
        } else {
            best_out = std::max(best_out, s);
        }
    }
    REQUIRE(worst_in >= best_out - 1e-3 * std::max(1.0, std::fabs(best_out)),
            "token of logit %g left out for one of %g", best_out, worst_in);
}

// LessIsMore: the first tokens, the last, and between them the best by the smallest rank that a query head gives them,
// ties of ranks by head. A token's place is known within eps of its score: the worst place of one that is in must not
// lie behind the best place of one that is out.
static void check_lessismore(const lil_select_layer & layer, const std::vector<float> & q, const std::vector<float> & k,
        int64_t n_embd, int64_t n_head, int n, const std::vector<int32_t> & list) {
    const int n_group = (int) n_head / layer.n_head_kv;
    const int begin   = layer.n_sink;
    const int end     = n - layer.n_recent;

    const std::set<int32_t> in(list.begin(), list.end());

    REQUIRE((int) in.size() == std::min(n, BUDGET), "%d tokens", (int) in.size());
    for (int t = 0; t < n; ++t) {
        REQUIRE((t >= begin && t < end) || in.count(t), "token %d of %d is not in", t, n);
    }

    // the first place at least, and at most, of each token
    std::vector<int64_t> least(n, INT64_MAX);
    std::vector<int64_t> most(n, INT64_MAX);

    for (int h = 0; h < (int) n_head; ++h) {
        std::vector<double> x(n);
        for (int t = begin; t < end; ++t) {
            x[t] = logit(layer, q.data() + h * n_embd, k.data() + (t * layer.n_head_kv + h / n_group) * n_embd, n_embd);
        }
        for (int t = begin; t < end; ++t) {
            const double eps = 1e-3 * std::max(1.0, std::fabs(x[t]));

            const auto above = [&](double y) {
                return std::count_if(x.begin() + begin, x.begin() + end, [y](double other) { return other > y; });
            };
            least[t] = std::min<int64_t>(least[t], above(x[t] + eps) * n_head + h);
            most[t]  = std::min<int64_t>(most[t], above(x[t] - eps) * n_head + h);
        }
    }

    int64_t worst_in = -1;
    int64_t best_out = INT64_MAX;
    for (int t = begin; t < end; ++t) {
        if (in.count(t)) {
            worst_in = std::max(worst_in, least[t]);
        } else {
            best_out = std::min(best_out, most[t]);
        }
    }
    REQUIRE(worst_in <= best_out, "token of place %lld left out for one of %lld", (long long) best_out,
            (long long) worst_in);
}

// node: attn
static void keep_queries(layer_check & c, const ggml_tensor * node) {
    const ggml_tensor * t = node->src[0];

    // a view may have gaps
    std::vector<float> q(ggml_nelements(t));
    for (int64_t h = 0; h < t->ne[1]; ++h) {
        ggml_backend_tensor_get(t, q.data() + h * t->ne[0], h * t->nb[1], t->ne[0] * sizeof(float));
    }
    c.queries[node] = std::move(q);
    c.streams[node] = ((const int32_t *) get_bytes(node->src[4]).data())[LIL_SEL_STREAM];
}

// node: attn_join
static void check_attention(layer_check & c, const ggml_tensor * node) {
    const ggml_tensor * work  = node->src[0];
    const ggml_tensor * q_t   = work->src[0];
    const ggml_tensor * k_t   = work->src[1];
    const ggml_tensor * v_t   = work->src[2];
    const ggml_tensor * sinks = node->src[2];

    const auto & layer = *(const lil_select_layer *) lil_get_node_params(node).userdata;

    const int64_t n_head_kv = layer.n_head_kv;
    const int64_t n_head    = q_t->ne[1];
    const int64_t n_group   = n_head / n_head_kv;
    const int64_t n_embd_k  = q_t->ne[0];
    const int64_t n_embd_v  = node->ne[0];

    const auto & q = c.queries.at(work);

    const int strm = c.streams.at(work);

    const auto k    = get_floats(k_t, strm); // [n_embd_k, n_head_kv, cells]
    const auto v    = get_floats(v_t, strm);
    const auto out  = get_floats(node);
    const auto list = get_bytes(node->src[1]);
    const auto s    = sinks ? get_floats(sinks) : std::vector<float>();

    const int64_t n_k = k_t->ne[0] / n_head_kv;

    REQUIRE(n_k == n_embd_k, "keys of %d channels, queries of %d", (int) n_k, (int) n_embd_k);

    for (int64_t h = 0; h < n_head_kv; ++h) {
        const auto * row = (const int32_t *) (list.data() + (node->src[1]->ne[1] == 1 ? 0 : h) * node->src[1]->nb[1]);

        const std::vector<int32_t> cells(row + 1, row + 1 + row[0]);

        REQUIRE(std::set<int32_t>(cells.begin(), cells.end()).size() == cells.size(), "a cell twice");

        for (int64_t g = 0; g < n_group; ++g) {
            const int64_t i_head = h * n_group + g;

            std::vector<double> x;
            for (const int32_t cell : cells) {
                x.push_back(logit(
                        layer, q.data() + i_head * n_embd_k, k.data() + (cell * n_head_kv + h) * n_embd_k, n_embd_k));
            }

            double max = sinks ? s[i_head] : -INFINITY;
            for (const double y : x) {
                max = std::max(max, y);
            }
            double sum = sinks ? std::exp(s[i_head] - max) : 0.0;
            for (double & y : x) {
                y = std::exp(y - max);
                sum += y;
            }

            for (int64_t i = 0; i < n_embd_v; ++i) {
                double y = 0.0;
                for (size_t j = 0; j < cells.size(); ++j) {
                    y += x[j] / sum * v[(cells[j] * n_head_kv + h) * n_embd_v + i];
                }

                const double diff = std::fabs(y - out[i_head * n_embd_v + i]);

                c.worst = std::max(c.worst, diff);
                REQUIRE(diff <= 2e-3 * std::max(1.0, std::fabs(y)), "attention is %g, not %g",
                        out[i_head * n_embd_v + i], y);
            }
        }

        const int n = c.n_tokens;
        if ((int) cells.size() < n) {
            c.n_lists++;
            if (c.method == LIL_SPARSE_QUEST) {
                check_quest(layer, q, k, n_embd_k, n_group, n, (int) h, cells);
            }
        }
    }

    c.n_steps++;
}

// node: tidal_select, lessismore_select
static void check_choice(layer_check & c, const ggml_tensor * node) {
    const ggml_tensor * work = node->src[0];
    const ggml_tensor * q_t  = work->src[0];
    const ggml_tensor * k_t  = work->src[1];

    const auto & layer = *(const lil_select_layer *) lil_get_node_params(node).userdata;

    const int64_t n_embd  = q_t->ne[0];
    const int64_t n_group = q_t->ne[1] / layer.n_head_kv;

    const auto & q = c.queries.at(work);

    const auto k    = get_floats(k_t, c.streams.at(work));
    const auto list = get_bytes(node);

    c.n_choices++;

    if (c.method == LIL_SPARSE_LESSISMORE) {
        const auto * row = (const int32_t *) list.data();

        check_lessismore(layer, q, k, n_embd, q_t->ne[1], c.n_tokens, { row + 1, row + 1 + row[0] });
        return;
    }

    for (int64_t h = 0; h < layer.n_head_kv; ++h) {
        const auto * row = (const int32_t *) (list.data() + h * node->nb[1]);

        check_tidal(layer, q, k, n_embd, n_group, c.n_tokens, (int) h, { row + 1, row + 1 + row[0] });
    }
}

static bool on_node(ggml_tensor * node, bool ask, void * data) {
    auto & c = *(layer_check *) data;

    static const lil_ops * ops = lil_get_ops(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));

    if (node->op != GGML_OP_CUSTOM) {
        return !ask;
    }

    const auto fun = lil_get_node_params(node).fun;
    if (fun != ops->attn && fun != ops->attn_join && fun != ops->tidal_select && fun != ops->lessismore_select) {
        return !ask;
    }
    if (ask || !c.error.empty() || c.n_tokens == 0) {
        return true;
    }

    try {
        if (fun == ops->attn) {
            keep_queries(c, node);
        } else if (fun == ops->attn_join) {
            check_attention(c, node);
        } else {
            check_choice(c, node);
        }
    } catch (const failure & e) {
        c.error = e.what();
    }

    return true;
}
