#ifndef LIL_TEXT_FOLD_H
#define LIL_TEXT_FOLD_H

// text-fold.h: a text without its numbers that count, as text-rule.h defines them, for rule "text".

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lz77.h"

#define TEXT_DIGITS  18 // of a number: fits 64 bits
#define TEXT_CONTEXT 12 // bytes that make a number's place
#define TEXT_PLACES  1024

struct text_place {
    uint32_t tag;
    uint32_t n_seen; // 0: empty; 1: no difference is known yet
    uint64_t value;
    uint64_t step;
};

struct text_fold {
    char              digits[TEXT_DIGITS]; // a number that has not ended
    uint32_t          n_digits;
    uint8_t           context[TEXT_CONTEXT]; // a ring
    uint64_t          n_context;             // bytes so far
    struct text_place places[TEXT_PLACES];   // by hash; what else falls on one takes it over
};

// before the first byte
void text_fold_reset(struct text_fold * fold);

// Appends n bytes to the folded text, which lz takes; of a number as soon as the byte after it is known. False: out of
// memory.
bool text_fold_feed(struct text_fold * fold, struct lil_lz77 * lz, const uint8_t * data, size_t n);

#endif // LIL_TEXT_FOLD_H
