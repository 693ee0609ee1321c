#ifndef LIL_LZ77_H
#define LIL_LZ77_H

// lz77.h: the exact greedy LZ77 factorisation of a text that grows byte by byte. Plain C11, no dependency but libc.
//
// Definition
//
//   The window is the whole text. A phrase that starts at position i (counted from 0) is the longest T[i..j] that also
//   occurs at an earlier start k < i; the two may overlap. Where the byte T[i] never occurred before, the phrase is
//   that byte alone, a literal. Phrases follow each other without a gap. The last phrase is open: the next bytes may
//   extend it. Nothing is approximated: feeding bytes in pieces of any size gives the factorisation of the whole text.
//
// Compressed size
//
//   literal                 8 bits
//   match of m bytes        min(8*m, 18 + min(m, 256)/10) bits
//
//   A match thus costs about what deflate takes for a length and a distance, never more than its bytes as they are, and
//   more if it is long, up to 43.6 bits. The open phrase counts as if it ended here. The size never shrinks as bytes
//   are added, is at most that of the text, and is exact: every machine computes the same.
//
//   The numbers are chosen such that a threshold means about the same as one on zlib's size (but a window of 32 KB does
//   not limit it). What 1000 bytes add in a text of some 10s of KB, on average:
//
//       English prose                                 430 .. 490     zlib 410 .. 440
//       a verbatim loop of any period, from pass 2 on   0 .. 7       zlib   0 .. 21, but 420 for a period of 40 KB
//       six fixed sentences in random order            23 .. 37      zlib  16 .. 32 (of 65 .. 25 bytes each)
//       a template with changing numbers               83 .. 154     zlib  66 .. 132 (two or three numbers a line)
//
//   The last row follows the share of digits: one number in 100 bytes adds about 60, three in 60 bytes 170.
//
// Bounds
//
//   Time    amortised O(1) a byte (expected: the edges are in a hash table).
//   Memory  at most 50 bytes a byte of text, whatever the text, and 2 KB. While a table grows, its old copy may be held
//           as well: at most 70 bytes a byte for that moment. lil_lz77_memory() tells what is held.
//   Text    at most 2^31 - 1 bytes.
//
// Threads: an object is used by one thread at a time; different objects are independent.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// How the functions are exported: nothing by default; as llama.h does it where that was included first. A build that
// puts this file into a shared library defines LIL_API.
#ifndef LIL_API
#ifdef LLAMA_API
#define LIL_API LLAMA_API
#else
#define LIL_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct lil_lz77;

// The empty text. NULL: out of memory. O(1); holds less than 100 bytes. Free it with lil_lz77_free().
LIL_API struct lil_lz77 * lil_lz77_init(void);

// An independent copy of the same text. lz must not be NULL. NULL: out of memory. Copies lil_lz77_memory(lz) bytes.
LIL_API struct lil_lz77 * lil_lz77_clone(const struct lil_lz77 * lz);

// Frees everything. lz may be NULL.
LIL_API void lil_lz77_free(struct lil_lz77 * lz);

// Back to the empty text. Gives its memory back, and cannot fail. lz must not be NULL.
LIL_API void lil_lz77_reset(struct lil_lz77 * lz);

// Appends n bytes. data may be NULL where n is 0. Every allocation happens before the first byte is appended, hence:
//   true   the n bytes are part of the text
//   false  out of memory, or the text would exceed 2^31 - 1 bytes; the text is as before and lz stays usable
// Amortised O(1) a byte. A single byte may cost more: one that ends a long repetition adds an edge per suffix, and one
// that makes the tables grow copies them.
LIL_API bool lil_lz77_feed(struct lil_lz77 * lz, const void * data, size_t n);

// The compressed size of the text so far in bytes, as defined above; 0 for the empty text. O(1).
LIL_API double lil_lz77_size(const struct lil_lz77 * lz);

// Phrases so far, the open one included. O(1).
LIL_API uint64_t lil_lz77_phrases(const struct lil_lz77 * lz);

// Bytes fed. O(1).
LIL_API uint64_t lil_lz77_bytes(const struct lil_lz77 * lz);

// Bytes of memory held: the object and its tables at their full capacity. O(1).
LIL_API uint64_t lil_lz77_memory(const struct lil_lz77 * lz);

#ifdef __cplusplus
}
#endif

#endif // LIL_LZ77_H
