#include "text-rule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

//
// Tables
//

#define TEXT_LOOSE   250 // growth per 1000 bytes below which a streak begins and goes on
#define TEXT_MAX_AGE 32  // stretches
#define TEXT_DIGITS  18  // of a number: fits 64 bits
#define TEXT_CONTEXT 12  // bytes that make a number's place
#define TEXT_PLACES  1024
#define TEXT_WORDS   65536 // bits of the set of words
#define TEXT_FRESH   5     // bytes in words that the streak did not have, per 1000: fewer are none
#define TEXT_UNREST  2     // stretches with such words after which a loop has all of its own
#define TEXT_MANY    12    // words that an empty table or a grid does not have
#define TEXT_ENDS    4     // ends of formulas in a stretch of worked text; a large matrix has two

// FNV-1a
#define TEXT_HASH  0xcbf29ce484222325u
#define TEXT_PRIME 0x100000001b3u

#define TEXT_IN(c) (1u << LIL_TEXT_##c)
#define TEXT_ANY   (TEXT_IN(TEXT) | TEXT_IN(BLANK) | TEXT_IN(ROWS) | TEXT_IN(NUMBERS))
#define TEXT_WORDY (TEXT_IN(TEXT) | TEXT_IN(BLANK) | TEXT_IN(ROWS))
#define TEXT_PROSE (TEXT_IN(TEXT) | TEXT_IN(BLANK))

// what a condition asks of a stretch, or of its streak, besides the class and the own growth
enum text_need {
    TEXT_KNOWN   = 1,  // no new words
    TEXT_SETTLED = 2,  // nor many stretches of the streak that had any
    TEXT_RICH    = 4,  // the streak has many words
    TEXT_WORKED  = 8,  // the stretch has formulas
    TEXT_SPELLED = 16, // some letters
    TEXT_ENDLESS = 32, // no line ends in the stretch: no grid
    TEXT_EXACT   = 64, // the whole text's growth is below the rate too
};

static const struct text_level {
    uint32_t classes;  // TEXT_IN()
    uint32_t rate;     // own growth, per 1000 bytes
    uint32_t patience; // checks
    uint32_t needs;    // enum text_need
} text_levels[] = {
    { TEXT_PROSE, 20, 1, TEXT_KNOWN | TEXT_SETTLED | TEXT_EXACT },
    { TEXT_PROSE, 110, 2, TEXT_KNOWN },
    { TEXT_PROSE, 135, 4, TEXT_KNOWN },
    { TEXT_ANY, 40, 2, TEXT_KNOWN | TEXT_RICH | TEXT_EXACT },
    { TEXT_ANY, 80, 2, TEXT_KNOWN | TEXT_WORKED | TEXT_EXACT },
    { TEXT_WORDY, 40, 6, TEXT_EXACT },
    { TEXT_ANY, 30, 3, TEXT_ENDLESS | TEXT_EXACT },
    { TEXT_ANY, 30, 6, TEXT_SPELLED | TEXT_EXACT },
    { TEXT_WORDY, 60, 16, 0 },
    { TEXT_ANY, 30, 16, 0 },
};

#define TEXT_N_LEVELS (sizeof(text_levels) / sizeof(text_levels[0]))

// what a byte counts as; punctuation is counted, so that the kinds add up, but decides nothing
enum text_kind { TEXT_LETTER, TEXT_DIGIT, TEXT_WHITE, TEXT_PUNCTUATION, TEXT_MARK, TEXT_N_KINDS };

// of ASCII, a digit for each byte: enum text_kind
static const char text_kinds[] = "44444444422442444444444444444444"  // tab, newline, carriage return
                                 "23333343333433341111111111334443"  // space ! " # $ % ' ( ) * , - . 0 .. 9 : ; ?
                                 "40000000000000000000000000044444"  // A .. Z
                                 "40000000000000000000000000044444"; // a .. z

// of a character of several bytes, by its first two
static enum text_kind text_kind_wide(uint8_t lead, uint8_t next) {
    if (lead == 0xc2 || lead == 0xef || (lead == 0xe3 && next == 0x80) || (lead == 0xe2 && next <= 0x81)) {
        return TEXT_PUNCTUATION;
    }
    return (lead == 0xe2 && next < 0xc0) || lead >= 0xf0 ? TEXT_MARK : TEXT_LETTER;
}

//
// State
//

// between two bytes of a character
struct text_decoder {
    uint8_t        lead; // of a character whose second byte is not there; 0: none
    enum text_kind wide; // of the character that the next continuation byte belongs to
};

struct text_place {
    uint32_t tag;
    uint32_t n_seen; // 0: empty; 1: no difference is known yet
    uint64_t value;
    uint64_t step;
};

struct lil_text_rule {
    // the stretch
    uint8_t *           bytes; // [cap_bytes] n_bytes used: a streak may begin with them
    size_t              n_bytes;
    size_t              cap_bytes;
    uint64_t            n_kind[TEXT_N_KINDS];
    struct text_decoder decoder;
    struct text_decoder begin;     // as it was before the stretch
    uint64_t            n_indent;  // white bytes after a white one
    uint64_t            n_ends;    // of formulas
    uint64_t            n_lines;   // that end
    uint8_t             last_byte; // that may begin such an end; 0: none
    bool                white;     // the last byte that counted was

    // the streak
    bool              on;
    bool              failed; // one could not begin, for want of memory
    uint32_t          age;
    double            size; // at the last check
    struct lil_lz77 * lz;
    char              digits[TEXT_DIGITS]; // a number that has not ended
    uint32_t          n_digits;
    uint8_t           context[TEXT_CONTEXT]; // a ring
    uint64_t          n_context;             // bytes so far
    struct text_place places[TEXT_PLACES];
    uint64_t          word;                  // the hash of one that has not ended
    uint32_t          n_word;                // its bytes; 0: none
    uint64_t          n_fresh;               // bytes of the stretch in words that the streak did not have
    uint32_t          n_fresh_stretches;     // of the streak
    uint32_t          n_words;               // of the streak, each once
    uint8_t           words[TEXT_WORDS / 8]; // a Bloom filter

    uint32_t count[TEXT_N_LEVELS]; // checks in a row for which each condition has held

    struct lil_text_stretch last;
};

static void text_stretch_begin(struct lil_text_rule * rule) {
    rule->begin    = rule->decoder;
    rule->n_bytes  = 0;
    rule->n_fresh  = 0;
    rule->n_indent = 0;
    rule->n_ends   = 0;
    rule->n_lines  = 0;
    memset(rule->n_kind, 0, sizeof(rule->n_kind));
}

static void text_streak_end(struct lil_text_rule * rule) {
    lil_lz77_reset(rule->lz);
    rule->on  = false;
    rule->age = 0;
    memset(rule->count, 0, sizeof(rule->count));
}

//
// Folding
//

static void text_context_add(struct lil_text_rule * rule, uint8_t c) {
    rule->context[rule->n_context++ % TEXT_CONTEXT] = c;
}

// FNV-1a of the bytes before a number, oldest first
static uint64_t text_context_hash(const struct lil_text_rule * rule) {
    uint64_t hash = TEXT_HASH;
    uint64_t i    = rule->n_context > TEXT_CONTEXT ? rule->n_context - TEXT_CONTEXT : 0;

    for (; i < rule->n_context; i++) {
        hash = (hash ^ rule->context[i % TEXT_CONTEXT]) * TEXT_PRIME;
    }

    return hash;
}

// whether the number that has ended goes on as its place has counted; it is remembered there
static bool text_number_counts(struct lil_text_rule * rule) {
    const uint64_t      hash  = text_context_hash(rule);
    struct text_place * place = &rule->places[hash % TEXT_PLACES];
    const uint32_t      tag   = (uint32_t) (hash >> 32);
    uint64_t            value = 0;

    for (uint32_t i = 0; i < rule->n_digits; i++) {
        value = 10 * value + (uint64_t) (rule->digits[i] - '0');
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

static bool text_number_end(struct lil_text_rule * rule) {
    const bool counts = text_number_counts(rule);
    const bool fed = counts ? lil_lz77_feed(rule->lz, "#", 1) : lil_lz77_feed(rule->lz, rule->digits, rule->n_digits);

    rule->n_digits = 0;
    text_context_add(rule, '0');

    return fed;
}

static bool text_fold(struct lil_text_rule * rule, const uint8_t * data, size_t n) {
    size_t start = 0; // of bytes that are no digits and were not fed

    for (size_t i = 0; i < n; i++) {
        const uint8_t c        = data[i];
        const bool    is_digit = c >= '0' && c <= '9';

        if (is_digit && start < i && !lil_lz77_feed(rule->lz, data + start, i - start)) {
            return false;
        }
        if (rule->n_digits > 0 && (!is_digit || rule->n_digits == TEXT_DIGITS) && !text_number_end(rule)) {
            return false;
        }

        if (is_digit) {
            rule->digits[rule->n_digits++] = (char) c;
            start                          = i + 1;
        } else {
            text_context_add(rule, c);
        }
    }

    return start == n || lil_lz77_feed(rule->lz, data + start, n - start);
}

//
// Bytes and what they count as
//

// what a byte says of the text: itself, nothing yet, or itself and the one before it
struct text_said {
    enum text_kind kind;
    uint8_t        bytes[2];
    uint32_t       n;
};

static struct text_said text_decode(struct text_decoder * decoder, uint8_t c) {
    const uint8_t lead = decoder->lead;

    decoder->lead = c >= 0xc0 ? c : 0;

    if (c < 0x80) {
        return (struct text_said) { (enum text_kind)(text_kinds[c] - '0'), { c }, 1 };
    }
    if (c >= 0xc0) {
        return (struct text_said) { TEXT_MARK, { 0 }, 0 };
    }
    if (lead != 0) {
        decoder->wide = text_kind_wide(lead, c);
        return (struct text_said) { decoder->wide, { lead, c }, 2 };
    }

    return (struct text_said) { decoder->wide, { c }, 1 };
}

//
// Words
//

// puts a bit into the set; returns whether it was there
static bool text_word_mark(struct lil_text_rule * rule, uint64_t bit) {
    uint8_t *     byte = &rule->words[bit % TEXT_WORDS / 8];
    const uint8_t mask = (uint8_t) (1u << bit % 8);
    const bool    was  = (*byte & mask) != 0;

    *byte |= mask;

    return was;
}

static void text_word_end(struct lil_text_rule * rule) {
    const uint64_t hash  = rule->word * 0x9e3779b97f4a7c15u; // of a short word FNV-1a leaves the high bits alike
    const bool     was_a = text_word_mark(rule, hash >> 32);
    const bool     was_b = text_word_mark(rule, hash >> 48);

    if (!was_a || !was_b) {
        rule->n_fresh += rule->n_word;
        rule->n_words++;
    }

    rule->word   = TEXT_HASH;
    rule->n_word = 0;
}

static void text_word_feed(struct lil_text_rule * rule, enum text_kind kind, uint8_t c) {
    const bool begins = c >= 0xe0; // scripts without spaces: each letter is a word

    if (rule->n_word > 0 && (kind != TEXT_LETTER || begins)) {
        text_word_end(rule);
    }
    if (kind == TEXT_LETTER) {
        rule->word = (rule->word ^ c) * TEXT_PRIME;
        rule->n_word++;
    }
}

//
// Composition
//

static void text_count(struct lil_text_rule * rule, enum text_kind kind, uint8_t c) {
    rule->n_kind[kind]++;
    rule->n_lines += c == '\n';
    rule->n_indent += kind == TEXT_WHITE && rule->white;
    rule->white = kind == TEXT_WHITE;
}

// ends of formulas as models write them: \[ and \], \( and \), and $$. A single $ is more often money, or code.
static void text_formula_feed(struct lil_text_rule * rule, uint8_t c) {
    const bool dollars = c == '$' && rule->last_byte == '$';
    const bool bracket = rule->last_byte == '\\' && (c == '[' || c == ']' || c == '(' || c == ')');

    rule->n_ends += dollars || bracket;
    rule->last_byte = dollars ? 0 : c;
}

// false: out of memory
static bool text_stretch_feed(struct lil_text_rule * rule, const uint8_t * data, size_t n) {
    if (n > rule->cap_bytes - rule->n_bytes) {
        const size_t cap   = rule->n_bytes + n + (rule->n_bytes + n) / 2;
        uint8_t *    bytes = realloc(rule->bytes, cap);

        if (bytes == NULL) {
            return false;
        }

        rule->bytes     = bytes;
        rule->cap_bytes = cap;
    }

    for (size_t i = 0; i < n; i++) {
        const struct text_said said = text_decode(&rule->decoder, data[i]);

        for (uint32_t k = 0; k < said.n; k++) {
            text_count(rule, said.kind, said.bytes[k]);
        }

        text_formula_feed(rule, data[i]);
        rule->bytes[rule->n_bytes++] = data[i];
    }

    return true;
}

static enum lil_text_class text_get_class(const struct lil_text_rule * rule) {
    const uint64_t n = rule->n_bytes - rule->n_indent;

    if (100 * rule->n_kind[TEXT_WHITE] >= 95 * rule->n_bytes) {
        return LIL_TEXT_BLANK;
    }
    if (100 * rule->n_kind[TEXT_LETTER] >= 55 * n && 100 * rule->n_kind[TEXT_DIGIT] <= 10 * n &&
            100 * rule->n_kind[TEXT_MARK] <= 2 * n) {
        return LIL_TEXT_TEXT;
    }

    return 100 * rule->n_kind[TEXT_LETTER] >= 25 * n ? LIL_TEXT_ROWS : LIL_TEXT_NUMBERS;
}

//
// Streaks
//

static bool text_streak_feed(struct lil_text_rule * rule, const uint8_t * data, size_t n, struct text_decoder decoder) {
    for (size_t i = 0; i < n; i++) {
        const struct text_said said = text_decode(&decoder, data[i]);

        for (uint32_t k = 0; k < said.n; k++) {
            text_word_feed(rule, said.kind, said.bytes[k]);
        }
    }

    return text_fold(rule, data, n);
}

// with the stretch, all of whose words are new; false: out of memory
static bool text_streak_begin(struct lil_text_rule * rule) {
    lil_lz77_reset(rule->lz);
    rule->on        = true;
    rule->age       = 0;
    rule->n_digits  = 0;
    rule->n_context = 0;
    rule->word      = TEXT_HASH;
    rule->n_word    = 0;
    rule->n_words   = 0;
    memset(rule->places, 0, sizeof(rule->places));
    memset(rule->words, 0, sizeof(rule->words));

    const bool fed = text_streak_feed(rule, rule->bytes, rule->n_bytes, rule->begin);

    rule->size              = lil_lz77_size(rule->lz);
    rule->n_fresh_stretches = 1;

    return fed;
}

//
// Interface
//

struct lil_text_rule * lil_text_rule_init(void) {
    struct lil_text_rule * rule = calloc(1, sizeof(*rule));

    if (rule == NULL || (rule->lz = lil_lz77_init()) == NULL) {
        free(rule);
        return NULL;
    }

    lil_text_rule_reset(rule);

    return rule;
}

struct lil_text_rule * lil_text_rule_clone(const struct lil_text_rule * rule) {
    struct lil_text_rule * result = malloc(sizeof(*result));

    if (result == NULL) {
        return NULL;
    }

    *result       = *rule;
    result->lz    = lil_lz77_clone(rule->lz);
    result->bytes = rule->cap_bytes > 0 ? malloc(rule->cap_bytes) : NULL;

    if (result->lz == NULL || (result->bytes == NULL && rule->cap_bytes > 0)) {
        lil_text_rule_free(result);
        return NULL;
    }
    if (rule->n_bytes > 0) {
        memcpy(result->bytes, rule->bytes, rule->n_bytes);
    }

    return result;
}

void lil_text_rule_free(struct lil_text_rule * rule) {
    if (rule != NULL) {
        lil_lz77_free(rule->lz);
        free(rule->bytes);
        free(rule);
    }
}

void lil_text_rule_reset(struct lil_text_rule * rule) {
    text_streak_end(rule);
    free(rule->bytes);

    rule->bytes     = NULL;
    rule->cap_bytes = 0;
    rule->decoder   = (struct text_decoder) { 0, TEXT_MARK };
    rule->last_byte = 0;
    rule->white     = false;
    rule->failed    = false;
    text_stretch_begin(rule);

    rule->last = (struct lil_text_stretch) { .own_growth = NAN };
}

bool lil_text_rule_feed(struct lil_text_rule * rule, const void * data, size_t n) {
    const struct text_decoder before = rule->decoder;

    if (rule->failed || !text_stretch_feed(rule, data, n)) {
        return false;
    }

    return !rule->on || text_streak_feed(rule, data, n, before);
}

bool lil_text_rule_check(struct lil_text_rule * rule, double growth, double threshold, uint32_t patience) {
    const double              n     = rule->n_bytes > 0 ? (double) rule->n_bytes : 1.0;
    const double              scale = threshold / 20.0;
    struct lil_text_stretch * last  = &rule->last;

    *last = (struct lil_text_stretch) {
        .n_bytes = rule->n_bytes, .growth = growth, .own_growth = NAN, .text_class = text_get_class(rule)
    };

    if (rule->on) {
        const double size = lil_lz77_size(rule->lz);

        last->own_growth = size - rule->size;
        last->age        = ++rule->age;
        rule->size       = size;

        const bool known = 1000.0 * (double) rule->n_fresh < TEXT_FRESH * scale * n;
        rule->n_fresh_stretches += !known;

        const uint32_t is = (known ? TEXT_KNOWN : 0) | (rule->n_fresh_stretches <= TEXT_UNREST ? TEXT_SETTLED : 0) |
                (rule->n_words >= TEXT_MANY ? TEXT_RICH : 0) | (rule->n_ends >= TEXT_ENDS ? TEXT_WORKED : 0) |
                (10 * rule->n_kind[TEXT_LETTER] >= rule->n_bytes ? TEXT_SPELLED : 0) |
                (rule->n_lines == 0 ? TEXT_ENDLESS : 0);

        for (size_t i = 0; i < TEXT_N_LEVELS; i++) {
            const struct text_level * level = &text_levels[i];
            const double              most  = level->rate * scale * n;
            const bool                exact = 1000.0 * growth < most;

            const bool holds = (level->classes & (1u << last->text_class)) != 0 && 1000.0 * last->own_growth < most &&
                    (level->needs & ~(is | (exact ? TEXT_EXACT : 0u))) == 0;

            // the count goes on, but must not come round
            rule->count[i] = !holds ? 0 : rule->count[i] + (rule->count[i] < UINT32_MAX);
            last->alarm    = last->alarm || rule->count[i] >= (uint64_t) level->patience * patience;
        }
    }

    if (1000.0 * growth >= TEXT_LOOSE * n) {
        text_streak_end(rule);
    } else if (!rule->on || rule->age == TEXT_MAX_AGE) {
        rule->failed = !text_streak_begin(rule);
    }

    text_stretch_begin(rule);

    return last->alarm;
}

struct lil_text_stretch lil_text_rule_get(const struct lil_text_rule * rule) {
    return rule->last;
}

uint64_t lil_text_rule_memory(const struct lil_text_rule * rule) {
    return sizeof(*rule) + rule->cap_bytes + lil_lz77_memory(rule->lz);
}
