#ifndef LIL_TEXT_KIND_H
#define LIL_TEXT_KIND_H

// text-kind.h: what the bytes of a text count as, for rule "text". The text is UTF-8 and comes in pieces of any size.
// Inline: it is asked for every byte.

#include <stdint.h>

// punctuation is counted, so that the kinds add up, but decides nothing
enum text_kind { TEXT_LETTER, TEXT_DIGIT, TEXT_WHITE, TEXT_PUNCTUATION, TEXT_MARK, TEXT_N_KINDS };

// between two bytes of a character
struct text_decoder {
    uint8_t        lead; // of a character whose second byte is not there; 0: none
    enum text_kind wide; // of the character that the next continuation byte belongs to
};

// what a byte says of the text: itself, nothing yet, or itself and the one before it
struct text_said {
    enum text_kind kind;
    uint8_t        bytes[2];
    uint32_t       n;
};

// before the first byte
static inline struct text_decoder text_decoder_init(void) {
    return (struct text_decoder) { 0, TEXT_MARK };
}

// of ASCII, a digit for each byte: enum text_kind
static const char text_kinds[] = "44444444422442444444444444444444"  // tab, newline, carriage return
                                 "23333343333433341111111111334443"  // space ! " # $ % ' ( ) * , - . 0 .. 9 : ; ?
                                 "40000000000000000000000000044444"  // A .. Z
                                 "40000000000000000000000000044444"; // a .. z

// of a character of several bytes, by its first two
static inline enum text_kind text_kind_wide(uint8_t lead, uint8_t next) {
    if (lead == 0xc2 || lead == 0xef || (lead == 0xe3 && next == 0x80) || (lead == 0xe2 && next <= 0x81)) {
        return TEXT_PUNCTUATION;
    }
    return (lead == 0xe2 && next < 0xc0) || lead >= 0xf0 ? TEXT_MARK : TEXT_LETTER;
}

static inline struct text_said text_decode(struct text_decoder * decoder, uint8_t c) {
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

// FNV-1a
#define TEXT_HASH 0xcbf29ce484222325u

static inline uint64_t text_hash_add(uint64_t hash, uint8_t c) {
    return (hash ^ c) * 0x100000001b3u;
}

#endif // LIL_TEXT_KIND_H
