#pragma once

// guardian-state.h: what a Guardian has seen and what it wants next, as guardian.h defines it; no sampler yet

#include "guardian-scan.h"
#include "lil.h"
#include "lz77.h"
#include "text-rule.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct ggml_tensor;

enum lil_guardian_state {
    LIL_GUARDIAN_STATE_WATCH, // checks
    LIL_GUARDIAN_STATE_LAND,  // waits for a place for think_end
    LIL_GUARDIAN_STATE_CLOSE, // forces think_end
    LIL_GUARDIAN_STATE_END,   // forces the EOG token
    LIL_GUARDIAN_STATE_OFF,   // out of memory
};

struct lil_guardian {
    lil_guardian(const llama_vocab * vocab, const lil_guardian_params & params, lil_guardian_scan scan);

    const llama_vocab * vocab;

    lil_guardian_params              params;       // less its pointers, the caller's
    std::vector<lil_guardian_action> actions;      // by alarm
    std::vector<llama_token>         think_tokens; // message and think_end, tokenized
    llama_token                      eog = LLAMA_TOKEN_NULL;

    lil_lz77 *      lz        = nullptr;
    lil_text_rule * text_rule = nullptr; // LIL_GUARDIAN_RULE_TEXT; otherwise nullptr

    lil_guardian_state state;

    uint32_t n_since;  // tokens since the last check
    uint32_t streak;   // checks in a row with little growth
    uint32_t n_wait;   // tokens that the action has waited
    size_t   n_forced; // tokens of think_tokens accepted

    size_t              i_action; // of the next alarm
    size_t              i_before; // the same before the last alarm
    lil_guardian_action action;   // what the last alarm leads to
    bool                pending;  // nothing was accepted since the last alarm
    uint32_t            n_narrow; // checks until the budget may go back

    double size_check; // size at the last check

    lil_guardian_scan scan;

    // the text after each generated token
    struct step {
        double size;
        bool   end;     // of a line or a sentence
        bool   partial; // within a character
    };
    std::vector<step> steps; // [n_tokens]

    std::vector<double>             curve; // [n_checks + 1]
    std::vector<lil_guardian_event> events;
    lil_guardian_report             report;

    // sampling on a backend: what the current graph reads, an entry per output
    struct input {
        ggml_tensor * keep;   // F32 [1]: 1, or 0 where a token is forced
        ggml_tensor * forced; // F32 [1]: the token, or 0
    };
    std::vector<input> inputs;
};

// The text of a token, as guardian.h defines it, at the end of `text`. Throws std::bad_alloc.
void lil_guardian_append_piece(const llama_vocab * vocab, llama_token token, std::string & text);

bool lil_guardian_has_token(const llama_vocab * vocab, llama_token token);

// The Guardian of a sampler. Null: it is none, which lil_last_error() says.
lil_guardian * lil_guardian_get(const llama_sampler * smpl);

// back to the state before the first token and the prompt
void lil_guardian_clear(lil_guardian & g);

// Appends text to what is compressed and scanned; generated: a token's, a step. Throws std::bad_alloc.
void lil_guardian_append(lil_guardian & g, const std::string & text, bool generated);
// generated tokens between two checks
uint32_t lil_guardian_get_interval(const lil_guardian_params & params);

// A generated token: feeds its text, checks where one is due, and moves an action on. Where memory runs out, to
// STATE_OFF.
void lil_guardian_add(lil_guardian & g, llama_token token);

//
// what alarms lead to: guardian-actions.cpp
//

// An alarm. Throws std::bad_alloc, like those below.
void lil_guardian_raise(lil_guardian & g);

// whether an action can be taken now
bool lil_guardian_can(const lil_guardian & g, lil_guardian_action action);

// takes an action for the last alarm
void lil_guardian_act(lil_guardian & g, lil_guardian_action action);

// the last alarm has led to nothing yet; g.pending
void lil_guardian_take_back(lil_guardian & g);

// a check was made in which the text gained or did not; whether the alarm that is due may be raised
bool lil_guardian_after_check(lil_guardian & g, bool gained);

// a token was accepted; is_waiting() as it was before it
void lil_guardian_move(lil_guardian & g, llama_token token, bool waited);

// whether the action that is due waits for the end of a character
bool lil_guardian_is_waiting(const lil_guardian & g);

// The token that takes the place of the one picked now, or i tokens later if nothing else is said by then;
// LLAMA_TOKEN_NULL: none.
llama_token lil_guardian_get_forced(const lil_guardian & g, size_t i = 0);
