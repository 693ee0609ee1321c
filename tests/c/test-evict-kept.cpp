// The evict family where a sequence goes back: what a removal may leave, and the kept ends of prompts.
//
//   test-evict-kept model.gguf

#include "sparse-common.h"

static const uint32_t BUDGET = 48;
static const uint32_t NEAR   = BUDGET / 16;

static std::vector<options> all_methods() {
    std::vector<options> res;

    for (const lil_form form : { LIL_FORM_FUSED, LIL_FORM_PORTABLE }) {
        for (const lil_sparse_method method : get_methods(family::EVICT)) {
            res.push_back(make_options(method, BUDGET));
            res.back().sparse.form   = form;
            res.back().sparse.buffer = 9;
            res.back().sparse.n_obs  = 5;
        }
    }

    res.push_back(make_options(LIL_SPARSE_SINK, BUDGET));
    res.back().sparse.positions = LIL_POSITIONS_CACHE;
    res.push_back(make_options(LIL_SPARSE_H2O, BUDGET));
    res.back().sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    res.push_back(make_options(LIL_SPARSE_H2O, BUDGET));
    res.back().sparse.recent = 1; // the end of a prompt is not protected, as with TOVA

    for (const ggml_type type : { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_F32 }) {
        for (const lil_sparse_method method : { LIL_SPARSE_SINK, LIL_SPARSE_H2O }) {
            res.push_back(make_options(method, BUDGET));
            res.back().type_kv = type;
        }
    }

    return res;
}

// what a cut leaves, with the token that it was made for
static uint32_t get_n_full(const lil_sparse_params & s) {
    return s.method == LIL_SPARSE_RKV ? s.budget - s.buffer : s.budget;
}

static bool is_swa() {
    return (int32_t) sparse_layers.size() < n_layer;
}

// what every head of a few layers holds
static std::vector<std::set<llama_pos>> get_sets(llama_context * ctx, llama_seq_id seq_id = 0) {
    std::vector<std::set<llama_pos>> res;

    for (size_t il = 0; il < sparse_layers.size(); il += 5) {
        for (int32_t h = 0; h < n_head_kv; ++h) {
            res.push_back(get_held(ctx, il, h, seq_id));
        }
    }

    return res;
}

// the logits of steps [p0, p1) and the sets after the last one
struct run {
    std::vector<std::vector<float>>  logits;
    std::vector<std::set<llama_pos>> sets;
};

static run take_steps(llama_context * ctx, llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
    run res;

    for (llama_pos p = p0; p < p1; ++p) {
        decode_steps(ctx, p, p + 1, seq_id);
        res.logits.push_back(get_logits(ctx));
    }
    res.sets = get_sets(ctx, seq_id);

    return res;
}

// the first one as after a state was loaded
static run take_steps_anew(llama_context * ctx, llama_pos p0, llama_pos p1) {
    lil_set_prompt(ctx, true);
    run res = take_steps(ctx, p0, p0 + 1);
    lil_set_prompt(ctx, false);

    const run rest = take_steps(ctx, p0 + 1, p1);

    res.logits.insert(res.logits.end(), rest.logits.begin(), rest.logits.end());
    res.sets = rest.sets;

    return res;
}

// Bit for bit. Cells of a sliding window are in another order the second time, which rounds differently, and near ties
// of scores may then fall otherwise.
static void check_same(const run & a, const run & b) {
    CHECK(a.logits.size() == b.logits.size());

    for (size_t i = 0; i < a.logits.size(); ++i) {
        CHECK(max_diff(a.logits[i], b.logits[i]) <= (!is_swa() ? 0.0f : i == 0 ? 5e-2f : 5.0f));
    }
    CHECK(is_swa() || a.sets == b.sets);
}

// after an eviction the tail goes if every head holds it and enough is left; seq_pos_min says from where on
static void test_rule() {
    test_name = __func__;

    for (auto o : all_methods()) {
        o.sparse.kept_prompts = 0;

        for (const llama_pos p_end : { 104, 131 }) {
            llama_context * ctx = new_context(o);
            llama_memory_t  mem = llama_get_memory(ctx);

            CHECK(decode_text(ctx, 0, 100) == 0);
            decode_steps(ctx, 100, p_end);

            std::vector<uint8_t> state(llama_state_get_size(ctx));
            CHECK(llama_state_get_data(ctx, state.data(), state.size()) == state.size());

            int n_gone = 0;

            for (llama_pos p0 = p_end - 1; p0 > p_end - 20; --p0) {
                CHECK(llama_state_set_data(ctx, state.data(), state.size()) == state.size());

                const auto before  = get_sets(ctx);
                const auto pos_min = llama_memory_seq_pos_min(mem, 0);

                bool whole = true;
                for (const auto & held : before) {
                    for (llama_pos p = p0; p < p_end; ++p) {
                        whole = whole && held.count(p);
                    }
                }

                const uint32_t n_rest = before[0].size() - std::min<size_t>(before[0].size(), p_end - p0);
                const bool     enough = n_rest + NEAR >= std::min<uint32_t>(p0, get_n_full(o.sparse));

                const bool gone = llama_memory_seq_rm(mem, 0, p0, -1);

                CHECK(!gone || (whole && enough));
                CHECK(gone == (p0 >= pos_min) || p0 == p_end - 1); // the last one is promised to no one
                if (gone) {
                    n_gone++;
                    CHECK(get_sets(ctx)[0].size() == n_rest && llama_memory_seq_pos_max(mem, 0) == p0 - 1);
                } else {
                    CHECK(get_sets(ctx) == before && llama_memory_seq_pos_max(mem, 0) == p_end - 1);
                    CHECK(llama_memory_seq_pos_min(mem, 0) == pos_min);
                }

                // either way it goes on
                const llama_pos p = llama_memory_seq_pos_max(mem, 0) + 1;
                decode_steps(ctx, p, p + 5);
            }

            CHECK(n_gone >= (o.sparse.method == LIL_SPARSE_TOVA || o.sparse.recent == 1 ? 1 : (int) NEAR));

            llama_free(ctx);
        }
    }
}

// back to the end of a prompt: as if the answer had not been written
static void test_restore() {
    test_name = __func__;

    for (const auto & o : all_methods()) {
        for (const llama_pos n_prompt : { 30, 48, 49, 100 }) {
            llama_context * ctx = new_context(o);
            llama_memory_t  mem = llama_get_memory(ctx);

            CHECK(decode_text(ctx, 0, n_prompt) == 0);
            const run want = take_steps(ctx, n_prompt, n_prompt + 45);

            CHECK(get_info(ctx).n_kept == 1 && get_info(ctx).n_restored == 0);

            // in between is gone, and nothing changes
            const auto sets = get_sets(ctx);
            CHECK(!llama_memory_seq_rm(mem, 0, n_prompt + 1, -1));
            CHECK(!llama_memory_seq_rm(mem, 0, n_prompt, n_prompt + 10));
            CHECK(get_sets(ctx) == sets && llama_memory_seq_pos_max(mem, 0) == n_prompt + 44);

            for (uint64_t i = 1; i <= 2; ++i) {
                CHECK(llama_memory_seq_rm(mem, 0, n_prompt, -1));
                CHECK(get_info(ctx).n_restored == i && get_info(ctx).n_kept == 1);
                CHECK(llama_memory_seq_pos_max(mem, 0) == n_prompt - 1);

                check_same(take_steps(ctx, n_prompt, n_prompt + 45), want);
            }

            // hosts evaluate the last token again
            CHECK(llama_memory_seq_rm(mem, -1, n_prompt - 1, -1));
            CHECK(get_info(ctx).n_restored == 3 && get_info(ctx).n_kept == 1);
            CHECK(llama_memory_seq_pos_max(mem, 0) == n_prompt - 2);

            const uint32_t n_kept =
                    std::min<uint32_t>(n_prompt, get_n_full(o.sparse) - (n_prompt >= (llama_pos) BUDGET ? 1 : 0));
            for (const auto & held : get_sets(ctx)) {
                CHECK(held.size() == n_kept - 1 && *held.rbegin() <= n_prompt - 2);
            }

            take_steps(ctx, n_prompt - 1, n_prompt + 40);

            // a few tokens before it; further back only where the prompt was kept whole
            CHECK(llama_memory_seq_rm(mem, 0, n_prompt - NEAR, -1));
            CHECK(decode_text(ctx, n_prompt - NEAR, n_prompt + 20) == 0);
            take_steps(ctx, n_prompt + 20, n_prompt + 60);

            CHECK(llama_memory_seq_rm(mem, 0, n_prompt - NEAR - 1, -1) == (n_prompt < (llama_pos) BUDGET));

            llama_free(ctx);
        }
    }
}

// a prompt within the budget is kept whole: any part of it is as good as fresh
static void test_whole() {
    test_name = __func__;

    for (const auto & o : all_methods()) {
        llama_context * ctx   = new_context(o);
        llama_context * fresh = new_context(o);

        CHECK(decode_text(ctx, 0, 40) == 0);
        take_steps(ctx, 40, 100);
        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 25, -1));
        CHECK(llama_memory_seq_pos_min(llama_get_memory(ctx), 0) == 0);

        CHECK(decode_text(fresh, 0, 25) == 0);

        for (llama_context * c : { ctx, fresh }) {
            decode_steps(c, 25, 40);
        }
        CHECK(get_sets(ctx) == get_sets(fresh));
        CHECK(max_diff(get_logits(ctx), get_logits(fresh)) < (ggml_is_quantized(o.type_kv) ? 2.0f : 0.1f));

        llama_free(ctx);
        llama_free(fresh);
    }
}

// a chat: the last prompts are kept, older ones are not
static void test_turns() {
    test_name = __func__;

    for (auto o : all_methods()) {
        std::vector<uint64_t> bytes;

        for (const uint32_t n_kept : { 0, 1, 2, 3 }) {
            o.sparse.kept_prompts = n_kept;

            llama_context * ctx = new_context(o);
            llama_memory_t  mem = llama_get_memory(ctx);

            run want;
            for (llama_pos p = 0; p < 240; p += 80) { // prompts end at 50, 130, 210
                CHECK(decode_text(ctx, p, p + 50) == 0);
                want = take_steps(ctx, p + 50, p + 80);
            }
            CHECK(get_info(ctx).n_kept == n_kept);
            bytes.push_back(get_info(ctx).kv_bytes);

            if (n_kept == 0) {
                CHECK(!llama_memory_seq_rm(mem, 0, 210, -1) && !llama_memory_seq_rm(mem, 0, 209, -1));
            } else {
                CHECK(llama_memory_seq_rm(mem, 0, 210, -1));
                check_same(take_steps(ctx, 210, 240), want);
            }

            CHECK(llama_memory_seq_rm(mem, 0, 130, -1) == (n_kept > 1));
            CHECK(get_info(ctx).n_kept == (n_kept > 1 ? n_kept - 1 : n_kept));
            CHECK(llama_memory_seq_rm(mem, 0, 49, -1) == (n_kept > 2));

            // a sequence that goes takes them along
            CHECK(llama_memory_seq_rm(mem, 0, -1, -1));
            CHECK(get_info(ctx).n_kept == 0);
            CHECK(decode_text(ctx, 0, 60) == 0);
            decode_steps(ctx, 60, 70);
            CHECK(get_info(ctx).n_kept == std::min(1u, n_kept));
            llama_memory_clear(mem, true);
            CHECK(get_info(ctx).n_kept == 0);

            llama_free(ctx);
        }

        // B - 1 slots each
        CHECK(bytes[1] - bytes[0] == bytes[2] - bytes[1] && bytes[2] - bytes[1] == bytes[3] - bytes[2]);
        CHECK(bytes[1] - bytes[0] >= bytes[0] / o.n_ctx * (BUDGET - 1) * 9 / 10 ||
                o.sparse.prompt_scores == LIL_PROMPT_SCORES_WINDOW);
        CHECK(bytes[1] - bytes[0] <= bytes[0] / o.n_ctx * (BUDGET - 1) * 11 / 10 || o.sparse.method == LIL_SPARSE_RKV);
    }
}

// prompts beyond the capacity, which are cut as they come
static void test_capacity() {
    test_name = __func__;

    for (auto o : all_methods()) {
        o.sparse.capacity = 256;
        o.n_ctx           = 2048;

        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        for (llama_pos p = 0; p < 500; p += 100) {
            CHECK(decode_text(ctx, p, p + 100) == 0);
        }
        const run want = take_steps(ctx, 500, 530);

        CHECK(llama_memory_seq_rm(mem, 0, 500, -1));
        check_same(take_steps(ctx, 500, 530), want);

        CHECK(decode_text(ctx, 530, 630) == 0);
        take_steps(ctx, 630, 650);
        CHECK(llama_memory_seq_rm(mem, 0, 629, -1) && llama_memory_seq_rm(mem, 0, 500, -1));
        check_same(take_steps(ctx, 500, 530), want);

        llama_free(ctx);
    }
}

// several sequences, each with its own, in one batch; copies take them along
static void test_sequences() {
    test_name = __func__;

    for (auto o : all_methods()) {
        o.n_seq_max = 3;
        o.n_ctx     = 3 * 512;

        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        const llama_pos n_prompt[] = { 100, 60, 80 };
        for (llama_seq_id s = 0; s < 3; ++s) {
            CHECK(decode_text(ctx, 0, n_prompt[s], s) == 0);
        }

        const auto steps = [&](int n, llama_pos d) {
            std::vector<std::vector<float>> res;
            for (llama_pos i = d; i < d + n; ++i) {
                std::vector<token_at> batch;
                for (llama_seq_id s = 0; s < 3; ++s) {
                    batch.push_back({ text[n_prompt[s] + i], n_prompt[s] + i, s });
                }
                CHECK(decode(ctx, batch) == 0);
                for (llama_seq_id s = 0; s < 3; ++s) {
                    res.push_back(get_logits(ctx, s));
                }
            }
            return res;
        };

        const auto want = steps(40, 0);
        CHECK(get_info(ctx).n_kept == 3);

        // all of them or none: the end of one is not that of another
        CHECK(!llama_memory_seq_rm(mem, -1, 100, -1));
        CHECK(llama_memory_seq_pos_max(mem, 0) == 139 && llama_memory_seq_pos_max(mem, 1) == 99 &&
                llama_memory_seq_pos_max(mem, 2) == 119);

        for (llama_seq_id s = 0; s < 3; ++s) {
            CHECK(llama_memory_seq_rm(mem, s, n_prompt[s], -1));
        }
        const auto again = steps(40, 0);
        for (size_t i = 0; i < want.size(); ++i) {
            CHECK(max_diff(want[i], again[i]) <= (is_swa() ? 5e-2f : 0.0f));
        }

        // a copy goes back as its source does
        llama_memory_seq_rm(mem, 2, -1, -1);
        llama_memory_seq_cp(mem, 0, 2, -1, -1);
        CHECK(get_info(ctx).n_kept == 3);
        CHECK(llama_memory_seq_rm(mem, 2, 100, -1));
        CHECK(llama_memory_seq_rm(mem, 0, 100, -1));
        CHECK(get_sets(ctx, 0) == get_sets(ctx, 2));
        CHECK(decode(ctx, { { text[100], 100, 0 }, { text[100], 100, 2 } }) == 0);
        CHECK(max_diff(get_logits(ctx, 0), get_logits(ctx, 1)) < 1e-4f);

        // a copy of what was there at the end of the prompt
        if (!is_swa()) { // llama.cpp copies whole windows only
            decode_steps(ctx, 101, 150, 0);
            llama_memory_seq_cp(mem, 0, 2, 0, 100);
            CHECK(llama_memory_seq_pos_max(mem, 2) == 99 && llama_memory_seq_pos_max(mem, 0) == 149);
            CHECK(max_diff(take_steps(ctx, 100, 101, 2).logits[0], want[0]) < 1.5f); // another size of batch
        }

        llama_memory_seq_keep(mem, 1);
        CHECK(get_info(ctx).n_kept == 1);
        CHECK(llama_memory_seq_rm(mem, 1, 60, -1));

        llama_free(ctx);
    }
}

// states carry them
static void test_state() {
    test_name = __func__;

    for (auto o : all_methods()) {
        llama_context * ctx = new_context(o);

        for (llama_pos p = 0; p < 160; p += 80) {
            CHECK(decode_text(ctx, p, p + 50) == 0);
            take_steps(ctx, p + 50, p + 80);
        }

        std::vector<uint8_t> state(llama_state_get_size(ctx));
        CHECK(llama_state_get_data(ctx, state.data(), state.size()) == state.size());
        std::vector<uint8_t> state_seq(llama_state_seq_get_size(ctx, 0));
        CHECK(llama_state_seq_get_data(ctx, state_seq.data(), state_seq.size(), 0) == state_seq.size());

        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 130, -1));
        const run want = take_steps_anew(ctx, 130, 160);

        // whatever happens to the context meanwhile
        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 49, -1));
        CHECK(decode_text(ctx, 49, 100) == 0);
        decode_steps(ctx, 100, 120);

        for (const uint32_t n_kept : { 2, 1, 0, 5 }) {
            o.sparse.kept_prompts = n_kept;

            llama_context * other = new_context(o);
            llama_memory_t  mem   = llama_get_memory(other);

            for (const bool one : { false, true }) {
                if (one) {
                    CHECK(llama_state_seq_set_data(other, state_seq.data(), state_seq.size(), 0) == state_seq.size());
                } else {
                    CHECK(llama_state_set_data(other, state.data(), state.size()) == state.size());
                }
                CHECK(get_info(other).n_kept == std::min(2u, n_kept));

                // a sequence's state has no more of a sliding window than its last token sees
                const bool narrow = one && is_swa();

                CHECK(llama_memory_seq_rm(mem, 0, 130, -1) == (n_kept > 0 && !narrow));
                if (n_kept > 0 && !narrow) {
                    check_same(take_steps_anew(other, 130, 160), want);
                }
                CHECK(llama_memory_seq_rm(mem, 0, 50, -1) == (n_kept > 1) || is_swa());
            }
            llama_free(other);
        }

        // back and forth within one context
        CHECK(llama_state_set_data(ctx, state.data(), state.size()) == state.size());
        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 130, -1));
        check_same(take_steps_anew(ctx, 130, 160), want);

        llama_free(ctx);
    }
}

// A damaged state is refused with a reason, and the context works. Counts begin behind the header, which begins with
// "lile".
static void test_damaged_state() {
    test_name = __func__;

    for (auto o : all_methods()) {
        llama_context * ctx = new_context(o);
        CHECK(decode_text(ctx, 0, 100) == 0);
        decode_steps(ctx, 100, 130);

        std::vector<uint8_t> state(llama_state_seq_get_size(ctx, 0));
        CHECK(llama_state_seq_get_data(ctx, state.data(), state.size(), 0) == state.size());

        const char magic[] = { 'e', 'l', 'i', 'l' };
        const auto it      = std::search(state.begin(), state.end(), magic, magic + 4);
        CHECK(it != state.end());
        const size_t i0 = it - state.begin() + 64;

        enum { N_USED, N_EVICTED, N_WIN, POS_FIRST, POS_NEXT, POS_WHOLE, IN_PROMPT, N_SLOT_POS, SLOT_POS };

        const bool is_sink = o.sparse.method == LIL_SPARSE_SINK;

        int32_t counts[SLOT_POS + 8];
        memcpy(counts, state.data() + i0, sizeof(counts));
        CHECK(counts[POS_NEXT] == 130 && counts[N_SLOT_POS] == (is_sink ? counts[N_USED] : 0));

        // each of them alone, and two together that fit each other
        std::vector<std::vector<std::pair<int, int32_t>>> cases = {
            { { N_SLOT_POS, is_sink ? 1 : counts[N_USED] } }, // in part; where there are none
            { { N_SLOT_POS, is_sink ? 0 : 1 } },
            { { POS_NEXT, counts[N_USED] - 1 } },
            { { POS_NEXT, counts[N_USED] - 1 }, { N_EVICTED, -1 } },
            { { N_USED, 1025 } },
            { { N_USED, counts[N_USED] - 1 } },
            { { N_EVICTED, 0 } },
            { { POS_FIRST, -5 } },
            { { POS_WHOLE, 131 } },
            { { POS_WHOLE, -1 } },
            { { N_WIN, 1000 } },
        };
        if (is_sink) {
            cases.push_back({ { SLOT_POS + 5, 129 } }); // a position twice
            cases.push_back({ { SLOT_POS + 5, -1 } });
            cases.push_back({ { SLOT_POS + 5, 1 << 20 } });
            cases.push_back({ { SLOT_POS + 0, 60 } });
        }

        for (const auto & changes : cases) {
            auto bad = state;
            for (const auto & [i, value] : changes) {
                memcpy(bad.data() + i0 + i * sizeof(int32_t), &value, sizeof(value));
            }
            CHECK(llama_state_seq_set_data(ctx, bad.data(), bad.size(), 0) == 0);
            CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == -1);
        }

        // cut short anywhere
        for (size_t n = 0; n < state.size(); n += state.size() / 37) {
            CHECK(llama_state_seq_set_data(ctx, state.data(), n, 0) == 0);
        }

        CHECK(llama_state_seq_set_data(ctx, state.data(), state.size(), 0) == state.size());
        decode_steps(ctx, 130, 140);

        llama_free(ctx);
    }
}

// a step that is aborted keeps nothing half-way
static void test_abort() {
    test_name = __func__;

    struct countdown {
        int n = -1; // calls until the abort; -1: never
    };

    for (auto o : all_methods()) {
        countdown cd;
        o.abort_callback_data = &cd;
        o.abort_callback      = [](void * data) {
            int & n = ((countdown *) data)->n;
            return n >= 0 && n-- == 0;
        };

        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        CHECK(decode_text(ctx, 0, 30) == 0);
        cd.n = 30;
        CHECK(decode_text(ctx, 30, 31) == 2);
        cd.n = -1;
        CHECK(get_info(ctx).n_kept == 0);

        if (o.sparse.prompt_scores == LIL_PROMPT_SCORES_WINDOW) { // its queries were being counted: removed
            CHECK(llama_memory_seq_pos_max(mem, 0) == -1);
            CHECK(decode_text(ctx, 0, 30) == 0);
        }
        CHECK(llama_memory_seq_pos_max(mem, 0) == 29);

        const run want = take_steps(ctx, 30, 90);
        CHECK(get_info(ctx).n_kept == 1);
        CHECK(llama_memory_seq_rm(mem, 0, 30, -1));
        check_same(take_steps(ctx, 30, 90), want);

        llama_free(ctx);
    }
}

// a sliding window that has forgotten what it held at the end of the prompt: both halves stay as they are
static void test_window() {
    test_name = __func__;

    if (!is_swa()) {
        return;
    }

    for (auto o : all_methods()) {
        o.swa_full = false;

        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        CHECK(decode_text(ctx, 0, 100) == 0);
        take_steps(ctx, 100, 500);

        const auto sets    = get_sets(ctx);
        const auto pos_min = llama_memory_seq_pos_min(mem, 0);

        CHECK(get_info(ctx).n_kept == 1);
        CHECK(!llama_memory_seq_rm(mem, 0, 100, -1));
        CHECK(get_info(ctx).n_kept == 1 && get_info(ctx).n_restored == 0);
        CHECK(get_sets(ctx) == sets && llama_memory_seq_pos_min(mem, 0) == pos_min &&
                llama_memory_seq_pos_max(mem, 0) == 499);

        decode_steps(ctx, 500, 520);
        CHECK(llama_memory_seq_rm(mem, 0, 0, -1));
        CHECK(llama_memory_seq_pos_max(mem, 0) == -1);

        llama_free(ctx);
    }
}

static void test_errors() {
    test_name = __func__;

    options o             = make_options(LIL_SPARSE_H2O, BUDGET);
    o.sparse.kept_prompts = 65;
    CHECK(!lil_init_from_model(model, make_cparams(o), o.sparse) && strstr(lil_last_error(), "kept_prompts = 65"));

    o = make_options(LIL_SPARSE_QUEST, BUDGET);
    CHECK(o.sparse.kept_prompts == 0);
    o.sparse.kept_prompts = 1;
    CHECK(!lil_init_from_model(model, make_cparams(o), o.sparse) && strstr(lil_last_error(), "kept_prompts = 1"));

    // a budget that nothing is ever evicted for
    o                     = make_options(LIL_SPARSE_H2O, 4096);
    llama_context * ctx   = new_context(o);
    o.sparse.kept_prompts = 0;
    llama_context * none  = new_context(o);
    CHECK(get_info(ctx).kv_bytes == get_info(none).kv_bytes);
    llama_free(ctx);
    llama_free(none);
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
    test_rule();
    test_restore();
    test_whole();
    test_turns();
    test_capacity();
    test_sequences();
    test_state();
    test_damaged_state();
    test_abort();
    test_window();

    llama_model_free(model);

    printf("test-evict-kept: ok\n");

    return 0;
}
