#include "text-fold.h"

#include <string.h>

#include "text-kind.h"

static void text_context_add(struct text_fold * fold, uint8_t c) {
    fold->context[fold->n_context++ % TEXT_CONTEXT] = c;
}

// FNV-1a of the bytes before a number, oldest first
static uint64_t text_context_hash(const struct text_fold * fold) {
    uint64_t hash = TEXT_HASH;
    uint64_t i    = fold->n_context > TEXT_CONTEXT ? fold->n_context - TEXT_CONTEXT : 0;

    for (; i < fold->n_context; i++) {
        hash = text_hash_add(hash, fold->context[i % TEXT_CONTEXT]);
    }

    return hash;
}

// whether the number that has ended goes on as its place has counted; it is remembered there
static bool text_number_counts(struct text_fold * fold) {
    const uint64_t      hash  = text_context_hash(fold);
    struct text_place * place = &fold->places[hash % TEXT_PLACES];
    const uint32_t      tag   = (uint32_t) (hash >> 32);
    uint64_t            value = 0;

    for (uint32_t i = 0; i < fold->n_digits; i++) {
        value = 10 * value + (uint64_t) (fold->digits[i] - '0');
    }

    if (place->n_seen == 0 || place->tag != tag) {
        *place = (struct text_place) { tag, 1, value, 0 };
        return false;
    }

    const uint64_t step   = value - place->value; // modulo 2^64
    const bool     counts = place->n_seen == 2 && step == place->step;

    *place = (struct text_place) { tag, 2, value, step };

    return counts;
}

static bool text_number_end(struct text_fold * fold, struct lil_lz77 * lz) {
    const bool counts = text_number_counts(fold);
    const bool fed    = counts ? lil_lz77_feed(lz, "#", 1) : lil_lz77_feed(lz, fold->digits, fold->n_digits);

    fold->n_digits = 0;
    text_context_add(fold, '0');

    return fed;
}

void text_fold_reset(struct text_fold * fold) {
    memset(fold, 0, sizeof(*fold));
}

bool text_fold_feed(struct text_fold * fold, struct lil_lz77 * lz, const uint8_t * data, size_t n) {
    size_t start = 0; // of bytes that are no digits and were not fed

    for (size_t i = 0; i < n; i++) {
        const uint8_t c        = data[i];
        const bool    is_digit = c >= '0' && c <= '9';

        if (is_digit && start < i && !lil_lz77_feed(lz, data + start, i - start)) {
            return false;
        }
        if (fold->n_digits > 0 && (!is_digit || fold->n_digits == TEXT_DIGITS) && !text_number_end(fold, lz)) {
            return false;
        }

        if (is_digit) {
            fold->digits[fold->n_digits++] = (char) c;
            start                          = i + 1;
        } else {
            text_context_add(fold, c);
        }
    }

    return start == n || lil_lz77_feed(lz, data + start, n - start);
}
