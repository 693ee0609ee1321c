// States that are damaged: cut short, with bytes changed, of other methods and shapes. Whatever comes, it is taken or
// refused, and the context works afterwards.
//
//   test-states tiny.gguf [rounds] [seed]
//
// A few rounds for each method as a test; by hand, more and from other seeds.

#include "sparse-common.h"

#include <random>

static std::vector<options> all_kinds() {
    std::vector<options> res;

    res.push_back({}); // llama.cpp's own cache
    res.push_back(make_options(LIL_SPARSE_DENSE, 48));
    for (const auto method : get_methods()) {
        res.push_back(make_options(method, 48));
        if (method == LIL_SPARSE_RKV) {
            res.back().sparse.buffer = 8;
        }
    }
    res.push_back(make_options(LIL_SPARSE_H2O, 48));
    res.back().sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    res.push_back(make_options(LIL_SPARSE_SINK, 48));
    res.back().sparse.positions = LIL_POSITIONS_CACHE;

    for (auto & o : res) {
        o.n_ctx     = 2 * 256;
        o.n_seq_max = 2;
    }

    return res;
}

struct saved_state {
    std::vector<uint8_t> data;
    bool                 whole;
};

static std::vector<saved_state> get_states(llama_context * ctx) {
    std::vector<saved_state> res = { { {}, true }, { {}, false } };

    res[0].data.resize(llama_state_get_size(ctx));
    res[0].data.resize(llama_state_get_data(ctx, res[0].data.data(), res[0].data.size()));
    res[1].data.resize(llama_state_seq_get_size(ctx, 0));
    res[1].data.resize(llama_state_seq_get_data(ctx, res[1].data.data(), res[1].data.size(), 0));

    return res;
}

class damage {
public:
    explicit damage(uint32_t seed) : rng(seed) {}

    int any(int n) { return n < 1 ? 0 : (int) (rng() % n); }

    std::vector<uint8_t> apply(std::vector<uint8_t> data) {
        for (int n = 1 + any(3); n > 0 && !data.empty(); --n) {
            // what is counted stands in front of what is held
            const int at = any(3) ? any(std::min<int>(data.size(), 600)) : any(data.size());

            switch (any(6)) {
                case 0: data.resize(at); break;
                case 1: data[at] ^= 1 << any(8); break;
                case 2: data[at] = rng(); break;
                case 3: data.insert(data.begin() + at, 1 + any(16), (uint8_t) rng()); break;
                case 4:
                    data.erase(data.begin() + at, data.begin() + std::min<int>(data.size(), at + 1 + any(16)));
                    break;
                case 5: {
                    static const uint32_t values[] = { 0, 1, 2, 3, 47, 48, 49, 255, 256, 257, 511, 512, 513, 0x7fffffff,
                        0x80000000, 0xffffffff, 0x10000, 0x40000000 };
                    const uint32_t        value    = values[any(sizeof(values) / sizeof(*values))];
                    if (at / 4 * 4 + 4 <= (int) data.size()) {
                        memcpy(data.data() + at / 4 * 4, &value, 4);
                    }
                    break;
                }
            }
        }

        return data;
    }

private:
    std::mt19937 rng;
};

static size_t load(llama_context * ctx, const std::vector<uint8_t> & data, bool whole, llama_seq_id seq_id) {
    // a copy of just that size: a sanitizer sees what is read behind it
    std::vector<uint8_t> exact(data.begin(), data.end());
    exact.shrink_to_fit();

    return whole ? llama_state_set_data(ctx, exact.data(), exact.size())
                 : llama_state_seq_set_data(ctx, exact.data(), exact.size(), seq_id);
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s tiny.gguf [rounds] [seed]\n", argv[0]);
        return 1;
    }
    if (!load_model(argv[1])) {
        return 1;
    }

    const int      n_rounds = argc > 2 ? atoi(argv[2]) : 150;
    const uint32_t seed     = argc > 3 ? atoi(argv[3]) : 1;

    test_name = "states";

    const auto kinds = all_kinds();

    // of every kind
    std::vector<saved_state> states;
    for (auto o : kinds) {
        llama_context * ctx = new_context(o);
        CHECK(decode_text(ctx, 0, 90, 0) == 0 && decode_text(ctx, 0, 20, 1) == 0);
        decode_steps(ctx, 90, 110);
        for (auto & s : get_states(ctx)) {
            states.push_back(std::move(s));
        }
        llama_free(ctx);
    }

    for (size_t k = 0; k < kinds.size(); ++k) {
        llama_context * ctx = new_context(kinds[k]);
        llama_memory_t  mem = llama_get_memory(ctx);

        const auto fresh = [&] {
            llama_memory_clear(mem, true);
            CHECK(decode_text(ctx, 0, 60) == 0);
            decode_steps(ctx, 60, 64);
            return get_logits(ctx);
        };

        const auto want = fresh();

        int n_taken = 0;

        for (int i = 0; i < n_rounds; ++i) {
            damage d(seed * 1000003u + k * 100003u + i);

            // its own as a rule
            const auto & from = states[d.any(4) ? 2 * k + d.any(2) : d.any(states.size())];
            const auto   data = d.any(20) ? d.apply(from.data) : from.data;

            const bool         whole  = d.any(10) ? from.whole : !from.whole;
            const llama_seq_id seq_id = d.any(2);

            if (load(ctx, data, whole, seq_id) > 0) {
                n_taken++;

                // it goes on, whatever it holds
                for (llama_seq_id s = 0; s < 2; ++s) {
                    const llama_pos last = llama_memory_seq_pos_max(mem, s); // of a damaged state: any
                    if (last >= 0 && last < 253) {
                        const llama_pos p = last + 1;

                        decode(ctx, { { text[0], p, s } });
                        decode(ctx, { { text[1], p + 1, s } });
                        llama_memory_seq_rm(mem, s, p - 1, -1);
                    }
                }
                get_states(ctx);
            }

            if (i % 10 == 9) {
                CHECK(max_diff(fresh(), want) == 0.0f);
            }
        }

        printf("kind %zu: %d of %d states were taken\n", k, n_taken, n_rounds);

        llama_free(ctx);
    }

    llama_model_free(model);
    llama_backend_free();

    return 0;
}
