#ifndef LIL_TEXT_RULE_H
#define LIL_TEXT_RULE_H

// text-rule.h: Guardian's second rule: does a text go round in circles, in whatever words? Plain C11; needs lz77.h.
//
// The paper's rule asks how much new a stretch of text holds against all that came before. A loop with a counter, or in
// other words, adds too much for it; a document that is written out once more, or a grid of zeros, too little. This one
// asks what the text holds against itself since it began to repeat, and what it is made of.
//
// Definition
//
//   Stretch   What was fed between two checks, n bytes. Its growth is what it added to the LZ77-compressed size of the
//             whole text (lz77.h), prompt included; the caller knows it.
//   Streak    Begins with a stretch that grew by less than 250 bytes per 1000, ends before one that grew by as much or
//             more, and begins anew with the 33rd. Its text is that of its stretches, folded. The own growth of a
//             stretch, but the first, is what it added to the LZ77-compressed size of that text, which knows nothing
//             older: what is copied from a prompt or from a draft is new there, and only what comes again is not.
//   Folded    Numbers that count are taken out. A number is a run of at most 18 digits; a longer run is several. Its
//             place is what stands before it: the last 12 bytes of the streak, with "0" for each number. A number
//             whose difference to the last one at its place is the difference that came before that is one "#",
//             whatever it is; any other stays as it is. So "Step 7", after "Step 5" and "Step 6", folds, and
//             measurements do not. A number is part of the text as soon as the byte after it is known.
//   Class     What a stretch is made of, by its bytes. Whitespace that follows whitespace, as an indentation does,
//             counts for "blank" alone:
//               blank     whitespace 95 % or more; also a stretch of no bytes
//               text      letters 55 % or more, digits 10 % or less, marks 2 % or less
//               rows      letters 25 % or more: code, markup, logs, tables of words
//               numbers   anything else: grids, dumps, arithmetic
//             Letters are A to Z, a to z, and all beyond ASCII but what follows. Punctuation is . , ! ? ' " : ; - ( ) *
//             # $ % and U+0080 to U+00BF, U+2000 to U+207F, U+3000 to U+303F, U+F000 to U+FFFF; marks are other ASCII,
//             U+2080 to U+2FFF and all from U+10000 on. A character counts once its second byte is there.
//   Words     Runs of letters; a letter of three bytes (scripts without spaces) begins a new one. A stretch has no new
//             words when those of its words that the streak did not have before, each when it has ended, have less
//             than 5 bytes per 1000. A streak is settled while no more than 2 of its stretches had any: a loop has all
//             of its words by then. A set of fixed size remembers them: of 3,000 it takes 1 in 100 for a known one.
//   Formulas  A stretch has some when four or more of their ends are in it: \[ and \], \( and \), and $$.
//   Alarm     When a condition has held for so many checks in a row:
//
//               classes               own growth, per 1000 bytes        checks
//               text, blank           < 20, growth < 20 as well, no     1        the same sentences
//                                     new words, and settled
//               text, blank           < 110, and no new words           2        the same, counted or in other orders
//               text, blank           < 135, and no new words           4        the same words at random
//               all                   < 40, growth < 40 as well, no     2        the same lines, many
//                                     new words, 12 in the streak
//               all                   < 80, growth < 80 as well, no     2        the same working
//                                     new words, formulas
//               text, blank, rows     < 40, and growth < 40 as well     6        the same lines, few, hardly changed
//               all                   < 30, growth < 30 as well, no     3        the same without end
//                                     line that ends
//               all                   < 30, growth < 30 as well,        6        the same formula or setting
//                                     letters 10 % or more
//               text, blank, rows     < 60                              16       the same lines in random order
//               all                   < 30                              16       rows that only count, and grids
//
//             Where no streak is on, none of them holds.
//
// What the numbers mean. At Guardian's default the checks are 125 tokens apart: 16 are 2,000 tokens, which a table, a
// fixture or a grid of zeros may go on for. A period of up to some 3,500 tokens is seen.
//
// What they were chosen on: the part "choose" of the set that benchmarks/texts makes, 51 loops and 117 sound texts a
// seed. Of four seeds all 204 loops are ended and none of 468 sound texts is cut. With rates of nine tenths 4 loops go
// on (words in random order), with rates of eleven tenths 4 sound texts are cut (times tables in words), and with half
// as much again boards of a game as well (benchmarks/guardian_rules.py --thresholds 18,22,30). What is missed, or cut,
// without each part of it: new words, songs and games that repeat all that came before and add a line; that a streak
// must be settled, tales whose verses are longer than a stretch; the condition at 60, rows in random order and code of
// a real model; formulas, indentation, money as punctuation, a little more of digits in a text, and the conditions at
// 30 for 3 and 6 checks, answers of models that work out the same again and again, which are missed or met late; twelve
// words, empty tables and identity matrices. That sentences which count need two checks: an answer of a model that
// wrote one step twelve times over, and went on. docs/guardian.md has the figures of the other parts.
//
// Bounds
//
//   Time    amortised O(1) a byte: composition always, words, folding and LZ77 within a streak only.
//   Memory  34 KB, 1.5 bytes a byte of the stretch, and within a streak at most 50 bytes a byte of its text (33
//           stretches) and 2 KB.
//
// Threads: an object is used by one thread at a time; different objects are independent.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lz77.h" // LIL_API

#ifdef __cplusplus
extern "C" {
#endif

struct lil_text_rule;

enum lil_text_class {
    LIL_TEXT_BLANK   = 0,
    LIL_TEXT_TEXT    = 1,
    LIL_TEXT_ROWS    = 2,
    LIL_TEXT_NUMBERS = 3,
};

#ifndef LIL_H // which has it as well
// A stretch, as a check saw it.
struct lil_text_stretch {
    uint64_t n_bytes;
    double   growth;     // of the whole text, as the caller said
    double   own_growth; // of the streak's; NaN: its first stretch, or no streak
    uint32_t age;        // stretches of the streak after its first, this one included; 0: NaN above
    int32_t  text_class; // enum lil_text_class
    bool     alarm;
};
#endif

// NULL: out of memory. Free it with lil_text_rule_free().
LIL_API struct lil_text_rule * lil_text_rule_init(void);

// An independent copy. rule must not be NULL. NULL: out of memory.
LIL_API struct lil_text_rule * lil_text_rule_clone(const struct lil_text_rule * rule);

// rule may be NULL.
LIL_API void lil_text_rule_free(struct lil_text_rule * rule);

// Back to no text: no streak, an empty stretch. Cannot fail.
LIL_API void lil_text_rule_reset(struct lil_text_rule * rule);

// Appends n generated bytes to the stretch; what is not generated is not fed. False: out of memory; only reset and free
// are of use then.
LIL_API bool lil_text_rule_feed(struct lil_text_rule * rule, const void * data, size_t n);

// Ends the stretch. growth: bytes, as above. threshold: 20, or so many 20ths of each of the alarm's numbers of bytes,
// >= 0. patience: times each of its numbers of checks, >= 1. Returns whether there is an alarm.
LIL_API bool lil_text_rule_check(struct lil_text_rule * rule, double growth, double threshold, uint32_t patience);

// The last stretch that was checked; all zero, and own_growth NaN, before the first check.
LIL_API struct lil_text_stretch lil_text_rule_get(const struct lil_text_rule * rule);

// Bytes of memory held. O(1).
LIL_API uint64_t lil_text_rule_memory(const struct lil_text_rule * rule);

#ifdef __cplusplus
}
#endif

#endif // LIL_TEXT_RULE_H
