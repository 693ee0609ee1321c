// Hybrid models: the attention half with a method and the recurrent half stay in step, through removals, copies, states
// and failed batches. What goes on is compared with a context to which nothing happened.
//
//   test-hybrid
//
// On tiny random models of several architectures, made in memory.

#include "sparse-common.h"

#include "tiny-arch.h"

#include <memory>

using context_ptr = std::unique_ptr<llama_context, decltype(&llama_free)>;

// upstream restores cells in another order than they were in, which rounds differently
static const float EPS = 2e-3f;

static std::vector<options> all_kinds() {
    std::vector<options> res(1); // llama.cpp's own cache

    for (int i = LIL_SPARSE_NONE + 1; lil_sparse_get_name((lil_sparse_method) i); ++i) {
        const auto method = (lil_sparse_method) i;

        if (method != LIL_SPARSE_PROBE) {
            res.push_back(make_options(method, 48));
            res.back().sparse.buffer = 8;
        }
    }
    for (auto & o : res) {
        o.n_ctx     = 2 * 256;
        o.n_seq_max = 2;
    }

    return res;
}

static context_ptr make(const options & o) {
    return context_ptr(new_context(o), llama_free);
}

static llama_memory_t memory_of(const context_ptr & ctx) {
    return llama_get_memory(ctx.get());
}

static const int N_PROMPT = 80;
static const int N        = 90; // with some steps

// a text that went on without anything in between; the step after it
static std::vector<float> get_wanted(const options & o, int n) {
    auto ctx = make(o);
    CHECK(decode_text(ctx.get(), 0, N_PROMPT) == 0);
    decode_steps(ctx.get(), N_PROMPT, n);
    CHECK(decode_text(ctx.get(), n, n + 1) == 0);
    return get_logits(ctx.get());
}

static context_ptr make_filled(const options & o, int n = N) {
    auto ctx = make(o);
    CHECK(decode_text(ctx.get(), 0, N_PROMPT) == 0);
    decode_steps(ctx.get(), N_PROMPT, n);
    return ctx;
}

static std::vector<float> step(const context_ptr & ctx, int n, llama_seq_id seq_id = 0) {
    CHECK(decode_text(ctx.get(), n, n + 1, seq_id) == 0);
    return get_logits(ctx.get());
}

// the same as after a state was loaded: that token is no step, since nobody knows that it was sampled
static std::vector<float> get_wanted_anew(const options & o, int n) {
    auto ctx = make_filled(o, n);
    lil_set_prompt(ctx.get(), true);
    return step(ctx, n);
}

static void test_removals(const options & o) {
    test_name = "removals";

    auto ctx = make_filled(o);

    // the recurrent half cannot: neither does
    CHECK(!llama_memory_seq_rm(memory_of(ctx), 0, N - 5, -1));
    CHECK(llama_memory_seq_pos_max(memory_of(ctx), 0) == N - 1);
    CHECK(llama_memory_seq_rm(memory_of(ctx), 0, N, -1)); // nothing
    CHECK(max_diff(step(ctx, N), get_wanted(o, N)) == 0.0f);

    // everything
    CHECK(llama_memory_seq_rm(memory_of(ctx), 0, -1, -1));
    CHECK(llama_memory_seq_pos_max(memory_of(ctx), 0) == -1);
    CHECK(decode_text(ctx.get(), 0, N_PROMPT) == 0);
    decode_steps(ctx.get(), N_PROMPT, N);
    CHECK(max_diff(step(ctx, N), get_wanted(o, N)) <= EPS);
}

static void test_copies(const options & o) {
    test_name = "copies";

    auto ctx = make_filled(o);

    llama_memory_seq_cp(memory_of(ctx), 0, 1, -1, -1);
    CHECK(llama_memory_seq_pos_max(memory_of(ctx), 1) == N - 1);

    const auto a = step(ctx, N, 0);
    const auto b = step(ctx, N, 1);

    // the copy's first step is as after a loaded state, where a method does not copy the record
    CHECK(max_diff(a, get_wanted(o, N)) <= EPS);
    CHECK(max_diff(b, a) <= EPS || max_diff(b, get_wanted_anew(o, N)) <= EPS);

    llama_memory_seq_keep(memory_of(ctx), 1);
    CHECK(llama_memory_seq_pos_max(memory_of(ctx), 0) == -1);
    CHECK(llama_memory_seq_pos_max(memory_of(ctx), 1) == N);
}

static void test_states(const options & o) {
    test_name = "states";

    auto ctx = make_filled(o);

    std::vector<uint8_t> whole(llama_state_get_size(ctx.get()));
    CHECK(llama_state_get_data(ctx.get(), whole.data(), whole.size()) == whole.size());
    std::vector<uint8_t> one(llama_state_seq_get_size(ctx.get(), 0));
    CHECK(llama_state_seq_get_data(ctx.get(), one.data(), one.size(), 0) == one.size());

    const auto want = get_wanted_anew(o, N);

    auto other = make(o);
    CHECK(llama_state_set_data(other.get(), whole.data(), whole.size()) == whole.size());
    CHECK(max_diff(step(other, N), want) <= EPS);

    CHECK(llama_state_seq_set_data(other.get(), one.data(), one.size(), 1) == one.size());
    CHECK(max_diff(step(other, N, 1), want) <= EPS);

    // cut short: refused, and usable afterwards
    CHECK(llama_state_seq_set_data(other.get(), one.data(), one.size() - 5, 1) == 0);
    CHECK(llama_memory_seq_pos_max(memory_of(other), 1) == -1);
    CHECK(llama_state_seq_set_data(other.get(), one.data(), one.size(), 1) == one.size());
    CHECK(max_diff(step(other, N, 1), want) <= EPS);
}

// what llama-server saves of such models, to go back to: the recurrent half, and what else cannot be cut back
static void test_partial_states(const options & o) {
    test_name = "partial states";

    auto ctx = make_filled(o);

    const llama_state_seq_flags flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;

    std::vector<uint8_t> part(llama_state_seq_get_size_ext(ctx.get(), 0, flags));
    CHECK(llama_state_seq_get_data_ext(ctx.get(), part.data(), part.size(), 0, flags) == part.size());

    decode_steps(ctx.get(), N, N + 60);

    CHECK(llama_state_seq_set_data_ext(ctx.get(), part.data(), part.size(), 0, flags) == part.size());
    CHECK(llama_memory_seq_rm(memory_of(ctx), 0, N, -1));
    CHECK(llama_memory_seq_pos_max(memory_of(ctx), 0) == N - 1);

    // of the select family the attention half was not loaded, and knows what it was asked for
    const bool loaded = o.sparse.method == LIL_SPARSE_NONE || lil_sparse_evicts(o.sparse.method);
    CHECK(max_diff(step(ctx, N), loaded ? get_wanted_anew(o, N) : get_wanted(o, N)) <= EPS);
}

static int n_until_abort;

static bool abort_soon(void *) {
    return n_until_abort >= 0 && n_until_abort-- == 0;
}

static void test_failures(options o) {
    test_name = "failures";

    o.abort_callback = abort_soon;

    for (const int n : { 0, 5, 15 }) {
        n_until_abort = -1;

        auto ctx = make_filled(o);
        CHECK(decode_text(ctx.get(), 0, 40, 1) == 0);

        n_until_abort   = n;
        const int state = decode_text(ctx.get(), N, N + 1);
        n_until_abort   = -1;

        if (state == 0) { // over before
            continue;
        }
        CHECK(llama_memory_seq_pos_max(memory_of(ctx), 0) == -1);
        CHECK(llama_memory_seq_pos_max(memory_of(ctx), 1) == 39);

        CHECK(decode_text(ctx.get(), 0, N_PROMPT) == 0);
        decode_steps(ctx.get(), N_PROMPT, N);
        CHECK(max_diff(step(ctx, N), get_wanted(o, N)) <= EPS);
    }
}

int main() {
    for (const char * arch : { "qwen35", "lfm2", "nemotron_h", "falcon-h1" }) {
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);

        model = tiny_arch::make(arch);
        CHECK(model);

        n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
        n_layer = llama_model_n_layer(model);

        text.clear();
        for (int i = 0; i < 400; ++i) {
            text.push_back((i * i + 7 * i + i / 5) % n_vocab);
        }

        for (const auto & o : all_kinds()) {
            fprintf(stderr, "%s, %s\n", arch,
                    o.sparse.method == LIL_SPARSE_NONE ? "stock" : lil_sparse_get_name(o.sparse.method));

            test_removals(o);
            test_copies(o);
            test_states(o);
            test_partial_states(o);
            test_failures(o);
        }

        llama_model_free(model);
    }

    printf("test-hybrid: ok\n");

    return 0;
}
