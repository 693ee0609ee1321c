#pragma once

// guardian.h: the manual of the Guardian sampler beyond what lil.h says. The functions are declared there.
//
// Text
//
//   The text is what llama_token_to_piece() gives with special tokens rendered, so that "</think>" is seen where it is
//   one token. End-of-generation (EOG) tokens that are generated add nothing, do not count and cause no check; in a
//   prompt (end of an earlier turn) they are text like any other. A token that the vocabulary lacks counts, and adds
//   nothing.
//
//   Everything passed to llama_sampler_accept() counts as generated. A host that accepts prompt tokens into the chain
//   should add the Guardian afterwards, or reset it, and then call lil_guardian_feed_prompt().
//
//   lil_guardian_feed_prompt() in the middle of a generation (a tool's answer) is fine: what it adds to the size counts
//   for no check.
//
// Checks
//
//   After every `every` generated tokens, growth = size now - size at the last check (at the start of generation: after
//   the prompt). growth < threshold adds to the streak, anything else ends it; a streak of `patience` raises the alarm.
//
// Actions
//
//   FLAG         Reports. The sampler changes nothing, checks go on.
//   STOP         From the alarm on every llama_sampler_apply() leaves one candidate, the EOG token, selected, so it
//                works at any place of a chain, though only a sampler placed after the last other one has the last
//                word. The EOG token is the vocabulary's EOS where that ends generation, else its EOT, else the first
//                that does.
//   CLOSE_THINK  The tokens of think_end one after another in the same way. Then the model goes on and the checks start
//                anew, from the size after think_end. Where the generated text already has think_end, at the next alarm
//                or because the model wrote it, the alarm stops.
//
//   If the generated text ends within a UTF-8 character, the action waits until it is complete, for 3 tokens at most.
//   No checks are made from an alarm until its action is done.
//
//   llama_sampler_apply() only forces what the next accepted token should be; the state moves on with
//   llama_sampler_accept(). So applying twice, as hosts that resample do, forces the same token twice.
//
// Grammars
//
//   A forced EOG token ends a text that a grammar holds to be incomplete (vendor/patches/llama.cpp/0007 keeps upstream
//   from aborting on it). think_end cannot be forced where a grammar that is active while the model thinks does not
//   allow it: upstream throws. Use a lazy grammar, or STOP.
//
// Backend sampling
//
//   In a chain that samples on a backend (llama_set_sampler()) the Guardian still reads every token on the CPU. What it
//   forces is known before a step's graph runs, and replaces the picked token there. So it must stand after the sampler
//   that picks; elsewhere it only reports, and says so in the log.
//
// Cost
//
//   accept is amortised O(1) a byte, apply O(1). Memory: lz77.h, at most 50 bytes a byte of text, prompt included; 8
//   bytes a check. clone and llama_sampler_copy copy all of it, and throw std::bad_alloc where memory runs out, as
//   those of upstream's samplers do. If memory runs out in accept, the Guardian stops watching: no more checks, until
//   reset.

#include "lil.h"
