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
//   growth = size now - size at the last check (at the start of generation: after the prompt).
//
//   RULE_PAPER   After every `every` generated tokens. growth < threshold adds to the streak, anything else ends it; a
//                streak of `patience` raises the alarm.
//   RULE_TEXT    After every `every` / 2 (rounded up) generated tokens. text-rule.h defines what raises the alarm;
//                threshold and patience scale its numbers. What is fed by lil_guardian_feed_prompt() is no part of its
//                stretches. A landing (CLOSE_THINK) begins anew.
//
// Actions
//
//   FLAG         Reports. The sampler changes nothing, checks go on.
//   STOP         From the alarm on every llama_sampler_apply() leaves one candidate, the EOG token, selected, so it
//                works at any place of a chain, though only a sampler placed after the last other one has the last
//                word. The EOG token is the vocabulary's EOS where that ends generation, else its EOT, else the first
//                that does.
//   CLOSE_THINK  Lands: from the alarm on it waits for the end of a line or a sentence (a full stop behind a digit is
//                none), at most `grace` tokens, then the tokens of message and think_end come one after another in the
//                same way. Then the model goes on and the checks start anew, from the size after think_end. Nothing is
//                put into a tool call or a string of JSON, and while JSON is open its lines are no ends; where grace
//                runs out within one of the two, the alarm stops instead. Where the model closes its thinking while the
//                alarm waits, nothing is forced, and the checks start anew. Possible where thinking is open (with
//                think_begin: it was begun, in the prompt or later, and not ended since; without: the generated text
//                has no think_end), once in an answer.
//   WIDEN        Reports (n_wide) that the host is to decode with `widen` times the budget, or everything. The two
//                checks after it raise no alarm of their own accord: the second one tells. If the text gains in that
//                one, or in a later one, n_wide is 0 again; if it does not, that check is an alarm (with `patience`:
//                the streak goes on, and a check that gains ends it), and the next action is taken, wide as the text
//                is. A second WIDEN multiplies again. The sampler does not know the context, so a host that knows both
//                calls lil_guardian_set_budget() before each llama_decode(); where it does not, all WIDEN does is to
//                wait.
//
//   Rewinding is the host's as well: lil_guardian_report::n_tail says how many tokens loop, and after the host has
//   taken them out of its text and its cache, lil_guardian_rewind() makes the Guardian forget them.
//
//   Each alarm takes the next of `action` and `then`, passing over a CLOSE_THINK that is not possible; alarms behind
//   the last one stop, or only report where the last is FLAG. So CLOSE_THINK alone is CLOSE_THINK, then STOP. A host
//   may decide otherwise, lil_guardian_decide(): what it put off is proposed again at the next alarm.
//   lil_guardian_get_events() tells what was done at which token.
//
//   If the generated text ends within a UTF-8 character, the action waits until it is complete, for 3 tokens at most.
//   No checks are made from an alarm until CLOSE_THINK or STOP is done.
//
//   JSON is an object or an array in the text, read strictly: what JSON does not allow at its place shows that it was
//   none. Tool calls are told by the marks that models have for them (guardian-scan.cpp); those without an end of their
//   own go on to the end of the text. Both are looked for in the generated text alone. A text that is stopped within
//   one of them cannot be parsed: lil_guardian_report::cut.
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
//   bytes a check, 16 a generated token and an event; with RULE_TEXT what text-rule.h says, too. clone and
//   llama_sampler_copy copy all of it, and throw
//   std::bad_alloc where memory runs out, as those of upstream's samplers do. If memory runs out in accept, the
//   Guardian stops watching: no more checks, until reset.

#include "lil.h"
