#ifndef LIL_TEXT_WORDS_H
#define LIL_TEXT_WORDS_H

// text-words.h: which words of a text are new to it, as text-rule.h defines them, for rule "text".

#include <stdint.h>

#include "text-kind.h"

#define TEXT_WORDS 65536 // bits of the set

struct text_words {
    uint64_t hash;    // of a word that has not ended
    uint32_t n_bytes; // of that word; 0: none
    uint64_t n_fresh; // bytes in words that were new, each when it has ended; whoever reads it sets it to 0
    uint32_t n_words; // each once

    uint8_t set[TEXT_WORDS / 8]; // a Bloom filter
};

// before the first byte
void text_words_reset(struct text_words * words);

void text_words_feed(struct text_words * words, enum text_kind kind, uint8_t c);

#endif // LIL_TEXT_WORDS_H
