#pragma once

// guardian-state.h: what a Guardian has seen and what it wants next, as guardian.h defines it; no sampler yet

#include "lil.h"
#include "lz77.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct ggml_tensor;

enum lil_guardian_state {
    LIL_GUARDIAN_STATE_WATCH, // checks
    LIL_GUARDIAN_STATE_CLOSE, // forces think_end
    LIL_GUARDIAN_STATE_END,   // forces the EOG token
    LIL_GUARDIAN_STATE_OFF,   // out of memory
};

struct lil_guardian {
    const llama_vocab * vocab;

    lil_guardian_params      params; // its think_end is not used
    std::string              think_end;
    std::vector<llama_token> think_tokens; // think_end, tokenized
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

// The text of a token, as guardian.h defines it, at the end of `text`. Throws std::bad_alloc.
void lil_guardian_append_piece(const llama_vocab * vocab, llama_token token, std::string & text);

bool lil_guardian_has_token(const llama_vocab * vocab, llama_token token);

// back to the state before the first token and the prompt
void lil_guardian_clear(lil_guardian & g);

// A generated token: feeds its text, checks where one is due, and moves an action on. Where memory runs out, to
// STATE_OFF.
void lil_guardian_add(lil_guardian & g, llama_token token);

// The token that takes the place of the one picked now, or i tokens later if nothing else is said by then;
// LLAMA_TOKEN_NULL: none.
llama_token lil_guardian_get_forced(const lil_guardian & g, size_t i = 0);
