// test-memory MODEL: the memory of caches follows the tokens in them, and what is computed does not.

#include "sparse-common.h"

static uint64_t get_page_size() {
#ifdef __linux__
    return 4096; // or more: the bounds hold from here up
#else
    return 65536;
#endif
}

static lil_memory_info get_memory(llama_context * ctx) {
    lil_memory_info info;
    CHECK(lil_memory_get_info(ctx, &info));
    CHECK(info.kv_resident <= info.kv_bytes);
    return info;
}

static uint64_t resident(llama_context * ctx) {
    return get_memory(ctx).kv_resident;
}

// What n cells of n_cells take at most, and two pages more for each of a tensor's parts that lie apart: K, V, and what
// is kept beside them for each head; the channels of V where it is transposed
static uint64_t bound(llama_context * ctx, uint32_t n, bool v_trans = false) {
    const uint64_t n_cells = llama_n_ctx(ctx);
    const uint64_t n_parts = n_layer * (2 + 4 * n_head_kv + (v_trans ? llama_model_n_embd(model) : 0));

    const uint64_t per_cell = get_memory(ctx).kv_bytes / n_cells;

    // layers with a window have few cells: they do not show in the bytes per cell
    const uint64_t windows =
            per_cell * (n_layer - sparse_layers.size()) / sparse_layers.size() * std::max<uint32_t>(n, 256);

    return per_cell * n + windows + 2 * n_parts * get_page_size() * llama_n_seq_max(ctx);
}

static std::vector<options> all_kinds() {
    std::vector<options> res;

    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_F32 }) {
        options o = make_options(LIL_SPARSE_NONE, 0);
        o.type_kv = type;
        res.push_back(o);
    }

    auto methods = get_methods();
    methods.push_back(LIL_SPARSE_DENSE);

    for (const lil_sparse_method method : methods) {
        options o       = make_options(method, 64);
        o.sparse.buffer = 16;
        res.push_back(o);
    }

    for (auto & o : res) {
        o.n_ctx = 16384;
    }

    return res;
}

static bool evicts(const options & o) {
    return lil_sparse_evicts(o.sparse.method);
}

static std::vector<float> step(llama_context * ctx, llama_pos p, llama_seq_id seq_id = 0) {
    decode_steps(ctx, p, p + 1, seq_id);

    const auto res = get_logits(ctx);
    for (const float x : res) {
        CHECK(std::isfinite(x));
    }

    return res;
}

// as after a state was loaded
static std::vector<float> step_anew(llama_context * ctx, llama_pos p) {
    lil_set_prompt(ctx, true);
    const auto res = step(ctx, p);
    lil_set_prompt(ctx, false);

    return res;
}

// a cache takes what its tokens need; cleared, it takes nothing and computes what it did before
static void test_clear() {
    test_name = __func__;

    for (const auto & o : all_kinds()) {
        llama_context * ctx = new_context(o);
        llama_memory_t  mem = llama_get_memory(ctx);

        CHECK(resident(ctx) == 0);

        std::vector<float> want;
        for (const bool data : { true, false, true }) {
            CHECK(decode_text(ctx, 0, 400) == 0);
            CHECK(resident(ctx) <= bound(ctx, 400));
            CHECK(resident(ctx) >= get_memory(ctx).kv_bytes / o.n_ctx * 400 / 2); // of layers with a window less

            const auto got = step(ctx, 400);
            CHECK(want.empty() || max_diff(got, want) == 0.0f);
            want = got;

            llama_memory_clear(mem, data);
            CHECK(resident(ctx) <= (data ? 0 : bound(ctx, 0)));
        }

        if (o.sparse.method != LIL_SPARSE_NONE) {
            CHECK(decode_text(ctx, 0, 300) == 0);
            CHECK(get_info(ctx).kv_resident > 0 && get_info(ctx).kv_resident <= resident(ctx) &&
                    get_info(ctx).kv_resident < get_info(ctx).kv_bytes / 8);
        }

        llama_free(ctx);
    }
}

// V as it lies without FlashAttention
static void test_transposed() {
    test_name = __func__;

    auto cparams            = make_cparams(make_options(LIL_SPARSE_NONE, 0));
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cparams.n_ctx           = 16384;

    llama_context * ctx  = llama_init_from_model(model, cparams);
    llama_context * twin = llama_init_from_model(model, cparams);
    CHECK(ctx && twin && resident(ctx) == 0);

    CHECK(decode_text(ctx, 0, 300) == 0 && decode_text(ctx, 300, 700) == 0);
    const uint64_t before = resident(ctx);
    CHECK(before <= bound(ctx, 700, true));

    CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 300, -1));
    CHECK(resident(ctx) < before);

    CHECK(decode_text(twin, 0, 300) == 0);
    CHECK(max_diff(step(ctx, 300), step(twin, 300)) == 0.0f);

    llama_free(twin);
    llama_free(ctx);
}

// the tail of a cache goes, and what comes next is computed as if it had never been
static void test_tail() {
    test_name = __func__;

    for (const auto & o : all_kinds()) {
        llama_context * ctx  = new_context(o);
        llama_context * twin = new_context(o);
        llama_memory_t  mem  = llama_get_memory(ctx);

        CHECK(decode_text(twin, 0, 200) == 0);
        CHECK(decode_text(ctx, 0, 200) == 0 && decode_text(ctx, 200, 700) == 0);
        const uint64_t all = resident(ctx);

        CHECK(llama_memory_seq_rm(mem, 0, 650, -1)); // a few tokens: not worth it
        CHECK(resident(ctx) == all);

        if (!llama_memory_seq_rm(mem, 0, 200, -1)) { // of a layer with a window, tokens that are needed again have left
            CHECK(llama_memory_seq_pos_min(llama_get_memory(ctx), 0) > 0);
        } else {
            CHECK(resident(ctx) <= bound(ctx, 200));
            CHECK(resident(ctx) < all);

            // elsewhere the queries that were removed had given scores to the tokens that stay
            if (o.sparse.method == LIL_SPARSE_SINK || (!evicts(o) && o.sparse.method != LIL_SPARSE_INFLLM)) {
                CHECK(max_diff(step(ctx, 200), step(twin, 200)) == 0.0f);
            }
        }

        llama_free(twin);
        llama_free(ctx);
    }
}

// sequences in one cache: a hole in the middle of it
static void test_hole() {
    test_name = __func__;

    for (auto o : all_kinds()) {
        if (evicts(o)) {
            continue;
        }
        o.n_seq_max = 2;
        o.unified   = true;

        llama_context * ctx  = new_context(o);
        llama_context * twin = new_context(o);

        for (auto * c : { ctx, twin }) {
            CHECK(decode_text(c, 0, 100, 1) == 0);
            CHECK(decode_text(c, 0, 400, 0) == 0);
            CHECK(decode_text(c, 100, 400, 1) == 0);
        }
        const uint64_t all = resident(ctx);

        // the twin's memory stays: it loses a few tokens at a time
        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, -1, -1));
        CHECK(llama_memory_seq_rm(llama_get_memory(twin), 0, 200, -1) &&
                llama_memory_seq_rm(llama_get_memory(twin), 0, -1, -1));
        CHECK(resident(ctx) < all && resident(twin) == all);
        CHECK(max_diff(step(ctx, 400, 1), step(twin, 400, 1)) == 0.0f);

        // the hole is filled again
        CHECK(decode_text(ctx, 0, 400, 0) == 0 && decode_text(twin, 0, 400, 0) == 0);
        CHECK(max_diff(step(ctx, 401, 1), step(twin, 401, 1)) == 0.0f);
        CHECK(max_diff(step(ctx, 400, 0), step(twin, 400, 0)) == 0.0f);

        llama_free(twin);
        llama_free(ctx);
    }
}

// copies of streams, whose source is gone when they are made
static void test_copies() {
    test_name = __func__;

    for (auto o : all_kinds()) {
        o.n_seq_max = 3;
        o.n_ctx *= 3;

        llama_context * ctx  = new_context(o);
        llama_context * twin = new_context(o);
        llama_memory_t  mem  = llama_get_memory(ctx);

        CHECK(decode_text(twin, 0, 300) == 0);
        CHECK(decode_text(ctx, 0, 300) == 0);
        CHECK(decode_text(ctx, 0, 400, 1) == 0); // is copied over

        llama_memory_seq_cp(mem, 0, 1, -1, -1);
        llama_memory_seq_cp(mem, 1, 2, -1, -1);
        CHECK(llama_memory_seq_rm(mem, 0, -1, -1) && llama_memory_seq_rm(mem, 1, -1, -1));

        CHECK(max_diff(step(ctx, 300, 2), step(twin, 300)) == 0.0f);
        CHECK(resident(ctx) <= bound(ctx, 301));

        // the others begin anew
        llama_memory_clear(llama_get_memory(twin), true);
        CHECK(decode_text(ctx, 0, 300) == 0 && decode_text(twin, 0, 300) == 0);
        CHECK(max_diff(step(ctx, 300), step(twin, 300)) == 0.0f);

        llama_free(twin);
        llama_free(ctx);
    }
}

// the state of a short text takes the place of a long one
static void test_states() {
    test_name = __func__;

    for (const auto & o : all_kinds()) {
        llama_context * ctx  = new_context(o);
        llama_context * twin = new_context(o);

        CHECK(decode_text(twin, 0, 150) == 0);

        std::vector<uint8_t> all(llama_state_get_size(twin));
        all.resize(llama_state_get_data(twin, all.data(), all.size()));
        std::vector<uint8_t> one(llama_state_seq_get_size(twin, 0));
        one.resize(llama_state_seq_get_data(twin, one.data(), one.size(), 0));

        const auto want = step_anew(twin, 150);

        for (const bool seq : { false, true }) {
            llama_memory_clear(llama_get_memory(ctx), true);
            CHECK(decode_text(ctx, 0, 500) == 0);
            const uint64_t before = resident(ctx);

            CHECK(seq ? llama_state_seq_set_data(ctx, one.data(), one.size(), 0) > 0
                      : llama_state_set_data(ctx, all.data(), all.size()) > 0);
            CHECK(resident(ctx) < before && resident(ctx) <= bound(ctx, 150));
            // tokens in a window may lie in other cells than they did, so that attention sums in another order, of F16
            // in F16
            CHECK(max_diff(step_anew(ctx, 150), want) <=
                    (seq || sparse_layers.size() == (size_t) n_layer ? 0.0f : 0.05f));
        }

        llama_free(twin);
        llama_free(ctx);
    }
}

// a prompt that is cut gives its memory back, and the next one takes it again
static void test_cut() {
    test_name = __func__;

    for (auto o : all_kinds()) {
        if (!evicts(o)) {
            continue;
        }
        for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
            o.type_kv  = type;
            o.swa_full = false; // otherwise layers with a window keep the prompt

            llama_context * ctx = new_context(o);

            llama_pos p = 0;
            for (int round = 0; round < 3; ++round) {
                const llama_pos n = round == 0 ? 600 : 400;

                for (llama_pos end = p + n; p < end; p += 200) {
                    std::vector<token_at> tokens;
                    for (llama_pos i = p; i < p + 200; ++i) {
                        tokens.push_back({ text[i % text.size()], i, 0 });
                    }
                    CHECK(decode(ctx, tokens) == 0);
                }
                CHECK(resident(ctx) >= get_memory(ctx).kv_bytes / o.n_ctx * n / 2);

                CHECK(decode(ctx, { { text[p % text.size()], p, 0 } }) == 0);
                CHECK(resident(ctx) <= bound(ctx, 64 + 128));
                ++p;

                const auto held = get_held(ctx, 0, 0);
                for (int i = 0; i < 20; ++i, ++p) {
                    CHECK(decode(ctx, { { text[p % text.size()], p, 0 } }) == 0);
                }
                for (const float x : get_logits(ctx)) {
                    CHECK(std::isfinite(x));
                }
                CHECK(held.size() <= 64 && get_held(ctx, 0, 0).size() <= 64);
            }

            llama_free(ctx);
        }
    }
}

// contexts that fit one by one, and not together, are said not to: each is given more than a sixth of what is left
static void test_warning() {
    test_name = __func__;

    static int n_warnings;

    llama_log_set(
            [](ggml_log_level level, const char * text, void *) {
                n_warnings += level == GGML_LOG_LEVEL_WARN && strstr(text, "does not fit once it is full");
            },
            nullptr);

    options o = make_options(LIL_SPARSE_NONE, 0);
    o.n_ctx   = 1 << 14;
    o.type_kv = GGML_TYPE_F32;

    std::vector<llama_context *> ctxs = { new_context(o) };

    const auto info = get_memory(ctxs[0]);
    CHECK(n_warnings == 0);

    if (info.available > 0) {
        o.n_seq_max = std::min<uint64_t>(64, info.available / 6 / info.kv_bytes + 1);
        o.n_ctx *= o.n_seq_max;

        while (n_warnings == 0 && ctxs.size() < 16) {
            ctxs.push_back(new_context(o));
        }

        // a small model on a large machine: nothing to see
        CHECK(n_warnings > 0 || o.n_seq_max == 64);
    }

    for (auto * ctx : ctxs) {
        llama_free(ctx);
    }

    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }

    if (!load_model(argv[1])) {
        return 1;
    }

    CHECK(text.size() > 700);
    CHECK(!lil_memory_get_info(nullptr, nullptr));

    test_clear();
    test_transposed();
    test_tail();
    test_hole();
    test_copies();
    test_states();
    test_cut();
    test_warning();

    llama_model_free(model);

    printf("test-memory: ok\n");

    return 0;
}
