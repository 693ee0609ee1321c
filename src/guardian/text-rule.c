#include "text-rule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text-fold.h"
#include "text-kind.h"
#include "text-words.h"

//
// Tables
//

#define TEXT_LOOSE   250 // growth per 1000 bytes below which a streak begins and goes on
#define TEXT_MAX_AGE 32  // stretches after the first
#define TEXT_FRESH   5   // bytes in words that the streak did not have, per 1000: fewer are none
#define TEXT_UNREST  2   // stretches with such words after which a loop has all of its own
#define TEXT_MANY    12  // words that an empty table or a grid does not have
#define TEXT_ENDS    4   // ends of formulas in a stretch of worked text; a large matrix has two

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

//
// State
//

struct lil_text_rule {
    bool failed; // out of memory; until a reset

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
    uint32_t          age;
    double            size; // at the last check
    struct lil_lz77 * lz;
    struct text_fold  fold;
    struct text_words words;
    uint32_t          n_fresh_stretches; // with words that were new

    uint32_t count[TEXT_N_LEVELS]; // checks in a row for which each condition has held

    struct lil_text_stretch last;
};

static void text_stretch_begin(struct lil_text_rule * rule) {
    rule->begin         = rule->decoder;
    rule->n_bytes       = 0;
    rule->n_indent      = 0;
    rule->n_ends        = 0;
    rule->n_lines       = 0;
    rule->words.n_fresh = 0;
    memset(rule->n_kind, 0, sizeof(rule->n_kind));
}

static void text_streak_end(struct lil_text_rule * rule) {
    lil_lz77_reset(rule->lz);
    rule->on  = false;
    rule->age = 0;
    memset(rule->count, 0, sizeof(rule->count));
}

//
// Composition
//

static void text_count(struct lil_text_rule * rule, enum text_kind kind, uint8_t c) {
    rule->n_kind[kind]++;
    rule->n_lines += c == '\n';
    rule->n_indent += kind == TEXT_WHITE && rule->white;
    rule->white = kind == TEXT_WHITE;

    if (rule->on) {
        text_words_feed(&rule->words, kind, c);
    }
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
    }

    if (n > 0) {
        memcpy(rule->bytes + rule->n_bytes, data, n);
        rule->n_bytes += n;
    }

    return !rule->on || text_fold_feed(&rule->fold, rule->lz, data, n);
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

// with the stretch, all of whose words are new; false: out of memory
static bool text_streak_begin(struct lil_text_rule * rule) {
    lil_lz77_reset(rule->lz);
    rule->on  = true;
    rule->age = 0;
    text_fold_reset(&rule->fold);
    text_words_reset(&rule->words);

    for (size_t i = 0; i < rule->n_bytes; i++) {
        const struct text_said said = text_decode(&rule->begin, rule->bytes[i]);

        for (uint32_t k = 0; k < said.n; k++) {
            text_words_feed(&rule->words, said.kind, said.bytes[k]);
        }
    }

    const bool fed = text_fold_feed(&rule->fold, rule->lz, rule->bytes, rule->n_bytes);

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
    rule->decoder   = text_decoder_init();
    rule->last_byte = 0;
    rule->white     = false;
    rule->failed    = false;
    text_stretch_begin(rule);

    rule->last = (struct lil_text_stretch) { .own_growth = NAN };
}

bool lil_text_rule_feed(struct lil_text_rule * rule, const void * data, size_t n) {
    rule->failed = rule->failed || !text_stretch_feed(rule, data, n);

    return !rule->failed;
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

        const bool known = 1000.0 * (double) rule->words.n_fresh < TEXT_FRESH * scale * n;
        rule->n_fresh_stretches += !known;

        const uint32_t is = (known ? TEXT_KNOWN : 0) | (rule->n_fresh_stretches <= TEXT_UNREST ? TEXT_SETTLED : 0) |
                (rule->words.n_words >= TEXT_MANY ? TEXT_RICH : 0) | (rule->n_ends >= TEXT_ENDS ? TEXT_WORKED : 0) |
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
        rule->failed = rule->failed || !text_streak_begin(rule);
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
