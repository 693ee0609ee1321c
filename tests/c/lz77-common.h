#ifndef LZ77_COMMON_H
#define LZ77_COMMON_H

// What the LZ77 test, its fuzzer and its benchmark share: a reference by brute force, and texts from a seed.

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

//
// reference
//

// The definition of lz77.h, taken literally. Writes where each phrase starts and returns how many there are; starts
// holds n entries. O(n^2) for ordinary texts.
static inline size_t reference_parse(const uint8_t * text, size_t n, size_t * starts) {
    size_t n_phrases = 0;

    for (size_t i = 0; i < n;) {
        size_t longest = 0;

        for (size_t k = 0; k < i && i + longest < n; k++) {
            size_t m = 0;
            while (i + m < n && text[k + m] == text[i + m]) {
                m++;
            }
            longest = m > longest ? m : longest;
        }

        starts[n_phrases++] = i;
        i += longest > 0 ? longest : 1;
    }

    return n_phrases;
}

// The size that lz77.h states, of the first n bytes of a text with these phrases: a phrase of a longer text's
// factorisation that begins before n is, cut off there, a phrase of the first n bytes.
static inline double reference_size(const size_t * starts, size_t n_phrases, size_t n) {
    double bits = 0.0;

    for (size_t z = 0; z < n_phrases && starts[z] < n; z++) {
        const size_t end   = z + 1 < n_phrases && starts[z + 1] < n ? starts[z + 1] : n;
        const double len   = (double) (end - starts[z]);
        const double match = 18.0 + (len < 256.0 ? len : 256.0) / 10.0;

        bits += 8.0 * len < match ? 8.0 * len : match;
    }

    return bits / 8.0;
}

//
// texts
//

struct rng {
    uint64_t state;
};

static inline uint32_t rng_next(struct rng * rng) {
    rng->state += 0x9e3779b97f4a7c15u;

    uint64_t x = rng->state;
    x          = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x          = (x ^ (x >> 27)) * 0x94d049bb133111ebu;

    return (uint32_t) (x >> 32);
}

// 0 .. n - 1
static inline uint32_t rng_below(struct rng * rng, uint32_t n) {
    return (uint32_t) (((uint64_t) rng_next(rng) * n) >> 32);
}

static inline void text_random(struct rng * rng, uint8_t * text, size_t n, uint32_t alphabet) {
    for (size_t i = 0; i < n; i++) {
        text[i] = (uint8_t) rng_below(rng, alphabet);
    }
}

// appends a string to a text of at most n bytes, as much as fits
static inline size_t text_append(uint8_t * text, size_t n, size_t at, const char * str) {
    while (*str != '\0' && at < n) {
        text[at++] = (uint8_t) *str++;
    }
    return at;
}

// from period on, the text repeats its beginning
static inline void text_loop(uint8_t * text, size_t n, size_t period) {
    for (size_t i = period; i < n; i++) {
        text[i] = text[i - period];
    }
}

// Words with the frequencies and lengths of English prose: a third function words; the rest, from 8000 made-up ones,
// falls off as 1/rank; now and then a phrase is taken up again from a little earlier, as people do.
static inline void text_prose(struct rng * rng, uint8_t * text, size_t n) {
    static const char * const function_words[] = {
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "that",
        "it",
        "his",
        "I",
        "he",
        "but",
        "as",
        "with",
        "is",
        "was",
        "for",
        "all",
        "this",
        "at",
        "by",
        "not",
        "from",
        "him",
        "so",
        "on",
        "be",
        "one",
        "you",
        "there",
        "now",
        "had",
        "have",
        "or",
        "were",
        "they",
        "which",
        "like",
        "me",
        "then",
        "their",
        "some",
        "what",
        "when",
        "an",
        "are",
        "my",
        "no",
        "upon",
        "out",
        "into",
        "up",
        "more",
        "if",
        "them",
        "would",
        "we",
        "these",
        "been",
        "over",
        "only",
        "its",
        "such",
        "though",
    };
    static const char * const onsets[] = { "b", "br", "c", "ch", "d", "f", "fl", "g", "h", "l", "m", "n", "p", "pr",
        "r", "s", "sh", "st", "t", "w" };
    static const char * const vowels[] = { "a", "e", "i", "o", "u", "ea", "ou", "ai", "ee", "oo" };
    static const char * const codas[]  = { "", "n", "r", "st", "l", "ck", "d", "ng", "t", "s" };
    static const char * const ends[]   = { "", "", "", "s", "ed", "ing", "ly", "er" };

    const uint32_t n_function = sizeof(function_words) / sizeof(function_words[0]);

    size_t   at     = 0;
    uint32_t n_word = 0;

    while (at < n) {
        const uint32_t kind = rng_below(rng, 100);

        if (kind < 2 && at > 2000) {
            size_t from = at - 40 - rng_below(rng, 1900);
            while (text[from] != ' ') {
                from++;
            }
            for (size_t len = 8 + rng_below(rng, 24); at < n && (len > 0 || text[at - 1] != ' '); len -= len > 0) {
                text[at++] = text[++from];
            }
            continue;
        }

        if (kind < 36) {
            // the smaller of two draws: the first words are the frequent ones
            const uint32_t a = rng_below(rng, n_function);
            const uint32_t b = rng_below(rng, n_function);
            at               = text_append(text, n, at, function_words[a < b ? a : b]);
        } else {
            // 2^(4 .. 13), whose density falls off as 1/rank
            uint32_t rank = 1u << (4 + rng_below(rng, 9));
            rank += rng_below(rng, rank);

            struct rng     word       = { rank };
            const uint32_t n_syllable = 1 + (rank > 512) + (rng_below(&word, 3) == 0);

            for (uint32_t i = 0; i < n_syllable; i++) {
                at = text_append(text, n, at, onsets[rng_below(&word, 20)]);
                at = text_append(text, n, at, vowels[rng_below(&word, 10)]);
                at = text_append(text, n, at, codas[rng_below(&word, 10)]);
            }
            at = text_append(text, n, at, ends[rng_below(rng, 8)]);
        }

        n_word++;
        at = text_append(text, n, at, n_word % 17 == 0 ? ". " : rng_below(rng, 9) == 0 ? ", " : " ");
    }
}

static inline void text_sentences(struct rng * rng, uint8_t * text, size_t n) {
    static const char * const sentences[] = {
        "Let me read the question once more. ",
        "The second case looks harder than the first one. ",
        "So the number of marbles in the bag must be even. ",
        "Wait, that does not fit what we found above. ",
        "Perhaps it is better to count them from the other side. ",
        "Then only two of them remain. ",
    };

    for (size_t at = 0; at < n;) {
        at = text_append(text, n, at, sentences[rng_below(rng, 6)]);
    }
}

static inline void text_template(struct rng * rng, uint8_t * text, size_t n) {
    char line[128];

    for (size_t at = 0, i = 1; at < n; i++) {
        snprintf(line, sizeof(line), "Step %d: try x = %d, which makes y = %d and is too small, so we go on.\n",
                (int) i, (int) rng_below(rng, 1000), (int) rng_below(rng, 1000));
        at = text_append(text, n, at, line);
    }
}

static inline void text_fibonacci(uint8_t * text, size_t n) {
    size_t len  = 2;
    size_t prev = 1;

    memcpy(text, "ab", n < 2 ? n : 2);

    while (len < n) {
        const size_t add = prev < n - len ? prev : n - len;
        memcpy(text + len, text, add);
        prev = len;
        len += add;
    }
}

static inline void text_thue_morse(uint8_t * text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint8_t parity = 0;
        for (size_t x = i; x != 0; x &= x - 1) {
            parity ^= 1;
        }
        text[i] = parity;
    }
}

// every word of `bits` bits once, then again from the start: a linear feedback shift register with the given taps
static inline void text_de_bruijn(uint8_t * text, size_t n, uint32_t bits, uint32_t taps) {
    uint32_t x = 1;

    for (size_t i = 0; i < n; i++) {
        uint32_t parity = 0;
        for (uint32_t y = x & taps; y != 0; y &= y - 1) {
            parity ^= 1;
        }
        text[i] = (uint8_t) (x & 1);
        x       = (x >> 1) | (parity << (bits - 1));
    }
}

#endif // LZ77_COMMON_H
