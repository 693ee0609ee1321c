// Tests lz77.c against brute force, its bounds, and the calibration that lz77.h states.
//
//     test-lz77 [SEED] [PROSE_FILE]
//
// Takes the source in, so that its allocations can be counted and made to fail. Link nothing else of ours.

#undef NDEBUG

#include "lz77-common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// before the source
#include "failing-malloc.h"

#include "../../src/guardian/lz77.c"
#undef malloc
#undef calloc
#undef realloc
#undef free

static uint64_t     seed = 20260103;
static const char * what = "";

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: failed: %s (%s, seed %llu)\n", __FILE__, __LINE__, #x, what, \
                    (unsigned long long) seed); \
            exit(1); \
        } \
    } while (0)

//
// against the reference
//

static bool is_near(double a, double b) {
    return a - b < 1e-6 && b - a < 1e-6;
}

// every prefix, fed byte by byte
static void check_prefixes(const uint8_t * text, size_t n) {
    size_t *          starts = malloc((n + 1) * sizeof(*starts));
    struct lil_lz77 * lz     = lil_lz77_init();
    CHECK(starts && lz);

    const size_t n_phrases = reference_parse(text, n, starts);

    double size_prev = 0.0;

    for (size_t i = 0, z = 0; i <= n; i++) {
        while (z < n_phrases && starts[z] < i) {
            z++;
        }

        const double size = lil_lz77_size(lz);

        CHECK(lil_lz77_phrases(lz) == z);
        CHECK(lil_lz77_bytes(lz) == i);
        CHECK(size >= size_prev && size <= (double) i);
        if (i < 300 || i % 97 == 0 || i == n) {
            CHECK(is_near(size, reference_size(starts, n_phrases, i)));
        }
        size_prev = size;

        CHECK(i == n || lil_lz77_feed(lz, text + i, 1));
    }

    lil_lz77_free(lz);
    free(starts);
}

// the same, the reference anew for each prefix: relies on nothing
static void check_prefixes_anew(const uint8_t * text, size_t n) {
    size_t            starts[256];
    struct lil_lz77 * lz = lil_lz77_init();
    CHECK(lz && n <= 256);

    for (size_t i = 0; i <= n; i++) {
        const size_t n_phrases = reference_parse(text, i, starts);
        CHECK(lil_lz77_phrases(lz) == n_phrases);
        CHECK(is_near(lil_lz77_size(lz), reference_size(starts, n_phrases, i)));
        CHECK(i == n || lil_lz77_feed(lz, text + i, 1));
    }

    lil_lz77_free(lz);
}

static void test_random(struct rng * rng) {
    static const uint32_t alphabets[] = { 1, 2, 3, 4, 16, 256 };
    uint8_t               text[2000];

    what = "random strings";
    for (int i = 0; i < 3000; i++) {
        const size_t n = rng_below(rng, 80);
        text_random(rng, text, n, alphabets[rng_below(rng, 6)]);
        check_prefixes_anew(text, n);
    }

    what = "longer random strings";
    for (int i = 0; i < 120; i++) {
        text_random(rng, text, sizeof(text), alphabets[i % 6]);
        check_prefixes(text, sizeof(text));
    }

    // random strings hardly repeat; these are made of pieces of themselves
    what = "copied pieces";
    for (int i = 0; i < 300; i++) {
        const size_t n = 1 + rng_below(rng, 1500);
        for (size_t at = 0; at < n;) {
            if (at == 0 || rng_below(rng, 3) == 0) {
                text[at++] = (uint8_t) rng_below(rng, alphabets[i % 6]);
            } else {
                const size_t from = rng_below(rng, (uint32_t) at);
                for (size_t len = 1 + rng_below(rng, 40), k = 0; k < len && at < n; k++) {
                    text[at++] = text[from + k];
                }
            }
        }
        check_prefixes(text, n);
    }
}

static void test_adversarial(struct rng * rng) {
    static uint8_t text[6000];

    what = "fibonacci word";
    text_fibonacci(text, sizeof(text));
    check_prefixes(text, 3000);

    what = "thue-morse word";
    text_thue_morse(text, sizeof(text));
    check_prefixes(text, 3000);

    what = "de bruijn word";
    text_de_bruijn(text, sizeof(text), 10, 0x009);
    check_prefixes(text, 3000);

    what = "a^n b, over and over";
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = i % 50 == 49 ? (uint8_t) ('b' + i / 50 % 20) : 'a';
    }
    check_prefixes(text, 3000);

    what = "a b^n c"; // the most states and edges
    memset(text, 'b', sizeof(text));
    text[0]    = 'a';
    text[2000] = 'c';
    check_prefixes(text, 2200);

    what = "every byte, up and down";
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (uint8_t) (i / 256 % 2 ? 255 - i % 256 : i % 256);
    }
    check_prefixes(text, 1500);

    what = "loop";
    for (size_t period = 1; period <= 64; period++) {
        text_random(rng, text, period, period % 2 ? 256 : 2);
        text_loop(text, 400, period);
        check_prefixes(text, 400);
    }
    for (size_t period = 200; period <= 2000; period += 450) {
        text_prose(rng, text, period);
        text_loop(text, sizeof(text), period);
        check_prefixes(text, 3 * period < sizeof(text) ? 3 * period : sizeof(text));
    }

    what = "prose, sentences, template";
    text_prose(rng, text, sizeof(text));
    check_prefixes(text, sizeof(text));
    text_sentences(rng, text, sizeof(text));
    check_prefixes(text, sizeof(text));
    text_template(rng, text, sizeof(text));
    check_prefixes(text, sizeof(text));
}

//
// interface
//

static bool is_same(const struct lil_lz77 * a, const struct lil_lz77 * b) {
    return lil_lz77_bytes(a) == lil_lz77_bytes(b) && lil_lz77_phrases(a) == lil_lz77_phrases(b) &&
            is_near(lil_lz77_size(a), lil_lz77_size(b));
}

static void test_chunks(struct rng * rng) {
    static uint8_t text[40000];

    what = "chunks of any size";
    text_prose(rng, text, sizeof(text));
    text_loop(text + 30000, 10000, 700);

    struct lil_lz77 * whole = lil_lz77_init();
    CHECK(whole && lil_lz77_feed(whole, text, sizeof(text)));

    for (uint32_t limit = 1; limit < sizeof(text); limit *= 6) {
        struct lil_lz77 * lz = lil_lz77_init();
        CHECK(lz);

        for (size_t at = 0; at < sizeof(text);) {
            size_t n = rng_below(rng, limit + 1);
            n        = n < sizeof(text) - at ? n : sizeof(text) - at;
            CHECK(lil_lz77_feed(lz, n > 0 ? text + at : NULL, n));
            at += n;
        }

        CHECK(is_same(lz, whole));
        lil_lz77_free(lz);
    }

    lil_lz77_free(whole);
}

static void test_clone_reset(struct rng * rng) {
    static uint8_t text[9000];

    what = "clone and reset";
    text_prose(rng, text, sizeof(text));

    struct lil_lz77 * a = lil_lz77_init();
    CHECK(a && lil_lz77_size(a) == 0.0 && lil_lz77_phrases(a) == 0 && lil_lz77_bytes(a) == 0);
    CHECK(lil_lz77_memory(a) < 100);
    CHECK(lil_lz77_feed(a, NULL, 0) && lil_lz77_bytes(a) == 0);

    struct lil_lz77 * empty = lil_lz77_clone(a);
    CHECK(empty && lil_lz77_feed(empty, text, 10) && lil_lz77_bytes(a) == 0);
    lil_lz77_free(empty);

    // a: 0 .. 3000 .. 6000;  b: 0 .. 3000, 6000 .. 9000
    CHECK(lil_lz77_feed(a, text, 3000));
    struct lil_lz77 * b = lil_lz77_clone(a);
    CHECK(b && is_same(a, b) && lil_lz77_memory(a) == lil_lz77_memory(b));
    for (size_t i = 0; i < 3000; i += 10) {
        CHECK(lil_lz77_feed(a, text + 3000 + i, 10));
        CHECK(lil_lz77_feed(b, text + 6000 + i, 10));
    }

    struct lil_lz77 * c = lil_lz77_init();
    CHECK(c && lil_lz77_feed(c, text, 6000) && is_same(a, c));
    lil_lz77_reset(c);
    CHECK(lil_lz77_bytes(c) == 0 && lil_lz77_phrases(c) == 0 && lil_lz77_size(c) == 0.0 && lil_lz77_memory(c) < 100);
    CHECK(lil_lz77_feed(c, text, 3000) && lil_lz77_feed(c, text + 6000, 3000) && is_same(b, c));

    // the clone outlives its source
    lil_lz77_free(a);
    CHECK(lil_lz77_feed(b, text, 1000) && lil_lz77_feed(c, text, 1000) && is_same(b, c));

    lil_lz77_free(b);
    lil_lz77_free(c);
    lil_lz77_free(NULL);

    CHECK(mem_now == 0);
}

static void test_out_of_memory(struct rng * rng) {
    static uint8_t text[3000];

    what = "out of memory";
    text_prose(rng, text, sizeof(text));

    mem_fail = 0;
    CHECK(lil_lz77_init() == NULL);
    mem_fail = -1;

    struct lil_lz77 * lz   = lil_lz77_init();
    struct lil_lz77 * twin = lil_lz77_init();
    CHECK(lz && twin);

    int n_failed = 0;

    for (size_t at = 0; at < sizeof(text);) {
        const size_t n = 1 + rng_below(rng, at + 100 < sizeof(text) ? 100 : (uint32_t) (sizeof(text) - at));

        // each allocation of a feed fails in turn, until the feed gets by
        for (int i = 0;; i++) {
            mem_fail      = i;
            const bool ok = lil_lz77_feed(lz, text + at, n);
            mem_fail      = -1;
            if (ok) {
                break;
            }
            n_failed++;
            CHECK(is_same(lz, twin));
        }

        CHECK(lil_lz77_feed(twin, text + at, n) && is_same(lz, twin));
        at += n;
    }
    CHECK(n_failed > 10);

    for (int i = 0; i < 4; i++) {
        const uint64_t before = mem_now;
        mem_fail              = i;
        CHECK(lil_lz77_clone(lz) == NULL);
        mem_fail = -1;
        CHECK(mem_now == before);
    }

    CHECK(!lil_lz77_feed(lz, text, (size_t) 0x7fffffff - 2999)); // one byte too many
    CHECK(!lil_lz77_feed(lz, text, (size_t) -1));
    CHECK(is_same(lz, twin));

    lil_lz77_free(lz);
    lil_lz77_free(twin);
    CHECK(mem_now == 0);
}

//
// bounds
//

static void check_memory(const char * name, const uint8_t * text, size_t n, size_t step) {
    what = name;

    mem_peak             = mem_now;
    struct lil_lz77 * lz = lil_lz77_init();
    CHECK(lz);

    for (size_t i = 0; i < n; i += step) {
        CHECK(lil_lz77_feed(lz, text + i, step < n - i ? step : n - i));
    }

    CHECK(mem_now == lil_lz77_memory(lz));
    printf("%-24s %6.1f bytes held per byte, %5.1f at the peak, %8llu phrases, size %.1f\n", name,
            (double) mem_now / (double) n, (double) mem_peak / (double) n, (unsigned long long) lil_lz77_phrases(lz),
            lil_lz77_size(lz));
    CHECK(mem_now <= 50 * n + 2048);
    CHECK(mem_peak <= 70 * n + 4096);

    lil_lz77_free(lz);
    CHECK(mem_now == 0);
}

static void test_memory(struct rng * rng) {
    const size_t n    = 512 * 1024;
    uint8_t *    text = malloc(n);
    CHECK(text);

    text_prose(rng, text, n);
    check_memory("prose, by 4", text, n, 4);
    check_memory("prose, at once", text, n, n);
    check_memory("prose, 10 KB", text, 10000, 4);
    text_loop(text, n, 4000);
    check_memory("loop of 4000", text, n, 4);
    text_loop(text, n, 43);
    check_memory("loop of 43", text, n, 4);
    text_random(rng, text, n, 256);
    check_memory("random, 256 symbols", text, n, 4);
    text_random(rng, text, n, 2);
    check_memory("random, 2 symbols", text, n, 4);
    text_de_bruijn(text, n, 19, 0x27);
    check_memory("de bruijn", text, n, 4);
    text_fibonacci(text, n);
    check_memory("fibonacci", text, n, 4);
    memset(text, 'b', n);
    text[0]     = 'a';
    text[n - 1] = 'c';
    check_memory("a b^n c", text, n, 4);

    free(text);
}

//
// calibration
//

// What 1000 bytes add to the size, from `from` on: the mean must be within [lo, hi], and each within [lo_each,
// hi_each].
static void check_growth(const char * name, const uint8_t * text, size_t n, size_t from, double lo, double hi,
        double lo_each, double hi_each) {
    what = name;

    struct lil_lz77 * lz = lil_lz77_init();
    CHECK(lz && lil_lz77_feed(lz, text, from));

    double size     = lil_lz77_size(lz);
    double sum      = 0.0;
    double min      = 1e9;
    double max      = 0.0;
    int    n_growth = 0;

    for (size_t at = from; at + 1000 <= n; at += 1000) {
        CHECK(lil_lz77_feed(lz, text + at, 1000));

        const double growth = lil_lz77_size(lz) - size;

        size = lil_lz77_size(lz);
        sum += growth;
        min = growth < min ? growth : min;
        max = growth > max ? growth : max;
        n_growth++;
    }

    lil_lz77_free(lz);

    printf("%-24s %6.1f on average, %5.1f .. %5.1f\n", name, sum / n_growth, min, max);
    CHECK(sum / n_growth >= lo && sum / n_growth <= hi);
    CHECK(min >= lo_each && max <= hi_each);
}

static void test_calibration(struct rng * rng, const char * path) {
    static const size_t periods[] = { 1, 2, 3, 10, 43, 100, 250, 999, 1000, 1001, 2500, 8000, 20000, 33000, 40000 };
    static uint8_t      prose[60000];
    static uint8_t      text[120000];

    printf("growth per 1000 bytes\n");

    text_prose(rng, prose, sizeof(prose));
    check_growth("prose", prose, sizeof(prose), 10000, 360, 590, 300, 640);

    if (path != NULL) {
        FILE * file = fopen(path, "rb");
        CHECK(file && fread(text, 1, sizeof(text), file) == sizeof(text));
        fclose(file);
        check_growth(path, text + 40000, 60000, 10000, 360, 590, 300, 640);
    }

    for (size_t i = 0; i < sizeof(periods) / sizeof(periods[0]); i++) {
        char name[32];
        snprintf(name, sizeof(name), "loop of %d", (int) periods[i]);

        memcpy(text, prose, periods[i]);
        text_loop(text, sizeof(text), periods[i]);
        check_growth(name, text, 3 * periods[i] + 10000 < sizeof(text) ? 3 * periods[i] + 10000 : sizeof(text),
                periods[i], 0, 11, 0, 11);
    }

    text_sentences(rng, text, 60000);
    check_growth("six sentences", text, 60000, 10000, 20, 35, 15, 50);

    text_template(rng, text, 60000);
    check_growth("template", text, 60000, 10000, 100, 140, 80, 160);
}

int main(int argc, char ** argv) {
    if (argc > 1) {
        seed = strtoull(argv[1], NULL, 10);
    }

    struct rng rng = { seed };

    test_random(&rng);
    test_adversarial(&rng);
    test_chunks(&rng);
    test_clone_reset(&rng);
    test_out_of_memory(&rng);
    test_memory(&rng);
    test_calibration(&rng, argc > 2 ? argv[2] : NULL);

    printf("ok (seed %llu)\n", (unsigned long long) seed);

    return 0;
}
