#pragma once

// What the tests of the Guardian sampler share: a vocabulary, and what the sampler makes of a stream of tokens.

#undef NDEBUG

#include "lil.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: failed: %s (last error: %s)\n", __FILE__, __LINE__, #x, lil_last_error()); \
            exit(1); \
        } \
    } while (0)

static llama_model *       model = nullptr; // its vocabulary alone
static const llama_vocab * vocab = nullptr;

// special: names of control tokens in the text become these
static inline std::vector<llama_token> tokenize(const std::string & text, bool special = false) {
    std::vector<llama_token> tokens(text.size() + 8);
    const int32_t            n = llama_tokenize(
            vocab, text.data(), (int32_t) text.size(), tokens.data(), (int32_t) tokens.size(), false, special);
    CHECK(n >= 0);
    tokens.resize((size_t) n);
    return tokens;
}

static inline std::string get_piece(llama_token token) {
    char          buf[256];
    const int32_t n = llama_token_to_piece(vocab, token, buf, sizeof(buf), 0, true);
    CHECK(n >= 0);
    return std::string(buf, (size_t) n);
}

static inline bool is_eog(llama_token token) {
    return token != LLAMA_TOKEN_NULL && llama_vocab_is_eog(vocab, token);
}

// the next of a fixed sequence, 16 bits
static inline uint32_t draw(uint32_t & seed) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 16;
}

static inline lil_guardian_report get_report(const llama_sampler * smpl) {
    lil_guardian_report report;
    CHECK(lil_guardian_get_report(smpl, &report));
    return report;
}

// what the sampler makes of four candidates of which none, or the third, is selected: the token that it forces, or none
static inline llama_token apply(llama_sampler * smpl, int64_t selected = -1) {
    llama_token_data       data[4] = { { 10, 1.0f, 0.0f }, { 11, 2.0f, 0.0f }, { 12, 3.0f, 0.0f }, { 13, 0.5f, 0.0f } };
    llama_token_data_array cur_p   = { data, 4, selected, false };

    llama_sampler_apply(smpl, &cur_p);

    if (cur_p.size == 4) {
        // left alone
        CHECK(cur_p.selected == selected && data[0].id == 10 && data[3].id == 13 && data[2].logit == 3.0f &&
                !cur_p.sorted);
        return LLAMA_TOKEN_NULL;
    }

    CHECK(cur_p.size == 1 && cur_p.selected == 0);
    CHECK(data[0].logit == 0.0f && data[0].p == 1.0f);
    return data[0].id;
}

// accepts tokens until the Guardian forces one; returns how many it let through
static inline size_t accept_until_forced(llama_sampler * smpl, const std::vector<llama_token> & tokens) {
    for (size_t i = 0; i < tokens.size(); i++) {
        if (apply(smpl) != LLAMA_TOKEN_NULL) {
            return i;
        }
        llama_sampler_accept(smpl, tokens[i]);
    }
    return tokens.size();
}

// Loads the vocabulary of a model, runs the tests in their order, each after its name; returns what main() does.
static inline int run_tests(
        const char * path, const std::vector<std::pair<const char *, std::function<void()>>> & tests) {
    llama_log_set(
            [](ggml_log_level level, const char * text, void *) {
                if (level >= GGML_LOG_LEVEL_ERROR) {
                    fputs(text, stderr);
                }
            },
            nullptr);

    llama_backend_init();

    llama_model_params params = llama_model_default_params();
    params.vocab_only         = true;

    model = llama_model_load_from_file(path, params);
    CHECK(model != nullptr);
    vocab = llama_model_get_vocab(model);

    for (const auto & [name, test] : tests) {
        printf("%s\n", name);
        test();
    }

    llama_model_free(model);
    llama_backend_free();

    printf("ok\n");

    return 0;
}
