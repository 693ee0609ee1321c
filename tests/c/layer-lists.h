#pragma once

// What each method of the select family reads in a step, from its definition. Near ties may fall either way.
//
// l has one query; n tokens are seen, token n - 1 is the current one.

#include "layer-tensors.h"

#include <map>
#include <set>

static const int PAGE = 16;

static int n_pages(int n) {
    return (n + PAGE - 1) / PAGE;
}

// the bound on q.k in a page, the largest of the group
static double page_bound(const layer_view & l, int n, int64_t h, int page) {
    double res = -INFINITY;
    for (int64_t g = 0; g < l.n_group(); ++g) {
        const float * q = l.query(h * l.n_group() + g);

        double sum = 0.0;
        for (int64_t i = 0; i < l.n_embd; ++i) {
            double max = -INFINITY;
            for (int t = page * PAGE; t < std::min(n, (page + 1) * PAGE); ++t) {
                max = std::max(max, (double) q[i] * l.key(t, h)[i]);
            }
            sum += max;
        }
        res = std::max(res, sum);
    }
    return res;
}

// none of those that are out is above one that is in
static void check_best(const std::vector<double> & score, const std::set<int> & in, int begin, int end, double eps,
        const char * what) {
    double worst_in = INFINITY;
    double best_out = -INFINITY;
    for (int i = begin; i < end; ++i) {
        if (in.count(i)) {
            worst_in = std::min(worst_in, score[i]);
        } else {
            best_out = std::max(best_out, score[i]);
        }
    }
    REQUIRE(worst_in >= best_out || is_tie(worst_in, best_out, eps), "%s of score %g left out for one of %g", what,
            best_out, worst_in);
}

// Quest: the current page and the best others
static void check_quest(const layer_view & l, int n, int64_t h, const std::vector<int32_t> & list) {
    std::set<int> pages;
    for (const int32_t t : list) {
        pages.insert(t / PAGE);
    }
    REQUIRE((int) pages.size() == std::min(n_pages(n), BUDGET / PAGE) && pages.count(n_pages(n) - 1), "%d pages of %d",
            (int) pages.size(), n_pages(n));

    std::vector<double> score;
    for (int p = 0; p < n_pages(n); ++p) {
        score.push_back(page_bound(l, n, h, p));
    }
    check_best(score, pages, 0, n_pages(n) - 1, 2e-3, "page");
}

// TidalDecode: the current token and the best others
static void check_tidal(const layer_view & l, int n, int64_t h, const std::vector<int32_t> & list) {
    const std::set<int> in(list.begin(), list.end());

    REQUIRE((int) in.size() == std::min(n, BUDGET) && in.count(n - 1), "%d tokens", (int) in.size());

    std::vector<double> score;
    for (int t = 0; t < n; ++t) {
        score.push_back(-INFINITY);
        for (int64_t g = 0; g < l.n_group(); ++g) {
            score.back() = std::max(score.back(), l.logit(h * l.n_group() + g, t));
        }
    }
    check_best(score, in, 0, n - 1, 1e-3, "token");
}

// LessIsMore: the first tokens, the last, and between them the best by the smallest rank that a query head gives them,
// ties of ranks by head. A token's place is known within eps of its score: the worst place of one that is in must not
// lie behind the best place of one that is out.
static void check_lessismore(const layer_view & l, int n, const std::vector<int32_t> & list) {
    const int begin = 4;
    const int end   = n - BUDGET / 4;

    const std::set<int32_t> in(list.begin(), list.end());

    REQUIRE((int) in.size() == std::min(n, BUDGET), "%d tokens", (int) in.size());
    for (int t = 0; t < n; ++t) {
        REQUIRE((t >= begin && t < end) || in.count(t), "token %d of %d is not in", t, n);
    }

    // the first place at least, and at most, of each token
    std::vector<int64_t> least(n, INT64_MAX);
    std::vector<int64_t> most(n, INT64_MAX);

    for (int64_t h = 0; h < l.n_head; ++h) {
        std::vector<double> x(n);
        for (int t = begin; t < end; ++t) {
            x[t] = l.logit(h, t);
        }
        for (int t = begin; t < end; ++t) {
            const double eps = 1e-3 * std::max(1.0, std::fabs(x[t]));

            const auto above = [&](double y) {
                return std::count_if(x.begin() + begin, x.begin() + end, [y](double other) { return other > y; });
            };
            least[t] = std::min<int64_t>(least[t], above(x[t] + eps) * l.n_head + h);
            most[t]  = std::min<int64_t>(most[t], above(x[t] - eps) * l.n_head + h);
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

// InfLLM: the first tokens, a window that takes what the blocks leave over, tokens that have left it and fill no block
// yet, and the best blocks by their representatives: the tokens that were looked at most while they were in the window.
class infllm_reference {
public:
    // tokens [n - n_new, n) came, each with a query of l that saw these before it, itself, and no other
    void looked(const layer_view & l, const std::vector<int32_t> & seen, int n_new) {
        const int n = seen.back() + 1;

        score.resize(l.n_head_kv);
        for (auto & s : score) {
            s.resize(std::max<size_t>(s.size(), n), 0.0);
            std::fill(s.begin() + (n - n_new), s.begin() + n, 0.0);
        }
        for (int i = 0; i < n_new; ++i) {
            const std::vector<int32_t> tokens(seen.begin(), seen.end() - (n_new - 1 - i));

            for (int64_t h = 0; h < l.n_head_kv; ++h) {
                const auto p = l.received(h, tokens, i);
                for (size_t j = 0; j < tokens.size(); ++j) {
                    if (tokens[j] > tokens.back() - WINDOW) {
                        score[h][tokens[j]] += p[j];
                    }
                }
            }
        }
    }

    void check(const layer_view & l, int n, const std::vector<int32_t> & list) const {
        std::set<int> blocks;
        for (const int32_t t : list) {
            if (t >= N_INIT && t < N_INIT + n_blocks(n) * BLOCK) {
                blocks.insert((t - N_INIT) / BLOCK);
            }
        }
        REQUIRE((int) blocks.size() == 1, "%d blocks of %d", (int) blocks.size(), n_blocks(n));
        REQUIRE(list == get_list(n, *blocks.begin()), "%d of %d tokens: not those of a block and what is always read",
                (int) list.size(), n);

        const auto best = get_best(l, n);
        REQUIRE(best.count(*blocks.begin()), "block %d is read, not %d", *blocks.begin(), *best.begin());
    }

    // what is read with a block
    std::vector<int32_t> get_list(int n, int block) const {
        std::vector<int32_t> res;
        for (int t = 0; t < n; ++t) {
            const int b = (t - N_INIT) / BLOCK;
            if (t < N_INIT || b >= n_blocks(n) || b == block) {
                res.push_back(t);
            }
        }
        return res;
    }

    // the block of the highest score; more than one: a near tie, of blocks or of the tokens that make their scores
    std::set<int> get_best(const layer_view & l, int n) const {
        std::vector<std::pair<double, double>> range;

        double most = -INFINITY; // that the best has at least
        for (int b = 0; b < n_blocks(n); ++b) {
            range.push_back(block_score(l, b));
            most = std::max(most, range.back().first);
        }
        std::set<int> res;
        for (int b = 0; b < n_blocks(n); ++b) {
            if (range[b].second >= most || is_tie(range[b].second, most, 2e-3)) {
                res.insert(b);
            }
        }
        return res;
    }

    // Clipped positions, for a query of more tokens than the budget: those outside the window at its distance
    static void clip(layer_view & l, const rope_turn & rope, int n) {
        for (int t = 0; n > BUDGET && t < n - WINDOW; ++t) {
            l.turn(rope, t, n - 1 - WINDOW - t);
        }
    }

private:
    static const int N_INIT = 4;
    static const int BLOCK  = 8;
    static const int N_REPR = 4;
    static const int LEFT   = BUDGET - N_INIT - BUDGET / 2 - (BLOCK - 1);
    static const int WINDOW = BUDGET / 2 + LEFT % BLOCK;

    static_assert(LEFT / BLOCK == 1, "one block is read");

    static int n_blocks(int n) { return (n - WINDOW - N_INIT) / BLOCK; }

    std::vector<std::vector<double>> score; // [n_head_kv][tokens]

    // at least, at most
    std::pair<double, double> block_score(const layer_view & l, int block) const {
        const int first = N_INIT + block * BLOCK;

        std::pair<double, double> res = { 0.0, 0.0 };
        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            std::vector<double> s(score[h].begin() + first, score[h].begin() + first + BLOCK);
            std::vector<double> ordered = s;
            std::sort(ordered.rbegin(), ordered.rend());
            const double last = ordered[N_REPR - 1];

            int                 n_open = N_REPR;
            std::vector<double> open; // near the last one that is in
            for (int i = 0; i < BLOCK; ++i) {
                double x = 0.0;
                for (int64_t g = 0; g < l.n_group(); ++g) {
                    x += dot(l.query(h * l.n_group() + g), l.key(first + i, h), l.n_embd);
                }
                if (std::fabs(s[i] - last) <= 2e-3 * last) {
                    open.push_back(x);
                } else if (s[i] > last) {
                    res.first += x;
                    res.second += x;
                    n_open--;
                }
            }
            std::sort(open.begin(), open.end());
            for (int i = 0; i < n_open; ++i) {
                res.first += open[i];
                res.second += open[open.size() - 1 - i];
            }
        }
        return res;
    }
};

// RaaS: pages with time stamps. Of the pages read the better half, by Quest's bound, is stamped with each step; those
// with the newest stamps are read, and a prompt's go last.
class raas_reference {
public:
    void cut(int n) {
        for (auto & s : stamp) {
            s.resize(std::min<size_t>(s.size(), n));
        }
    }

    // A step, the now-th: its stamps are those, by token. Tokens that came since the last step are a prompt's
    void check_stamps(const layer_view & l, int n, double now, const std::vector<std::vector<float>> & found) {
        stamp.resize(l.n_head_kv);

        for (int64_t h = 0; h < l.n_head_kv; ++h) {
            auto & s = stamp[h];
            s.resize(n - 1, INFINITY);
            s.push_back(now);

            const auto    in     = alive(h, n);
            const int     n_best = ((int) in.size() + 1) / 2;
            std::set<int> open; // what a near tie leaves open

            std::map<int, double> score;
            for (const int p : in) {
                score[p] = page_bound(l, n, h, p);
            }
            for (const int p : in) {
                const double eps   = 2e-3 * std::max(1.0, std::fabs(score[p]));
                int          above = 0; // surely, and perhaps
                int          maybe = 0;
                for (const auto & other : score) {
                    above += other.first != p && other.second > score[p] + eps;
                    maybe += other.first != p && other.second > score[p] - eps;
                }

                const int t0 = p * PAGE;
                const int t1 = std::min(n, t0 + PAGE);
                if (maybe >= n_best && (above >= n_best || found[h][t0] != (float) now)) {
                    continue; // not among the best, or a tie that fell so
                }
                if (*std::max_element(s.begin() + t0, s.begin() + t1) < now) {
                    std::fill(s.begin() + t0, s.begin() + t1, now);
                }
            }

            for (int t = 0; t < n; ++t) {
                const bool prompt = std::isinf(s[t]);
                REQUIRE(prompt ? found[h][t] > 1e6f : found[h][t] == (float) s[t], "token %d has the stamp %g, not %g",
                        t, found[h][t], s[t]);
            }
        }
    }

    void check(int n, int64_t h, const std::vector<int32_t> & list) const {
        std::vector<int32_t> want;
        for (const int p : alive(h, n)) {
            for (int t = p * PAGE; t < std::min(n, (p + 1) * PAGE); ++t) {
                want.push_back(t);
            }
        }
        REQUIRE(list == want, "%d tokens, not those of the %d pages with the newest stamps", (int) list.size(),
                (int) want.size());
    }

private:
    std::vector<std::vector<double>> stamp; // [n_head_kv][tokens], infinite: a prompt's

    std::set<int> alive(int64_t h, int n) const {
        std::vector<std::pair<double, int>> pages; // of the same stamp the newer first
        for (int p = 0; p < n_pages(n); ++p) {
            const auto s = stamp[h].begin();
            pages.push_back({ *std::max_element(s + p * PAGE, s + std::min(n, (p + 1) * PAGE)), p });
        }
        const auto current = pages.back();
        pages.pop_back();
        std::sort(pages.rbegin(), pages.rend());

        std::set<int> res = { current.second };
        for (const auto & page : pages) {
            if (n <= BUDGET || (int) res.size() < BUDGET / PAGE) {
                res.insert(page.second);
            }
        }
        return res;
    }
};
