// The select family on a real model: budgets, forms, edits of the cache, state, sequences, errors.
//
//   test-select model.gguf
//
// What the methods choose is compared with a reference in Python (tests/python); here the C API's contract is tested.
// After an edit of the cache there is no text that a fresh evaluation could be compared with; but a context restored
// from the state has none of the metadata and computes all of it anew.

#include "sparse-common.h"

static options make_select(lil_sparse_method method, uint32_t budget, lil_form form = LIL_FORM_AUTO) {
    options o     = make_options(method, budget);
    o.sparse.form = form;
    return o;
}

static bool has_reselect_layers() {
    return sparse_layers.size() > 4;
}

static std::vector<options> all_methods(uint32_t budget) {
    std::vector<options> res;

    for (const lil_form form : { LIL_FORM_FUSED, LIL_FORM_PORTABLE }) {
        res.push_back(make_select(LIL_SPARSE_QUEST, budget, form));
        res.push_back(make_select(LIL_SPARSE_INFLLM, budget, form));
        if (has_reselect_layers()) {
            res.push_back(make_select(LIL_SPARSE_TIDAL, budget, form));
            res.push_back(make_select(LIL_SPARSE_LESSISMORE, budget, form));
            res.back().sparse.reselect = sparse_layers.size() - 2;
        }
    }

    res.push_back(make_select(LIL_SPARSE_QUEST, budget));
    res.back().sparse.first_page = true;
    res.push_back(make_select(LIL_SPARSE_QUEST, budget));
    res.back().sparse.fused_dense = true;
    res.push_back(make_select(LIL_SPARSE_INFLLM, budget));
    res.back().sparse.positions = LIL_POSITIONS_CLIPPED;
    res.push_back(make_select(LIL_SPARSE_RAAS, budget));

    return res;
}

static bool keeps_stock_logits(const options & o) {
    return !o.sparse.fused_dense && o.sparse.method != LIL_SPARSE_DENSE;
}

static float median_diff(const std::vector<float> & a, const std::vector<float> & b) {
    std::vector<float> d;
    for (size_t i = 0; i < a.size(); ++i) {
        CHECK(std::isfinite(a[i]) && std::isfinite(b[i]));
        d.push_back(std::fabs(a[i] - b[i]));
    }
    std::nth_element(d.begin(), d.begin() + d.size() / 2, d.end());
    return d[d.size() / 2];
}

// what all heads of all layers attended to in the last step
static std::vector<std::set<llama_pos>> get_all(llama_context * ctx, llama_seq_id seq_id = 0) {
    std::vector<std::set<llama_pos>> res;
    for (size_t i = 0; i < sparse_layers.size(); ++i) {
        for (int32_t h = 0; h < n_head_kv; ++h) {
            res.push_back(get_held(ctx, i, h, seq_id));
        }
    }
    return res;
}

static double jaccard(const std::vector<std::set<llama_pos>> & a, const std::vector<std::set<llama_pos>> & b) {
    CHECK(a.size() == b.size());
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        std::vector<llama_pos> both;
        std::set_intersection(a[i].begin(), a[i].end(), b[i].begin(), b[i].end(), std::back_inserter(both));
        sum += (double) both.size() / (a[i].size() + b[i].size() - both.size());
    }
    return sum / a.size();
}

//
// tests
//

static void check_refused(options o, const char * word) {
    llama_context * ctx = lil_init_from_model(model, make_cparams(o), o.sparse);
    if (ctx || !strstr(lil_last_error(), word)) {
        fprintf(stderr, "%s: expected an error with '%s', got: %s\n", test_name, word,
                ctx ? "a context" : lil_last_error());
        exit(1);
    }
}

static void test_errors() {
    test_name = __func__;

    check_refused(make_select(LIL_SPARSE_QUEST, 15), "budget = 15");
    check_refused(make_select(LIL_SPARSE_RAAS, 15), "budget = 15");
    check_refused(make_select(LIL_SPARSE_RAAS, 64, LIL_FORM_PORTABLE), "portable");
    check_refused(make_select(LIL_SPARSE_INFLLM, 36), "at least 37");
    check_refused(make_select(LIL_SPARSE_TIDAL, 1), "budget = 1");
    check_refused(make_select(LIL_SPARSE_LESSISMORE, 3), "budget = 3");

    options o           = make_select(LIL_SPARSE_QUEST, 31);
    o.sparse.first_page = true;
    check_refused(o, "at least 32");

    o               = make_select(LIL_SPARSE_INFLLM, 64);
    o.sparse.n_repr = 9;
    check_refused(o, "n_repr = 9");

    o                  = make_select(LIL_SPARSE_INFLLM, 64, LIL_FORM_FUSED);
    o.sparse.positions = LIL_POSITIONS_CLIPPED;
    check_refused(o, "clipped");

    o                  = make_select(LIL_SPARSE_INFLLM, 64);
    o.sparse.positions = LIL_POSITIONS_CLIPPED;
    o.type_kv          = GGML_TYPE_Q8_0;
    check_refused(o, "q8_0");

    o                  = make_select(LIL_SPARSE_QUEST, 64);
    o.sparse.positions = LIL_POSITIONS_CACHE;
    check_refused(o, "positions = 1");

    o                    = make_select(LIL_SPARSE_QUEST, 64, LIL_FORM_PORTABLE);
    o.sparse.fused_dense = true;
    check_refused(o, "fused_dense");

    // 1 and 2 are the layers that are dense and the first that selects, where there are as many
    const uint32_t L = sparse_layers.size();
    for (const uint32_t c : { L > 3 ? 1u : L, L > 3 ? 2u : L, L }) {
        o                     = make_select(LIL_SPARSE_TIDAL, 64);
        o.sparse.dense_layers = L > 3 ? 2 : 0;
        o.sparse.reselect     = c;
        check_refused(o, "reselect");
    }

    o                     = make_select(LIL_SPARSE_QUEST, 64);
    o.sparse.dense_layers = sparse_layers.size();
    check_refused(o, "dense_layers");
    o.sparse.dense_layers = -2;
    check_refused(o, "dense_layers");
    o                     = make_select(LIL_SPARSE_LESSISMORE, 64);
    o.sparse.dense_layers = sparse_layers.size() - 1;
    check_refused(o, "dense_layers");
    o                     = make_select(LIL_SPARSE_INFLLM, 64);
    o.sparse.dense_layers = 1;
    check_refused(o, "dense_layers");

    float           mass[1];
    llama_context * ctx = new_context(make_select(LIL_SPARSE_QUEST, 64));
    CHECK(lil_probe_get(ctx, LIL_SPARSE_TIDAL, mass, 1) == -1);
    llama_free(ctx);
}

// while a sequence is within its budget, or below min_ctx, every logit is that of full attention, bit for bit
static void test_dense() {
    test_name = __func__;

    llama_context * ref = new_context(options());
    CHECK(decode_text(ref, 0, 100) == 0);

    std::vector<std::vector<float>> want = { get_logits(ref) };
    for (llama_pos p = 100; p < 128; ++p) {
        decode_steps(ref, p, p + 1);
        want.push_back(get_logits(ref));
    }
    llama_free(ref);

    auto all = all_methods(128);
    for (auto o : all_methods(64)) {
        if (o.sparse.positions != LIL_POSITIONS_CLIPPED) {
            o.sparse.min_ctx = 129;
            all.push_back(o);
        }
    }
    all.push_back(make_select(LIL_SPARSE_DENSE, 64));

    for (const auto & o : all) {
        llama_context * ctx = new_context(o);
        CHECK(decode_text(ctx, 0, 100) == 0);
        CHECK(max_diff(get_logits(ctx), want[0]) == 0.0f);
        for (size_t i = 1; i < want.size(); ++i) {
            decode_steps(ctx, 99 + i, 100 + i);

            const auto  logits = get_logits(ctx);
            const float diff   = max_diff(logits, want[i]);
            CHECK(keeps_stock_logits(o) ? diff == 0.0f : diff < 0.05f);
        }

        lil_sparse_info info = get_info(ctx);
        CHECK(info.n_dense == 28 && info.n_sparse == 0);

        if (o.sparse.method != LIL_SPARSE_DENSE && o.sparse.positions != LIL_POSITIONS_CLIPPED) {
            decode_steps(ctx, 128, 131);
            info = get_info(ctx);
            CHECK(info.n_dense == 28 && info.n_sparse == 3);
        }
        llama_free(ctx);
    }
}

// a set is within its budget, holds the current token, and nothing that does not exist
static void test_sets() {
    test_name = __func__;

    for (const uint32_t budget : { 48, 75 }) {
        for (const auto & o : all_methods(budget)) {
            llama_context * ctx = new_context(o);
            CHECK(decode_text(ctx, 0, 90) == 0);

            for (llama_pos p = 90; p < 140; ++p) {
                decode_steps(ctx, p, p + 1);

                const auto all = get_all(ctx);
                for (size_t i = 0; i < all.size(); ++i) {
                    const bool dense = all[i].size() == (size_t) p + 1;
                    CHECK(all[i].count(p) == 1 && *all[i].rbegin() == p && *all[i].begin() >= 0);
                    CHECK(dense || all[i].size() <= budget);
                    if (o.sparse.method == LIL_SPARSE_TIDAL || o.sparse.method == LIL_SPARSE_LESSISMORE) {
                        CHECK(dense || all[i].size() == budget);
                    }
                }

                // the last layer always reads a part
                CHECK(all.back().size() <= budget || sparse_layers.size() <= 2);
            }

            const auto info = get_info(ctx);
            CHECK(info.n_sparse == 50 && info.n_dense == 0 &&
                    info.fused == (o.sparse.form != LIL_FORM_PORTABLE && o.sparse.positions != LIL_POSITIONS_CLIPPED));
            llama_free(ctx);
        }
    }
}

// the fused and the portable form
static void test_forms() {
    test_name = __func__;

    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0 }) {
        for (auto o : all_methods(48)) {
            if (o.sparse.form != LIL_FORM_FUSED) {
                continue;
            }

            o.type_kv         = type;
            o.n_threads       = 2;
            llama_context * a = new_context(o);
            o.sparse.form     = LIL_FORM_PORTABLE;
            llama_context * b = new_context(o);

            CHECK(decode_text(a, 0, 100) == 0 && decode_text(b, 0, 100) == 0);

            double             same = 0.0;
            std::vector<float> diffs;
            for (llama_pos p = 100; p < 140; ++p) {
                decode_steps(a, p, p + 1);
                decode_steps(b, p, p + 1);
                same += jaccard(get_all(a), get_all(b)) / 40;
                diffs.push_back(median_diff(get_logits(a), get_logits(b)));
            }
            std::sort(diffs.begin(), diffs.end());

            if (same < 0.97 || diffs[20] > 0.05f) {
                fprintf(stderr, "test_forms: method %d, type %s: sets %.4f, median logit difference %.4f\n",
                        o.sparse.method, ggml_type_name(type), same, diffs[20]);
                exit(1);
            }
            CHECK(get_info(a).n_rows == get_info(b).n_rows);

            llama_free(a);
            llama_free(b);
        }
    }
}

static std::vector<uint8_t> get_state(llama_context * ctx, llama_seq_id seq_id) {
    std::vector<uint8_t> state(llama_state_seq_get_size(ctx, seq_id));
    CHECK(llama_state_seq_get_data(ctx, state.data(), state.size(), seq_id) == state.size());
    return state;
}

// How far apart the last logits of two contexts are whose cells are in a different order. The portable form, and layers
// with a sliding window, attend in that order, and a near tie may then fall otherwise; the fused form goes by position.
static bool is_exact(llama_context * ctx) {
    return get_info(ctx).fused && (int32_t) sparse_layers.size() == n_layer;
}

static float logit_diff(llama_context * a, llama_context * b) {
    return (is_exact(a) ? max_diff : median_diff)(get_logits(a), get_logits(b));
}

static float logit_limit(llama_context * ctx) {
    return is_exact(ctx) ? 0.02f : 0.06f;
}

// Two contexts that go on alike. Upstream restores a window's cells in another order, which rounds differently: a page
// at a near tie may be another one
static void check_alike(llama_context * a, llama_context * b) {
    const bool   windows = (int32_t) sparse_layers.size() != n_layer;
    const double same    = jaccard(get_all(a), get_all(b));

    CHECK(logit_diff(a, b) < logit_limit(a) || (windows && same >= 0.9 && same < 1.0 && logit_diff(a, b) < 0.2f));
}

// the next step of a sequence is the same in a context that was restored from its state
static void check_fresh(llama_context * ctx, const options & o, llama_seq_id seq_id, const char * what) {
    const auto state = get_state(ctx, seq_id);

    llama_context * fresh = new_context(o);
    CHECK(llama_state_seq_set_data(fresh, state.data(), state.size(), seq_id) == state.size());

    for (int i = 0; i < 3; ++i) {
        const llama_pos p = llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id) + 1;

        lil_set_prompt(ctx, i == 0); // as in the other one, which knows no steps
        CHECK(decode(ctx, { { text[300 + p % 50], p, seq_id } }) == 0);
        CHECK(decode(fresh, { { text[300 + p % 50], p, seq_id } }) == 0);

        const double same = jaccard(get_all(ctx, seq_id), get_all(fresh, seq_id));
        const float  diff = logit_diff(ctx, fresh);

        if (same < (is_exact(ctx) ? 0.999 : 0.97) || diff > logit_limit(ctx)) {
            fprintf(stderr, "%s, %s, method %d, form %d, step %d: sets %.4f, logits differ by %g\n", test_name, what,
                    o.sparse.method, o.sparse.form, i, same, diff);
            exit(1);
        }
    }

    llama_free(fresh);
}

static void test_edits() {
    test_name = __func__;

    for (const auto & o : all_methods(48)) {
        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        CHECK(decode_text(ctx, 0, 150) == 0);
        decode_steps(ctx, 150, 170);
        check_fresh(ctx, o, 0, "nothing done");

        // the tail, then another one
        CHECK(llama_memory_seq_rm(mem, 0, 139, -1));
        CHECK(decode_text(ctx, 139, 160) == 0);
        check_fresh(ctx, o, 0, "another tail");
        CHECK(llama_memory_seq_rm(mem, 0, 160, -1));
        check_fresh(ctx, o, 0, "a tail less");

        // the middle, which leaves a gap
        CHECK(llama_memory_seq_rm(mem, 0, 37, 61));
        check_fresh(ctx, o, 0, "a gap");

        // and the gap closed, as a context shift does
        CHECK(llama_memory_can_shift(mem));
        const llama_pos p_max = llama_memory_seq_pos_max(mem, 0);
        llama_memory_seq_add(mem, 0, 61, -1, -24);
        CHECK(llama_memory_seq_pos_max(mem, 0) == p_max - 24);
        // llama.cpp turns the keys now; a state saved before would hold them as they were
        decode_steps(ctx, p_max - 23, p_max - 22);
        check_fresh(ctx, o, 0, "a shift");

        // new tokens in old cells
        CHECK(decode_text(ctx, llama_memory_seq_pos_max(mem, 0) + 1, 190) == 0);
        decode_steps(ctx, 190, 200);
        check_fresh(ctx, o, 0, "cells used again");

        llama_free(ctx);
    }
}

static void test_sequences() {
    test_name = __func__;

    for (const bool unified : { false, true }) {
        for (auto o : all_methods(48)) {
            o.n_seq_max = 3;
            o.unified   = unified;
            o.n_ctx     = unified ? 1024 : 3 * 512;

            llama_context * ctx = new_context(o);
            llama_memory_t  mem = llama_get_memory(ctx);

            // three texts side by side, decoded together; the third is shorter than the budget
            const llama_pos n[3] = { 90, 71, 20 };
            for (llama_seq_id s = 0; s < 3; ++s) {
                std::vector<token_at> prompt;
                for (llama_pos p = 0; p < n[s]; ++p) {
                    prompt.push_back({ text[100 * s + p], p, s });
                }
                CHECK(decode(ctx, prompt) == 0);
            }

            options alone   = o;
            alone.n_seq_max = 1;
            alone.n_ctx     = 512;

            llama_context * one[3];
            for (llama_seq_id s = 0; s < 3; ++s) {
                one[s] = new_context(alone);
                std::vector<token_at> prompt;
                for (llama_pos p = 0; p < n[s]; ++p) {
                    prompt.push_back({ text[100 * s + p], p, 0 });
                }
                CHECK(decode(one[s], prompt) == 0);
            }

            double             same = 0.0;
            std::vector<float> diffs;
            for (int i = 0; i < 8; ++i) {
                std::vector<token_at> step;
                for (llama_seq_id s = 0; s < 3; ++s) {
                    step.push_back({ text[100 * s + n[s] + i], n[s] + i, s });
                }
                CHECK(decode(ctx, step) == 0);
                for (llama_seq_id s = 0; s < 3; ++s) {
                    CHECK(decode(one[s], { { step[s].token, step[s].pos, 0 } }) == 0);
                    same += jaccard(get_all(ctx, s), get_all(one[s])) / 24;
                    diffs.push_back(median_diff(get_logits(ctx, s), get_logits(one[s])));
                }
            }
            std::sort(diffs.begin(), diffs.end());
            if (same < 0.98 || diffs[diffs.size() / 2] > 0.03f) {
                fprintf(stderr, "%s: method %d, form %d, unified %d: sets %.4f, median difference %g\n", test_name,
                        o.sparse.method, o.sparse.form, unified, same, diffs[diffs.size() / 2]);
                exit(1);
            }

            // a prompt of one sequence beside steps of the others
            {
                const auto            before = get_info(ctx);
                std::vector<token_at> mixed  = { { text[98], 98, 0 } };
                for (llama_pos p = 79; p < 100; ++p) {
                    mixed.push_back({ text[100 + p], p, 1 });
                }
                CHECK(decode(ctx, mixed) == 0);
                CHECK(get_info(ctx).n_sparse >= before.n_sparse + 1);
            }
            check_fresh(ctx, o, 0, "beside a prompt");

            // a copy goes its own way
            llama_memory_seq_rm(mem, 2, -1, -1);
            llama_memory_seq_cp(mem, 0, 2, -1, -1);
            // llama.cpp copies the keys now
            CHECK(decode(ctx, { { text[7], llama_memory_seq_pos_max(mem, 2) + 1, 2 } }) == 0);
            check_fresh(ctx, o, 2, "a copy");
            check_fresh(ctx, o, 0, "the original");
            // shared cells share InfLLM's scores, see docs/select.md
            if (unified && o.sparse.method != LIL_SPARSE_INFLLM) {
                CHECK(llama_memory_seq_rm(mem, 2, 50, -1));
                check_fresh(ctx, o, 2, "a shorter copy");
                check_fresh(ctx, o, 0, "the original of a shorter copy");
            }

            llama_memory_seq_keep(mem, 0);
            check_fresh(ctx, o, 0, "kept");

            for (auto * c : one) {
                llama_free(c);
            }
            llama_free(ctx);
        }
    }
}

static void test_state() {
    test_name = __func__;

    for (const auto & o : all_methods(48)) {
        llama_context * a = new_context(o);
        CHECK(decode_text(a, 0, 130) == 0);
        decode_steps(a, 130, 140);

        std::vector<uint8_t> state(llama_state_get_size(a));
        CHECK(llama_state_get_data(a, state.data(), state.size()) == state.size());

        llama_context * b = new_context(o);
        CHECK(decode_text(b, 0, 33) == 0); // something that must go
        CHECK(llama_state_set_data(b, state.data(), state.size()) == state.size());

        decode_steps_anew(a, 140, 141);
        decode_steps_anew(b, 140, 141);

        for (llama_pos p = 141; p < 160; ++p) {
            decode_steps(a, p, p + 1);
            decode_steps(b, p, p + 1);
            check_alike(a, b);
        }

        llama_free(a);
        llama_free(b);
    }

    // a method that keeps nothing beside K and V exchanges states with the stock cache; one that does refuses a foreign
    // state
    llama_context * stock = new_context(options());
    CHECK(decode_text(stock, 0, 100) == 0);
    const auto state = get_state(stock, 0);

    llama_context * quest = new_context(make_select(LIL_SPARSE_QUEST, 48));
    CHECK(llama_state_seq_set_data(quest, state.data(), state.size(), 0) == state.size());
    decode_steps(quest, 100, 110);
    CHECK(get_info(quest).n_sparse == 9);

    llama_context * raas = new_context(make_select(LIL_SPARSE_RAAS, 48));
    CHECK(llama_state_seq_set_data(raas, state.data(), state.size(), 0) == 0);
    CHECK(llama_memory_seq_pos_max(llama_get_memory(raas), 0) == -1);
    CHECK(decode_text(raas, 0, 60) == 0);

    llama_free(stock);
    llama_free(quest);
    llama_free(raas);
}

// edits that leave many pages with a few tokens each
static void test_many_pages() {
    test_name = __func__;

    llama_context * ctx = new_context(make_select(LIL_SPARSE_QUEST, 48));
    llama_memory_t  mem = llama_get_memory(ctx);

    llama_pos p   = 0;
    int32_t   res = 0;
    while (res == 0 && p < 4096) {
        std::vector<token_at> tokens;
        for (int i = 0; i < 256; ++i) {
            tokens.push_back({ text[i], p + i, 0 });
        }
        res = decode(ctx, tokens);
        if (res == 0) {
            for (int i = 0; i < 256; i += 16) {
                CHECK(llama_memory_seq_rm(mem, 0, p + i, p + i + 15));
            }
            p += 256;
        }
    }
    CHECK(res == 1); // no room, and nothing lost
    CHECK(llama_memory_seq_pos_max(mem, 0) == p - 1);

    CHECK(llama_memory_seq_rm(mem, 0, 0, p / 2));
    CHECK(decode(ctx, { { text[0], p, 0 } }) == 0);
    CHECK(*get_held(ctx, 0, 0).begin() >= p / 2);

    llama_free(ctx);
}

// the same, where the tokens have been moved apart since, or come from a state of a larger context
static void test_pages_of_moved_tokens() {
    test_name = __func__;

    const llama_pos n = 100;

    const auto spread = [&](llama_context * ctx) { // 16 positions apart: a page each
        CHECK(decode_text(ctx, 0, n) == 0);
        for (llama_pos p = n - 1; p > 0; --p) {
            llama_memory_seq_add(llama_get_memory(ctx), 0, p, p + 1, 15 * p);
        }
        CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == 16 * (n - 1));
    };

    for (const lil_form form : { LIL_FORM_FUSED, LIL_FORM_PORTABLE }) {
        options o = make_select(LIL_SPARSE_QUEST, 48, form);

        o.n_ctx               = 2048;
        llama_context * large = new_context(o);
        spread(large);
        CHECK(decode(large, { { text[0], 16 * (n - 1) + 1, 0 } }) == 0);
        CHECK(get_info(large).n_sparse == 1);
        const auto state = get_state(large, 0);

        o.n_ctx                = 256; // 48 pages
        llama_context * moved  = new_context(o);
        llama_context * loaded = new_context(o);

        spread(moved);
        CHECK(llama_state_seq_set_data(loaded, state.data(), state.size(), 0) == state.size());

        for (llama_context * ctx : { moved, loaded }) {
            llama_memory_t mem = llama_get_memory(ctx);

            const llama_pos p = llama_memory_seq_pos_max(mem, 0) + 1;
            CHECK(decode(ctx, { { text[0], p, 0 } }) == 1); // no room, and nothing lost
            CHECK(llama_memory_seq_pos_max(mem, 0) == p - 1);

            CHECK(llama_memory_seq_rm(mem, 0, 0, 16 * 60));
            CHECK(decode(ctx, { { text[0], p, 0 } }) == 0);
            CHECK(*get_held(ctx, 0, 0).begin() >= 16 * 60);
        }

        llama_free(large);
        llama_free(moved);
        llama_free(loaded);
    }
}

// parts of a prompt that are computed in different ways, but look alike
static void test_prompt_parts() {
    test_name = __func__;

    for (auto o : all_methods(100)) {
        o.n_ubatch            = 64;
        llama_context * parts = new_context(o);
        o.n_ubatch            = 512;
        llama_context * one   = new_context(o);

        CHECK(decode_text(parts, 0, 192) == 0 && decode_text(one, 0, 192) == 0);

        std::vector<float> diffs = { median_diff(get_logits(parts), get_logits(one)) };
        for (llama_pos p = 192; p < 200; ++p) {
            decode_steps(parts, p, p + 1);
            decode_steps(one, p, p + 1);
            diffs.push_back(median_diff(get_logits(parts), get_logits(one)));
        }
        if (diffs[0] > 0.02f || *std::max_element(diffs.begin(), diffs.end()) > 0.2f) {
            fprintf(stderr, "%s: method %d, form %d, positions %d: logits differ by %g, in a step by %g\n", test_name,
                    o.sparse.method, o.sparse.form, o.sparse.positions, diffs[0],
                    *std::max_element(diffs.begin(), diffs.end()));
            exit(1);
        }

        llama_free(parts);
        llama_free(one);
    }
}

// a whole context's state in one that has fewer sequences, or more
static void test_state_of_sequences() {
    test_name = __func__;

    for (auto o : all_methods(48)) {
        o.unified = true;

        for (const uint32_t n_from : { 4, 1 }) {
            o.n_seq_max       = n_from;
            llama_context * a = new_context(o);
            o.n_seq_max       = n_from == 4 ? 1 : 4;
            llama_context * b = new_context(o);

            CHECK(decode_text(a, 0, 130) == 0);
            decode_steps(a, 130, 140);

            std::vector<uint8_t> state(llama_state_get_size(a));
            CHECK(llama_state_get_data(a, state.data(), state.size()) == state.size());
            CHECK(llama_state_set_data(b, state.data(), state.size()) == state.size());

            decode_steps_anew(a, 140, 141);
            decode_steps_anew(b, 140, 141);

            double same = 0.0;
            for (llama_pos p = 141; p < 160; ++p) {
                decode_steps(a, p, p + 1);
                decode_steps(b, p, p + 1);
                same += jaccard(get_all(a), get_all(b)) / 19;
                check_alike(a, b);
            }
            CHECK(same > (is_exact(a) ? 0.999 : 0.97));

            for (size_t i = 0; i < sparse_layers.size(); i += 3) { // scores too
                std::vector<llama_pos> pos(1024);
                std::vector<float>     sa(1024);
                std::vector<float>     sb(1024);

                const int32_t n = lil_sparse_get_slots(a, 0, sparse_layers[i], 0, pos.data(), sa.data(), pos.size());
                CHECK(n == lil_sparse_get_slots(b, 0, sparse_layers[i], 0, pos.data(), sb.data(), pos.size()));
                for (int32_t j = 0; j < n && is_exact(a); ++j) {
                    CHECK(std::fabs(sa[j] - sb[j]) < 0.02f + 0.01f * std::fabs(sa[j]));
                }
            }

            llama_free(a);
            llama_free(b);
        }
    }
}

// an aborted step leaves nothing behind
static void test_abort() {
    test_name = __func__;

    for (auto o : all_methods(48)) {
        struct countdown {
            int n;
        } count = { -1 };

        o.abort_callback = [](void * data) {
            auto * c = (countdown *) data;
            return c->n >= 0 && c->n-- == 0;
        };
        o.abort_callback_data = &count;

        llama_context * ctx = new_context(o);
        CHECK(decode_text(ctx, 0, 120) == 0);
        decode_steps(ctx, 120, 130);

        count.n = 40; // graph nodes
        CHECK(decode_text(ctx, 130, 131) != 0);
        count.n = -1;

        o.abort_callback = nullptr;

        CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == 129);
        decode_steps(ctx, 130, 134);
        check_fresh(ctx, o, 0, "after an aborted step");

        llama_free(ctx);
    }
}

static void test_probe() {
    test_name = __func__;

    const int32_t      L = sparse_layers.size();
    std::vector<float> mass(L * L, -1.0f);

    llama_context * ctx = new_context(make_select(LIL_SPARSE_PROBE, 48));
    CHECK(decode_text(ctx, 0, 100) == 0);
    decode_steps(ctx, 100, 120);

    for (const auto method : { LIL_SPARSE_TIDAL, LIL_SPARSE_LESSISMORE }) {
        CHECK(lil_probe_get(ctx, method, mass.data(), mass.size()) == L);
        for (int32_t c = 0; c < L; ++c) {
            for (int32_t l = 0; l < L; ++l) {
                CHECK(l < c ? mass[c * L + l] == 0.0f : mass[c * L + l] > 0.05f && mass[c * L + l] <= 1.0001f);
            }
        }
    }

    CHECK(lil_probe_get(ctx, LIL_SPARSE_QUEST, mass.data(), mass.size()) == -1);
    CHECK(lil_probe_get(ctx, LIL_SPARSE_TIDAL, mass.data(), 3) == -1);

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
    test_dense();
    test_sets();
    test_forms();
    test_edits();
    test_sequences();
    test_state();
    test_state_of_sequences();
    test_many_pages();
    test_pages_of_moved_tokens();
    test_prompt_parts();
    test_abort();
    test_probe();

    llama_model_free(model);

    printf("test-select: ok\n");

    return 0;
}
