#include "lz77.h"

#include <stdlib.h>
#include <string.h>

// in the library, what failed is said by lil_last_error(); alone, this file depends on nothing
#ifdef LIL_LZ77_IN_LIBRARY
#include "lil-error.h"
#else
#define lil_set_last_error(...) ((void) 0)
#endif

// The text is kept as a suffix automaton: its states are the classes of substrings that end at the same places, an edge
// appends a byte, and the link of a state leads to the longest suffix that is in another class, that is, ends at more
// places. So the link of the whole text's state leads to the longest suffix that occurred earlier, and one compare of
// its length with the open phrase's tells whether the phrase goes on. No match is ever searched for.
//
// What makes it small:
//
// - The state of the prefix of p bytes has the number p. Its length is p, and it has an edge with the byte T[p] to the
//   state p + 1, so neither is stored. That edge never changes: the only edges that do are those to a state that is
//   more than one byte longer.
// - The other states, the clones, keep one edge inline. Most have no more.
// - What is left goes into one hash table. A text of n bytes has at most states + n - 2 edges, the above take one for
//   each state but the last, so at most n are in the table.
//
// The bytes on the edges of a state form a ring (next), through which a clone finds the edges to copy. A filter of
// 16 bits answers most questions for edges that do not exist without a look into the table.

//
// Tables
//

// A state: p, or LZ77_CLONE | k for clone[k]. The root, the empty string, is 0; no edge leads to it.
#define LZ77_CLONE 0x80000000u
#define LZ77_NONE  0xffffffffu // the root's link

#define LZ77_MAX_BYTES 0x7fffffffu

struct lz77_prefix {
    uint32_t link;
    uint8_t  head;   // the byte T[p] on the edge to p + 1
    uint8_t  next;   // the byte that follows head in the ring of this state's edges
    uint16_t filter; // of the bytes on edges in the hash table
};

struct lz77_clone {
    uint32_t len;
    uint32_t link;
    uint32_t target; // of the edge with the byte head
    uint8_t  head;
    uint8_t  next;
    uint16_t filter;
};

struct lz77_edge {
    uint32_t state;
    uint32_t target; // 0: the entry is empty
    uint8_t  byte;
    uint8_t  next; // the byte that follows this one in the ring of the state's edges
};

struct lil_lz77 {
    struct lz77_prefix * prefix; // [cap_prefix] the states 0 .. n
    struct lz77_clone *  clone;  // [cap_clone]  n_clone used
    struct lz77_edge *   edge;   // [cap_edge]   open addressing, linear probing, at most 3/4 full

    uint32_t cap_prefix;
    uint32_t cap_clone;
    uint32_t cap_edge;

    uint32_t n; // bytes of text; also the state of the whole text
    uint32_t n_clone;

    uint32_t start;   // where the open phrase starts; n: none is open
    uint32_t n_ended; // phrases before start
    uint64_t cost;    // theirs, see lz77_cost()
};

//
// Cost
//

// in tenths of a bit, so that sums are exact
#define LZ77_LITERAL    80
#define LZ77_MATCH      180
#define LZ77_LEN_PRICED 256 // bytes of a match that cost 1 each

static uint64_t lz77_cost(uint32_t len) {
    const uint32_t priced = len < LZ77_LEN_PRICED ? len : LZ77_LEN_PRICED;
    const uint32_t match  = LZ77_MATCH + priced;

    // shorter than a match's fixed part: as literals
    return LZ77_LITERAL * priced < match ? LZ77_LITERAL * priced : match;
}

//
// Edges
//

// The order of the entries is that of the hashes, whatever the capacity: growing the table reads and writes it in
// sequence.
static uint32_t lz77_slot(uint32_t state, uint8_t byte, uint32_t cap) {
    const uint64_t key  = ((uint64_t) state << 8) | byte;
    const uint64_t hash = (key * 0x9e3779b97f4a7c15u) >> 32;

    return (uint32_t) ((hash * cap) >> 32);
}

static uint16_t lz77_filter(uint8_t byte) {
    return (uint16_t) (1u << ((byte * 0x9du >> 4) & 15));
}

// the entry of an edge, or the empty one where it belongs
static struct lz77_edge * lz77_edge_find(struct lz77_edge * edge, uint32_t cap, uint32_t state, uint8_t byte) {
    uint32_t i = lz77_slot(state, byte, cap);

    while (edge[i].target != 0 && (edge[i].state != state || edge[i].byte != byte)) {
        i = i + 1 < cap ? i + 1 : 0;
    }

    return &edge[i];
}

// where the target of an edge is stored; NULL: no such edge, or the one to the next prefix
static uint32_t * lz77_target(struct lil_lz77 * lz, uint32_t state, uint8_t byte) {
    uint16_t filter;

    if (state & LZ77_CLONE) {
        struct lz77_clone * clone = &lz->clone[state ^ LZ77_CLONE];
        if (clone->head == byte) {
            return &clone->target;
        }
        filter = clone->filter;
    } else {
        filter = lz->prefix[state].filter;
    }

    if (!(filter & lz77_filter(byte))) {
        return NULL;
    }

    struct lz77_edge * edge = lz77_edge_find(lz->edge, lz->cap_edge, state, byte);

    return edge->target != 0 ? &edge->target : NULL;
}

// where an edge leads; 0: no such edge. The state is not that of the whole text, which has none.
static uint32_t lz77_follow(struct lil_lz77 * lz, uint32_t state, uint8_t byte) {
    if (!(state & LZ77_CLONE) && lz->prefix[state].head == byte) {
        return state + 1;
    }

    const uint32_t * target = lz77_target(lz, state, byte);

    return target ? *target : 0;
}

// adds an edge that the state, which has others, lacks
static void lz77_edge_add(struct lil_lz77 * lz, uint32_t state, uint8_t byte, uint32_t target) {
    struct lz77_edge * edge = lz77_edge_find(lz->edge, lz->cap_edge, state, byte);
    uint8_t *          next;

    if (state & LZ77_CLONE) {
        struct lz77_clone * clone = &lz->clone[state ^ LZ77_CLONE];
        clone->filter |= lz77_filter(byte);
        next = &clone->next;
    } else {
        struct lz77_prefix * prefix = &lz->prefix[state];
        prefix->filter |= lz77_filter(byte);
        next = &prefix->next;
    }

    edge->state  = state;
    edge->target = target;
    edge->byte   = byte;
    edge->next   = *next;

    *next = byte;
}

//
// States
//

static uint32_t lz77_len(const struct lil_lz77 * lz, uint32_t state) {
    return state & LZ77_CLONE ? lz->clone[state ^ LZ77_CLONE].len : state;
}

static uint32_t lz77_link(const struct lil_lz77 * lz, uint32_t state) {
    return state & LZ77_CLONE ? lz->clone[state ^ LZ77_CLONE].link : lz->prefix[state].link;
}

// a state with the edges and the link of state, and a length of its own
static uint32_t lz77_state_clone(struct lil_lz77 * lz, uint32_t state, uint32_t len) {
    const uint32_t      result = LZ77_CLONE | lz->n_clone;
    struct lz77_clone * clone  = &lz->clone[lz->n_clone++];
    uint8_t             byte;

    if (state & LZ77_CLONE) {
        *clone = lz->clone[state ^ LZ77_CLONE];
        byte   = clone->next;
    } else {
        clone->link   = lz->prefix[state].link;
        clone->target = state + 1;
        clone->head   = lz->prefix[state].head;
        byte          = lz->prefix[state].next;
    }

    clone->len    = len;
    clone->next   = clone->head;
    clone->filter = 0;

    while (byte != clone->head) {
        const struct lz77_edge * edge = lz77_edge_find(lz->edge, lz->cap_edge, state, byte);

        byte = edge->next;
        lz77_edge_add(lz, result, edge->byte, edge->target);
    }

    return result;
}

// appends a byte, for which there is room
static void lz77_push(struct lil_lz77 * lz, uint8_t byte) {
    const uint32_t last = lz->n;
    const uint32_t cur  = last + 1;

    lz->n = cur;

    lz->prefix[last].head  = byte;
    lz->prefix[last].next  = byte;
    lz->prefix[cur].filter = 0;

    // the suffixes that were never followed by this byte are now
    uint32_t p = lz77_link(lz, last);
    uint32_t q = 0;

    while (p != LZ77_NONE && (q = lz77_follow(lz, p, byte)) == 0) {
        lz77_edge_add(lz, p, byte, cur);
        p = lz77_link(lz, p);
    }

    uint32_t link = 0;

    if (p != LZ77_NONE) {
        const uint32_t len = lz77_len(lz, p) + 1;

        link = q;

        // the strings of q up to this length now end at one more place than its longer ones, so they part
        if (lz77_len(lz, q) != len) {
            link = lz77_state_clone(lz, q, len);

            if (q & LZ77_CLONE) {
                lz->clone[q ^ LZ77_CLONE].link = link;
            } else {
                lz->prefix[q].link = link;
            }

            while (p != LZ77_NONE) {
                uint32_t * target = lz77_target(lz, p, byte);
                if (target == NULL || *target != q) {
                    break;
                }
                *target = link;
                p       = lz77_link(lz, p);
            }
        }
    }

    lz->prefix[cur].link = link;

    // the open phrase with this byte occurred earlier exactly if the longest suffix that did is at least as long
    const uint32_t seen = lz77_len(lz, link);

    if (seen < cur - lz->start) {
        if (lz->start < last) {
            lz->cost += lz77_cost(last - lz->start);
            lz->n_ended++;
            lz->start = last;
        }
        if (seen == 0) {
            lz->cost += LZ77_LITERAL;
            lz->n_ended++;
            lz->start = cur;
        }
    }
}

//
// Memory
//

// by a quarter at a time: at most a fifth of what is held lies idle
static uint32_t lz77_grow(uint32_t cap, uint32_t need) {
    uint64_t grown = (uint64_t) cap + cap / 4 + 16;

    if (grown > LZ77_CLONE) {
        grown = LZ77_CLONE;
    }

    return grown > need ? (uint32_t) grown : need;
}

static void * lz77_realloc(void * ptr, uint32_t cap, size_t size) {
    return cap > SIZE_MAX / size ? NULL : realloc(ptr, cap * size);
}

// entries of the hash table for n edges
static uint64_t lz77_cap_edge(uint32_t n) {
    return (uint64_t) n + n / 3 + 1;
}

// makes room for n more bytes, whatever they are
static bool lz77_reserve(struct lil_lz77 * lz, uint32_t n) {
    const uint32_t need = lz->n + n + 1; // states 0 .. n

    if (need > lz->cap_prefix) {
        const uint32_t cap = lz77_grow(lz->cap_prefix, need);

        struct lz77_prefix * prefix = lz77_realloc(lz->prefix, cap, sizeof(*prefix));
        if (prefix == NULL) {
            return false;
        }

        if (lz->cap_prefix == 0) {
            memset(prefix, 0, sizeof(*prefix));
            prefix[0].link = LZ77_NONE;
        }

        lz->prefix     = prefix;
        lz->cap_prefix = cap;
    }

    // a byte adds at most one
    if (lz->n_clone + n > lz->cap_clone) {
        const uint32_t cap = lz77_grow(lz->cap_clone, lz->n_clone + n);

        struct lz77_clone * clone = lz77_realloc(lz->clone, cap, sizeof(*clone));
        if (clone == NULL) {
            return false;
        }

        lz->clone     = clone;
        lz->cap_clone = cap;
    }

    // one byte can add as many as there are suffixes, so the table is sized for the bound of the whole text
    if (lz77_cap_edge(lz->n + n) > lz->cap_edge) {
        const uint64_t cap_max = lz77_cap_edge(LZ77_MAX_BYTES);
        const uint64_t cap_min = lz77_cap_edge(lz->n + n);

        uint64_t cap = (uint64_t) lz->cap_edge + lz->cap_edge / 4 + 16;
        cap          = cap > cap_max ? cap_max : cap;
        cap          = cap < cap_min ? cap_min : cap;

        struct lz77_edge * edge = cap > SIZE_MAX ? NULL : calloc((size_t) cap, sizeof(*edge));
        if (edge == NULL) {
            return false;
        }

        for (uint32_t i = 0; i < lz->cap_edge; i++) {
            const struct lz77_edge * src = &lz->edge[i];
            if (src->target != 0) {
                *lz77_edge_find(edge, (uint32_t) cap, src->state, src->byte) = *src;
            }
        }

        free(lz->edge);
        lz->edge     = edge;
        lz->cap_edge = (uint32_t) cap;
    }

    return true;
}

//
// Interface
//

struct lil_lz77 * lil_lz77_init(void) {
    struct lil_lz77 * lz = malloc(sizeof(*lz));

    if (lz == NULL) {
        lil_set_last_error("lz77: out of memory");
        return NULL;
    }

    *lz = (struct lil_lz77) { 0 };

    return lz;
}

struct lil_lz77 * lil_lz77_clone(const struct lil_lz77 * lz) {
    struct lil_lz77 * result = lil_lz77_init();

    if (result == NULL || lz->n == 0) {
        return result;
    }

    *result = *lz;

    // the same capacities: the place of an edge depends on it
    result->prefix = lz77_realloc(NULL, lz->cap_prefix, sizeof(*lz->prefix));
    result->clone  = lz77_realloc(NULL, lz->cap_clone, sizeof(*lz->clone));
    result->edge   = lz77_realloc(NULL, lz->cap_edge, sizeof(*lz->edge));

    if (result->prefix == NULL || result->clone == NULL || result->edge == NULL) {
        lil_lz77_free(result);
        lil_set_last_error("lz77: out of memory for a copy of %u bytes of text", lz->n);
        return NULL;
    }

    memcpy(result->prefix, lz->prefix, ((size_t) lz->n + 1) * sizeof(*lz->prefix));
    memcpy(result->clone, lz->clone, lz->n_clone * sizeof(*lz->clone));
    memcpy(result->edge, lz->edge, lz->cap_edge * sizeof(*lz->edge));

    return result;
}

void lil_lz77_free(struct lil_lz77 * lz) {
    if (lz != NULL) {
        lil_lz77_reset(lz);
        free(lz);
    }
}

void lil_lz77_reset(struct lil_lz77 * lz) {
    free(lz->prefix);
    free(lz->clone);
    free(lz->edge);

    *lz = (struct lil_lz77) { 0 };
}

bool lil_lz77_feed(struct lil_lz77 * lz, const void * data, size_t n) {
    const uint8_t * bytes = data;

    if (n == 0) {
        return true;
    }

    if (n > LZ77_MAX_BYTES - lz->n) {
        lil_set_last_error("lz77: %zu bytes after %u: a text has at most 2^31 - 1 bytes; start another one", n, lz->n);
        return false;
    }
    if (!lz77_reserve(lz, (uint32_t) n)) {
        lil_set_last_error("lz77: out of memory for %zu bytes after %u", n, lz->n);
        return false;
    }

    for (size_t i = 0; i < n; i++) {
        lz77_push(lz, bytes[i]);
    }

    return true;
}

double lil_lz77_size(const struct lil_lz77 * lz) {
    // the cost of no bytes is 0
    return (double) (lz->cost + lz77_cost(lz->n - lz->start)) / 80.0;
}

uint64_t lil_lz77_phrases(const struct lil_lz77 * lz) {
    return (uint64_t) lz->n_ended + (lz->start < lz->n);
}

uint64_t lil_lz77_bytes(const struct lil_lz77 * lz) {
    return lz->n;
}

uint64_t lil_lz77_memory(const struct lil_lz77 * lz) {
    return sizeof(*lz) + (uint64_t) lz->cap_prefix * sizeof(*lz->prefix) +
            (uint64_t) lz->cap_clone * sizeof(*lz->clone) + (uint64_t) lz->cap_edge * sizeof(*lz->edge);
}
