#include "text-kind.h"

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

struct text_decoder text_decoder_init(void) {
    return (struct text_decoder) { 0, TEXT_MARK };
}

struct text_said text_decode(struct text_decoder * decoder, uint8_t c) {
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
