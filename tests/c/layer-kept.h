#pragma once

// A layer's tokens by their rank, each with the key and the value that it came with, wherever the cache has put them
// since; and which of them a method of the evict family keeps, from its definition. Near ties may fall either way.

#include "layer-tensors.h"

#include "lil.h"

#include <map>
#include <set>

class kept_reference {
public:
    explicit kept_reference(const lil_sparse_params & params) : params(params) {}

    std::vector<float> k; // [n_embd_head_k, n_head_kv, tokens], all that ever came
    std::vector<float> v;

    // rows of new tokens [n_embd, n_new], as a cache of F16 has them
    void store(std::vector<float> & dst, std::vector<float> rows, int64_t n_new) {
        for (float & x : rows) {
            x = ggml_fp16_to_fp32(ggml_fp32_to_fp16(x));
        }
        dst.insert(dst.end(), rows.begin(), rows.end());

        if (&dst == &k) {
            n_all += (int) n_new;
        }
    }

    // tokens from rank n on are gone
    void cut(int n) {
        if (n >= n_all) {
            return;
        }
        k.resize(k.size() / n_all * n);
        v.resize(v.size() / n_all * n);
        for (auto & s : score) {
            s.erase(s.lower_bound(n), s.end());
        }
        asked.erase(asked.lower_bound(n), asked.end());
        n_all    = n;
        n_scored = std::min(n_scored, n);
    }

    // the tokens of KV head h that the newest attends to
    std::vector<int32_t> get(int64_t h, int64_t n_head_kv) {
        add_new(n_head_kv);

        auto & s = score[h];
        while (params.method == LIL_SPARSE_SINK && (int) s.size() > BUDGET) {
            s.erase(std::next(s.begin(), params.n_sink));
        }

        std::vector<int32_t> res;
        for (const auto & x : s) {
            res.push_back(x.first);
        }
        return res;
    }

    // H2O, TOVA: queries of the newest tokens, keys of all. adds: of a layer that reads another's cache
    void looked(const layer_view & l, bool adds) {
        add_new(l.n_head_kv);

        const int n_new = (int) (l.q.size() / (l.n_embd * l.n_head));

        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            for (int i = 0; i < n_new; ++i) {
                std::vector<int32_t> seen;
                for (auto & s : score[h]) {
                    if (s.first <= n_all - n_new + i) {
                        seen.push_back(s.first);
                    }
                    if (params.method == LIL_SPARSE_TOVA && !adds) {
                        s.second = 0.0;
                    }
                }
                const auto p = l.received(h, seen, i);
                for (size_t j = 0; j < seen.size(); ++j) {
                    score[h][seen[j]] += p[j];
                }
            }
        }
    }

    // R-KV: queries of the newest tokens [n_embd_head_k, n_head], one after the other
    void ask(const std::vector<float> & q, int64_t n_new) {
        const int64_t n = (int64_t) q.size() / n_new;
        for (int64_t i = 0; i < n_new; ++i) {
            asked[n_all - (int) (n_new - i)].assign(q.begin() + i * n, q.begin() + (i + 1) * n);
        }
        while (asked.size() > params.n_obs) { // the last ones count
            asked.erase(asked.begin());
        }
    }

    // R-KV, before a cut: lambda*I - (1 - lambda)*R. l: keys of all; the last n_win queries count
    void rank(layer_view l, int n_win) {
        add_new(l.n_head_kv);
        REQUIRE(n_win == std::min<int>((int) params.n_obs, (int) asked.size()), "%d queries are looked at, of %d",
                n_win, (int) asked.size());

        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            std::vector<int32_t> tokens;
            for (const auto & s : score[h]) {
                tokens.push_back(s.first);
            }
            const auto importance = get_importance(l, h, tokens, n_win);
            const auto redundancy = get_redundancy(l, h, tokens);

            for (size_t j = 0; j < tokens.size(); ++j) {
                score[h][tokens[j]] = params.lambda * importance[j] - (1.0 - params.lambda) * redundancy[j];
            }
        }
    }

    // Before a decode step attends: what each head has left, found, is what had to be left
    void check_left(const std::vector<std::set<int>> & found) {
        add_new((int64_t) found.size());

        const int n_before = (int) score[0].size();
        const int n_left   = n_before < BUDGET    ? n_before
                : params.method == LIL_SPARSE_RKV ? BUDGET - (int) params.buffer - 1
                                                  : BUDGET - 1;
        const int recent   = params.method == LIL_SPARSE_H2O ? BUDGET / 2
                : params.method == LIL_SPARSE_RKV            ? (int) params.n_obs
                                                             : 1; // the current one included
        const int limit    = n_all - (recent - 1);

        std::map<int, double> sum; // TOVA: over the heads
        for (const auto & s : score) {
            for (const auto & x : s) {
                sum[x.first] += x.second;
            }
        }

        for (size_t h = 0; h < found.size(); ++h) {
            const auto & by = params.method == LIL_SPARSE_TOVA ? sum : score[h];

            REQUIRE((int) found[h].size() == n_left, "%d tokens are left of %d, not %d", (int) found[h].size(),
                    n_before, n_left);
            REQUIRE(params.method != LIL_SPARSE_TOVA || found[h] == found[0], "the heads keep different tokens");

            double worst_in = INFINITY;
            double best_out = -INFINITY;
            for (const auto & s : by) {
                if (found[h].count(s.first) == 0) {
                    REQUIRE(s.first < limit, "token %d of %d has gone", s.first, n_all);
                    best_out = std::max(best_out, s.second);
                } else if (s.first < limit) {
                    worst_in = std::min(worst_in, s.second);
                }
            }
            REQUIRE(worst_in >= best_out - 1e-3 * std::fabs(best_out), "a token of score %g has gone, one of %g stays",
                    best_out, worst_in);

            for (auto it = score[h].begin(); it != score[h].end();) {
                it = found[h].count(it->first) ? std::next(it) : score[h].erase(it);
            }
            REQUIRE(score[h].size() == found[h].size(), "tokens that were not there");
        }
    }

    int n_tokens() const { return n_all; }

private:
    lil_sparse_params params;

    int n_all    = 0; // tokens that came
    int n_scored = 0; // of these, with a score

    std::vector<std::map<int, double>> score; // [n_head_kv] of the tokens kept
    std::map<int, std::vector<float>>  asked; // R-KV

    void add_new(int64_t n_head_kv) {
        score.resize(n_head_kv);
        for (; n_scored < n_all; ++n_scored) {
            for (auto & s : score) {
                s[n_scored] = 0.0;
            }
        }
    }

    // The mean over the queries of their probabilities, of the largest logit in a group; the largest of 7 neighbours
    std::vector<double> get_importance(
            layer_view & l, int64_t h, const std::vector<int32_t> & tokens, int n_win) const {
        std::vector<double> mean(tokens.size(), 0.0);

        auto it = std::prev(asked.end(), n_win);
        for (; it != asked.end(); ++it) {
            l.q = it->second;

            const size_t n = std::upper_bound(tokens.begin(), tokens.end(), it->first) - tokens.begin();

            std::vector<double> x(n, -INFINITY);
            double              sink = -INFINITY;
            for (int64_t head = h * l.n_group(); head < (h + 1) * l.n_group(); ++head) {
                for (size_t j = 0; j < n; ++j) {
                    x[j] = std::max(x[j], l.logit(head, tokens[j]));
                }
                sink = std::max(sink, l.sink(head));
            }
            soft_max(x, sink);
            for (size_t j = 0; j < n; ++j) {
                mean[j] += x[j] / n_win;
            }
        }

        std::vector<double> res(tokens.size());
        for (int j = 0; j < (int) res.size(); ++j) {
            for (int i = std::max(0, j - 3); i < std::min((int) res.size(), j + 4); ++i) {
                res[j] = std::max(res[j], mean[i]);
            }
        }
        return res;
    }

    // How similar a key is to the others, each of which lets off the newest that it resembles
    std::vector<double> get_redundancy(const layer_view & l, int64_t h, const std::vector<int32_t> & tokens) const {
        const int n = (int) tokens.size();

        std::vector<double> norm;
        for (const int32_t t : tokens) {
            norm.push_back(std::sqrt(dot(l.key(t, h), l.key(t, h), l.n_embd)));
        }

        std::vector<double> res(n, 0.0);
        for (int i = 0; i < n; ++i) {
            bool lets_off = true;
            for (int j = n - 1; j >= 0; --j) {
                const double s =
                        i == j ? 0.0 : dot(l.key(tokens[i], h), l.key(tokens[j], h), l.n_embd) / norm[i] / norm[j];

                if (s > params.threshold && lets_off) {
                    lets_off = false;
                } else {
                    res[j] += s / n;
                }
            }
        }
        soft_max(res, -INFINITY);
        return res;
    }
};
