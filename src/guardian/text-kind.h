#ifndef LIL_TEXT_KIND_H
#define LIL_TEXT_KIND_H

// text-kind.h: what the bytes of a text count as, for rule "text". The text is UTF-8 and comes in pieces of any size.

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
struct text_decoder text_decoder_init(void);

struct text_said text_decode(struct text_decoder * decoder, uint8_t c);

// FNV-1a
#define TEXT_HASH 0xcbf29ce484222325u

static inline uint64_t text_hash_add(uint64_t hash, uint8_t c) {
    return (hash ^ c) * 0x100000001b3u;
}

#endif // LIL_TEXT_KIND_H
