// Fuzzes lz77.c against brute force: phrases and size after every chunk, the chunks cut by the input itself, a clone
// halfway.
//
//     clang -g -O1 -fsanitize=fuzzer,address,undefined fuzz-lz77.c ../../src/guardian/lz77.c -o fuzz-lz77
//     ./fuzz-lz77 -max_len=4096 -max_total_time=60
//
// Without libFuzzer, -DLIL_FUZZ_MAIN runs N inputs from a seed:
//
//     fuzz-lz77 [N] [SEED]

#include "lz77-common.h"

#include "../../src/guardian/lz77.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t input_seed; // what to repeat, where the inputs come from a seed

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: failed: %s (repeat: fuzz-lz77 1 %llu)\n", __FILE__, __LINE__, #x, \
                    (unsigned long long) input_seed); \
            abort(); \
        } \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);

// The first byte gives the bits of a symbol that count, so that small alphabets are tried too.
int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    if (size < 1 || size > 4096) {
        return 0;
    }

    const uint8_t mask = (uint8_t) (0xff >> (data[0] & 7));
    const size_t  n    = size - 1;

    uint8_t * text   = malloc(n + 1);
    size_t *  starts = malloc((n + 1) * sizeof(*starts));
    CHECK(text && starts);

    for (size_t i = 0; i < n; i++) {
        text[i] = data[i + 1] & mask;
    }

    const size_t n_phrases = reference_parse(text, n, starts);

    struct lil_lz77 * lz    = lil_lz77_init();
    struct lil_lz77 * clone = NULL;
    CHECK(lz);

    for (size_t at = 0, z = 0;;) {
        while (z < n_phrases && starts[z] < at) {
            z++;
        }

        const double size_diff = lil_lz77_size(lz) - reference_size(starts, n_phrases, at);

        CHECK(lil_lz77_bytes(lz) == at);
        CHECK(lil_lz77_phrases(lz) == z);
        CHECK(size_diff < 1e-6 && size_diff > -1e-6);

        if (at == n) {
            break;
        }

        // the clone goes on, and its source is freed
        if (clone == NULL && at >= n / 2) {
            clone = lil_lz77_clone(lz);
            CHECK(clone);
            lil_lz77_free(lz);
            lz = clone;
        }

        size_t chunk = 1 + data[at] % 13;
        chunk        = chunk < n - at ? chunk : n - at;

        CHECK(lil_lz77_feed(lz, text + at, chunk));
        at += chunk;
    }

    CHECK(lil_lz77_memory(lz) <= 50 * n + 2048);

    lil_lz77_free(lz);
    free(starts);
    free(text);

    return 0;
}

#ifdef LIL_FUZZ_MAIN
int main(int argc, char ** argv) {
    const int      n_inputs = argc > 1 ? atoi(argv[1]) : 2000;
    const uint64_t seed     = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    static uint8_t data[4096];

    for (int i = 0; i < n_inputs; i++) {
        // a generator per input, so that one input can be run alone
        input_seed     = seed + (uint64_t) i;
        struct rng rng = { input_seed };

        const size_t n = 1 + rng_below(&rng, rng_below(&rng, 8) == 0 ? 4096 : 300);

        text_random(&rng, data, n, 256);
        if (rng_below(&rng, 2) == 0) {
            // pieces of what came before
            for (size_t at = 2; at < n; at += 1 + rng_below(&rng, 30)) {
                const size_t from = 1 + rng_below(&rng, (uint32_t) at - 1);
                for (size_t len = rng_below(&rng, 60), k = 0; k < len && at < n; k++, at++) {
                    data[at] = data[from + k];
                }
            }
        }

        LLVMFuzzerTestOneInput(data, n);
    }

    printf("%d inputs ok (seed %llu)\n", n_inputs, (unsigned long long) seed);

    return 0;
}
#endif
