// Taking a tail back. The factorisation cannot shrink, so the text that is left is read again.

#include "guardian-state.h"
#include "lil-error.h"

#include <exception>
#include <string>

// a token that the vocabulary lacks adds nothing
static std::string get_piece(const lil_guardian & g, llama_token token) {
    std::string piece;
    if (lil_guardian_has_token(g.vocab, token)) {
        lil_guardian_append_piece(g.vocab, token, piece);
    }
    return piece;
}

bool lil_guardian_rewind(llama_sampler * smpl, const llama_token * tokens, int32_t n_prompt, int32_t n_tokens) {
    lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return false;
    }

    if (n_prompt < 0 || n_tokens < n_prompt || (tokens == nullptr && n_tokens > 0) ||
            (uint64_t) (n_tokens - n_prompt) > g->report.n_tokens) {
        lil_set_last_error("guardian: %d tokens are left, %d of them the prompt's, and %llu were generated; pass the "
                           "prompt and at most as many",
                (int) n_tokens, (int) n_prompt, (unsigned long long) g->report.n_tokens);
        return false;
    }

    try {
        std::string prompt;
        for (int32_t i = 0; i < n_prompt; i++) {
            prompt += get_piece(*g, tokens[i]);
        }

        g->events.push_back({ LIL_GUARDIAN_DID_REWIND, (uint64_t) (n_tokens - n_prompt) });

        lil_lz77_reset(g->lz);
        if (g->text_rule != nullptr) {
            lil_text_rule_reset(g->text_rule);
        }
        g->scan.clear();
        g->steps.clear();

        lil_guardian_append(*g, prompt, false);
        for (int32_t i = n_prompt; i < n_tokens; i++) {
            lil_guardian_append(*g, get_piece(*g, tokens[i]), true);
        }
    } catch (const std::exception &) {
        g->state = LIL_GUARDIAN_STATE_OFF;
        lil_set_last_error("guardian: out of memory; it watches no more");
        return false;
    }

    if (g->report.think_closed) {
        g->scan.end_thinking(); // once in an answer
    }

    g->report.n_tokens = (uint64_t) (n_tokens - n_prompt);
    g->n_since         = 0;
    g->size_check      = lil_lz77_size(g->lz);

    return true;
}
