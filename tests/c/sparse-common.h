#pragma once

// What the tests of the sparse methods share: a model, contexts, batches of a text.

#undef NDEBUG

#include "lil.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <vector>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s: CHECK(%s) failed; lil_last_error: %s\n", __FILE__, __LINE__, test_name, #x, \
                    lil_last_error()); \
            exit(1); \
        } \
    } while (0)

static const char * test_name = "";

static llama_model * model = nullptr;

static int32_t n_layer;
static int32_t n_head_kv;
static int32_t n_vocab;

static std::vector<int32_t> sparse_layers; // layers that a method acts on: those without a sliding window

static std::vector<llama_token> text; // more than the tests need

//
// helpers
//

// full attention is llama.cpp's, to be compared bit for bit; test-dense has the other
static inline lil_sparse_params default_params(lil_sparse_method method) {
    lil_sparse_params res = lil_sparse_default_params(method);
    res.fused_dense       = LIL_FUSED_DENSE_OFF;
    return res;
}

struct options {
    lil_sparse_params sparse = default_params(LIL_SPARSE_NONE);

    uint32_t  n_ctx     = 1024;
    uint32_t  n_ubatch  = 128;
    bool      swa_full  = true; // layers with a sliding window keep everything
    uint32_t  n_seq_max = 1;
    bool      unified   = false;
    ggml_type type_kv   = GGML_TYPE_F16;
    int32_t   n_threads = 1;

    ggml_abort_callback abort_callback      = nullptr;
    void *              abort_callback_data = nullptr;
};

static inline options make_options(lil_sparse_method method, uint32_t budget) {
    options o;
    o.sparse        = default_params(method);
    o.sparse.budget = budget;
    return o;
}

enum class family { EVICT = 1, SELECT = 2, BOTH = 3 };

// the methods of the library's list that the model can have
static inline std::vector<lil_sparse_method> get_methods(family f = family::BOTH) {
    std::vector<lil_sparse_method> res;

    for (int i = LIL_SPARSE_NONE + 1; lil_sparse_get_name((lil_sparse_method) i); ++i) {
        const auto m = (lil_sparse_method) i;

        const bool is_method = m != LIL_SPARSE_DENSE && m != LIL_SPARSE_PROBE;
        const bool reselects = m == LIL_SPARSE_TIDAL || m == LIL_SPARSE_LESSISMORE;

        const auto of = lil_sparse_evicts(m) ? family::EVICT : family::SELECT;

        if (is_method && ((int) f & (int) of) && (!reselects || sparse_layers.size() > 4)) {
            res.push_back(m);
        }
    }

    return res;
}

static inline llama_context_params make_cparams(const options & o) {
    llama_context_params cparams = llama_context_default_params();

    cparams.n_ctx           = o.n_ctx;
    cparams.n_batch         = 512;
    cparams.n_ubatch        = o.n_ubatch;
    cparams.n_seq_max       = o.n_seq_max;
    cparams.swa_full        = o.swa_full;
    cparams.kv_unified      = o.unified;
    cparams.n_threads       = o.n_threads;
    cparams.n_threads_batch = o.n_threads;
    cparams.type_k          = o.type_kv;
    cparams.type_v          = o.type_kv;
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;

    cparams.abort_callback      = o.abort_callback;
    cparams.abort_callback_data = o.abort_callback_data;

    return cparams;
}

static inline llama_context * new_context(const options & o) {
    llama_context * ctx = lil_init_from_model(model, make_cparams(o), o.sparse);
    CHECK(ctx);
    return ctx;
}

struct token_at {
    llama_token  token;
    llama_pos    pos;
    llama_seq_id seq_id;
};

// the logits of all tokens, or of the last one of each sequence
static inline int32_t decode(llama_context * ctx, const std::vector<token_at> & tokens, bool all = false) {
    llama_batch batch = llama_batch_init(tokens.size(), 0, 1);

    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.token[i]     = tokens[i].token;
        batch.pos[i]       = tokens[i].pos;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = tokens[i].seq_id;
        batch.logits[i]    = all || i + 1 == tokens.size() || tokens[i + 1].seq_id != tokens[i].seq_id;
    }
    batch.n_tokens = tokens.size();

    const int32_t res = llama_decode(ctx, batch);
    llama_batch_free(batch);

    return res;
}

// text[p0, p1) of a sequence as one batch
static inline int32_t decode_text(llama_context * ctx, llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
    std::vector<token_at> tokens;
    for (llama_pos p = p0; p < p1; ++p) {
        tokens.push_back({ text[p], p, seq_id });
    }
    return decode(ctx, tokens);
}

// the same, a token a batch
static inline void decode_steps(llama_context * ctx, llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
    for (llama_pos p = p0; p < p1; ++p) {
        CHECK(decode_text(ctx, p, p + 1, seq_id) == 0);
    }
}

// the same; the first one as after a state was loaded, which does not say that anyone sampled from it
static inline void decode_steps_anew(llama_context * ctx, llama_pos p0, llama_pos p1, llama_seq_id seq_id = 0) {
    lil_set_prompt(ctx, true);
    decode_steps(ctx, p0, p0 + 1, seq_id);
    lil_set_prompt(ctx, false);
    decode_steps(ctx, p0 + 1, p1, seq_id);
}

static inline std::vector<float> get_logits(llama_context * ctx, int32_t i = -1) {
    const float * logits = llama_get_logits_ith(ctx, i);
    CHECK(logits);
    return std::vector<float>(logits, logits + n_vocab);
}

static inline float max_diff(const std::vector<float> & a, const std::vector<float> & b) {
    float res = 0.0f;
    for (size_t i = 0; i < a.size(); ++i) {
        CHECK(std::isfinite(a[i]) && std::isfinite(b[i]));
        res = std::max(res, std::fabs(a[i] - b[i]));
    }
    return res;
}

// i counts the layers that a method acts on
static inline std::set<llama_pos> get_held(llama_context * ctx, int32_t i, int32_t h, llama_seq_id seq_id = 0) {
    const int32_t il = sparse_layers[i % sparse_layers.size()];

    std::vector<llama_pos> pos(4096);

    const int32_t n = lil_sparse_get_slots(ctx, seq_id, il, h, pos.data(), nullptr, pos.size());
    CHECK(n >= 0 && n <= (int32_t) pos.size());

    std::set<llama_pos> res(pos.begin(), pos.begin() + n);
    CHECK((int32_t) res.size() == n); // never a token twice

    return res;
}

static inline lil_sparse_info get_info(llama_context * ctx) {
    lil_sparse_info info;
    CHECK(lil_sparse_get_info(ctx, &info));
    return info;
}

// loads the model and makes a text with recurrences at several distances
static inline bool load_model(const char * path, llama_model_params mparams = llama_model_default_params()) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();

    model = llama_model_load_from_file(path, mparams);
    if (!model) {
        fprintf(stderr, "cannot load %s\n", path);
        return false;
    }

    n_layer   = llama_model_n_layer(model);
    n_head_kv = llama_model_n_head_kv(model);
    n_vocab   = llama_vocab_n_tokens(llama_model_get_vocab(model));

    std::string words;
    for (int i = 0; i < 700; ++i) {
        static const char * const w[] = { "river", "stone", "the", "a", "boat", "went", "slowly", "under", "bridges",
            "and", "nobody", "saw", "it" };
        words += std::string(w[(i * i + i / 7) % 13]) + (i % 11 == 10 ? ". " : " ");
    }
    text.resize(words.size());
    text.resize(llama_tokenize(
            llama_model_get_vocab(model), words.c_str(), words.size(), text.data(), text.size(), true, false));

    llama_context * probe = new_context(make_options(LIL_SPARSE_H2O, 64));
    for (int32_t il = 0; il < n_layer; ++il) {
        if (lil_sparse_get_slots(probe, 0, il, 0, nullptr, nullptr, 0) == 0) {
            sparse_layers.push_back(il);
        }
    }
    llama_free(probe);

    return true;
}
