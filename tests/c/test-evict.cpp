// The evict family on a real model: budgets, positions, the cache's calls, state, sequences, errors.
//
//   test-evict model.gguf
//
// The methods are compared with a reference in Python (tests/python); here the C API's contract is tested.

#include "sparse-common.h"

static std::vector<options> all_methods(uint32_t budget) {
    std::vector<options> res;

    res.push_back(make_options(LIL_SPARSE_SINK, budget));
    res.push_back(make_options(LIL_SPARSE_SINK, budget));
    res.back().sparse.positions = LIL_POSITIONS_CACHE;
    res.push_back(make_options(LIL_SPARSE_H2O, budget));
    res.push_back(make_options(LIL_SPARSE_H2O, budget));
    res.back().sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    res.push_back(make_options(LIL_SPARSE_H2O, budget));
    res.back().sparse.form = LIL_FORM_PORTABLE;

    for (const lil_sparse_method method : { LIL_SPARSE_TOVA, LIL_SPARSE_RKV }) {
        for (const lil_form form : { LIL_FORM_FUSED, LIL_FORM_PORTABLE }) {
            res.push_back(make_options(method, budget));
            res.back().sparse.form   = form;
            res.back().sparse.buffer = 9;
            res.back().sparse.n_obs  = 5;
        }
    }

    return res;
}

// the last tokens that a decode step does not evict, the current one included
static uint32_t get_n_protect(const lil_sparse_params & s) {
    switch (s.method) {
        case LIL_SPARSE_SINK: return s.budget - s.n_sink;
        case LIL_SPARSE_H2O:  return s.budget / 2;
        case LIL_SPARSE_RKV:  return s.n_obs;
        default:              return 1;
    }
}

// what every head holds after n decode steps behind a prompt that is longer than the budget
static uint32_t get_n_held(const lil_sparse_params & s, uint32_t n) {
    return s.method == LIL_SPARSE_RKV ? s.budget - s.buffer + (n - 1) % (s.buffer + 1) : s.budget;
}

//
// tests
//

// while a sequence is within its budget, every logit is that of full attention, bit for bit
static void test_dense_within_budget() {
    test_name = __func__;

    llama_context * ref = new_context(options());
    CHECK(decode_text(ref, 0, 100) == 0);

    std::vector<std::vector<float>> want = { get_logits(ref) };
    for (llama_pos p = 100; p < 128; ++p) {
        decode_steps(ref, p, p + 1);
        want.push_back(get_logits(ref));
    }
    llama_free(ref);

    for (const auto & o : all_methods(128)) {
        llama_context * ctx = new_context(o);

        CHECK(decode_text(ctx, 0, 100) == 0);
        CHECK(max_diff(get_logits(ctx), want[0]) == 0.0f);

        for (llama_pos p = 100; p < 128; ++p) {
            decode_steps(ctx, p, p + 1);
            CHECK(max_diff(get_logits(ctx), want[p - 99]) == 0.0f);
        }

        CHECK(get_info(ctx).n_dense == 28);
        CHECK(get_info(ctx).n_sparse == 0);

        llama_free(ctx);
    }
}

// never more than B, the recent and the sinks always there, evicted never back, and the counts say so
static void test_invariants() {
    test_name = __func__;

    const uint32_t  budget   = 48;
    const llama_pos n_prompt = 90;
    const llama_pos n_end    = 240;

    for (const auto & o : all_methods(budget)) {
        llama_context * ctx = new_context(o);

        CHECK(decode_text(ctx, 0, n_prompt) == 0);
        CHECK(get_held(ctx, 0, 0).size() == (size_t) n_prompt); // a prompt that fits is whole until the first step

        std::vector<std::set<llama_pos>> before;

        uint64_t n_rows = 0;

        for (llama_pos p = n_prompt; p < n_end; ++p) {
            decode_steps(ctx, p, p + 1);

            const uint32_t n_held = get_n_held(o.sparse, p - n_prompt + 1);
            n_rows += n_held;

            std::vector<std::set<llama_pos>> now;

            for (size_t il = 0; il < sparse_layers.size(); il += 7) {
                for (int32_t h = 0; h < n_head_kv; ++h) {
                    now.push_back(get_held(ctx, il, h));
                    const auto & held = now.back();

                    CHECK(held.size() == n_held);
                    CHECK(*held.rbegin() == p);
                    CHECK(o.sparse.method != LIL_SPARSE_TOVA || held == get_held(ctx, il, 0)); // one set for all heads

                    for (uint32_t i = 0; i < get_n_protect(o.sparse); ++i) {
                        CHECK(held.count(p - (llama_pos) i));
                    }
                    for (uint32_t i = 0; o.sparse.method == LIL_SPARSE_SINK && i < o.sparse.n_sink; ++i) {
                        CHECK(held.count(i));
                    }
                }
            }

            for (size_t i = 0; i < before.size(); ++i) {
                for (const llama_pos q : now[i]) {
                    CHECK(q == p || before[i].count(q));
                }
            }
            before = std::move(now);
        }

        const auto     info    = get_info(ctx);
        const uint64_t n_steps = n_end - n_prompt;

        CHECK(info.n_dense == 0);
        CHECK(info.n_sparse == n_steps);
        CHECK(info.n_rows == n_rows * n_head_kv * sparse_layers.size());
        CHECK(info.n_evicted == (uint64_t) n_end - get_n_held(o.sparse, n_steps));
        CHECK(info.budget == budget && info.capacity == 1024 && info.n_layer == sparse_layers.size());
        CHECK(info.fused == (o.sparse.form != LIL_FORM_PORTABLE));

        llama_free(ctx);
    }
}

// the two forms of a method hold the same tokens and give the same logits, up to near ties
static void test_forms(lil_sparse_method method, ggml_type type_kv) {
    test_name = __func__;

    options o       = make_options(method, 64);
    o.sparse.buffer = 20;
    o.type_kv       = type_kv;
    o.n_ubatch      = 64;
    o.n_threads     = 2;

    llama_context * fused    = new_context(o);
    o.sparse.form            = LIL_FORM_PORTABLE;
    llama_context * portable = new_context(o);

    for (llama_context * ctx : { fused, portable }) {
        CHECK(decode_text(ctx, 0, 150) == 0);
    }

    double jaccard = 0.0;
    int    n_sets  = 0;

    for (llama_pos p = 150; p < 200; ++p) {
        for (llama_context * ctx : { fused, portable }) {
            decode_steps(ctx, p, p + 1);
        }

        for (size_t il = 0; il < sparse_layers.size(); ++il) {
            for (int32_t h = 0; h < n_head_kv; ++h) {
                const auto a = get_held(fused, il, h);
                const auto b = get_held(portable, il, h);

                int n_both = 0;
                for (const llama_pos q : a) {
                    n_both += b.count(q);
                }
                jaccard += n_both / (double) (a.size() + b.size() - n_both);
                n_sets++;
            }
        }
    }

    fprintf(stderr, "%s: method %d, %s: mean Jaccard %.4f, last logits differ by %.3f\n", __func__, method,
            ggml_type_name(type_kv), jaccard / n_sets, max_diff(get_logits(fused), get_logits(portable)));
    // ggml's product rounds queries to BF16 or 8 bits where keys have these types; a single query decides in TOVA
    CHECK(jaccard / n_sets >
            (method == LIL_SPARSE_TOVA && type_kv != GGML_TYPE_F16 && type_kv != GGML_TYPE_F32 ? 0.9 : 0.98));

    llama_free(fused);
    llama_free(portable);
}

static void test_seq_rm() {
    test_name = __func__;

    for (const auto & o : all_methods(48)) {
        // a whole cache: removing and adding a tail again changes nothing
        {
            llama_context * ctx = new_context(o);
            llama_memory_t  mem = llama_get_memory(ctx);

            CHECK(llama_memory_seq_pos_max(mem, 0) == -1 && llama_memory_seq_pos_min(mem, 0) == -1);
            CHECK(!llama_memory_can_shift(mem));

            CHECK(decode_text(ctx, 0, 30) == 0);
            decode_steps(ctx, 30, 40);
            const auto want = get_logits(ctx);

            CHECK(llama_memory_seq_rm(mem, -1, 40, -1)); // nothing to remove
            CHECK(llama_memory_seq_rm(mem, 0, 35, -1));
            CHECK(llama_memory_seq_pos_max(mem, 0) == 34 && llama_memory_seq_pos_min(mem, 0) == 0);
            CHECK(get_held(ctx, 0, 0).size() == 35);

            CHECK(!llama_memory_seq_rm(mem, 0, 10, 20)); // the middle
            CHECK(llama_memory_seq_pos_max(mem, 0) == 34);

            decode_steps(ctx, 35, 40);
            CHECK(max_diff(get_logits(ctx), want) < 1e-3f);

            CHECK(llama_memory_seq_rm(mem, 0, -1, -1));
            CHECK(llama_memory_seq_pos_max(mem, 0) == -1);
            CHECK(get_held(ctx, 0, 0).empty());

            llama_free(ctx);
        }

        // an evicted one: a tail that is whole goes, in every head; anything earlier is refused, and nothing changes
        {
            llama_context * ctx = new_context(o);
            llama_memory_t  mem = llama_get_memory(ctx);

            CHECK(decode_text(ctx, 0, 100) == 0);
            decode_steps(ctx, 100, 130);

            // at the last cut every head held the last tokens; and 1/16 of what a cut leaves may be missing
            const uint32_t  n_since = get_n_held(o.sparse, 30) - get_n_held(o.sparse, 1);
            const llama_pos pos_min = llama_memory_seq_pos_min(mem, 0);
            CHECK(pos_min == 130 - (llama_pos) std::min(get_n_protect(o.sparse) + n_since, 48 / 16 + n_since));

            std::vector<std::set<llama_pos>> held;
            for (int32_t h = 0; h < n_head_kv; ++h) {
                held.push_back(get_held(ctx, 3, h));
            }

            CHECK(!llama_memory_seq_rm(mem, 0, pos_min - 1, -1));
            CHECK(!llama_memory_seq_rm(mem, -1, 10, 20));
            CHECK(!llama_memory_seq_rm(mem, 0, 1, -1));
            for (int32_t h = 0; h < n_head_kv; ++h) {
                CHECK(get_held(ctx, 3, h) == held[h]);
            }

            const llama_pos pos_rm = pos_min;
            const size_t    n_left = held[0].size() - (130 - pos_rm);
            CHECK(llama_memory_seq_rm(mem, 0, pos_rm, -1));
            CHECK(llama_memory_seq_pos_max(mem, 0) == pos_rm - 1);
            for (int32_t h = 0; h < n_head_kv; ++h) {
                auto want = held[h];
                want.erase(want.lower_bound(pos_rm), want.end());
                CHECK(want.size() == n_left);
                CHECK(get_held(ctx, 3, h) == want);
            }

            decode_steps(ctx, pos_rm, 150);
            CHECK(get_held(ctx, 3, 0).size() <= 48 && *get_held(ctx, 3, 0).rbegin() == 149);
            CHECK(o.sparse.method == LIL_SPARSE_RKV || get_held(ctx, 3, 0).size() == 48);

            CHECK(llama_memory_seq_rm(mem, -1, 0, -1));
            CHECK(decode_text(ctx, 0, 20) == 0);

            llama_free(ctx);
        }
    }
}

// everything comes back: the same logits, bit for bit, before and after
static void test_state() {
    test_name = __func__;

    // upstream restores the cells of a sliding window in another order, which rounds differently
    const float eps = (int32_t) sparse_layers.size() == n_layer ? 0.0f : 2e-2f;

    for (auto o : all_methods(48)) {
        llama_context * ctx = new_context(o);

        CHECK(decode_text(ctx, 0, 100) == 0);
        decode_steps(ctx, 100, 120);

        std::vector<uint8_t> state(llama_state_get_size(ctx));
        CHECK(llama_state_get_data(ctx, state.data(), state.size()) == state.size());

        std::vector<uint8_t> state_seq(llama_state_seq_get_size(ctx, 0));
        CHECK(llama_state_seq_get_data(ctx, state_seq.data(), state_seq.size(), 0) == state_seq.size());

        const auto proceed = [&](llama_context * c) {
            decode_steps_anew(c, 120, 140);
            return get_logits(c);
        };

        const auto want = proceed(ctx);

        llama_context * other = new_context(o);
        CHECK(llama_state_set_data(other, state.data(), state.size()) > 0);
        CHECK(llama_memory_seq_pos_min(llama_get_memory(other), 0) >= 48);
        CHECK(max_diff(proceed(other), want) <= eps);

        CHECK(llama_state_seq_set_data(other, state_seq.data(), state_seq.size(), 0) > 0);
        CHECK(llama_memory_seq_pos_max(llama_get_memory(other), 0) == 119);
        CHECK(max_diff(proceed(other), want) <= eps);

        // cut short: refused, and usable afterwards
        CHECK(llama_state_seq_set_data(other, state_seq.data(), state_seq.size() / 2, 0) == 0);
        CHECK(llama_memory_seq_rm(llama_get_memory(other), -1, -1, -1));
        CHECK(decode_text(other, 0, 100) == 0);
        decode_steps(other, 100, 120);
        CHECK(max_diff(proceed(other), want) <= eps);
        llama_free(other);

        // another budget: refused
        o.sparse.budget = 50;
        other           = new_context(o);
        CHECK(llama_state_seq_set_data(other, state_seq.data(), state_seq.size(), 0) == 0);
        llama_free(other);

        // a stock context: refused
        options stock;
        other = new_context(stock);
        CHECK(llama_state_seq_set_data(other, state_seq.data(), state_seq.size(), 0) == 0);

        CHECK(decode_text(other, 0, 20) == 0);
        std::vector<uint8_t> state_stock(llama_state_seq_get_size(other, 0));
        CHECK(llama_state_seq_get_data(other, state_stock.data(), state_stock.size(), 0) == state_stock.size());
        CHECK(llama_state_seq_set_data(ctx, state_stock.data(), state_stock.size(), 0) == 0);
        llama_free(other);

        llama_free(ctx);
    }
}

// sequences of different lengths in one batch, each with its own budget, hold what they hold alone
// what servers save to go back to: in a model with sliding windows such a state holds the window, and the bounded half
static void test_partial_state() {
    test_name = __func__;

    if ((int32_t) sparse_layers.size() == n_layer) {
        return; // nothing is saved
    }

    for (auto o : all_methods(48)) {
        o.swa_full = false;

        const auto proceed = [&](llama_context * c) {
            decode_steps_anew(c, 120, 140);
            return get_logits(c);
        };

        llama_context * ctx = new_context(o);
        CHECK(decode_text(ctx, 0, 100) == 0);
        decode_steps(ctx, 100, 120);

        std::vector<uint8_t> part(llama_state_seq_get_size_ext(ctx, 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
        CHECK(llama_state_seq_get_data_ext(ctx, part.data(), part.size(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) ==
                part.size());

        const auto held = get_held(ctx, 0, 0);
        const auto want = proceed(ctx);

        // far enough for both halves to lose what they held there
        decode_steps(ctx, 140, 400);
        CHECK(!llama_memory_seq_rm(llama_get_memory(ctx), 0, 120, -1));

        CHECK(llama_state_seq_set_data_ext(ctx, part.data(), part.size(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) > 0);
        CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == 119);
        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 120, -1)); // as servers do
        CHECK(get_held(ctx, 0, 0) == held);
        CHECK(max_diff(proceed(ctx), want) <= 2e-2f);

        llama_free(ctx);
    }
}

static void test_sequences() {
    test_name = __func__;

    const llama_pos n_prompt[] = { 20, 150, 70 };

    for (auto o : all_methods(48)) {
        o.n_seq_max = 3;
        o.n_ctx     = 3 * 512;

        llama_context * ctx = new_context(o);

        for (llama_seq_id s = 0; s < 3; ++s) {
            CHECK(decode_text(ctx, 0, n_prompt[s], s) == 0);
        }

        std::vector<std::vector<float>> logits;
        for (llama_pos i = 0; i < 60; ++i) {
            std::vector<token_at> batch;
            for (llama_seq_id s = 0; s < 3; ++s) {
                batch.push_back({ text[n_prompt[s] + i], n_prompt[s] + i, s });
            }
            CHECK(decode(ctx, batch) == 0);
        }
        for (llama_seq_id s = 0; s < 3; ++s) {
            logits.push_back(get_logits(ctx, s));
        }

        // a copy goes on as its source does
        llama_memory_t mem = llama_get_memory(ctx);
        llama_memory_seq_cp(mem, 1, 0, -1, -1);
        CHECK(llama_memory_seq_pos_max(mem, 0) == llama_memory_seq_pos_max(mem, 1));
        CHECK(get_held(ctx, 5, 0, 0) == get_held(ctx, 5, 0, 1));
        CHECK(decode(ctx, { { text[210], 210, 0 }, { text[210], 210, 1 } }) == 0);
        CHECK(max_diff(get_logits(ctx, 0), get_logits(ctx, 1)) < 1e-4f);

        llama_memory_seq_keep(mem, 1);
        CHECK(get_held(ctx, 0, 0, 0).empty() && get_held(ctx, 0, 0, 1).size() == get_n_held(o.sparse, 61) &&
                get_held(ctx, 0, 0, 2).empty());
        CHECK(llama_memory_seq_pos_max(mem, 1) == 210);

        llama_free(ctx);

        o.n_seq_max = 1;
        o.n_ctx     = 512;

        for (llama_seq_id s = 0; s < 3; ++s) {
            llama_context * alone = new_context(o);

            CHECK(decode_text(alone, 0, n_prompt[s]) == 0);
            decode_steps(alone, n_prompt[s], n_prompt[s] + 60);

            // the model's own matrices are computed another way for a batch of three
            const auto want = get_logits(alone);
            const auto best = std::max_element(want.begin(), want.end()) - want.begin();

            CHECK(get_held(alone, 0, 0).size() <= 48 &&
                    (n_prompt[s] <= 48 || get_held(alone, 0, 0).size() == get_n_held(o.sparse, 60)));
            CHECK(max_diff(logits[s], want) < 1.5f);
            CHECK(logits[s][best] > *std::max_element(logits[s].begin(), logits[s].end()) - 0.5f);

            llama_free(alone);
        }
    }
}

// prompts longer than the capacity are cut as they come, and the memory is bounded
static void test_capacity() {
    test_name = __func__;

    for (auto o : all_methods(64)) {
        o.n_ctx               = 4096;
        o.sparse.kept_prompts = 0;

        llama_context * large = new_context(o);
        o.sparse.capacity     = 192;
        llama_context * small = new_context(o);

        CHECK(get_info(small).capacity == 256);
        if (o.sparse.prompt_scores != LIL_PROMPT_SCORES_WINDOW && o.sparse.positions == LIL_POSITIONS_ABSOLUTE &&
                o.sparse.method != LIL_SPARSE_RKV) {
            CHECK(get_info(large).kv_bytes == 16 * get_info(small).kv_bytes);
        }

        for (llama_pos p = 0; p < 600; p += 100) {
            CHECK(decode_text(small, p, p + 100) == 0);
            const size_t n = get_held(small, 1, 1).size();
            CHECK(n <= 256 && n >= 64);
        }
        decode_steps(small, 600, 640);
        CHECK(get_held(small, 1, 1).size() == get_n_held(o.sparse, 40));
        CHECK(get_info(small).n_evicted == 640 - get_n_held(o.sparse, 40));

        llama_free(large);
        llama_free(small);
    }
}

// the end of n_ctx is an error that leaves the cache as it was
static void test_overflow() {
    test_name = __func__;

    for (auto o : all_methods(48)) {
        o.n_ctx = 256;

        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        CHECK(decode_text(ctx, 0, 250) == 0);
        decode_steps(ctx, 250, 256);

        const auto held = get_held(ctx, 0, 0);
        CHECK(decode_text(ctx, 256, 257) == 1);
        CHECK(get_held(ctx, 0, 0) == held);
        CHECK(llama_memory_seq_pos_max(mem, 0) == 255);

        CHECK(llama_memory_seq_rm(mem, -1, -1, -1));
        CHECK(decode_text(ctx, 0, 200) == 0);
        CHECK(decode_text(ctx, 200, 257) == 1);
        CHECK(llama_memory_seq_pos_max(mem, 0) == 199);
        CHECK(decode_text(ctx, 200, 256) == 0);

        llama_free(ctx);
    }
}

// a step that is aborted half-way: the sequence is gone, the context works
static void test_abort() {
    test_name = __func__;

    struct countdown {
        int n = -1; // calls until the abort; -1: never
    };

    const float eps = (int32_t) sparse_layers.size() == n_layer ? 0.0f : 2e-2f; // see test_state()

    for (auto o : all_methods(48)) {
        countdown cd;
        o.abort_callback_data = &cd;
        o.abort_callback      = [](void * data) {
            int & n = ((countdown *) data)->n;
            return n >= 0 && n-- == 0;
        };

        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        CHECK(decode_text(ctx, 0, 100) == 0);
        decode_steps(ctx, 100, 110);
        const auto want = get_logits(ctx);

        cd.n = 30; // in the middle of the layers, whatever the model
        CHECK(decode_text(ctx, 110, 111) == 2);
        CHECK(llama_memory_seq_pos_max(mem, 0) == -1);

        // a prompt that evicts nothing is taken back
        cd.n = -1;
        CHECK(decode_text(ctx, 0, 60) == 0);
        cd.n = 30;
        CHECK(decode_text(ctx, 60, 100) == 2);
        CHECK(llama_memory_seq_pos_max(mem, 0) == 59);

        cd.n = -1;
        CHECK(llama_memory_seq_rm(mem, 0, -1, -1));
        CHECK(decode_text(ctx, 0, 100) == 0);
        decode_steps(ctx, 100, 110);
        CHECK(max_diff(get_logits(ctx), want) <= eps);

        llama_free(ctx);
    }
}

static void test_errors() {
    test_name = __func__;

    struct bad {
        const char *                                                         message; // part of it
        std::function<void(lil_sparse_params & s, llama_context_params & c)> change;
    };

    const auto sink = [](lil_sparse_params & s) { s.method = LIL_SPARSE_SINK; };
    const auto tova = [](lil_sparse_params & s) { s.method = LIL_SPARSE_TOVA; };
    const auto rkv  = [](lil_sparse_params & s) {
        s.method = LIL_SPARSE_RKV;
        s.buffer = 16;
    };

    const std::vector<bad> cases = {
        { "method = 99", [&](auto & s, auto &) { s.method = (lil_sparse_method) 99; } },
        { "budget = 0", [&](auto & s, auto &) { s.budget  = 0; } },
        { "budget = 1", [&](auto & s, auto &) { s.budget  = 1; } },
        { "n_sink + 1 = 5",
                [&](auto & s, auto &) {
                    sink(s);
                    s.budget = 4;
                } },
        { "recent = 64", [&](auto & s, auto &) { s.recent      = 64; } },
        { "positions = 1", [&](auto & s, auto &) { s.positions = LIL_POSITIONS_CACHE; } },
        { "positions = 7",
                [&](auto & s, auto &) {
                    sink(s);
                    s.positions = (lil_positions) 7;
                } },
        { "prompt_scores", [&](auto & s, auto &) { s.prompt_scores = (lil_prompt_scores) 3; } },
        { "no portable form",
                [&](auto & s, auto &) {
                    s.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
                    s.form          = LIL_FORM_PORTABLE;
                } },
        { "form = 5", [&](auto & s, auto &) { s.form = (lil_form) 5; } },
        { "TOVA needs",
                [&](auto & s, auto &) {
                    tova(s);
                    s.budget = 1;
                } },
        { "positions = 1",
                [&](auto & s, auto &) {
                    tova(s);
                    s.positions = LIL_POSITIONS_CACHE;
                } },
        { "56 + 8 = 64",
                [&](auto & s, auto &) {
                    rkv(s);
                    s.buffer = 56;
                } },
        { "n_obs = 0",
                [&](auto & s, auto &) {
                    rkv(s);
                    s.n_obs = 0;
                } },
        { "lambda = 1.5",
                [&](auto & s, auto &) {
                    rkv(s);
                    s.lambda = 1.5f;
                } },
        { "threshold = -1",
                [&](auto & s, auto &) {
                    rkv(s);
                    s.threshold = -1.0f;
                } },
        { "budget + n_ubatch = 64 + 128 = 192", [&](auto & s, auto &) { s.capacity = 191; } },
        { "embeddings", [&](auto &, auto & c) { c.embeddings                       = true; } },
        { "FlashAttention", [&](auto &, auto & c) { c.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; } },
        { "kv_unified",
                [&](auto &, auto & c) {
                    c.n_seq_max  = 2;
                    c.kv_unified = true;
                } },
        { "causal", [&](auto &, auto & c) { c.attention_type = LLAMA_ATTENTION_TYPE_NON_CAUSAL; } },
    };

    for (const auto & b : cases) {
        options              o       = make_options(LIL_SPARSE_H2O, 64);
        llama_context_params cparams = make_cparams(o);
        b.change(o.sparse, cparams);

        CHECK(lil_init_from_model(model, cparams, o.sparse) == nullptr);
        if (!strstr(lil_last_error(), b.message)) {
            fprintf(stderr, "expected \"%s\" in \"%s\"\n", b.message, lil_last_error());
            CHECK(false);
        }
    }

    CHECK(lil_init_from_model(nullptr, make_cparams(options()), lil_sparse_default_params(LIL_SPARSE_H2O)) == nullptr);

    llama_context * stock = new_context(options());
    lil_sparse_info info;
    llama_pos       pos;
    CHECK(!lil_sparse_get_info(stock, &info));
    CHECK(!lil_sparse_get_info(nullptr, &info));
    CHECK(lil_sparse_get_slots(stock, 0, 0, 0, &pos, nullptr, 1) == -1);
    llama_free(stock);

    const int32_t il = sparse_layers[0];

    llama_context * ctx = new_context(make_options(LIL_SPARSE_H2O, 64));
    CHECK(lil_sparse_get_slots(ctx, 1, il, 0, &pos, nullptr, 1) == -1);
    CHECK(lil_sparse_get_slots(ctx, 0, n_layer, 0, &pos, nullptr, 1) == -1);
    CHECK(lil_sparse_get_slots(ctx, 0, il, n_head_kv, &pos, nullptr, 1) == -1);
    CHECK(lil_sparse_get_slots(ctx, 0, il, 0, nullptr, nullptr, 1) == -1);
    CHECK(lil_sparse_get_slots(ctx, 0, il, 0, &pos, nullptr, 1) == 0);
    llama_free(ctx);
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.gguf\n", argv[0]);
        return 2;
    }

    if (!load_model(argv[1])) {
        return 1;
    }

    test_errors();
    test_dense_within_budget();
    test_invariants();
    for (const lil_sparse_method method : { LIL_SPARSE_H2O, LIL_SPARSE_TOVA, LIL_SPARSE_RKV }) {
        for (const ggml_type type_kv :
                { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
            test_forms(method, type_kv);
        }
    }
    test_seq_rm();
    test_state();
    test_partial_state();
    test_sequences();
    test_capacity();
    test_overflow();
    test_abort();

    llama_model_free(model);

    printf("test-evict: ok\n");

    return 0;
}
