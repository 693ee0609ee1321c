#pragma once

// The runs of a tiny model that test-archs compares: contexts, a text, a long one of two sequences with edits.

#include "layer-check.h"
#include "tiny-arch.h"

#include "lil.h"

#include <memory>

static const int N_PROMPT = 90;
static const int N_STEPS  = 12;
static const int N_LONG   = 240;

// of a ubatch; a prompt takes two, but where llama.cpp aborts in one that asks for no logits
static uint32_t n_ubatch = 64;

static const int N_WITHIN       = 20;
static const int N_STEPS_WITHIN = 8;

using context_ptr = std::unique_ptr<llama_context, decltype(&llama_free)>;
using logits_list = std::vector<std::vector<float>>; // of each step

static std::string last_error; // of upstream's log

static void on_log(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        last_error += text;
    }
}

static llama_context_params make_cparams(layer_check * check) {
    llama_context_params cparams = llama_context_default_params();

    cparams.n_ctx           = 256;
    cparams.n_ubatch        = n_ubatch;
    cparams.n_threads       = 1;
    cparams.n_threads_batch = 1;
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    cparams.kv_unified      = false;
    cparams.swa_full        = true;

    if (check) {
        cparams.cb_eval           = on_node;
        cparams.cb_eval_user_data = check;
    }

    return cparams;
}

static llama_context * new_context(
        llama_model * model, const lil_sparse_params * sparse, layer_check * check, uint32_t n_seq = 1) {
    auto cparams = make_cparams(check);

    cparams.n_ctx *= n_seq;
    cparams.n_seq_max = n_seq;

    return sparse ? lil_init_from_model(model, cparams, *sparse) : llama_init_from_model(model, cparams);
}

// a prompt, then steps; the logits of each step
static logits_list run(llama_context * ctx, int n_prompt, int n_steps, layer_check * check) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));

    logits_list res;

    llama_batch batch = llama_batch_init(n_prompt, 0, 1);

    for (int i = 0; i < n_prompt + n_steps;) {
        const int n = i < n_prompt ? n_prompt : 1;

        tiny_arch::put_text(batch, i, n);
        i += n;

        if (check) {
            check->begin(0, i - n, n);
        }

        REQUIRE(llama_decode(ctx, batch) == 0, "llama_decode failed at %d", i);

        const float * logits = llama_get_logits_ith(ctx, -1);
        res.emplace_back(logits, logits + n_vocab);
        for (const float x : res.back()) {
            REQUIRE(std::isfinite(x), "a logit is %g", x);
        }
    }

    llama_batch_free(batch);

    return res;
}

// Hundreds of steps of two sequences in turn, with removals, copies and states in between. A cell is a token's rank all
// the while, since a stream of its own is filled from the front
static void run_long(llama_context * ctx, layer_check & check) {
    auto * memory = llama_get_memory(ctx);

    int n[2] = { 0, 0 }; // tokens of each

    llama_batch batch = llama_batch_init(64, 0, 1);

    const auto put = [&](int s, int n_new) {
        tiny_arch::put_text(batch, n[s], n_new, s);
        n[s] += n_new;

        check.begin(s, n[s] - n_new, n_new);
        REQUIRE(llama_decode(ctx, batch) == 0, "llama_decode failed at %d of sequence %d", n[s] - n_new, s);
        check.finish();
    };

    put(0, 10);
    put(1, 7);

    for (int i = 0; i < N_LONG; ++i) {
        if (i % 50 == 49) { // a tail goes, where it can
            const int s = i / 50 % 2;
            if (llama_memory_seq_rm(memory, s, n[s] - 9, -1)) {
                n[s] -= 9;
                check.cut(s, n[s]);
            }
            if (i == 149) {
                put(s, 2); // a prompt's
            }
        }
        if (i == 80 || i == 210) { // one becomes the other
            const int s = i == 80;
            REQUIRE(llama_memory_seq_rm(memory, s, -1, -1), "a whole sequence was not removed");
            llama_memory_seq_cp(memory, 1 - s, s, -1, -1);
            n[s] = n[1 - s];
            check.copy(1 - s, s);
        }
        if (i == 130) {
            std::vector<uint8_t> state(llama_state_seq_get_size(ctx, 1));
            REQUIRE(llama_state_seq_get_data(ctx, state.data(), state.size(), 1) == state.size(), "a state");
            REQUIRE(llama_state_seq_set_data(ctx, state.data(), state.size(), 0) == state.size(),
                    "its state is refused");
            n[0] = n[1];
            check.copy(1, 0);
            put(0, 2);
        }
        put(i % 2, 1);
    }

    llama_batch_free(batch);
}
static double max_diff(const logits_list & a, const logits_list & b) {
    double res = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        for (size_t j = 0; j < a[i].size(); ++j) {
            res = std::max(res, (double) std::fabs(a[i][j] - b[i][j]));
        }
    }
    return res;
}
