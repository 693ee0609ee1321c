#include "guardian-state.h"

#include <algorithm>
#include <limits>
#include <new>

// tokens that an action waits for the end of a character
static const uint32_t LIL_GUARDIAN_MAX_WAIT = 3;

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

// whether the text ends within a UTF-8 character; bytes that are no UTF-8 at all do not count as a begun one
static bool lil_guardian_is_partial(const std::string & text) {
    for (size_t i = 1; i <= 3 && i <= text.size(); i++) {
        const unsigned char c = (unsigned char) text[text.size() - i];

        if ((c & 0xc0) != 0x80) {
            return (c >= 0xf0 && c < 0xf8 && i < 4) || (c >= 0xe0 && c < 0xf0 && i < 3) ||
                    (c >= 0xc2 && c < 0xe0 && i < 2);
        }
    }

    return false;
}

//
// the rule
//

void lil_guardian_clear(lil_guardian & g) {
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

llama_token lil_guardian_get_forced(const lil_guardian & g, size_t i) {
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
            case LIL_GUARDIAN_STATE_WATCH: {
                if (++g.n_since == g.params.every) {
                    lil_guardian_check(g);
                }
            } break;
            case LIL_GUARDIAN_STATE_CLOSE: {
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
            case LIL_GUARDIAN_STATE_END: {
                g.n_wait += waited;
            } break;
            case LIL_GUARDIAN_STATE_OFF: break;
        }
    } catch (const std::bad_alloc &) {
        g.state = LIL_GUARDIAN_STATE_OFF;
    }
}
