// What a decode step is: which tokens a sparse method treats as one, for hosts that know nothing of it.
//
//   test-steps tiny.gguf
//
// The rule itself is compared with a slow reference over random batches and edits; what it makes of a prompt with full
// attention.

#include "sparse-common.h"

#include <map>
#include <random>

static std::vector<options> all_methods(uint32_t budget) {
    std::vector<options> res;

    for (const auto method : get_methods()) {
        res.push_back(make_options(method, budget));

        if (method == LIL_SPARSE_RKV) {
            res.back().sparse.buffer = budget / 4;
        }
    }
    for (const auto method : { LIL_SPARSE_H2O, LIL_SPARSE_QUEST, LIL_SPARSE_INFLLM }) {
        res.push_back(make_options(method, budget));
        res.back().sparse.form = LIL_FORM_PORTABLE;
    }
    res.push_back(make_options(LIL_SPARSE_H2O, budget));
    res.back().sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    res.push_back(make_options(LIL_SPARSE_INFLLM, budget));
    res.back().sparse.positions = LIL_POSITIONS_CLIPPED;

    return res;
}

// text[p0, p1), whose logits are asked for where ask says so
static void decode_asking(llama_context * ctx, llama_pos p0, llama_pos p1, const std::function<bool(llama_pos)> & ask,
        llama_seq_id seq_id = 0) {
    llama_batch batch = llama_batch_init(p1 - p0, 0, 1);

    for (llama_pos p = p0; p < p1; ++p) {
        const int32_t i = batch.n_tokens++;

        batch.token[i]     = text[p];
        batch.pos[i]       = p;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq_id;
        batch.logits[i]    = ask(p);
    }

    CHECK(llama_decode(ctx, batch) == 0);
    llama_batch_free(batch);
}

static void decode_silent(llama_context * ctx, llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
    decode_asking(ctx, p0, p1, [](llama_pos) { return false; }, seq_id);
}

static constexpr llama_pos N = 97; // tokens of the prompt: not a multiple of a page, above the budget

// steps so far, and of these the sparse ones
static std::pair<uint64_t, uint64_t> get_steps(llama_context * ctx) {
    const auto info = get_info(ctx);

    return { info.n_dense + info.n_sparse, info.n_sparse };
}

//
// tests
//

// a prompt's logits are full attention's bit for bit, however it comes
static void test_prompts() {
    const std::pair<const char *, std::function<void(llama_context * ctx)>> ways[] = {
        { "at once", [](llama_context * ctx) { CHECK(decode_text(ctx, 0, N) == 0); } },
        { "the same request again: all but the last token is in the cache",
                [](llama_context * ctx) {
                    CHECK(decode_text(ctx, 0, N) == 0);
                    CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, N - 1, -1));
                    CHECK(decode_text(ctx, N - 1, N) == 0);
                } },
        { "a batch ended before the last token",
                [](llama_context * ctx) {
                    decode_silent(ctx, 0, N - 1);
                    CHECK(decode_text(ctx, N - 1, N) == 0);
                } },
        { "token by token",
                [](llama_context * ctx) {
                    for (llama_pos p = 0; p < N - 1; ++p) {
                        decode_silent(ctx, p, p + 1);
                    }
                    CHECK(decode_text(ctx, N - 1, N) == 0);
                } },
        { "all logits are looked at, which the host declares",
                [](llama_context * ctx) {
                    lil_set_prompt(ctx, true);
                    decode_asking(ctx, 0, N - 1, [](llama_pos) { return true; });
                    decode_asking(ctx, N - 1, N, [](llama_pos) { return true; });
                    lil_set_prompt(ctx, false);
                } },
    };

    for (const auto & way : ways) {
        llama_context * full = new_context({});

        way.second(full);
        const auto want = get_logits(full);

        llama_free(full);

        for (const auto & o : all_methods(48)) {
            llama_context * ctx = new_context(o);

            way.second(ctx);

            // clipped positions are part of a prompt too
            const bool same = o.sparse.positions == LIL_POSITIONS_CLIPPED || max_diff(want, get_logits(ctx)) == 0.0f;
            if (!same || get_steps(ctx).first != 0) {
                fprintf(stderr, "method %d, form %d: %s: %d steps\n", o.sparse.method, o.sparse.form, way.first,
                        (int) get_steps(ctx).first);
            }
            CHECK(same);
            CHECK(get_steps(ctx).first == 0);

            // what comes next was sampled
            CHECK(decode_text(ctx, N, N + 1) == 0);
            CHECK(get_steps(ctx).first == 1 && get_steps(ctx).second == 1);

            llama_free(ctx);
        }
    }
}

// how far the steps of one batch may lie from those of one batch each: several go through one graph where a method can,
// and products of several rows round in another way
static float draft_limit(const options & o) {
    const bool apart = lil_sparse_evicts(o.sparse.method) || o.sparse.form == LIL_FORM_PORTABLE ||
            o.sparse.method == LIL_SPARSE_INFLLM || o.sparse.method == LIL_SPARSE_RAAS;

    return apart ? 0.0f : 0.02f;
}

// the steps of an answer are sparse, from the first one on, and those of one batch equal those of one batch each
static void test_answers() {
    for (const auto & o : all_methods(48)) {
        llama_context * one  = new_context(o);
        llama_context * many = new_context(o);

        CHECK(decode_text(one, 0, N) == 0);
        std::vector<std::vector<float>> want;
        for (llama_pos p = N; p < N + 12; ++p) {
            CHECK(decode_text(one, p, p + 1) == 0);
            want.push_back(get_logits(one));
        }
        CHECK(get_steps(one).first == 12 && get_steps(one).second == 12);

        CHECK(decode_text(many, 0, N) == 0);
        decode_asking(many, N, N + 12, [](llama_pos) { return true; });
        CHECK(get_steps(many) == get_steps(one));

        int n_off = 0;
        for (int32_t i = 0; i < 12; ++i) {
            n_off += max_diff(want[i], get_logits(many, i)) > draft_limit(o);
        }
        CHECK(n_off <= (draft_limit(o) > 0.0f ? 2 : 0)); // near ties, see test_drafts()

        // the turn that follows is a prompt, whatever lies in front of it
        decode_asking(many, N + 12, N + 20, [](llama_pos p) { return p == N + 12 || p == N + 19; });
        CHECK(get_steps(many).first == 13); // its first token was sampled

        llama_free(one);
        llama_free(many);
    }
}

// Drafts of 1 to 20 tokens, of which a random part is rejected, in two sequences, beside single steps. The texts are
// those of one long random sequence each: what a draft had wrong is what it has instead.
static void test_drafts() {
    std::mt19937 rng(18);

    const auto any = [&](int n) { return (int) (rng() % n); };

    for (auto o : all_methods(48)) {
        if (lil_sparse_evicts(o.sparse.method) || o.sparse.method == LIL_SPARSE_RAAS ||
                o.sparse.method == LIL_SPARSE_INFLLM) {
            continue; // a rejected draft has evicted tokens, stamped pages, or been counted
        }

        o.n_seq_max = 2;
        o.n_ctx     = 2 * 512;

        for (const bool unified : { false, true }) {
            o.unified = unified;

            llama_context * draft = new_context(o);

            o.unified = false;

            llama_context * single[2] = { new_context(o), new_context(o) };

            const llama_pos n_prompt[2] = { N, 30 }; // the second one passes the budget on its way

            for (int s = 0; s < 2; ++s) {
                CHECK(decode_text(draft, 0, n_prompt[s], s) == 0);
                CHECK(decode_text(single[s], 0, n_prompt[s]) == 0);
            }

            llama_pos n_past[2] = { n_prompt[0], n_prompt[1] };

            int n_right_all = 0;
            int n_off       = 0; // another token or page was chosen, of two whose scores differ by rounding

            for (int round = 0; round < 12; ++round) {
                std::vector<token_at> tokens;

                int n_draft[2];
                int n_right[2];

                for (int s = 0; s < 2; ++s) {
                    n_draft[s] = any(4) == 0 ? 1 + any(20) : 1 + any(5);
                    n_right[s] = 1 + any(n_draft[s]);

                    for (int i = 0; i < n_draft[s]; ++i) {
                        const llama_pos p = n_past[s] + i;

                        tokens.push_back({ i < n_right[s] ? text[p] : text[p + 7], p, s });
                    }
                }

                CHECK(decode(draft, tokens, /*.all =*/true) == 0);

                for (int s = 0, first = 0; s < 2; first += n_draft[s], ++s) {
                    for (int i = 0; i < n_right[s]; ++i) {
                        const llama_pos p = n_past[s] + i;

                        CHECK(decode_text(single[s], p, p + 1) == 0);

                        n_right_all++;
                        n_off += max_diff(get_logits(single[s]), get_logits(draft, first + i)) > 0.02f;
                    }

                    n_past[s] += n_right[s];
                    CHECK(llama_memory_seq_rm(llama_get_memory(draft), s, n_past[s], -1));
                }
            }

            if (n_off * 20 > n_right_all) {
                fprintf(stderr, "method %d, form %d, unified %d: %d of %d tokens are off\n", o.sparse.method,
                        o.sparse.form, unified, n_off, n_right_all);
            }
            CHECK(n_off * 20 <= n_right_all);
            CHECK(o.sparse.method == LIL_SPARSE_DENSE || get_info(draft).n_sparse > 40);

            llama_free(draft);
            llama_free(single[0]);
            llama_free(single[1]);
        }
    }
}

// steps of some sequences and prompts of others in one batch
static void test_mixed_batches() {
    for (auto o : all_methods(48)) {
        o.n_seq_max = 3;
        o.n_ctx     = 3 * 512;

        for (const bool unified : { false, true }) {
            if (unified && lil_sparse_evicts(o.sparse.method)) {
                continue;
            }
            o.unified = unified;

            llama_context * ctx = new_context(o);

            CHECK(decode_text(ctx, 0, N, 0) == 0);
            CHECK(decode_text(ctx, 0, N, 2) == 0);
            CHECK(get_steps(ctx).first == 0);

            // a step of 0, a prompt of 1, a step of 2
            std::vector<token_at> tokens = { { text[N], N, 0 } };
            for (llama_pos p = 0; p < N; ++p) {
                tokens.push_back({ text[p], p, 1 });
            }
            tokens.push_back({ text[N], N, 2 });

            CHECK(decode(ctx, tokens) == 0);
            CHECK(get_steps(ctx).first == 2 && get_steps(ctx).second == 2);

            const auto step_0 = get_logits(ctx, 0);
            const auto prompt = get_logits(ctx, N);
            const auto step_2 = get_logits(ctx, N + 1);

            llama_free(ctx);

            // each alone
            o.unified = false;
            ctx       = new_context(o);

            // in a cache that sequences share, attention sums over other cells
            const float limit = unified ? 0.02f : 0.0f;

            CHECK(decode_text(ctx, 0, N, 0) == 0);
            CHECK(max_diff(prompt, get_logits(ctx)) <= limit);
            CHECK(decode_text(ctx, N, N + 1, 0) == 0);
            CHECK(max_diff(step_0, get_logits(ctx)) <= 0.02f); // two steps at once
            CHECK(max_diff(step_2, get_logits(ctx)) <= 0.02f);

            llama_free(ctx);
        }
    }
}

// what the context counts as steps, against the rule, over random batches, removals, copies and states
static void test_rule() {
    std::mt19937 rng(16);

    const auto any = [&](int n) { return (int) (rng() % n); };

    for (const auto method : { LIL_SPARSE_SINK, LIL_SPARSE_QUEST }) {
        options o   = make_options(method, 512); // above all texts: no eviction, removals succeed
        o.n_seq_max = 2;
        o.n_ctx     = 2 * 512;

        llama_context * ctx = new_context(o);

        std::vector<bool> asked[2];

        uint64_t want = 0;

        for (int round = 0; round < 400; ++round) {
            const int s = any(2);

            auto & seq = asked[s];

            switch (any(8)) {
                case 0: { // a tail goes, or nothing
                    const llama_pos p0 = any(seq.size() + 2);
                    // a sliding window may have forgotten too much
                    if (llama_memory_seq_rm(llama_get_memory(ctx), s, p0, -1)) {
                        seq.resize(std::min<size_t>(seq.size(), p0));
                    }
                    break;
                }
                case 1: { // a state comes back
                    std::vector<uint8_t> state(llama_state_seq_get_size(ctx, s));
                    CHECK(llama_state_seq_get_data(ctx, state.data(), state.size(), s) == state.size());
                    CHECK(llama_state_seq_set_data(ctx, state.data(), state.size(), s) == state.size());
                    std::fill(seq.begin(), seq.end(), false);
                    break;
                }
                case 2: // takes the place of what was there
                    llama_memory_seq_cp(llama_get_memory(ctx), s, 1 - s, -1, -1);
                    asked[1 - s] = seq;
                    break;
                default: {
                    const bool declared = any(8) == 0;
                    const int  n        = 1 + (any(2) ? 0 : any(12));
                    const int  often    = any(3);

                    if (seq.size() + n > 500) {
                        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), s, -1, -1));
                        seq.clear();
                    }

                    lil_set_prompt(ctx, declared);

                    const llama_pos p0 = seq.size();

                    std::map<llama_pos, bool> ask;
                    for (llama_pos p = p0; p < p0 + n; ++p) {
                        ask[p] = often == 2 || (often == 1 && any(2));
                    }

                    decode_asking(ctx, p0, p0 + n, [&](llama_pos p) { return ask[p]; }, s);

                    for (llama_pos p = p0; p < p0 + n; ++p) {
                        want += !declared && ask[p] && p > 0 && seq[p - 1];
                        seq.push_back(ask[p]);
                    }
                    break;
                }
            }

            CHECK(get_steps(ctx).first == want);
        }
        CHECK(want > 100);

        llama_free(ctx);
    }
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.gguf\n", argv[0]);
        return 1;
    }
    if (!load_model(argv[1])) {
        return 1;
    }

    const struct {
        const char * name;
        void (*run)();
    } tests[] = {
        { "prompts", test_prompts },
        { "answers", test_answers },
        { "drafts", test_drafts },
        { "mixed batches", test_mixed_batches },
        { "rule", test_rule },
    };

    for (const auto & test : tests) {
        test_name = test.name;
        test.run();
        printf("%-20s ok\n", test.name);
    }

    llama_model_free(model);
    llama_backend_free();

    return 0;
}
