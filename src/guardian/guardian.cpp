#include "guardian.h"

#include "lil-error.h"
#include "lz77.h"

#include "ggml-backend.h"
#include "llama-impl.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

// tokens that an action waits for the end of a character
static const uint32_t LIL_GUARDIAN_MAX_WAIT = 3;

enum lil_guardian_state {
    LIL_GUARDIAN_STATE_WATCH, // checks
    LIL_GUARDIAN_STATE_CLOSE, // forces think_end
    LIL_GUARDIAN_STATE_END,   // forces the EOG token
    LIL_GUARDIAN_STATE_OFF,   // out of memory
};

struct lil_guardian {
    const llama_vocab * vocab;

    lil_guardian_params      params;        // its think_end is not used
    std::string              think_end;
    std::vector<llama_token> think_tokens;  // think_end, tokenized
    llama_token              eog;

    lil_lz77 * lz;

    lil_guardian_state state;

    uint32_t n_since;  // tokens since the last check
    uint32_t streak;   // checks in a row with little growth
    uint32_t n_wait;   // tokens that the action has waited
    size_t   n_forced; // tokens of think_end accepted

    double size_check; // size at the last check

    std::string tail;       // the end of the generated text: as much as a think_end or a character may need
    bool        think_seen; // whether the generated text has think_end

    std::vector<double> curve; // [n_checks + 1]
    lil_guardian_report report;

    // sampling on a backend: what the current graph reads, an entry per output
    struct input {
        ggml_tensor * keep;   // F32 [1]: 1, or 0 where a token is forced
        ggml_tensor * forced; // F32 [1]: the token, or 0
    };
    std::vector<input> inputs;
};

//
// text
//

static void lil_guardian_append_piece(const llama_vocab * vocab, llama_token token, std::string & text) {
    char piece[128];

    int32_t n = llama_token_to_piece(vocab, token, piece, (int32_t) sizeof(piece), 0, true);
    if (n >= 0) {
        text.append(piece, (size_t) n);
        return;
    }

    std::vector<char> buf((size_t) -n);
    n = llama_token_to_piece(vocab, token, buf.data(), (int32_t) buf.size(), 0, true);
    text.append(buf.data(), n > 0 ? (size_t) n : 0);
}

static bool lil_guardian_has_token(const llama_vocab * vocab, llama_token token) {
    return token >= 0 && token < llama_vocab_n_tokens(vocab);
}

// whether the text ends within a UTF-8 character; bytes that are no UTF-8 at all do not count as a begun one
static bool lil_guardian_is_partial(const std::string & text) {
    for (size_t i = 1; i <= 3 && i <= text.size(); i++) {
        const unsigned char c = (unsigned char) text[text.size() - i];

        if ((c & 0xc0) != 0x80) {
            return (c >= 0xf0 && c < 0xf8 && i < 4) || (c >= 0xe0 && c < 0xf0 && i < 3) || (c >= 0xc2 && c < 0xe0 && i < 2);
        }
    }

    return false;
}

//
// sampler
//

static const char * lil_guardian_name(const llama_sampler * smpl) {
    (void) smpl;
    return "guardian";
}

// back to the state before the first token and the prompt
static void lil_guardian_clear(lil_guardian & g) {
    g.state      = LIL_GUARDIAN_STATE_WATCH;
    g.n_since    = 0;
    g.streak     = 0;
    g.n_wait     = 0;
    g.n_forced   = 0;
    g.size_check = 0.0;
    g.think_seen = false;

    g.tail.clear();
    g.curve.assign(1, 0.0);

    g.report             = {};
    g.report.last_growth = std::numeric_limits<double>::quiet_NaN();
}

static void lil_guardian_check(lil_guardian & g) {
    const double size   = lil_lz77_size(g.lz);
    const double growth = size - g.size_check;

    g.curve.push_back(size);

    g.n_since    = 0;
    g.size_check = size;

    g.report.last_growth = growth;
    g.report.n_checks++;

    g.streak = growth < g.params.threshold ? g.streak + 1 : 0;
    if (g.streak < g.params.patience) {
        return;
    }

    if (!g.report.alarmed) {
        g.report.alarmed        = true;
        g.report.n_tokens_alarm = g.report.n_tokens;
    }

    // the streak goes on, but must not come round
    g.streak = g.params.patience;
    g.n_wait = 0;

    if (g.params.action == LIL_GUARDIAN_CLOSE_THINK && !g.think_seen) {
        g.state    = LIL_GUARDIAN_STATE_CLOSE;
        g.n_forced = 0;
    } else if (g.params.action != LIL_GUARDIAN_FLAG) {
        g.state = LIL_GUARDIAN_STATE_END;
    }
}

// whether the action that is due waits for the end of a character
static bool lil_guardian_is_waiting(const lil_guardian & g) {
    return g.n_wait < LIL_GUARDIAN_MAX_WAIT && g.n_forced == 0 && lil_guardian_is_partial(g.tail);
}

// the token that takes the place of the one picked now, or i tokens later if nothing else is said by then
static llama_token lil_guardian_get_forced(const lil_guardian & g, size_t i = 0) {
    if (lil_guardian_is_waiting(g)) {
        return LLAMA_TOKEN_NULL;
    }
    if (g.state == LIL_GUARDIAN_STATE_END) {
        return g.eog;
    }
    if (g.state == LIL_GUARDIAN_STATE_CLOSE && g.n_forced + i < g.think_tokens.size()) {
        return g.think_tokens[g.n_forced + i];
    }

    return LLAMA_TOKEN_NULL;
}

static void lil_guardian_accept(llama_sampler * smpl, llama_token token) {
    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    const bool known = lil_guardian_has_token(g.vocab, token);

    if (known && llama_vocab_is_eog(g.vocab, token)) {
        if (g.state == LIL_GUARDIAN_STATE_END && token == lil_guardian_get_forced(g)) {
            g.report.stopped = true; // where a backend put it: nothing was applied
        }
        return;
    }

    g.report.n_tokens++;

    if (g.state == LIL_GUARDIAN_STATE_OFF) {
        return;
    }

    const bool waited = lil_guardian_is_waiting(g);

    try {
        std::string piece;
        if (known) {
            lil_guardian_append_piece(g.vocab, token, piece);
        }

        if (!lil_lz77_feed(g.lz, piece.data(), piece.size())) {
            throw std::bad_alloc();
        }

        g.tail += piece;
        g.think_seen = g.think_seen || g.tail.find(g.think_end) != std::string::npos;

        const size_t n_tail = std::max<size_t>(g.think_end.size() - 1, 3);
        if (g.tail.size() > n_tail) {
            g.tail.erase(0, g.tail.size() - n_tail);
        }

        switch (g.state) {
            case LIL_GUARDIAN_STATE_WATCH:
                {
                    if (++g.n_since == g.params.every) {
                        lil_guardian_check(g);
                    }
                } break;
            case LIL_GUARDIAN_STATE_CLOSE:
                {
                    if (waited) {
                        g.n_wait++;
                    } else if (token == g.think_tokens[g.n_forced] && ++g.n_forced == g.think_tokens.size()) {
                        // the tokens may spell think_end in another way (a space before it, say): it counts as seen
                        g.think_seen = true;
                        g.state      = LIL_GUARDIAN_STATE_WATCH;
                        g.n_since    = 0;
                        g.streak     = 0;
                        g.n_wait     = 0;
                        g.n_forced   = 0;
                        g.size_check = lil_lz77_size(g.lz);

                        g.report.think_closed = true;
                    }
                } break;
            case LIL_GUARDIAN_STATE_END:
                {
                    g.n_wait += waited;
                } break;
            case LIL_GUARDIAN_STATE_OFF:
                break;
        }
    } catch (const std::bad_alloc &) {
        g.state = LIL_GUARDIAN_STATE_OFF;
    }
}

static void lil_guardian_apply(llama_sampler * smpl, llama_token_data_array * cur_p) {
    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    const llama_token token = lil_guardian_get_forced(g);

    if (token == LLAMA_TOKEN_NULL || cur_p->size == 0) {
        return;
    }

    if (g.state == LIL_GUARDIAN_STATE_END) {
        g.report.stopped = true;
    }

    cur_p->data[0]  = { token, 0.0f, 1.0f };
    cur_p->size     = 1;
    cur_p->selected = 0;
    cur_p->sorted   = true;
}

static void lil_guardian_reset(llama_sampler * smpl) {
    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    lil_lz77_reset(g.lz);
    lil_guardian_clear(g);
}

static void lil_guardian_free(llama_sampler * smpl) {
    lil_guardian * g = (lil_guardian *) smpl->ctx;

    lil_lz77_free(g->lz);
    delete g;
}

static llama_sampler * lil_guardian_clone(const llama_sampler * smpl);
static void lil_guardian_copy_state(const llama_sampler * smpl_src, llama_sampler * smpl_dst);

//
// sampling on a backend (llama_set_sampler): what is forced is known before the graph runs
//

static bool lil_guardian_backend_init(llama_sampler * smpl, ggml_backend_buffer_type_t buft, uint32_t n_outputs_max_per_seq) {
    (void) smpl;
    (void) n_outputs_max_per_seq;

    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    if (dev == nullptr) {
        return true; // the CPU
    }

    const ggml_init_params params = { 8*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };

    ggml_context * ctx = ggml_init(params);
    ggml_tensor  * x   = ggml_cast(ctx, ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1), GGML_TYPE_F32);
    ggml_tensor  * y   = ggml_add(ctx, x, x);

    const bool res = ggml_backend_dev_supports_op(dev, x) && ggml_backend_dev_supports_op(dev, y) &&
            ggml_backend_dev_supports_op(dev, ggml_mul(ctx, x, x)) && ggml_backend_dev_supports_op(dev, ggml_cast(ctx, y, GGML_TYPE_I32));

    if (!res) {
        LLAMA_LOG_ERROR("guardian: %s cannot replace a token: sample on the CPU, without llama_set_sampler()\n", ggml_backend_dev_name(dev));
    }

    ggml_free(ctx);

    return res;
}

static void lil_guardian_backend_apply(llama_sampler * smpl, ggml_context * ctx, ggml_cgraph * gf, llama_sampler_data * data) {
    (void) gf;

    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    if (g.params.action == LIL_GUARDIAN_FLAG) {
        return;
    }
    if (data->sampled == nullptr) {
        LLAMA_LOG_ERROR("guardian: on a backend it must stand after the sampler that picks the token: it will not act\n");
        return;
    }

    lil_guardian::input input;

    input.keep   = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1);
    input.forced = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1);

    for (ggml_tensor * t : { input.keep, input.forced }) {
        ggml_format_name(t, "guardian_%s_%zu", t == input.keep ? "keep" : "forced", g.inputs.size());
        ggml_set_input(t);
    }

    g.inputs.push_back(input);

    // tokens are exact in F32
    ggml_tensor * cur = ggml_cast(ctx, ggml_reshape_1d(ctx, data->sampled, 1), GGML_TYPE_F32);

    cur = ggml_add(ctx, ggml_mul(ctx, cur, input.keep), input.forced);

    data->sampled = ggml_cast(ctx, cur, GGML_TYPE_I32);
}

static void lil_guardian_backend_set_input(llama_sampler * smpl) {
    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    for (size_t i = 0; i < g.inputs.size(); i++) {
        const llama_token token = lil_guardian_get_forced(g, i);

        const float keep   = token == LLAMA_TOKEN_NULL ? 1.0f : 0.0f;
        const float forced = token == LLAMA_TOKEN_NULL ? 0.0f : (float) token;

        ggml_backend_tensor_set(g.inputs[i].keep,   &keep,   0, sizeof(keep));
        ggml_backend_tensor_set(g.inputs[i].forced, &forced, 0, sizeof(forced));
    }
}

static void lil_guardian_backend_reset(llama_sampler * smpl) {
    ((lil_guardian *) smpl->ctx)->inputs.clear();
}

static llama_sampler_i lil_guardian_i = {
    /* .name              = */ lil_guardian_name,
    /* .accept            = */ lil_guardian_accept,
    /* .apply             = */ lil_guardian_apply,
    /* .reset             = */ lil_guardian_reset,
    /* .clone             = */ lil_guardian_clone,
    /* .free              = */ lil_guardian_free,
    /* .backend_init      = */ lil_guardian_backend_init,
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ lil_guardian_backend_apply,
    /* .backend_set_input = */ lil_guardian_backend_set_input,
    /* .backend_reset     = */ lil_guardian_backend_reset,
    /* .copy_state        = */ lil_guardian_copy_state,
};

static llama_sampler * lil_guardian_clone(const llama_sampler * smpl) {
    const lil_guardian & src = *(const lil_guardian *) smpl->ctx;

    lil_lz77 * lz = lil_lz77_clone(src.lz);
    if (lz == nullptr) {
        throw std::bad_alloc();
    }

    lil_guardian * g = nullptr;

    try {
        g     = new lil_guardian(src);
        g->lz = lz;
        g->inputs.clear();

        return llama_sampler_init(&lil_guardian_i, g);
    } catch (...) {
        delete g;
        lil_lz77_free(lz);
        throw;
    }
}

static void lil_guardian_copy_state(const llama_sampler * smpl_src, llama_sampler * smpl_dst) {
    const lil_guardian & src = *(const lil_guardian *) smpl_src->ctx;
    lil_guardian       & dst = *(lil_guardian *) smpl_dst->ctx;

    lil_lz77 * lz = lil_lz77_clone(src.lz);
    if (lz == nullptr) {
        throw std::bad_alloc();
    }
    lil_lz77_free(dst.lz);

    const auto inputs = std::move(dst.inputs);

    dst        = src;
    dst.lz     = lz;
    dst.inputs = inputs; // its own graph's
}

// nullptr: smpl is no Guardian
static lil_guardian * lil_guardian_get(const llama_sampler * smpl) {
    if (smpl == nullptr || smpl->iface != &lil_guardian_i) {
        lil_set_last_error("guardian: the sampler is not a Guardian; pass what lil_sampler_init_guardian() returned, "
                "not the chain it is in");
        return nullptr;
    }

    return (lil_guardian *) smpl->ctx;
}

//
// interface
//

lil_guardian_params lil_guardian_default_params(void) {
    lil_guardian_params params = {};

    params.every     = 250;
    params.threshold = 20.0;
    params.patience  = 1;
    params.action    = LIL_GUARDIAN_STOP;
    params.think_end = nullptr;

    return params;
}

static llama_token lil_guardian_find_eog(const llama_vocab * vocab) {
    for (llama_token token : { llama_vocab_eos(vocab), llama_vocab_eot(vocab) }) {
        if (token != LLAMA_TOKEN_NULL && llama_vocab_is_eog(vocab, token)) {
            return token;
        }
    }

    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab); token++) {
        if (llama_vocab_is_eog(vocab, token)) {
            return token;
        }
    }

    return LLAMA_TOKEN_NULL;
}

static bool lil_guardian_check_params(const llama_vocab * vocab, const lil_guardian_params & params) {
    if (vocab == nullptr || llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        lil_set_last_error("guardian: there is no vocabulary; pass llama_model_get_vocab() of a model that has one");
        return false;
    }
    if (params.every < 1) {
        lil_set_last_error("guardian: every is %u, it must be at least 1 token", (unsigned) params.every);
        return false;
    }
    if (params.patience < 1) {
        lil_set_last_error("guardian: patience is %u, it must be at least 1 check", (unsigned) params.patience);
        return false;
    }
    if (!std::isfinite(params.threshold) || params.threshold < 0.0) {
        lil_set_last_error("guardian: threshold is %g, it must be a number of bytes >= 0", params.threshold);
        return false;
    }

    // a C caller can pass any number, which a C++ enum must not hold
    int action;
    static_assert(sizeof(action) == sizeof(params.action), "the enum is an int");
    memcpy(&action, &params.action, sizeof(action));

    if (action < LIL_GUARDIAN_STOP || action > LIL_GUARDIAN_FLAG) {
        lil_set_last_error("guardian: action is %d, it must be LIL_GUARDIAN_STOP, LIL_GUARDIAN_CLOSE_THINK or "
                "LIL_GUARDIAN_FLAG", action);
        return false;
    }
    if (action == LIL_GUARDIAN_CLOSE_THINK && params.think_end != nullptr && params.think_end[0] == '\0') {
        lil_set_last_error("guardian: think_end is empty, it must be the text that ends thinking, or NULL for </think>");
        return false;
    }

    return true;
}

static std::vector<llama_token> lil_guardian_tokenize(const llama_vocab * vocab, const std::string & text) {
    const int32_t n_text = (int32_t) text.size();

    std::vector<llama_token> tokens(text.size() + 2);

    int32_t n = llama_tokenize(vocab, text.data(), n_text, tokens.data(), (int32_t) tokens.size(), false, true);
    if (n < 0 && n > std::numeric_limits<int32_t>::min()) {
        tokens.resize((size_t) -n);
        n = llama_tokenize(vocab, text.data(), n_text, tokens.data(), (int32_t) tokens.size(), false, true);
    }

    tokens.resize(n > 0 ? (size_t) n : 0);

    return tokens;
}

llama_sampler * lil_sampler_init_guardian(const llama_vocab * vocab, lil_guardian_params params) {
    if (!lil_guardian_check_params(vocab, params)) {
        return nullptr;
    }

    lil_guardian * g = nullptr;

    try {
        g = new lil_guardian();

        g->vocab            = vocab;
        g->params           = params;
        g->think_end        = params.think_end != nullptr && params.think_end[0] != '\0' ? params.think_end : "</think>";
        g->params.think_end = nullptr; // the caller's
        g->eog              = lil_guardian_find_eog(vocab);

        if (params.action == LIL_GUARDIAN_CLOSE_THINK) {
            g->think_tokens = lil_guardian_tokenize(vocab, g->think_end);
        }

        const bool forces = params.action != LIL_GUARDIAN_FLAG;

        if (forces && g->eog == LLAMA_TOKEN_NULL) {
            lil_set_last_error("guardian: the vocabulary has no end-of-generation token to force; "
                    "LIL_GUARDIAN_FLAG needs none");
        } else if (params.action == LIL_GUARDIAN_CLOSE_THINK && g->think_tokens.empty()) {
            lil_set_last_error("guardian: think_end \"%s\" gives no tokens in this vocabulary; pass the text that ends the "
                    "model's thinking", g->think_end.c_str());
        } else if ((g->lz = lil_lz77_init()) == nullptr) {
            lil_set_last_error("guardian: out of memory");
        } else {
            lil_guardian_clear(*g);

            return llama_sampler_init(&lil_guardian_i, g);
        }
    } catch (const std::exception & e) {
        lil_set_last_error("guardian: %s", e.what());
    }

    if (g != nullptr) {
        lil_lz77_free(g->lz);
        delete g;
    }

    return nullptr;
}

bool lil_guardian_feed_prompt(llama_sampler * smpl, const llama_token * tokens, int32_t n_tokens) {
    lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return false;
    }

    if (n_tokens < 0 || (tokens == nullptr && n_tokens > 0)) {
        lil_set_last_error("guardian: the prompt has %d tokens at %p; pass an array and its length",
                (int) n_tokens, (const void *) tokens);
        return false;
    }

    for (int32_t i = 0; i < n_tokens; i++) {
        if (!lil_guardian_has_token(g->vocab, tokens[i])) {
            lil_set_last_error("guardian: token %d of the prompt is %d, the vocabulary has 0 .. %d",
                    (int) i, (int) tokens[i], (int) llama_vocab_n_tokens(g->vocab) - 1);
            return false;
        }
    }

    try {
        std::string text;
        for (int32_t i = 0; i < n_tokens; i++) {
            lil_guardian_append_piece(g->vocab, tokens[i], text);
        }

        const double size = lil_lz77_size(g->lz);

        if (!lil_lz77_feed(g->lz, text.data(), text.size())) {
            throw std::bad_alloc();
        }

        // what is not generated counts for no check
        g->size_check += lil_lz77_size(g->lz) - size;

        if (g->report.n_tokens == 0) {
            g->curve[0] = lil_lz77_size(g->lz);
        }
    } catch (const std::exception &) {
        lil_set_last_error("guardian: out of memory, or more than 2^31 - 1 bytes of text");
        return false;
    }

    return true;
}

bool lil_guardian_get_report(const llama_sampler * smpl, lil_guardian_report * report) {
    const lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return false;
    }

    *report = g->report;

    report->n_bytes = lil_lz77_bytes(g->lz);
    report->size    = lil_lz77_size(g->lz);

    return true;
}

size_t lil_guardian_get_curve(const llama_sampler * smpl, double * size, size_t n) {
    const lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return 0;
    }

    if (size != nullptr) {
        std::copy_n(g->curve.begin(), std::min(n, g->curve.size()), size);
    }

    return g->curve.size();
}
