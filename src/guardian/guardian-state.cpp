#include "guardian-state.h"

#include <limits>
#include <new>
#include <utility>

//
// text
//

void lil_guardian_append_piece(const llama_vocab * vocab, llama_token token, std::string & text) {
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

bool lil_guardian_has_token(const llama_vocab * vocab, llama_token token) {
    return token >= 0 && token < llama_vocab_n_tokens(vocab);
}

//
// the rule
//

lil_guardian::lil_guardian(const llama_vocab * vocab, const lil_guardian_params & params, lil_guardian_scan scan) :
    vocab(vocab), params(params), actions(1, params.action), scan(std::move(scan)) {
    this->params.then        = nullptr;
    this->params.think_begin = nullptr;
    this->params.think_end   = nullptr;
    this->params.message     = nullptr;

    if (params.n_then > 0) {
        actions.insert(actions.end(), params.then, params.then + params.n_then);
    }

    lil_guardian_clear(*this);
}

void lil_guardian_clear(lil_guardian & g) {
    g.state      = LIL_GUARDIAN_STATE_WATCH;
    g.n_since    = 0;
    g.streak     = 0;
    g.n_wait     = 0;
    g.n_forced   = 0;
    g.size_check = 0.0;

    g.i_action = 0;
    g.i_before = 0;
    g.action   = g.params.action;
    g.pending  = false;
    g.n_narrow = 0;

    g.scan.clear();
    g.steps.clear();

    if (g.text_rule != nullptr) {
        lil_text_rule_reset(g.text_rule);
    }

    g.curve.assign(1, 0.0);
    g.events.clear();

    g.report             = {};
    g.report.last_growth = std::numeric_limits<double>::quiet_NaN();
}

uint32_t lil_guardian_get_interval(const lil_guardian_params & params) {
    return params.rule == LIL_GUARDIAN_RULE_TEXT ? params.every / 2 + params.every % 2 : params.every;
}

// whether the rule raises an alarm at a check
static bool lil_guardian_is_alarm(lil_guardian & g, double growth) {
    if (g.text_rule != nullptr) {
        return lil_text_rule_check(g.text_rule, growth, g.params.threshold, g.params.patience);
    }

    // the streak goes on, but must not come round
    g.streak = growth < g.params.threshold ? std::min(g.streak + 1, g.params.patience) : 0;

    return g.streak == g.params.patience;
}

static void lil_guardian_check(lil_guardian & g) {
    const double size   = lil_lz77_size(g.lz);
    const double growth = size - g.size_check;

    g.curve.push_back(size);

    g.n_since    = 0;
    g.size_check = size;

    g.report.last_growth = growth;
    g.report.n_checks++;

    const bool alarm     = lil_guardian_is_alarm(g, growth);
    const bool gains     = g.text_rule != nullptr ? !alarm : g.streak == 0;
    const bool may_raise = lil_guardian_after_check(g, gains);

    if (alarm && may_raise) {
        lil_guardian_raise(g);
    }
}

void lil_guardian_append(lil_guardian & g, const std::string & text, bool generated) {
    if (!lil_lz77_feed(g.lz, text.data(), text.size())) {
        throw std::bad_alloc();
    }
    if (generated && g.text_rule != nullptr && !lil_text_rule_feed(g.text_rule, text.data(), text.size())) {
        throw std::bad_alloc();
    }

    g.scan.add(text, generated);

    if (generated) {
        g.steps.push_back({ lil_lz77_size(g.lz), g.scan.is_end(), g.scan.is_partial() });
    }
}

void lil_guardian_add(lil_guardian & g, llama_token token) {
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

        lil_guardian_append(g, piece, true);
        g.pending = false;

        if (g.state != LIL_GUARDIAN_STATE_WATCH) {
            lil_guardian_move(g, token, waited);
        } else if (++g.n_since == lil_guardian_get_interval(g.params)) {
            lil_guardian_check(g);
        }
    } catch (const std::bad_alloc &) {
        g.state = LIL_GUARDIAN_STATE_OFF;
    }
}
