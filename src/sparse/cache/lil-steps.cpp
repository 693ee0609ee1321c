#include "lil-steps.h"

#include "llama-batch.h"

#include <algorithm>

void lil_steps::begin(const llama_batch & batch) {
    steps.clear();

    if (prompt || !batch.token) { // embeddings: an image's
        return;
    }

    std::set<std::pair<llama_seq_id, llama_pos>> now; // asked for in this batch

    const auto follows = [&](llama_seq_id seq_id, llama_pos pos) {
        const auto it = asked.find(seq_id);

        return (it != asked.end() && it->second.count(pos - 1)) || now.count({ seq_id, pos - 1 });
    };

    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (!batch.logits[i]) {
            continue;
        }

        const llama_seq_id * first = batch.seq_id[i];
        const llama_seq_id * last  = first + batch.n_seq_id[i];

        const bool step = std::all_of(first, last, [&](llama_seq_id s) { return follows(s, batch.pos[i]); });

        for (const auto * s = first; s != last; ++s) {
            now.insert({ *s, batch.pos[i] });
            if (step) {
                steps.insert({ *s, batch.pos[i] });
            }
        }
    }
}

uint32_t lil_steps::get_n_each(const llama_ubatch & ubatch, uint32_t n_max) const {
    std::map<llama_seq_id, uint32_t> n_of;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const llama_seq_id s = ubatch.seq_id[i][0];

        const bool is_new = i == 0 || ubatch.seq_id[i - 1][0] != s;

        if ((ubatch.n_tokens > 1 && ubatch.n_seq_id[i] != 1) || (is_new && n_of.count(s)) ||
                !is_step(s, ubatch.pos[i])) {
            return 0;
        }
        n_of[s]++;
    }

    const uint32_t n_each = n_of.empty() ? 0 : n_of.begin()->second;

    for (const auto & [_, n] : n_of) {
        if (n != n_each || n > n_max) {
            return 0;
        }
    }

    return n_each;
}

namespace {

// takes the tokens of a batch piece by piece, those of each sequence in their order
class cutter {
public:
    cutter(const llama_batch & batch, const lil_steps & steps) :
        batch(batch), steps(steps), taken(batch.n_tokens, false) {}

    // the next tokens of sequences that are at a step, up to n_each of each; empty: none is
    lil_batch_piece take_steps(uint32_t n_max, bool apart, uint32_t n_each) {
        std::vector<int32_t> res; // the first of each

        each_untaken([&](int32_t i, bool is_next) {
            const bool alone = batch.n_seq_id[i] > 1;
            const bool fits =
                    res.empty() || (!alone && batch.n_seq_id[res[0]] == 1 && (!apart || seq(i) == seq(res.back()) + 1));

            if (is_next && is_step(i) && fits && res.size() < n_max) {
                res.push_back(i);
            }
        });

        const uint32_t n_seqs = res.size();

        return { take(extend(res, n_max, n_each)), n_seqs };
    }

    // the next tokens of the first sequence, up to a step
    std::vector<int32_t> take_prompt(uint32_t n_max) {
        std::vector<int32_t> res;

        bool ended = false;

        each_untaken([&](int32_t i, bool) {
            if (ended || (!res.empty() && !overlap(i, res[0]))) {
                return;
            }

            ended = res.size() == n_max || (!res.empty() && (is_step(i) || !same(i, res[0])));
            if (!ended) {
                res.push_back(i);
            }
        });

        return take(std::move(res));
    }

private:
    const llama_batch & batch;
    const lil_steps &   steps;

    std::vector<bool> taken;

    // the steps that follow the first one of each sequence: as many of all
    std::vector<int32_t> extend(const std::vector<int32_t> & first, uint32_t n_max, uint32_t n_each) const {
        if (n_each == 1 || first.empty() || batch.n_seq_id[first[0]] > 1) {
            return first;
        }

        struct run {
            std::vector<int32_t> idxs;
            bool                 ended = false;
        };
        std::map<llama_seq_id, run> runs;

        for (const int32_t i : first) {
            runs[seq(i)] = {};
        }

        each_untaken([&](int32_t i, bool) {
            for (const llama_seq_id s : seqs(i)) {
                const auto it = runs.find(s);
                if (it == runs.end() || it->second.ended) {
                    continue;
                }

                it->second.ended = batch.n_seq_id[i] > 1 || !is_step(i);
                if (!it->second.ended) {
                    it->second.idxs.push_back(i);
                }
            }
        });

        size_t n = std::min<size_t>(n_each, n_max / first.size());
        for (const auto & [_, run] : runs) {
            n = std::min(n, run.idxs.size());
        }

        std::vector<int32_t> res;
        for (const int32_t i : first) {
            const auto & idxs = runs[seq(i)].idxs;

            res.insert(res.end(), idxs.begin(), idxs.begin() + n);
        }

        return res;
    }

    llama_seq_id seq(int32_t i) const { return batch.seq_id[i][0]; }

    bool is_step(int32_t i) const { return steps.is_step(seq(i), batch.pos[i]); }

    std::set<llama_seq_id> seqs(int32_t i) const { return { batch.seq_id[i], batch.seq_id[i] + batch.n_seq_id[i] }; }

    bool same(int32_t i, int32_t j) const { return seqs(i) == seqs(j); }

    bool overlap(int32_t i, int32_t j) const {
        const auto s = seqs(i);

        return std::any_of(
                batch.seq_id[j], batch.seq_id[j] + batch.n_seq_id[j], [&](llama_seq_id x) { return s.count(x) > 0; });
    }

    // f(token, whether it is the next of all its sequences)
    template <typename F>
    void each_untaken(F f) const {
        std::set<llama_seq_id> seen;

        for (int32_t i = 0; i < batch.n_tokens; ++i) {
            if (taken[i]) {
                continue;
            }

            bool is_next = true;
            for (int32_t s = 0; s < batch.n_seq_id[i]; ++s) {
                is_next = seen.insert(batch.seq_id[i][s]).second && is_next;
            }

            f(i, is_next);
        }
    }

    std::vector<int32_t> take(std::vector<int32_t> idxs) {
        for (const int32_t i : idxs) {
            taken[i] = true;
        }

        return idxs;
    }
};

}

std::vector<lil_batch_piece> lil_steps::cut(
        const llama_batch & batch, uint32_t n_ubatch, bool apart, uint32_t n_max) const {
    if (steps.empty() || batch.n_tokens == 1) {
        return {};
    }

    std::vector<lil_batch_piece> res;

    cutter c(batch, *this);

    for (int32_t n = 0; n < batch.n_tokens;) {
        lil_batch_piece piece = c.take_steps(n_ubatch, apart, n_max);

        if (piece.idxs.empty()) {
            piece = { c.take_prompt(n_ubatch), 1 };
        }

        n += piece.idxs.size();
        res.push_back(std::move(piece));
    }

    if (res.size() == 1 && res[0].idxs.size() == res[0].n_seqs) {
        return {};
    }

    return res;
}

void lil_steps::put(const llama_ubatch & ubatch) {
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
            auto & positions = asked[ubatch.seq_id[i][s]];

            if (ubatch.output[i]) {
                positions.insert(ubatch.pos[i]);
            } else {
                positions.erase(ubatch.pos[i]);
            }
        }
    }
}

//
// edits
//

void lil_steps::clear() {
    asked.clear();
}

void lil_steps::remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    for (auto & [id, positions] : asked) {
        if (seq_id == -1 || seq_id == id) {
            positions.erase(
                    positions.lower_bound(p0), p1 < 0 ? positions.end() : positions.lower_bound(std::max(p0, p1)));
        }
    }
}

void lil_steps::copy(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    if (seq_id_src == seq_id_dst) {
        return;
    }

    const auto & src = asked[seq_id_src];

    auto & dst = asked[seq_id_dst];
    dst.insert(src.lower_bound(p0), p1 < 0 ? src.end() : src.lower_bound(std::max(p0, p1)));
}

void lil_steps::keep(llama_seq_id seq_id) {
    for (auto & [id, positions] : asked) {
        if (id != seq_id) {
            positions.clear();
        }
    }
}

void lil_steps::shift(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos by) {
    auto & positions = asked[seq_id];

    std::set<llama_pos> res;
    for (const llama_pos p : positions) {
        const bool moves = p >= p0 && (p1 < 0 || p < p1);

        if (!moves || p + by >= 0) {
            res.insert(moves ? p + by : p);
        }
    }

    positions = std::move(res);
}

void lil_steps::forget(llama_seq_id seq_id) {
    remove(seq_id, 0, -1);
}
