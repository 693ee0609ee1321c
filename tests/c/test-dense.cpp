// Full attention through the fused op: where it is taken without being asked for, what it agrees with, its states.
//
//   test-dense model.gguf
//
// Beside it runs llama.cpp's attention (fused_dense OFF). Prompts are llama.cpp's in both, bit for bit; decode steps
// agree within rounding.

#include "sparse-common.h"

static const float LIMIT = 0.06f; // of a logit, over a chain of steps

static options make_auto(lil_sparse_method method = LIL_SPARSE_NONE) {
    options o;
    o.sparse             = lil_sparse_default_params(method);
    o.sparse.budget      = 64;
    o.sparse.fused_dense = LIL_FUSED_DENSE_AUTO;
    return o;
}

static options make_plain(options o) {
    o.sparse.fused_dense = LIL_FUSED_DENSE_OFF;
    return o;
}

static bool runs_op(llama_context * ctx) {
    lil_sparse_info info;
    return lil_sparse_get_info(ctx, &info) && info.fused_dense;
}

static float diff(llama_context * a, llama_context * b, int32_t i = -1) {
    return max_diff(get_logits(a, i), get_logits(b, i));
}

// the same calls on two contexts
struct pair {
    llama_context * a;
    llama_context * b;

    pair(const options & o, const options & p) : a(new_context(o)), b(new_context(p)) {}
    ~pair() {
        llama_free(a);
        llama_free(b);
    }

    pair(const pair &)             = delete;
    pair & operator=(const pair &) = delete;

    void prompt(llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
        CHECK(decode_text(a, p0, p1, seq_id) == 0 && decode_text(b, p0, p1, seq_id) == 0);
    }

    void steps(llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
        for (llama_pos p = p0; p < p1; ++p) {
            prompt(p, p + 1, seq_id);
            CHECK(diff(a, b) < LIMIT);
        }
    }

    void batch(const std::vector<token_at> & tokens, float limit) {
        CHECK(decode(a, tokens) == 0 && decode(b, tokens) == 0);
        for (size_t i = 0; i < tokens.size(); ++i) {
            if (i + 1 == tokens.size() || tokens[i + 1].seq_id != tokens[i].seq_id) {
                CHECK(diff(a, b, i) <= limit);
            }
        }
    }
};

//
// tests
//

static void test_values() {
    test_name = __func__;

    // what old programs say
    lil_sparse_params s = lil_sparse_default_params(LIL_SPARSE_QUEST);
    CHECK(s.fused_dense == LIL_FUSED_DENSE_AUTO);
    s.fused_dense = true;
    CHECK(s.fused_dense == LIL_FUSED_DENSE_ON);
    s.fused_dense = false;
    CHECK(s.fused_dense == LIL_FUSED_DENSE_OFF);

    s.fused_dense = 3;
    CHECK(!lil_init_from_model(model, make_cparams(make_auto()), s) && strstr(lil_last_error(), "fused_dense = 3"));
}

static void test_where() {
    test_name = __func__;

    llama_context * ctx = new_context(make_auto());
    CHECK(runs_op(ctx) && get_info(ctx).method == LIL_SPARSE_DENSE);
    llama_free(ctx);

    ctx = new_context(make_plain(make_auto()));
    lil_sparse_info info;
    CHECK(!lil_sparse_get_info(ctx, &info));
    llama_free(ctx);

    // what the op does not cover: llama.cpp's, where nothing was insisted on
    const auto check_plain = [](const std::function<void(llama_context_params &)> & change, const char * word) {
        llama_context_params cparams = make_cparams(make_auto());
        change(cparams);

        lil_sparse_params s = lil_sparse_default_params(LIL_SPARSE_NONE);
        s.fused_dense       = LIL_FUSED_DENSE_AUTO;

        llama_context * ctx = lil_init_from_model(model, cparams, s);
        CHECK(ctx && !runs_op(ctx));
        llama_free(ctx);

        s.fused_dense = LIL_FUSED_DENSE_ON;
        ctx           = lil_init_from_model(model, cparams, s);
        CHECK(!ctx && strstr(lil_last_error(), word));
    };

    check_plain([](auto & c) { c.embeddings = true; }, "embeddings");
    check_plain([](auto & c) { c.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; }, "flash_attn_type");
    check_plain([](auto & c) { c.attention_type = LLAMA_ATTENTION_TYPE_NON_CAUSAL; }, "causal");

    // a type without a fast form
    options o = make_auto();
    o.type_kv = GGML_TYPE_Q5_0;
    if (llama_model_n_embd(model) / llama_model_n_head(model) % 32 == 0) {
        ctx = new_context(o);
        CHECK(!runs_op(ctx));
        llama_free(ctx);

        o.sparse.fused_dense = LIL_FUSED_DENSE_ON;
        ctx                  = new_context(o);
        CHECK(runs_op(ctx));
        llama_free(ctx);
    }

    // FlashAttention that nobody asked to be off
    llama_context_params cparams = make_cparams(make_auto());
    cparams.flash_attn_type      = LLAMA_FLASH_ATTN_TYPE_DISABLED;

    lil_sparse_params s = lil_sparse_default_params(LIL_SPARSE_NONE);
    s.fused_dense       = LIL_FUSED_DENSE_AUTO;
    s.flash_attn_free   = true;

    ctx = lil_init_from_model(model, cparams, s);
    CHECK(ctx && runs_op(ctx));
    llama_free(ctx);
}

static void test_steps() {
    test_name = __func__;

    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16 }) {
        options o = make_auto();
        o.type_kv = type;

        for (const int32_t n_threads : { 1, 3 }) {
            o.n_threads = n_threads;

            pair c(o, make_plain(o));

            c.prompt(0, 300);
            CHECK(diff(c.a, c.b) == 0.0f);
            c.steps(300, 330);

            // a draft, some of which is taken back
            c.prompt(330, 335);
            CHECK(diff(c.a, c.b) < LIMIT);
            CHECK(llama_memory_seq_rm(llama_get_memory(c.a), 0, 332, -1) &&
                    llama_memory_seq_rm(llama_get_memory(c.b), 0, 332, -1));
            c.steps(332, 340);

            // a hole, and what comes after it moves
            if (llama_memory_can_shift(llama_get_memory(c.a)) && type != GGML_TYPE_BF16) { // which ggml cannot turn
                for (llama_context * ctx : { c.a, c.b }) {
                    llama_memory_t mem = llama_get_memory(ctx);
                    CHECK(llama_memory_seq_rm(mem, 0, 100, 140));
                    llama_memory_seq_add(mem, 0, 140, -1, -40);
                }
                for (llama_pos p = 300; p < 310; ++p) {
                    c.batch({ { text[p], p, 0 } }, LIMIT);
                }
            }

            CHECK(get_info(c.a).n_dense >= 37);
        }
    }
}

static void test_sequences() {
    test_name = __func__;

    for (const bool unified : { false, true }) {
        options o   = make_auto();
        o.n_seq_max = 3;
        o.unified   = unified;
        o.n_ctx     = 1536;

        pair c(o, make_plain(o));
        CHECK(runs_op(c.a));

        c.prompt(0, 200, 0);
        c.prompt(50, 51, 1); // begins in the middle
        c.prompt(51, 100, 1);
        for (llama_context * ctx : { c.a, c.b }) {
            llama_memory_seq_cp(llama_get_memory(ctx), 0, 2, -1, -1);
        }

        for (int i = 0; i < 12; ++i) { // together
            c.batch({ { text[200 + i], 200 + i, 0 }, { text[100 + i], 100 + i, 1 }, { text[5 + i], 200 + i, 2 } },
                    LIMIT);
        }
        for (int i = 12; i < 16; ++i) { // two of them
            c.batch({ { text[5 + i], 200 + i, 2 }, { text[200 + i], 200 + i, 0 } }, LIMIT);
        }

        // a step beside a part of a prompt
        std::vector<token_at> mixed = { { text[216], 216, 0 } };
        for (int i = 0; i < 20; ++i) {
            mixed.push_back({ text[112 + i], 112 + i, 1 });
        }
        c.batch(mixed, LIMIT);
        c.batch({ { text[217], 217, 0 }, { text[132], 132, 1 } }, LIMIT);

        for (llama_context * ctx : { c.a, c.b }) {
            CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 2, -1, -1));
        }
        c.steps(133, 140, 1);
    }
}

// a token that belongs to two sequences
static void test_shared_tokens() {
    test_name = __func__;

    options o   = make_auto();
    o.n_seq_max = 2;
    o.unified   = true;

    pair c(o, make_plain(o));

    for (llama_context * ctx : { c.a, c.b }) {
        llama_batch batch = llama_batch_init(64, 0, 2);
        for (int i = 0; i < 64; ++i) {
            batch.token[i]     = text[i];
            batch.pos[i]       = i;
            batch.n_seq_id[i]  = 2;
            batch.seq_id[i][0] = 0;
            batch.seq_id[i][1] = 1;
            batch.logits[i]    = i == 63;
        }
        batch.n_tokens = 64;
        CHECK(llama_decode(ctx, batch) == 0);
        llama_batch_free(batch);
    }
    CHECK(diff(c.a, c.b) == 0.0f);

    for (int i = 0; i < 8; ++i) {
        c.batch({ { text[64 + i], 64 + i, 0 }, { text[90 + i], 64 + i, 1 } }, LIMIT);
    }
}

static std::vector<uint8_t> get_state(llama_context * ctx) {
    std::vector<uint8_t> res(llama_state_get_size(ctx));
    res.resize(llama_state_get_data(ctx, res.data(), res.size()));
    return res;
}

// with llama.cpp's own contexts, with FlashAttention and without
static void test_states() {
    test_name = __func__;

    for (const bool flash : { true, false }) {
        llama_context_params cparams = make_cparams(make_auto());
        cparams.flash_attn_type      = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;

        lil_sparse_params s = lil_sparse_default_params(LIL_SPARSE_NONE);
        s.fused_dense       = LIL_FUSED_DENSE_AUTO;
        s.flash_attn_free   = true;

        llama_context * ours   = lil_init_from_model(model, cparams, s);
        llama_context * theirs = llama_init_from_model(model, cparams);
        CHECK(ours && theirs && runs_op(ours));

        CHECK(decode_text(ours, 0, 150) == 0);
        decode_steps(ours, 150, 160);
        CHECK(llama_memory_seq_rm(llama_get_memory(ours), 0, 155, -1));

        const auto state = get_state(ours);
        CHECK(llama_state_set_data(theirs, state.data(), state.size()) == state.size());
        CHECK(get_state(theirs) == state); // bit for bit, whole

        decode_steps(ours, 155, 156);
        decode_steps(theirs, 155, 156);
        CHECK(diff(ours, theirs) < LIMIT);

        // a sequence's, into a cache with holes
        decode_steps(theirs, 156, 170);

        std::vector<uint8_t> seq(llama_state_seq_get_size(theirs, 0));
        CHECK(llama_state_seq_get_data(theirs, seq.data(), seq.size(), 0) == seq.size());

        llama_memory_clear(llama_get_memory(ours), true);
        CHECK(llama_state_seq_set_data(ours, seq.data(), seq.size(), 0) == seq.size());

        for (llama_pos p = 170; p < 180; ++p) {
            CHECK(decode_text(ours, p, p + 1) == 0 && decode_text(theirs, p, p + 1) == 0);
            CHECK(diff(ours, theirs) < LIMIT);
        }

        // the other form is read as well
        if (flash) {
            cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
            llama_context * off     = llama_init_from_model(model, cparams);
            CHECK(off && decode_text(off, 0, 100) == 0);

            const auto transposed = get_state(off);
            CHECK(llama_state_set_data(ours, transposed.data(), transposed.size()) == transposed.size());

            decode_steps(ours, 100, 101);
            decode_steps(off, 100, 101);
            CHECK(diff(ours, off) < LIMIT);
            llama_free(off);
        }

        llama_free(ours);
        llama_free(theirs);
    }
}

// every method, below its budget and above
static void test_methods() {
    test_name = __func__;

    for (const lil_sparse_method method : get_methods()) {
        const bool evicts = lil_sparse_evicts(method);

        options o       = make_auto(method);
        o.sparse.buffer = 16;

        pair c(o, make_plain(o));
        CHECK(runs_op(c.a) && !runs_op(c.b));

        c.prompt(0, 40);
        CHECK(diff(c.a, c.b) == 0.0f);
        c.steps(40, 64);

        if (!evicts) {
            continue; // what is chosen may differ from here on, where scores are close
        }

        // the same tokens are held, or all but a few whose scores are close
        for (llama_pos p = 64; p < 160; ++p) {
            c.prompt(p, p + 1);
        }

        size_t n_same = 0;
        size_t n      = 0;
        for (size_t i = 0; i < sparse_layers.size(); ++i) {
            for (int32_t h = 0; h < n_head_kv; ++h) {
                const auto held = get_held(c.a, i, h);
                for (const llama_pos p : get_held(c.b, i, h)) {
                    n_same += held.count(p);
                    n++;
                }
            }
        }
        CHECK(n > 0 && n_same >= 0.98 * n);

        if (method == LIL_SPARSE_SINK) { // nothing to choose
            CHECK(n_same == n && diff(c.a, c.b) < LIMIT);
        }
        CHECK(get_info(c.a).n_sparse == get_info(c.b).n_sparse && get_info(c.a).n_rows == get_info(c.b).n_rows);
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

    test_values();
    test_where();
    test_steps();
    test_sequences();
    test_shared_tokens();
    test_states();
    test_methods();

    llama_model_free(model);

    printf("test-dense: ok\n");

    return 0;
}
