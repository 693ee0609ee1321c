#include "guardian.h"

#include "guardian-backend.h"
#include "guardian-state.h"
#include "lil-error.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

//
// sampler
//

static const char * lil_guardian_name(const llama_sampler * smpl) {
    (void) smpl;
    return "guardian";
}

static void lil_guardian_accept(llama_sampler * smpl, llama_token token) {
    lil_guardian_add(*(lil_guardian *) smpl->ctx, token);
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

// g may be nullptr
static void lil_guardian_delete(lil_guardian * g) {
    if (g != nullptr) {
        lil_lz77_free(g->lz);
        lil_text_rule_free(g->text_rule);
        delete g;
    }
}

static void lil_guardian_free(llama_sampler * smpl) {
    lil_guardian * g = (lil_guardian *) smpl->ctx;

    lil_guardian_delete(g);
}

static llama_sampler * lil_guardian_clone(const llama_sampler * smpl);
static void            lil_guardian_copy_state(const llama_sampler * smpl_src, llama_sampler * smpl_dst);

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

// a copy with texts of its own. Throws std::bad_alloc.
static lil_guardian * lil_guardian_copy(const lil_guardian & src) {
    lil_guardian * g = new lil_guardian(src);

    g->lz        = lil_lz77_clone(src.lz);
    g->text_rule = src.text_rule ? lil_text_rule_clone(src.text_rule) : nullptr;

    if (g->lz == nullptr || (src.text_rule != nullptr && g->text_rule == nullptr)) {
        lil_guardian_delete(g);
        throw std::bad_alloc();
    }

    return g;
}

static llama_sampler * lil_guardian_clone(const llama_sampler * smpl) {
    lil_guardian * g = lil_guardian_copy(*(const lil_guardian *) smpl->ctx);

    try {
        g->inputs.clear();

        return llama_sampler_init(&lil_guardian_i, g);
    } catch (...) {
        lil_guardian_delete(g);
        throw;
    }
}

static void lil_guardian_copy_state(const llama_sampler * smpl_src, llama_sampler * smpl_dst) {
    lil_guardian & dst = *(lil_guardian *) smpl_dst->ctx;

    // whatever can throw comes first: dst is as it was then
    lil_guardian * copy = lil_guardian_copy(*(const lil_guardian *) smpl_src->ctx);

    copy->inputs = std::move(dst.inputs); // its own graph's

    std::swap(dst, *copy);
    lil_guardian_delete(copy);
}

lil_guardian * lil_guardian_get(const llama_sampler * smpl) {
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
    params.grace     = 25;
    params.widen     = 2;
    params.rule      = LIL_GUARDIAN_RULE_TEXT;

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

static bool lil_guardian_check_action(const lil_guardian_action & given) {
    // a C caller can pass any number, which a C++ enum must not hold
    int action;
    static_assert(sizeof(action) == sizeof(given), "the enum is an int");
    memcpy(&action, &given, sizeof(action));

    if (action >= LIL_GUARDIAN_STOP && action <= LIL_GUARDIAN_WIDEN) {
        return true;
    }

    lil_set_last_error("guardian: action is %d, it must be LIL_GUARDIAN_STOP, LIL_GUARDIAN_CLOSE_THINK, "
                       "LIL_GUARDIAN_FLAG or LIL_GUARDIAN_WIDEN",
            action);
    return false;
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
    int rule;
    static_assert(sizeof(rule) == sizeof(params.rule), "an enum is an int");
    memcpy(&rule, &params.rule, sizeof(rule));

    if (rule < LIL_GUARDIAN_RULE_PAPER || rule > LIL_GUARDIAN_RULE_TEXT) {
        lil_set_last_error("guardian: rule is %d, it must be LIL_GUARDIAN_RULE_PAPER or LIL_GUARDIAN_RULE_TEXT", rule);
        return false;
    }
    if (params.n_then > 0 && params.then == nullptr) {
        lil_set_last_error("guardian: n_then is %u and then is NULL; pass as many actions", (unsigned) params.n_then);
        return false;
    }
    for (uint32_t i = 0; i <= params.n_then; i++) {
        if (!lil_guardian_check_action(i == 0 ? params.action : params.then[i - 1])) {
            return false;
        }
    }
    if (params.widen == 1) {
        lil_set_last_error("guardian: widen is 1, it must be at least 2 times the budget, or 0 for everything");
        return false;
    }
    for (const char * text : { params.think_begin, params.think_end, params.message }) {
        if (text != nullptr && text[0] == '\0') {
            lil_set_last_error("guardian: %s is empty, it must be a text, or NULL for %s",
                    text == params.think_end         ? "think_end"
                            : text == params.message ? "message"
                                                     : "think_begin",
                    text == params.think_end ? "</think>" : "none");
            return false;
        }
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
        const std::string think_begin = params.think_begin != nullptr ? params.think_begin : "";
        const std::string think_end   = params.think_end != nullptr ? params.think_end : "</think>";
        const std::string message     = params.message != nullptr ? params.message : "";

        g = new lil_guardian(vocab, params, lil_guardian_scan(think_begin, think_end));

        g->eog = lil_guardian_find_eog(vocab);

        const auto has = [g](lil_guardian_action action) {
            return std::find(g->actions.begin(), g->actions.end(), action) != g->actions.end();
        };

        g->think_tokens = lil_guardian_tokenize(vocab, message + think_end); // lil_guardian_decide() may want them

        const bool stops =
                g->actions.back() != LIL_GUARDIAN_FLAG || has(LIL_GUARDIAN_STOP) || has(LIL_GUARDIAN_CLOSE_THINK);

        if (stops && g->eog == LLAMA_TOKEN_NULL) {
            lil_set_last_error("guardian: the vocabulary has no end-of-generation token to force; "
                               "LIL_GUARDIAN_FLAG needs none");
        } else if (has(LIL_GUARDIAN_CLOSE_THINK) && g->think_tokens.empty()) {
            lil_set_last_error(
                    "guardian: think_end \"%s\" gives no tokens in this vocabulary; pass the text that ends the "
                    "model's thinking",
                    think_end.c_str());
        } else if ((g->lz = lil_lz77_init()) == nullptr ||
                (params.rule == LIL_GUARDIAN_RULE_TEXT && (g->text_rule = lil_text_rule_init()) == nullptr)) {
            lil_set_last_error("guardian: out of memory");
        } else {
            return llama_sampler_init(&lil_guardian_i, g);
        }
    } catch (const std::exception & e) {
        lil_set_last_error("guardian: %s", e.what());
    }

    lil_guardian_delete(g);

    return nullptr;
}

bool lil_guardian_feed_prompt(llama_sampler * smpl, const llama_token * tokens, int32_t n_tokens) {
    lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return false;
    }

    if (n_tokens < 0 || (tokens == nullptr && n_tokens > 0)) {
        lil_set_last_error("guardian: the prompt has %d tokens at %p; pass an array and its length", (int) n_tokens,
                (const void *) tokens);
        return false;
    }

    for (int32_t i = 0; i < n_tokens; i++) {
        if (!lil_guardian_has_token(g->vocab, tokens[i])) {
            lil_set_last_error("guardian: token %d of the prompt is %d, the vocabulary has 0 .. %d", (int) i,
                    (int) tokens[i], (int) llama_vocab_n_tokens(g->vocab) - 1);
            return false;
        }
    }

    try {
        std::string text;
        for (int32_t i = 0; i < n_tokens; i++) {
            lil_guardian_append_piece(g->vocab, tokens[i], text);
        }

        const double size = lil_lz77_size(g->lz);

        lil_guardian_append(*g, text, false);

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

    report->n_bytes  = lil_lz77_bytes(g->lz);
    report->size     = lil_lz77_size(g->lz);
    report->action   = g->action;
    report->thinking = lil_guardian_can(*g, LIL_GUARDIAN_CLOSE_THINK);

    if (report->stopped) {
        report->cut = g->scan.in_tool_call() ? LIL_GUARDIAN_CUT_TOOL_CALL
                : g->scan.in_json()          ? LIL_GUARDIAN_CUT_JSON
                                             : LIL_GUARDIAN_CUT_NOTHING;
    }

    return true;
}

size_t lil_guardian_get_events(const llama_sampler * smpl, lil_guardian_event * events, size_t n) {
    const lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return 0;
    }

    if (events != nullptr) {
        std::copy_n(g->events.begin(), std::min(n, g->events.size()), events);
    }

    return g->events.size();
}

bool lil_guardian_decide(llama_sampler * smpl, lil_guardian_action action) {
    lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr || !lil_guardian_check_action(action)) {
        return false;
    }

    if (!g->pending) {
        lil_set_last_error("guardian: there is nothing to decide; call it right after the accept that raised an alarm");
        return false;
    }
    if (!lil_guardian_can(*g, action)) {
        lil_set_last_error("guardian: action is %d, which cannot be taken here: %s", (int) action,
                action == LIL_GUARDIAN_CLOSE_THINK ? "thinking is not open, or was closed before"
                                                   : "the vocabulary has no end-of-generation token");
        return false;
    }

    try {
        lil_guardian_take_back(*g);
        lil_guardian_act(*g, action);
    } catch (const std::bad_alloc &) {
        lil_set_last_error("guardian: out of memory");
        return false;
    }

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

bool lil_guardian_set_thinking(llama_sampler * smpl, bool thinking) {
    lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return false;
    }

    if (g->state != LIL_GUARDIAN_STATE_CLOSE && g->state != LIL_GUARDIAN_STATE_LAND) {
        g->scan.set_thinking(thinking);
    }

    return true;
}
