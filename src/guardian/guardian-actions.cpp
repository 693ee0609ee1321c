// What alarms lead to, as guardian.h says it.

#include "guardian-state.h"

#include <algorithm>
#include <new>

// tokens that an action waits for the end of a character
static const uint32_t LIL_GUARDIAN_MAX_WAIT = 3;

// how often `every` tokens go by during which the budget is wide whatever the text does
static const uint32_t LIL_GUARDIAN_WIDE = 2;

static void note(lil_guardian & g, lil_guardian_event_kind kind) {
    g.events.push_back({ kind, g.report.n_tokens });
}

// the checks start anew
static void watch(lil_guardian & g) {
    g.state      = LIL_GUARDIAN_STATE_WATCH;
    g.n_since    = 0;
    g.streak     = 0;
    g.size_check = lil_lz77_size(g.lz);

    if (g.text_rule != nullptr) {
        lil_text_rule_reset(g.text_rule);
    }
}

static void stop(lil_guardian & g) {
    g.state  = LIL_GUARDIAN_STATE_END;
    g.n_wait = 0;

    note(g, LIL_GUARDIAN_DID_STOP);
}

// think_end is forced from here on, if this is a place for it
static void land(lil_guardian & g) {
    const bool late = g.n_wait >= g.params.grace;

    if (g.scan.is_partial() && g.n_wait < g.params.grace + LIL_GUARDIAN_MAX_WAIT) {
        return;
    }

    if (g.scan.is_closed()) {
        if (late) {
            stop(g); // a text put in here would break what it stands in
        }
    } else if (late || (g.scan.is_end() && !g.scan.in_json())) {
        g.state    = LIL_GUARDIAN_STATE_CLOSE;
        g.n_forced = 0;

        note(g, LIL_GUARDIAN_DID_CLOSE_THINK);
    }
}

bool lil_guardian_can(const lil_guardian & g, lil_guardian_action action) {
    switch (action) {
        case LIL_GUARDIAN_CLOSE_THINK: {
            return !g.think_tokens.empty() && !g.report.think_closed && g.scan.is_thinking();
        }
        case LIL_GUARDIAN_STOP: {
            return g.eog != LLAMA_TOKEN_NULL;
        }
        default: return true;
    }
}

void lil_guardian_act(lil_guardian & g, lil_guardian_action action) {
    g.action = action;
    g.n_wait = 0;

    switch (action) {
        case LIL_GUARDIAN_STOP: {
            stop(g);
        } break;
        case LIL_GUARDIAN_CLOSE_THINK: {
            g.state = LIL_GUARDIAN_STATE_LAND;
            land(g);
        } break;
        case LIL_GUARDIAN_WIDEN: {
            g.report.n_wide++;
            g.n_narrow = LIL_GUARDIAN_WIDE * g.params.every / lil_guardian_get_interval(g.params);
            note(g, LIL_GUARDIAN_DID_WIDEN);
        } break;
        case LIL_GUARDIAN_FLAG: break;
    }
}

void lil_guardian_take_back(lil_guardian & g) {
    while (g.events.back().kind != LIL_GUARDIAN_DID_ALARM) {
        g.events.pop_back();
    }
    if (g.action == LIL_GUARDIAN_WIDEN) { // alarms are raised when the time of the last one is over
        g.report.n_wide--;
        g.n_narrow = 0;
    }

    g.state    = LIL_GUARDIAN_STATE_WATCH;
    g.i_action = g.i_before;
}

// see lil_guardian_rewind()
static uint64_t get_n_tail(const lil_guardian & g) {
    const auto & steps = g.steps;
    const double most  = std::max(g.params.threshold, g.report.last_growth);

    size_t n = steps.size(); // tokens that stay
    while (n > 0 && steps.back().size - steps[n - 1].size <= most) {
        n--;
    }

    for (size_t i = n; i > 0 && i + g.params.grace >= n; i--) {
        if (steps[i - 1].end) {
            return steps.size() - i;
        }
    }
    while (n > 0 && steps[n - 1].partial) {
        n--;
    }

    return steps.size() - n;
}

void lil_guardian_raise(lil_guardian & g) {
    if (!g.report.alarmed) {
        g.report.alarmed        = true;
        g.report.n_tokens_alarm = g.report.n_tokens;
    }
    g.report.n_alarms++;
    g.report.n_tail = get_n_tail(g);

    g.pending  = true;
    g.i_before = g.i_action;

    note(g, LIL_GUARDIAN_DID_ALARM);

    while (g.i_action < g.actions.size() && !lil_guardian_can(g, g.actions[g.i_action])) {
        g.i_action++;
    }

    if (g.i_action < g.actions.size()) {
        lil_guardian_act(g, g.actions[g.i_action++]);
    } else {
        lil_guardian_act(g, g.actions.back() == LIL_GUARDIAN_FLAG ? LIL_GUARDIAN_FLAG : LIL_GUARDIAN_STOP);
    }
}

bool lil_guardian_after_check(lil_guardian & g, bool gained) {
    if (g.report.n_wide == 0) {
        return true;
    }
    if (g.n_narrow > 0 && --g.n_narrow > 0) {
        return false;
    }

    if (gained) {
        g.report.n_wide = 0;
        note(g, LIL_GUARDIAN_DID_NARROW);
    }

    return true;
}

void lil_guardian_move(lil_guardian & g, llama_token token, bool waited) {
    switch (g.state) {
        case LIL_GUARDIAN_STATE_LAND: {
            g.n_wait++;
            if (g.scan.is_thinking()) {
                land(g);
            } else {
                watch(g); // the model has landed by itself
            }
        } break;
        case LIL_GUARDIAN_STATE_CLOSE: {
            if (token == g.think_tokens[g.n_forced] && ++g.n_forced == g.think_tokens.size()) {
                // the tokens may spell think_end in another way (a space before it, say): it counts as seen
                g.scan.end_thinking();
                g.report.think_closed = true;
                watch(g);
            }
        } break;
        case LIL_GUARDIAN_STATE_END: {
            g.n_wait += waited;
        } break;
        default: break;
    }
}

bool lil_guardian_is_waiting(const lil_guardian & g) {
    return g.state == LIL_GUARDIAN_STATE_END && g.n_wait < LIL_GUARDIAN_MAX_WAIT && g.scan.is_partial();
}

llama_token lil_guardian_get_forced(const lil_guardian & g, size_t i) {
    if (g.state == LIL_GUARDIAN_STATE_END && !lil_guardian_is_waiting(g)) {
        return g.eog;
    }
    if (g.state == LIL_GUARDIAN_STATE_CLOSE && g.n_forced + i < g.think_tokens.size()) {
        return g.think_tokens[g.n_forced + i];
    }

    return LLAMA_TOKEN_NULL;
}
