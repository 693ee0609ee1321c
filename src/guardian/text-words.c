#include "text-words.h"

#include <stdbool.h>
#include <string.h>

// puts a bit into the set; returns whether it was there
static bool text_word_mark(struct text_words * words, uint64_t bit) {
    uint8_t *     byte = &words->set[bit % TEXT_WORDS / 8];
    const uint8_t mask = (uint8_t) (1u << bit % 8);
    const bool    was  = (*byte & mask) != 0;

    *byte |= mask;

    return was;
}

static void text_word_end(struct text_words * words) {
    const uint64_t hash  = words->hash * 0x9e3779b97f4a7c15u; // of a short word FNV-1a leaves the high bits alike
    const bool     was_a = text_word_mark(words, hash >> 32);
    const bool     was_b = text_word_mark(words, hash >> 48);

    if (!was_a || !was_b) {
        words->n_fresh += words->n_bytes;
        words->n_words++;
    }

    words->hash    = TEXT_HASH;
    words->n_bytes = 0;
}

void text_words_reset(struct text_words * words) {
    memset(words, 0, sizeof(*words));
    words->hash = TEXT_HASH;
}

void text_words_feed(struct text_words * words, enum text_kind kind, uint8_t c) {
    const bool begins = c >= 0xe0; // scripts without spaces: each letter is a word

    if (words->n_bytes > 0 && (kind != TEXT_LETTER || begins)) {
        text_word_end(words);
    }
    if (kind == TEXT_LETTER) {
        words->hash = text_hash_add(words->hash, c);
        words->n_bytes++;
    }
}
